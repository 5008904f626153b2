"""Base classes of frame-level models: they read frames from a batch, pool them, and classify the pooled vector."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from yt8m.arguments import check_at_least, check_one_of, check_share, typed_as
from yt8m.batch import KEY, LABELS, blank_batch
from yt8m.layers.assignment import watched_shares
from yt8m.layers.dropout import KeyedDropout
from yt8m.layers.frames import read_frames
from yt8m.layers.normalisation import MaskedBatchNormalization, l2_normalise
from yt8m.registry import VIDEO_LEVEL_MODELS, hyper_parameters
from yt8m.sampling import FrameSampling, fixed_sampling, random_frames
from yt8m.schema import DataSpec


def build_classifier(name: str, num_classes: int, hparams: Mapping[str, Any] | None = None) -> keras.Model:
    """Builds a registered video-level model for vectors of any width.

    Args:
        name: the registered name, such as `MoeModel`.
        num_classes: the number of classes, C.
        hparams: values of hyper-parameters by name; the others keep their defaults.

    Raises:
        UserError: if no model is registered under `name`, it lacks a hyper-parameter, or a value is out of range; the
            message calls it `classifier` or `classifier.l2_penalty`.
    """
    if name not in VIDEO_LEVEL_MODELS:
        check_one_of(VIDEO_LEVEL_MODELS.names(), classifier=name)
    hparams = dict(hparams or {})
    VIDEO_LEVEL_MODELS.check_hyper_parameters(name, hparams)
    with typed_as("classifier."):
        return VIDEO_LEVEL_MODELS[name](num_classes, **hparams)


def classify_each(
    classifier: keras.Model, vectors: tf.Tensor, random_key: tf.Tensor | None, training: bool
) -> tf.Tensor:
    """Classifies several vectors per video by the same classifier.

    Args:
        classifier: an instance of a registered video-level model.
        vectors: `(B, M, E)` float.
        random_key: `(B,)` int64, each video's source of randomness; the vectors of a video share their draws.
        training: whether to apply dropout and to normalise by the moments of the batch.

    Returns:
        The logits, `(B, M, C)` float32.
    """
    count, per_video = tf.unstack(tf.shape(vectors)[:2])
    rows = tf.reshape(vectors, (count * per_video, vectors.shape[2]))
    row_keys = None if random_key is None else tf.repeat(random_key, per_video)
    logits = classifier(rows, random_key=row_keys, training=training)["logits"]
    return tf.reshape(logits, (count, per_video, logits.shape[1]))


def stream_sizes(size: int, share: int, spec: DataSpec) -> list[int]:
    """Returns one size per feature of `spec`: `size` for the widest ones, max(1, size // share) for others."""
    widest = max(spec.feature_sizes)
    return [size if width == widest else max(1, size // share) for width in spec.feature_sizes]


@dataclass(frozen=True)
class Pooled:
    """A pooled vector together with terms of the loss, as `FrameLevelModel.pool` may return it.

    Attributes:
        vector: the argument of `classify`, `(B, E)` float; any other form needs an override of `classify`.
        losses: terms that are added to the training loss, `(B,)` float32 each, by name.
    """

    vector: tf.Tensor
    losses: Mapping[str, tf.Tensor] = field(default_factory=dict)


@hyper_parameters(flags={"video_level_classifier_model": "classifier"})
class FrameLevelModel(keras.Model):
    """Base class of frame-level models.

        frames = normalise(concatenated, dequantised features),   outputs = classify(pool(frames))

    A subclass overrides `pool`, and may override:

    * `frame_sampling`, to read only some of a video's frames (default: all);
    * `normalise`, to scale frames differently (default: to unit length);
    * `classify`, to return more outputs than the classifier's (default: predictions and logits).

    Args:
        spec: the features' names and sizes, and the number of classes.
        classifier: the name of a registered video-level model.
        classifier_hparams: values of the classifier's hyper-parameters by name; the others keep their defaults.
        unit_frames: whether frames are scaled to unit length.

    Raises:
        UserError: if no such classifier is registered, or a hyper-parameter is unknown or out of range.

    Source: google/youtube-8m, train.py: features are concatenated, then every frame is L2-normalised as a whole.
    """

    def __init__(
        self,
        spec: DataSpec,
        classifier: str = "MoeModel",
        classifier_hparams: Mapping[str, Any] | None = None,
        unit_frames: bool = True,
        **kwargs: Any,
    ):
        super().__init__(autocast=False, **kwargs)
        self.spec = spec
        self.unit_frames = unit_frames
        self.make_classifier = partial(build_classifier, classifier, spec.num_classes, classifier_hparams)
        self.classifier = self.make_classifier()

    def frame_sampling(self, training: bool) -> FrameSampling | None:
        """Returns how the reader chooses frames in training or at evaluation; None for all frames."""
        return None

    def normalise(self, frames: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        """Scales each of the `frames` `(B, T, D)` float32 to unit length, unless `unit_frames` is False: `(B, T, D)`.

        `valid` `(B, T)` bool is the padding mask, True for real frames; padding is 0 and stays 0.
        """
        return l2_normalise(frames) if self.unit_frames else frames

    def pool(
        self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool
    ) -> tf.Tensor | Pooled:
        """Pools the frames of each video.

        Args:
            frames: `(B, T, D)` of the compute dtype of the layers, 0 where padded.
            valid: `(B, T)` bool, the padding mask: True for real frames.
            random_key: `(B,)` int64, each example's source of randomness; may be None at evaluation.
            training: whether to apply dropout and to normalise by the moments of the batch.

        Returns:
            `(B, E)` float, or a `Pooled` of it with terms of the loss.
        """
        raise NotImplementedError

    def classify(
        self, vector: tf.Tensor, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool
    ) -> dict[str, Any]:
        """Computes the model's outputs from the pooled vector; by default those of the classifier.

        Args:
            vector: `(B, E)` float, the result of `pool`.
            frames: `(B, T, D)` float32, the result of `normalise`.
            valid: `(B, T)` bool, the padding mask: True for real frames.
            random_key: `(B,)` int64, each example's source of randomness; may be None at evaluation.
            training: whether to apply dropout and to normalise by the moments of the batch.

        Returns:
            `predictions` and `logits`, `(B, C)` float32 each; optionally `losses`, terms of the loss `(B,)` float32 by
            name, and outputs for a special loss, such as `branch_logits` `(B, M, C)` and `branch_weights` `(B, 1 + M)`
            of BranchCrossEntropyLoss.
        """
        return self.classifier(vector, random_key=random_key, training=training)

    def build(self, batch_shape: Any = None) -> None:
        """Creates the weights by calling the model on a batch of one zero frame; `batch_shape` is ignored."""
        self.call(blank_batch(self.spec), training=False)

    def call(self, batch: Mapping[str, tf.Tensor], training: bool = False) -> dict[str, Any]:
        """Maps a batch, as yt8m/batch.py defines it, to the model's outputs.

        Args:
            batch: features `(B, T, size)` by name, `num_frames` `(B,)` int32, and in training `key` `(B,)` int64.
            training: whether to apply dropout and to normalise by the moments of the batch.

        Returns:
            The outputs of `classify`. In training `losses` has the terms of `pool` and of `classify`, `(B,)` float32 by
            name; at evaluation there are no losses.
        """
        pooled, frames, valid = self._read_and_pool(batch, training)
        outputs = self.classify(pooled.vector, frames, valid, batch.get(KEY), training)
        losses = {**pooled.losses, **outputs.pop("losses", {})}
        return outputs | {"losses": losses} if training and losses else outputs

    def _read_and_pool(self, batch: Mapping[str, tf.Tensor], training: bool) -> tuple[Pooled, tf.Tensor, tf.Tensor]:
        """What `pool` makes of a batch, with the frames `(B, T, D)` float32 and their padding mask `(B, T)`."""
        frames, valid = read_frames(batch, self.spec)
        frames = self.normalise(frames, valid)
        pooled = self.pool(tf.cast(frames, self.compute_dtype), valid, batch.get(KEY), training)
        return pooled if isinstance(pooled, Pooled) else Pooled(pooled), frames, valid

    def cluster_shares(self, batch: Mapping[str, tf.Tensor]) -> list[tf.Tensor]:
        """Returns how each pooling with clusters assigns the frames of `batch` to them, `(B, T, K)` float each.

        Padding has 0 for every cluster. A model without clusters returns an empty list.
        """
        with watched_shares() as shares:
            self(batch, training=False)
        return shares

    def start_at_prior(self, prior: np.ndarray) -> None:
        """Sets the classifier's bias from `prior` `(C,)`, each class's frequency p in training.

        For a zero vector the classifier then predicts p: bias = log(p / (1 - p)) for logistic regression.
        """
        self.classifier.start_at_prior(prior)

    def remember(self, batches: Iterable[Mapping[str, tf.Tensor]]) -> None:
        """Gives a classifier that remembers the pooled vectors and the labels of all training `batches`."""
        with typed_as("classifier."):
            self.classifier.remember(
                (self._read_and_pool(batch, training=False)[0].vector, batch[LABELS]) for batch in batches
            )


@hyper_parameters(flags={"iterations": "iterations", "sample_random_frames": "sample_random_frames"})
class SampledModel(FrameLevelModel):
    """Base class of frame-level models that can be trained on a sample of a video's frames.

    Args:
        spec: the features' names and sizes, and the number of classes.
        iterations: the number of frames per training example; 0 for all.
        sample_random_frames: whether `sampling` chooses these frames; if False, they are consecutive frames from a
            random start.
        sampling: the method that chooses frames in training, one of yt8m/sampling.py, or `all`.
        evaluation_sampling: the frames at evaluation: `all`, or `uniform` for `iterations` equally spaced ones.
        inherited: further keyword arguments, those of FrameLevelModel.

    Raises:
        UserError: if a sampling is none of those listed, or `iterations` is below 0, or 0 with `uniform` evaluation.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        iterations: int = 0,
        sample_random_frames: bool = True,
        sampling: str = "random_without_replacement",
        evaluation_sampling: str = "all",
        **inherited: Any,
    ):
        check_at_least(1 if evaluation_sampling == "uniform" else 0, iterations=iterations)
        super().__init__(spec, **inherited)
        self.training_sampling = random_frames(iterations, sample_random_frames, sampling)
        self.evaluation_sampling = fixed_sampling(evaluation_sampling, iterations)

    def frame_sampling(self, training: bool) -> FrameSampling | None:
        """Returns the sampling of training or of evaluation; None for all frames."""
        return self.training_sampling if training else self.evaluation_sampling


class PreparedFramesModel(FrameLevelModel):
    """Base class of models that read frames batch-normalised and with dropout.

        x' = dropout(BN(x))

    Args:
        spec: the features' names and sizes, and the number of classes.
        input_batch_norm: whether the frames are batch-normalised; padding does not count in the moments.
        input_dropout: the dropout rate of the frames' features, in [0, 1).
        inherited: further keyword arguments, those of FrameLevelModel.

    Raises:
        UserError: if `input_dropout` is outside [0, 1).
    """

    def __init__(self, spec: DataSpec, *, input_batch_norm: bool = False, input_dropout: float = 0.0, **inherited: Any):
        check_share(input_dropout=input_dropout)
        super().__init__(spec, **inherited)
        self.input_norm = MaskedBatchNormalization() if input_batch_norm else None
        self.input_dropout = KeyedDropout(input_dropout, "frames")

    def prepare(self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool) -> tf.Tensor:
        """Normalises `frames` `(B, T, D)` float and applies dropout, each if configured: the same shape and dtype.

        `valid` `(B, T)` bool is the padding mask, True for real frames; padding is not 0 afterwards. `random_key`
        `(B,)` int64 is each video's source of randomness.
        """
        if self.input_norm is not None:
            frames = self.input_norm(frames, valid=valid, training=training)
        return self.input_dropout(frames, random_key=random_key, training=training)
