"""VLAD with self-attention: before and after the pooling, or to compute the soft assignment."""

import math
from typing import Any

import keras
import tensorflow as tf

from yt8m.arguments import check_at_least, check_one_of, check_share
from yt8m.layers.assignment import masked_softmax, residual_sums
from yt8m.layers.normalisation import MaskedBatchNormalization
from yt8m.layers.transformer import NormalisedAttention, NormalisedBlock
from yt8m.layers.vlad import NetVLAD, unit_clusters, unit_descriptor


class AttentionEnhancedVLAD(keras.layers.Layer):
    """NetVLAD between two Transformer encoders: self-attention over the frames before it, over the clusters after it.

        V = sqrt(D) NetVLAD(NormalisedBlock(x)),   y = L2(flatten(NormalisedBlock(V)))

    with every NetVLAD(...)_k at unit length; the factor sqrt(D) gives the entries of V a size of about 1.

    Args:
        cluster_size: the number of clusters, K.
        head_size: the least width of an attention head.
        dropout: the dropout rate after self-attention, in [0, 1).
        salt: a name that makes this layer's random numbers independent of those of other layers.
        add_batch_norm: whether the assignment logits are batch-normalised; if not, a bias is added.

    Raises:
        UserError: if `cluster_size` or `head_size` is below 1, or `dropout` is outside [0, 1).

    Source: Kmiec, Bae & An 2018, "Learnable pooling methods for video classification", first model. Their code leaves
    the first encoder out, gives the second one tokens of length 1 / sqrt(K) that mix clusters and features, and does
    not scale its outputs to unit length.
    """

    def __init__(
        self, cluster_size: int, head_size: int, dropout: float, salt: str, add_batch_norm: bool = True, **kwargs: Any
    ):
        super().__init__(**kwargs)
        check_share(dropout=dropout)
        policy = self.dtype_policy
        self.frame_encoder = NormalisedBlock(head_size, dropout, f"{salt} frames", dtype=policy)
        self.vlad = NetVLAD(cluster_size, add_batch_norm, flatten=False, dtype=policy)
        self.cluster_encoder = NormalisedBlock(head_size, dropout, f"{salt} clusters", dtype=policy)

    def build(self, input_shape: Any) -> None:
        """Creates the weights of both encoders and of NetVLAD, for tokens of width D."""
        self.frame_encoder.build(input_shape)
        self.vlad.build(input_shape)
        self.cluster_encoder.build((None, self.vlad.cluster_size, input_shape[-1]))

    def call(
        self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None = None, training: bool = False
    ) -> tf.Tensor:
        """Pools `frames` `(B, T, D)` float to `(B, K D)` for K clusters.

        `valid` `(B, T)` bool is the padding mask, True for real frames. `random_key` `(B,)` int64 is each video's
        source of randomness, for dropout.
        A video without real frames gives zeros.
        """
        frames = self.frame_encoder(frames, valid, random_key=random_key, training=training)
        clusters = math.sqrt(frames.shape[-1]) * self.vlad(frames, valid, training=training)
        has_frames = tf.reduce_any(valid, axis=1, keepdims=True)
        # Clusters of a video without real frames are masked: they would count in the moments of the batch.
        is_real = tf.tile(has_frames, (1, self.vlad.cluster_size))
        clusters = self.cluster_encoder(clusters, is_real, random_key=random_key, training=training)
        return unit_descriptor(tf.where(tf.expand_dims(has_frames, 2), clusters, tf.zeros_like(clusters)))


