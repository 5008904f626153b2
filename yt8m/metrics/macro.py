"""Average precision and ROC AUC over every prediction of every class, as AudioSet reports them."""

from collections.abc import Iterator, Mapping
from typing import ClassVar, NamedTuple, Self

import numpy as np

from yt8m.metrics.accumulator import Accumulator, BatchResults
from yt8m.registry import METRICS
from yt8m.scores import VideoIds, check_finite

# Bins of scores: the octaves [2**-24, 2**-1), mirrored at 1/2, each cut into 2**_OCTAVE_BITS bins of equal width. A bin
# is at most 1/128 of p (of 1 - p above 1/2) wide. Float32 probabilities end at 1 - 2**-24 as well.
# Why not equal widths over [0, 1]: of thousands of classes a video has a few, so nearly all predictions are near 0, and
# what decides the ranking there is the size of p, not a thousandth more or less; near 1 the same holds of 1 - p.
_OCTAVE_BITS = 7
_NUM_OCTAVES = 23
_HALF = _NUM_OCTAVES << _OCTAVE_BITS
_NUM_BINS = 2 * _HALF + 1
_CLASSES_PER_BLOCK = 64  # so many columns are ranked at a time; a multiple of 8, for packed labels


class ClassRankings(NamedTuple):
    """Average precision and ROC AUC of one class, `()` float64, or of all classes, `(C,)` float64.

    Attributes:
        ap: average precision; NaN without positives.
        auc: area under the ROC curve; NaN without positives or without negatives.
        ap_error: an upper bound of |ap - exact value|; NaN where `ap` is NaN.
        auc_error: an upper bound of |auc - exact value|; NaN where `auc` is NaN.
    """

    ap: np.ndarray
    auc: np.ndarray
    ap_error: np.ndarray
    auc_error: np.ndarray


class MacroMetrics:
    """`macro_ap` and `macro_auc`: AP and ROC AUC of each class over all videos, then the mean over classes.

        AP  = mean over positives of  #{positives >= s} / #{videos >= s},              s = the positive's score
        AUC = mean over positives of (#{negatives < s} + #{negatives = s} / 2) / #{negatives}

    All predictions count, not only the k best per video. Videos of equal score share one threshold. The means are over
    classes with at least one positive (for AUC also one negative).

    Exact while the scores fit into `max_bytes`, at 4.125 bytes per prediction. Beyond that, scores are counted in 5,889
    bins per class (47 KB), narrower towards 0 and 1, which assumes probabilities in [0, 1], and `result` bounds the
    error. Whether scores are binned, and every bit of the result, depends on the set of videos alone, not on their
    order or split over workers.

    Args:
        num_classes: the number of classes, C.
        max_bytes: the memory for scores, in bytes, above which they are binned.

    Source: Gemmeke et al. 2017, Audio Set; Hershey et al. 2017, CNN Architectures for Large-Scale Audio Classification.
    Equal to scikit-learn's average_precision_score and roc_auc_score with average="macro".
    """

    def __init__(self, num_classes: int, max_bytes: int = 2 << 30):
        self._num_classes = num_classes
        self._max_bytes = max_bytes
        self._scores: _Scores | _Bins = _Scores(num_classes)
        self._rankings: ClassRankings | None = None  # of all videos so far, once somebody has asked

    def add(self, predictions: np.ndarray, labels: np.ndarray, ids: VideoIds | None = None) -> None:
        """Adds videos.

        Args:
            predictions: `(B, C)` float.
            labels: `(B, C)` bool.
            ids: `(B,)`, the videos' ids, for error messages only.

        Raises:
            UserError: if a prediction is not finite.
        """
        check_finite(predictions, ids)
        self._rankings = None
        self._scores.add(predictions, labels)
        self._bin_if_large()

    def merge(self, other: Self) -> None:
        """Adds the videos of another instance with the same arguments, such as that of another worker.

        Raises:
            ValueError: if its `num_classes` differs.
        """
        if other._num_classes != self._num_classes:
            raise ValueError(f"Cannot merge metrics of {other._num_classes} classes into {self._num_classes}.")
        self._rankings = None
        if isinstance(other._scores, _Bins):
            self._scores = self._binned()
            self._scores.merge(other._scores)
        else:
            for predictions, labels in other._scores.batches():
                self._scores.add(predictions, labels)
        self._bin_if_large()

    def per_class(self) -> ClassRankings:
        """Returns AP, AUC and the bounds of their errors over all videos added, `(C,)` float64 each."""
        if self._rankings is None:
            self._rankings = self._scores.rankings()
        return self._rankings

    def result(self) -> dict[str, float]:
        """Returns the metrics by name.

        `macro_ap` and `macro_auc` are in [0, 1], 0 if no class has a defined value. `macro_ap_error` and
        `macro_auc_error` are upper bounds of their distance to the exact values, 0 unless scores were binned.
        """
        rankings = self.per_class()
        return {f"macro_{name}": _mean_of_defined(values) for name, values in rankings._asdict().items()}

    def _bin_if_large(self) -> None:
        if isinstance(self._scores, _Scores) and self._scores.num_bytes > self._max_bytes:
            self._scores = self._binned()

    def _binned(self) -> "_Bins":
        if isinstance(self._scores, _Bins):
            return self._scores
        bins = _Bins(self._num_classes)
        for predictions, labels in self._scores.batches():
            bins.add(predictions, labels)
        return bins


