"""The registered 3-D convolutional network like C3D."""

import math
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from yt8m.arguments import check_at_least, check_width
from yt8m.layers.hidden_layers import HiddenLayers
from yt8m.layers.layer_list import LayerList
from yt8m.layers.pooling import masked_mean
from yt8m.layers.space_time import SpaceTimeConv, max_pool
from yt8m.models.streams import StreamsModel
from yt8m.registry import CLIP_MODELS
from yt8m.schema import DataSpec

# Numbers of kernels of the convolutions before each of the five poolings.
_FILTERS = ((64,), (128,), (256, 256), (512, 512), (512, 512))


@CLIP_MODELS.register(loss="BranchCrossEntropyLoss")
class C3dModel(StreamsModel):
    """A 3-D convolutional network like C3D: eight convolutions, five poolings and two fully connected layers.

    All convolutions are of 3 x 3 x 3, followed by batch normalisation, and all poolings halve time and places. The
    fully connected layers read what is left of 16 frames; of longer clips, the mean over what is left of each.

    Args:
        spec: the features' names and channels, the size of the frames, and the number of classes.
        width: a factor of the convolutions' numbers of kernels.
        hidden_size: the width of the fully connected layers.
        inherited: further keyword arguments, those of StreamsModel.

    Raises:
        UserError: if `width` is not in (0, 16], or `hidden_size` is below 1.

    Source: Tran et al. 2015, "Learning spatiotemporal features with 3D convolutional networks", in the form that
    Carreira & Zisserman 2017 compare with I3D: batch normalisation after all layers, and a stride of 2 in time in the
    first pooling too.
    """

    def __init__(self, spec: DataSpec, *, width: float = 1.0, hidden_size: int = 4096, **inherited: Any):
        check_width(width=width)
        check_at_least(1, hidden_size=hidden_size)
        super().__init__(spec, len(spec.feature_names), **inherited)
        self.networks = LayerList(self, "network", (_C3d(width, hidden_size) for _ in spec.feature_names))

    def describe(self, clips: Mapping[str, tf.Tensor], valid: tf.Tensor, training: bool) -> list[tf.Tensor]:
        """Maps each feature of `clips` `(B, T, S, S, channels)` to a vector `(B, hidden_size)`.

        `valid` `(B, T)` bool is the padding mask, True for real frames.
        """
        return [
            network(frames, valid, training=training)
            for network, frames in zip(self.networks, clips.values(), strict=True)
        ]


class _C3d(keras.layers.Layer):
    """The network over one feature.

    Args:
        width: a factor of the convolutions' numbers of kernels.
        hidden_size: the width of the fully connected layers.
    """

    def __init__(self, width: float, hidden_size: int, **kwargs: Any):
        super().__init__(**kwargs)
        filters = [[max(1, round(count * width)) for count in block] for block in _FILTERS]
        self.block_sizes = [len(block) for block in filters]
        self.convolutions = LayerList(
            self,
            "conv",
            (SpaceTimeConv(count, (3, 3, 3), dtype=self.dtype_policy) for block in filters for count in block),
        )
        self.hidden = HiddenLayers(
            [hidden_size] * 2, add_batch_norm=True, dropout=0.0, salt="hidden", dtype=self.dtype_policy
        )

    def build(self, input_shape: Any) -> None:
        """Creates the weights for frames of `input_shape`, (B, T, S, S, channels)."""
        channels = input_shape[-1]
        for layer in self.convolutions:
            layer.build((*input_shape[:-1], channels))
            channels = layer.filters
        places = input_shape[2]
        for _ in self.block_sizes:
            places = -(-places // 2)
        self.hidden.build((None, None, places * places * channels))

    def call(self, frames: tf.Tensor, valid: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Maps `frames` `(B, T, S, S, channels)` to `(B, hidden_size)`; `valid` `(B, T)` bool: True for real frames."""
        layers = iter(self.convolutions)
        for block_size in self.block_sizes:
            for _ in range(block_size):
                frames = next(layers)(frames, valid, training=training)
            frames, valid = max_pool(frames, valid, (2, 2, 2), (2, 2, 2)), valid[:, ::2]
        rows = tf.reshape(frames, (*tf.unstack(tf.shape(frames)[:2]), math.prod(frames.shape[2:])))
        return masked_mean(tf.cast(self.hidden(rows, valid, training=training), tf.float32), valid)
