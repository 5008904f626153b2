"""The registered model that classifies every frame by itself."""

from typing import Any

import tensorflow as tf

from yt8m.layers.pooling import frame_counts, masked_mean
from yt8m.models.base import PreparedFramesModel, classify_each
from yt8m.registry import FRAME_LEVEL_MODELS


@FRAME_LEVEL_MODELS.register(defaults={"classifier": "LogisticModel"}, loss="BranchCrossEntropyLoss")
class FrameVoteModel(PreparedFramesModel):
    """Every frame is classified by itself, as if it had the labels of its video; the frames' scores are averaged.

        f_t = logits of classifier(x_t),   f = mean_t f_t,   p = sigmoid(f)
        loss = mean_t BCE(sigmoid(f_t), y)

    The loss is BranchCrossEntropyLoss, in which every frame is a branch, or BranchSoftmaxLoss for one label per video.
    The order of the frames has no influence. A video without frames has f = 0.

    Args:
        spec: the features' names and sizes, and the number of classes.
        inherited: further keyword arguments, those of PreparedFramesModel.

    Source: the baseline of Fernando & Gould 2016 that fine-tunes a network on single frames and sums their scores.
    """

    def pool(self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool) -> tf.Tensor:
        """Prepares `frames` `(B, T, D)` and returns them all, `(B, T, D)`."""
        return self.prepare(frames, valid, random_key, training)

    def classify(
        self, vector: tf.Tensor, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool
    ) -> dict[str, Any]:
        """Classifies every frame of `vector` `(B, T, D)` and averages the logits.

        Returns `predictions` and `logits` `(B, C)`, `branch_logits` `(B, T, C)` and `branch_weights` `(B, T + 1)`.
        """
        logits = classify_each(self.classifier, vector, random_key, training)
        mean = masked_mean(logits, valid)
        weights = tf.cast(valid, tf.float32) / frame_counts(valid)[:, tf.newaxis]
        return {
            "predictions": tf.sigmoid(mean),
            "logits": mean,
            "branch_logits": logits,
            "branch_weights": tf.pad(weights, [[0, 0], [1, 0]]),
        }
