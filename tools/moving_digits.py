"""Repeats the papers' comparisons on videos of moving digits, and writes their tables into docs/clips.md.

    python -m tools.moving_digits [--only=NAME,...] [--seeds=0,1,2] [--directory=runs/moving-digits]

The digits are scikit-learn's, pictures of 8 x 8 pixels. The classes come in pairs, of which one is the other played
backwards: what knows the frames of a video but not their order cannot be right more often than every second time.

A row of a table is a model and its flags, trained and scored by train.py. Every run adds a line to
docs/moving_digits.csv; the tables are computed from that file.
"""

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from absl import flags

from tools.measuring import ROOT, add_line, check_names, replace_table, run_program, spread
from yt8m.cli import program
from yt8m.packages import optional_package
from yt8m.video.flow import flow_of

LOG = logging.getLogger("yt8m.moving_digits")

LINES = ROOT / "docs" / "moving_digits.csv"
CLASSES = ("right", "left", "down", "up", "appears", "vanishes")
NUM_VIDEOS = {"train": 960, "test": 300}
SIZE, SHORTEST, LONGEST = 24, 12, 16  # pixels; frames
_DIGIT = 8  # pixels of a digit
_FARTHEST = SIZE - _DIGIT
_FAINT = 0.15  # brightness of a digit that has vanished
_DETOUR = 5  # pixels along x and y from which a digit comes back, at most
_OTHERS_LIGHT = 0.6  # brightness of a digit that does nothing
_BAR = 3  # pixels, the width of the bar that may hide a digit
_NOISE = 8.0  # standard deviation in [0, 255]


def moving_digits(digits: np.ndarray, label: int, rng: np.random.Generator) -> np.ndarray:
    """Draws a video: a digit does what its class says, another one goes somewhere and comes back.

    The speed, the colours, which of the two is in front, and a bar before both in half of the videos are random. A
    video of class 2 k + 1 is one of class 2 k, backwards.

    Args:
        digits: `(N, 8, 8)` float in [0, 1], to choose from.
        label: the class, an index of `CLASSES`.
        rng: decides all else.

    Returns:
        `(T, 24, 24, 3)` uint8, T from 12 to 16.
    """
    num_frames = int(rng.integers(SHORTEST, LONGEST + 1))
    progress = np.linspace(0, 1, num_frames) ** rng.uniform(0.7, 1.4)
    brightness = np.ones(num_frames)

    # 1. What is done: one way along x, or y, or out of the dark.
    places = _there_and_back(rng, num_frames)
    axis = label // 2
    if axis < 2:
        distance = rng.uniform(0.6, 1.0) * _FARTHEST
        places[:, axis] = rng.uniform(0, _FARTHEST - distance) + distance * progress
    else:
        brightness = _FAINT + (1 - _FAINT) * progress

    # 2. The digits one over the other, the bar, noise.
    actor = (_picture(digits, rng), places, brightness)
    other = (_picture(digits, rng), _there_and_back(rng, num_frames), np.full(num_frames, _OTHERS_LIGHT))
    layers = (actor, other) if rng.random() < 0.5 else (other, actor)
    frames = np.zeros((num_frames, SIZE, SIZE, 3))
    for picture, path, shine in layers:
        for frame, (x, y), light in zip(frames, np.round(path).astype(int), shine, strict=True):
            below = frame[y : y + _DIGIT, x : x + _DIGIT]
            below += light * picture.max(-1, keepdims=True) * (picture - below)
    if rng.random() < 0.5:
        first = rng.integers(0, SIZE - _BAR)
        bar = np.moveaxis(frames, 1 + int(rng.integers(2)), 1)[:, first : first + _BAR]
        bar[:] = rng.uniform(0.2, 0.6, 3)
    frames = 255 * frames + _NOISE * rng.standard_normal(frames.shape)

    # 3. Half of the classes run backwards.
    frames = np.clip(frames, 0, 255).astype(np.uint8)
    return frames[::-1] if label % 2 else frames


