"""What lies in a run's directory, under which name, and how it is written so that a kill at any moment loses nothing.

train_dir/
    config.json      the run (yt8m/config.py)
    ckpt-1200.*      weights, optimizer, counters; the newest few
    data/            where each worker stands in the order of the data, one state for each checkpoint
    best/            the weights of the highest GAP so far, in the same form
    eval/            metrics.json, history.jsonl, per_class_ap.csv, events
    events.out.*     TensorBoard
"""

import json
import math
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import keras
import pandas as pd
import tensorflow as tf

from yt8m.averages import has_averages, load_averages
from yt8m.config import RunConfig
from yt8m.errors import UserError
from yt8m.whole_file import write_text

CONFIG_FILE = "config.json"
CHECKPOINT_PREFIX = "ckpt"
BEST_DIRECTORY = "best"
EVALUATION_DIRECTORY = "eval"
DATA_DIRECTORY = "data"


def join(directory: str, *names: str) -> str:
    """Joins path names with slashes, which every storage scheme understands."""
    return "/".join([directory.rstrip("/"), *filter(None, names)])


def save_config(train_dir: str, config: RunConfig) -> None:
    """Writes the description of a run into its directory, which is made if need be.

    Raises:
        UserError: if the directory cannot be made or written to.
    """
    make_directory(train_dir)
    write_text(join(train_dir, CONFIG_FILE), config.to_json())


def make_directory(path: str) -> None:
    """Makes a directory and those above it.

    Raises:
        UserError: if that is not possible.
    """
    try:
        tf.io.gfile.makedirs(path)
    except tf.errors.OpError as error:
        raise UserError(f"{path} cannot be made: {error.message} Choose a place that you may write to.") from error


def has_run(train_dir: str) -> bool:
    """Tells whether a run has been started in a directory and has saved a checkpoint."""
    return has_config(train_dir) and newest_checkpoint(train_dir) is not None


def load_config(train_dir: str) -> RunConfig:
    """Reads the configuration of a run.

    Raises:
        UserError: if the directory holds no run, or its configuration cannot be read.
    """
    if not has_config(train_dir):
        raise UserError(
            f"train_dir={train_dir} holds no run: it has no {CONFIG_FILE}. Give the one that train.py was given."
        )
    path = join(train_dir, CONFIG_FILE)
    try:
        with tf.io.gfile.GFile(path) as file:
            text = file.read()
    except (tf.errors.OpError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is not the configuration of a run: {error}. It is written by train.py; "
            "restore it, or train into another --train_dir."
        ) from error
    return RunConfig.from_json(text, path)


def has_config(train_dir: str) -> bool:
    """Tells whether a directory has the description of a run."""
    return tf.io.gfile.exists(join(train_dir, CONFIG_FILE))


def newest_checkpoint(train_dir: str) -> str | None:
    """Returns the path of a run's newest complete checkpoint, without an ending, or None.

    Raises:
        UserError: if the file `checkpoint`, which names it, is damaged.
    """
    try:
        newest = tf.train.latest_checkpoint(train_dir)
    except ValueError as error:
        raise UserError(
            f"{join(train_dir, 'checkpoint')} is damaged: expected the names of checkpoints. Delete it: the newest "
            "checkpoint is then found without it."
        ) from error
    return newest or _newest_by_name(train_dir)


def _newest_by_name(train_dir: str) -> str | None:
    """Finds a checkpoint that no file `checkpoint` names: the index is the last of its files to be written."""
    names = names_in(train_dir, rf"{CHECKPOINT_PREFIX}-\d+\.index")
    paths = [join(train_dir, name.removesuffix(".index")) for name in names]
    return max(paths, key=checkpoint_step, default=None)


def names_in(directory: str, pattern: str) -> list[str]:
    """The names in a directory, if it is one, that a pattern matches from end to end."""
    if not tf.io.gfile.isdir(directory):
        return []
    names = [name.rstrip("/") for name in tf.io.gfile.listdir(directory)]
    return sorted(name for name in names if re.fullmatch(pattern, name))


