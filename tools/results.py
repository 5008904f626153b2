"""Measures recipes on the real data and fills the table of docs/results.md: python -m tools.results [--only=NAME,...]

A recipe is a flag file recipes/<data>-<model>.flags. Each is trained with train.py and scored with eval.py, once per
seed; every run adds a line to docs/results.csv. With --speed, the number of parameters and the examples per second of
a short training are added to docs/speed.csv; the machine must be idle then. The table and the figure are computed from
both files, and the recipes of published runs quote the scores of their architectures.
"""

import logging
import re

import matplotlib.pyplot as plt
import pandas as pd
from absl import flags
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from tools.labels import label_points
from tools.measuring import (
    METRICS,
    ROOT,
    SPLITS,
    add_line,
    check_names,
    cost_in_log,
    define_measuring_flags,
    replace_table,
    spread,
    train,
    train_and_score,
)
from yt8m.cli import program
from yt8m.progress import with_progress

LOG = logging.getLogger("yt8m.results")

RUNS = ROOT / "runs" / "results"
LINES = ROOT / "docs" / "results.csv"
AUDIOSET_CLIPS = 22_160  # of bal_train
SPEEDS = ROOT / "docs" / "speed.csv"
STEPS_OF_A_SPEED = 100
QUOTED = re.compile(r"(audioset-[a-z-]+)\.flags, GAP ([\d.]+\d)")


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of this program."""
    flags.DEFINE_list("only", [], "Recipes to measure, by name; all without it.", flag_values=values)
    flags.DEFINE_boolean("speed", False, "Measure speeds instead of scores.", flag_values=values)
    define_measuring_flags(values)


def main(values: flags.FlagValues) -> None:
    """Trains and scores recipes once per seed, or measures their speed, and rewrites table, figure and quotations.

    Raises:
        UserError: if `--only` names an unknown recipe, or a program fails.
    """
    recipes = sorted(path.stem for data_set in SPLITS for path in ROOT.glob(f"recipes/{data_set}-*.flags"))
    check_names(values.only, recipes)
    names = values.only or recipes
    if values.speed:
        for name in with_progress(names, "measuring speed", len(names)):
            measure_speed(name)
    else:
        runs = [(name, seed) for name in names for seed in values.seeds]
        for name, seed in with_progress(runs, "training and scoring", len(runs)):
            measure(name, seed, values.split)
    write_table()
    scores_figure().savefig(ROOT / "docs" / "results.svg", metadata={"Date": None, "Creator": None})
    quote_scores()


def measure(name: str, seed: str, split: str) -> None:
    """Trains and scores one recipe with one seed, and adds a line to docs/results.csv."""
    run = RUNS / f"{name}-{split}-{seed}"
    recipe = f"--flagfile={ROOT / 'recipes' / name}.flags"
    measured = train_and_score(run, name.split("-")[0], split, seed, recipe)
    add_line(LINES, {"recipe": name, "split": split, "seed": seed} | measured, ["recipe", "split", "seed"])
    LOG.info("%s seed %s: GAP %.4f after %.0f s", name, seed, measured["gap"], measured["train_seconds"])


def measure_speed(name: str) -> None:
    """Trains one recipe for 100 steps, and adds its parameters and examples per second to docs/speed.csv."""
    recipe = f"--flagfile={ROOT / 'recipes' / name}.flags"
    log = train(RUNS / f"{name}-speed", name.split("-")[0], "evaluation", recipe, f"--max_steps={STEPS_OF_A_SPEED}")
    add_line(SPEEDS, {"recipe": name} | cost_in_log(log), ["recipe"])


def write_table() -> None:
    """Rewrites the table of docs/results.md from docs/results.csv and docs/speed.csv."""
    columns = ["recipe", "parameters", "runs", "GAP", "Hit@1", "MAP", "macro AP", "steps", "examples/s"]
    rows = [f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
    speeds = known_speeds()
    for name, runs in evaluated_runs().groupby("recipe"):
        weights, rate = (f"{value:,}" for value in speeds.loc[name]) if name in speeds.index else ("", "")
        scores = [spread(runs[metric]) for metric in METRICS]
        cells = [f"[{name}](../recipes/{name}.flags)", weights, str(len(runs)), *scores]
        rows.append(f"| {' | '.join([*cells, str(round(runs['steps'].median())), rate])} |")
    replace_table(ROOT / "docs" / "results.md", rows)


def evaluated_runs() -> pd.DataFrame:
    """Returns the lines of docs/results.csv with `split` = evaluation, one row per run."""
    lines = pd.read_csv(LINES)
    return lines[lines["split"] == "evaluation"]


def known_speeds() -> pd.DataFrame:
    """Returns docs/speed.csv, indexed by recipe."""
    return pd.read_csv(SPEEDS).set_index("recipe")


def scores_figure() -> Figure:
    """Draws GAP of the AudioSet models against their number of parameters and their training time in seconds."""
    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "results", "font.size": 8}
    runs = evaluated_runs()
    models = runs[runs["recipe"].str.startswith("audioset-")].groupby("recipe").mean(numeric_only=True)
    models = models.join(known_speeds(), how="inner")
    models["cost"] = [training_examples(recipe) for recipe in models.index] / models["examples_per_second"]
    figure, panels = plt.subplots(1, 2, figsize=(13, 10), dpi=72, sharey=True, layout="constrained")
    for panel, column in zip(panels, ("parameters", "cost"), strict=True):
        panel.scatter(models[column], models["gap"], s=12)
        panel.margins(x=0.22, y=0.08)
        panel.set(xscale="log")
        panel.xaxis.set(
            major_locator=LogLocator(subs=(1, 2, 5)), major_formatter=EngFormatter(sep=""), minor_locator=NullLocator()
        )
        panel.grid(alpha=0.3)
    panels[0].set(xlabel="parameters", ylabel="GAP, AudioSet")
    panels[1].set(xlabel="training on two cores, s")
    names = [recipe.removeprefix("audioset-") for recipe in models.index]
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for panel, column in zip(panels, ("parameters", "cost"), strict=True):
        label_points(panel, models[column], models["gap"], names)
    return figure


def quote_scores() -> None:
    """Puts GAP into the comments of recipes/yt8m-*.flags that say "audioset-<model>.flags, GAP <number>"."""
    scores = evaluated_runs().groupby("recipe")["gap"].mean()

    def measured(quote: re.Match[str]) -> str:
        return f"{quote[1]}.flags, GAP {scores[quote[1]]:.4f}" if quote[1] in scores else quote[0]

    for path in ROOT.glob("recipes/yt8m-*.flags"):
        path.write_text(QUOTED.sub(measured, path.read_text()))


def training_examples(recipe: str) -> int:
    """Returns the number of training examples of an AudioSet recipe: clips times epochs."""
    epochs = re.search(r"--num_epochs=(\d+)", (ROOT / "recipes" / f"{recipe}.flags").read_text())
    return AUDIOSET_CLIPS * int(epochs[1] if epochs else 0)


if __name__ == "__main__":
    program.parse_flags(define_flags)
    program.run(main)
