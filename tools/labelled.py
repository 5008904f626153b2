"""Shared by the programs that compare submissions with labels: reads the labels, and prints lines of metrics."""

import numpy as np
from absl import flags

from yt8m.data.video_labels import VideoLabels, read_labels
from yt8m.errors import UserError
from yt8m.metrics import EvaluationMetrics, listed_pairs
from yt8m.output.submission import Submission

import readers


def labels_from_flags(values: flags.FlagValues) -> VideoLabels | None:
    """Reads the labels that the flags name; None if they name none.

    Raises:
        UserError: if they name two places, or the labels cannot be read.
    """
    if values.eval_data_pattern and values.labels_file:
        raise UserError("--eval_data_pattern and --labels_file are two places of the labels. Give one of the two.")
    if values.eval_data_pattern:
        return readers.video_labels(values.eval_data_pattern, values.num_classes)
    return read_labels(values.labels_file, values.num_classes) if values.labels_file else None


def add_block(metrics: EvaluationMetrics, block: Submission, labels: VideoLabels) -> None:
    """Adds the videos of a block, all of which have labels.

    Raises:
        UserError: if a class is not one of the labels' classes.
    """
    metrics.add(checked_pairs(block, labels, metrics.top_k), block.ids)


def checked_pairs(block: Submission, labels: VideoLabels, top_k: int) -> dict[str, np.ndarray]:
    """Returns `listed_pairs` of the videos of a block, all of which have labels.

    Raises:
        UserError: if a class is not one of the labels' classes.
    """
    if block.classes.size and block.classes.max() >= labels.num_classes:
        wrong = int((block.classes >= labels.num_classes).argmax())
        video = block.ids[int(block.num_pairs.cumsum().searchsorted(wrong, side="right"))]
        raise UserError(
            f"Video {video} has class {block.classes[wrong]}; expected 0 to {labels.num_classes - 1}. "
            "Is --num_classes that of the submission?"
        )
    scores = block.scores.astype(np.float32)
    return listed_pairs(block.num_pairs, block.classes, scores, *labels.of(block.ids), labels.num_classes, top_k)


def metrics_line(name: str, metrics: EvaluationMetrics) -> str:
    """Returns a line of GAP, MAP, Hit@1 and PERR, with six digits after the point."""
    result = metrics.result()
    return (
        f"{name} | GAP: {result['gap']:.6f} | MAP: {result['map']:.6f} | Hit@1: {result['hit_at_one']:.6f} | "
        f"PERR: {result['perr']:.6f} | videos: {result['num_examples']}"
    )