@METRICS.register("macro")
class Macro(Accumulator):
    """Average precision and ROC AUC of every class over all predictions, and their means, by `MacroMetrics`.

    Args:
        num_classes: the number of classes, C.
        top_k: not used, because all predictions count.
    """

    values: ClassVar[Mapping[str, str]] = {
        "macro_ap": "AP over **every** prediction of a class, no k: mean over its positives of #{positives at or "
        "above} / #{videos at or above}; mean over classes that have a positive",
        "macro_auc": "area under a class's ROC curve: mean over positives of (#{negatives below} + #{negatives equal} "
        "/ 2) / #{negatives}; mean over classes that have both",
        "macro_ap_error": "how far `macro_ap` may be from its exact value; 0 unless scores had to be binned",
        "macro_auc_error": "the same of `macro_auc`",
    }
    tags: ClassVar[Mapping[str, str]] = {"macro_ap": "Epoch/Eval_Macro_AP", "macro_auc": "Epoch/Eval_Macro_AUC"}
    needs_all_predictions: ClassVar[bool] = True

    def __init__(self, num_classes: int, top_k: int):
        del top_k
        self._metrics = MacroMetrics(num_classes)

    def add_batch(self, results: BatchResults) -> None:
        """Adds the videos of a batch: `predictions` `(B, C)` float32, `labels` `(B, C)` bool, `ids` `(B,)`."""
        self._metrics.add(results["predictions"], results["labels"], results["ids"])

    def result(self) -> Iterator[tuple[str, float]]:
        """Yields the metrics that `values` defines, over all videos added."""
        yield from self._metrics.result().items()

    def per_class(self) -> Mapping[str, np.ndarray]:
        """Returns `macro_ap` and `macro_auc`, `(C,)` float64 each, NaN for classes where they are undefined."""
        rankings = self._metrics.per_class()
        return {"macro_ap": rankings.ap, "macro_auc": rankings.auc}


class _Scores:
    """All scores as float32, and all labels as one bit each."""

    def __init__(self, num_classes: int):
        self._num_classes = num_classes
        self._scores: list[np.ndarray] = []
        self._packed_labels: list[np.ndarray] = []
        self.num_bytes = 0

    def add(self, predictions: np.ndarray, labels: np.ndarray) -> None:
        self._scores.append(np.array(predictions, np.float32))
        self._packed_labels.append(np.packbits(labels, axis=1))
        self.num_bytes += self._scores[-1].nbytes + self._packed_labels[-1].nbytes

    def batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for scores, packed in zip(self._scores, self._packed_labels, strict=True):
            yield scores, np.unpackbits(packed, axis=1, count=self._num_classes).astype(bool)

    def rankings(self) -> ClassRankings:
        values = np.array([_ap_and_auc(scores, labels) for scores, labels in self._columns()])
        error = np.where(np.isnan(values), np.nan, 0.0)
        return ClassRankings(values[:, 0], values[:, 1], error[:, 0], error[:, 1])

    def _columns(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        # Scores lie video by video, a ranking needs a class: some columns at a time, or all scores would be held twice.
        for start in range(0, self._num_classes, _CLASSES_PER_BLOCK):
            width = min(_CLASSES_PER_BLOCK, self._num_classes - start)
            scores = np.empty((0, width), np.float32)
            labels = np.empty((0, width), bool)
            if self._scores:
                scores = np.concatenate([batch[:, start : start + width] for batch in self._scores])
                packed = np.concatenate(
                    [batch[:, start // 8 : (start + width + 7) // 8] for batch in self._packed_labels]
                )
                labels = np.unpackbits(packed, axis=1, count=width).astype(bool)
            yield from zip(np.ascontiguousarray(scores.T), np.ascontiguousarray(labels.T), strict=True)


def _ap_and_auc(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    hits, misses = np.sort(scores[labels]), np.sort(scores[~labels])
    if not hits.size:
        return np.nan, np.nan
    hits_above = hits.size - np.searchsorted(hits, hits, side="left")
    misses_below = np.searchsorted(misses, hits, side="left")
    misses_not_above = np.searchsorted(misses, hits, side="right")
    ap = np.mean(hits_above / (hits_above + misses.size - misses_below))
    # Whole numbers, twice the count, so that the sum is exact.
    doubled = int((misses_below + misses_not_above).sum())
    return float(ap), doubled / (2 * hits.size * misses.size) if misses.size else np.nan


class _Bins:
    """Histograms of the scores, `(C, 5889)` uint32: of the positives and of all videos of each class."""

    def __init__(self, num_classes: int):
        self._positives = np.zeros((num_classes, _NUM_BINS), np.uint32)
        self._videos = np.zeros((num_classes, _NUM_BINS), np.uint32)

    def add(self, predictions: np.ndarray, labels: np.ndarray) -> None:
        places = score_bins(predictions) + np.arange(len(self._videos)) * _NUM_BINS
        one = np.uint32(1)  # of the counters' type, which numpy adds twenty times as fast as another
        np.add.at(self._videos.reshape(-1), places.ravel(), one)
        np.add.at(self._positives.reshape(-1), places[labels], one)

    def merge(self, other: "_Bins") -> None:
        self._positives += other._positives
        self._videos += other._videos

    def rankings(self) -> ClassRankings:
        num_videos = int(self._videos[0].sum(dtype=np.int64))
        harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, num_videos + 1))])
        rows = [_rank_bins(*counts, harmonic) for counts in zip(self._positives, self._videos, strict=True)]
        return ClassRankings(*np.array(rows).reshape(-1, 4).T)


