"""The registered chain of classifiers over one vector per video."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from yt8m.arguments import check_at_least, check_fraction, check_share
from yt8m.classifiers.base import CLASSIFIER_DROPOUT, Outputs
from yt8m.layers.dropout import KeyedDropout
from yt8m.layers.layer_list import LayerList
from yt8m.layers.noise import KeyedNoise
from yt8m.layers.supports import PredictionCode, chained_outputs
from yt8m.registry import VIDEO_LEVEL_MODELS


@VIDEO_LEVEL_MODELS.register(loss="BranchCrossEntropyLoss")
class ChainModel(keras.Model):
    """A chain of mixtures of experts, each of which sees x and short codes of all predictions before its own.

        p_l = MoE_l([x, s_0, ..., s_(l-1)]),   s_l = L2(relu(p_l W_l + b_l)),   p = p_L
        loss = (1 - w) BCE(p, y) + w sum_(l < L) BCE(p_l, y)

    The loss is BranchCrossEntropyLoss; with another `--label_loss` only p is trained.

    Args:
        num_classes: the number of classes, C.
        num_supports: the number of predictions before the last, L.
        code_size: the width of each code s_l.
        num_mixtures: the number of experts per class of each mixture.
        support_weight: w, in [0, 1].
        l2_penalty: lambda in the penalty lambda / 2 * sum of w^2 over the weights of the mixtures.
        dropout: the dropout rate of x, in [0, 1).
        noise: the standard deviation of Gaussian noise that is added to x in training.

    Raises:
        UserError: if a size is below 1, or another number out of range.

    Source: Wang, Zhang & Wu 2017, "The monkeytyping solution to the YouTube-8M video understanding challenge", "deep
    chain"; wangheda/youtube-8m, where L = 8, w = 0.025 with codes of 128, or L = 4, w = 0.05 with 4 experts and codes
    of 256.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        num_supports: int = 8,
        code_size: int = 128,
        num_mixtures: int = 2,
        support_weight: float = 0.025,
        l2_penalty: float = 1e-8,
        dropout: float = 0.0,
        noise: float = 0.0,
        **kwargs: Any,
    ):
        check_at_least(1, num_supports=num_supports, code_size=code_size, num_mixtures=num_mixtures)
        check_fraction(support_weight=support_weight)
        check_at_least(0, l2_penalty=l2_penalty, noise=noise)
        check_share(dropout=dropout)
        super().__init__(autocast=False, **kwargs)
        self.support_weight = support_weight
        self.noise = KeyedNoise(noise, CLASSIFIER_DROPOUT)
        self.dropout = KeyedDropout(dropout, CLASSIFIER_DROPOUT)
        make_mixture = VIDEO_LEVEL_MODELS["MoeModel"]
        mixtures = (
            make_mixture(num_classes, num_mixtures=num_mixtures, l2_penalty=l2_penalty) for _ in range(num_supports + 1)
        )
        self.mixtures = LayerList(self, "mixture", mixtures)
        self.codes = LayerList(self, "code", (PredictionCode(code_size) for _ in range(num_supports)))

    def build(self, vector_shape: Any) -> None:
        """Creates the weights of mixtures and codes for vectors of `vector_shape` `(B, E)`."""
        width = vector_shape[-1]
        for mixture in self.mixtures:
            mixture.build((vector_shape[0], width))
            width += self.codes[0].dense.units
        for code in self.codes:
            code.build((vector_shape[0], self.mixtures[0].num_classes))

    def call(self, vector: tf.Tensor, random_key: tf.Tensor | None = None, training: bool = False) -> Outputs:
        """Maps `vector` `(B, E)` float to `predictions` and `logits`, `(B, C)` float32 each, and the supports.

        These are `branch_logits` `(B, L, C)` and `branch_weights` `(1, 1 + L)`. `random_key` `(B,)` int64 is each
        example's source of randomness, for noise and dropout; may be None at evaluation.
        """
        vector = self.noise(vector, random_key=random_key, training=training)
        vector = self.dropout(vector, random_key=random_key, training=training)
        features = [vector] * len(self.mixtures)
        return chained_outputs(features, self.mixtures, self.codes, self.support_weight, random_key, training)

    def start_at_prior(self, prior: np.ndarray) -> None:
        """Sets the bias of every mixture from `prior` `(C,)`, each class's frequency p in training.

        Where the input of a mixture is zero, codes included, its prediction is then p.
        """
        for mixture in self.mixtures:
            mixture.start_at_prior(prior)
