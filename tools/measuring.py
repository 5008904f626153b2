"""Shared by the programs that fill the tables of docs/: trains with train.py, scores with eval.py, on the real data."""

import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from absl import flags

from yt8m.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
TABLE_START, TABLE_END = "<!-- table -->", "<!-- end of table -->"

# data set -> split -> (training shards, evaluation shards)
SPLITS = {
    "video": {
        "evaluation": ("validate00[0-2]?.tfrecord,validate003[01].tfrecord", "validate003[2-9].tfrecord"),
        "validation": (
            "validate00[01]?.tfrecord,validate002[0-7].tfrecord",
            "validate002[89].tfrecord,validate003[01].tfrecord",
        ),
    },
    "audioset": {
        "evaluation": ("bal_train-*.tfrecord", "eval-0000[0-3]-*.tfrecord"),
        "validation": ("bal_train-0000[0-5]-*.tfrecord", "bal_train-0000[67]-*.tfrecord"),
    },
}
FOLDERS = {"video": "yt8m-2018-video", "audioset": "audioset"}
METRICS = ["gap", "hit_at_one", "map", "macro_ap"]


def define_measuring_flags(values: flags.FlagValues) -> None:
    """Defines the flags `--seeds` and `--split`."""
    flags.DEFINE_list("seeds", ["0", "1", "2"], "One run for each.", flag_values=values)
    flags.DEFINE_enum(
        "split",
        "evaluation",
        ["evaluation", "validation"],
        "validation: train on a part of the training shards and score the rest, to choose settings.",
        flag_values=values,
    )


def real_data() -> Path:
    """Returns the folder of the real records, from the environment variable YT8M_REAL_DATA.

    Raises:
        UserError: if the variable is not set to an existing folder.
    """
    folder = Path(os.environ.get("YT8M_REAL_DATA") or "-")
    if not folder.is_dir():
        raise UserError("YT8M_REAL_DATA is not set to a folder. Lay out the real records there as docs/data.md says.")
    return folder


def check_names(given: Sequence[str], known: Sequence[str]) -> None:
    """Checks that all names given to `--only` are known.

    Raises:
        UserError: if a name is not in `known`; the message lists those that are.
    """
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise UserError(f"--only={unknown[0]}: there is no such run. Known: {', '.join(known)}.")


def train_and_score(run: Path, data_set: str, split: str, seed: str, *train_flags: str) -> dict:
    """Trains and evaluates a model.

    Args:
        run: the directory of the run.
        data_set: a key of SPLITS, `video` or `audioset`.
        split: `evaluation` or `validation`.
        seed: the value of `--seed`.
        train_flags: further flags of train.py.

    Returns:
        `train_seconds`, the duration of train.py; the metrics of METRICS, rounded to 5 digits; `steps`.

    Raises:
        UserError: if a program fails, or YT8M_REAL_DATA is not set.
    """
    from yt8m.runs.directory import EVALUATION  # TensorFlow comes with it

    start = time.monotonic()
    train(run, data_set, split, f"--seed={seed}", *train_flags)
    seconds = time.monotonic() - start
    pattern = f"--eval_data_pattern={shards(data_set, SPLITS[data_set][split][1])}"
    run_program("eval.py", pattern, f"--train_dir={run}", "--run_once", "--macro")
    metrics = json.loads(Path(EVALUATION.path(str(run))).read_text())
    scores = {key: round(metrics[key], 5) for key in METRICS}
    return {"train_seconds": round(seconds)} | scores | {"steps": metrics["global_step"]}


def train(run: Path, data_set: str, split: str, *train_flags: str) -> str:
    """Runs train.py on the training shards of a split, with `run` as its directory, and returns its log."""
    pattern = f"--train_data_pattern={shards(data_set, SPLITS[data_set][split][0])}"
    return run_program("train.py", *train_flags, pattern, f"--train_dir={run}", "--start_new_model")


def shards(data_set: str, patterns: str) -> str:
    """Returns comma-separated `patterns` of shards with the path of the data set's folder before each."""
    return ",".join(str(real_data() / FOLDERS[data_set] / pattern) for pattern in patterns.split(","))


def cost_in_log(log: str) -> dict[str, int]:
    """Returns `parameters`, the number of trainable weights, and the median `examples_per_second` of train.py's log.

    The median is insensitive to the slow first steps.

    Raises:
        ValueError: if the log has no number of weights or no speed.
    """
    weights = re.search(r"([\d,]+) weights to train", log)
    rates = [float(rate) for rate in re.findall(r"Examples/sec: ([\d.]+)", log)]
    if weights is None or not rates:
        raise ValueError(f"No weights or no speed in the log: {log[-500:]}")
    return {
        "parameters": int(weights[1].replace(",", "")),
        "examples_per_second": round(statistics.median(rates)),
    }


def run_program(program: str, *arguments: str) -> str:
    """Runs one of the project's programs in a process of its own, and returns its standard error, which is its log.

    Raises:
        UserError: if the program ends with a status other than 0; the message has the end of its log.
    """
    done = subprocess.run(
        [sys.executable, program, *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise UserError(f"{program} {' '.join(arguments)} ended with status {done.returncode}: {done.stderr[-2000:]}")
    return done.stderr


def add_line(path: Path, line: dict, keys: Sequence[str]) -> None:
    """Adds a line to a CSV file, replaces an older line with equal values in the columns `keys`, and sorts by them.

    Args:
        path: the CSV file, created if it does not exist.
        line: the values by column name.
        keys: the names of the columns that identify a run.
    """
    lines = pd.DataFrame([line]).astype(str)
    if path.exists():
        lines = pd.concat([pd.read_csv(path, dtype=str), lines])
    lines.drop_duplicates(keys, keep="last").sort_values(list(keys)).to_csv(path, index=False)


def replace_table(path: Path, rows: Sequence[str]) -> None:
    """Replaces the lines of a Markdown file between the comments `table` and `end of table` by `rows`."""
    head, _, rest = path.read_text().partition(TABLE_START)
    _, _, tail = rest.partition(TABLE_END)
    path.write_text("\n".join([f"{head}{TABLE_START}", *rows, f"{TABLE_END}{tail}"]))


def spread(values: pd.Series) -> str:
    """Returns mean and standard deviation over the seeds, as "0.4053 ± 0.0012"; only the value for one seed."""
    return f"{values.mean():.4f}" + (f" ± {values.std():.4f}" if len(values) > 1 else "")
