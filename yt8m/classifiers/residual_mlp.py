"""The registered multilayer perceptron with residual blocks."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from yt8m.arguments import check_at_least, check_share
from yt8m.classifiers.base import CLASSIFIER_DROPOUT, Outputs, l2_regulariser, outputs_from_logits, prior_logits
from yt8m.layers.dense import NormalisedDense
from yt8m.layers.dropout import KeyedDropout
from yt8m.layers.layer_list import LayerList
from yt8m.layers.noise import KeyedNoise
from yt8m.registry import VIDEO_LEVEL_MODELS

_SLOPE = 0.2  # of the leaky rectifier below 0


class ResidualBlock(keras.layers.Layer):
    """A residual block of two fully connected layers.

        y = x + dropout(f(BN(x W_1))) W_2 + b,   f = leaky ReLU of slope 0.2

    W_2 starts at 0, so that the block starts as the identity.

    Args:
        dropout: the dropout rate between the layers, in [0, 1).
        salt: a name that makes this layer's random numbers independent of those of other layers.

    Raises:
        UserError: if `dropout` is outside [0, 1).

    Source: n01z3/kaggle_yt8m; the start as the identity: Goyal et al. 2017, "Accurate, large minibatch SGD".
    """

    def __init__(self, dropout: float, salt: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.dropout = KeyedDropout(dropout, salt)

    def build(self, input_shape: Any) -> None:
        """Creates W_1 and W_2, `(H, H)` each, batch normalisation and b, for vectors of width H."""
        width = input_shape[-1]
        self.first = NormalisedDense(width, dtype=self.dtype_policy)
        self.second = keras.layers.Dense(width, kernel_initializer="zeros", dtype=self.dtype_policy)
        self.first.build(input_shape)
        self.second.build(input_shape)

    def call(self, x: tf.Tensor, random_key: tf.Tensor | None = None, training: bool = False) -> tf.Tensor:
        """Maps `x` `(B, H)` float to y `(B, H)`.

        `random_key` `(B,)` int64 is each example's source of randomness, for dropout; may be None at evaluation.
        """
        hidden = tf.nn.leaky_relu(self.first(x, training=training), _SLOPE)
        return x + self.second(self.dropout(hidden, random_key=random_key, training=training))


@VIDEO_LEVEL_MODELS.register()
class ResidualMlpModel(keras.Model):
    """A multilayer perceptron: a hidden layer, residual blocks of its width, and logistic regression.

        h = dropout(f(BN(x W))),   p = sigmoid(dropout(block_n(... block_1(h))) V + b)

    f is the leaky ReLU of slope 0.2.

    Args:
        num_classes: the number of classes, C.
        hidden_size: the width of h.
        num_blocks: the number of residual blocks, n.
        dropout: the dropout rate of h, in every block and before V, in [0, 1).
        input_dropout: the dropout rate of x, in [0, 1).
        noise: the standard deviation of Gaussian noise that is added to x in training.
        l2_penalty: lambda in the penalty lambda / 2 * sum of V^2.

    Raises:
        UserError: if a number is out of range.

    Source: n01z3/kaggle_yt8m, with blocks for every feature before those for all, a dropout of 0.5 and one categorical
    cross entropy over all classes.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        hidden_size: int = 2048,
        num_blocks: int = 2,
        dropout: float = 0.5,
        input_dropout: float = 0.0,
        noise: float = 0.0,
        l2_penalty: float = 1e-8,
        **kwargs: Any,
    ):
        check_at_least(1, hidden_size=hidden_size)
        check_at_least(0, num_blocks=num_blocks, noise=noise, l2_penalty=l2_penalty)
        check_share(dropout=dropout, input_dropout=input_dropout)
        super().__init__(autocast=False, **kwargs)
        policy = self.dtype_policy
        self.noise = KeyedNoise(noise, CLASSIFIER_DROPOUT)
        self.input_dropout = KeyedDropout(input_dropout, CLASSIFIER_DROPOUT)
        self.hidden = NormalisedDense(hidden_size, dtype=policy)
        self.hidden_dropout = KeyedDropout(dropout, "hidden layer")
        blocks = (ResidualBlock(dropout, f"residual block {depth}", dtype=policy) for depth in range(num_blocks))
        self.blocks = LayerList(self, "block", blocks)
        self.output_dropout = KeyedDropout(dropout, "last layer")
        self.dense = keras.layers.Dense(num_classes, kernel_regularizer=l2_regulariser(l2_penalty), dtype="float32")

    def build(self, vector_shape: Any) -> None:
        """Creates the kernels W `(E, H)` and V `(H, C)`, the blocks and the bias, for vectors `(B, E)`."""
        self.hidden.build(vector_shape)
        hidden_shape = (vector_shape[0], self.hidden.units)
        for block in self.blocks:
            block.build(hidden_shape)
        self.dense.build(hidden_shape)

    def call(self, vector: tf.Tensor, random_key: tf.Tensor | None = None, training: bool = False) -> Outputs:
        """Maps `vector` `(B, E)` float to `predictions` and `logits`, `(B, C)` float32 each.

        `random_key` `(B,)` int64 is each example's source of randomness, for noise and dropout; may be None at
        evaluation.
        """
        x = self.noise(tf.cast(vector, self.compute_dtype), random_key=random_key, training=training)
        x = self.input_dropout(x, random_key=random_key, training=training)
        x = tf.nn.leaky_relu(self.hidden(x, training=training), _SLOPE)
        x = self.hidden_dropout(x, random_key=random_key, training=training)
        for block in self.blocks:
            x = block(x, random_key=random_key, training=training)
        return outputs_from_logits(self.dense(self.output_dropout(x, random_key=random_key, training=training)))

    def start_at_prior(self, prior: np.ndarray) -> None:
        """Sets b = log(p / (1 - p)), so that the prediction for h = 0 is `prior` `(C,)`, each class's frequency p."""
        self.dense.bias.assign(prior_logits(prior))
