"""Base classes of clip models, which read frames of pixels, and the model of a backbone and any frame-level model."""

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from yt8m.arguments import ArgumentError, check_one_of, typed_as
from yt8m.batch import KEY, LABELS, NUM_FRAMES, Batch, blank_batch
from yt8m.errors import UserError
from yt8m.layers.backbones import Backbone
from yt8m.layers.frames import valid_frames
from yt8m.layers.layer_list import LayerList
from yt8m.layers.vggish import SoundNetwork
from yt8m.models.base import FrameLevelModel
from yt8m.registry import CLIP_MODELS, FRAME_LEVEL_MODELS
from yt8m.sampling import FrameSampling
from yt8m.schema import PATCH_SIZE, DataSpec


class ClipNetwork(keras.Model):
    """Base class of clip models: a subclass overrides `outputs_of_clips`, for one clip per video.

    At evaluation with N clips per video these are classified one by one, and their logits f_n are averaged:

        f = mean_n f_n,   p = sigmoid(f)

    Args:
        spec: the features' names and channels, the size of the frames, and the number of classes.

    Attributes:
        reads_sound: whether a feature may be sound.

    Raises:
        UserError: if there is sound, and this is no model for it.
    """

    reads_sound = False

    def __init__(self, spec: DataSpec, **kwargs: Any):
        super().__init__(autocast=False, **kwargs)
        if PATCH_SIZE in spec.feature_sizes and not self.reads_sound:
            name = spec.feature_names[spec.feature_sizes.index(PATCH_SIZE)]
            raise UserError(
                f"{type(self).__name__} reads pictures and flow; '{name}' is sound. Leave it out of --feature_names, "
                "or use ClipModel."
            )
        self.spec = spec

    def outputs_of_clips(self, batch: Batch, valid: tf.Tensor, training: bool) -> dict[str, Any]:
        """Computes the model's outputs for one clip per video.

        Args:
            batch: features `(B, T, S, S, channels)` uint8 by name, and in training `key` `(B,)` int64.
            valid: `(B, T)` bool, the padding mask: True for real frames.
            training: whether to apply dropout and to normalise by the moments of the batch.

        Returns:
            `predictions` and `logits`, `(B, C)` float32 each, and whatever else a frame-level model may return.
        """
        raise NotImplementedError

    def frame_sampling(self, training: bool) -> FrameSampling | None:
        """Returns None: how frames are chosen is for the data to say."""
        return None

    def load_pretrained(self) -> None:
        """Reads the weights that a new run starts with, if it starts with any."""

    def build(self, batch_shape: Any = None) -> None:
        """Creates the weights by calling the model on a batch of one black clip; `batch_shape` is ignored."""
        self.call(blank_batch(self.spec), training=False)

    def call(self, batch: Mapping[str, tf.Tensor], training: bool = False) -> dict[str, Any]:
        """Maps a batch, as yt8m/batch.py defines it, to the model's outputs.

        Args:
            batch: features `(B, T, S, S, channels)` uint8 by name, `num_frames` `(B,)` int32, and in training `key`
                `(B,)` int64; with N clips per video `(B, N, T, S, S, channels)` and `(B, N)`.
            training: whether to apply dropout and to normalise by the moments of the batch.

        Returns:
            The outputs of `outputs_of_clips`; with N clips per video `predictions` and `logits` `(B, C)` of their mean
            logits, and `clip_predictions` `(B, N, C)`.
        """
        # 1. One video without frames in place of none: TensorFlow's convolutions of an empty batch fail on a CPU.
        count = tf.shape(batch[NUM_FRAMES])[0]
        missing = tf.cast(tf.equal(count, 0), tf.int32)
        names = [name for name in (*self.spec.feature_names, NUM_FRAMES, KEY) if name in batch]
        batch = {name: tf.pad(batch[name], [[0, missing]] + [[0, 0]] * (batch[name].shape.rank - 1)) for name in names}

        # 2. The outputs of every clip, and their means.
        clips, valid = self.single_clips(batch)
        outputs = self.outputs_of_clips(clips, valid, training)
        if batch[NUM_FRAMES].shape.rank == 2:
            num_clips = batch[NUM_FRAMES].shape[1]
            outputs = self._averaged(tf.reshape(outputs["logits"], (-1, num_clips, self.spec.num_classes)))
        return tf.nest.map_structure(lambda output: output[:count], outputs)

    def single_clips(self, batch: Mapping[str, tf.Tensor]) -> tuple[Batch, tf.Tensor]:
        """Makes videos of clips: a batch of `(B N, ...)` of one of `(B, N, ...)`, and its padding mask.

        Args:
            batch: features, `num_frames` and optionally `key` and `labels`, of one clip per video or of N.
        """
        clips = dict(batch)
        if batch[NUM_FRAMES].shape.rank == 2:
            per_clip = (*self.spec.feature_names, NUM_FRAMES)
            clips |= {name: tf.reshape(batch[name], (-1, *batch[name].shape[2:])) for name in per_clip}
            num_clips = batch[NUM_FRAMES].shape[1]
            clips |= {name: tf.repeat(batch[name], num_clips, axis=0) for name in (KEY, LABELS) if name in batch}
        return clips, valid_frames(clips[NUM_FRAMES], tf.shape(clips[self.spec.feature_names[0]])[1])

    def _averaged(self, logits: tf.Tensor) -> dict[str, tf.Tensor]:
        mean = tf.reduce_mean(logits, axis=1)
        return {"predictions": tf.sigmoid(mean), "logits": mean, "clip_predictions": tf.sigmoid(logits)}


