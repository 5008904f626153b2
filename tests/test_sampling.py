"""Keyed randomness and the frames it draws: by definition, in range, and blind to the batch a video comes in."""

from typing import get_args

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from yt8m.errors import UserError
from yt8m.randomness import keys_from_ids, keys_from_positions, mix, permutation, uniform
from yt8m.sampling import FrameSampling, Method, sample_indices

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
int64s = st.integers(-(1 << 63), (1 << 63) - 1)


def splitmix_finaliser(x: int) -> int:
    """SplitMix64's output function on Python's integers, modulo 2**64."""
    x &= MASK
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


def signed(x: int) -> int:
    return x - (1 << 64) if x >> 63 else x


@settings(deadline=None)
@given(int64s)
def test_mix_is_the_finaliser_of_splitmix64(x: int) -> None:
    assert int(mix(tf.constant(x, tf.int64))) == signed(splitmix_finaliser(x))


def test_keys_follow_the_published_sequence() -> None:
    """SplitMix64 started at 0 yields 0xe220a8397b1dcdaf first, 0x6e789e6aa1b965f4 second (the reference code's output).

    mix(0) = 0, so with seed 0 the key of position n is the n-th number of that sequence.
    """
    keys = keys_from_positions(0, tf.constant([1, 2], tf.int64)).numpy().tolist()
    assert keys == [signed(0xE220A8397B1DCDAF), signed(0x6E789E6AA1B965F4)]


@settings(deadline=None, max_examples=30)
@given(seed=int64s, position=st.integers(0, 1 << 40))
def test_keys_from_positions(seed: int, position: int) -> None:
    expected = signed(splitmix_finaliser(position * GOLDEN + splitmix_finaliser(seed)))
    assert int(keys_from_positions(seed, tf.constant(position, tf.int64))) == expected
    assert int(keys_from_positions(tf.constant(seed, tf.int64), tf.constant(position, tf.int64))) == expected


def test_keys_from_ids_belong_to_the_id() -> None:
    ids = [f"id{i}" for i in range(1000)]
    keys = keys_from_ids(tf.constant(ids)).numpy()
    assert len(set(keys)) == 1000
    np.testing.assert_array_equal(keys[::-1], keys_from_ids(tf.constant(ids[::-1])))


