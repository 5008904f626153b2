"""NeXtVLAD: VLAD over groups of features; each group has its own soft assignment, all share the cluster centres."""

from typing import Any

import keras
import tensorflow as tf

from yt8m.arguments import ArgumentError, check_at_least
from yt8m.layers.assignment import residual_sums, watch_shares
from yt8m.layers.dense import NormalisedDense
from yt8m.layers.normalisation import MaskedBatchNormalization, l2_normalise


class NeXtVLAD(keras.layers.Layer):
    """VLAD over groups of features, each group with its own attention weight and soft assignment.

        u_t   = x_t W0 + b0                                       (widened to E D, cut into G groups u[t, g])
        a_tgk = valid_t * sigmoid(u_t A + b)_g * softmax_k(BN(u_t W)[g])_k
        V_k   = sum_{t, g} a_tgk (u[t, g] - c_k)
        y     = BN(flatten(V))                                    with every V_k at unit length first

    Args:
        cluster_size: the number of clusters, K.
        groups: the number of groups, G, a divisor of E D.
        expansion: the factor by which frames are widened, E.

    Raises:
        UserError: if an argument is below 1; when the layer is built, if `groups` does not divide E D.

    Source: Lin, Xiao & Fan 2018, "NeXtVLAD"; linrongc/youtube-8m, where padding takes part in the batch moments.
    """

    def __init__(self, cluster_size: int, groups: int = 8, expansion: int = 2, **kwargs: Any):
        super().__init__(**kwargs)
        check_at_least(1, cluster_size=cluster_size, groups=groups, expansion=expansion)
        self.cluster_size = cluster_size
        self.groups = groups
        self.expansion = expansion

    def build(self, input_shape: Any) -> None:
        """Creates kernels W0 `(D, E D)`, A `(E D, G)` and W `(E D, G K)`, centres c `(K, E D / G)`, zero biases and BN.

        Kernels and centres are initialised from He's normal distribution.

        Raises:
            UserError: if `groups` does not divide E D.
        """
        width = self.expansion * input_shape[-1]
        if width % self.groups:
            raise ArgumentError(
                f"groups={self.groups}: expected a divisor of {width}, the width of {input_shape[-1]} features widened "
                f"{self.expansion} times."
            )
        wide, logits = (*input_shape[:-1], width), self.groups * self.cluster_size
        self.widening = self._built(keras.layers.Dense(width, **self._he()), input_shape)
        self.attention = self._built(keras.layers.Dense(self.groups, **self._he()), wide)
        self.assignment = self._built(NormalisedDense(logits, kernel_stddev=(2 / width) ** 0.5, **self._policy()), wide)
        # "fan_out" because the centres lie in rows: their fan is the width of a group.
        he = keras.initializers.VarianceScaling(2.0, mode="fan_out")
        self.centres = self.add_weight(shape=(self.cluster_size, width // self.groups), initializer=he, name="centres")
        self.descriptor_size = self.cluster_size * (width // self.groups)
        self.descriptor_norm = self._built(MaskedBatchNormalization(**self._policy()), (None, self.descriptor_size))

    def _policy(self) -> dict[str, Any]:
        return {"dtype": self.dtype_policy}

    def _he(self) -> dict[str, Any]:
        return {"kernel_initializer": "he_normal", **self._policy()}

    @staticmethod
    def _built(layer: keras.layers.Layer, input_shape: Any) -> keras.layers.Layer:
        layer.build(input_shape)
        return layer

    def call(self, frames: tf.Tensor, valid: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Pools `frames` `(B, T, D)` float, widened E-fold in G groups, to `(B, K E D / G)` for K clusters.

        `valid` `(B, T)` bool is the padding mask, True for real frames.
        """
        wide = self.widening(frames)
        shares = self._assign(wide, valid, training)
        # Every group of a frame is one vector of the VLAD sums.
        # Both sizes are given to reshape: in an empty batch an axis of -1 could be anything.
        count, length = tf.unstack(tf.shape(valid))
        members = tf.reshape(wide, (count, length * self.groups, self.centres.shape[1]))
        clusters = l2_normalise(residual_sums(shares, members, self.centres))
        descriptor = tf.reshape(clusters, (-1, self.descriptor_size))
        return self.descriptor_norm(descriptor, training=training)

    def _assign(self, wide: tf.Tensor, valid: tf.Tensor, training: bool) -> tf.Tensor:
        """Returns the weighted assignment of the groups of `wide` `(B, T, E D)` to clusters, `(B, T * G, K)`."""
        count, length = tf.unstack(tf.shape(valid))
        logits = tf.cast(self.assignment(wide, valid=valid, training=training), tf.float32)
        shares = tf.nn.softmax(tf.reshape(logits, (count, length, self.groups, self.cluster_size)))
        attention = tf.sigmoid(tf.cast(self.attention(wide), tf.float32))
        attention = tf.where(tf.expand_dims(valid, 2), attention, 0.0)
        shares *= tf.expand_dims(attention, 3)
        watch_shares(tf.reduce_mean(shares, axis=2))
        shares = tf.cast(shares, wide.dtype)
        return tf.reshape(shares, (count, length * self.groups, self.cluster_size))
