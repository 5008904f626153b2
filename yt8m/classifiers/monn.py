"""The registered mixture of neural-network experts."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from yt8m.arguments import check_at_least, check_share
from yt8m.classifiers.base import CLASSIFIER_DROPOUT, Outputs, l2_regulariser, outputs_from_logits, prior_logits
from yt8m.layers.dropout import KeyedDropout
from yt8m.layers.hidden_layers import HiddenLayers
from yt8m.layers.mixture import mixture_logits
from yt8m.layers.noise import KeyedNoise
from yt8m.registry import VIDEO_LEVEL_MODELS


@VIDEO_LEVEL_MODELS.register()
class MonnModel(keras.Model):
    """Mixture of neural-network experts: hidden layers before the experts, gates on the input itself.

        h = dropout(relu(... dropout(relu(x W_1 + b_1)) ...))
        p_c = sum_{m <= M} softmax(x G_c)_m * sigmoid(h E_cm + b_cm)

    The softmax is over M + 1 gates without a bias; the last gate belongs to a dummy expert of probability 0.

    Args:
        num_classes: the number of classes, C.
        num_mixtures: the number of experts per class, M.
        hidden_size: the width of every hidden layer.
        num_layers: the number of hidden layers.
        add_batch_norm: whether to batch-normalise the hidden layers; if not, they have biases b.
        dropout: the dropout rate of every hidden layer, in [0, 1).
        input_dropout: the dropout rate of x, in [0, 1).
        noise: the standard deviation of Gaussian noise that is added to x in training.
        l2_penalty: lambda in the penalty lambda / 2 * sum of w^2 over G and E.

    Raises:
        UserError: if a number is out of range.

    Source: mpekalski/Y8M, MoNN4L (four layers of 2048) and MoNN3L (three of 4096), 3 experts; without normalisation and
    dropout. There x is mean and standard deviation of the frames and the length: MomentsModel with this classifier.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        num_mixtures: int = 3,
        hidden_size: int = 2048,
        num_layers: int = 4,
        add_batch_norm: bool = False,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        noise: float = 0.0,
        l2_penalty: float = 1e-8,
        **kwargs: Any,
    ):
        check_at_least(1, num_mixtures=num_mixtures, hidden_size=hidden_size, num_layers=num_layers)
        check_at_least(0, noise=noise, l2_penalty=l2_penalty)
        check_share(dropout=dropout, input_dropout=input_dropout)
        super().__init__(autocast=False, **kwargs)
        self.num_classes = num_classes
        self.num_mixtures = num_mixtures
        self.noise = KeyedNoise(noise, CLASSIFIER_DROPOUT)
        self.input_dropout = KeyedDropout(input_dropout, CLASSIFIER_DROPOUT)
        self.hidden = HiddenLayers(
            [hidden_size] * num_layers,
            add_batch_norm=add_batch_norm,
            dropout=dropout,
            salt="expert layer",
            dtype=self.dtype_policy,
        )
        options = {"kernel_regularizer": l2_regulariser(l2_penalty), "dtype": "float32"}
        self.gates = keras.layers.Dense((num_mixtures + 1) * num_classes, use_bias=False, **options)
        self.experts = keras.layers.Dense(num_mixtures * num_classes, **options)

    def build(self, vector_shape: Any) -> None:
        """Creates the hidden layers, and the kernels G `(E, (M + 1) C)` and E `(H, M C)`, for vectors `(B, E)`."""
        self.hidden.build(vector_shape)
        self.gates.build(vector_shape)
        self.experts.build((vector_shape[0], self.hidden.widths[-1]))

    def call(self, vector: tf.Tensor, random_key: tf.Tensor | None = None, training: bool = False) -> Outputs:
        """Maps `vector` `(B, E)` float to `predictions` and `logits`, `(B, C)` float32 each.

        `random_key` `(B,)` int64 is each example's source of randomness, for noise and dropout; may be None at
        evaluation.
        """
        x = self.noise(vector, random_key=random_key, training=training)
        x = self.input_dropout(x, random_key=random_key, training=training)
        hidden = self.hidden(tf.cast(x, self.compute_dtype), random_key=random_key, training=training)
        gates = tf.reshape(self.gates(x), (-1, self.num_mixtures + 1, self.num_classes))
        experts = tf.reshape(self.experts(hidden), (-1, self.num_mixtures, self.num_classes))
        return outputs_from_logits(mixture_logits(gates, experts))

    def start_at_prior(self, prior: np.ndarray) -> None:
        """Sets the experts' biases so that the prediction for x = 0 and h = 0 is `prior` `(C,)`, p.

            b = log(q / (1 - q)),   q = p (M + 1) / M

        p is each class's frequency in training.
        """
        share = (self.num_mixtures + 1) / self.num_mixtures
        self.experts.bias.assign(np.tile(prior_logits(np.asarray(prior) * share), self.num_mixtures))
