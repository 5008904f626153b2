"""Repeats the papers' comparisons of architectures on AudioSet and writes docs/ablations.md, rows in the papers' order.

    YT8M_REAL_DATA=... python -m tools.ablations [--only=NAME,...] [--seeds=0,1,2] [--split=validation]

A row is a recipe, unchanged or with some flags changed. Every run of a changed recipe adds a line to
docs/ablations.csv; runs of unchanged recipes are lines of docs/results.csv (tools/results.py). The tables are computed
from both files.
"""

import logging
from dataclasses import dataclass

import pandas as pd
from absl import flags

from tools import results
from tools.measuring import ROOT, add_line, check_names, define_measuring_flags, replace_table, spread, train_and_score
from yt8m.cli import program
from yt8m.progress import with_progress

LOG = logging.getLogger("yt8m.ablations")

RUNS = ROOT / "runs" / "ablations"
LINES = ROOT / "docs" / "ablations.csv"


@dataclass(frozen=True)
class Configuration:
    """A recipe, unchanged or with some flags changed.

    Attributes:
        recipe: the name of recipes/<recipe>.flags.
        changes: flags that override those of the recipe.
    """

    recipe: str
    changes: tuple[str, ...] = ()

    def arguments(self) -> tuple[str, ...]:
        """Returns the flags of train.py, apart from those of the data and the directory."""
        return (f"--flagfile={ROOT / 'recipes' / self.recipe}.flags", *self.changes)


_PLAIN = ("--gating=False", "--moe_prob_gating=False")
_NETVLAD = "audioset-netvlad"

CONFIGURATIONS = {
    "average-logistic": Configuration("audioset-logistic"),
    "average-moe-cg": Configuration(
        "audioset-averagepool",
        (
            "--moe_prob_gating",
            "--hparams=projection_size=0",
            "--hparams=takes_unit_length=False",
            "--hparams=takes_pooled_sqrt=False",
            "--base_learning_rate=0.01",
            "--hparams=classifier.dropout=0.0",
        ),
    ),
    "lstm": Configuration("audioset-lstm"),
    "gru": Configuration("audioset-gru"),
    "softdbof": Configuration("audioset-softdbof", _PLAIN),
    "netfv": Configuration("audioset-netfv", _PLAIN),
    "netrvlad": Configuration("audioset-netrvlad", _PLAIN),
    "netvlad": Configuration(_NETVLAD, _PLAIN),
    "gated-softdbof": Configuration("audioset-softdbof"),
    "gated-dbof": Configuration("audioset-gated-dbof"),
    "gated-netfv": Configuration("audioset-netfv"),
    "gated-netrvlad": Configuration("audioset-netrvlad"),
    "gated-netvlad": Configuration(_NETVLAD),
    "cg-after-pooling": Configuration(_NETVLAD, ("--moe_prob_gating=False",)),
    "cg-after-moe": Configuration(_NETVLAD, ("--gating=False",)),
    "glu-after-pooling": Configuration(_NETVLAD, ("--hparams=gating_form=glu",)),
    "second-order": Configuration("audioset-second-order-vlad"),
    "attention-enhanced": Configuration("audioset-attention-enhanced-vlad"),
    "attention-similarity": Configuration("audioset-attention-similarity-vlad"),
}
CHANGED = [name for name, configuration in CONFIGURATIONS.items() if configuration.changes]


@dataclass(frozen=True)
class Table:
    """A table of a paper and the configurations that repeat its rows.

    Attributes:
        title: the heading in docs/ablations.md.
        source: the paper, and the videos that its GAP is measured on.
        rows: triples: the paper's name of the row, a key of CONFIGURATIONS, the paper's GAP in % or "" if it has none.
    """

    title: str
    source: str
    rows: tuple[tuple[str, str, str], ...]


