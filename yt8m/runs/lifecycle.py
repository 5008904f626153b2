"""Which run lies in a directory: it is resumed, replaced by a new one, or left alone; what is the user's stays."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import tensorflow as tf

from yt8m.config import RunConfig, fixed_differences
from yt8m.errors import UserError, first_line
from yt8m.runs.directory import (
    CONFIG,
    check_name,
    folders_of_run,
    has_config,
    is_half_written,
    join,
    leftovers,
    load_config,
    newest_checkpoint,
    paths_of_run,
    read_config,
    save_config,
    top_folders,
)


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
    check_name(train_dir)
    if not has_config(train_dir):
        _check_nothing_in_the_way(train_dir)
        return None
    read_config(train_dir)  # what is not the configuration of a run is not overwritten either
    if start_new_model or newest_checkpoint(train_dir) is None:
        return None
    resumed = load_config(train_dir)
    differences = fixed_differences(resumed, config)
    if differences:
        name, before, now = differences[0]
        raise UserError(
            f"train_dir={train_dir} holds a run with {name}={before}; you asked for {now}. Resume with the old value, "
            "choose another --train_dir, or pass --start_new_model to overwrite it."
        )
    return resumed


def _check_nothing_in_the_way(train_dir: str) -> None:
    folders = [join(train_dir, name) for name in top_folders()]
    in_the_way = [path for path in folders if tf.io.gfile.exists(path) and not tf.io.gfile.isdir(path)]
    in_the_way += [path for path in paths_of_run(train_dir) if not is_half_written(path.rpartition("/")[2])]
    if in_the_way:
        raise UserError(
            f"train_dir={train_dir} holds no run, for it has no {CONFIG.name}, but a new run would write to "
            f"{in_the_way[0]}, which is there already. Choose another --train_dir, or move it away."
        )


@contextmanager
def new_run(train_dir: str, config: RunConfig) -> Iterator[None]:
    """Replaces the run in a directory, if there is one, by a new one.

    If the block ends with a `UserError` or a signal before the first checkpoint, the new run is deleted too, and the
    directory if it was made here: there is nothing in it to resume or to look at.

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
    except (UserError, SystemExit):  # the latter is what a signal becomes
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
    read_config(train_dir)
    for path in paths_of_run(train_dir):
        _delete(path)
    for folder in folders_of_run(train_dir):
        _delete_if_empty(folder)


def delete_leftovers(train_dir: str) -> None:
    """Deletes what killed programs left half-written in a run that is locked.

    Raises:
        UserError: if something cannot be deleted.
    """
    for path in leftovers(train_dir):
        _delete(path)


def _delete(path: str) -> None:
    try:
        delete = tf.io.gfile.rmtree if tf.io.gfile.isdir(path) else tf.io.gfile.remove
        delete(path)
    except tf.errors.OpError as error:
        raise UserError(
            f"{path} cannot be deleted ({first_line(error)}). Allow it, or choose another --train_dir."
        ) from error


def _delete_if_empty(directory: str) -> None:
    if tf.io.gfile.isdir(directory) and not tf.io.gfile.listdir(directory):
        with suppress(tf.errors.OpError):  # a link to a folder elsewhere stays, and does no harm
            tf.io.gfile.rmtree(directory)
