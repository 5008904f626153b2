"""Deep bag of frames: project every frame, then pool over time."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from yt8m.errors import UserError, did_you_mean
from yt8m.layers.dense import NormalisedDense
from yt8m.layers.normalisation import MaskedBatchNormalization
from yt8m.layers.pooling import masked_max, masked_mean

ACTIVATIONS = {"sigmoid": tf.math.sigmoid, "relu6": tf.nn.relu6}
Activation = Callable[[tf.Tensor], tf.Tensor]


def _largest(detections: tf.Tensor, valid: tf.Tensor, activate: Activation) -> tf.Tensor:
    # No activation ever falls, so the largest input has the largest output: one number a video is activated, not one a
    # frame. A video without frames stays at 0.
    largest = activate(masked_max(detections, valid))
    return tf.where(tf.reduce_any(valid, axis=1, keepdims=True), largest, tf.zeros_like(largest))


def _average(detections: tf.Tensor, valid: tf.Tensor, activate: Activation) -> tf.Tensor:
    return masked_mean(activate(detections), valid)


POOLING_METHODS = {"max": _largest, "average": _average}


def choose(options: dict[str, Any], name: str, what: str) -> Any:
    """Looks up a named option.

    Raises:
        UserError: if there is none of that name.
    """
    if name not in options:
        raise UserError(f"There is no {what} '{name}'.{did_you_mean(name, options)} Known: {', '.join(options)}.")
    return options[name]


class DeepBagOfFrames(keras.layers.Layer):
    """Projects frames onto many detectors and pools each detector over the video.

        y[b, k] = pool_t f(BN(BN(x[b, t]) W))[k]

    Without batch normalisation a bias takes the place of the outer one and the inner one is left out.

    Args:
        cluster_size: the number of detectors.
        pooling_method: `max` or `average`.
        activation: f, `sigmoid` or `relu6`.
        add_batch_norm: whether to normalise.

    Raises:
        UserError: if there is no such pooling method or activation.

    Source: Abu-El-Haija et al. 2016, "YouTube-8M"; google/youtube-8m, DbofModel.
    """

    def __init__(
        self,
        cluster_size: int,
        pooling_method: str = "max",
        activation: str = "sigmoid",
        add_batch_norm: bool = True,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.cluster_size = cluster_size
        self.pool = choose(POOLING_METHODS, pooling_method, "pooling method")
        self.activate = choose(ACTIVATIONS, activation, "activation")
        self.input_norm = MaskedBatchNormalization(dtype=self.dtype_policy) if add_batch_norm else None
        self.add_batch_norm = add_batch_norm

    def build(self, input_shape: Any) -> None:
        """Creates the projection."""
        size = input_shape[-1]
        self.projection = NormalisedDense(
            self.cluster_size, add_batch_norm=self.add_batch_norm, bias_stddev=size**-0.5, dtype=self.dtype_policy
        )
        self.projection.build(input_shape)
        if self.input_norm is not None:
            self.input_norm.build(input_shape)

    def call(self, frames: tf.Tensor, valid: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Pools `frames` `(B, T, D)` where `valid` `(B, T)` is true to `(B, cluster_size)`."""
        if self.input_norm is not None:
            frames = self.input_norm(frames, valid=valid, training=training)
        return self.pool(self.projection(frames, valid=valid, training=training), valid, self.activate)
