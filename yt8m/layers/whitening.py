"""Reversal of the PCA whitening that was applied to the image features before they were stored."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from yt8m.schema import QUANTISATION_HALF_STEP, RGB_SIZE, RGB_STANDARD_DEVIATIONS, WHITENING_EPSILON, DataSpec


def rgb_standard_deviations() -> np.ndarray:
    """Returns the standard deviations `(1024,)` float64 of the image features' principal components before whitening.

    Only some are known (RGB_STANDARD_DEVIATIONS); the others are interpolated linearly in log(deviation) over
    log(index).
    """
    known = np.array(list(RGB_STANDARD_DEVIATIONS.items()))
    indices = np.log(np.arange(1.0, RGB_SIZE + 1.0))
    return np.exp(np.interp(indices, np.log(known[:, 0]), np.log(known[:, 1])))


class ReverseWhitening(keras.layers.Layer):
    """Multiplies every feature by a trained scale that starts as the reversal of the stored PCA whitening.

        y[b, t, d] = valid[b, t] * (x[b, t, d] - shift) * scale[d]

    The shift is half a quantisation step. For a feature named rgb of size 1024 the scale starts at the standard
    deviations of the principal components, for any other at 1.

    Args:
        spec: the features' names and sizes.

    Source: Lin, Xiao & Fan 2018, "NeXtVLAD"; linrongc/youtube-8m, where only rgb is shifted, the scale is not trained,
    and padding is not set to 0 after the shift.
    """

    def __init__(self, spec: DataSpec, **kwargs: Any):
        super().__init__(**{**kwargs, "dtype": "float32"})
        features = list(zip(spec.feature_names, spec.feature_sizes, strict=True))
        whitened = np.concatenate([np.full(size, (name, size) == ("rgb", RGB_SIZE)) for name, size in features])
        self.initial_scale = np.ones(spec.total_size)
        self.initial_scale[whitened] = rgb_standard_deviations()[: whitened.sum()] + WHITENING_EPSILON

    def build(self, input_shape: Any) -> None:
        """Creates the scale of every feature, `(D,)` float32."""
        self.scale = self.add_weight(
            shape=self.initial_scale.shape,
            initializer=lambda shape, dtype: tf.constant(self.initial_scale, dtype, shape),
            name="scale",
        )

    def call(self, frames: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        """Returns the shifted and scaled `frames` `(B, T, D)` float32, `(B, T, D)` float32, 0 where padded.

        `valid` `(B, T)` bool is the padding mask, True for real frames.
        """
        return tf.where(tf.expand_dims(valid, 2), (frames - QUANTISATION_HALF_STEP) * self.scale, 0.0)
