"""Checkpoints of a run, written so that a kill at any moment loses nothing, and what its evaluations leave."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Protocol

import keras
import tensorflow as tf

from yt8m.config import RunConfig
from yt8m.errors import UserError
from yt8m.files import write_text
from yt8m.runs.directory import (
    BEST_DIRECTORY,
    BEST_EVALUATION,
    CHECKPOINT_PREFIX,
    CLASS_TABLE,
    EVALUATION,
    HISTORY,
    POSITIONS_DIRECTORY,
    checkpoint_step,
    evaluation_directory,
    join,
    make_directory,
    names_in,
    newest_checkpoint,
    save_config,
)


class State(Protocol):
    """What a run saves and goes on from: a `tf.train.Checkpoint` that reads itself."""

    def load(self, checkpoint: str) -> None:
        """Takes all values from the checkpoint of that path."""


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turns the failure to read a checkpoint into a message that names it.

    Raises:
        UserError: if the block fails because a file is damaged or missing.
    """
    try:
        yield
    except (tf.errors.OpError, IndexError) as error:  # an IndexError is what TensorFlow makes of a file that was cut
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"Checkpoint {path} cannot be read ({reason}). Expected whole files {path}.*. Restore them from a copy, or "
            "delete what is left of them to go on without."
        ) from error


class Checkpoints:
    """Saves and restores a run: the shared state once, the place in the order of the data once for each worker.

    The places in the data are written first, by all workers, and deleted last, so that every worker finds its own for
    the newest checkpoint that is complete, whenever a kill comes.

    Args:
        train_dir: the run's directory.
        state: weights, optimizer and counters.
        keep: how many of the newest checkpoints stay.
        order: text that decides the order of the data; a place counts only for an equal one.
        worker: number of this process; worker 0 writes the shared state.
    """

    def __init__(self, train_dir: str, state: State, keep: int, order: str, worker: int = 0):
        self._train_dir = train_dir
        self._state = state
        self._keep = keep
        self._order = order
        self._worker = worker
        self._data_directory = join(train_dir, POSITIONS_DIRECTORY, f"worker-{worker}")

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
        with reading(newest):
            self._state.load(newest)
        return self._restore_data(checkpoint_step(newest), iterator)

    def _restore_data(self, step: int, iterator: Any) -> bool:
        place = join(self._data_directory, str(step))
        if not tf.io.gfile.exists(join(place, "order.txt")):
            return False
        with tf.io.gfile.GFile(join(place, "order.txt")) as file:
            if file.read() != self._order:
                return False
        with reading(join(place, "state")):
            tf.train.Checkpoint(iterator=iterator).read(join(place, "state")).assert_consumed()
        return True

    def save_place(self, step: int, iterator: Any) -> None:
        """Saves where this worker stands in the data; all workers have done so before one calls `save_state`."""
        place = join(self._data_directory, str(step))
        tf.io.gfile.makedirs(place)
        tf.train.Checkpoint(iterator=iterator).write(join(place, "state"))
        write_text(join(place, "order.txt"), self._order)

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
    save_config(best, config)
    manager = tf.train.CheckpointManager(
        tf.train.Checkpoint(model=model), best, max_to_keep=1, checkpoint_name=CHECKPOINT_PREFIX
    )
    manager.save(checkpoint_number=metrics["global_step"])
    write_text(BEST_EVALUATION.path(train_dir), json.dumps(metrics, indent=2) + "\n")


def best_gap(train_dir: str) -> float:
    """Returns the GAP of the weights in `best/`, minus infinity where there are none."""
    path = BEST_EVALUATION.path(train_dir)
    if not tf.io.gfile.exists(path):
        return -math.inf
    with tf.io.gfile.GFile(path) as file:
        return float(json.loads(file.read())["gap"])


def save_evaluation(train_dir: str, summary: dict[str, Any]) -> None:
    """Writes the newest evaluation as `eval/metrics.json` and adds it as a line to `eval/history.jsonl`."""
    make_directory(evaluation_directory(train_dir))
    write_text(EVALUATION.path(train_dir), json.dumps(summary, indent=2) + "\n")
    with tf.io.gfile.GFile(HISTORY.path(train_dir), "a") as file:
        file.write(json.dumps(summary) + "\n")


def save_class_table(train_dir: str, table: str) -> None:
    """Writes what an evaluation found class by class as `eval/per_class_ap.csv`."""
    write_text(CLASS_TABLE.path(train_dir), table)
