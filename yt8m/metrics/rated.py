"""MAP over the classes of each example that were rated, as of segments of which raters were asked for a few classes."""

from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np

from yt8m.metrics.accumulator import Accumulator, BatchResults
from yt8m.metrics.mean_average_precision import MeanAveragePrecision
from yt8m.registry import METRICS


@METRICS.register("segment_map", of_rated=True)
class RatedMeanAveragePrecision(Accumulator):
    """Segment MAP: each class ranks the segments that were rated for it; unlike `map` without a limit k per segment.

        AP[c] = sum over positives of c of (positives at or above its rank) / (its rank)  /  positives of c
        segment_map = mean of AP[c] over the classes with a positive

    That is what `SegmentMeanAveragePrecision` makes of a submission that ranks every segment, where no scores are
    equal; of equal scores misses rank before hits here. Memory: 6 bytes per rated pair of a segment and a class.

    Args:
        num_classes: the number of classes, C.
        top_k: has no meaning here.
    """

    values: ClassVar[Mapping[str, str]] = {
        "segment_map": "of segments: AP of a class over all segments that were rated for it; mean over the classes "
        "that have a positive"
    }
    needs_all_predictions: ClassVar[bool] = True

    def __init__(self, num_classes: int, top_k: int):
        del top_k
        self._ranked = MeanAveragePrecision(num_classes)

    def add_batch(self, results: BatchResults) -> None:
        """Adds segments: `predictions`, `labels` and, unless all classes count, `label_weights`, `(B, C)` each."""
        predictions, labels = results["predictions"], results["labels"]
        weights = results.get("label_weights", np.ones_like(predictions))
        rows, classes = np.nonzero(weights)
        self._ranked.add(
            predictions[rows, classes], classes, labels[rows, classes], (labels & (weights > 0)).sum(axis=0)
        )

    def result(self) -> Iterator[tuple[str, float]]:
        """Yields the metric that `values` defines, over all segments added."""
        yield "segment_map", self._ranked.result()["map"]

    def per_class(self) -> Mapping[str, np.ndarray]:
        """Returns `segment_average_precision` `(C,)` float64, NaN for classes without positives."""
        return {"segment_average_precision": self._ranked.per_class_ap()}
