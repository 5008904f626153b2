"""Compares poolings over time on labelled clips: average, maximum, rank pooling and its variants, and a control.

    python -m tools.clip_comparison --clips=DIR --output=FILE.json

DIR holds clips named N_SEQ_CLASS.avi. One sequence after the other is left out: its clips are classified by support
vector machines that were trained on the other sequences, and whose settings were chosen there too. The features are
those of a network that was trained on ImageNet; it stays as it is. docs/clips.md has the details.
"""

from functools import partial

from absl import flags

from yt8m.arguments import check_size, typed_as
from yt8m.cli import program
from yt8m.errors import UserError
from yt8m.video.packages import optional_package


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of this program."""
    define = partial(flags.DEFINE_string, flag_values=values)
    define("clips", "", "Folder of the clips, N_SEQ_CLASS.avi.")
    define("output", "", "The JSON file that is written.")
    define("backbone", "EfficientNetLite0", "Network for pictures, as of tools.extract_features.")
    define("backbone_weights", "", "File of its weights; without it those of requirements-video.txt.")
    flags.DEFINE_integer("size", 224, "Pixels of the long side of the frames that it reads.", flag_values=values)
    define("features", "", "Keep the features in this file, NAME.npz, and use them if it is there.")


def check_flags(values: flags.FlagValues) -> None:
    """Checks the flags of this program.

    Raises:
        UserError: if one is missing or makes no sense, or a package is not installed.
    """
    for name, what in (("clips", "the folder of the clips"), ("output", "the JSON file to write")):
        if not values[name].value:
            raise UserError(f"--{name} is missing: give {what}.")
    with typed_as("--"):
        check_size(1, size=values.size)
    for package in ("av", "cv2"):
        optional_package(package)


if __name__ == "__main__":
    # Before TensorFlow is loaded, so that --help and mistyped flags are answered at once.
    program.parse_flags(define_flags, check_flags)

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tools.clip_features import (
    NUM_FRAMES,
    PARTS,
    Clip,
    FrameNetwork,
    checksum,
    compute_features,
    kept_features,
    list_clips,
)
from tools.left_out import LeftOut, check_packages, classify_left_out, paired_test, share_interval
from yt8m.files import AtomicFile, check_outputs

from rankpool_ops import RankPooling, signed_sqrt, unit_length

LOG = logging.getLogger("yt8m.clip_comparison")

RANK_C = (0.1, 0.3, 1.0)  # c of rank pooling, to choose from
SVM_C = (1.0, 10.0)  # C of the support vector machines, to choose from
NUM_SHUFFLES = 5
RIVALS = ("average", "maximum")
_AT_ONCE = 32  # clips that are pooled at a time

Kernels = dict[str, np.ndarray]
Pool = Callable[[np.ndarray], np.ndarray]


def main(values: flags.FlagValues) -> None:
    """Writes the comparison, and prints its table.

    Raises:
        UserError: if a flag, a clip, its name, the weights or the output cannot be used, there are not two sequences
            and two classes, or a package is not installed.
    """
    # 1. What is compared, and whether it can be written.
    check_flags(values)
    check_packages()
    clips = list_clips(values.clips)
    outputs = {"output": values.output, "features": values.features}
    check_outputs(outputs, [*(clip.path for clip in clips), values.backbone_weights])
    with AtomicFile(values.output, "", "output") as file:
        # 2. Vectors of frames, by one network for all rows.
        started = time.monotonic()
        features = features_of(values, clips)
        computed = time.monotonic()

        # 3. Descriptors of clips, and which clips are recognised by them.
        labels = np.array([clip.label for clip in clips])
        sequences = np.array([clip.sequence for clip in clips])
        rows: dict[str, list[LeftOut]] = {}
        for name, kernels in kernels_of_rows(features):
            rows.setdefault(name, []).append(classify_left_out(kernels, SVM_C, labels, sequences))
            LOG.info("%s: %.3f", name, rows[name][-1].accuracy(labels))

        # 4. The report.
        report = summary(clips, labels, rows)
        report["seconds"] = {
            "features": round(computed - started, 1),
            "comparison": round(time.monotonic() - computed, 1),
        }
        file.write(json.dumps(report, indent=1) + "\n")
    print(table(report))


def features_of(values: flags.FlagValues, clips: Sequence[Clip]) -> np.ndarray:
    """Computes the vectors of frames, or takes those that were kept: `(V, N, T, D)` float32, V views of N clips."""
    made_of = [
        NUM_FRAMES,
        PARTS,
        values.size,
        values.backbone,
        checksum(values.backbone_weights),
        *((clip.path.rpartition("/")[2], checksum(clip.path)) for clip in clips if values.features),
    ]

    def compute() -> np.ndarray:
        return compute_features(clips, FrameNetwork(values.backbone, values.backbone_weights), values.size)

    return kept_features(values.features, made_of, compute)


def kernels_of_rows(features: np.ndarray) -> Iterator[tuple[str, Kernels]]:
    """Pools frames in each of the ways that are compared.

    Frames are the signed square roots of the features, of unit length; of rank pooling they are running means first.
    Descriptors are the signed square roots of what is pooled, of unit length; for `both`, of each direction.

    Args:
        features: `(V, N, T, D)` float32, V views of N clips.

    Yields:
        The name of a row, and by the name of a setting the kernels of its descriptors, `(V, N, V, N)`. `shuffled` is
        rank pooling of frames in random order, the same in all views of a clip; it comes NUM_SHUFFLES times.
    """

    def ranked(frames: np.ndarray, direction: Any = "forward") -> Kernels:
        return {
            f"c={c:g}": kernel(frames, RankPooling(c=c, takes_signed_sqrt=True, direction=direction)) for c in RANK_C
        }

    yield "average", {"mean": kernel(features, lambda frames: _prepared(frames).mean(axis=1))}
    yield "maximum", {"max": kernel(features, lambda frames: _prepared(frames).max(axis=1))}
    forward, reverse = ranked(features), ranked(features, "reverse")
    yield "rank_pool", forward
    yield "rank_pool_reverse", reverse
    yield "rank_pool_both", {name: (forward[name] + reverse[name]) / 2 for name in forward}
    yield "approximate", {"fixed": kernel(features, RankPooling(method="approximate", takes_signed_sqrt=True))}
    rng = np.random.default_rng(0)
    for _ in range(NUM_SHUFFLES):
        order = rng.permuted(np.tile(np.arange(features.shape[2]), (features.shape[1], 1)), axis=1)
        yield "shuffled", ranked(np.take_along_axis(features, order[np.newaxis, :, :, np.newaxis], axis=2))


def _prepared(frames: np.ndarray) -> np.ndarray:
    return np.asarray(unit_length(signed_sqrt(frames)))


def kernel(features: np.ndarray, pool: Pool) -> np.ndarray:
    """Returns the cosines of descriptors, `(V, N, V, N)`.

    Args:
        features: `(V, N, T, D)` float32, V views of N clips.
        pool: maps frames `(B, T, D)` to vectors `(B, E)`, whose signed square roots are the descriptors.
    """
    views, clips, *shape = features.shape
    frames = features.reshape(-1, *shape)
    blocks = (frames[first : first + _AT_ONCE] for first in range(0, len(frames), _AT_ONCE))
    descriptors = np.concatenate([np.asarray(unit_length(signed_sqrt(pool(block)))) for block in blocks])
    return (descriptors @ descriptors.T).reshape(views, clips, views, clips)


def summary(clips: Sequence[Clip], labels: np.ndarray, rows: Mapping[str, Sequence[LeftOut]]) -> dict[str, Any]:
    """Returns what is written: the accuracy of each row by its name, and what it rests on.

    Args:
        clips: N clips, for their names and sequences.
        labels: `(N,)` int, their classes.
        rows: what was predicted, by row; of a row that was repeated the accuracies are averaged.
    """
    accuracies = {name: float(np.mean([run.accuracy(labels) for run in runs])) for name, runs in rows.items()}
    single = {name: runs[0] for name, runs in rows.items() if len(runs) == 1}
    hits = {name: run.predictions == labels for name, run in single.items()}
    return {
        **{name: round(accuracy, 4) for name, accuracy in accuracies.items()},
        "clips": len(clips),
        "classes": len(set(labels.tolist())),
        "sequences": len({clip.sequence for clip in clips}),
        "interval_95": {name: share_interval(int(hit.sum()), len(hit)) for name, hit in hits.items()},
        "paired_tests": {f"rank_pool, {rival}": paired_test(hits["rank_pool"], hits[rival]) for rival in RIVALS},
        "runs_of_shuffled": [round(run.accuracy(labels), 4) for run in rows["shuffled"]],
        "chosen": {
            name: {sequence: setting._asdict() for sequence, setting in run.chosen.items()}
            for name, run in single.items()
        },
        "predictions": {
            clip.path.rpartition("/")[2]: {name: int(run.predictions[n]) for name, run in single.items()}
            for n, clip in enumerate(clips)
        },
    }


def table(report: Mapping[str, Any]) -> str:
    """Returns the table of a report, and its tests in words."""
    lines = [f"{report['clips']} clips, {report['classes']} classes, {report['sequences']} sequences, one left out\n"]
    lines += ["| row | accuracy | 95 % interval |", "| --- | --- | --- |"]
    names = ["average", "maximum", "rank_pool", "rank_pool_reverse", "rank_pool_both", "approximate", "shuffled"]
    for name in names:
        low, high = report["interval_95"].get(name, (None, None))
        interval = f"mean of {NUM_SHUFFLES} runs" if low is None else f"{low:.3f} to {high:.3f}"
        lines.append(f"| {name} | {report[name]:.3f} | {interval} |")
    lines.append("")
    for pair, test in report["paired_tests"].items():
        first, second = pair.split(", ")
        lines.append(
            f"{test['only_first']} clips are recognised by {first} alone, {test['only_second']} by {second} alone: "
            f"p = {test['p']:.3g} (McNemar's exact test)"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    program.run(main)
