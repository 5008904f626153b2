"""Checkpoints of a run, written so that a kill at any moment loses nothing, and what its evaluations leave."""

import json
import logging
import math
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import keras
import tensorflow as tf

from yt8m.config import RunConfig
from yt8m.errors import UserError, first_line
from yt8m.files import one_at_a_time, parse_json, partial_path, read_bytes, write_text
from yt8m.positions import Position, format_position, parse_position
from yt8m.runs.directory import (
    BEST_CANDIDATE,
    BEST_DIRECTORY,
    BEST_EVALUATION,
    CHECKPOINT_NAMES,
    CHECKPOINT_PREFIX,
    CLASS_TABLE,
    EVALUATION,
    HISTORY,
    POSITIONS,
    POSITIONS_DIRECTORY,
    SHARDS,
    all_checkpoints,
    checkpoint_files,
    checkpoint_step,
    evaluation_directory,
    format_checkpoint_names,
    join,
    make_directory,
    newest_checkpoint,
    save_config,
)

LOG = logging.getLogger("yt8m.checkpoints")


class State(Protocol):
    """What a run saves and goes on from: a `tf.train.Checkpoint` that reads itself."""

    examples_seen: tf.Variable

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
    """Saves and restores a run: its state, and beside it the place in the data as text.

    The position is written first and deleted last, so that there is one for every checkpoint that is complete, whenever
    a kill comes.

    Args:
        train_dir: the run's directory.
        state: weights, optimizer and counters.
        keep: how many of the newest checkpoints stay.
        order: text that decides the order of the data; a position counts only for an equal one.
        shards: a line per training shard, to tell which one changed.
        worker: number of this process; worker 0 writes.
    """

    def __init__(self, train_dir: str, state: State, keep: int, order: str, shards: str = "", worker: int = 0):
        self._train_dir = train_dir
        self._state = state
        self._keep = keep
        self._order = order
        self._shards = shards
        self._worker = worker

    def restore(self, examples_per_epoch: int) -> Position:
        """Restores the newest checkpoint that can be read, and says where in the data to go on.

        Args:
            examples_per_epoch: about how many there are, for runs of before, which kept no position of that kind.

        Returns:
            The position at the checkpoint; where that means nothing any more, the start of its epoch.

        Raises:
            UserError: if no checkpoint can be read.
        """
        checkpoints = all_checkpoints(self._train_dir)
        for checkpoint in reversed(checkpoints):
            try:
                with reading(checkpoint):
                    self._state.load(checkpoint)
            except UserError as error:
                if checkpoint == checkpoints[0]:
                    raise
                LOG.warning("%s", error)
                continue
            lost = checkpoint_step(checkpoints[-1]) - checkpoint_step(checkpoint)
            if lost:
                LOG.warning("Going on from %s: %d steps are lost.", checkpoint, lost)
            elif not self._worker:
                self._delete_superseded()  # what a kill kept `save` from
            return self._position_at(checkpoint_step(checkpoint), examples_per_epoch)
        return Position()

    def _position_at(self, step: int, examples_per_epoch: int) -> Position:
        path = self._position_path(step)
        if not tf.io.gfile.exists(path):
            examples = int(self._state.examples_seen.numpy())
            position = Position(epoch=examples // max(examples_per_epoch, 1), examples=examples)
            LOG.info("There is no %s: the data are read from the start of epoch %d.", path, position.epoch)
            return position
        try:
            position, order = parse_position(read_bytes(path).decode())
        except ValueError as error:
            raise UserError(
                f"{path} is damaged: {first_line(error)}. Restore it from a copy, or delete it: the data are then read "
                "from the start of an epoch."
            ) from error
        if order == self._order:
            return position
        LOG.info("%s: the data are read from the start of epoch %d.", self._what_changed(), position.epoch)
        return position.start_of_epoch()

    def _what_changed(self) -> str:
        try:
            before = read_bytes(SHARDS.path(self._train_dir)).decode().splitlines()
        except ValueError:  # missing or damaged; the next checkpoint writes it again
            before = []
        now = self._shards.splitlines()
        changed = [line.split(" ")[0] for line in now if line not in before] if before else []
        gone = [line.split(" ")[0] for line in before if line not in now]
        if changed or gone:
            return f"Training shards changed since the checkpoint ({(changed or gone)[0]} is one)"
        return "The order of the data changed since the checkpoint, by another seed, number of readers or service"

    def _position_path(self, step: int) -> str:
        return join(self._train_dir, POSITIONS_DIRECTORY, f"{step}.json")

    def save(self, step: int, position: Position) -> None:
        """Saves all that is needed to go on from `step` as if nothing had happened; the first worker does it.

        Raises:
            UserError: if something cannot be written; the checkpoint before is whole.
        """
        if self._worker:
            return
        make_directory(join(self._train_dir, POSITIONS_DIRECTORY))
        write_text(SHARDS.path(self._train_dir), self._shards)
        write_text(self._position_path(step), format_position(position, self._order))
        _write_checkpoint(self._state, self._train_dir, step)
        self._delete_abandoned(step)
        self._delete_superseded()

    def _delete_abandoned(self, step: int) -> None:
        """Deletes checkpoints of later steps: they could not be read, and the run went on from one before them."""
        for path in all_checkpoints(self._train_dir):
            if checkpoint_step(path) > step:
                _delete_checkpoint(path)

    def _delete_superseded(self) -> None:
        """Deletes all checkpoints but the newest that are to be kept, and the positions of those that are gone."""
        _keep_checkpoints(self._train_dir, self._keep)
        kept = {f"{checkpoint_step(path)}.json" for path in all_checkpoints(self._train_dir)}
        for path in POSITIONS.find(self._train_dir):
            if path.rsplit("/", 1)[-1] not in kept:
                tf.io.gfile.remove(path)


def _write_checkpoint(objects: tf.train.Checkpoint, directory: str, step: int) -> None:
    """Writes a checkpoint whose index is there when all of it is.

    TensorFlow writes the index under its own name, so that a kill may leave half of it; therefore the files get their
    names when they are whole, the index last.

    Raises:
        UserError: if it cannot be written.
    """
    path = join(directory, f"{CHECKPOINT_PREFIX}-{step}")
    written = partial_path(path)
    try:
        objects.write(written)
        _delete_checkpoint(path)  # one of that step that could not be read
        for file in checkpoint_files(written):
            tf.io.gfile.rename(file, path + file.removeprefix(written), overwrite=True)
    except tf.errors.OpError as error:
        raise UserError(
            f"train_dir={directory}: checkpoint {step} cannot be written ({first_line(error)}). The one before is "
            "whole. Make room or allow it, and resume."
        ) from error


def _keep_checkpoints(directory: str, keep: int) -> None:
    """Deletes all checkpoints but the newest, and writes the file `checkpoint`, by which TensorFlow finds them."""
    checkpoints = all_checkpoints(directory)
    names = format_checkpoint_names([path.rpartition("/")[2] for path in checkpoints[-keep:]])
    write_text(CHECKPOINT_NAMES.path(directory), names)
    for path in checkpoints[:-keep]:
        _delete_checkpoint(path)


def _delete_checkpoint(path: str) -> None:
    for file in reversed(checkpoint_files(path)):  # the index first: from then on the checkpoint is none
        try:
            tf.io.gfile.remove(file)
        except tf.errors.OpError as error:
            raise UserError(f"{file} cannot be deleted ({first_line(error)}). Allow it, or move it away.") from error


def save_best(train_dir: str, config: RunConfig, model: keras.Model, metrics: dict[str, Any]) -> None:
    """Keeps a model's weights in `best/`, itself a run's directory that eval.py and inference.py take.

    The evaluation is written before the weights and under their step, so that a kill in between leaves the old weights
    with the old evaluation.
    """
    best, text = join(train_dir, BEST_DIRECTORY), json.dumps(metrics, indent=2) + "\n"
    save_config(best, config)
    write_text(join(best, f"metrics-{metrics['global_step']}.json"), text)
    _write_checkpoint(tf.train.Checkpoint(model=model), best, metrics["global_step"])
    tidy_best(train_dir)


def tidy_best(train_dir: str) -> None:
    """Makes all of `best/` that of its newest weights; if a kill prevented it, the next start does it."""
    best = join(train_dir, BEST_DIRECTORY)
    newest = newest_checkpoint(best)
    own = join(best, f"metrics-{checkpoint_step(newest)}.json") if newest else ""
    if newest is None or not tf.io.gfile.exists(own):  # runs of before have no evaluation by step
        return
    _keep_checkpoints(best, keep=1)
    write_text(BEST_EVALUATION.path(train_dir), read_bytes(own))
    for path in BEST_CANDIDATE.find(train_dir):
        if path != own:
            tf.io.gfile.remove(path)


def save_weights(train_dir: str, config: RunConfig, model: keras.Model, step: int) -> None:
    """Writes a model's weights as the only checkpoint of a run's directory that eval.py and inference.py take.

    Raises:
        UserError: if the directory or a file in it cannot be written.
    """
    save_config(train_dir, config)
    _write_checkpoint(tf.train.Checkpoint(model=model), train_dir, step)
    _keep_checkpoints(train_dir, keep=1)


def best_gap(train_dir: str) -> float:
    """Returns the GAP of the weights in `best/`, minus infinity where there are none.

    Raises:
        UserError: if the file that holds it is damaged.
    """
    best = join(train_dir, BEST_DIRECTORY)
    newest = newest_checkpoint(best)
    if newest is None:
        return -math.inf
    own = join(best, f"metrics-{checkpoint_step(newest)}.json")
    path = own if tf.io.gfile.exists(own) else BEST_EVALUATION.path(train_dir)  # runs of before have only this one
    try:
        gap = parse_json(read_bytes(path))["gap"]
        if type(gap) not in (int, float) or not 0 <= gap <= 1:
            raise ValueError(f"its gap is {reprlib.repr(gap)}")
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} is damaged: {first_line(error)}. Expected the evaluation of the best weights. Restore it, or "
            f"delete the folder {best}: the next evaluation makes it again."
        ) from error
    return float(gap)


