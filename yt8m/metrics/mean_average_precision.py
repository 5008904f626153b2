"""Average precision per class over the k best predictions of each video, and its mean over classes (MAP)."""

from collections.abc import Iterator, Mapping
from typing import ClassVar, Self

import numpy as np

from yt8m.arguments import check_at_least
from yt8m.metrics.accumulator import Accumulator, BatchResults
from yt8m.metrics.average_precision import precisions_at_hits
from yt8m.metrics.growing_array import GrowingArray
from yt8m.metrics.precision_recall import PrecisionRecallCurves
from yt8m.registry import METRICS
from yt8m.scores import check_finite


class _PairPool:
    """Scores and classes of pooled pairs: 6 bytes per pair up to 65,536 classes."""

    def __init__(self, num_classes: int):
        self._scores = GrowingArray(np.float32)
        self._classes = GrowingArray(np.min_scalar_type(num_classes - 1))

    def extend(self, scores: np.ndarray, classes: np.ndarray) -> None:
        self._scores.extend(scores)
        self._classes.extend(classes)

    def merge(self, other: Self) -> None:
        self.extend(other.scores, other.classes)

    @property
    def scores(self) -> np.ndarray:
        return self._scores.values()

    @property
    def classes(self) -> np.ndarray:
        return self._classes.values()

    def sorted_keys(self) -> np.ndarray:
        """Returns class * 2^32 + ordered bits of the score, uint64, of all pairs: sorted by class, then by score."""
        ordered = _ordered_bits(self.scores)
        # In place: these are the largest arrays of an evaluation.
        keys = self.classes.astype(np.uint64)
        keys <<= np.uint64(32)
        keys |= ordered
        keys.sort()
        return keys


def _ordered_bits(scores: np.ndarray) -> np.ndarray:
    """Maps float32 scores to uint32 numbers of the same order."""
    # -0.0 + 0.0 is 0.0: the two zeros are one score.
    bits = (scores + np.float32(0)).view(np.uint32)
    # As integers, positive floats are in order and negative ones in reverse order, after the positive ones. So the sign
    # bit is flipped for both, all other bits for the negative ones.
    flipped = bits.view(np.int32) >> 31
    flipped |= np.int32(-(1 << 31))
    bits ^= flipped.view(np.uint32)
    return bits


