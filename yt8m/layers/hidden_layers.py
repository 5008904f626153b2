"""Hidden layers one after the other."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from yt8m.arguments import check_at_least, check_share
from yt8m.layers.dense import NormalisedDense
from yt8m.layers.dropout import KeyedDropout
from yt8m.layers.layer_list import LayerList


class HiddenLayers(keras.layers.Layer):
    """Fully connected layers with rectified units, each with dropout.

        h_i = dropout(relu(BN(h_(i-1) W_i)))   or, without normalisation,   dropout(relu(h_(i-1) W_i + b_i))

    W_i starts with standard deviation sqrt(2 / width of h_(i-1)), with which h_i is about as long as h_(i-1) per unit.

    Args:
        widths: the width of each h_i, in order.
        add_batch_norm: whether to batch-normalise; if not, biases are added.
        dropout: the dropout rate of each h_i, in [0, 1).
        salt: a name that makes this layer's random numbers independent of those of other layers.

    Raises:
        UserError: if a width is below 1 or `dropout` is outside [0, 1).

    Source: the initialisation is that of He et al. 2015, "Delving deep into rectifiers".
    """

    def __init__(self, widths: Sequence[int], *, add_batch_norm: bool, dropout: float, salt: str, **kwargs: Any):
        super().__init__(**kwargs)
        for width in widths:
            check_at_least(1, widths=width)
        check_share(dropout=dropout)
        self.widths = tuple(widths)
        self.add_batch_norm = add_batch_norm
        self.dropouts = [KeyedDropout(dropout, f"{salt} {depth}") for depth in range(len(widths))]

    def build(self, input_shape: Any) -> None:
        """Creates the kernels and biases, or batch normalisations, for inputs of width D."""
        inputs = (input_shape[-1], *self.widths[:-1])
        self.layers = LayerList(
            self,
            "layer",
            (
                NormalisedDense(
                    width,
                    add_batch_norm=self.add_batch_norm,
                    kernel_stddev=math.sqrt(2.0 / size),
                    dtype=self.dtype_policy,
                )
                for size, width in zip(inputs, self.widths, strict=True)
            ),
        )
        for size, layer in zip(inputs, self.layers, strict=True):
            layer.build((*input_shape[:-1], size))

    def call(
        self,
        x: tf.Tensor,
        valid: tf.Tensor | None = None,
        random_key: tf.Tensor | None = None,
        training: bool = False,
    ) -> tf.Tensor:
        """Maps `x` `(B, ..., D)` float to `(B, ..., E)`, E the last width.

        `valid` `(B, ...)` bool is True for the positions that the batch moments are taken over; None for all.
        `random_key` `(B,)` int64 is each video's source of randomness, for dropout; may be None where nothing is
        dropped.
        """
        for layer, dropout in zip(self.layers, self.dropouts, strict=True):
            x = tf.nn.relu(layer(x, valid=valid, training=training))
            x = dropout(x, random_key=random_key, training=training)
        return x