def score_bins(predictions: np.ndarray) -> np.ndarray:
    """Returns the bins of `predictions` float of any shape: int32 of the same shape in [0, 5888], increasing in p.

    p is clipped to [0, 1]. Below 1/2 the bins are the octaves [2^-n, 2^(1-n)), each divided into 128 equal parts; above
    1/2 the same of 1 - p.
    """
    predictions = np.clip(predictions.astype(np.float32), 0.0, 1.0)
    # 1 - p is exact in float32 for p >= 1/2, so the order is kept.
    near_end = np.maximum(np.minimum(predictions, 1 - predictions), np.float32(2.0**-24))
    # The leading bits of a positive float: its exponent (103 for 2**-24), then the top of its mantissa.
    depth = (near_end.view(np.int32) >> (23 - _OCTAVE_BITS)) - (103 << _OCTAVE_BITS)
    return np.where(predictions < 0.5, depth, 2 * _HALF - depth)


def _rank_bins(positives: np.ndarray, videos: np.ndarray, harmonic: np.ndarray) -> tuple[float, float, float, float]:
    """Returns AP, AUC and their error bounds of one class; AP and AUC take all scores of a bin as equal."""
    hits, misses = positives[::-1].astype(np.int64), (videos - positives)[::-1].astype(np.int64)
    num_hits, num_misses = int(hits.sum()), int(misses.sum())
    if not num_hits:
        return (np.nan,) * 4
    # AP and AUC are sums over hits, so only bins that hold one count; misses elsewhere are in the running counts.
    is_used = hits > 0
    hits_to, misses_to = np.cumsum(hits)[is_used], np.cumsum(misses)[is_used]  # down to the bin, inclusive
    hits, misses = hits[is_used], misses[is_used]
    # The estimate: all scores of a bin are one threshold, as equal scores are.
    ap = hits @ (hits_to / (hits_to + misses_to))
    # The bounds: AP at the best and at the worst order of the videos inside each bin.
    # At best the hits of a bin come before its misses, as one score; at worst after them, one by one:
    # sum_j (h + j) / (h + j + m) = count - m * (harmonic(h + count + m) - harmonic(h + m)).
    best = hits @ (hits_to / (hits_to + misses_to - misses))
    worst = np.sum(hits - misses_to * (harmonic[hits_to + misses_to] - harmonic[hits_to - hits + misses_to]))
    ap_error = max(best - ap, ap - worst) / num_hits
    if not num_misses:
        return ap / num_hits, np.nan, ap_error, np.nan
    # AUC counts half of each pair of a hit and a miss of one bin, and may be wrong by that half at most.
    num_pairs = num_hits * num_misses
    doubled = int(hits @ (2 * (num_misses - misses_to) + misses))
    return ap / num_hits, doubled / (2 * num_pairs), ap_error, int(hits @ misses) / (2 * num_pairs)


def _mean_of_defined(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else 0.0
