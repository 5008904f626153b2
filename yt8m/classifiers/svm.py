"""The registered linear support vector machines, one against the rest."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from yt8m.arguments import check_at_least
from yt8m.classifiers.base import Outputs, l2_regulariser, outputs_from_logits, prior_logits
from yt8m.registry import VIDEO_LEVEL_MODELS


@VIDEO_LEVEL_MODELS.register(loss="SquaredHingeLoss")
class SvmModel(keras.Model):
    """Linear support vector machines with a squared hinge loss, each class against all others.

        minimise   mean_b sum_c max(0, 1 - s[b, c] f_c(x_b))^2 + lambda / 2 sum w^2,   f_c(x) = x . w_c + b_c

    s = 1 for a label, else -1. `logits` are the decision values f, and `predictions` sigmoid(f): between 0 and 1 in the
    order of f, but not the probability of a label. The loss is SquaredHingeLoss. The biases b are not penalised.

    Args:
        num_classes: the number of classes, C.
        l2_penalty: lambda, that is 1 / (N K) for N examples and the usual constant K of the loss's sum.

    Raises:
        UserError: if `l2_penalty` is below 0.

    Source: Cortes & Vapnik 1995, "Support-vector networks"; Chang & Lin 2008, "Coordinate descent method for
    large-scale L2-loss linear support vector machines".
    """

    def __init__(self, num_classes: int, *, l2_penalty: float = 1e-4, **kwargs: Any):
        check_at_least(0, l2_penalty=l2_penalty)
        super().__init__(autocast=False, **kwargs)
        self.dense = keras.layers.Dense(num_classes, kernel_regularizer=l2_regulariser(l2_penalty), dtype="float32")

    def build(self, vector_shape: Any) -> None:
        """Creates the kernel w `(E, C)` and the bias b `(C,)`, for vectors of `vector_shape` `(B, E)`."""
        self.dense.build(vector_shape)

    def call(self, vector: tf.Tensor, random_key: tf.Tensor | None = None, training: bool = False) -> Outputs:
        """Maps `vector` `(B, E)` float to `predictions` and the decision values `logits`, `(B, C)` float32 each.

        `random_key` `(B,)` int64 is each example's source of randomness, of which nothing is drawn.
        """
        return outputs_from_logits(self.dense(vector))

    def start_at_prior(self, prior: np.ndarray) -> None:
        """Sets b = log(p / (1 - p)), so that the prediction for the zero vector is `prior` `(C,)`, p.

        p is each class's frequency in training.
        """
        self.dense.bias.assign(prior_logits(prior))
