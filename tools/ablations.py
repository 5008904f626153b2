"""Repeats the papers' comparisons of architectures on AudioSet and writes docs/ablations.md, rows in the papers' order.

    YT8M_REAL_DATA=... python -m tools.ablations [--only=NAME,...] [--seeds=0,1,2] [--split=validation]

A row is a set of flags for train.py, common to all but for what the row is about. Every run becomes a line of
docs/ablations.csv, and the tables are made from these lines. --trial_epochs=N trains for N epochs, and records nothing.
"""

import logging
from dataclasses import dataclass

import pandas as pd
from absl import flags

from tools.measuring import ROOT, add_line, check_names, define_measuring_flags, replace_table, spread, train_and_score
from yt8m import cli

LOG = logging.getLogger("yt8m.ablations")

RUNS = ROOT / "runs" / "ablations"
LINES = ROOT / "docs" / "ablations.csv"

COMMON = (
    "--frame_features",
    "--feature_names=audio_embedding",
    "--feature_sizes=128",
    "--num_classes=527",
    "--batch_size=256",
    "--num_epochs=15",
    "--base_learning_rate=0.001",
    "--learning_rate_schedule=cosine",
    "--learning_rate_warmup=0.05",
)
# 10 frames of 128 features and 22,160 clips: an eighth of the papers' clusters, half of their hidden layer, dropout.
_MOE = ("--moe_l2=1e-6", "--hparams=classifier.dropout=0.5")
_POOLED = ("--iterations=0", "--hidden_size=512", *_MOE)
_BAG = (*_POOLED, "--dbof_cluster_size=512", "--dbof_relu=False")
_FISHER = ("--model=NetFVModelLF", *_POOLED, "--fv_cluster_size=16", "--fv_relu=False", "--fv_couple_weights=False")
_VLAD = ("--model=NetVLADModelLF", *_POOLED, "--netvlad_cluster_size=32", "--netvlad_relu=False")
# As recipes/audioset-gru.flags and audioset-lstm.flags have them: recurrent models learn by heart sooner.
_RECURRENT = (
    "--batch_size=128",
    "--base_learning_rate=0.003",
    "--moe_l2=1e-6",
    "--hparams=unit_frames=False",
    "--hparams=input_batch_norm=True",
    "--hparams=input_dropout=0.2",
    "--hparams=dropout=0.3",
    "--hparams=classifier.dropout=0.65",
)
_KMIEC = (*_POOLED, "--netvlad_cluster_size=32")
_GATED = ("--gating", "--moe_prob_gating")
_AVERAGE = (
    "--model=AveragePoolModel",
    "--base_learning_rate=0.01",  # there is one layer only
    "--hparams=takes_unit_length=False",
    "--hparams=takes_pooled_sqrt=False",
)

CONFIGURATIONS: dict[str, tuple[str, ...]] = {
    "average-logistic": (*_AVERAGE, "--video_level_classifier_model=LogisticModel", "--hparams=classifier.dropout=0.5"),
    "average-moe-cg": (*_AVERAGE, *_MOE, "--moe_prob_gating"),
    "lstm": ("--model=LstmModel", "--lstm_cells=256", "--hparams=state=all", *_RECURRENT),
    "gru": ("--model=GruModel", "--gru_cells=256", *_RECURRENT),
    "softdbof": ("--model=SoftDbofModelLF", *_BAG),
    "netfv": _FISHER,
    "netrvlad": (*_VLAD, "--lightvlad"),
    "netvlad": _VLAD,
    "gated-dbof": ("--model=GatedDbofModelLF", *_BAG),
    "gated-netfv": (*_FISHER, *_GATED),
    "gated-netrvlad": (*_VLAD, "--lightvlad", *_GATED),
    "gated-netvlad": (*_VLAD, *_GATED),
    "cg-after-pooling": (*_VLAD, "--gating"),
    "cg-after-moe": (*_VLAD, "--moe_prob_gating"),
    "glu-after-pooling": (*_VLAD, *_GATED, "--hparams=gating_form=glu"),
    "second-order": ("--model=SecondOrderVLADModel", *_KMIEC, "--hparams=second_cluster_size=8"),
    "attention-enhanced": ("--model=NetVladV1", *_KMIEC),
    "attention-similarity": ("--model=NetVladV2", *_KMIEC),
}


@dataclass(frozen=True)
class Table:
    """A table of a paper.

    Attributes:
        title: what it compares.
        source: the paper, and what its numbers are.
        rows: (the row as the paper names it, the configuration here, the paper's GAP in % or "" where it has none).
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
            ("Gated Soft-DBoF (4096 clusters)", "gated-dbof", "82.0"),
            ("Gated NetFV (128 clusters)", "gated-netfv", "83.0"),
            ("Gated NetRVLAD (256 clusters)", "gated-netrvlad", "83.1"),
            ("Gated NetVLAD (256 clusters)", "gated-netvlad", "83.2"),
        ),
    ),
    Table(
        "Where the gate stands",
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
    flags.DEFINE_integer(
        "trial_epochs", 0, "Train for so many epochs and record nothing; 0: in earnest.", flag_values=values
    )
    define_measuring_flags(values)


def main(values: flags.FlagValues) -> None:
    """Measures configurations and rewrites the tables."""
    check_names(values.only, list(CONFIGURATIONS))
    for name in values.only or CONFIGURATIONS:
        for seed in values.seeds:
            measure(name, seed, values.split, values.trial_epochs)
    if not values.trial_epochs:
        write_tables()


def measure(name: str, seed: str, split: str, trial_epochs: int = 0) -> None:
    """Trains and scores one configuration with one seed, and adds a line to docs/ablations.csv unless it is a trial."""
    trial = (f"--num_epochs={trial_epochs}",) if trial_epochs else ()
    run = RUNS / f"{name}-{split}-{seed}{'-trial' if trial else ''}"
    measured = train_and_score(run, "audioset", split, seed, *COMMON, *CONFIGURATIONS[name], *trial)
    if not trial:
        add_line(LINES, {"name": name, "split": split, "seed": seed} | measured, ["name", "split", "seed"])
    LOG.info("%s seed %s: %s", name, seed, measured)


def write_tables() -> None:
    """Rewrites the tables of docs/ablations.md from docs/ablations.csv."""
    lines = pd.read_csv(LINES)
    runs = dict(list(lines[lines["split"] == "evaluation"].groupby("name")))
    parts = [row for table in TABLES for row in table_rows(table, runs)]
    replace_table(ROOT / "docs" / "ablations.md", parts)


def table_rows(table: Table, runs: dict[str, pd.DataFrame]) -> list[str]:
    """Writes a table in Markdown; a configuration that was not measured leaves its cells empty."""
    rows = [f"\n### {table.title}\n", f"{table.source}.\n"]
    rows += ["| row | paper, GAP % | here, GAP | macro AP | Hit@1 | runs | training, s |", "| --- " * 7 + "|"]
    for label, name, published in table.rows:
        cells = [label, published or "not given", *_measured_cells(runs.get(name))]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _measured_cells(runs: pd.DataFrame | None) -> list[str]:
    if runs is None:
        return [""] * 5
    scores = [spread(runs[metric]) for metric in ("gap", "macro_ap", "hit_at_one")]
    return [*scores, str(len(runs)), f"{runs['train_seconds'].median():.0f}"]


if __name__ == "__main__":
    cli.run_program(main, define_flags)