class BackboneModel(ClipNetwork):
    """Base class of clip models that see each frame through a convolutional network, one per feature.

    Args:
        spec: the features' names and channels, the size of the frames, and the number of classes.
        features: a frame's vector: `average` or `map`, as of Backbone.
        backbone: the network: a model of `keras.applications`, `EfficientNetLite0`, `InceptionV1` or `SmallCnn`.
        backbone_weights: a file of weights of that network, without a head, with which a new run starts; empty for
            random weights. Every feature's network starts with it.
        backbone_width: a factor of the network's numbers of channels, for networks that have widths.
        train_backbone: whether the network is trained; if not, it is as at evaluation.
        freeze_moments: whether batch normalisation in training is by the moving moments, which then stay as they are.
        chunk_size: how many frames the network computes at a time, again for the gradient, so that memory does not
            grow with the length of clips; 0 for all at once.
        inherited: further keyword arguments, those of ClipNetwork.

    Raises:
        UserError: if there is no such network, it is not for frames of this size or width, or `chunk_size` is given
            where each chunk would be normalised by other moments.
    """

    def __init__(
        self,
        spec: DataSpec,
        features: str,
        *,
        backbone: str = "SmallCnn",
        backbone_weights: str = "",
        backbone_width: float = 1.0,
        train_backbone: bool = True,
        freeze_moments: bool = False,
        chunk_size: int = 0,
        **inherited: Any,
    ):
        super().__init__(spec, **inherited)
        self.backbone_weights = backbone_weights
        networks = (
            SoundNetwork(frozen=not train_backbone, chunk_size=chunk_size)
            if channels == PATCH_SIZE
            else Backbone(
                backbone,
                spec.clip_size,
                backbone_width=backbone_width,
                frame_features=features,
                frozen=not train_backbone,
                freeze_moments=freeze_moments,
                chunk_size=chunk_size,
            )
            for channels in spec.feature_sizes
        )
        self.backbones = LayerList(self, "backbone", networks)

    def read(self, batch: Mapping[str, tf.Tensor], valid: tf.Tensor, training: bool) -> dict[str, tf.Tensor]:
        """Computes the vectors of all frames, `(B, T, width)` float32 by the feature's name.

        Args:
            batch: features `(B, T, S, S, channels)` uint8 by name, or `(B, T, 6144)`, sound.
            valid: `(B, T)` bool, the padding mask: True for real frames.
            training: whether to normalise by the moments of the batch, if these are not frozen.
        """
        streams = zip(self.spec.feature_names, self.backbones, strict=True)
        return {name: network(batch[name], valid, training=training) for name, network in streams}

    def load_pretrained(self) -> None:
        """Reads `backbone_weights` into the network of every feature that is not sound.

        Raises:
            UserError: if there is no such file, or it holds the weights of another network.
        """
        if self.backbone_weights:
            for network in self.backbones:
                if isinstance(network, Backbone):
                    network.load(self.backbone_weights)


