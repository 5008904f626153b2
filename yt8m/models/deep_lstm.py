"""The registered deep LSTM that predicts at every frame."""

from typing import Any

import tensorflow as tf

from yt8m.arguments import check_at_least, choose
from yt8m.layers.mixture import average_logits
from yt8m.layers.pooling import frame_counts, masked_max
from yt8m.models.base import classify_each
from yt8m.models.recurrent import RecurrentModel
from yt8m.registry import FRAME_LEVEL_MODELS
from yt8m.schema import DataSpec


def _linear(logits: tf.Tensor, times: tf.Tensor, num_frames: tf.Tensor) -> tf.Tensor:
    return average_logits(logits, tf.where(times <= num_frames, times, 0.0))


def _mean(logits: tf.Tensor, times: tf.Tensor, num_frames: tf.Tensor) -> tf.Tensor:
    return average_logits(logits, tf.cast(times <= num_frames, tf.float32))


def _last(logits: tf.Tensor, times: tf.Tensor, num_frames: tf.Tensor) -> tf.Tensor:
    return tf.gather(logits, tf.cast(num_frames[:, 0], tf.int32) - 1, axis=1, batch_dims=1)


def _max(logits: tf.Tensor, times: tf.Tensor, num_frames: tf.Tensor) -> tf.Tensor:
    return masked_max(logits, times <= num_frames)


FUSIONS = {"linear": _linear, "last": _last, "max": _max, "mean": _mean}


@FRAME_LEVEL_MODELS.register(defaults={"classifier": "LogisticModel"}, loss="BranchCrossEntropyLoss")
class DeepLstmModel(RecurrentModel):
    """A deep LSTM that predicts at every frame; later frames count more, in the loss and in the prediction.

        p_t = classifier(h_t),   g_t = t / T
        loss = sum_t g_t BCE(p_t, y) / sum_t g_t,   p = sum_t g_t p_t / sum_t g_t

    h_t is the output of the top layer after frame t = 1, ..., T. The loss is BranchCrossEntropyLoss, in which every
    frame is a branch; with another `--label_loss` the fused prediction is trained. A video without frames is predicted
    from h = 0.

    The logits of all frames are in memory at once, and so are what their fusion and loss are computed from: several
    tensors `(B, T, C)` float32, for 128 videos of 300 frames and 3862 classes 0.6 GB each.

    Args:
        spec: the features' names and sizes, and the number of classes.
        units: the width of every layer.
        num_layers: the number of layers in the stack.
        fusion: p: `linear`, the average with the weights g_t; `last`, p_T; `max`, the largest p_t of each class; or
            `mean`, the plain average. The loss is the same.
        inherited: further keyword arguments, those of RecurrentModel.

    Raises:
        UserError: if there is no such fusion, or `units` or `num_layers` is below 1.

    Source: Ng et al. 2015, "Beyond short snippets", with a softmax where here every class has a probability of its own.
    """

    def __init__(
        self, spec: DataSpec, *, units: int = 512, num_layers: int = 5, fusion: str = "linear", **inherited: Any
    ):
        check_at_least(1, units=units, num_layers=num_layers)
        fuse = choose(FUSIONS, fusion=fusion)
        super().__init__(spec, "lstm", units, num_layers, **inherited)
        self.fuse = fuse

    def pool(self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool) -> tf.Tensor:
        """Runs the stack over `frames` `(B, T, D)` and returns the output after every frame, `(B, T, units)`."""
        outputs, _ = self.read(frames, valid, random_key, training)
        return outputs

    def classify(
        self, vector: tf.Tensor, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool
    ) -> dict[str, Any]:
        """Classifies the output after every frame, `vector` `(B, T, E)`, and fuses the predictions.

        Returns `predictions` and `logits` `(B, C)`, `branch_logits` `(B, T + 1, C)` and `branch_weights` `(B, T + 2)`.
        """
        # One more frame of zeros, so that a batch of videos without frames has a first one too; its weight is else 0.
        logits = classify_each(self.classifier, tf.pad(vector, [[0, 0], [0, 1], [0, 0]]), random_key, training)
        num_frames = frame_counts(valid)[:, tf.newaxis]
        times = tf.range(1.0, tf.cast(tf.shape(logits)[1], tf.float32) + 0.5)[tf.newaxis, :]
        gains = tf.where(times <= num_frames, times, 0.0)
        gains /= tf.reduce_sum(gains, axis=1, keepdims=True)
        fused = self.fuse(logits, times, num_frames)
        return {
            "predictions": tf.sigmoid(fused),
            "logits": fused,
            "branch_logits": logits,
            "branch_weights": tf.pad(gains, [[0, 0], [1, 0]]),
        }