def _picture(digits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A digit in some colour, `(8, 8, 3)` float in [0, 1]."""
    return digits[rng.integers(len(digits)), :, :, np.newaxis] * rng.uniform(0.5, 1.0, 3)


def _there_and_back(rng: np.random.Generator, num_frames: int) -> np.ndarray:
    """Places (x, y) of a digit that ends where it began, `(T, 2)` float."""
    start = rng.uniform(0, _FARTHEST, 2)
    turn = np.clip(start + rng.uniform(-_DETOUR, _DETOUR, 2), 0, _FARTHEST)
    way = np.sin(np.pi * np.linspace(0, 1, num_frames))
    return start + way[:, np.newaxis] * (turn - start)


def write_videos(directory: Path, split: str) -> None:
    """Writes the shard of `train` or `test`, with optical flow; each split has digits that the other has not.

    Raises:
        UserError: if scikit-learn or OpenCV is not installed.
    """
    from yt8m.data.record_writing import clip_record, write_records  # TensorFlow comes with it

    def records() -> Iterator[bytes]:
        for number in range(NUM_VIDEOS[split]):
            label = number % len(CLASSES)
            rng = np.random.default_rng([sorted(NUM_VIDEOS).index(split), number])
            frames = moving_digits(digits, label, rng)
            flow = np.stack(list(flow_of(frames, "dis")))
            yield clip_record(f"{split}{number:04d}", [label], {"rgb": frames, "flow": flow})

    digits = _digits()[sorted(NUM_VIDEOS).index(split) :: len(NUM_VIDEOS)]
    directory.mkdir(parents=True, exist_ok=True)
    write_records(directory / f"{split}.tfrecord", records())


def _digits() -> np.ndarray:
    """All digits, `(N, 8, 8)` float in [0, 1]."""
    datasets = optional_package("sklearn.datasets", "Pictures of digits are read", "requirements-video.txt")
    return datasets.load_digits().images / 16.0


_DATA = (
    "--record_format=clip",
    f"--num_classes={len(CLASSES)}",
    f"--max_frames={LONGEST}",
    f"--clip_size={SIZE}",
    "--clip_crop=0",
    "--noclip_flip",  # a mirrored video would belong to another class
)
_TRAINING = (
    "--batch_size=24",
    "--num_epochs=10",
    "--base_learning_rate=0.02",
    "--learning_rate_schedule=cosine",
    "--learning_rate_warmup=0.05",
)
_PICTURES = ("--feature_names=rgb", "--feature_sizes=3")
_BOTH = ("--feature_names=rgb,flow", "--feature_sizes=3,2")
_SOFTMAX, _BRANCHES = "--label_loss=SoftmaxLoss", "--label_loss=BranchSoftmaxLoss"


def _per_frame(frame_model: str, *more: str, loss: str = _SOFTMAX) -> tuple[str, ...]:
    """A small network per frame, its whole last map, and a model over the frames."""
    return (
        *_PICTURES,
        "--model=ClipModel",
        "--hparams=backbone_width=0.5",
        "--hparams=frame_features=map",
        f"--hparams=frame_model={frame_model}",
        *(f"--hparams={setting}" for setting in more),
        loss,
    )


def _pooled(frame_model: str, *more: str) -> tuple[str, ...]:
    return _per_frame(frame_model, "frame_model.classifier=LogisticModel", *more)


def _fixed(frame_model: str) -> tuple[str, ...]:
    svm = ("train_backbone=False", "frame_model.classifier=SvmModel")
    return _per_frame(frame_model, *svm, loss="--label_loss=SquaredHingeLoss")


def _hidden(frame_model: str, *more: str) -> tuple[str, ...]:
    return _per_frame(frame_model, "frame_model.hidden_size=128", *more)


ROWS = {
    "average-fixed": _fixed("AveragePoolModel"),
    "max-fixed": _fixed("MaxPoolModel"),
    "rank-fixed": _fixed("RankPoolModel"),
    "frames": _per_frame("FrameVoteModel", loss=_BRANCHES),
    "average": _pooled("AveragePoolModel"),
    "max": _pooled("MaxPoolModel"),
    "rank-diagonal": _pooled("RankPoolModel", "frame_model.gradient=diagonal"),
    "rank": _pooled("RankPoolModel"),
    "conv-pool": _hidden("ConvPoolModel"),
    "late-pool": _hidden("LatePoolModel"),
    "slow-pool": _hidden("SlowPoolModel", "frame_model.window_size=4", "frame_model.window_stride=2"),
    "local-pool": _hidden("LocalPoolModel"),
    "time-conv": (
        *_PICTURES,
        "--model=MapTimeConvModel",
        *(
            f"--hparams={setting}"
            for setting in (
                "window_size=4",
                "window_stride=2",
                "hidden_size=128",
                "num_kernels=64",
                "backbone_width=0.5",
            )
        ),
        _SOFTMAX,
    ),
    # At the rate of the others five layers of LSTMs learn nothing: accuracy 0.1667.
    "deep-lstm": (
        *_per_frame("DeepLstmModel", "frame_model.units=64", loss=_BRANCHES),
        "--base_learning_rate=0.003",
    ),
    "cnn-lstm": (*_PICTURES, "--model=CnnLstmModel", "--hparams=backbone_width=0.25", _BRANCHES),
    "c3d": (*_PICTURES, "--model=C3dModel", "--hparams=width=0.125", _BRANCHES),
    "two-stream": (*_BOTH, "--model=TwoStreamModel", "--hparams=inception_width=0.25", _BRANCHES),
    "fused": (*_BOTH, "--model=FusedTwoStreamModel", "--hparams=inception_width=0.25", _SOFTMAX),
    "i3d": (*_BOTH, "--model=I3dModel", "--hparams=inception_width=0.25", _BRANCHES),
}


@dataclass(frozen=True)
class Table:
    """A table of a paper and the rows that repeat it.

    Attributes:
        title: the heading in docs/clips.md.
        source: the paper, and what its numbers are.
        rows: triples: the paper's name of the row, a key of ROWS, the paper's number or "" if it is not known here.
    """

    title: str
    source: str
    rows: tuple[tuple[str, str, str], ...]


TABLES = (
    Table(
        "Poolings, fixed and trained through",
        "Fernando & Gould 2016; accuracy on UCF-Sports, %",
        (
            ("average pooling, fixed features and SVM", "average-fixed", ""),
            ("max pooling, fixed features and SVM", "max-fixed", ""),
            ("rank pooling, fixed features and SVM", "rank-fixed", ""),
            ("network fine-tuned on single frames", "frames", ""),
            ("average pooling, end to end", "average", "70"),
            ("max pooling, end to end", "max", "71"),
            ("rank pooling, end to end, diagonal gradient", "rank-diagonal", ""),
            ("rank pooling, end to end, exact gradient", "rank", "87"),
        ),
    ),
    Table(
        "Where the maximum is taken",
        "Ng et al. 2015; Hit@1 on Sports-1M, %, the poolings with AlexNet, the LSTM with GoogLeNet",
        (
            ("conv pooling", "conv-pool", "71.1"),
            ("late pooling", "late-pool", "67.5"),
            ("slow pooling", "slow-pool", "69.7"),
            ("local pooling", "local-pool", "70.4"),
            ("time-domain convolution", "time-conv", "67.2"),
            ("LSTM", "deep-lstm", "72.1"),
        ),
    ),
    Table(
        "Networks over time",
        "Carreira & Zisserman 2017; accuracy on UCF-101 (split 1), %, of networks trained on it; the last three read "
        "pictures and flow",
        (
            ("LSTM", "cnn-lstm", "81.0"),
            ("3D-ConvNet", "c3d", "51.6"),
            ("two-stream", "two-stream", "91.2"),
            ("3D-fused", "fused", "89.3"),
            ("two-stream I3D", "i3d", "93.4"),
        ),
    ),
)


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of this program."""
    flags.DEFINE_list("only", [], "Rows to measure, by name; all without it.", flag_values=values)
    flags.DEFINE_list("seeds", ["0", "1", "2"], "One run for each.", flag_values=values)
    flags.DEFINE_string("directory", str(ROOT / "runs" / "moving-digits"), "Of shards and runs.", flag_values=values)


def main(values: flags.FlagValues) -> None:
    """Writes the videos, trains and scores rows once per seed, and rewrites the tables.

    Raises:
        UserError: if `--only` names an unknown row, a package is missing, or a program fails.
    """
    check_names(values.only, list(ROWS))
    directory = Path(values.directory).resolve()
    for split in NUM_VIDEOS:
        write_videos(directory, split)
    for seed in values.seeds:
        for name in values.only or ROWS:
            measure(directory, name, seed)
    write_tables()


def measure(directory: Path, name: str, seed: str) -> None:
    """Trains and scores one row with one seed, and adds a line to docs/moving_digits.csv."""
    from yt8m.runs.directory import EVALUATION  # TensorFlow comes with it

    run = f"{directory}/{name}-{seed}"
    start = time.monotonic()
    run_program(
        "train.py",
        *_DATA,
        *_TRAINING,
        *ROWS[name],
        f"--train_data_pattern={directory}/train.tfrecord",
        f"--eval_data_pattern={directory}/test.tfrecord",
        f"--train_dir={run}",
        f"--seed={seed}",
        "--start_new_model",
    )
    seconds = round(time.monotonic() - start)
    accuracy = json.loads(Path(EVALUATION.path(run)).read_text())["hit_at_one"]
    line = {"name": name, "seed": seed, "accuracy": round(accuracy, 4), "train_seconds": seconds}
    add_line(LINES, line, ["name", "seed"])
    LOG.info("%s", line)


def write_tables() -> None:
    """Rewrites the tables of docs/clips.md from docs/moving_digits.csv."""
    runs = dict(list(pd.read_csv(LINES).groupby("name")))
    replace_table(ROOT / "docs" / "clips.md", [row for table in TABLES for row in table_rows(table, runs)])


def table_rows(table: Table, runs: dict[str, pd.DataFrame]) -> list[str]:
    """Returns the lines of a table in Markdown; a row that was not measured has empty cells.

    Args:
        table: the table of a paper.
        runs: by row, one line per run with the columns accuracy and train_seconds.
    """
    rows = [f"\n### {table.title}\n", f"{table.source}.\n"]
    rows += ["| row | paper | here, accuracy | seconds of training | runs |", "| --- " * 5 + "|"]
    for label, name, published in table.rows:
        measured = [""] * 3
        if name in runs:
            lines = runs[name]
            measured = [spread(lines["accuracy"]), f"{lines['train_seconds'].median():.0f}", str(len(lines))]
        rows.append(f"| {' | '.join([label, published or 'not given', *measured])} |")
    return rows


if __name__ == "__main__":
    program.parse_flags(define_flags)
    program.run(main)
