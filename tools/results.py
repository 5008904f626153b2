"""Measures recipes on the real data and fills the table of docs/results.md: python tools/results.py [--only=NAME,...]

A recipe is a flag file recipes/<data>-<model>.flags. Each is trained through train.py and scored through eval.py, once
for each seed; every run becomes a line of docs/results.csv, and the table is made from these lines.
"""

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
from absl import flags

from yt8m import cli
from yt8m.errors import UserError

LOG = logging.getLogger("yt8m.results")

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "results"
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
        "evaluation": ("bal_train-*.tfrecord", "eval-*.tfrecord"),
        "validation": ("bal_train-0000[0-5]-*.tfrecord", "bal_train-0000[67]-*.tfrecord"),
    },
}
FOLDERS = {"video": "yt8m-2018-video", "audioset": "audioset"}
METRICS = ["gap", "hit_at_one", "map", "macro_ap"]


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of this program."""
    flags.DEFINE_list("only", [], "Recipes to measure, by name; all without it.", flag_values=values)
    flags.DEFINE_list("seeds", ["0", "1", "2"], "One run for each.", flag_values=values)
    flags.DEFINE_enum(
        "split",
        "evaluation",
        ["evaluation", "validation"],
        "validation: train on a part of the training shards and score the rest, to choose settings.",
        flag_values=values,
    )


def main(values: flags.FlagValues) -> None:
    """Measures recipes and rewrites the table."""
    data = real_data()
    recipes = sorted(path.stem for data_set in SPLITS for path in ROOT.glob(f"recipes/{data_set}-*.flags"))
    for name in set(values.only) - set(recipes):
        raise UserError(f"--only={name}: there is no recipes/{name}.flags. Known: {', '.join(recipes)}.")
    for name in values.only or recipes:
        for seed in values.seeds:
            measure(name, seed, values.split, data)
    write_table()


def real_data() -> Path:
    """The folder of real records.

    Raises:
        UserError: if the environment does not name one.
    """
    folder = Path(os.environ.get("YT8M_REAL_DATA") or "-")
    if not folder.is_dir():
        raise UserError("YT8M_REAL_DATA is not set to a folder. Lay out the real records there as docs/data.md says.")
    return folder


def measure(name: str, seed: str, split: str, data: Path) -> None:
    """Trains and scores one recipe with one seed, and adds a line to docs/results.csv."""
    data_set = name.split("-")[0]
    train_pattern, eval_pattern = (
        ",".join(str(data / FOLDERS[data_set] / pattern) for pattern in patterns.split(","))
        for patterns in SPLITS[data_set][split]
    )
    run = RUNS / f"{name}-{split}-{seed}"
    recipe = f"--flagfile={ROOT / 'recipes' / name}.flags"
    start = time.monotonic()
    run_program(
        "train.py",
        recipe,
        f"--train_data_pattern={train_pattern}",
        f"--seed={seed}",
        f"--train_dir={run}",
        "--start_new_model",
    )
    seconds = time.monotonic() - start
    run_program("eval.py", f"--eval_data_pattern={eval_pattern}", f"--train_dir={run}", "--run_once", "--macro")
    metrics = json.loads((run / "eval" / "metrics.json").read_text())
    line = {"recipe": name, "split": split, "seed": seed, "train_seconds": round(seconds)}
    add_line(line | {key: round(metrics[key], 5) for key in METRICS} | {"steps": metrics["global_step"]})
    LOG.info("%s seed %s: GAP %.4f after %.0f s", name, seed, metrics["gap"], seconds)


def run_program(program: str, *arguments: str) -> None:
    """Runs one of the programs as a user would."""
    done = subprocess.run(
        [sys.executable, program, *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise UserError(f"{program} {' '.join(arguments)} ended with status {done.returncode}: {done.stderr[-2000:]}")


def add_line(line: dict) -> None:
    """Adds a run to docs/results.csv, in place of an older one of the same recipe, split and seed."""
    path = ROOT / "docs" / "results.csv"
    lines = pd.DataFrame([line]).astype({"seed": str})
    if path.exists():
        lines = pd.concat([pd.read_csv(path, dtype={"seed": str}), lines])
    keys = ["recipe", "split", "seed"]
    lines.drop_duplicates(keys, keep="last").sort_values(keys).to_csv(path, index=False)


def write_table() -> None:
    """Rewrites the table of docs/results.md from docs/results.csv."""
    lines = pd.read_csv(ROOT / "docs" / "results.csv")
    path = ROOT / "docs" / "results.md"
    head, _, rest = path.read_text().partition(TABLE_START)
    _, _, tail = rest.partition(TABLE_END)
    rows = ["| recipe | runs | GAP | Hit@1 | MAP | macro AP | steps | training, s |", "| --- " * 8 + "|"]
    for name, runs in lines[lines["split"] == "evaluation"].groupby("recipe"):
        cells = [f"[{name}](../recipes/{name}.flags)", str(len(runs)), *(spread(runs[metric]) for metric in METRICS)]
        cells += [f"{runs['steps'].median():.0f}", f"{runs['train_seconds'].median():.0f}"]
        rows.append(f"| {' | '.join(cells)} |")
    path.write_text("\n".join([f"{head}{TABLE_START}", *rows, f"{TABLE_END}{tail}"]))


def spread(values: pd.Series) -> str:
    """Mean and standard deviation over the seeds."""
    return f"{values.mean():.4f}" + (f" ± {values.std():.4f}" if len(values) > 1 else "")


if __name__ == "__main__":
    cli.run_program(main, define_flags)
