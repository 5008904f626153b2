"""From the bytes of a batch to float frames and which of them are valid: exist, not padding."""

from collections.abc import Mapping

import tensorflow as tf

from yt8m.batch import NUM_FRAMES
from yt8m.schema import QUANTISATION_OFFSET, QUANTISATION_STEP, DataSpec


def dequantise(feature: tf.Tensor) -> tf.Tensor:
    """Turns stored bytes into numbers; features that were stored as floats stay what they are.

        x = q * 4 / 255 - 2 + 4 / 512

    Args:
        feature: uint8 of any shape, or float.

    Returns:
        float32 of the same shape.

    Source: google/youtube-8m, utils.Dequantize.
    """
    if feature.dtype != tf.uint8:
        return tf.cast(feature, tf.float32)
    return tf.cast(feature, tf.float32) * QUANTISATION_STEP + QUANTISATION_OFFSET


def valid_frames(num_frames: tf.Tensor, width: tf.Tensor | int) -> tf.Tensor:
    """Returns `(B, width)` bool: whether frame t of a video of `num_frames` `(B,)` exists."""
    return tf.range(width)[tf.newaxis, :] < tf.cast(num_frames, tf.int32)[:, tf.newaxis]


def read_frames(batch: Mapping[str, tf.Tensor], spec: DataSpec) -> tuple[tf.Tensor, tf.Tensor]:
    """Dequantises all features of a batch and sets them side by side.

    Args:
        batch: features `(B, T, size)` uint8 or float, and `num_frames` `(B,)`; what follows the end of a video is
            ignored.
        spec: names the features, in order.

    Returns:
        frames: `(B, T, D)` float32, exactly 0 after the end of a video.
        valid: `(B, T)` bool, whether a frame exists.
    """
    features = [batch[name] for name in spec.feature_names]
    valid = valid_frames(batch[NUM_FRAMES], tf.shape(features[0])[1])
    if all(feature.dtype == tf.uint8 for feature in features):
        frames = dequantise(_side_by_side(features))  # a quarter of the bytes to copy
    else:
        frames = _side_by_side([dequantise(feature) for feature in features])
    # A zero byte means -1.99, so padding becomes 0 only here. tf.where also stops NaN in float padding.
    frames = tf.where(valid[:, :, tf.newaxis], frames, 0.0)
    return tf.ensure_shape(frames, (None, None, spec.total_size)), valid


def read_vectors(batch: Mapping[str, tf.Tensor], spec: DataSpec) -> tf.Tensor:
    """Sets the features of a video-level batch, `(B, size)` each, side by side: `(B, D)` float32."""
    vectors = _side_by_side([dequantise(batch[name]) for name in spec.feature_names])
    return tf.ensure_shape(vectors, (None, spec.total_size))


def _side_by_side(features: list[tf.Tensor]) -> tf.Tensor:
    return features[0] if len(features) == 1 else tf.concat(features, axis=-1)
