"""Transformer encoders over the frames that exist: the plain one, and Kmiec's with batch normalisation inside."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from yt8m.arguments import check_at_least, check_one_of, check_share, choose
from yt8m.layers.assignment import weighted_sums
from yt8m.layers.attention import SelfAttention
from yt8m.layers.attention_clusters import FrameAttention
from yt8m.layers.dense import NormalisedDense
from yt8m.layers.dropout import KeyedDropout
from yt8m.layers.layer_list import LayerList
from yt8m.layers.normalisation import LayerNormalization
from yt8m.layers.pooling import first_frame, masked_mean

POSITIONS = ("none", "sinusoidal", "learnt")
POOLINGS = ("mean", "first", "attention")


@tf.autograph.experimental.do_not_convert
@tf.custom_gradient
def gelu(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """GELU, the Gaussian error linear unit: a number times the probability that a standard normal number is below it.

        y = x P(N < x) = x (1 + erf(x / sqrt(2))) / 2,   dy / dx = P(N < x) + x exp(-x^2 / 2) / sqrt(2 pi)

    Written out because the widest tensor of a Transformer goes through it, and only x has to be kept.

    Args:
        x: float of any shape.

    Source: Hendrycks & Gimpel 2016, "Gaussian error linear units".
    """

    def below() -> tf.Tensor:
        return 0.5 + 0.5 * tf.math.erf(x * math.sqrt(0.5))

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        return upstream * (below() + x * tf.exp(-0.5 * tf.square(x)) * (2.0 * math.pi) ** -0.5)

    return x * below(), gradient


ACTIVATIONS = {"gelu": gelu, "relu": tf.nn.relu}


class FeedForward(keras.layers.Layer):
    """Two dense layers, applied to every frame on its own.

        y = f(x W1 + b1) W2 + b2

    Args:
        feedforward_size: the width of x W1; 0 for four times that of x.
        activation: f, a name of `ACTIVATIONS`.

    Raises:
        UserError: if there is no such activation, or the width is below 0.
    """

    def __init__(self, feedforward_size: int = 0, activation: str = "relu", **kwargs: Any):
        super().__init__(**kwargs)
        check_at_least(0, feedforward_size=feedforward_size)
        self.feedforward_size = feedforward_size
        self.activate = choose(ACTIVATIONS, activation=activation)

    def build(self, input_shape: Any) -> None:
        """Creates W1 and W2 from Glorot's uniform distribution, b1 and b2 at 0."""
        width = self.feedforward_size or 4 * input_shape[-1]
        self.widening = keras.layers.Dense(width, dtype=self.dtype_policy)
        self.narrowing = keras.layers.Dense(input_shape[-1], dtype=self.dtype_policy)
        self.widening.build(input_shape)
        self.narrowing.build((*input_shape[:-1], width))

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Maps `x` `(..., D)` to `(..., D)`."""
        return self.narrowing(self.activate(self.widening(x)))


class EncoderBlock(keras.layers.Layer):
    """A layer of the plain encoder, normalised before each part.

        a = x + dropout(SelfAttention(LN(x))),   y = a + dropout(FeedForward(LN(a)))

    Args:
        head_size: see SelfAttention.
        feedforward_size: see FeedForward.
        activation: see FeedForward.
        dropout: the share of features to drop in training.
        salt: names the draws of the dropout.

    Raises:
        UserError: if a name is not known or a number out of range.

    Source: Vaswani et al. 2017, "Attention is all you need", with the normalisation where Xiong et al. 2020, "On layer
    normalization in the Transformer architecture", put it: without it, training needs a warm-up.
    """

    def __init__(
        self, head_size: int, feedforward_size: int, activation: str, dropout: float, salt: str, **kwargs: Any
    ):
        super().__init__(**kwargs)
        check_share(dropout=dropout)
        policy = self.dtype_policy
        self.attention = SelfAttention(head_size, dtype=policy)
        self.feedforward = FeedForward(feedforward_size, activation, dtype=policy)
        self.attention_norm, self.feedforward_norm = LayerNormalization(dtype=policy), LayerNormalization(dtype=policy)
        self.attention_dropout = KeyedDropout(dropout, f"{salt} attention")
        self.feedforward_dropout = KeyedDropout(dropout, f"{salt} feedforward")

    def build(self, input_shape: Any) -> None:
        """Creates the weights of both parts."""
        for layer in (self.attention_norm, self.attention, self.feedforward_norm, self.feedforward):
            layer.build(input_shape)

    def call(
        self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None = None, training: bool = False
    ) -> tf.Tensor:
        """Maps `frames` `(B, T, D)` that exist where `valid` `(B, T)` is true to `(B, T, D)`."""
        attended = self.attention(self.attention_norm(frames), valid, training=training)
        frames += self.attention_dropout(attended, random_key=random_key, training=training)
        transformed = self.feedforward(self.feedforward_norm(frames))
        return frames + self.feedforward_dropout(transformed, random_key=random_key, training=training)


class NormalisedAttention(keras.layers.Layer):
    """The first part of Kmiec's encoder, normalised by the batch inside and by the frame at its end.

        a = LN(x + dropout(SelfAttention(x)))

    Args:
        head_size: see SelfAttention.
        dropout: the share of features to drop in training.
        salt: names the draws of the dropout.

    Raises:
        UserError: if the heads have no width, or the share to drop is not in [0, 1).

    Source: Kmiec, Bae & An 2018, "Learnable pooling methods for video classification". One of the two encoders in
    their code does not drop, the other drops 90 %.
    """

    def __init__(self, head_size: int, dropout: float, salt: str, **kwargs: Any):
        super().__init__(**kwargs)
        check_share(dropout=dropout)
        self.attention = SelfAttention(head_size, add_batch_norm=True, dtype=self.dtype_policy)
        self.dropout = KeyedDropout(dropout, salt)
        self.norm = LayerNormalization(dtype=self.dtype_policy)

    def build(self, input_shape: Any) -> None:
        """Creates the weights."""
        self.attention.build(input_shape)
        self.norm.build(input_shape)

    def call(
        self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None = None, training: bool = False
    ) -> tf.Tensor:
        """Maps `frames` `(B, T, D)` that exist where `valid` `(B, T)` is true to `(B, T, D)`."""
        attended = self.attention(frames, valid, training=training)
        return self.norm(frames + self.dropout(attended, random_key=random_key, training=training))


class NormalisedBlock(keras.layers.Layer):
    """Kmiec's encoder.

        a = LN(x + dropout(SelfAttention(x))),   y = LN(a + FeedForward(a))

    Args:
        head_size: see SelfAttention.
        dropout: the share of features to drop in training.
        salt: names the draws of the dropout.

    Raises:
        UserError: if the heads have no width, or the share to drop is not in [0, 1).

    Source: Kmiec, Bae & An 2018. Their code adds a and normalises a second time, and has a second relu, after W2.
    """

    def __init__(self, head_size: int, dropout: float, salt: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.attention = NormalisedAttention(head_size, dropout, salt, dtype=self.dtype_policy)
        self.feedforward = FeedForward(dtype=self.dtype_policy)
        self.norm = LayerNormalization(dtype=self.dtype_policy)

    def build(self, input_shape: Any) -> None:
        """Creates the weights of both parts."""
        for layer in (self.attention, self.feedforward, self.norm):
            layer.build(input_shape)

    def call(
        self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None = None, training: bool = False
    ) -> tf.Tensor:
        """Maps `frames` `(B, T, D)` that exist where `valid` `(B, T)` is true to `(B, T, D)`."""
        attended = self.attention(frames, valid, random_key=random_key, training=training)
        return self.norm(attended + self.feedforward(attended))


def sinusoids(length: tf.Tensor | int, size: int) -> tf.Tensor:
    """Returns the positions 0 ... length - 1 as `(length, size)` float32: sines, then cosines.

        p[t, i] = sin(t / 10000^(i / n)),   p[t, n + i] = cos(t / 10000^(i / n)),   n = ceil(size / 2)

    Source: Vaswani et al. 2017, where sines and cosines take turns: the same up to the order of features.
    """
    half = (size + 1) // 2
    rates = (10000.0 ** (-np.arange(half) / half)).astype(np.float32)
    angles = tf.range(tf.cast(length, tf.float32))[:, tf.newaxis] * rates
    return tf.concat([tf.sin(angles), tf.cos(angles)], axis=1)[:, :size]


class PositionEmbedding(keras.layers.Layer):
    """Adds to every frame an encoding of its position among the frames of the batch.

    Args:
        positions: `sinusoidal`, see `sinusoids`; `learnt`, one vector per position; `none`, which hides the order.
        num_positions: how many positions are learnt; later frames share the last of them.

    Raises:
        UserError: if there is no such encoding, or no position.
    """

    def __init__(self, positions: str, num_positions: int, **kwargs: Any):
        super().__init__(**kwargs)
        check_one_of(POSITIONS, positions=positions)
        check_at_least(1, num_positions=num_positions)
        self.positions = positions
        self.num_positions = num_positions

    def build(self, input_shape: Any) -> None:
        """Creates the learnt vectors from a normal distribution of standard deviation 0.02, BERT's."""
        if self.positions == "learnt":
            normal = keras.initializers.RandomNormal(stddev=0.02)
            self.embedding = self.add_weight(
                shape=(self.num_positions, input_shape[-1]), initializer=normal, name="embedding"
            )

    def call(self, frames: tf.Tensor) -> tf.Tensor:
        """Maps `frames` `(B, T, D)` to `(B, T, D)`."""
        length = tf.shape(frames)[1]
        if self.positions == "none":
            return frames
        if self.positions == "sinusoidal":
            return frames + tf.cast(sinusoids(length, frames.shape[2]), frames.dtype)
        # As a product of matrices its gradient is a tensor like any other, not slices.
        indices = tf.minimum(tf.range(length), self.num_positions - 1)
        one_hot = tf.one_hot(indices, self.num_positions, dtype=frames.dtype)
        return frames + tf.matmul(one_hot, tf.convert_to_tensor(self.embedding))


