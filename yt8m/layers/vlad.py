"""VLAD, vectors of locally aggregated descriptors: per cluster the weighted sum of the residuals from its centre."""

import math
from typing import Any

import keras
import tensorflow as tf

from yt8m.arguments import check_at_least
from yt8m.layers.assignment import SoftAssignment, masked_softmax, residual_sums, weighted_sums
from yt8m.layers.normalisation import l2_normalise, unit_scale


def unit_descriptor(clusters: tf.Tensor) -> tf.Tensor:
    """Concatenates `clusters` `(B, K, D)` float per video and scales the result to unit length: `(B, K * D)`."""
    return l2_normalise(tf.reshape(clusters, (-1, clusters.shape[1] * clusters.shape[2])))


def unit_clusters(clusters: tf.Tensor) -> tf.Tensor:
    """Scales each cluster of `clusters` `(B, K, D)` float, then their concatenation, to unit length: `(B, K * D)`."""
    # The norm of the concatenation is computed from the norms of the clusters, so that these are scaled only once.
    exact = tf.cast(clusters, tf.float32)
    squares = tf.reduce_sum(tf.square(exact), axis=2)
    own = unit_scale(squares)
    scale = own * unit_scale(tf.reduce_sum(squares * tf.square(own), axis=1, keepdims=True))
    scaled = tf.cast(exact * scale[:, :, tf.newaxis], clusters.dtype)
    return tf.reshape(scaled, (-1, clusters.shape[1] * clusters.shape[2]))


