"""Deep bags of frames (DBoF): project every frame or assign it softly to clusters, then pool over time."""

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
    # Every activation is monotonic, so the largest input has the largest output: the activation is computed once per
    # video, not once per frame. A video without real frames gives 0, not f(0).
    largest = activate(masked_max(detections, valid))
    return tf.where(tf.reduce_any(valid, axis=1, keepdims=True), largest, tf.zeros_like(largest))


def _average(detections: tf.Tensor, valid: tf.Tensor, activate: Activation) -> tf.Tensor:
    return masked_mean(activate(detections), valid)


POOLING_METHODS = {"max": _largest, "average": _average}


class DeepBagOfFrames(keras.layers.Layer):
    """Projects every frame, applies an activation and pools each output over time.

        y[b] = pool_t f(BN(BN(x[b, t]) W))   or, without normalisation,   pool_t f(x[b, t] W + b)

    Args:
        cluster_size: the width of the projection, K.
        pooling_method: `max` or `average` over the real frames.
        activation: f, `sigmoid` or `relu6`.
        add_batch_norm: whether to batch-normalise the frames and their projection.

    Raises:
        UserError: if `cluster_size` is below 1, or another pooling method or activation is given.

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
        """Creates the kernel W `(D, K)`, and batch normalisation before and after it, or a bias `(K,)`."""
        size = input_shape[-1]
        self.projection = NormalisedDense(
            self.cluster_size, add_batch_norm=self.add_batch_norm, bias_stddev=size**-0.5, dtype=self.dtype_policy
        )
        self.projection.build(input_shape)
        if self.input_norm is not None:
            self.input_norm.build(input_shape)

    def call(self, frames: tf.Tensor, valid: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Pools `frames` `(B, T, D)` float to `(B, cluster_size)`.

        `valid` `(B, T)` bool is the padding mask, True for real frames.
        """
        if self.input_norm is not None:
            frames = self.input_norm(frames, valid=valid, training=training)
        return self.pool(self.projection(frames, valid=valid, training=training), valid, self.activate)


class SoftBagOfFrames(keras.layers.Layer):
    """Soft histogram of a video's frames over clusters, scaled to unit length.

        y = L2(sum_t a[t])   or, with max_pool,   [L2(sum_t a[t]), L2(max_t a[t])],   a = SoftAssignment(x)

    Args:
        cluster_size: the number of clusters, K.
        max_pool: whether to append the maximum over time.
        add_batch_norm: whether the assignment logits are batch-normalised; if not, a bias is added.

    Raises:
        UserError: if `cluster_size` is below 1.

    Source: Miech, Laptev & Sivic 2017, Soft-DBoW.
    """

    def __init__(self, cluster_size: int, max_pool: bool = False, add_batch_norm: bool = True, **kwargs: Any):
        super().__init__(**kwargs)
        self.max_pool = max_pool
        self.assignment = SoftAssignment(cluster_size, add_batch_norm, dtype=self.dtype_policy)

    def build(self, input_shape: Any) -> None:
        """Creates the kernel `(D, K)` of the soft assignment, and batch normalisation or a bias `(K,)`."""
        self.assignment.build(input_shape)

    def call(self, frames: tf.Tensor, valid: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Pools `frames` `(B, T, D)` float to `(B, K)` for K clusters, or to `(B, 2 K)` if `max_pool` is True.

        `valid` `(B, T)` bool is the padding mask, True for real frames.
        """
        shares = self.assignment(frames, valid, training=training)
        counts = tf.cast(l2_normalise(cluster_mass(shares)), shares.dtype)
        return tf.concat([counts, _unit_max(shares, valid)], axis=1) if self.max_pool else counts


def _unit_max(detections: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    return l2_normalise(masked_max(detections, valid))


class GatedBagOfFrames(keras.layers.Layer):
    """Soft histogram of a video's frames over clusters, multiplied by a gate computed from each cluster's maximum.

        y = L2(sigmoid(BN(L2(max_t a[t]) A B)) * sum_t a[t]),   a = SoftAssignment(x)

    Args:
        cluster_size: the number of clusters, K.
        add_batch_norm: whether to batch-normalise the logits of assignment and gate; if not, biases are added.

    Raises:
        UserError: if `cluster_size` is below 1.

    Source: Miech, Laptev & Sivic 2017; antoine77340/Youtube-8M-WILLOW, GatedDBoF, where the rank of A B is the width
    of a frame, as here.
    """

    def __init__(self, cluster_size: int, add_batch_norm: bool = True, **kwargs: Any):
        super().__init__(**kwargs)
        self.cluster_size = cluster_size
        self.add_batch_norm = add_batch_norm
        self.assignment = SoftAssignment(cluster_size, add_batch_norm, dtype=self.dtype_policy)

    def build(self, input_shape: Any) -> None:
        """Creates the kernel W `(D, K)` of the assignment and A `(K, D)`, B `(D, K)` of the gate, with BN or biases."""
        self.assignment.build(input_shape)
        self.gate = BottleneckGate(input_shape[-1], self.add_batch_norm, dtype=self.dtype_policy)
        self.gate.build((None, self.cluster_size))

    def call(self, frames: tf.Tensor, valid: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Pools `frames` `(B, T, D)` float to `(B, K)` for K clusters.

        `valid` `(B, T)` bool is the padding mask, True for real frames.
        """
        shares = self.assignment(frames, valid, training=training)
        gate = tf.cast(self.gate(_unit_max(shares, valid), training=training), tf.float32)
        return tf.cast(l2_normalise(gate * cluster_mass(shares)), shares.dtype)


class MeanAndMaxBagOfFrames(keras.layers.Layer):
    """Projects every frame, applies an activation, and concatenates mean and maximum over time.

        y = [L2(mean_t f(BN(x_t W))), L2(max_t f(BN(x_t W)))]

    Args:
        cluster_size: the width of f's output, K.
        activation: f: `sigmoid`; `relu6`, also called `relu`, as in WILLOW's code; or `glu`, which multiplies the first
            half of a projection of width 2 K by the sigmoid of the second half.
        add_batch_norm: whether to batch-normalise x W; if not, a bias is added.

    Raises:
        UserError: if `cluster_size` is below 1, or another activation is given.

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
        """Creates the kernel W `(D, K)`, or `(D, 2 K)` for `glu`, and batch normalisation or a bias of that width."""
        self.projection = NormalisedDense(
            self.num_projections,
            add_batch_norm=self.add_batch_norm,
            bias_stddev=input_shape[-1] ** -0.5,
            dtype=self.dtype_policy,
        )
        self.projection.build(input_shape)

    def call(self, frames: tf.Tensor, valid: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Pools `frames` `(B, T, D)` float to `(B, 2 K)`, the mean and the maximum of K projections.

        `valid` `(B, T)` bool is the padding mask, True for real frames.
        """
        detections = self.activate(self.projection(frames, valid=valid, training=training))
        return tf.concat([l2_normalise(masked_mean(detections, valid)), _unit_max(detections, valid)], axis=1)


def _gated_half(x: tf.Tensor) -> tf.Tensor:
    values, gates = tf.split(x, 2, axis=-1)
    return values * tf.sigmoid(gates)
