"""The base class of a group of metrics: an accumulator that adds batches and returns values by name."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

# The results of an evaluation step on a batch of B videos, as numpy arrays: the results of `top_k_pairs`, and
#     ids      (B,) bytes
#     losses   (B,) float32
#     predictions (B, C) float32 and labels (B, C) bool, if some accumulator needs all predictions; then also
#     label_weights (B, C) float32, if only some classes were rated, and
#     clip_predictions (B, N, C) float32, if there are N > 1 clips per video.
# Predictions of classes that were not rated are -1: misses that rank last.
BatchResults = Mapping[str, np.ndarray]


class Accumulator(ABC):
    """Base class of a registered group of metrics. To add a group, add a file to yt8m/metrics/.

    The flag `--metrics=NAME` chooses a group by its registered name; the keyword-only arguments of its constructor are
    its settings, `--metrics=NAME:setting=value`. A group that is right where misses are added that rank last, as the
    classes are that were not rated, is registered with `of_rated=True`; others are refused for segments.

    Attributes:
        values: the definition of every metric that `result` yields, by name; docs/metrics.md lists the same.
        tags: TensorBoard tags by metric name, for metrics whose tag is not `Epoch/Eval_<name>`.
        needs_all_predictions: whether batches must have `predictions` and `labels` `(B, C)`, which are then copied from
            the device to the host.

    Args:
        num_classes: the number of classes, C.
        top_k: the number k of pairs (score, hit) per video that count; batches have at least so many.
    """

    values: ClassVar[Mapping[str, str]]
    tags: ClassVar[Mapping[str, str]] = {}
    needs_all_predictions: ClassVar[bool] = False

    @abstractmethod
    def __init__(self, num_classes: int, top_k: int):
        """Creates an accumulator without videos."""

    @abstractmethod
    def add_batch(self, results: BatchResults) -> None:
        """Adds the videos of a batch. All predictions are finite: the evaluation loop has checked that before."""

    @abstractmethod
    def result(self) -> Iterator[tuple[str, float | int]]:
        """Yields the name and the value of every metric over all videos added."""

    def per_class(self) -> Mapping[str, np.ndarray]:
        """Returns per-class values `(C,)` by name, the columns of the table of classes; none by default."""
        return {}

    def curves(self) -> Mapping[int, Mapping[str, Any]]:
        """Returns, by class index, the arrays of a precision-recall curve for TensorBoard's plugin; none by default."""
        return {}