class NetRVLAD(keras.layers.Layer):
    """NetRVLAD: VLAD without residuals, the weighted sum of the frames per cluster.

        V_k = sum_t a[t, k] x_t,   y = L2([L2(V_1), L2(V_2), ...]),   a = SoftAssignment(x)

    Args:
        cluster_size: the number of clusters, K.
        add_batch_norm: whether the assignment logits are batch-normalised; if not, a bias is added.
        flatten: whether to return y `(B, K * D)`; if not, L2(V_k) as `(B, K, D)`.

    Raises:
        UserError: if `cluster_size` is below 1.

    Source: Miech, Laptev & Sivic 2017, NetRVLAD (lightvlad in their code). y is ordered cluster by cluster, in their
    code feature by feature.
    """

    def __init__(self, cluster_size: int, add_batch_norm: bool = True, flatten: bool = True, **kwargs: Any):
        super().__init__(**kwargs)
        check_at_least(1, cluster_size=cluster_size)
        self.cluster_size = cluster_size
        self.flatten = flatten
        self.assignment = SoftAssignment(cluster_size, add_batch_norm, dtype=self.dtype_policy)

    def build(self, input_shape: Any) -> None:
        """Creates the kernel W `(D, K)` of the soft assignment, and batch normalisation or a bias `(K,)`."""
        self.assignment.build(input_shape)

    def _cluster_vectors(self, name: str, size: int) -> keras.Variable:
        initializer = keras.initializers.RandomNormal(stddev=1.0 / math.sqrt(size))
        return self.add_weight(shape=(self.cluster_size, size), initializer=initializer, name=name)

    def assign(self, frames: tf.Tensor, valid: tf.Tensor, training: bool) -> tf.Tensor:
        """Returns the soft assignment of `frames` `(B, T, D)` float to clusters, `(B, T, K)`, 0 for padding.

        `valid` `(B, T)` bool is the padding mask, True for real frames.
        """
        return self.assignment(frames, valid, training=training)

    def aggregate(self, shares: tf.Tensor, frames: tf.Tensor) -> tf.Tensor:
        """Returns sum_t shares[b, t, k] frames[b, t], `(B, K, D)`.

        Args:
            shares: `(B, T, K)` float, the soft assignment.
            frames: `(B, T, D)` float.
        """
        return weighted_sums(shares, frames)

    def call(self, frames: tf.Tensor, valid: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Pools `frames` `(B, T, D)` float to `(B, K * D)`, or to `(B, K, D)` if `flatten` is False.

        `valid` `(B, T)` bool is the padding mask, True for real frames. A video without real frames gives zeros.
        """
        clusters = self.aggregate(self.assign(frames, valid, training), frames)
        return unit_clusters(clusters) if self.flatten else l2_normalise(clusters)


class GatedVLAD(NetRVLAD):
    """NetRVLAD with a trained gate per cluster and feature, the same for all videos.

        V_k = sigmoid(g_k) * sum_t a[t, k] x_t,   y = L2([L2(V_1), L2(V_2), ...]),   a = SoftAssignment(x)

    Args:
        cluster_size: the number of clusters, K.
        add_batch_norm: whether the assignment logits are batch-normalised; if not, a bias is added.
        flatten: whether to return y `(B, K * D)`; if not, L2(V_k) as `(B, K, D)`.

    Raises:
        UserError: if `cluster_size` is below 1.

    Source: antoine77340/Youtube-8M-WILLOW, NetVLAGD.
    """

    def build(self, input_shape: Any) -> None:
        """Creates the kernel W `(D, K)` of the soft assignment, BN or a bias `(K,)`, and the gates g `(K, D)`."""
        super().build(input_shape)
        self.gates = self._cluster_vectors("gates", input_shape[-1])

    def aggregate(self, shares: tf.Tensor, frames: tf.Tensor) -> tf.Tensor:
        """Returns sigmoid(g[k]) * sum_t shares[b, t, k] frames[b, t], `(B, K, D)`, g the trained gates `(K, D)`."""
        return tf.sigmoid(tf.convert_to_tensor(self.gates)) * super().aggregate(shares, frames)


class NetVLAD(NetRVLAD):
    """NetVLAD: the weighted sum of the frames' residuals from the centre of each cluster.

        V_k = sum_t a[t, k] (x_t - c_k) = sum_t a[t, k] x_t - (sum_t a[t, k]) c_k

    and y = L2([L2(V_1), L2(V_2), ...]) with a = SoftAssignment(x). With `tied`, a is the posterior of an isotropic
    Gaussian mixture instead:

        a[t, k] = softmax_k(2 alpha x_t . c_k - alpha |c_k|^2) = softmax_k(-alpha |x_t - c_k|^2)

    Args:
        cluster_size: the number of clusters, K.
        add_batch_norm: whether the logits of SoftAssignment are batch-normalised; if not, a bias is added.
        flatten: whether to return y `(B, K * D)`; if not, L2(V_k) as `(B, K, D)`.
        tied: whether a is computed from the centres c and a trained alpha; if not, a = SoftAssignment(x).

    Raises:
        UserError: if `cluster_size` is below 1.

    Source: Arandjelovic et al. 2016, "NetVLAD" (tied; there alpha is a constant of the initialisation); Miech, Laptev &
    Sivic 2017 (not tied).
    """

    def __init__(
        self,
        cluster_size: int,
        add_batch_norm: bool = True,
        flatten: bool = True,
        tied: bool = False,
        **kwargs: Any,
    ):
        super().__init__(cluster_size, add_batch_norm, flatten, **kwargs)
        self.tied = tied

    def build(self, input_shape: Any) -> None:
        """Creates the centres c `(K, D)`, and alpha `()` or the kernel W `(D, K)` of the assignment, BN or a bias."""
        self.centres = self._cluster_vectors("centres", input_shape[-1])
        if self.tied:
            self.alpha = self.add_weight(shape=(), initializer="ones", name="alpha")
        else:
            super().build(input_shape)

    def assign(self, frames: tf.Tensor, valid: tf.Tensor, training: bool) -> tf.Tensor:
        """Returns the soft assignment of `frames` `(B, T, D)` float to clusters, `(B, T, K)`, 0 for padding."""
        if not self.tied:
            return super().assign(frames, valid, training)
        centres = tf.convert_to_tensor(self.centres)
        products = tf.tensordot(frames, centres, axes=((2,), (1,)))
        return masked_softmax(self.alpha * (2.0 * products - tf.reduce_sum(tf.square(centres), axis=1)), valid)

    def aggregate(self, shares: tf.Tensor, frames: tf.Tensor) -> tf.Tensor:
        """Returns sum_t shares[b, t, k] (frames[b, t] - centres[k]), `(B, K, D)`, without a tensor `(B, T, K, D)`."""
        return residual_sums(shares, frames, self.centres)
