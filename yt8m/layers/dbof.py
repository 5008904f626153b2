"""Bags of frames: project every frame or assign it to clusters, then pool over time."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from yt8m.arguments import check_at_least, choose
from yt8m.layers.assignment import SoftAssignment, cluster_mass
from yt8m.layers.dense import NormalisedDense
from yt8m.layers.gating import BottleneckGate
from yt8m.layers.normalisation import MaskedBatchNormalization, l2_normalise
from yt8m.layers.pooling import masked_max, masked_mean

ACTIVATIONS = {"sigmoid": tf.math.sigmoid, "relu6": tf.nn.relu6}
Activation = Callable[[tf.Tensor], tf.Tensor]


def _largest(detections: tf.Tensor, valid: tf.Tensor, activate: Activation) -> tf.Tensor:
    # No activation ever falls, so the largest input has the largest output: one number per video is activated, not one
    # per frame. A video without frames stays at 0.
    largest = activate(masked_max(detections, valid))
    return tf.where(tf.reduce_any(valid, axis=1, keepdims=True), largest, tf.zeros_like(largest))


def _average(detections: tf.Tensor, valid: tf.Tensor, activate: Activation) -> tf.Tensor:
    return masked_mean(activate(detections), valid)


POOLING_METHODS = {"max": _largest, "average": _average}


class DeepBagOfFrames(keras.layers.Layer):
    """Projects frames onto many detectors and pools each detector over the video.

        y[b, k] = pool_t f(BN(BN(x[b, t]) W))[k]

    Without batch normalisation there is a bias instead of the outer one, and nothing instead of the inner one.

    Args:
        cluster_size: the number of detectors.
        pooling_method: `max` or `average`.
        activation: f, `sigmoid` or `relu6`.
        add_batch_norm: whether to normalise.

    Raises:
        UserError: if there is no detector, or no such pooling method or activation.

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
        check_at_least(1, cluster_size=cluster_size)
        self.cluster_size = cluster_size
        self.pool = choose(POOLING_METHODS, pooling_method=pooling_method)
        self.activate = choose(ACTIVATIONS, activation=activation)
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


class SoftBagOfFrames(keras.layers.Layer):
    """Counts how much of a video belongs to each cluster.

        y = L2(sum_t a[t]),   a = SoftAssignment(x)

    Args:
        cluster_size: the number of clusters, K.
        max_pool: whether L2(max_t a[t]) follows.
        add_batch_norm: whether the assignment is normalised; if not, it has a bias.

    Source: Miech, Laptev & Sivic 2017, Soft-DBoW.
    """

    def __init__(self, cluster_size: int, max_pool: bool = False, add_batch_norm: bool = True, **kwargs: Any):
        super().__init__(**kwargs)
        self.max_pool = max_pool
        self.assignment = SoftAssignment(cluster_size, add_batch_norm, dtype=self.dtype_policy)

    def build(self, input_shape: Any) -> None:
        """Creates the assignment."""
        self.assignment.build(input_shape)

    def call(self, frames: tf.Tensor, valid: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Pools `frames` `(B, T, D)` where `valid` `(B, T)` is true to `(B, K)`, or `(B, 2 K)` with the maximum."""
        shares = self.assignment(frames, valid, training=training)
        counts = tf.cast(l2_normalise(cluster_mass(shares)), shares.dtype)
        return tf.concat([counts, _unit_max(shares, valid)], axis=1) if self.max_pool else counts


def _unit_max(detections: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    return l2_normalise(masked_max(detections, valid))


class GatedBagOfFrames(keras.layers.Layer):
    """A soft bag of frames whose counts are gated by each cluster's best frame.

        y = L2(sigmoid(BN(L2(max_t a[t]) A B)) * sum_t a[t]),   a = SoftAssignment(x)

    Args:
        cluster_size: the number of clusters, K.
        add_batch_norm: whether assignment and gate are normalised; if not, they have biases.

    Source: Miech, Laptev & Sivic 2017; antoine77340/Youtube-8M-WILLOW, GatedDBoF: A B goes through as many numbers as
    a frame has.
    """

    def __init__(self, cluster_size: int, add_batch_norm: bool = True, **kwargs: Any):
        super().__init__(**kwargs)
        self.cluster_size = cluster_size
        self.add_batch_norm = add_batch_norm
        self.assignment = SoftAssignment(cluster_size, add_batch_norm, dtype=self.dtype_policy)

    def build(self, input_shape: Any) -> None:
        """Creates the assignment and the gate."""
        self.assignment.build(input_shape)
        self.gate = BottleneckGate(input_shape[-1], self.add_batch_norm, dtype=self.dtype_policy)
        self.gate.build((None, self.cluster_size))

    def call(self, frames: tf.Tensor, valid: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Pools `frames` `(B, T, D)` where `valid` `(B, T)` is true to `(B, K)`."""
        shares = self.assignment(frames, valid, training=training)
        gate = tf.cast(self.gate(_unit_max(shares, valid), training=training), tf.float32)
        return tf.cast(l2_normalise(gate * cluster_mass(shares)), shares.dtype)


class MeanAndMaxBagOfFrames(keras.layers.Layer):
    """Projects frames onto detectors, and pools each both ways.

        y = [L2(mean_t f(BN(x_t W))), L2(max_t f(BN(x_t W)))]

    Args:
        cluster_size: the number of detectors, K.
        activation: f: a name of `ACTIVATIONS`; `relu`, WILLOW's name for relu6; or `glu`, half of 2 K projections gated
            by the other half.
        add_batch_norm: whether to normalise; if not, there is a bias.

    Raises:
        UserError: if there is no detector or no such activation.

    Source: antoine77340/Youtube-8M-WILLOW, DBoF.
    """

    def __init__(self, cluster_size: int, activation: str = "relu6", add_batch_norm: bool = True, **kwargs: Any):
        super().__init__(**kwargs)
        check_at_least(1, cluster_size=cluster_size)
        options: dict[str, Activation] = {**ACTIVATIONS, "relu": tf.nn.relu6, "glu": _gated_half}
        self.activate = choose(options, activation=activation)
        self.num_projections = 2 * cluster_size if activation == "glu" else cluster_size
        self.add_batch_norm = add_batch_norm

    def build(self, input_shape: Any) -> None:
        """Creates the projection."""
        self.projection = NormalisedDense(
            self.num_projections,
            add_batch_norm=self.add_batch_norm,
            bias_stddev=input_shape[-1] ** -0.5,
            dtype=self.dtype_policy,
        )
        self.projection.build(input_shape)

    def call(self, frames: tf.Tensor, valid: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Pools `frames` `(B, T, D)` where `valid` `(B, T)` is true to `(B, 2 K)`."""
        detections = self.activate(self.projection(frames, valid=valid, training=training))
        return tf.concat([l2_normalise(masked_mean(detections, valid)), _unit_max(detections, valid)], axis=1)


def _gated_half(x: tf.Tensor) -> tf.Tensor:
    values, gates = tf.split(x, 2, axis=-1)
    return values * tf.sigmoid(gates)
