"""Measures the sensitivity of rank pooling to its settings on AudioSet, and writes docs/notes/rank-pooling.md.

    YT8M_REAL_DATA=... python -m tools.rankpool_sensitivity [--only=NAME,...] [--seeds=0]

A row changes one setting of RankPoolModel, once for the stored features and once for a projection of them that is
trained through the pooling. Every run adds a line to docs/rankpool_sensitivity.csv, from which the table is computed.
"""

import logging

import pandas as pd
from absl import flags

from tools.measuring import ROOT, add_line, check_names, replace_table, spread, train_and_score
from yt8m.cli import program
from yt8m.progress import with_progress

LOG = logging.getLogger("yt8m.rankpool_sensitivity")

RUNS = ROOT / "runs" / "rankpool_sensitivity"
LINES = ROOT / "docs" / "rankpool_sensitivity.csv"

COMMON = (
    "--frame_features",
    "--model=RankPoolModel",
    "--feature_names=audio_embedding",
    "--feature_sizes=128",
    "--num_classes=527",
    "--batch_size=256",
    "--num_epochs=8",
    "--base_learning_rate=0.01",
    "--learning_rate_schedule=cosine",
    "--learning_rate_warmup=0.05",
    "--video_level_classifier_model=LogisticModel",
    "--hparams=classifier.dropout=0.3",
)
FEATURES: dict[str, tuple[str, ...]] = {
    "fixed": (),
    "trained": (
        "--hparams=add_batch_norm=True",
        "--hparams=projection_size=512",
        "--base_learning_rate=0.003",
    ),
}
GRADIENT_ROW = "diagonal gradient"
METRICS_SHOWN = ("gap", "macro_ap")
# What a row is called, and the settings that make it.
ROWS: dict[str, tuple[str, ...]] = {
    "as it comes: c = 1, epsilon = 0.1, running mean, unit length, forward": (),
    "c = 0.001": ("c=0.001",),
    "c = 0.01": ("c=0.01",),
    "c = 0.1": ("c=0.1",),
    "c = 10": ("c=10.0",),
    "c = 1000": ("c=1000.0",),
    "c learned, from 1": ("learns_c=True",),
    "epsilon = 0": ("epsilon=0.0",),
    "epsilon = 1": ("epsilon=1.0",),
    "without running mean": ("takes_running_mean=False",),
    "without unit length": ("takes_unit_length=False",),
    "signed square root of the running means": ("takes_frame_sqrt=True",),
    "without signed square root of the descriptor": ("takes_pooled_sqrt=False",),
    "reverse": ("direction=reverse",),
    "forward and reverse": ("direction=both",),
    "fixed weights (Bilen et al.) in place of the regression": ("method=approximate",),
    GRADIENT_ROW: ("gradient=diagonal",),
}


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of this program."""
    flags.DEFINE_list("only", [], "Features to measure: fixed, trained; both without it.", flag_values=values)
    flags.DEFINE_list("seeds", ["0"], "One run for each.", flag_values=values)


def main(values: flags.FlagValues) -> None:
    """Trains and scores every row once per seed, and rewrites the table after each run.

    Raises:
        UserError: if `--only` names unknown features, or a program fails.
    """
    check_names(values.only, list(FEATURES))
    rows = [(features, row) for features in values.only or FEATURES for row in ROWS if is_measured(features, row)]
    runs = [(features, row, seed) for features, row in rows for seed in values.seeds]
    for features, row, seed in with_progress(runs, "training and scoring", len(runs)):
        measure(features, row, seed)
        write_table()


def is_measured(features: str, row: str) -> bool:
    """Returns whether a row is measured for these features.

    With `fixed` features all rows are measured but that of the gradient, which has no influence on them; with `trained`
    features only the first row and those of c and of the gradient.
    """
    about_training = not ROWS[row] or ROWS[row][0].split("=")[0] in ("c", "learns_c", "gradient")
    return about_training if features == "trained" else row != GRADIENT_ROW


def measure(features: str, row: str, seed: str) -> None:
    """Trains and scores one row with one seed, and adds a line to docs/rankpool_sensitivity.csv."""
    run = RUNS / f"{features}-{list(ROWS).index(row)}-{seed}"
    settings = (f"--hparams={setting}" for setting in ROWS[row])
    measured = train_and_score(run, "audioset", "validation", seed, *COMMON, *FEATURES[features], *settings)
    add_line(LINES, {"features": features, "row": row, "seed": seed} | measured, ["features", "row", "seed"])
    LOG.info("%s, %s: GAP %.4f after %d s", features, row, measured["gap"], measured["train_seconds"])


def write_table() -> None:
    """Rewrites the table of docs/notes/rank-pooling.md from docs/rankpool_sensitivity.csv."""
    lines = pd.read_csv(LINES)
    names = [f"{features}, {metric}" for features in FEATURES for metric in ("GAP", "macro AP")]
    rows = [f"| RankPoolModel | {' | '.join(names)} |", "| --- " * 5 + "|"]
    for row in ROWS:
        cells = [spread(runs[metric]) if len(runs) else "" for runs in _runs_of(lines, row) for metric in METRICS_SHOWN]
        rows.append(f"| {row} | {' | '.join(cells)} |")
    replace_table(ROOT / "docs" / "notes" / "rank-pooling.md", rows)


def _runs_of(lines: pd.DataFrame, row: str) -> list[pd.DataFrame]:
    return [lines[(lines["row"] == row) & (lines["features"] == features)] for features in FEATURES]


if __name__ == "__main__":
    program.parse_flags(define_flags)
    program.run(main)
