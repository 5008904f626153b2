"""What is in a run's directory: one table of names, which saving, deleting, packing and the tools read.

A new file of a run is a new row of `TABLE`, so that it is deleted with its run and never taken for the user's.
"""

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import tensorflow as tf

from yt8m.config import RunConfig
from yt8m.errors import UserError
from yt8m.files import PARTIAL, is_abandoned, read_bytes, write_text

CHECKPOINT_PREFIX = "ckpt"
BEST_DIRECTORY = "best"
EVALUATION_DIRECTORY = "eval"
POSITIONS_DIRECTORY = "data"

_PATTERN_CHARACTERS = "*?[\\"  # where one is in its path, TensorFlow takes the name of a checkpoint for a pattern

_PARTIAL = f"({PARTIAL})?"


@dataclass(frozen=True)
class Item:
    """A row of the table: one file of a run, or many of a kind.

    Attributes:
        holds: a description of the content, for the table.
        writer: the programs that write it.
        folder: where it is in the run's directory; each part of the path is a pattern. Empty: in the directory itself.
        pattern: matches its names, from end to end, and those of what a kill may leave half-written.
        name: the file's name, if a run has exactly one such file.
    """

    holds: str
    writer: str
    folder: str
    pattern: str
    name: str = ""

    def path(self, train_dir: str) -> str:
        """Returns the path of an item of which there is one."""
        return join(train_dir, self.folder, self.name)

    def find(self, train_dir: str) -> list[str]:
        """Returns the paths of all that there is of it."""
        return [join(folder, name) for folder in self.folders(train_dir) for name in names_in(folder, self.pattern)]

    def folders(self, train_dir: str) -> list[str]:
        """Returns the folders where it may be, among those that there are."""
        return _folders(train_dir, self.folder)


def _folders(train_dir: str, patterns: str) -> list[str]:
    """The folders of a run's directory whose path matches; each part of `patterns` is a pattern of its own."""
    folders = [train_dir]
    for part in filter(None, patterns.split("/")):
        folders = [join(folder, name) for folder in folders for name in names_in(folder, part)]
    return folders


def _file(name: str, folder: str, writer: str, holds: str) -> Item:
    return Item(holds, writer, folder, re.escape(name) + _PARTIAL, name)


CONFIG = _file("config.json", "", "train.py", "the run as data (yt8m/config.py)")
CHECKPOINTS = Item(
    "weights, their averages, optimizer and counters; the newest few",
    "train.py",
    "",
    rf"{CHECKPOINT_PREFIX}-\d+{_PARTIAL}(\.index|\.data-\d+-of-\d+|_temp)",
)
CHECKPOINT_NAMES = Item(
    "which checkpoints there are, for other programs",
    "train.py",
    "",
    rf"checkpoint(\.tmp[0-9a-f]+|{PARTIAL})?",
    name="checkpoint",
)
CALIBRATION = _file("calibration.json", "", "tools.calibrate", "the temperature of a checkpoint")
LOCK = _file("lock.json", "", "train.py", "the process that writes the run")
EVENTS = Item("TensorBoard events", "train.py", "", r"events\.out\.tfevents\..+")
POSITIONS = Item("the place in the data at each checkpoint", "train.py", POSITIONS_DIRECTORY, rf"\d+\.json{_PARTIAL}")
SHARDS = _file("shards.txt", POSITIONS_DIRECTORY, "train.py", "name, size and checksum of the training shards' ends")
# Runs of format 1 kept iterators there; they are deleted with their run.
ITERATORS = Item("iterators over the data", "train.py of format 1", rf"{POSITIONS_DIRECTORY}/worker-\d+", r"\d+")
# The weights of the highest GAP so far are a run's directory of their own, which eval.py and inference.py take.
BEST_RUN = tuple(replace(item, folder=BEST_DIRECTORY) for item in (CHECKPOINTS, CHECKPOINT_NAMES, CALIBRATION, CONFIG))
BEST_EVALUATION = _file("metrics.json", BEST_DIRECTORY, "train.py", "how good the best weights are")
# Written before the weights that it belongs to: whichever weights are there, their evaluation is.
BEST_CANDIDATE = Item("the same, by step", "train.py", BEST_DIRECTORY, rf"metrics-\d+\.json{_PARTIAL}")
EVALUATION = _file("metrics.json", EVALUATION_DIRECTORY, "eval.py, train.py", "the newest evaluation")
HISTORY = _file("history.jsonl", EVALUATION_DIRECTORY, "eval.py, train.py", "every evaluation, one per line")
CLASS_TABLE = _file("per_class_ap.csv", EVALUATION_DIRECTORY, "eval.py", "the newest evaluation, class by class")
RELIABILITY = _file("reliability.svg", EVALUATION_DIRECTORY, "tools.calibrate", "the reliability diagram")
PROFILES = Item("profiles of some steps", "train.py", "plugins/profile/.+", r".+\.xplane\.pb")
CLASS_WEIGHTS = _file("class_weights.tsv", EVALUATION_DIRECTORY, "eval.py", "classes as points, for TensorBoard")
PROJECTED_CLASSES = _file("classes.tsv", EVALUATION_DIRECTORY, "eval.py", "what is known of each of these points")
PROJECTOR = _file("projector_config.pbtxt", EVALUATION_DIRECTORY, "eval.py", "tells TensorBoard of both")
EVALUATION_EVENTS = replace(EVENTS, folder=EVALUATION_DIRECTORY, writer="eval.py")
OF_BEST_RUN = tuple(
    replace(item, folder=f"{BEST_DIRECTORY}/{EVALUATION_DIRECTORY}")
    for item in (
        EVALUATION,
        HISTORY,
        CLASS_TABLE,
        RELIABILITY,
        CLASS_WEIGHTS,
        PROJECTED_CLASSES,
        PROJECTOR,
        EVALUATION_EVENTS,
    )
)

