"""Fisher vectors: gradients of the frames' log-likelihood by the parameters of a Gaussian mixture."""

import math
from typing import Any

import keras
import tensorflow as tf

from yt8m.arguments import check_finite
from yt8m.layers.assignment import SoftAssignment, cluster_mass, weighted_sums
from yt8m.layers.normalisation import l2_normalise
from yt8m.layers.vlad import unit_clusters

_SMALLEST_SPREAD = 1e-6  # of antoine77340/Youtube-8M-WILLOW, NetFV


class NetFV(keras.layers.Layer):
    """Fisher vector: first- and second-order statistics of the frames' residuals from cluster centres.

        S_k  = sum_t a[t, k],   a = SoftAssignment(x)
        V1_k = sum_t a[t, k] (x_t - c_k) / s_k = (sum_t a[t, k] x_t - S_k c_k) / s_k
        V2_k = sum_t a[t, k] ((x_t - c_k)^2 / s_k^2 - 1)
             = (sum_t a[t, k] x_t^2 + S_k c_k^2 - 2 c_k sum_t a[t, k] x_t) / s_k^2 - S_k

    elementwise, with centres c and standard deviations s = w^2 + 1e-6. V1 and V2 are concatenated after every cluster
    of each, and then each as a whole, is scaled to unit length. The gradient by the mixture weights pi = softmax(v) is
    an optional third part, of unit length:

        V0_k = sum_t (a[t, k] - pi_k) / sqrt(pi_k)

    Args:
        cluster_size: the number of clusters, K.
        add_batch_norm: whether the assignment logits are batch-normalised; if not, a bias is added.
        couple_weights: whether c = coupling_factor * W^T for the weights W of the assignment; if not, c is trained
            separately.
        coupling_factor: the factor in c = coupling_factor * W^T.
        mixture_gradient: whether to append V0.

    Raises:
        UserError: if `cluster_size` is below 1, or `coupling_factor` is not finite.

    Source: Perronnin & Dance 2007; Sanchez et al. 2013 (V0); Miech, Laptev & Sivic 2017, NetFV, whose code scales V2 as
    a whole twice and never its clusters; here V2 is scaled like V1.
    """

    def __init__(
        self,
        cluster_size: int,
        add_batch_norm: bool = True,
        couple_weights: bool = False,
        coupling_factor: float = 0.01,
        mixture_gradient: bool = False,
        **kwargs: Any,
    ):
        # In float32 under every policy: squares of frames add up to more than float16 holds, and V2 is a difference.
        super().__init__(**{**kwargs, "dtype": "float32"})
        check_finite(coupling_factor=coupling_factor)
        self.cluster_size = cluster_size
        self.couple_weights = couple_weights
        self.coupling_factor = coupling_factor
        self.mixture_gradient = mixture_gradient
        self.assignment = SoftAssignment(cluster_size, add_batch_norm, dtype="float32")

    def build(self, input_shape: Any) -> None:
        """Creates the kernel W `(D, K)` of the assignment, BN or a bias, and the roots w `(K, D)` of the deviations.

        Optional are the centres c `(K, D)`, unless they are coupled to W, and the mixture logits v `(K,)`.
        """
        self.assignment.build(input_shape)
        self.spread_roots = self._cluster_vectors("spread_roots", input_shape[-1], mean=1.0)
        if not self.couple_weights:
            self.own_centres = self._cluster_vectors("centres", input_shape[-1])
        if self.mixture_gradient:
            self.mixture = self.add_weight(shape=(self.cluster_size,), initializer="zeros", name="mixture")

    def _cluster_vectors(self, name: str, size: int, mean: float = 0.0) -> keras.Variable:
        initializer = keras.initializers.RandomNormal(mean, 1.0 / math.sqrt(size))
        return self.add_weight(shape=(self.cluster_size, size), initializer=initializer, name=name)

    def centres(self) -> tf.Tensor:
        """Returns the cluster centres, `(K, D)` float32."""
        if self.couple_weights:
            return self.coupling_factor * tf.transpose(self.assignment.projection.kernel)
        return tf.convert_to_tensor(self.own_centres)

    def call(self, frames: tf.Tensor, valid: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Pools `frames` `(B, T, D)` float to `(B, 2 K D)`, or `(B, 2 K D + K)` if `mixture_gradient` is True.

        `valid` `(B, T)` bool is the padding mask, True for real frames.
        """
        shares = self.assignment(frames, valid, training=training)
        mass, centres = cluster_mass(shares)[:, :, tf.newaxis], self.centres()
        spreads = tf.square(self.spread_roots) + _SMALLEST_SPREAD
        sums, squares = weighted_sums(shares, frames), weighted_sums(shares, tf.square(frames))
        first = (sums - mass * centres) / spreads
        second = (squares + mass * tf.square(centres) - 2.0 * centres * sums) / tf.square(spreads) - mass
        parts = [unit_clusters(first), unit_clusters(second)]
        return tf.concat(parts + self._mixture_part(mass[:, :, 0]), axis=1)

    def _mixture_part(self, mass: tf.Tensor) -> list[tf.Tensor]:
        if not self.mixture_gradient:
            return []
        weights = tf.nn.softmax(self.mixture)
        num_frames = tf.reduce_sum(mass, axis=1, keepdims=True)  # the shares of a frame add up to 1
        return [l2_normalise((mass - num_frames * weights) * tf.math.rsqrt(weights))]