class AttentionSimilarityVLAD(keras.layers.Layer):
    """VLAD whose soft assignment is computed by self-attention over the frames.

        h = NormalisedAttention(NormalisedBlock(x)),   z = BN(relu(h W1 + b1)) W2 + b2
        a[t] = BN(relu(z_t))   or   softmax_k(BN(z_t))
        V_k = sum_t a[t, k] (x_t - c_k),   y = V / |V|   with every V_k at unit length first

    Args:
        cluster_size: the number of clusters, K.
        head_size: the least width of an attention head.
        dropout: the dropout rate after self-attention, in [0, 1).
        salt: a name that makes this layer's random numbers independent of those of other layers.
        similarity: `bn_relu`, weights a of any size and sign, or `softmax`, weights that add up to 1 for each frame.

    Raises:
        UserError: if `similarity` is neither, `cluster_size` or `head_size` is below 1, or `dropout` is outside [0, 1).

    Source: Kmiec, Bae & An 2018, "Learnable pooling methods for video classification", second model, with `bn_relu`.
    Their code leaves the first encoder out.
    """

    def __init__(
        self, cluster_size: int, head_size: int, dropout: float, salt: str, similarity: str = "bn_relu", **kwargs: Any
    ):
        super().__init__(**kwargs)
        check_at_least(1, cluster_size=cluster_size)
        check_share(dropout=dropout)
        check_one_of(("bn_relu", "softmax"), similarity=similarity)
        policy = self.dtype_policy
        self.cluster_size = cluster_size
        self.similarity = similarity
        self.encoder = NormalisedBlock(head_size, dropout, f"{salt} encoder", dtype=policy)
        self.attention = NormalisedAttention(head_size, dropout, f"{salt} similarity", dtype=policy)
        self.hidden_norm = MaskedBatchNormalization(dtype=policy)
        self.similarity_norm = MaskedBatchNormalization(dtype=policy)

    def build(self, input_shape: Any) -> None:
        """Creates the attention layers, dense layers W1 `(D, 4 D)` and W2 `(4 D, K)`, BN, and centres `(K, D)`."""
        size, clusters = input_shape[-1], (*input_shape[:-1], self.cluster_size)
        hidden = (*input_shape[:-1], 4 * size)
        self.widening = keras.layers.Dense(4 * size, activation="relu", dtype=self.dtype_policy)
        self.narrowing = keras.layers.Dense(self.cluster_size, dtype=self.dtype_policy)
        built = {self.encoder: input_shape, self.attention: input_shape, self.widening: input_shape}
        built |= {self.hidden_norm: hidden, self.narrowing: hidden, self.similarity_norm: clusters}
        for layer, shape in built.items():
            layer.build(shape)
        normal = keras.initializers.RandomNormal(stddev=1.0 / math.sqrt(size))
        self.centres = self.add_weight(shape=(self.cluster_size, size), initializer=normal, name="centres")

    def call(
        self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None = None, training: bool = False
    ) -> tf.Tensor:
        """Pools `frames` `(B, T, D)` float to `(B, K D)` for K clusters.

        `valid` `(B, T)` bool is the padding mask, True for real frames. `random_key` `(B,)` int64 is each video's
        source of randomness, for dropout.
        A video without real frames gives zeros.
        """
        shares = self.assign(frames, valid, random_key, training)
        return unit_clusters(residual_sums(shares, frames, self.centres))

    def assign(self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool) -> tf.Tensor:
        """Returns the assignment of `frames` `(B, T, D)` float to clusters, `(B, T, K)`, 0 for padding.

        `valid` `(B, T)` bool is the padding mask, True for real frames. `random_key` `(B,)` int64 is each video's
        source of randomness, for dropout.
        """
        encoded = self.encoder(frames, valid, random_key=random_key, training=training)
        attended = self.attention(encoded, valid, random_key=random_key, training=training)
        hidden = self.hidden_norm(self.widening(attended), valid=valid, training=training)
        logits = self.narrowing(hidden)
        if self.similarity == "softmax":
            return masked_softmax(self.similarity_norm(logits, valid=valid, training=training), valid)
        shares = self.similarity_norm(tf.nn.relu(logits), valid=valid, training=training)
        return tf.where(tf.expand_dims(valid, 2), shares, tf.zeros_like(shares))
