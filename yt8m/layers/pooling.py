"""Pooling over the real frames of each video, by mean, maximum or first frame. No real frames give zeros."""

import tensorflow as tf


def frame_counts(valid: tf.Tensor) -> tf.Tensor:
    """Returns max(1, number of real frames) `(B,)` float32 for the padding mask `valid` `(B, T)` bool."""
    return tf.maximum(tf.reduce_sum(tf.cast(valid, tf.float32), axis=1), 1.0)


def masked_mean(frames: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """Averages the real frames of each video.

        mean[b] = sum_t valid[b, t] * frames[b, t] / max(sum_t valid[b, t], 1)

    Args:
        frames: `(B, T, D)` float.
        valid: `(B, T)` bool, the padding mask: True for real frames.

    Returns:
        `(B, D)` of the dtype of `frames`.
    """
    weights = tf.cast(valid, tf.float32) / frame_counts(valid)[:, tf.newaxis]
    # As a product of matrices the frames are read once and the sum is kept in float32.
    return tf.matmul(tf.expand_dims(tf.cast(weights, frames.dtype), 1), frames)[:, 0, :]


def masked_max(frames: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """Takes the maximum of each feature over the real frames of each video.

        max[b, d] = max over t with valid[b, t] of frames[b, t, d]

    Args:
        frames: `(B, T, D)` float.
        valid: `(B, T)` bool, the padding mask: True for real frames.

    Returns:
        `(B, D)` of the dtype of `frames`.
    """
    # Padding counts as the smallest float: zeros would be a lower bound of the features of a short video.
    largest = tf.reduce_max(tf.where(tf.expand_dims(valid, 2), frames, frames.dtype.min), axis=1)
    return tf.where(tf.reduce_any(valid, axis=1, keepdims=True), largest, tf.zeros_like(largest))


def first_frame(frames: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """Takes the first frame of each video, frames[:, 0], or 0 where it is padding.

    Args:
        frames: `(B, T, D)` float.
        valid: `(B, T)` bool, the padding mask: True for real frames.

    Returns:
        `(B, D)` of the dtype of `frames`.
    """
    # One more frame of zeros, so that a batch of videos without frames has a first one too.
    first = tf.where(tf.expand_dims(valid[:, :1], 2), frames[:, :1], 0.0)
    return tf.pad(first, [[0, 0], [0, 1], [0, 0]])[:, 0]
