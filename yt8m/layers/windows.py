"""Windows over time: overlapping ones of a fixed length, and a fixed number of parts of a video."""

import tensorflow as tf

from yt8m.layers.frames import pad_mask
from yt8m.layers.pooling import masked_max


def sliding_windows(
    frames: tf.Tensor, valid: tf.Tensor, size: int, stride: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Cuts each video into the fewest windows that cover its real frames.

        window w has the frames w * stride ... w * stride + size - 1,   w < max(1, ceil((T - size) / stride) + 1)

    for T real frames; the last window may contain padding. A video without frames has no windows.

    Args:
        frames: `(B, T, D)` float.
        valid: `(B, T)` bool, the padding mask: True for real frames, which come before all padding.
        size: the number of frames in a window, at least 1.
        stride: the number of frames between the starts of two windows, from 1 to `size`.

    Returns:
        windows: `(B, W, size, D)`, 0 where padded; W = ceil(width of `frames` / stride).
        is_frame: `(B, W, size)` bool, True for real frames.
        is_window: `(B, W)` bool, True for the windows of the video; the others repeat its end or contain padding alone.
    """
    length = tf.shape(valid)[1]
    count = (length + stride - 1) // stride
    positions = tf.range(count)[:, tf.newaxis] * stride + tf.range(size)
    padded = tf.pad(tf.where(tf.expand_dims(valid, 2), frames, 0), [[0, 0], [0, size], [0, 0]])
    # Along the first axis, because TensorFlow's gradient of a gather along another one fails for an empty batch.
    windows = tf.transpose(tf.gather(tf.transpose(padded, (1, 0, 2)), positions), (2, 0, 1, 3))
    is_frame = tf.gather(pad_mask(valid, [[0, 0], [0, size]]), positions, axis=1)
    num_frames = tf.reduce_sum(tf.cast(valid, tf.int32), axis=1, keepdims=True)
    # Window w > 0 is needed if the one before it ends before the last frame.
    starts = tf.range(count) * stride
    is_window = (starts < num_frames) & ((starts == 0) | (starts - stride + size < num_frames))
    return windows, is_frame, is_window


def max_over_windows(frames: tf.Tensor, valid: tf.Tensor, size: int, stride: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Takes the maximum of each feature over the real frames of every window of `sliding_windows`.

    Args:
        frames: `(B, T, D)` float.
        valid: `(B, T)` bool, the padding mask: True for real frames, which come before all padding.
        size: the number of frames in a window.
        stride: the number of frames between the starts of two windows.

    Returns:
        maxima: `(B, W, D)` of the dtype of `frames`, 0 for a window of padding alone.
        is_window: `(B, W)` bool, True for the windows of the video, which come before all others.
    """
    windows, is_frame, is_window = sliding_windows(frames, valid, size, stride)
    rows = tf.reshape(windows, (-1, size, frames.shape[2]))
    maxima = masked_max(rows, tf.reshape(is_frame, (-1, size)))
    return tf.reshape(maxima, (*tf.unstack(tf.shape(is_window)), frames.shape[2])), is_window


def max_over_parts(frames: tf.Tensor, valid: tf.Tensor, num_parts: int) -> tf.Tensor:
    """Takes the maximum of each feature over each of N parts of a video, which are as long as each other.

        y[b, n] = max of frames[b, t] over floor(n T / N) <= t < ceil((n + 1) T / N),   n = 0, ..., N - 1

    for T real frames. No part of a video with frames is empty; with fewer than N frames, parts share frames.

    Args:
        frames: `(B, T, D)` float.
        valid: `(B, T)` bool, the padding mask: True for real frames, which come before all padding.
        num_parts: N, at least 1.

    Returns:
        `(B, N, D)` of the dtype of `frames`, 0 for a video without frames.
    """
    num_frames = tf.reduce_sum(tf.cast(valid, tf.int32), axis=1, keepdims=True)
    times = tf.range(tf.shape(valid)[1])
    parts = []
    for part in range(num_parts):
        # No quotient is negative: ONNX rounds towards 0.
        first, end = part * num_frames // num_parts, ((part + 1) * num_frames + num_parts - 1) // num_parts
        parts.append(masked_max(frames, valid & (times >= first) & (times < end)))
    return tf.stack(parts, axis=1)
