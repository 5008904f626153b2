"""Attention pooling: weighted means of a video's frames, one set of weights per head or cluster."""

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
    """Softmax over the real frames of each video; padding gets weight 0.

        a[b, t, k] = valid[b, t] exp(z[b, t, k]) / sum_s valid[b, s] exp(z[b, s, k])

    Args:
        logits: z, `(B, T, K)` float.
        valid: `(B, T)` bool, the padding mask: True for real frames.

    Returns:
        `(B, T, K)` of the dtype of `logits`; computed in float32.
    """
    is_real = tf.expand_dims(valid, 2)
    # The mask comes first: weights that are masked after the softmax may have underflowed for all real frames.
    masked = tf.where(is_real, tf.cast(logits, tf.float32), tf.float32.min)
    return tf.cast(tf.where(is_real, tf.nn.softmax(masked, axis=1), 0.0), logits.dtype)


class FrameAttention(keras.layers.Layer):
    """Attention weights over the frames of each video, one set per head; they add up to 1 over the real frames.

        one layer:   a[:, k] = softmax_t(x_t W)_k
        two layers:  a[:, k] = softmax_t(tanh(x_t V + b) W)_k

    A bias after W would be the same for all frames, and cancel.

    Args:
        num_heads: the number of sets of weights, K.
        attention_size: the width of x V; 0 for one layer.

    Raises:
        UserError: if `num_heads` is below 1 or `attention_size` is below 0.

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
        """Creates the kernel W `(D, K)` or, with a hidden layer of width A, V `(D, A)`, its bias b, and W `(A, K)`."""
        size = input_shape[-1]
        if self.hidden is not None:
            self.hidden.build(input_shape)
            size = self.hidden.units
        normal = keras.initializers.RandomNormal(stddev=1.0 / math.sqrt(size))
        self.kernel = self.add_weight(shape=(size, self.num_heads), initializer=normal, name="kernel")

    def call(self, frames: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        """Returns the weights `(B, T, K)` of `frames` `(B, T, D)` float.

        `valid` `(B, T)` bool is the padding mask, True for real frames.
        """
        if self.hidden is not None:
            frames = tf.tanh(self.hidden(frames))
        return softmax_over_frames(tf.tensordot(frames, tf.convert_to_tensor(self.kernel), axes=1), valid)


class AttentionClusters(keras.layers.Layer):
    """K weighted means of the frames, each shifted and scaled to length 1 / sqrt(K), concatenated.

        v_k = sum_t a[t, k] x_t,   y_k = (alpha_k v_k + beta_k) / (sqrt(K) |alpha_k v_k + beta_k|)

    with a = FrameAttention(x).

    Without the shift, y = v / |v| for the concatenated means v, which is plain attention pooling.

    Args:
        cluster_size: the number of means, K.
        attention_size: the hidden width of FrameAttention; 0 for attention without a hidden layer.
        shift: whether to learn alpha and beta, two scalars per mean.

    Raises:
        UserError: if `cluster_size` is below 1 or `attention_size` is below 0.

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
        """Creates the weights of FrameAttention and, to shift, alpha = 1 and beta = 0.01, `(K, 1)` each."""
        self.attention.build(input_shape)
        if self.shift:
            shape = (self.cluster_size, 1)
            self.alpha = self.add_weight(shape=shape, initializer="ones", name="alpha")
            self.beta = self.add_weight(shape=shape, initializer=keras.initializers.Constant(0.01), name="beta")

    def call(self, frames: tf.Tensor, valid: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Pools `frames` `(B, T, D)` float to `(B, K D)` for K clusters.

        `valid` `(B, T)` bool is the padding mask, True for real frames.
        A video without real frames gives zeros.
        """
        means = weighted_sums(self.attention(frames, valid), frames)
        if not self.shift:
            return unit_descriptor(means)
        shifted = l2_normalise(self.alpha * means + self.beta) / self.cluster_size**0.5
        has_frames = tf.reduce_any(valid, axis=1, keepdims=True)
        descriptor = tf.reshape(shifted, (-1, shifted.shape[1] * shifted.shape[2]))
        return tf.where(has_frames, descriptor, tf.zeros_like(descriptor))
