"""What a group of metrics is: an accumulator that takes the results of batches and yields names with values."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

# What an evaluation step says of a batch of B videos, as numpy arrays: all that `top_k_pairs` returns, and
#     ids      (B,) bytes
#     losses   (B,) float32
#     predictions (B, C) float32 and labels (B, C) bool, if some accumulator needs all predictions.
BatchResults = Mapping[str, np.ndarray]


class Accumulator(ABC):
    """A registered group of metrics. `--metrics` chooses among the groups; to add one, add a file to yt8m/metrics/.

    Its name, `--metrics=NAME`, is that of its registration; the keyword arguments of its constructor are its settings,
    `--metrics=NAME:setting=value`.

    Attributes:
        values: every name that `result` yields, and what it means, as docs/metrics.md has it.
        tags: TensorBoard's names of those that are shown there under another one than `Epoch/Eval_<name>`.
        needs_all_predictions: whether batches have to carry `predictions` and `labels`. They travel to the host then.

    Args:
        num_classes: C.
        top_k: k, how many pairs per video count; batches carry at least so many.
    """

    values: ClassVar[Mapping[str, str]]
    tags: ClassVar[Mapping[str, str]] = {}
    needs_all_predictions: ClassVar[bool] = False

    @abstractmethod
    def __init__(self, num_classes: int, top_k: int):
        """Starts with no videos."""

    @abstractmethod
    def add_batch(self, results: BatchResults) -> None:
        """Adds the videos of a batch, whose predictions are finite."""

    @abstractmethod
    def result(self) -> Iterator[tuple[str, float | int]]:
        """Yields the name and the value of every metric over all videos added."""

    def per_class(self) -> Mapping[str, np.ndarray]:
        """Returns columns `(C,)` by name for the table of classes; none by default."""
        return {}

    def curves(self) -> Mapping[int, Mapping[str, Any]]:
        """Returns precision-recall curves by class, as TensorBoard's plugin takes them; none by default."""
        return {}
