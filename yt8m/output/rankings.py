"""The best segments of every class, out of any number of them, as a submission of 2019 ranks them."""

from collections.abc import Iterator, Sequence

import numpy as np

from yt8m.errors import UserError
from yt8m.schema import SEGMENT_SECONDS
from yt8m.scores import check_finite, name_of

_SMALLEST_ROW = 1 << 8
_SMALLEST_SURPLUS = 1 << 12
_NUMBER_BITS = np.uint64(32)
_NUMBER = np.uint64(0xFFFFFFFF)
_NO_LIMIT = np.uint64(0xFFFFFFFFFFFFFFFF)
_SIGN = np.uint32(0x80000000)


class SegmentRankings:
    """Keeps the n best segments of each class, and forgets the others.

    Of equal scores the segment that was added first is better. A pair of a class and a segment is a key of 8 bytes: the
    score, inverted, above the segment's number. So the best have the smallest keys, and a partition of numbers finds
    them. A class has at most n / 4 keys more than n before the worst of them go. Memory is 10 n bytes per class, and
    about 150 bytes per video for its id, however many segments there are.

    Args:
        classes: K different classes, in the order in which scores have them.
        max_segments: the number n of segments per class.
    """

    def __init__(self, classes: Sequence[int], max_segments: int):
        self._classes = classes
        self._max_segments = max_segments
        self._most_keys = max_segments + max(max_segments // 4, _SMALLEST_SURPLUS)
        self._keys = [np.empty(_SMALLEST_ROW, np.uint64) for _ in classes]
        self._counts = [0] * len(classes)
        self._limits = np.full((len(classes), 1), _NO_LIMIT)  # keys from here on are not among the best
        self._videos: dict[str, int] = {}  # the number of its first segment
        self._num_segments = 0

    def add(self, names: Sequence[bytes], scores: np.ndarray) -> None:
        """Adds segments. Those of a video follow each other in the order of time, from second 0 on, none left out.

        Args:
            names: `(B,)` the segments' names, `<id>:<second>`.
            scores: `(B, K)` float32.

        Raises:
            UserError: if a score is not finite, or a video was added before.
        """
        check_finite(scores, names)
        first = self._num_segments
        for name in names:
            video_id, _, second = name.rpartition(b":")
            if second == b"0":
                self._begin_video(name_of(video_id))
            self._num_segments += 1
        numbers = np.arange(first, self._num_segments, dtype=np.uint64)
        keys = (_inverted_bits(scores.T) << _NUMBER_BITS) | numbers
        is_candidate = keys < self._limits
        for row in np.flatnonzero(is_candidate.any(axis=1)):
            self._extend(row, keys[row, is_candidate[row]])

    def _begin_video(self, video_id: str) -> None:
        if video_id in self._videos:
            raise UserError(
                f"Video {video_id} occurs twice in the input; a submission has each segment once. "
                "Does --input_data_pattern match a shard twice, or a copy of one?"
            )
        self._videos[video_id] = self._num_segments

    def _extend(self, row: int, new: np.ndarray) -> None:
        keys, count = self._keys[row], self._counts[row]
        if count + new.size > self._most_keys and count > self._max_segments:
            keys[:count].partition(self._max_segments - 1)
            count, limit = self._max_segments, keys[self._max_segments - 1]
            self._limits[row] = limit
            new = new[new < limit]
        if count + new.size > keys.size:
            size = max(min(2 * keys.size, self._most_keys), count + new.size)
            keys = np.concatenate([keys[:count], np.empty(size - count, np.uint64)])
        keys[count : count + new.size] = new
        self._keys[row], self._counts[row] = keys, count + new.size

    def rows(self) -> Iterator[str]:
        """Yields the rows of the submission, a class each, its segments best first, each row ended by a newline."""
        ids = list(self._videos)
        first_numbers = np.fromiter(self._videos.values(), np.int64, len(ids))
        for class_index, keys, count in zip(self._classes, self._keys, self._counts, strict=True):
            best = np.sort(keys[:count])[: self._max_segments]
            numbers = (best & _NUMBER).astype(np.int64)
            videos = np.searchsorted(first_numbers, numbers, side="right") - 1
            seconds = (numbers - first_numbers[videos]) * SEGMENT_SECONDS if ids else numbers
            names = [f"{ids[v]}:{second}" for v, second in zip(videos.tolist(), seconds.tolist(), strict=True)]
            yield f"{class_index},{' '.join(names)}\n"


def _inverted_bits(scores: np.ndarray) -> np.ndarray:
    """Maps `scores` float32 of any shape to uint64 numbers below 2^32 of the opposite order; both zeros are one."""
    bits = (scores + np.float32(0)).view(np.uint32)
    # As integers, positive floats are in order and negative ones in reverse order.
    return np.where(bits & _SIGN, bits, ~(bits | _SIGN)).astype(np.uint64)