TABLE = (
    CHECKPOINTS,
    CHECKPOINT_NAMES,
    CALIBRATION,
    LOCK,
    EVENTS,
    POSITIONS,
    SHARDS,
    ITERATORS,
    *BEST_RUN,
    BEST_EVALUATION,
    BEST_CANDIDATE,
    EVALUATION,
    HISTORY,
    CLASS_TABLE,
    RELIABILITY,
    PROFILES,
    CLASS_WEIGHTS,
    PROJECTED_CLASSES,
    PROJECTOR,
    EVALUATION_EVENTS,
    *OF_BEST_RUN,
    CONFIG,
)


def join(directory: str, *names: str) -> str:
    """Joins path names with slashes, which every storage scheme understands."""
    return "/".join([directory.rstrip("/"), *filter(None, names)])


def paths_of_run(train_dir: str) -> list[str]:
    """Returns the paths of all that has the name of something a run writes.

    `config.json` is the last, because it marks the directory as a run: who deletes in this order and is killed can go
    on.
    """
    paths = [path for item in TABLE for path in item.find(train_dir)]
    return sorted(paths, key=lambda path: path == CONFIG.path(train_dir))


def is_half_written(name: str) -> bool:
    """Tells whether a name of the table is that of a file before it is whole; some are of TensorFlow."""
    return re.search(rf"{PARTIAL}|_temp$|^checkpoint\.tmp", name) is not None


def leftovers(train_dir: str) -> list[str]:
    """Returns the paths of what killed programs left half-written in a run's directory, and nobody writes now.

    Call it while the run is locked: then no other `train.py` writes it. `eval.py` may: what another machine's process
    began in its folder stays.
    """
    left = []
    for item in TABLE:
        is_train_py_alone = item.folder != EVALUATION_DIRECTORY
        for path in item.find(train_dir):
            name = path.rpartition("/")[2]
            if is_half_written(name):
                gone = is_abandoned(name)
                left += [path] if gone or (gone is None and is_train_py_alone) else []
    for folder in (train_dir, join(train_dir, BEST_DIRECTORY)):
        complete = {path.rpartition("/")[2] for path in all_checkpoints(folder)}
        data = names_in(folder, rf"{CHECKPOINT_PREFIX}-\d+\.data-\d+-of-\d+")
        left += [join(folder, name) for name in data if name.partition(".")[0] not in complete]
    return left


