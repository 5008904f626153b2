"""Segment MAP@n, the measure of the 2019 challenge: rankings of video segments, of which only some were rated."""

import itertools
import math
from collections.abc import Iterable, Mapping

import numpy as np

from yt8m.arguments import ArgumentError


class SegmentMeanAveragePrecision:
    """Segment MAP@n, exact. Classes are added one by one, and rankings are not kept in memory.

        R[c]  = the first n segments of the ranking of class c, without those that were not rated for c
        AP[c] = sum over positives in R[c] of (positives at or above its rank in R[c]) / (its rank in R[c])  /  P[c]
        MAP   = mean of AP[c] over the classes with P[c] > 0;  AP[c] = 0 for a class without a ranking

    P[c] is the number of positives of class c, ranked or not. So the score cannot rise by ranking fewer classes or
    segments, and unrated segments do not lower it, unless they move rated ones beyond rank n.

    Args:
        ratings: by class index, for each rated segment's name whether the class is present in the segment.
        top_n: the number n of segments of a ranking that count; 0 for all.

    Raises:
        UserError: if `top_n` is negative.

    Source: the 3rd YouTube-8M challenge, 2019. google/youtube-8m, segment_eval_inference, averages over the classes of
    the submission instead.
    """

    def __init__(self, ratings: Mapping[int, Mapping[str, bool]], top_n: int = 0):
        if top_n < 0:
            raise ArgumentError(f"top_n={top_n}: expected how many segments of a class count, or 0 for all.")
        self._ratings = ratings
        self._top_n = top_n or None
        self._num_positives = {c: sum(segments.values()) for c, segments in ratings.items() if any(segments.values())}
        self._aps = dict.fromkeys(self._num_positives, 0.0)
        self._num_ranked_pairs = 0

    @property
    def num_classes(self) -> int:
        """The number of classes with at least one positive, over which MAP averages."""
        return len(self._num_positives)

    @property
    def num_ranked_pairs(self) -> int:
        """The number of rated pairs (segment, class) in the first n segments of the rankings added so far."""
        return self._num_ranked_pairs

    def add(self, class_index: int, ranking: Iterable[str]) -> None:
        """Adds the ranking of a class.

        Args:
            class_index: the class, added at most once.
            ranking: segment names `<id>:<second>`, best first, each at most once.
        """
        rated = self._ratings.get(class_index, {})
        counted = itertools.islice(ranking, self._top_n)
        hits = np.array([rated[segment] for segment in counted if segment in rated], bool)
        self._num_ranked_pairs += hits.size
        if class_index in self._num_positives:
            precisions = np.cumsum(hits) / np.arange(1, hits.size + 1)
            self._aps[class_index] = float(precisions[hits].sum()) / self._num_positives[class_index]

    def per_class_ap(self) -> dict[int, float]:
        """Returns, by class index, AP in [0, 1] of each class with at least one positive."""
        return dict(self._aps)

    def result(self) -> float:
        """Returns MAP in [0, 1]; 0 if no class has a positive."""
        return math.fsum(self._aps.values()) / max(self.num_classes, 1)
