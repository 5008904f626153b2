"""Vectors of locally aggregated descriptors: for every cluster the sum of the frames' residuals from its centre."""

import math
from typing import Any

import keras
import tensorflow as tf

from yt8m.arguments import check_at_least
from yt8m.layers.assignment import SoftAssignment, cluster_mass, masked_softmax, weighted_sums
from yt8m.layers.normalisation import l2_normalise, unit_scale


def unit_descriptor(clusters: tf.Tensor) -> tf.Tensor:
    """Concatenates the clusters `(B, K, D)` of each video and scales the result to unit length: `(B, K * D)`."""
    return l2_normalise(tf.reshape(clusters, (-1, clusters.shape[1] * clusters.shape[2])))


def unit_clusters(clusters: tf.Tensor) -> tf.Tensor:
    """Scales every cluster of `(B, K, D)`, and then all of a video side by side, to unit length: `(B, K * D)`.

    The second length follows from those of the clusters, so the clusters are read and multiplied once.
    """
    exact = tf.cast(clusters, tf.float32)
    squares = tf.reduce_sum(tf.square(exact), axis=2)
    own = unit_scale(squares)
    scale = own * unit_scale(tf.reduce_sum(squares * tf.square(own), axis=1, keepdims=True))
    scaled = tf.cast(exact * scale[:, :, tf.newaxis], clusters.dtype)
    return tf.reshape(scaled, (-1, clusters.shape[1] * clusters.shape[2]))


class NetRVLAD(keras.layers.Layer):
    """Sums the frames of every cluster, each cluster and then the whole scaled to unit length.

        V_k = sum_t a[t, k] x_t,   y = V / |V|   with every V_k at unit length first

    Args:
        cluster_size: the number of clusters, K.
        add_batch_norm: whether the assignment is normalised; if not, it has a bias.
        flatten: whether to return y as `(B, K * D)`; if not, the clusters `(B, K, D)`, each of unit length.

    Raises:
        UserError: if there is no cluster.

    Source: Miech, Laptev & Sivic 2017, NetRVLAD (their code's lightvlad). y has one cluster after the other, theirs
    one feature after the other; the layer after it is the same up to the order of its weights.
    """

    def __init__(self, cluster_size: int, add_batch_norm: bool = True, flatten: bool = True, **kwargs: Any):
        super().__init__(**kwargs)
        check_at_least(1, cluster_size=cluster_size)
        self.cluster_size = cluster_size
        self.flatten = flatten
        self.assignment = SoftAssignment(cluster_size, add_batch_norm, dtype=self.dtype_policy)

    def build(self, input_shape: Any) -> None:
        """Creates the assignment."""
        self.assignment.build(input_shape)

    def _cluster_vectors(self, name: str, size: int) -> keras.Variable:
        initializer = keras.initializers.RandomNormal(stddev=1.0 / math.sqrt(size))
        return self.add_weight(shape=(self.cluster_size, size), initializer=initializer, name=name)

    def assign(self, frames: tf.Tensor, valid: tf.Tensor, training: bool) -> tf.Tensor:
        """Returns the shares `(B, T, K)` of frames in clusters, 0 for padding."""
        return self.assignment(frames, valid, training=training)

    def aggregate(self, shares: tf.Tensor, frames: tf.Tensor) -> tf.Tensor:
        """Returns V `(B, K, D)`."""
        return weighted_sums(shares, frames)

    def call(self, frames: tf.Tensor, valid: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Pools `frames` `(B, T, D)` where `valid` `(B, T)` is true. A video without frames pools to zeros."""
        clusters = self.aggregate(self.assign(frames, valid, training), frames)
        return unit_clusters(clusters) if self.flatten else l2_normalise(clusters)


class GatedVLAD(NetRVLAD):
    """NetRVLAD whose every feature of every cluster has a learnt, fixed gate.

        V_k = sigmoid(g_k) * sum_t a[t, k] x_t

    Args:
        cluster_size: the number of clusters, K.
        add_batch_norm: whether the assignment is normalised; if not, it has a bias.
        flatten: whether to return `(B, K * D)`; if not, the clusters `(B, K, D)`, each of unit length.

    Source: antoine77340/Youtube-8M-WILLOW, NetVLAGD.
    """

    def build(self, input_shape: Any) -> None:
        """Creates the assignment and the gates."""
        super().build(input_shape)
        self.gates = self._cluster_vectors("gates", input_shape[-1])

    def aggregate(self, shares: tf.Tensor, frames: tf.Tensor) -> tf.Tensor:
        """Returns V `(B, K, D)`."""
        return tf.sigmoid(tf.convert_to_tensor(self.gates)) * super().aggregate(shares, frames)


class NetVLAD(NetRVLAD):
    """Sums the residuals of frames to the centre of every cluster.

        V_k = sum_t a[t, k] (x_t - c_k) = sum_t a[t, k] x_t - (sum_t a[t, k]) c_k

    scaled to unit length as in NetRVLAD. Tied to the centres, the assignment is that of a mixture of round Gaussians:

        a[t, k] = softmax_k(2 alpha x_t . c_k - alpha |c_k|^2) = softmax_k(-alpha |x_t - c_k|^2)

    Args:
        cluster_size: the number of clusters, K.
        add_batch_norm: whether a decoupled assignment is normalised; if not, it has a bias.
        flatten: whether to return `(B, K * D)`; if not, the clusters `(B, K, D)`, each of unit length.
        tied: whether the assignment follows from the centres and a learnt alpha; if not, it has weights of its own.

    Source: Arandjelovic et al. 2016, "NetVLAD" (tied, where alpha is a constant that only decides the start);
    Miech, Laptev & Sivic 2017 (decoupled).
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
        """Creates the centres, and the assignment or its sharpness."""
        self.centres = self._cluster_vectors("centres", input_shape[-1])
        if self.tied:
            self.alpha = self.add_weight(shape=(), initializer="ones", name="alpha")
        else:
            super().build(input_shape)

    def assign(self, frames: tf.Tensor, valid: tf.Tensor, training: bool) -> tf.Tensor:
        """Returns the shares `(B, T, K)` of frames in clusters, 0 for padding."""
        if not self.tied:
            return super().assign(frames, valid, training)
        centres = tf.convert_to_tensor(self.centres)
        products = tf.tensordot(frames, centres, axes=((2,), (1,)))
        return masked_softmax(self.alpha * (2.0 * products - tf.reduce_sum(tf.square(centres), axis=1)), valid)

    def aggregate(self, shares: tf.Tensor, frames: tf.Tensor) -> tf.Tensor:
        """Returns V `(B, K, D)`, without a residual for every frame and cluster."""
        mass = tf.cast(cluster_mass(shares), frames.dtype)
        return super().aggregate(shares, frames) - mass[:, :, tf.newaxis] * self.centres
