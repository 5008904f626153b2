"""Dropout whose random numbers are a function of the example, not of the device or the step."""

from typing import Any

import keras
import tensorflow as tf

from yt8m.arguments import check_share
from yt8m.randomness import uniform


class KeyedDropout(keras.layers.Layer):
    """Dropout: sets features to 0 at random in training and scales the others up; the identity at evaluation.

        y[b, ..., e] = x[b, ..., e] * [u[b, e] >= rate] / (1 - rate),   u[b, e] uniform in [0, 1), from random_key[b]

    A feature is dropped from all frames of a video or from none.

    Args:
        rate: the dropout rate, in [0, 1).
        salt: a name that makes this layer's random numbers independent of those of other layers.

    Raises:
        UserError: if `rate` is outside [0, 1).

    Source: Srivastava et al. 2014, "Dropout", in the inverted form that needs no scaling at evaluation; one
    draw for all frames as in Gal & Ghahramani 2016, "A theoretically grounded application of dropout in RNNs".
    """

    def __init__(self, rate: float, salt: str, **kwargs: Any):
        super().__init__(autocast=False, **kwargs)
        self.supports_masking = True  # the outputs of Keras' recurrent layers carry a mask
        check_share(rate=rate)
        self.rate = rate
        self.salt = salt

    def build(self, input_shape: Any) -> None:
        """Creates nothing: dropout has no weights."""

    def call(self, x: tf.Tensor, random_key: tf.Tensor | None = None, training: bool = False) -> tf.Tensor:
        """Drops features of `x` `(B, ..., E)` float: the same shape and dtype.

        Args:
            x: `(B, ..., E)` float.
            random_key: `(B,)` int64, each example's source of randomness; may be None where nothing is dropped.
            training: whether to drop.

        Raises:
            ValueError: if features are to be dropped and `random_key` is None.
        """
        if not training or self.rate == 0.0:
            return x
        if random_key is None:
            raise ValueError("Dropout in training needs the examples' random keys, batch['key'].")
        is_kept = uniform(random_key, tf.shape(x)[-1], self.salt) >= self.rate
        is_kept = tf.reshape(is_kept, [tf.shape(x)[0], *[1] * (x.shape.rank - 2), tf.shape(x)[-1]])
        return tf.where(is_kept, x / tf.cast(1.0 - self.rate, x.dtype), tf.zeros_like(x))
