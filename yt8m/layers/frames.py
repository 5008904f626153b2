"""From the stored features of a batch to float frames and their padding mask."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from yt8m.batch import NUM_FRAMES
from yt8m.layers.normalisation import l2_normalise
from yt8m.schema import QUANTISATION_OFFSET, QUANTISATION_STEP, DataSpec


def dequantise(feature: tf.Tensor) -> tf.Tensor:
    """Dequantises stored bytes q to floats in about [-2, 2]; float features are only cast.

        x = q * 4 / 255 - 2 + 4 / 512

    Args:
        feature: uint8 or float, any shape.

    Returns:
        float32 of the same shape.

    Source: google/youtube-8m, utils.Dequantize.
    """
    if feature.dtype != tf.uint8:
        return tf.cast(feature, tf.float32)
    return tf.cast(feature, tf.float32) * QUANTISATION_STEP + QUANTISATION_OFFSET


def valid_frames(num_frames: tf.Tensor, width: tf.Tensor | int) -> tf.Tensor:
    """Returns the padding mask `(B, width)` bool, True where t < `num_frames`, for `num_frames` `(B,)` int."""
    return tf.range(width)[tf.newaxis, :] < tf.cast(num_frames, tf.int32)[:, tf.newaxis]


def pad_mask(valid: tf.Tensor, paddings: Any) -> tf.Tensor:
    """Extends a padding mask by False: `valid` `(B, T)` bool by `paddings` as `tf.pad` takes them, `(B', T')`."""
    # Not as it is: LiteRT pads numbers alone.
    return tf.pad(tf.cast(valid, tf.int32), paddings) > 0


def read_frames(batch: Mapping[str, tf.Tensor], spec: DataSpec) -> tuple[tf.Tensor, tf.Tensor]:
    """Dequantises all features of a batch and concatenates them along the last axis, scaled by their weights if any.

    Args:
        batch: features `(B, T, size)` uint8 or float by name, and `num_frames` `(B,)` int; frames t >= num_frames are
            padding, whose values are ignored.
        spec: the features' names and sizes, in the order of concatenation, and their weights.

    Returns:
        frames: `(B, T, D)` float32, exactly 0 where padded; D is the sum of the features' sizes.
        valid: `(B, T)` bool, the padding mask: True for real frames.
    """
    features = [batch[name] for name in spec.feature_names]
    valid = valid_frames(batch[NUM_FRAMES], tf.shape(features[0])[1])
    if all(feature.dtype == tf.uint8 for feature in features):
        frames = dequantise(_side_by_side(features))  # a quarter of the bytes to copy
    else:
        frames = _side_by_side([dequantise(feature) for feature in features])
    # A zero byte means -1.99, so padding becomes 0 only here. tf.where also stops NaN in float padding.
    frames = tf.where(tf.expand_dims(valid, 2), frames, 0.0)
    return tf.ensure_shape(_weighted(frames, spec), (None, None, spec.total_size)), valid


def read_vectors(batch: Mapping[str, tf.Tensor], spec: DataSpec) -> tf.Tensor:
    """Dequantises the features `(B, size)` of a video-level batch and concatenates them to `(B, D)` float32.

    Where `spec` has weights of features, each is scaled to that length.
    """
    vectors = _side_by_side([dequantise(batch[name]) for name in spec.feature_names])
    return tf.ensure_shape(_weighted(vectors, spec), (None, spec.total_size))


def _weighted(x: tf.Tensor, spec: DataSpec) -> tf.Tensor:
    """Scales each feature's part of `x` `(..., D)` to the length that `spec.feature_weights` has for it, if it does."""
    if not spec.feature_weights:
        return x
    parts = zip(spec.feature_weights, tf.split(x, spec.feature_sizes, axis=-1), strict=True)
    return tf.concat([weight * l2_normalise(part) for weight, part in parts], axis=-1)


def _side_by_side(features: list[tf.Tensor]) -> tf.Tensor:
    return features[0] if len(features) == 1 else tf.concat(features, axis=-1)
