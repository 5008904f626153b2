"""The registered I3D: Inception-v1 inflated to clips."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from yt8m.arguments import ArgumentError, check_width
from yt8m.layers.backbones import load_weights
from yt8m.layers.frames import valid_frames
from yt8m.layers.inception import Inception
from yt8m.layers.layer_list import LayerList
from yt8m.layers.pooling import masked_mean
from yt8m.layers.space_time import repeat_ends
from yt8m.models.streams import StreamsModel, real_frames
from yt8m.registry import CLIP_MODELS
from yt8m.schema import DataSpec


@CLIP_MODELS.register(defaults={"classifier_hparams": {"dropout": 0.5}}, loss="BranchCrossEntropyLoss")
class I3dModel(StreamsModel):
    """I3D: Inception-v1 inflated to clips, one per feature; with pictures and flow it is two-stream I3D.

        vector_s = mean over time of averages of 2 frames and all places of inflated_inception(x_s)

    The ends of a clip are padded by repeating its first and last frame: a clip that does not change has the answer of
    the network of frames that was inflated, whatever its length. The released code pads with zeros, with which
    this holds away from the ends alone.

    Args:
        spec: the features' names and channels, the size of the frames, and the number of classes.
        inception_width: a factor of all numbers of kernels.
        inception_weights: files of weights, one per feature and separated by commas, with which a new run starts, as
            tools/inflate_weights.py writes them; empty for random weights.
        inherited: further keyword arguments, those of StreamsModel.

    Raises:
        UserError: if `inception_width` is not in (0, 16], or there are not as many files as features.

    Source: Carreira & Zisserman 2017, "Quo vadis, action recognition? A new model and the Kinetics dataset"; a dropout
    rate of 0.5 as in google-deepmind/kinetics-i3d.
    """

    def __init__(self, spec: DataSpec, *, inception_width: float = 1.0, inception_weights: str = "", **inherited: Any):
        check_width(inception_width=inception_width)
        super().__init__(spec, len(spec.feature_names), **inherited)
        self.weight_files = inception_weights.split(",") if inception_weights else []
        if self.weight_files and len(self.weight_files) != len(spec.feature_names):
            raise ArgumentError(
                f"inception_weights={inception_weights}: expected as many files as there are features, "
                f"{len(spec.feature_names)}, separated by commas."
            )
        self.networks = LayerList(self, "network", (Inception(True, inception_width) for _ in spec.feature_names))

    def describe(self, clips: Mapping[str, tf.Tensor], valid: tf.Tensor, training: bool) -> list[tf.Tensor]:
        """Maps each feature of `clips` `(B, T, S, S, channels)` to a vector `(B, 1024 inception_width)`.

        `valid` `(B, T)` bool is the padding mask, True for real frames.
        """
        vectors = []
        for network, frames in zip(self.networks, clips.values(), strict=True):
            maps, is_real = network(frames, valid, training=training)
            # Windows of 2 frames, as published: the first and the last frame count half.
            is_window = valid_frames(tf.maximum(real_frames(is_real) - 1, 1), tf.shape(maps)[1])
            padded = repeat_ends(maps, is_real, size=2, stride=1)
            pairs = (padded[:, :-1] + padded[:, 1:]) / 2.0
            vectors.append(masked_mean(tf.reduce_mean(tf.cast(pairs, tf.float32), axis=(2, 3)), is_window))
        return vectors

    def load_pretrained(self) -> None:
        """Reads `inception_weights`, one file per feature.

        Raises:
            UserError: if there is no such file, or it holds the weights of another network.
        """
        if self.weight_files:
            for network, path in zip(self.networks, self.weight_files, strict=True):
                load_weights(network.with_files(), path, "inception_weights")
