"""Windows and parts of videos, against a loop over windows and cases worked by hand."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from yt8m.layers.frames import valid_frames
from yt8m.layers.windows import max_over_parts, max_over_windows, sliding_windows

from oracles import temporal as oracles

RNG = np.random.default_rng


def videos(lengths: list[int], width: int) -> tuple[np.ndarray, tf.Tensor]:
    """Negative frames, so that no padding may pass for a maximum, with garbage in the padding."""
    frames = -RNG(0).uniform(1.0, 2.0, (len(lengths), width, 3)).astype(np.float32)
    valid = valid_frames(tf.constant(lengths, tf.int32), width)
    return np.where(valid.numpy()[:, :, np.newaxis], frames, 9.0).astype(np.float32), valid


def test_windows_of_ten_frames_by_hand() -> None:
    # 23 frames, windows of 10 from every fifth: 0-9, 5-14, 10-19 and 15-22 contain all; one from 20 would add nothing.
    _, is_frame, is_window = sliding_windows(tf.zeros((1, 30, 1)), valid_frames(tf.constant([23]), 30), 10, 5)
    np.testing.assert_array_equal(is_window, [[True] * 4 + [False] * 2])
    np.testing.assert_array_equal(tf.reduce_sum(tf.cast(is_frame, tf.int32), 2), [[10, 10, 10, 8, 3, 0]])


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    size=st.integers(1, 5),
    data=st.data(),
)
def test_maxima_are_those_of_the_windows(lengths: list[int], size: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, size))
    frames, valid = videos(lengths, 9)
    maxima, is_window = max_over_windows(tf.constant(frames), valid, size, stride)
    for video, length in enumerate(lengths):
        expected = [oracles.largest(frames[video, list(window)]) for window in oracles.windows(length, size, stride)]
        assert np.count_nonzero(is_window[video]) == len(expected)
        np.testing.assert_array_equal(maxima[video, : len(expected)], np.reshape(expected, (-1, 3)))
        assert not np.any(is_window[video, len(expected) :])


@pytest.mark.parametrize("num_parts", [1, 2, 3, 4, 7])
def test_parts_cover_a_video_evenly(num_parts: int) -> None:
    lengths = list(range(10))
    frames, valid = videos(lengths, 9)
    maxima = max_over_parts(tf.constant(frames), valid, num_parts)
    for video, length in enumerate(lengths):
        expected = [oracles.largest(frames[video, part]) for part in oracles.parts(length, num_parts)]
        np.testing.assert_array_equal(maxima[video], expected)


def test_parts_by_hand() -> None:
    # Five frames in two parts of 2.5: the middle one is in both. One frame in two parts is both.
    frames = tf.constant([[[1.0], [2.0], [5.0], [4.0], [3.0]], [[-7.0], [0.0], [0.0], [0.0], [0.0]]])
    np.testing.assert_array_equal(
        max_over_parts(frames, valid_frames(tf.constant([5, 1]), 5), 2)[:, :, 0], [[5.0, 5.0], [-7.0, -7.0]]
    )


def test_no_videos_and_no_frames() -> None:
    for shape in ((0, 4, 3), (2, 0, 3), (0, 0, 3)):
        frames, valid = tf.zeros(shape), tf.zeros(shape[:2], tf.bool)
        with tf.GradientTape() as tape:
            tape.watch(frames)
            maxima, is_window = max_over_windows(frames, valid, 3, 2)
        assert tape.gradient(maxima, frames).shape == shape
        assert maxima.shape[0] == is_window.shape[0] == shape[0]
        assert not np.any(is_window)
        np.testing.assert_array_equal(max_over_parts(frames, valid, 2), np.zeros((shape[0], 2, 3)))
