"""Convolutions over time."""

from typing import Any

import keras
import tensorflow as tf

from yt8m.arguments import check_at_least
from yt8m.layers.layer_list import LayerList


class FrameCNN(keras.layers.Layer):
    """Linear filters over the last 1, 2 and 3 frames, concatenated.

        y[b, t] = [x_t W_1,   [x_t, x_(t-1)] W_2,   [x_t, x_(t-1), x_(t-2)] W_3],   x_t = 0 before the first frame

    with R, R and 2 R filters. No frame sees a later one, so padding at the end reaches no real frame.

    Args:
        filters: R, the number of filters over a single frame.

    Raises:
        UserError: if `filters` is below 1.

    Source: Wang, Zhang & Wu 2017, "The monkeytyping solution to the YouTube-8M video understanding challenge";
    wangheda/youtube-8m: no biases, and weights of a truncated normal distribution of standard deviation 0.1.
    """

    def __init__(self, filters: int, **kwargs: Any):
        super().__init__(**kwargs)
        check_at_least(1, filters=filters)
        widths = (filters, filters, 2 * filters)
        self.filters = LayerList(self, "filter", (self._make_filters(width) for width in widths))

    def _make_filters(self, count: int) -> keras.layers.Dense:
        normal = keras.initializers.TruncatedNormal(stddev=0.1)
        return keras.layers.Dense(count, use_bias=False, kernel_initializer=normal, dtype=self.dtype_policy)

    def build(self, input_shape: Any) -> None:
        """Creates the kernels W_n `(n D, filters)`, n = 1, 2, 3, for frames of width D."""
        for length, dense in enumerate(self.filters, start=1):
            dense.build((*input_shape[:-1], length * input_shape[-1]))

    def call(self, frames: tf.Tensor) -> tf.Tensor:
        """Filters `frames` `(B, T, D)` float: `(B, T, 4 R)` of the compute dtype."""
        shifted = [frames]
        for _ in range(len(self.filters) - 1):
            shifted.append(tf.pad(shifted[-1], [[0, 0], [1, 0], [0, 0]])[:, :-1])
        filtered = [dense(tf.concat(shifted[:length], axis=-1)) for length, dense in enumerate(self.filters, start=1)]
        return tf.concat(filtered, axis=-1)