class TransformerEncoder(keras.layers.Layer):
    """A stack of encoder blocks, whose outputs are pooled over the frames.

        x_0 = x P + positions,   x_l = EncoderBlock(x_{l-1}),   y = pool_t LN(x_L)

    Without frames y is 0.

    Args:
        num_layers: L.
        model_size: the width of x P; 0 for x itself.
        head_size: see SelfAttention.
        feedforward_size: see FeedForward.
        activation: see FeedForward.
        positions: see PositionEmbedding.
        num_positions: see PositionEmbedding.
        pooling: `mean`; `first`, the first frame; `attention`, sum_t a[t] x_t with a = softmax_t(x_t w).
        dropout: the share of features to drop in training.
        salt: names the draws of the dropout.

    Raises:
        UserError: if a name is not known or a number too small.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        model_size: int,
        head_size: int,
        feedforward_size: int,
        activation: str,
        positions: str,
        num_positions: int,
        pooling: str,
        dropout: float,
        salt: str,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        check_at_least(1, num_layers=num_layers)
        check_at_least(0, model_size=model_size)
        check_one_of(POOLINGS, pooling=pooling)
        policy = self.dtype_policy
        self.entrance = NormalisedDense(model_size, add_batch_norm=False, dtype=policy) if model_size else None
        self.positions = PositionEmbedding(positions, num_positions, dtype=policy)
        options = (head_size, feedforward_size, activation, dropout)
        blocks = (EncoderBlock(*options, f"{salt} {depth}", dtype=policy) for depth in range(num_layers))
        self.blocks = LayerList(self, "block", blocks)
        self.norm = LayerNormalization(dtype=policy)
        self.pooling = pooling
        self.scorer = FrameAttention(1, dtype=policy) if pooling == "attention" else None

    def build(self, input_shape: Any) -> None:
        """Creates the weights of every part."""
        if self.entrance is not None:
            self.entrance.build(input_shape)
            input_shape = (*input_shape[:-1], self.entrance.units)
        for layer in (self.positions, *self.blocks, self.norm, self.scorer):
            if layer is not None:
                layer.build(input_shape)

    def call(
        self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None = None, training: bool = False
    ) -> tf.Tensor:
        """Pools `frames` `(B, T, D)` that exist where `valid` `(B, T)` is true to `(B, D)`, or `(B, model_size)`."""
        if self.entrance is not None:
            frames = self.entrance(frames)
        frames = self.positions(frames)
        for block in self.blocks:
            frames = block(frames, valid, random_key=random_key, training=training)
        return self._pool(self.norm(frames), valid)

    def _pool(self, frames: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        if self.scorer is not None:
            return weighted_sums(self.scorer(frames, valid), frames)[:, 0]
        return masked_mean(frames, valid) if self.pooling == "mean" else first_frame(frames, valid)
