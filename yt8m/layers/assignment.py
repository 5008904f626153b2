"""Soft assignment of frames to clusters, the first step of VLAD, Fisher vectors and bags of words."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras
import tensorflow as tf

from yt8m.arguments import check_at_least
from yt8m.layers.dense import NormalisedDense

_watched: ContextVar[list[tf.Tensor] | None] = ContextVar("watched", default=None)


@contextmanager
def watched_shares() -> Iterator[list[tf.Tensor]]:
    """Collects what the layers that are called in the block assign to clusters, to look at it.

    Yields:
        a list, which gets `(B, T, K)` float of each call of such a layer.
    """
    shares: list[tf.Tensor] = []
    before = _watched.set(shares)
    try:
        yield shares
    finally:
        _watched.reset(before)


def watch_shares(shares: tf.Tensor) -> None:
    """Hands `shares` `(B, T, K)` float, of every frame in every cluster, to `watched_shares`, if somebody looks."""
    watched = _watched.get()
    if watched is not None:
        watched.append(shares)


def masked_softmax(logits: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """Softmax over the clusters; padding frames get 0 for every cluster.

        a[b, t, k] = valid[b, t] * softmax_k(logits[b, t])[k]

    Args:
        logits: `(B, T, K)` float, unnormalised scores of the K clusters.
        valid: `(B, T)` bool, the padding mask: True for real frames.

    Returns:
        `(B, T, K)` of the dtype of `logits`; computed in float32.
    """
    # Softmax turns whatever batch norm made of a zero frame into weights that sum to 1: only a mask stops padding.
    shares = tf.where(tf.expand_dims(valid, 2), tf.nn.softmax(tf.cast(logits, tf.float32)), 0.0)
    watch_shares(shares)
    return tf.cast(shares, logits.dtype)


def weighted_sums(shares: tf.Tensor, frames: tf.Tensor) -> tf.Tensor:
    """Returns sum_t shares[b, t, k] frames[b, t, d] `(B, K, D)` of `shares` `(B, T, K)` and `frames` `(B, T, D)`."""
    return tf.matmul(shares, frames, transpose_a=True)


def cluster_mass(shares: tf.Tensor) -> tf.Tensor:
    """Returns sum_t shares[b, t, k] `(B, K)` float32 of `shares` `(B, T, K)` float.

    Summed in float32, because a sum of ones in bfloat16 stops growing at 256.
    """
    return tf.reduce_sum(tf.cast(shares, tf.float32), axis=1)


def residual_sums(shares: tf.Tensor, frames: tf.Tensor, centres: tf.Tensor) -> tf.Tensor:
    """Sums the residuals of frames from the centre of each cluster, without a tensor `(B, T, K, D)`.

        V[b, k] = sum_t shares[b, t, k] (frames[b, t] - centres[k])
                = sum_t shares[b, t, k] frames[b, t] - (sum_t shares[b, t, k]) centres[k]

    The difference is taken in float32: its two sides grow with the number of frames, and where they nearly cancel, the
    digits of bfloat16 would be those of the sides, not of V.

    Args:
        shares: `(B, T, K)` float, the soft assignment.
        frames: `(B, T, D)` float.
        centres: `(K, D)` float.

    Returns:
        V `(B, K, D)`, of the dtype of `frames`.
    """
    of_centres = cluster_mass(shares)[:, :, tf.newaxis] * tf.cast(centres, tf.float32)
    return tf.cast(tf.cast(weighted_sums(shares, frames), tf.float32) - of_centres, frames.dtype)


class SoftAssignment(keras.layers.Layer):
    """Soft assignment: every real frame has one weight per cluster, and its weights add up to 1.

        a[b, t] = valid[b, t] * softmax(BN(x[b, t] W))   or, without normalisation,   softmax(x[b, t] W + b)

    Args:
        cluster_size: the number of clusters, K.
        add_batch_norm: whether to batch-normalise the logits; if not, a bias is added.

    Raises:
        UserError: if `cluster_size` is below 1.

    Source: Miech, Laptev & Sivic 2017, "Learnable pooling with Context Gating": W is trained independently of any
    cluster centres.
    """

    def __init__(self, cluster_size: int, add_batch_norm: bool = True, **kwargs: Any):
        super().__init__(**kwargs)
        check_at_least(1, cluster_size=cluster_size)
        self.cluster_size = cluster_size
        self.add_batch_norm = add_batch_norm

    def build(self, input_shape: Any) -> None:
        """Creates the kernel W `(D, K)`, and batch normalisation or a bias `(K,)`."""
        self.projection = NormalisedDense(
            self.cluster_size,
            add_batch_norm=self.add_batch_norm,
            bias_stddev=input_shape[-1] ** -0.5,
            dtype=self.dtype_policy,
        )
        self.projection.build(input_shape)

    def call(self, frames: tf.Tensor, valid: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns the weights `(B, T, K)` of `frames` `(B, T, D)` float, 0 for padding.

        `valid` `(B, T)` bool is the padding mask, True for real frames.
        """
        return masked_softmax(self.projection(frames, valid=valid, training=training), valid)