def test_uniform_numbers_are_uniform_and_independent() -> None:
    keys = keys_from_positions(7, tf.range(500, dtype=tf.int64))
    draws, others = uniform(keys, 40, "a").numpy(), uniform(keys, 40, "b").numpy()
    assert draws.min() >= 0
    assert draws.max() < 1
    assert stats.kstest(draws.ravel(), "uniform").pvalue > 1e-3
    # 20000 pairs: a correlation has a standard deviation of 0.007
    for a, b in ((draws, others), (draws[:, :-1], draws[:, 1:]), (draws[:-1], draws[1:])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.03


def test_more_numbers_begin_with_the_same() -> None:
    keys = tf.constant([5, -3], tf.int64)
    np.testing.assert_array_equal(uniform(keys, 9, "x")[:, :4], uniform(keys, 4, "x"))


def test_permutations_of_three_are_equally_likely() -> None:
    keys = tf.data.Dataset.from_tensor_slices(keys_from_positions(1, tf.range(3000, dtype=tf.int64)))
    orders = next(keys.map(lambda key: permutation(key, 3, "x")).batch(3000).as_numpy_iterator())
    assert (np.sort(orders, axis=1) == [0, 1, 2]).all()
    _, counts = np.unique(orders @ [9, 3, 1], return_counts=True)
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 1e-3


# Frames


def draw(method: Method, count: int, lengths: list[int], keys: list[int]) -> list[list[int]]:
    """The frames of every video, without their padding, which must be 0."""
    indices, counts = sample_indices(
        FrameSampling(method, count), tf.constant(lengths, tf.int32), tf.constant(keys, tf.int64)
    )
    assert indices.dtype == counts.dtype == tf.int32
    assert indices.shape[0] == counts.shape[0] == len(lengths)
    for row, n in zip(indices.numpy(), counts.numpy(), strict=True):
        assert not row[n:].any()
    return [row[:n].tolist() for row, n in zip(indices.numpy(), counts.numpy(), strict=True)]


lengths_and_keys = st.lists(st.tuples(st.integers(0, 12), int64s), max_size=6)


@pytest.mark.parametrize("method", get_args(Method))
@settings(deadline=None, max_examples=30)
@given(videos=lengths_and_keys, count=st.integers(1, 8))
def test_frames_are_what_the_method_says(method: Method, videos: list[tuple[int, int]], count: int) -> None:
    lengths, keys = [length for length, _ in videos], [key for _, key in videos]
    for chosen, length in zip(draw(method, count, lengths, keys), lengths, strict=True):
        assert all(0 <= index < length for index in chosen)
        if method == "random":
            assert len(chosen) == (count if length else 0)
        elif method == "random_without_replacement":
            assert len(chosen) == min(length, count)
            assert chosen == sorted(set(chosen))
        elif method == "random_sequence":
            start = chosen[0] if chosen else 0
            assert chosen == [min(start + i, length - 1) for i in range(count if length else 0)]
            assert start <= max(length - count, 0)
        elif method == "uniform":
            assert chosen == [i * length // count for i in range(count if length else 0)]
        else:
            assert sorted(chosen) == list(range(length))


@pytest.mark.parametrize("method", get_args(Method))
@settings(deadline=None, max_examples=20)
@given(videos=lengths_and_keys, count=st.integers(1, 8))
def test_a_video_gets_the_same_frames_alone_and_in_a_batch(
    method: Method, videos: list[tuple[int, int]], count: int
) -> None:
    together = draw(method, count, [length for length, _ in videos], [key for _, key in videos])
    assert together == [draw(method, count, [length], [key])[0] for length, key in videos]


@pytest.mark.parametrize(("method", "expected_draws"), [("random", 4), ("random_without_replacement", 3)])
def test_every_frame_is_equally_likely(method: Method, expected_draws: int) -> None:
    num_videos, length = 3000, 6
    keys = keys_from_positions(2, tf.range(num_videos, dtype=tf.int64)).numpy().tolist()
    chosen = draw(method, expected_draws, [length] * num_videos, keys)
    counts = np.bincount(np.concatenate(chosen), minlength=length)
    # Each count is about binomial with mean 3000 * draws / 6: 6 standard deviations are below 6 * sqrt(mean).
    mean = num_videos * expected_draws / length
    assert (abs(counts - mean) < 6 * np.sqrt(mean)).all()


def test_every_start_is_equally_likely() -> None:
    keys = keys_from_positions(2, tf.range(3000, dtype=tf.int64)).numpy().tolist()
    starts = [frames[0] for frames in draw("random_sequence", 3, [5] * 3000, keys)]
    counts = np.bincount(starts)
    assert len(counts) == 3
    assert stats.chisquare(counts).pvalue > 1e-3


def test_uniform_by_hand() -> None:
    # floor(i * 7 / 3) for i = 0, 1, 2: 0, 2.33, 4.67; of 2 frames 0, 0.67, 1.33
    assert draw("uniform", 3, [7, 2, 0], [0, 0, 0]) == [[0, 2, 4], [0, 0, 1], []]


def test_a_longer_video_than_a_float_can_count_does_not_overflow() -> None:
    (chosen,) = draw("random", 1000, [(1 << 24) + 5], [3])
    assert max(chosen) < (1 << 24) + 5


def test_unknown_methods_and_counts_are_refused() -> None:
    with pytest.raises(UserError, match=r"^method=every: there is no such choice\. Known: random, "):
        FrameSampling("every", 3)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"^num_frames=0: expected at least 1"):
        FrameSampling("random", 0)
    assert FrameSampling("shuffled").num_frames == 0


def test_eager_and_inside_map_draw_the_same() -> None:
    sampling = FrameSampling("random_without_replacement", 3)
    lengths, keys = tf.constant([5, 0, 9]), tf.constant([1, 2, 3], tf.int64)
    dataset = tf.data.Dataset.from_tensors((lengths, keys)).map(lambda n, k: sample_indices(sampling, n, k))
    for a, b in zip(next(iter(dataset)), sample_indices(sampling, lengths, keys), strict=True):
        np.testing.assert_array_equal(a, b)