def require_checkpoint(train_dir: str) -> str:
    """Returns the path of a run's newest checkpoint.

    Raises:
        UserError: if the run has none yet.
    """
    newest = newest_checkpoint(train_dir)
    if newest is None:
        raise UserError(f"train_dir={train_dir} has no checkpoint yet. Wait for the first, or give another run.")
    return newest


def checkpoint_step(path: str) -> int:
    """Returns the step in the name of a checkpoint."""
    return int(path.rsplit("-", 1)[1])


def load_weights(model: keras.Model, path: str) -> None:
    """Reads the weights that are to be evaluated, and nothing else, from a checkpoint: averages, if it has any.

    Raises:
        UserError: if the checkpoint lacks a weight of the model, or is damaged.
    """
    try:
        with _reading(path):
            status = tf.train.Checkpoint(model=model).restore(path).expect_partial()
            status.assert_existing_objects_matched()
            if has_averages(path):
                load_averages(model, path)
    except (AssertionError, ValueError) as error:
        raise UserError(
            f"Checkpoint {path} does not hold the weights of {type(model).__name__} as {CONFIG_FILE} describes it. "
            "Was it written by another version, or copied from another run?"
        ) from error


@contextmanager
def _reading(path: str) -> Iterator[None]:
    try:
        yield
    except (tf.errors.OpError, IndexError) as error:  # an IndexError is what TensorFlow makes of a file that was cut
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"Checkpoint {path} cannot be read ({reason}). Expected whole files {path}.*. Restore them from a copy, or "
            "delete what is left of them to go on without."
        ) from error


def checkpoint_files(path: str) -> list[str]:
    """Returns the paths of all files of a checkpoint."""
    directory, _, name = path.rpartition("/")
    return [join(directory, file) for file in names_in(directory, rf"{re.escape(name)}\..+")]


class Checkpoints:
    """Saves and restores a run: the shared state once, the place in the order of the data once for each worker.

    The places in the data are written first, by all workers, and deleted last, so that every worker finds its own for
    the newest checkpoint that is complete, whenever a kill comes.

    Args:
        train_dir: the run's directory.
        state: weights, optimizer and counters.
        keep: how many of the newest checkpoints stay.
        data_fingerprint: text that decides the order of the data; a place counts only for an equal one.
        worker: number of this process; worker 0 writes the shared state.
    """

    def __init__(self, train_dir: str, state: tf.train.Checkpoint, keep: int, data_fingerprint: str, worker: int = 0):
        self._train_dir = train_dir
        self._state = state
        self._keep = keep
        self._fingerprint = data_fingerprint
        self._worker = worker
        self._data_directory = join(train_dir, DATA_DIRECTORY, f"worker-{worker}")

    @cached_property
    def _manager(self) -> tf.train.CheckpointManager:
        # Made for the first save, since it reads the directory: until then an old run may lie there that has to go.
        return tf.train.CheckpointManager(self._state, self._train_dir, self._keep, checkpoint_name=CHECKPOINT_PREFIX)

    def restore(self, iterator: Any) -> bool:
        """Restores the newest checkpoint, and the data iterator if the order of the data is still the same.

        Returns:
            Whether the iterator stands where it stood; a fresh run counts as yes.

        Raises:
            UserError: if a file is damaged.
        """
        newest = newest_checkpoint(self._train_dir)
        if newest is None:
            return True
        with _reading(newest):
            self._restore_state(newest)
        return self._restore_data(checkpoint_step(newest), iterator)

    def _restore_state(self, path: str) -> None:
        status = self._state.restore(path)
        averages = getattr(self._state, "averages", None)
        if averages is None or has_averages(path):
            status.assert_existing_objects_matched()
        else:  # the run goes on with averages that it did not have
            status.expect_partial()
            averages.restart(self._state.model)

    def _restore_data(self, step: int, iterator: Any) -> bool:
        place = join(self._data_directory, str(step))
        if not tf.io.gfile.exists(join(place, "order.txt")):
            return False
        with tf.io.gfile.GFile(join(place, "order.txt")) as file:
            if file.read() != self._fingerprint:
                return False
        with _reading(join(place, "state")):
            tf.train.Checkpoint(iterator=iterator).read(join(place, "state")).assert_consumed()
        return True

    def save_place(self, step: int, iterator: Any) -> None:
        """Saves where this worker stands in the data; all workers have done so before one calls `save_state`."""
        place = join(self._data_directory, str(step))
        tf.io.gfile.makedirs(place)
        tf.train.Checkpoint(iterator=iterator).write(join(place, "state"))
        write_text(join(place, "order.txt"), self._fingerprint)

    def save_state(self, step: int) -> None:
        """Saves all else that is needed to go on from `step` as if nothing had happened."""
        if self._worker == 0:
            self._manager.save(checkpoint_number=step)
        self._delete_old_places()

    def _delete_old_places(self) -> None:
        # For other workers the newest checkpoint may still be the one before: worker 0 is not waited for.
        newest = newest_checkpoint(self._train_dir)
        for name in names_in(self._data_directory, r"\d+"):
            if newest is not None and int(name) < checkpoint_step(newest):
                tf.io.gfile.rmtree(join(self._data_directory, name))