def save_evaluation(train_dir: str, summary: dict[str, Any], program: str) -> None:
    """Writes the newest evaluation as `eval/metrics.json` and adds it as a line to `eval/history.jsonl`.

    A last line that a kill cut short is left out. Several programs may add lines to one history.

    Args:
        train_dir: the run's directory.
        summary: `global_step` and what was measured.
        program: who evaluated, `train.py` or `eval.py`.
    """
    folder = evaluation_directory(train_dir)
    make_directory(folder)
    write_text(EVALUATION.path(train_dir), json.dumps(summary, indent=2) + "\n")
    line = json.dumps({"program": program} | summary) + "\n"
    with one_at_a_time(folder):
        write_text(HISTORY.path(train_dir), _whole_history(train_dir) + line.encode())


def last_evaluated_step(train_dir: str, program: str) -> int | None:
    """Returns the step of a program's newest evaluation in `eval/history.jsonl`, None where none can be read.

    A line that does not name its program, as older versions wrote them, counts as the program's.

    Raises:
        UserError: if a folder has its place.
    """
    for line in reversed(_whole_history(train_dir).splitlines()):
        try:
            evaluation = parse_json(line)
            step, evaluated_by = evaluation["global_step"], evaluation.get("program", program)
        except (ValueError, TypeError, KeyError):
            return None
        if evaluated_by == program:
            return step if type(step) is int else None
    return None


def _whole_history(train_dir: str) -> bytes:
    path = HISTORY.path(train_dir)
    try:
        text = read_bytes(path) if tf.io.gfile.exists(path) else b""
    except ValueError as error:
        raise UserError(f"{path} cannot be read ({error}). Expected a line per evaluation. Move it away.") from error
    return text[: text.rfind(b"\n") + 1]


def save_class_table(train_dir: str, table: str) -> None:
    """Writes what an evaluation found class by class as `eval/per_class_ap.csv`."""
    write_text(CLASS_TABLE.path(train_dir), table)
