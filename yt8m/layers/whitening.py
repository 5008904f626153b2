"""Undoing the whitening that the frame features were stored with."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from yt8m.schema import QUANTISATION_HALF_STEP, RGB_SIZE, RGB_STANDARD_DEVIATIONS, WHITENING_EPSILON, DataSpec


def rgb_standard_deviations() -> np.ndarray:
    """Returns the standard deviations `(1024,)` of the image features' principal components before whitening.

    Between the components whose values are known the logarithm is interpolated along the logarithm of the index.
    """
    known = np.array(list(RGB_STANDARD_DEVIATIONS.items()))
    indices = np.log(np.arange(1.0, RGB_SIZE + 1.0))
    return np.exp(np.interp(indices, np.log(known[:, 0]), np.log(known[:, 1])))


class ReverseWhitening(keras.layers.Layer):
    """Gives image features the spread of their principal components back; the scale is learnt from there.

        y[b, t, d] = valid[b, t] * (x[b, t, d] - shift_d) * scale_d

    The shift is half a step of the quantisation. The scale starts at the components' standard deviations for the 1024
    features named rgb, and at 1 for any other.

    Args:
        spec: names the features and their sizes.

    Source: Lin, Xiao & Fan 2018, "NeXtVLAD"; linrongc/youtube-8m, where only rgb is shifted, the scale is fixed, and
    padding, which is not 0 after the shift, stays in.
    """

    def __init__(self, spec: DataSpec, **kwargs: Any):
        super().__init__(**{**kwargs, "dtype": "float32"})
        features = list(zip(spec.feature_names, spec.feature_sizes, strict=True))
        whitened = np.concatenate([np.full(size, (name, size) == ("rgb", RGB_SIZE)) for name, size in features])
        self.initial_scale = np.ones(spec.total_size)
        self.initial_scale[whitened] = rgb_standard_deviations()[: whitened.sum()] + WHITENING_EPSILON

    def build(self, input_shape: Any) -> None:
        """Creates the scale."""
        self.scale = self.add_weight(
            shape=self.initial_scale.shape,
            initializer=lambda shape, dtype: tf.constant(self.initial_scale, dtype, shape),
            name="scale",
        )

    def call(self, frames: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        """Scales `frames` `(B, T, D)`; those where `valid` `(B, T)` is false become 0."""
        return tf.where(valid[:, :, tf.newaxis], (frames - QUANTISATION_HALF_STEP) * self.scale, 0.0)
