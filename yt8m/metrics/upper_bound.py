"""The best precision and recall at k that any predictions of these labels could have."""

from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np

from yt8m.arguments import ArgumentError
from yt8m.metrics.accumulator import Accumulator, BatchResults
from yt8m.metrics.growing_array import GrowingArray
from yt8m.registry import METRICS


@METRICS.register("upper_bound")
class PrecisionRecallBound(Accumulator):
    """The row of perfect predictions for `precision_recall`: what it says of a model that knows the labels.

    Each video is given k classes. With n labels it is given min(n, k) of them; of more than k those that are rarest in
    these videos, which is best for the recall per class. The other k - n classes are misses.

        overall:    P = sum_b min(n_b, k) / (B * k),          R = sum_b min(n_b, k) / sum_b n_b
        per class:  P = mean_c hits[c] / (hits[c] + misses[c]), R = mean_c hits[c] / positives[c]

    The means are over classes with a positive. Three of the four are the most that any predictions reach. A class's
    precision depends on where the misses go: as in the paper that is left to chance, and misses[c] is its mean, each
    class that is not a label being equally likely. All are 0 where nothing is divided by nothing.

    Holds 4 bytes per label of the videos with more than k labels.

    Args:
        num_classes: C.
        top_k: the number of pairs per video, for `k=0`.
        k: how many classes each video is given, as of `precision_recall`; 0 for `top_k`.

    Raises:
        ArgumentError: if k is negative or above `top_k`.

    Source: Gong et al. 2013, "Deep Convolutional Ranking for Multilabel Image Annotation", the row "upper bound". It
    draws the labels of videos that have too many, too; here they are chosen.
    """

    values: ClassVar[Mapping[str, str]] = {
        "bound_overall_precision": "`overall_precision` of predictions that know the labels: the most that is possible",
        "bound_overall_recall": "`overall_recall` of the same",
        "bound_class_precision": "`class_precision` of the same, expected if classes beyond the labels are drawn",
        "bound_class_recall": "`class_recall` of the same: the most that is possible",
    }
    needs_all_predictions: ClassVar[bool] = True

    def __init__(self, num_classes: int, top_k: int, *, k: int = 0):
        if not 0 <= k <= top_k:
            raise ArgumentError(f"k={k}: expected at most the {top_k} classes per video that are kept, or 0 for all.")
        self._k = min(k or top_k, num_classes)
        self._positives = np.zeros(num_classes, np.int64)
        # Of videos with n <= k labels: how many there are of each n, and how often each class is among the labels.
        self._num_videos = np.zeros(self._k + 1, np.int64)
        self._labels = np.zeros((self._k + 1, num_classes), np.int64)
        # Of the others: their labels one after another, and how many each video has.
        self._crowded_labels, self._crowded_counts = GrowingArray(np.int32), GrowingArray(np.int32)

    def add_batch(self, results: BatchResults) -> None:
        """Adds the videos of a batch: `labels` `(B, C)`."""
        labels = results["labels"]
        counts = labels.sum(axis=1)
        self._positives += labels.sum(axis=0)
        for n in range(self._k + 1):
            is_n = counts == n
            self._num_videos[n] += np.count_nonzero(is_n)
            self._labels[n] += labels[is_n].sum(axis=0)
        crowded = labels[counts > self._k]
        self._crowded_labels.extend(np.nonzero(crowded)[1])
        self._crowded_counts.extend(crowded.sum(axis=1))

    def result(self) -> Iterator[tuple[str, float]]:
        """Yields what `values` lists."""
        is_present = self._positives > 0
        num_present = max(int(is_present.sum()), 1)
        hits, misses = self._hits(), self._misses()
        num_predictions = self._k * (int(self._num_videos.sum()) + self._crowded_counts.values().size)
        precision = hits / np.maximum(hits + misses, 1e-12)
        recall = hits / np.maximum(self._positives, 1)
        yield "bound_overall_precision", float(hits.sum() / max(num_predictions, 1))
        yield "bound_overall_recall", float(hits.sum() / max(self._positives.sum(), 1))
        yield "bound_class_precision", float(precision[is_present].sum() / num_present)
        yield "bound_class_recall", float(recall[is_present].sum() / num_present)

    def _hits(self) -> np.ndarray:
        """`(C,)` int64, how many videos are given each of their labels."""
        hits = self._labels.sum(axis=0)
        labels, counts = self._crowded_labels.values(), self._crowded_counts.values()
        videos = np.repeat(np.arange(counts.size), counts)
        order = np.lexsort((labels, self._positives[labels], videos))  # by video, in a video the rarest class first
        places = np.arange(labels.size) - np.repeat(np.cumsum(counts) - counts, counts)
        return hits + np.bincount(labels[order][places < self._k], minlength=hits.size)

    def _misses(self) -> np.ndarray:
        """`(C,)` float64, how many videos without a class are expected to be given it."""
        n = np.arange(self._k + 1)
        shares = (self._k - n) / np.maximum(self._positives.size - n, 1)
        return shares @ (self._num_videos[:, np.newaxis] - self._labels)
