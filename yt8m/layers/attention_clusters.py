"""Attention over frames: a few weighted means of a video's frames, each with weights of its own."""

import math
from typing import Any

import keras
import tensorflow as tf

from yt8m.arguments import check_at_least
from yt8m.layers.assignment import weighted_sums
from yt8m.layers.dense import NormalisedDense
from yt8m.layers.normalisation import l2_normalise
from yt8m.layers.vlad import unit_descriptor


def softmax_over_frames(logits: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """Softmax over the frames that exist; the others have no weight, in a video without frames none has.

        a[b, t, k] = valid[b, t] exp(z[b, t, k]) / sum_s valid[b, s] exp(z[b, s, k])

    Args:
        logits: z, `(B, T, K)` float.
        valid: `(B, T)` bool.

    Returns:
        `(B, T, K)` of the dtype of `logits`; computed in float32.
    """
    exists = valid[:, :, tf.newaxis]
    # The mask comes first: weights that are masked after the softmax may have underflowed for all frames that exist.
    masked = tf.where(exists, tf.cast(logits, tf.float32), tf.float32.min)
    return tf.cast(tf.where(exists, tf.nn.softmax(masked, axis=1), 0.0), logits.dtype)


class FrameAttention(keras.layers.Layer):
    """Weighs the frames of a video, as often as there are heads.

        one layer:   a[:, k] = softmax_t(x_t W)_k
        two layers:  a[:, k] = softmax_t(tanh(x_t V + b) W)_k

    A bias after W would be the same for all frames, and cancel.

    Args:
        num_heads: K.
        attention_size: the width of x V; 0 for one layer.

    Raises:
        UserError: if there is no head, or a width is below 0.

    Source: Long et al. 2018, "Attention Clusters" (two layers); pomonam/LearnablePoolingMethods and PaddlePaddle/models
    (one layer).
    """

    def __init__(self, num_heads: int, attention_size: int = 0, **kwargs: Any):
        super().__init__(**kwargs)
        check_at_least(1, num_heads=num_heads)
        check_at_least(0, attention_size=attention_size)
        self.num_heads = num_heads
        self.hidden = None
        if attention_size:
            self.hidden = NormalisedDense(attention_size, add_batch_norm=False, dtype=self.dtype_policy)

    def build(self, input_shape: Any) -> None:
        """Creates W and, for two layers, V and b."""
        size = input_shape[-1]
        if self.hidden is not None:
            self.hidden.build(input_shape)
            size = self.hidden.units
        normal = keras.initializers.RandomNormal(stddev=1.0 / math.sqrt(size))
        self.kernel = self.add_weight(shape=(size, self.num_heads), initializer=normal, name="kernel")

    def call(self, frames: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        """Weighs `frames` `(B, T, D)` that exist where `valid` `(B, T)` is true: `(B, T, K)`."""
        if self.hidden is not None:
            frames = tf.tanh(self.hidden(frames))
        return softmax_over_frames(tf.tensordot(frames, tf.convert_to_tensor(self.kernel), axes=1), valid)


class AttentionClusters(keras.layers.Layer):
    """Weighted means of the frames, moved apart, at unit length and side by side.

        v_k = sum_t a[t, k] x_t,   y_k = (alpha_k v_k + beta_k) / (sqrt(K) |alpha_k v_k + beta_k|)

    Without the shift, y = v / |v| of the means as they are, which is plain attention pooling.

    Args:
        cluster_size: the number of means, K.
        attention_size: the width of the scorer's first layer; 0 for a scorer of one layer.
        shift: whether there are alpha and beta, two numbers per cluster.

    Raises:
        UserError: if there is no cluster, or a width is below 0.

    Source: Long et al. 2018, "Attention Clusters: purely attention based local feature integration for video
    classification". The code of Kmiec, Bae & An 2018 has one alpha and one beta for all clusters.
    """

    def __init__(self, cluster_size: int, attention_size: int = 0, shift: bool = True, **kwargs: Any):
        super().__init__(**kwargs)
        check_at_least(1, cluster_size=cluster_size)
        self.cluster_size = cluster_size
        self.shift = shift
        self.attention = FrameAttention(cluster_size, attention_size, dtype=self.dtype_policy)

    def build(self, input_shape: Any) -> None:
        """Creates the attention and, to shift, alpha = 1 and beta = 0.01."""
        self.attention.build(input_shape)
        if self.shift:
            shape = (self.cluster_size, 1)
            self.alpha = self.add_weight(shape=shape, initializer="ones", name="alpha")
            self.beta = self.add_weight(shape=shape, initializer=keras.initializers.Constant(0.01), name="beta")

    def call(self, frames: tf.Tensor, valid: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Pools `frames` `(B, T, D)` where `valid` `(B, T)` is true to `(B, K D)`; no frames pool to zeros."""
        means = weighted_sums(self.attention(frames, valid), frames)
        if not self.shift:
            return unit_descriptor(means)
        shifted = l2_normalise(self.alpha * means + self.beta) / self.cluster_size**0.5
        has_frames = tf.reduce_any(valid, axis=1)[:, tf.newaxis]
        descriptor = tf.reshape(shifted, (-1, shifted.shape[1] * shifted.shape[2]))
        return tf.where(has_frames, descriptor, tf.zeros_like(descriptor))
