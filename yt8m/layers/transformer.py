"""Transformer encoders over real frames: the pre-norm encoder, and Kmiec's with batch-normalised attention."""

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
from yt8m.portability import is_portable

POSITIONS = ("none", "sinusoidal", "learnt")
POOLINGS = ("mean", "first", "attention")


@tf.autograph.experimental.do_not_convert
@tf.custom_gradient
def gelu(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """GELU, the Gaussian error linear unit.

        y = x P(N < x) = x (1 + erf(x / sqrt(2))) / 2,   dy / dx = P(N < x) + x exp(-x^2 / 2) / sqrt(2 pi)

    for N standard normal. The gradient is written out so that only x is kept in memory for it: x is the widest tensor
    of a Transformer.

    Args:
        x: float, any shape.

    Returns:
        y, of the shape and dtype of `x`.

    Source: Hendrycks & Gimpel 2016, "Gaussian error linear units".
    """

    def below() -> tf.Tensor:
        return 0.5 + 0.5 * tf.math.erf(x * math.sqrt(0.5))

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        return upstream * (below() + x * tf.exp(-0.5 * tf.square(x)) * (2.0 * math.pi) ** -0.5)

    # The first form is the one that LiteRT knows to be GELU: it has no erf.
    y = 0.5 * x * (1.0 + tf.math.erf(x * math.sqrt(0.5))) if is_portable() else x * below()
    return y, gradient


ACTIVATIONS = {"gelu": gelu, "relu": tf.nn.relu}


class FeedForward(keras.layers.Layer):
    """Position-wise feed-forward network: two dense layers, applied to every frame separately.

        y = f(x W1 + b1) W2 + b2

    Args:
        feedforward_size: the width F of the hidden layer; 0 for four times the width of x.
        activation: f, `gelu` or `relu`.

    Raises:
        UserError: if another activation is given, or `feedforward_size` is below 0.

    Source: Vaswani et al. 2017, "Attention is all you need".
    """

    def __init__(self, feedforward_size: int = 0, activation: str = "relu", **kwargs: Any):
        super().__init__(**kwargs)
        check_at_least(0, feedforward_size=feedforward_size)
        self.feedforward_size = feedforward_size
        self.activate = choose(ACTIVATIONS, activation=activation)

    def build(self, input_shape: Any) -> None:
        """Creates kernels W1 `(D, F)` and W2 `(F, D)`, Glorot-uniform, and zero biases b1 `(F,)` and b2 `(D,)`."""
        width = self.feedforward_size or 4 * input_shape[-1]
        self.widening = keras.layers.Dense(width, dtype=self.dtype_policy)
        self.narrowing = keras.layers.Dense(input_shape[-1], dtype=self.dtype_policy)
        self.widening.build(input_shape)
        self.narrowing.build((*input_shape[:-1], width))

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Maps `x` `(..., D)` float to the output of the second dense layer, `(..., D)`."""
        return self.narrowing(self.activate(self.widening(x)))


class EncoderBlock(keras.layers.Layer):
    """Pre-norm Transformer encoder layer.

        a = x + dropout(SelfAttention(LN(x))),   y = a + dropout(FeedForward(LN(a)))

    Args:
        head_size: the least width of an attention head.
        feedforward_size: the width of the hidden layer of FeedForward; 0 for four times the width of x.
        activation: the activation of that hidden layer, `gelu` or `relu`.
        dropout: the dropout rate, in [0, 1).
        salt: a name that makes this layer's random numbers independent of those of other layers.

    Raises:
        UserError: if another activation is given, `head_size` is below 1, `feedforward_size` is below 0, or `dropout`
            is outside [0, 1).

    Source: Vaswani et al. 2017, "Attention is all you need", with pre-norm as in Xiong et al. 2020, "On layer
    normalization in the Transformer architecture", because post-norm needs a learning rate warm-up.
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
        """Creates the weights of attention, feed-forward network and both normalisations, for frames of width D."""
        for layer in (self.attention_norm, self.attention, self.feedforward_norm, self.feedforward):
            layer.build(input_shape)

    def call(
        self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None = None, training: bool = False
    ) -> tf.Tensor:
        """Applies the encoder layer to `frames` `(B, T, D)` float: the same shape and dtype.

        `valid` `(B, T)` bool is the padding mask, True for real frames. `random_key` `(B,)` int64 is each video's
        source of randomness, for dropout.
        """
        attended = self.attention(self.attention_norm(frames), valid, training=training)
        frames += self.attention_dropout(attended, random_key=random_key, training=training)
        transformed = self.feedforward(self.feedforward_norm(frames))
        return frames + self.feedforward_dropout(transformed, random_key=random_key, training=training)


class NormalisedAttention(keras.layers.Layer):
    """The attention half of Kmiec's encoder: batch-normalised self-attention, a residual, then layer normalisation.

        a = LN(x + dropout(SelfAttention(x)))   with SelfAttention(add_batch_norm=True)

    Args:
        head_size: the least width of an attention head.
        dropout: the dropout rate, in [0, 1).
        salt: a name that makes this layer's random numbers independent of those of other layers.

    Raises:
        UserError: if `head_size` is below 1, or `dropout` is outside [0, 1).

    Source: Kmiec, Bae & An 2018, "Learnable pooling methods for video classification". Of the two encoders in their
    code, one has no dropout and the other a rate of 0.9.
    """

    def __init__(self, head_size: int, dropout: float, salt: str, **kwargs: Any):
        super().__init__(**kwargs)
        check_share(dropout=dropout)
        self.attention = SelfAttention(head_size, add_batch_norm=True, dtype=self.dtype_policy)
        self.dropout = KeyedDropout(dropout, salt)
        self.norm = LayerNormalization(dtype=self.dtype_policy)

    def build(self, input_shape: Any) -> None:
        """Creates the weights of attention and layer normalisation for frames of width D."""
        self.attention.build(input_shape)
        self.norm.build(input_shape)

    def call(
        self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None = None, training: bool = False
    ) -> tf.Tensor:
        """Applies self-attention and both normalisations to `frames` `(B, T, D)` float: the same shape and dtype.

        `valid` `(B, T)` bool is the padding mask, True for real frames. `random_key` `(B,)` int64 is each video's
        source of randomness, for dropout.
        """
        attended = self.attention(frames, valid, training=training)
        return self.norm(frames + self.dropout(attended, random_key=random_key, training=training))


class NormalisedBlock(keras.layers.Layer):
    """Post-norm Transformer encoder layer of Kmiec et al., with batch-normalised self-attention.

        a = LN(x + dropout(SelfAttention(x))),   y = LN(a + FeedForward(a))

    Args:
        head_size: the least width of an attention head.
        dropout: the dropout rate, in [0, 1).
        salt: a name that makes this layer's random numbers independent of those of other layers.

    Raises:
        UserError: if `head_size` is below 1, or `dropout` is outside [0, 1).

    Source: Kmiec, Bae & An 2018, "Learnable pooling methods for video classification". Their code adds a and normalises
    a second time, and has a second relu, after the second dense layer of FeedForward.
    """

    def __init__(self, head_size: int, dropout: float, salt: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.attention = NormalisedAttention(head_size, dropout, salt, dtype=self.dtype_policy)
        self.feedforward = FeedForward(dtype=self.dtype_policy)
        self.norm = LayerNormalization(dtype=self.dtype_policy)

    def build(self, input_shape: Any) -> None:
        """Creates the weights of attention, feed-forward network and layer normalisation, for frames of width D."""
        for layer in (self.attention, self.feedforward, self.norm):
            layer.build(input_shape)

    def call(
        self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None = None, training: bool = False
    ) -> tf.Tensor:
        """Applies the encoder layer to `frames` `(B, T, D)` float: the same shape and dtype.

        `valid` `(B, T)` bool is the padding mask, True for real frames. `random_key` `(B,)` int64 is each video's
        source of randomness, for dropout.
        """
        attended = self.attention(frames, valid, random_key=random_key, training=training)
        return self.norm(attended + self.feedforward(attended))


def sinusoids(length: tf.Tensor | int, size: int) -> tf.Tensor:
    """Returns the sinusoidal encodings of the positions 0 ... length - 1, `(length, size)` float32.

        p[t, i] = sin(t / 10000^(i / n)),   p[t, n + i] = cos(t / 10000^(i / n)),   n = ceil(size / 2)

    Args:
        length: the number of positions, a number or a scalar int tensor.
        size: the width of an encoding.

    Source: Vaswani et al. 2017, where sines and cosines alternate: the same up to the order of the features.
    """
    half = (size + 1) // 2
    rates = (10000.0 ** (-np.arange(half) / half)).astype(np.float32)
    angles = tf.range(tf.cast(length, tf.float32))[:, tf.newaxis] * rates
    return tf.concat([tf.sin(angles), tf.cos(angles)], axis=1)[:, :size]


class PositionEmbedding(keras.layers.Layer):
    """Adds to frame t of every video the encoding of position t.

        y[b, t] = x[b, t] + p[min(t, num_positions - 1)]   learnt,   x[b, t] + sinusoids[t]   sinusoidal

    Args:
        positions: `sinusoidal`, as defined by `sinusoids`; `learnt`, one vector p per position; `none`, which adds 0.
        num_positions: the number of learnt vectors.

    Raises:
        UserError: if `positions` is none of the three, or `num_positions` is below 1.
    """

    def __init__(self, positions: str, num_positions: int, **kwargs: Any):
        super().__init__(**kwargs)
        check_one_of(POSITIONS, positions=positions)
        check_at_least(1, num_positions=num_positions)
        self.positions = positions
        self.num_positions = num_positions

    def build(self, input_shape: Any) -> None:
        """Creates learnt encodings `(num_positions, D)`, normal with standard deviation 0.02 as in BERT."""
        if self.positions == "learnt":
            normal = keras.initializers.RandomNormal(stddev=0.02)
            self.embedding = self.add_weight(
                shape=(self.num_positions, input_shape[-1]), initializer=normal, name="embedding"
            )

    def call(self, frames: tf.Tensor) -> tf.Tensor:
        """Returns `frames` `(B, T, D)` float plus their positional encodings, `(B, T, D)`."""
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
    """A stack of pre-norm Transformer encoder layers, pooled over the real frames.

        x_0 = x P + p + positions,   x_l = EncoderBlock(x_{l-1}),   y = pool_t LN(x_L)

    Args:
        num_layers: the number of layers, L.
        model_size: the width of x P; 0 for x itself, without P and p.
        head_size: the least width of an attention head.
        feedforward_size: the width of the hidden layer of FeedForward; 0 for four times the width of x_0.
        activation: the activation of that hidden layer, `gelu` or `relu`.
        positions: the positional encoding: `sinusoidal`, `learnt` or `none`.
        num_positions: the number of learnt positions; later frames share the last of them.
        pooling: `mean`; `first`, the first frame; `attention`, sum_t a[t] LN(x_L)_t with a = softmax_t(LN(x_L)_t w).
        dropout: the dropout rate, in [0, 1).
        salt: a name that makes this layer's random numbers independent of those of other layers.

    Raises:
        UserError: if a name is none of those listed, a size is too small, or `dropout` is outside [0, 1).
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
        """Creates the input projection `(D, model_size)`, and the encodings, encoder layers, LN and pooling weights."""
        if self.entrance is not None:
            self.entrance.build(input_shape)
            input_shape = (*input_shape[:-1], self.entrance.units)
        for layer in (self.positions, *self.blocks, self.norm, self.scorer):
            if layer is not None:
                layer.build(input_shape)

    def call(
        self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None = None, training: bool = False
    ) -> tf.Tensor:
        """Pools `frames` `(B, T, D)` float to `(B, model_size)`, or `(B, D)` if `model_size` is 0.

        `valid` `(B, T)` bool is the padding mask, True for real frames. `random_key` `(B,)` int64 is each video's
        source of randomness, for dropout.
        """
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