class MeanAveragePrecision:
    """AP of each class and MAP, exact and streaming, over the pooled k best predictions of all videos.

        AP[c] = sum over hits of class c of precision at the hit's rank among all pairs of class c / positives of c
        map = mean of AP over the classes with a positive;  map_all_classes = sum of AP / C

    Memory: 6 bytes per pair, which is 120 bytes per video at k = 20. Results are the same, bit for bit, for every batch
    size, order and split over workers. Misses rank before hits of equal score.

    Args:
        num_classes: the number of classes, C.

    Source: `map` google/youtube-8m, mean_average_precision_calculator; `map_all_classes` tensorflow/models,
    official/projects/yt8m.
    """

    def __init__(self, num_classes: int):
        self._num_classes = num_classes
        self._hits = _PairPool(num_classes)
        self._misses = _PairPool(num_classes)
        self._positives = np.zeros(num_classes, np.int64)

    def add(self, scores: np.ndarray, classes: np.ndarray, hits: np.ndarray, class_positives: np.ndarray) -> None:
        """Adds videos.

        Args:
            scores: `(B, k)` float, the k best predictions of each video.
            classes: `(B, k)` int, the class index of each score.
            hits: `(B, k)` bool, whether that class is a label of the video.
            class_positives: `(..., C)` int, the number of videos with each label; leading axes are summed.

        Raises:
            UserError: if a score is not finite.
        """
        check_finite(scores)
        self._hits.extend(scores[hits], classes[hits])
        self._misses.extend(scores[~hits], classes[~hits])
        self._positives += class_positives.reshape(-1, self._num_classes).sum(axis=0, dtype=np.int64)

    def merge(self, other: Self) -> None:
        """Adds the videos of another instance, such as that of another worker.

        Raises:
            ValueError: if its `num_classes` differs.
        """
        if other._num_classes != self._num_classes:
            raise ValueError(f"Cannot merge metrics of {other._num_classes} classes into {self._num_classes}.")
        self._hits.merge(other._hits)
        self._misses.merge(other._misses)
        self._positives += other._positives

    def positives(self) -> np.ndarray:
        """Returns `(C,)` int64, the number of videos with each label."""
        return self._positives.copy()

    def per_class_ap(self, top_n: int | None = None) -> np.ndarray:
        """Returns the average precision of each class, `(C,)` float64, NaN for classes without positives.

        Args:
            top_n: n of AP@n, which counts hits of rank n or better and divides by min(positives, n); None for AP.
        """
        hits, misses = self._hits.sorted_keys(), self._misses.sorted_keys()
        classes = (hits >> np.uint64(32)).astype(np.int64)
        # The first key after those of a class: its pairs at or above a hit are those between the hit and that end.
        ends = (classes + 1).astype(np.uint64) << np.uint64(32)
        hits_above = np.searchsorted(hits, ends) - np.arange(hits.size)
        misses_above = np.searchsorted(misses, ends) - np.searchsorted(misses, hits)
        ranks = hits_above + misses_above
        counted = slice(None) if top_n is None else ranks <= top_n
        precisions = (hits_above / ranks)[counted]
        sums = np.bincount(classes[counted], precisions, minlength=self._num_classes)
        denominators = self._positives if top_n is None else np.minimum(self._positives, top_n)
        return np.divide(sums, denominators, out=np.full(sums.shape, np.nan), where=denominators > 0)

    def result(self) -> dict[str, float]:
        """Returns `map` and `map_all_classes` in [0, 1]; 0 without positives."""
        ap = self.per_class_ap()
        total = float(np.nansum(ap))
        num_present = int(np.count_nonzero(self._positives))
        return {"map": total / max(num_present, 1), "map_all_classes": total / self._num_classes}

    def gap(self) -> float:
        """Returns GAP in [0, 1] of the same pairs, equal to `GlobalAveragePrecision.result`."""
        num_positives = int(self._positives.sum())
        precisions, _ = precisions_at_hits(np.sort(self._hits.scores), np.sort(self._misses.scores))
        return float(precisions.sum() / num_positives) if num_positives else 0.0

    def precision_recall_curves(self, num_thresholds: int) -> PrecisionRecallCurves:
        """Returns the precision-recall curves of all classes over the pairs added; other predictions count as 0.

        Args:
            num_thresholds: the number of thresholds, equally spaced in [0, 1].
        """
        curves = PrecisionRecallCurves(self._num_classes, num_thresholds)
        for pairs, is_hit in ((self._hits, True), (self._misses, False)):
            curves.add_pairs(pairs.scores, pairs.classes, np.full(pairs.scores.shape, is_hit))
        return curves


@METRICS.register("ap_at_n", of_rated=True)
class MeanAveragePrecisionAtN(Accumulator):
    """AP@n of every class, over the k best predictions of each video, and its mean over classes.

        AP@n[c] = sum over hits of class c of rank n or better of precision at the hit's rank / min(positives of c, n)

    Misses rank before hits of equal score.

    Args:
        num_classes: the number of classes, C.
        top_k: the number k of predictions per video that count.
        n: the largest rank of a hit that counts.

    Raises:
        UserError: if `n` is below 1.

    Source: google/youtube-8m, average_precision_calculator, `ap_at_n`.
    """

    values: ClassVar[Mapping[str, str]] = {
        "map_at_n": "AP@n of a class: hits of rank n or better only, divided by min(positives, n); mean over the "
        "classes that have a positive"
    }

    def __init__(self, num_classes: int, top_k: int, *, n: int = 20):
        check_at_least(1, n=n)
        self._n, self._k = n, top_k
        self._ranked = MeanAveragePrecision(num_classes)

    def add_batch(self, results: BatchResults) -> None:
        """Adds the videos of a batch: `scores`, `classes`, `hits` `(B, k)` and `class_positives` `(..., C)`."""
        scores, classes, hits = (results[name][:, : self._k] for name in ("scores", "classes", "hits"))
        self._ranked.add(scores, classes, hits, results["class_positives"])

    def result(self) -> Iterator[tuple[str, float]]:
        """Yields the metric that `values` defines, over all videos added."""
        ap = self._ranked.per_class_ap(self._n)
        is_present = ~np.isnan(ap)
        yield "map_at_n", float(ap[is_present].mean()) if is_present.any() else 0.0

    def per_class(self) -> Mapping[str, np.ndarray]:
        """Returns `ap_at_n` `(C,)` float64, NaN for classes without positives."""
        return {"ap_at_n": self._ranked.per_class_ap(self._n)}
