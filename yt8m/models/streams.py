"""Base class of clip models with streams, as of pictures and of flow, that are classified by themselves."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from yt8m.batch import KEY, Batch
from yt8m.layers.backbones import to_unit_range
from yt8m.layers.layer_list import LayerList
from yt8m.models.base import build_classifier
from yt8m.models.clips import ClipNetwork
from yt8m.schema import FLOW_ZERO, DataSpec

FLOW_CHANNELS = 2


class StreamsModel(ClipNetwork):
    """Base class of models whose streams are classified by themselves: a subclass overrides `describe`.

        f_s = logits of classifier_s(vector of stream s),   f = mean_s f_s,   p = sigmoid(f)
        loss = sum_s BCE(sigmoid(f_s), y)

    The streams share nothing, and each has a loss of its own: they are trained as if they were two models. The loss is
    BranchCrossEntropyLoss, or BranchSoftmaxLoss for one label per video.

    Args:
        spec: the features' names and channels, the size of the frames, and the number of classes.
        num_streams: the number of vectors that `describe` returns.
        classifier: the name of a registered video-level model.
        classifier_hparams: values of the classifier's hyper-parameters by name; the others keep their defaults.
        inherited: further keyword arguments, those of ClipNetwork.

    Raises:
        UserError: if the classifier or one of its hyper-parameters cannot be.
    """

    def __init__(
        self,
        spec: DataSpec,
        num_streams: int,
        *,
        classifier: str = "LogisticModel",
        classifier_hparams: Mapping[str, Any] | None = None,
        **inherited: Any,
    ):
        super().__init__(spec, **inherited)
        classifiers = (build_classifier(classifier, spec.num_classes, classifier_hparams) for _ in range(num_streams))
        self.classifiers = LayerList(self, "classifier", classifiers)

    def describe(self, clips: Mapping[str, tf.Tensor], valid: tf.Tensor, training: bool) -> list[tf.Tensor]:
        """Computes a vector per stream.

        Args:
            clips: the features `(B, T, S, S, channels)` float in [-1, 1] by name, 0 where padded.
            valid: `(B, T)` bool, the padding mask: True for real frames.
            training: whether to normalise by the moments of the batch.

        Returns:
            `(B, E)` float each.
        """
        raise NotImplementedError

    def outputs_of_clips(self, batch: Batch, valid: tf.Tensor, training: bool) -> dict[str, Any]:
        """Classifies the vector of every stream of clips `(B, T, S, S, channels)`, and averages the logits.

        `valid` `(B, T)` bool is the padding mask, True for real frames.

        Returns `predictions` and `logits` `(B, C)`, `branch_logits` `(B, M, C)` of M streams, and `branch_weights`.
        """
        clips = {name: scaled_clips(batch[name], valid) for name in self.spec.feature_names}
        vectors = zip(self.classifiers, self.describe(clips, valid, training), strict=True)
        key = batch.get(KEY)
        logits = [classifier(vector, random_key=key, training=training)["logits"] for classifier, vector in vectors]
        branch_logits = tf.stack(logits, axis=1)
        mean = tf.reduce_mean(branch_logits, axis=1)
        weights = tf.repeat([[0.0] + [1.0] * len(logits)], tf.shape(mean)[0], axis=0)
        return {
            "predictions": tf.sigmoid(mean),
            "logits": mean,
            "branch_logits": branch_logits,
            "branch_weights": weights,
        }

    @property
    def classifier(self) -> keras.Model:
        """The classifier of the first stream; the others are like it."""
        return self.classifiers[0]

    def start_at_prior(self, prior: np.ndarray) -> None:
        """Sets every classifier's bias from `prior` `(C,)`, each class's frequency p in training."""
        for classifier in self.classifiers:
            classifier.start_at_prior(prior)


def scaled_clips(frames: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """Maps pictures and flow to [-1, 1]; padding becomes 0.

        y = x / 127.5 - 1   for pictures,   y = (x - 128) / 127   for flow, 0 without motion

    Args:
        frames: `(B, T, S, S, channels)` uint8; flow has 2 channels.
        valid: `(B, T)` bool, the padding mask: True for real frames.

    Returns:
        `(B, T, S, S, channels)` float32.
    """
    numbers = tf.cast(frames, tf.float32)
    numbers = (numbers - FLOW_ZERO) / 127.0 if frames.shape[-1] == FLOW_CHANNELS else to_unit_range(numbers)
    return tf.where(valid[:, :, tf.newaxis, tf.newaxis, tf.newaxis], numbers, 0.0)


def real_frames(valid: tf.Tensor) -> tf.Tensor:
    """Returns the number of real frames of each clip, `(B,)` int32, of the padding mask `valid` `(B, T)` bool."""
    return tf.reduce_sum(tf.cast(valid, tf.int32), axis=1)
