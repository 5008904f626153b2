"""Measures recipes on the real data and fills the table of docs/results.md: python -m tools.results [--only=NAME,...]

A recipe is a flag file recipes/<data>-<model>.flags. Each is trained through train.py and scored through eval.py, once
for each seed; every run becomes a line of docs/results.csv, and the table is made from these lines.
"""

import logging

import pandas as pd
from absl import flags

from tools.measuring import (
    METRICS,
    ROOT,
    SPLITS,
    add_line,
    check_names,
    define_measuring_flags,
    replace_table,
    spread,
    train_and_score,
)
from yt8m import cli

LOG = logging.getLogger("yt8m.results")

RUNS = ROOT / "runs" / "results"
LINES = ROOT / "docs" / "results.csv"


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of this program."""
    flags.DEFINE_list("only", [], "Recipes to measure, by name; all without it.", flag_values=values)
    define_measuring_flags(values)


def main(values: flags.FlagValues) -> None:
    """Measures recipes and rewrites the table."""
    recipes = sorted(path.stem for data_set in SPLITS for path in ROOT.glob(f"recipes/{data_set}-*.flags"))
    check_names(values.only, recipes)
    for name in values.only or recipes:
        for seed in values.seeds:
            measure(name, seed, values.split)
    write_table()


def measure(name: str, seed: str, split: str) -> None:
    """Trains and scores one recipe with one seed, and adds a line to docs/results.csv."""
    run = RUNS / f"{name}-{split}-{seed}"
    recipe = f"--flagfile={ROOT / 'recipes' / name}.flags"
    measured = train_and_score(run, name.split("-")[0], split, seed, recipe)
    add_line(LINES, {"recipe": name, "split": split, "seed": seed} | measured, ["recipe", "split", "seed"])
    LOG.info("%s seed %s: GAP %.4f after %.0f s", name, seed, measured["gap"], measured["train_seconds"])


def write_table() -> None:
    """Rewrites the table of docs/results.md from docs/results.csv."""
    lines = pd.read_csv(LINES)
    rows = ["| recipe | runs | GAP | Hit@1 | MAP | macro AP | steps | training, s |", "| --- " * 8 + "|"]
    for name, runs in lines[lines["split"] == "evaluation"].groupby("recipe"):
        cells = [f"[{name}](../recipes/{name}.flags)", str(len(runs)), *(spread(runs[metric]) for metric in METRICS)]
        cells += [f"{runs['steps'].median():.0f}", f"{runs['train_seconds'].median():.0f}"]
        rows.append(f"| {' | '.join(cells)} |")
    replace_table(ROOT / "docs" / "results.md", rows)


if __name__ == "__main__":
    cli.run_program(main, define_flags)
