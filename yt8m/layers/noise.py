"""Gaussian noise whose random numbers are a function of the example, not of the device or the step."""

from typing import Any

import keras
import tensorflow as tf

from yt8m.arguments import check_at_least
from yt8m.randomness import normal


class KeyedNoise(keras.layers.Layer):
    """Adds Gaussian noise to features in training; the identity at evaluation.

        y[b, e] = x[b, e] + stddev * n[b, e],   n[b, e] standard normal, from random_key[b]

    Args:
        stddev: the standard deviation of the noise.
        salt: a name that makes this layer's random numbers independent of those of other layers.

    Raises:
        UserError: if `stddev` is below 0.

    Source: feature augmentation of wangheda/youtube-8m (0.1) and chuckcho/youtube-8m-axon (0.03).
    """

    def __init__(self, stddev: float, salt: str, **kwargs: Any):
        super().__init__(autocast=False, **kwargs)
        check_at_least(0, stddev=stddev)
        self.stddev = stddev
        self.salt = salt

    def build(self, input_shape: Any) -> None:
        """Creates nothing: noise has no weights."""

    def call(self, x: tf.Tensor, random_key: tf.Tensor | None = None, training: bool = False) -> tf.Tensor:
        """Adds noise to `x` `(B, E)` float: the same shape and dtype.

        Args:
            x: `(B, E)` float.
            random_key: `(B,)` int64, each example's source of randomness; may be None where no noise is added.
            training: whether to add noise.

        Raises:
            ValueError: if noise is to be added and `random_key` is None.
        """
        if not training or self.stddev == 0.0:
            return x
        if random_key is None:
            raise ValueError("Noise in training needs the examples' random keys, batch['key'].")
        return x + tf.cast(self.stddev * normal(random_key, tf.shape(x)[-1], self.salt), x.dtype)
