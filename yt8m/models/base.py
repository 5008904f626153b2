"""What frame-level models share: from the bytes of a batch to frames, and from a pooled vector to a classifier."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from yt8m.errors import UserError, did_you_mean
from yt8m.layers.frames import read_frames
from yt8m.layers.normalisation import l2_normalise
from yt8m.registry import VIDEO_LEVEL_MODELS, hyper_parameters
from yt8m.sampling import FrameSampling, fixed_sampling, random_frames
from yt8m.schema import DataSpec


def build_classifier(name: str, num_classes: int, hparams: Mapping[str, Any] | None = None) -> keras.Model:
    """Builds a registered video-level model for vectors of any width.

    Raises:
        UserError: if there is no such model, or it has no such hyper-parameter.
    """
    if name not in VIDEO_LEVEL_MODELS:
        known = VIDEO_LEVEL_MODELS.names()
        raise UserError(
            f"--video_level_classifier_model={name}: there is no such video-level model.{did_you_mean(name, known)} "
            f"Known: {', '.join(known)}."
        )
    hparams = dict(hparams or {})
    VIDEO_LEVEL_MODELS.check_hyper_parameters(name, hparams)
    return VIDEO_LEVEL_MODELS[name](num_classes, **hparams)


def stream_sizes(size: int, share: int, spec: DataSpec) -> list[int]:
    """Deals out clusters: `size` to the widest features, the `share`-th part of it, at least 1, to any other."""
    widest = max(spec.feature_sizes)
    return [size if width == widest else max(1, size // share) for width in spec.feature_sizes]


@hyper_parameters(flags={"video_level_classifier_model": "classifier"})
class FrameLevelModel(keras.Model):
    """What frame-level models share: bytes become frames of unit length, the model pools them, a classifier follows.

    A model overrides `pool` and, if it does not want all frames, or scales them in its own way, `frame_sampling` and
    `normalise`.

    Args:
        spec: names the features and their sizes, and has the number of classes.
        classifier: the name of a registered video-level model.
        classifier_hparams: its hyper-parameters, where they differ from its defaults.
        unit_frames: whether frames are scaled to unit length.

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
        """Scales `frames` `(B, T, D)` float32, 0 where `valid` `(B, T)` is false, to unit length, if they are to be."""
        return l2_normalise(frames) if self.unit_frames else frames

    def pool(self, frames: tf.Tensor, valid: tf.Tensor, key: tf.Tensor | None, training: bool) -> tf.Tensor:
        """Turns `frames` `(B, T, D)` that exist where `valid` `(B, T)` is true into vectors `(B, E)`."""
        raise NotImplementedError

    def build(self, batch_shape: Any = None) -> None:
        """Creates the weights by a walk through a batch of one black frame; shapes follow from the spec."""
        self.call(_blank_batch(self.spec), training=False)

    def call(self, batch: Mapping[str, tf.Tensor], training: bool = False) -> dict[str, Any]:
        """Maps a batch of `(B, T, size)` features and `num_frames` `(B,)` to predictions and logits `(B, C)`."""
        frames, valid = read_frames(batch, self.spec)
        frames = tf.cast(self.normalise(frames, valid), self.compute_dtype)
        vector = self.pool(frames, valid, batch.get("key"), training)
        return self.classifier(vector, key=batch.get("key"), training=training)

    def start_at_prior(self, prior: np.ndarray) -> None:
        """Starts the classifier at the class prior `(C,)`."""
        self.classifier.start_at_prior(prior)


@hyper_parameters(flags={"iterations": "iterations", "sample_random_frames": "sample_random_frames"})
class SampledModel(FrameLevelModel):
    """A frame-level model that may be trained on some of a video's frames.

    Args:
        spec: what the records hold.
        iterations: how many frames a training example has; 0 for all.
        sample_random_frames: whether they are drawn one by one; if not, they follow each other from a random start.
        sampling: how they are drawn: a method of yt8m/sampling.py, or `all`.
        evaluation_sampling: which frames are evaluated: `all`, or `uniform` for `iterations` of them.
        inherited: see FrameLevelModel.

    Raises:
        UserError: if there is no such sampling.
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
        super().__init__(spec, **inherited)
        self.training_sampling = random_frames(iterations, sample_random_frames, sampling)
        self.evaluation_sampling = fixed_sampling(evaluation_sampling, iterations)

    def frame_sampling(self, training: bool) -> FrameSampling | None:
        """What `sampling` says in training, what `evaluation_sampling` says at evaluation."""
        return self.training_sampling if training else self.evaluation_sampling


def _blank_batch(spec: DataSpec) -> dict[str, tf.Tensor]:
    sizes = zip(spec.feature_names, spec.feature_sizes, strict=True)
    features = {name: tf.zeros((1, 1, size), tf.uint8) for name, size in sizes}
    return {**features, "num_frames": tf.ones((1,), tf.int32), "key": tf.zeros((1,), tf.int64)}
