"""Registered recurrent models of the second place of 2017: attention over outputs, and several scales of time."""

from typing import Any

import numpy as np
import tensorflow as tf

from yt8m.arguments import check_at_least, check_fraction, check_share
from yt8m.layers.assignment import weighted_sums
from yt8m.layers.attention_clusters import FrameAttention
from yt8m.layers.frame_cnn import FrameCNN
from yt8m.layers.layer_list import LayerList
from yt8m.layers.mixture import average_logits
from yt8m.layers.normalisation import MaskedBatchNormalization
from yt8m.layers.recurrent import RecurrentStack
from yt8m.layers.supports import supported_outputs
from yt8m.layers.windows import max_over_windows
from yt8m.models.base import PreparedFramesModel, classify_each
from yt8m.registry import FRAME_LEVEL_MODELS
from yt8m.schema import DataSpec


@FRAME_LEVEL_MODELS.register()
class LstmAttentionModel(PreparedFramesModel):
    """Attention over the outputs of an LSTM, several heads, and for each class the head that is most certain of it.

        a_k = softmax_t([x_t, o_t] W)_k,   p = max_k classifier(sum_t a[t, k] o_t)

    o_t are the outputs of the top layer. All heads have the same classifier.

    Args:
        spec: the features' names and sizes, and the number of classes.
        units: the width of every layer.
        num_layers: the number of layers in the stack.
        num_heads: the number of heads, k.
        dropout: the dropout rate between two layers, in [0, 1).
        inherited: further keyword arguments, those of PreparedFramesModel.

    Raises:
        UserError: if a size is below 1, or `dropout` is outside [0, 1).

    Source: Wang, Zhang & Wu 2017, "The monkeytyping solution to the YouTube-8M video understanding challenge";
    wangheda/youtube-8m, with 8 experts per class. There padding is masked after the softmax.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        units: int = 1024,
        num_layers: int = 2,
        num_heads: int = 8,
        dropout: float = 0.0,
        **inherited: Any,
    ):
        check_at_least(1, units=units, num_layers=num_layers, num_heads=num_heads)
        check_share(dropout=dropout)
        super().__init__(spec, **inherited)
        self.stack = RecurrentStack("lstm", units, num_layers, dropout, dtype=self.dtype_policy)
        self.attention = FrameAttention(num_heads, dtype=self.dtype_policy)

    def pool(self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool) -> tf.Tensor:
        """Maps `frames` `(B, T, D)` to the weighted mean of outputs of every head, `(B, num_heads, units)`."""
        frames = self.prepare(frames, valid, random_key, training)
        outputs, _ = self.stack(frames, valid, random_key=random_key, training=training)
        weights = self.attention(tf.concat([frames, outputs], axis=-1), valid)
        return weighted_sums(weights, outputs)

    def classify(
        self, vector: tf.Tensor, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool
    ) -> dict[str, Any]:
        """Classifies the `vector` `(B, num_heads, E)` of each head and takes the maximum over heads, class by class."""
        logits = tf.reduce_max(classify_each(self.classifier, vector, random_key, training), axis=1)
        return {"predictions": tf.sigmoid(logits), "logits": logits}


@FRAME_LEVEL_MODELS.register(loss="BranchCrossEntropyLoss")
class MultiscaleCnnLstmModel(PreparedFramesModel):
    """An LSTM over convolutions at each of L scales of time; every scale predicts, and all predictions are averaged.

        y_l = relu(BN(FrameCNN(x_l))),   p_l = classifier_l(last cell state of LSTM_l(y_l)),   p = mean_l p_l
        x_1 = the frames,   x_(l+1)[t] = max(y_l[2 t], y_l[2 t + 1])
        loss = (1 - w) BCE(p, y) + w sum_l BCE(p_l, y)

    Args:
        spec: the features' names and sizes, and the number of classes.
        num_levels: the number of scales, L.
        filters: the number of filters over a single frame; as many over two, and twice as many over three.
        units: the width of each LSTM.
        support_weight: w, in [0, 1]; with 1 only the predictions of the scales are trained.
        inherited: further keyword arguments, those of PreparedFramesModel.

    Raises:
        UserError: if a size is below 1, or `support_weight` is outside [0, 1].

    Source: Wang, Zhang & Wu 2017, "The monkeytyping solution to the YouTube-8M video understanding challenge";
    wangheda/youtube-8m, with 4 experts per class. There padding has a part in moments and maxima.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        num_levels: int = 4,
        filters: int = 256,
        units: int = 1024,
        support_weight: float = 1.0,
        **inherited: Any,
    ):
        check_at_least(1, num_levels=num_levels, filters=filters, units=units)
        check_fraction(support_weight=support_weight)
        super().__init__(spec, **inherited)
        self.support_weight = support_weight
        policy, levels = self.dtype_policy, range(num_levels)
        self.cnns = LayerList(self, "cnn", (FrameCNN(filters, dtype=policy) for _ in levels))
        self.norms = LayerList(self, "norm", (MaskedBatchNormalization(dtype=policy) for _ in levels))
        self.lstms = LayerList(self, "lstm", (RecurrentStack("lstm", units, 1, dtype=policy) for _ in levels))
        others = (self.make_classifier() for _ in range(num_levels - 1))
        self.classifiers = LayerList(self, "classifier", [self.classifier, *others])

    def pool(
        self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool
    ) -> list[tf.Tensor]:
        """Maps `frames` `(B, T, D)` to the last cell state of each scale's LSTM, `(B, units)` each."""
        frames = self.prepare(frames, valid, random_key, training)
        # A filter sees the frames before the first as 0, and no frame after the last.
        cells = []
        for cnn, norm, lstm in zip(self.cnns, self.norms, self.lstms, strict=True):
            frames = tf.nn.relu(norm(cnn(frames), valid=valid, training=training))
            _, [[_, cell]] = lstm(frames, valid)
            cells.append(cell)
            frames, valid = max_over_windows(frames, valid, size=2, stride=2)
        return cells

    def classify(
        self, vector: list[tf.Tensor], frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool
    ) -> dict[str, Any]:
        """Classifies the `vector` `(B, units)` of each scale and averages the predictions.

        Returns `predictions` and `logits` `(B, C)`, `branch_logits` `(B, L, C)` and `branch_weights` `(1, 1 + L)`.
        """
        levels = zip(self.classifiers, vector, strict=True)
        supports = [own(cell, random_key=random_key, training=training)["logits"] for own, cell in levels]
        logits = average_logits(tf.stack(supports, axis=1), tf.ones((1, len(supports))))
        return supported_outputs(logits, supports, self.support_weight)

    def start_at_prior(self, prior: np.ndarray) -> None:
        """Sets the bias of every scale's classifier from `prior` `(C,)`, each class's frequency p in training."""
        for classifier in self.classifiers:
            classifier.start_at_prior(prior)