@CLIP_MODELS.register()
class ClipModel(BackboneModel):
    """A backbone per frame and a frame-level model over its features, trained as one.

        p = frame_model(backbone(x_1), ..., backbone(x_T))

    So `frame_model=RankPoolModel` is the CNN trained through rank pooling, and `FrameVoteModel` the same CNN trained
    frame by frame. With `frame_features=map` a frame's vector is the whole last feature map: the pooling of
    `ConvPoolModel` and the other temporal pooling models is then that of Ng et al. 2015.

    A feature of 6144 numbers per frame is sound; its network is VGGish, with 128 features per frame.

    Args:
        spec: the features' names and channels, the size of the frames, and the number of classes.
        frame_features: a frame's vector: `average`, the mean of the last feature map over its places; or `map`, all
            places in a row.
        frame_model: the name of a registered frame-level model.
        frame_model_hparams: values of its hyper-parameters by name; the others keep their defaults.
        audio_weights: a file of weights of VGGish, with which a new run starts; empty for random weights.
        inherited: further keyword arguments, those of BackboneModel.

    Raises:
        UserError: if there is no such frame-level model, a hyper-parameter of it is unknown or out of range, or there
            are `audio_weights` and no sound.

    Source: Fernando & Gould 2016, "Learning End-to-end Video Classification with Rank-Pooling"; Ng et al. 2015, "Beyond
    short snippets".
    """

    reads_sound = True

    def __init__(
        self,
        spec: DataSpec,
        *,
        frame_features: str = "average",
        frame_model: str = "AveragePoolModel",
        frame_model_hparams: Mapping[str, Any] | None = None,
        audio_weights: str = "",
        **inherited: Any,
    ):
        if audio_weights and PATCH_SIZE not in spec.feature_sizes:
            raise ArgumentError(
                f"audio_weights={audio_weights}: none of the features is sound, of {PATCH_SIZE} numbers per frame. "
                "Leave it out, or read such a feature."
            )
        super().__init__(spec, frame_features, **inherited)
        self.audio_weights = audio_weights
        widths = tuple(network.width for network in self.backbones)
        frames = DataSpec(spec.feature_names, widths, spec.num_classes, "frame", spec.max_frames)
        self.frame_model = build_frame_model(frame_model, frames, frame_model_hparams)

    def load_pretrained(self) -> None:
        """Reads `backbone_weights` into the networks of pictures and flow, and `audio_weights` into that of sound.

        Raises:
            UserError: if there is no such file, or it holds the weights of another network.
        """
        super().load_pretrained()
        if self.audio_weights:
            for network in self.backbones:
                if isinstance(network, SoundNetwork):
                    network.load(self.audio_weights)

    def frame_sampling(self, training: bool) -> FrameSampling | None:
        """Returns how the frame-level model wants frames to be chosen; None where the data are to say."""
        return self.frame_model.frame_sampling(training)

    def outputs_of_clips(self, batch: Batch, valid: tf.Tensor, training: bool) -> dict[str, Any]:
        """Maps clips `(B, T, S, S, channels)` to the outputs of the frame-level model over their features.

        `valid` `(B, T)` bool is the padding mask, True for real frames.
        """
        return self.frame_model(batch | self.read(batch, valid, training), training=training)

    def build(self, batch_shape: Any = None) -> None:
        """Creates the weights of the frame-level model, then all others; `batch_shape` is ignored."""
        self.frame_model.build()
        super().build()

    @property
    def classifier(self) -> keras.Model:
        """The classifier of the frame-level model."""
        return self.frame_model.classifier

    def start_at_prior(self, prior: np.ndarray) -> None:
        """Sets the classifier's bias from `prior` `(C,)`, each class's frequency p in training."""
        self.frame_model.start_at_prior(prior)

    def remember(self, batches: Iterable[Mapping[str, tf.Tensor]]) -> None:
        """Gives a classifier that remembers the pooled vectors and the labels of all clips of the `batches`."""
        clips = map(self.single_clips, batches)
        self.frame_model.remember(batch | self.read(batch, valid, training=False) for batch, valid in clips)


@CLIP_MODELS.register(
    defaults={
        "backbone": "InceptionV1",
        "frame_model": "DeepLstmModel",
        "frame_model_hparams": {"units": 512, "num_layers": 1, "fusion": "last", "unit_frames": False},
    }
)
class CnnLstmModel(ClipModel):
    """An LSTM on top of Inception-v1: trained to predict after every frame, it answers after the last one.

    Args:
        spec: the features' names and channels, the size of the frames, and the number of classes.
        inherited: further keyword arguments, those of ClipModel.

    Source: Donahue et al. 2015, "Long-term recurrent convolutional networks", and Ng et al. 2015, in the form that
    Carreira & Zisserman 2017 compare with I3D: 512 cells, every fifth frame of a video, without its batch normalisation
    inside the LSTM.
    """


def build_frame_model(name: str, spec: DataSpec, hparams: Mapping[str, Any] | None = None) -> FrameLevelModel:
    """Builds a registered frame-level model.

    Args:
        name: the registered name, such as `RankPoolModel`.
        spec: the features that it is to read.
        hparams: values of hyper-parameters by name; the others keep their defaults.

    Raises:
        UserError: if no model is registered under `name`, it lacks a hyper-parameter, or a value is out of range; the
            message calls it `frame_model` or `frame_model.c`.
    """
    if name not in FRAME_LEVEL_MODELS:
        check_one_of(FRAME_LEVEL_MODELS.names(), frame_model=name)
    hparams = dict(hparams or {})
    FRAME_LEVEL_MODELS.check_hyper_parameters(name, hparams)
    with typed_as("frame_model."):
        return FRAME_LEVEL_MODELS[name](spec, **hparams)
