"""What frame-level models share: from the bytes of a batch to frames, and from a pooled vector to a classifier."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from yt8m.arguments import check_at_least, check_one_of, typed_as
from yt8m.batch import KEY, blank_batch
from yt8m.layers.frames import read_frames
from yt8m.layers.normalisation import l2_normalise
from yt8m.registry import VIDEO_LEVEL_MODELS, hyper_parameters
from yt8m.sampling import FrameSampling, fixed_sampling, random_frames
from yt8m.schema import DataSpec


def build_classifier(name: str, num_classes: int, hparams: Mapping[str, Any] | None = None) -> keras.Model:
    """Builds a registered video-level model for vectors of any width.

    Raises:
        UserError: if there is no such model, it has no such hyper-parameter, or one is out of range; the message names
            it as `classifier` or `classifier.l2_penalty`.
    """
    if name not in VIDEO_LEVEL_MODELS:
        check_one_of(VIDEO_LEVEL_MODELS.names(), classifier=name)
    hparams = dict(hparams or {})
    VIDEO_LEVEL_MODELS.check_hyper_parameters(name, hparams)
    with typed_as("classifier."):
        return VIDEO_LEVEL_MODELS[name](num_classes, **hparams)


def stream_sizes(size: int, share: int, spec: DataSpec) -> list[int]:
    """Returns the number of clusters per feature: `size` for the widest, `size // share` but at least 1 for others."""
    widest = max(spec.feature_sizes)
    return [size if width == widest else max(1, size // share) for width in spec.feature_sizes]


@dataclass(frozen=True)
class Pooled:
    """What `pool` returns if it is more than a vector per video.

    Attributes:
        vector: what `classify` is given, `(B, E)`; of another form only for a `classify` of the model's own.
        losses: terms that are added to the loss in training, `(B,)` float32 each, by name.
    """

    vector: tf.Tensor
    losses: Mapping[str, tf.Tensor] = field(default_factory=dict)


@hyper_parameters(flags={"video_level_classifier_model": "classifier"})
class FrameLevelModel(keras.Model):
    """What frame-level models share: bytes become frames of unit length, the model pools them, a classifier follows.

    A model overrides `pool`. What else it may override, each with a default:

    * `frame_sampling`, if it does not want all frames;
    * `normalise`, if it scales frames in its own way;
    * `classify`, if the classifier's predictions are not all of its outputs.

    Args:
        spec: names the features and their sizes, and has the number of classes.
        classifier: the name of a registered video-level model.
        classifier_hparams: its hyper-parameters, where they differ from its defaults.
        unit_frames: whether frames are scaled to unit length.

    Raises:
        UserError: if a hyper-parameter is not known or out of range.

    Source: google/youtube-8m, train.py: features side by side, then one joint L2 normalisation of every frame.
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
        """Returns which frames the reader should pick; None for all of them."""
        return None

    def normalise(self, frames: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        """Scales `frames` `(B, T, D)` float32, 0 where `valid` `(B, T)` is false, to unit length, if asked for."""
        return l2_normalise(frames) if self.unit_frames else frames

    def pool(
        self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool
    ) -> tf.Tensor | Pooled:
        """Pools the frames of each video.

        Args:
            frames: `(B, T, D)` in the type that layers compute in, 0 where `valid` is false.
            valid: `(B, T)` bool, whether a frame exists.
            random_key: `(B,)` int64, the examples' random keys; None where nothing is drawn.
            training: whether to drop features and to use the moments of the batch.

        Returns:
            `(B, E)` float or, with terms of the loss, `Pooled`.
        """
        raise NotImplementedError

    def classify(
        self, vector: tf.Tensor, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool
    ) -> dict[str, Any]:
        """Computes a model's outputs from what it pooled; by default those of the classifier.

        Args:
            vector: what `pool` returned, `(B, E)` float.
            frames: `(B, T, D)` float32, as `normalise` left them.
            valid: as of `pool`.
            random_key: as of `pool`.
            training: as of `pool`.

        Returns:
            `predictions` and `logits` `(B, C)` float32. Optionally `losses`, as of `Pooled`, and outputs of the model's
            own, such as `branch_logits` `(B, M, C)`.
        """
        return self.classifier(vector, random_key=random_key, training=training)

    def build(self, batch_shape: Any = None) -> None:
        """Creates the weights by calling the model on a batch of one blank frame; shapes follow from the spec."""
        self.call(blank_batch(self.spec), training=False)

    def call(self, batch: Mapping[str, tf.Tensor], training: bool = False) -> dict[str, Any]:
        """Maps a batch of `(B, T, size)` features and `num_frames` `(B,)` to the model's outputs.

        Returns:
            What `classify` returns. In training `losses` has the terms of pooling and classification; at evaluation
            there is none.
        """
        random_key = batch.get(KEY)
        frames, valid = read_frames(batch, self.spec)
        frames = self.normalise(frames, valid)
        pooled = self.pool(tf.cast(frames, self.compute_dtype), valid, random_key, training)
        if not isinstance(pooled, Pooled):
            pooled = Pooled(pooled)
        outputs = self.classify(pooled.vector, frames, valid, random_key, training)
        losses = {**pooled.losses, **outputs.pop("losses", {})}
        return outputs | {"losses": losses} if training and losses else outputs

    def start_at_prior(self, prior: np.ndarray) -> None:
        """Starts the classifier at the class prior `(C,)`."""
        self.classifier.start_at_prior(prior)


@hyper_parameters(flags={"iterations": "iterations", "sample_random_frames": "sample_random_frames"})
class SampledModel(FrameLevelModel):
    """A frame-level model that may be trained on some of a video's frames.

    Args:
        spec: what the records hold.
        iterations: how many frames a training example has; 0 for all.
        sample_random_frames: whether they are drawn one by one; if not, they are consecutive, from a random start.
        sampling: how they are drawn: a method of yt8m/sampling.py, or `all`.
        evaluation_sampling: which frames are evaluated: `all`, or `uniform` for `iterations` of them.
        inherited: see FrameLevelModel.

    Raises:
        UserError: if there is no such sampling, or a number of frames is below 0, or 0 where some are sampled.
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
        """The frames of `sampling` in training, those of `evaluation_sampling` at evaluation."""
        return self.training_sampling if training else self.evaluation_sampling
