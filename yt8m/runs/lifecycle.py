"""Which run lies in a directory: it is resumed, replaced by a new one, or left alone; what is the user's stays."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import tensorflow as tf

from yt8m.config import RunConfig, fixed_differences
from yt8m.errors import UserError, first_line
from yt8m.runs.directory import (
    BEST_DIRECTORY,
    CHECKPOINT_PREFIX,
    CONFIG_FILE,
    DATA_DIRECTORY,
    EVALUATION_DIRECTORY,
    has_config,
    join,
    load_config,
    names_in,
    newest_checkpoint,
    save_config,
)

# The names that a run gives to what it writes, by folder, with what a kill may leave half-written. All else in its
# directory is the user's.
_PARTIAL = r"(\.[0-9a-f]{8}\.partial)?"
_CONFIG = re.escape(CONFIG_FILE) + _PARTIAL
_STATE = rf"checkpoint(\.tmp[0-9a-f]+)?|{CHECKPOINT_PREFIX}-\d+(\.index|\.data-\d+-of-\d+|_temp)"
_EVENTS = r"events\.out\.tfevents\..+"
_WRITTEN = {
    BEST_DIRECTORY: rf"{_STATE}|{_CONFIG}|metrics\.json{_PARTIAL}",
    EVALUATION_DIRECTORY: rf"{_EVENTS}|history\.jsonl|(metrics\.json|per_class_ap\.csv){_PARTIAL}",
    "": rf"{_STATE}|{_EVENTS}|{_CONFIG}",
}


def open_run(train_dir: str, config: RunConfig, start_new_model: bool) -> RunConfig | None:
    """Finds the run that is to be resumed; writes and deletes nothing.

    Args:
        train_dir: the directory.
        config: the run that is asked for.
        start_new_model: whether a run that lies there is to be overwritten.

    Returns:
        The configuration of the run that is to be resumed, None for a new one.

    Raises:
        UserError: if a run of another architecture or optimizer lies there (the message names the first field that
            differs and both values), or files that no run of ours wrote and a new one would overwrite.
    """
    if not train_dir:
        raise UserError("--train_dir is empty: give the directory of the run, as in --train_dir=runs/first.")
    if not has_config(train_dir):
        _check_nothing_in_the_way(train_dir)
        return None
    old = load_config(train_dir)
    if start_new_model or newest_checkpoint(train_dir) is None:
        return None
    differences = fixed_differences(old, config)
    if differences:
        name, before, now = differences[0]
        raise UserError(
            f"train_dir={train_dir} holds a run with {name}={before}; you asked for {now}. Resume with the old value, "
            "choose another --train_dir, or pass --start_new_model to overwrite it."
        )
    return old


def _check_nothing_in_the_way(train_dir: str) -> None:
    folders = [join(train_dir, name) for name in (DATA_DIRECTORY, BEST_DIRECTORY, EVALUATION_DIRECTORY)]
    no_folders = [path for path in folders if tf.io.gfile.exists(path) and not tf.io.gfile.isdir(path)]
    for path in no_folders + paths_of_run(train_dir):
        raise UserError(
            f"train_dir={train_dir} holds no run, for it has no {CONFIG_FILE}, but a new run would write to {path}, "
            "which is there already. Choose another --train_dir, or move it away."
        )


@contextmanager
def new_run(train_dir: str, config: RunConfig) -> Iterator[None]:
    """Puts a new run in the place of the one that lies there, if any.

    If the block ends with a `UserError` before the first checkpoint, the new run is deleted too, and the directory if
    it was made here: there is nothing in it to resume or to look at.

    Args:
        train_dir: the directory, for which `open_run` returned None.
        config: the new run.

    Raises:
        UserError: if the old run cannot be deleted or the new one cannot be written.
    """
    is_mine = not tf.io.gfile.exists(train_dir)
    delete_run(train_dir)
    try:
        save_config(train_dir, config)
        yield
    except UserError:
        if newest_checkpoint(train_dir) is None:
            delete_run(train_dir)
            if is_mine:
                _delete_if_empty(train_dir)
        raise


def delete_run(train_dir: str) -> None:
    """Deletes what a run wrote, and nothing else that lies in its directory; without a run there, nothing at all.

    Raises:
        UserError: if the directory has a `config.json` that is not that of a run, or a file cannot be deleted.
    """
    if not has_config(train_dir):
        return
    load_config(train_dir)
    for path in paths_of_run(train_dir):
        _delete(path)
    data = join(train_dir, DATA_DIRECTORY)
    workers = [join(data, name) for name in names_in(data, r"worker-\d+")]
    for folder in (*workers, data, join(train_dir, BEST_DIRECTORY), join(train_dir, EVALUATION_DIRECTORY)):
        _delete_if_empty(folder)


def paths_of_run(train_dir: str) -> list[str]:
    """Returns all paths in a directory that have the name of something a run writes; config.json last.

    config.json marks the directory as a run: while it is there, the rest is known as ours.
    """
    data = join(train_dir, DATA_DIRECTORY)
    places = {join(DATA_DIRECTORY, worker): r"\d+" for worker in names_in(data, r"worker-\d+")}
    paths = [
        join(train_dir, folder, name)
        for folder, pattern in (places | _WRITTEN).items()
        for name in names_in(join(train_dir, folder), pattern)
    ]
    return sorted(paths, key=lambda path: path == join(train_dir, CONFIG_FILE))


def _delete(path: str) -> None:
    try:
        delete = tf.io.gfile.rmtree if tf.io.gfile.isdir(path) else tf.io.gfile.remove
        delete(path)
    except tf.errors.OpError as error:
        raise UserError(
            f"{path} of the old run cannot be deleted ({first_line(error)}). Allow it, or choose another --train_dir."
        ) from error


def _delete_if_empty(directory: str) -> None:
    if tf.io.gfile.isdir(directory) and not tf.io.gfile.listdir(directory):
        with suppress(tf.errors.OpError):  # a link to a folder elsewhere stays, and does no harm
            tf.io.gfile.rmtree(directory)
