"""The best segments of every class: those of sorting all of them, in memory that does not grow with their number."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yt8m.errors import UserError
from yt8m.output import rankings
from yt8m.output.rankings import SegmentRankings

CLASSES = (7, 3)


def names_of(lengths: list[int]) -> list[bytes]:
    """The segments of videos that have so many."""
    return [f"v{video}:{5 * n}".encode() for video, length in enumerate(lengths) for n in range(length)]


def ranked(names: list[bytes], scores: np.ndarray, max_segments: int, batch_size: int) -> list[str]:
    keeper = SegmentRankings(CLASSES, max_segments)
    for start in range(0, len(names), batch_size):
        keeper.add(names[start : start + batch_size], scores[start : start + batch_size])
    return list(keeper.rows())


def by_sorting(names: list[bytes], scores: np.ndarray, max_segments: int) -> list[str]:
    rows = []
    for column, class_index in enumerate(CLASSES):
        order = sorted(range(len(names)), key=lambda n: -scores[n, column])  # stable: of equal ones the first is first
        rows.append(f"{class_index},{' '.join(names[n].decode() for n in order[:max_segments])}\n")
    return rows


@given(st.lists(st.integers(1, 9), max_size=12), st.integers(1, 12), st.integers(1, 20), st.integers(0, 99))
@settings(deadline=None)
def test_rows_are_those_of_sorting_everything(
    lengths: list[int], max_segments: int, batch_size: int, seed: int
) -> None:
    names = names_of(lengths)
    # Few different scores, negative ones and both zeros among them: ties are everywhere.
    scores = np.random.default_rng(seed).choice(np.array([-1, -0.0, 0, 0.25, 0.5, 1], np.float32), (len(names), 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rankings, "_SMALLEST_SURPLUS", 3)
        patch.setattr(rankings, "_SMALLEST_ROW", 2)
        assert ranked(names, scores, max_segments, batch_size) == by_sorting(names, scores, max_segments)


def test_a_long_ranking_is_that_of_sorting_everything() -> None:
    names = names_of([60] * 500)
    scores = np.random.default_rng(1).random((len(names), 2)).astype(np.float32)
    assert ranked(names, scores, 1000, 512) == by_sorting(names, scores, 1000)


def test_memory_does_not_grow_with_the_number_of_segments() -> None:
    keeper, rng = SegmentRankings(range(20), 1000), np.random.default_rng(0)
    peaks = []
    tracemalloc.start()
    for number in range(200):
        tracemalloc.reset_peak()
        names = [f"{number}v{n // 10}:{n % 10 * 5}".encode() for n in range(1000)]
        keeper.add(names, rng.random((1000, 20), np.float32))
        peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    # Of 200,000 segments, of which 20 classes rank 1000: only the ids of 100 videos per batch are kept for good.
    assert peaks[-1] - peaks[20] < 180 * 100 * 250
    assert sum(keys.nbytes for keys in keeper._keys) <= 20 * 8 * (1000 + rankings._SMALLEST_SURPLUS)


def test_nothing_is_ranked_where_there_is_nothing() -> None:
    assert ranked([], np.zeros((0, 2), np.float32), 5, 3) == ["7,\n", "3,\n"]


def test_a_video_that_comes_twice_is_named() -> None:
    keeper = SegmentRankings(CLASSES, 5)
    keeper.add(names_of([2, 1]), np.zeros((3, 2), np.float32))
    with pytest.raises(UserError, match=r"^Video v0 occurs twice in the input; a submission has each segment once\."):
        keeper.add([b"v0:0"], np.zeros((1, 2), np.float32))


def test_a_score_that_is_no_number_is_named() -> None:
    with pytest.raises(UserError, match=r"^A prediction for video v1:0 is NaN or infinite"):
        SegmentRankings(CLASSES, 5).add(names_of([1, 1]), np.array([[0, 0], [0, np.nan]], np.float32))