def save_best(train_dir: str, config: RunConfig, model: keras.Model, metrics: dict[str, Any]) -> None:
    """Keeps a model's weights in `best/`, itself a run's directory that eval.py and inference.py take."""
    best = join(train_dir, BEST_DIRECTORY)
    tf.io.gfile.makedirs(best)
    write_text(join(best, CONFIG_FILE), config.to_json())
    manager = tf.train.CheckpointManager(
        tf.train.Checkpoint(model=model), best, max_to_keep=1, checkpoint_name=CHECKPOINT_PREFIX
    )
    manager.save(checkpoint_number=metrics["global_step"])
    write_text(join(best, "metrics.json"), json.dumps(metrics, indent=2) + "\n")


def best_gap(train_dir: str) -> float:
    """Returns the GAP of the weights in `best/`, minus infinity where there are none."""
    path = join(train_dir, BEST_DIRECTORY, "metrics.json")
    if not tf.io.gfile.exists(path):
        return -math.inf
    with tf.io.gfile.GFile(path) as file:
        return json.loads(file.read())["gap"]


def evaluation_directory(train_dir: str) -> str:
    """Returns where the evaluations of a run are kept."""
    return join(train_dir, EVALUATION_DIRECTORY)


def save_evaluation(train_dir: str, summary: dict[str, Any]) -> None:
    """Writes the newest evaluation as `eval/metrics.json` and adds it as a line to `eval/history.jsonl`."""
    directory = evaluation_directory(train_dir)
    make_directory(directory)
    write_text(join(directory, "metrics.json"), json.dumps(summary, indent=2) + "\n")
    with tf.io.gfile.GFile(join(directory, "history.jsonl"), "a") as file:
        file.write(json.dumps(summary) + "\n")


def save_class_table(train_dir: str, table: pd.DataFrame) -> None:
    """Writes what an evaluation found class by class as `eval/per_class_ap.csv`."""
    write_text(join(evaluation_directory(train_dir), "per_class_ap.csv"), table.to_csv(index=False))


def new_checkpoints(train_dir: str, seconds_between_looks: float) -> Iterator[str]:
    """Yields each new checkpoint of a run once, the newest only, and sleeps while there is none."""
    seen = None
    while True:
        newest = newest_checkpoint(train_dir)
        if newest is not None and newest != seen:
            seen = newest
            yield newest
        else:
            time.sleep(seconds_between_looks)
