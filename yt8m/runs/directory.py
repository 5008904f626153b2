"""What lies in a run's directory, and under which name.

train_dir/
    config.json      the run (yt8m/config.py)
    ckpt-1200.*      weights, optimizer, counters; the newest few
    data/            where each worker stands in the order of the data, one state for each checkpoint
    best/            the weights of the highest GAP so far, in the same form
    eval/            metrics.json, history.jsonl, per_class_ap.csv, events
    events.out.*     TensorBoard
"""

import re
import time
from collections.abc import Iterator

import tensorflow as tf

from yt8m.config import RunConfig
from yt8m.errors import UserError
from yt8m.files import write_text

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


def checkpoint_files(path: str) -> list[str]:
    """Returns the paths of all files of a checkpoint."""
    directory, _, name = path.rpartition("/")
    return [join(directory, file) for file in names_in(directory, rf"{re.escape(name)}\..+")]


def evaluation_directory(train_dir: str) -> str:
    """Returns where the evaluations of a run are kept."""
    return join(train_dir, EVALUATION_DIRECTORY)


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
