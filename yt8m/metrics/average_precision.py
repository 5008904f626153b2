"""Average precision over pooled pairs (score, hit), and GAP: the same over the k best pairs of all videos.

The scores of hits and of misses are stored separately, so that neither an order nor a bit per pair has to be stored,
and a result depends only on the two multisets of scores.
"""

from typing import Self

import numpy as np

from yt8m.metrics.growing_array import GrowingArray
from yt8m.scores import check_finite


def average_precision(
    scores: np.ndarray, hits: np.ndarray, num_positives: int | None = None, top_n: int | None = None
) -> float:
    """Returns the average precision of one ranked list.

        AP = sum over hits of (hits at or above its rank) / (its rank)  /  P
        AP@n: only hits of rank n or better, divided by min(P, n)

    Pairs rank by score, descending, misses before hits of equal score.

    Args:
        scores: `(N,)` float, finite, in any order.
        hits: `(N,)` bool, True where the scored item is a positive.
        num_positives: P, including positives that are not in the list; None for the number of hits.
        top_n: n; None for the whole list.

    Returns:
        A number in [0, 1]; 0 without positives.

    Raises:
        UserError: if a score is not finite.

    Source: the definition of google/youtube-8m, average_precision_calculator, which breaks ties at random instead.
    """
    check_finite(scores)
    hits = np.asarray(hits, bool)
    scores = np.asarray(scores)
    precisions, ranks = precisions_at_hits(np.sort(scores[hits]), np.sort(scores[~hits]))
    denominator = hits.sum() if num_positives is None else num_positives
    if top_n is not None:
        precisions, denominator = precisions[ranks <= top_n], min(denominator, top_n)
    return float(precisions.sum() / denominator) if denominator else 0.0


def precisions_at_hits(hit_scores: np.ndarray, miss_scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the precision at each hit and the rank of the hit in the common ranking of hits and misses.

    Args:
        hit_scores: `(H,)` float, ascending.
        miss_scores: `(M,)` float, ascending. Misses rank before hits of equal score.

    Returns:
        precisions: `(H,)` float64, in the order of `hit_scores`: (hits at or above the rank) / rank.
        ranks: `(H,)` int64, from 1.
    """
    hits_above = np.arange(hit_scores.size, 0, -1)
    ranks = hits_above + miss_scores.size - np.searchsorted(miss_scores, hit_scores, side="left")
    return hits_above / ranks, ranks


class GlobalAveragePrecision:
    """GAP@k, exact and streaming: the average precision of the k best predictions of all videos in one pool.

        GAP = sum over hits of precision at the hit's rank in the pool / number of labels of all videos

    Labels outside a video's k best predictions count in the denominator. Memory: 4 bytes per pair, which is 80 bytes
    per video at k = 20, and twice that while the result is computed. The result is the same, bit for bit, for every
    batch size, order and split over workers.

    Misses rank before hits of equal score.

    Source: the measure of the YouTube-8M competitions.
    """

    def __init__(self) -> None:
        self._hit_scores = GrowingArray(np.float32)
        self._miss_scores = GrowingArray(np.float32)
        self._num_positives = 0

    def add(self, scores: np.ndarray, hits: np.ndarray, num_labels: np.ndarray) -> None:
        """Adds videos.

        Args:
            scores: `(B, k)` float, the k best predictions of each video.
            hits: `(B, k)` bool, whether each predicted class is a label of the video.
            num_labels: `(B,)` int, the number of labels of each video.

        Raises:
            UserError: if a score is not finite.
        """
        check_finite(scores)
        self._hit_scores.extend(scores[hits])
        self._miss_scores.extend(scores[~hits])
        self._num_positives += int(np.sum(num_labels, dtype=np.int64))

    def merge(self, other: Self) -> None:
        """Adds the videos of another instance, such as that of another worker."""
        self._hit_scores.extend(other._hit_scores.values())
        self._miss_scores.extend(other._miss_scores.values())
        self._num_positives += other._num_positives

    def result(self) -> float:
        """Returns GAP in [0, 1]; 0 without labels."""
        precisions, _ = precisions_at_hits(self._hit_scores.sorted(), self._miss_scores.sorted())
        return float(precisions.sum() / self._num_positives) if self._num_positives else 0.0
