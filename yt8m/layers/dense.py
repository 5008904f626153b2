"""A linear map followed by batch normalisation or, without it, by a bias."""

import math
from typing import Any

import keras
import tensorflow as tf

from yt8m.arguments import check_at_least
from yt8m.layers.normalisation import MaskedBatchNormalization


class NormalisedDense(keras.layers.Layer):
    """A linear map, batch-normalised or with a bias.

        y = BN(x W)   or   x W + b

    Args:
        units: the width of y.
        add_batch_norm: whether to batch-normalise; the offset of the normalisation then takes the place of b.
        kernel_stddev: the standard deviation of the normal distribution that initialises W; None for 1 / sqrt(width
            of x).
        bias_stddev: the standard deviation of the normal distribution that initialises b.

    Raises:
        UserError: if `units` is below 1 or a standard deviation is below 0.

    Source: google/youtube-8m, DbofModel; the layers of WILLOW's models are of this form too.
    """

    def __init__(
        self,
        units: int,
        *,
        add_batch_norm: bool = True,
        kernel_stddev: float | None = None,
        bias_stddev: float = 0.01,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        check_at_least(1, units=units)
        check_at_least(0, bias_stddev=bias_stddev)
        if kernel_stddev is not None:
            check_at_least(0, kernel_stddev=kernel_stddev)
        self.units = units
        self.kernel_stddev = kernel_stddev
        self.bias_stddev = bias_stddev
        self.batch_norm = MaskedBatchNormalization(dtype=self.dtype_policy) if add_batch_norm else None

    def build(self, input_shape: Any) -> None:
        """Creates the kernel W `(D, units)`, and batch normalisation or a bias b `(units,)`."""
        size = input_shape[-1]
        stddev = 1.0 / math.sqrt(size) if self.kernel_stddev is None else self.kernel_stddev
        self.kernel = self.add_weight(
            shape=(size, self.units), initializer=keras.initializers.RandomNormal(stddev=stddev), name="kernel"
        )
        if self.batch_norm is None:
            self.bias = self.add_weight(
                shape=(self.units,), initializer=keras.initializers.RandomNormal(stddev=self.bias_stddev), name="bias"
            )
        else:
            self.batch_norm.build((*input_shape[:-1], self.units))

    def call(self, x: tf.Tensor, valid: tf.Tensor | None = None, training: bool = False) -> tf.Tensor:
        """Maps `x` `(..., D)` float to `(..., units)`.

        `valid` `(...)` bool is True for the positions that the batch moments are taken over; None for all.
        """
        y = tf.tensordot(x, tf.convert_to_tensor(self.kernel), axes=1)
        if self.batch_norm is None:
            return y + self.bias
        return self.batch_norm(y, valid=valid, training=training)