def folders_of_run(train_dir: str) -> list[str]:
    """Returns the paths of all folders that runs make, those in others first."""
    paths = {item.folder for item in TABLE if item.folder}
    paths |= {path.rpartition("/")[0] for path in paths} - {""}  # of plugins/profile/TIME also plugins/profile
    folders = {folder for path in paths for folder in _folders(train_dir, path)}
    folders |= {join(train_dir, name) for name in top_folders() if tf.io.gfile.isdir(join(train_dir, name))}
    return sorted(folders, key=len, reverse=True)


def top_folders() -> list[str]:
    """Returns the names of the folders that a run makes in its directory."""
    return sorted({item.folder.partition("/")[0] for item in TABLE if item.folder})


def save_config(train_dir: str, config: RunConfig) -> None:
    """Writes the description of a run into its directory, which is made if need be.

    Raises:
        UserError: if the directory cannot be made or written to.
    """
    make_directory(train_dir)
    write_text(CONFIG.path(train_dir), config.to_json())


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
    """Reads the configuration of a run whose model and loss this version can build.

    Raises:
        UserError: as `check_name` and `read_config` do, or if a hyper-parameter is missing or unknown.
    """
    check_name(train_dir)
    config = read_config(train_dir)
    config.check_hyper_parameters(CONFIG.path(train_dir))
    return config


def read_config(train_dir: str) -> RunConfig:
    """Reads the configuration of a run, which may be of a model that has changed since.

    Raises:
        UserError: if the directory holds no run, or its configuration cannot be read.
    """
    path = CONFIG.path(train_dir)
    if not has_config(train_dir):
        raise UserError(
            f"train_dir={train_dir} holds no run: it has no {CONFIG.name}. Give the one that train.py was given."
        )
    try:
        text = read_bytes(path).decode()
    except ValueError as error:
        raise UserError(
            f"{path} is not the configuration of a run: {error}. It is written by train.py; "
            "restore it, or train into another --train_dir."
        ) from error
    return RunConfig.from_json(text, path)


def check_name(train_dir: str) -> None:
    """Checks that a run's checkpoints can be read in a directory of that name, and no others are taken for them.

    Raises:
        UserError: names the character that TensorFlow would take for a pattern.
    """
    bad = [character for character in train_dir if character in _PATTERN_CHARACTERS]
    if bad:
        raise UserError(
            f"train_dir={train_dir} has a {bad[0]} in its name, which TensorFlow takes for a pattern of files: it "
            "would not find the run's checkpoints, or delete those of another run. Choose another name; a run that is "
            "there already can be renamed."
        )


def has_config(train_dir: str) -> bool:
    """Tells whether a directory has the description of a run."""
    return bool(tf.io.gfile.exists(CONFIG.path(train_dir)))


def newest_checkpoint(train_dir: str) -> str | None:
    """Returns the path of a run's newest complete checkpoint, without an ending, or None.

    The file `checkpoint`, which names it for other programs of TensorFlow, is not asked: it may be damaged.
    """
    return max(all_checkpoints(train_dir), key=checkpoint_step, default=None)


def all_checkpoints(train_dir: str) -> list[str]:
    """Returns the paths of all checkpoints of a run whose index is there, which is written last, oldest first."""
    names = names_in(train_dir, rf"{CHECKPOINT_PREFIX}-\d+\.index")
    return sorted((join(train_dir, name.removesuffix(".index")) for name in names), key=checkpoint_step)


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
    return [join(directory, file) for file in names_in(directory, rf"{re.escape(name)}\.(index|data-\d+-of-\d+)")]


def format_checkpoint_names(names: Sequence[str]) -> str:
    """Returns the text of the file `checkpoint` for checkpoints in its folder, oldest first."""
    lines = [f'model_checkpoint_path: "{names[-1]}"', *(f'all_model_checkpoint_paths: "{name}"' for name in names)]
    return "\n".join(lines) + "\n"


def evaluation_directory(train_dir: str) -> str:
    """Returns where the evaluations of a run are kept."""
    return join(train_dir, EVALUATION_DIRECTORY)


def new_checkpoints(train_dir: str, seconds_between_looks: float) -> Iterator[str]:
    """Yields each new checkpoint of a run once, the newest only, and sleeps while there is none."""
    last = None
    while True:
        newest = newest_checkpoint(train_dir)
        if newest is not None and newest != last:
            last = newest
            yield newest
        else:
            time.sleep(seconds_between_looks)