TABLES = (
    Table(
        "Pooling, with and without context gating",
        "Miech, Laptev & Sivic 2017; GAP on their validation videos of YouTube-8M 2017",
        (
            ("Average pooling + logistic regression", "average-logistic", "71.4"),
            ("Average pooling + MoE + CG", "average-moe-cg", "74.1"),
            ("LSTM (2 layers)", "lstm", "81.7"),
            ("GRU (2 layers)", "gru", "82.0"),
            ("Soft-DBoF (4096 clusters)", "softdbof", "81.6"),
            ("NetFV (128 clusters)", "netfv", "82.2"),
            ("NetRVLAD (256 clusters)", "netrvlad", ""),
            ("NetVLAD (256 clusters)", "netvlad", "82.4"),
            ("Gated Soft-DBoF (4096 clusters)", "gated-softdbof", "82.0"),
            ("the same with the gate of their code, by the best frames", "gated-dbof", ""),
            ("Gated NetFV (128 clusters)", "gated-netfv", "83.0"),
            ("Gated NetRVLAD (256 clusters)", "gated-netrvlad", "83.1"),
            ("Gated NetVLAD (256 clusters)", "gated-netvlad", "83.2"),
        ),
    ),
    Table(
        "The place of the gate",
        "Miech, Laptev & Sivic 2017, NetVLAD (128 clusters); GAP on the same videos",
        (
            ("no gate", "netvlad", "82.2"),
            ("CG after pooling", "cg-after-pooling", "82.7"),
            ("CG after MoE", "cg-after-moe", ""),
            ("GLU after pooling, CG after MoE", "glu-after-pooling", "82.7"),
            ("CG after pooling, CG after MoE", "gated-netvlad", "83.0"),
        ),
    ),
    Table(
        "Attention and second-order statistics",
        "Kmiec, Bae & An 2018, table 1; GAP on the test videos of YouTube-8M 2018",
        (
            ("Gated NetVLAD (baseline)", "gated-netvlad", "87.0"),
            ("Second order", "second-order", "86.5"),
            ("Attention enhanced", "attention-enhanced", "85.6"),
            ("Attention-similarity NetVLAD", "attention-similarity", "86.7"),
        ),
    ),
)


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of this program."""
    flags.DEFINE_list("only", [], "Configurations to measure, by name; all without it.", flag_values=values)
    define_measuring_flags(values)


def main(values: flags.FlagValues) -> None:
    """Trains and scores configurations once per seed, and rewrites the tables.

    Raises:
        UserError: if `--only` names an unknown configuration, or a program fails.
    """
    check_names(values.only, CHANGED)
    runs = [(name, seed) for name in values.only or CHANGED for seed in values.seeds]
    for name, seed in with_progress(runs, "training and scoring", len(runs)):
        measure(name, seed, values.split)
    write_tables()


def measure(name: str, seed: str, split: str) -> None:
    """Trains and scores one configuration with one seed, and adds a line to docs/ablations.csv."""
    run = RUNS / f"{name}-{split}-{seed}"
    measured = train_and_score(run, "audioset", split, seed, *CONFIGURATIONS[name].arguments())
    add_line(LINES, {"name": name, "split": split, "seed": seed} | measured, ["name", "split", "seed"])
    LOG.info("%s seed %s: %s", name, seed, measured)


def write_tables() -> None:
    """Rewrites the tables of docs/ablations.md from docs/ablations.csv and docs/results.csv."""
    lines = pd.read_csv(LINES)
    runs = dict(list(lines[lines["split"] == "evaluation"].groupby("name")))
    recipes = dict(list(results.evaluated_runs().groupby("recipe")))
    runs |= {name: recipes[c.recipe] for name, c in CONFIGURATIONS.items() if not c.changes and c.recipe in recipes}
    parts = [row for table in TABLES for row in table_rows(table, runs)]
    replace_table(ROOT / "docs" / "ablations.md", parts)


def table_rows(table: Table, runs: dict[str, pd.DataFrame]) -> list[str]:
    """Returns the lines of a table in Markdown; a configuration that was not measured has empty cells.

    Args:
        table: the table of a paper.
        runs: by configuration, one row per run with the columns gap, macro_ap and hit_at_one.
    """
    rows = [f"\n### {table.title}\n", f"{table.source}.\n"]
    rows += ["| row | paper, GAP % | here, GAP | macro AP | Hit@1 | runs |", "| --- " * 6 + "|"]
    for label, name, published in table.rows:
        cells = [label, published or "not given", *_measured_cells(runs.get(name))]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _measured_cells(runs: pd.DataFrame | None) -> list[str]:
    if runs is None:
        return [""] * 4
    scores = [spread(runs[metric]) for metric in ("gap", "macro_ap", "hit_at_one")]
    return [*scores, str(len(runs))]


if __name__ == "__main__":
    program.parse_flags(define_flags)
    program.run(main)
