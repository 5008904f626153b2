"""Soft assignment of frames to clusters, the first step of VLAD, Fisher vectors and bags of words."""

from typing import Any

import keras
import tensorflow as tf

from yt8m.arguments import check_at_least
from yt8m.layers.dense import NormalisedDense


def masked_softmax(logits: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """Softmax over the last axis; a frame that is padding belongs to no cluster at all.

        a[b, t, k] = valid[b, t] * softmax_k(logits[b, t])[k]

    Args:
        logits: `(B, T, K)` float.
        valid: `(B, T)` bool.

    Returns:
        `(B, T, K)` of the dtype of `logits`; computed in float32.
    """
    # Softmax turns whatever batch norm made of a zero frame into weights that sum to 1: only a mask stops padding.
    shares = tf.where(valid[:, :, tf.newaxis], tf.nn.softmax(tf.cast(logits, tf.float32)), 0.0)
    return tf.cast(shares, logits.dtype)


def weighted_sums(shares: tf.Tensor, frames: tf.Tensor) -> tf.Tensor:
    """Returns sum_t a[b, t, k] x[b, t, d] as `(B, K, D)`, of shares `(B, T, K)` and frames `(B, T, D)`."""
    return tf.matmul(shares, frames, transpose_a=True)


def cluster_mass(shares: tf.Tensor) -> tf.Tensor:
    """Returns S[b, k] = sum_t a[b, t, k] as `(B, K)` float32: in bfloat16 a sum stops growing at 256."""
    return tf.reduce_sum(tf.cast(shares, tf.float32), axis=1)


class SoftAssignment(keras.layers.Layer):
    """Assigns every frame to clusters, in shares that add up to 1.

        a[b, t] = valid[b, t] * softmax(BN(x[b, t] W))

    Args:
        cluster_size: the number of clusters, K.
        add_batch_norm: whether to normalise; if not, there is a bias instead.

    Raises:
        UserError: if there is no cluster.

    Source: Miech, Laptev & Sivic 2017, "Learnable pooling with Context Gating": W is decoupled from any centres.
    """

    def __init__(self, cluster_size: int, add_batch_norm: bool = True, **kwargs: Any):
        super().__init__(**kwargs)
        check_at_least(1, cluster_size=cluster_size)
        self.cluster_size = cluster_size
        self.add_batch_norm = add_batch_norm

    def build(self, input_shape: Any) -> None:
        """Creates W."""
        self.projection = NormalisedDense(
            self.cluster_size,
            add_batch_norm=self.add_batch_norm,
            bias_stddev=input_shape[-1] ** -0.5,
            dtype=self.dtype_policy,
        )
        self.projection.build(input_shape)

    def call(self, frames: tf.Tensor, valid: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Assigns `frames` `(B, T, D)` that exist where `valid` `(B, T)` is true: `(B, T, K)`."""
        return masked_softmax(self.projection(frames, valid=valid, training=training), valid)
