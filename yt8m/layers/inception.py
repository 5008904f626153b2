"""Inception-v1 with batch normalisation, over frames and, inflated, over time."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from yt8m.arguments import ArgumentError, check_width
from yt8m.layers.layer_list import LayerList
from yt8m.layers.space_time import SpaceTimeConv, max_pool

# After the first convolution, by name: a module, the widths of its branches; or a pooling, its extent and strides along
# time, height and width.
# Source: Szegedy et al. 2015, table 1; along time: Carreira & Zisserman 2017, figure 3.
STAGES: dict[str, tuple[Any, ...]] = {
    "MaxPool2a": ((1, 3, 3), (1, 2, 2)),
    "Conv2b": (64, (1, 1, 1)),
    "Conv2c": (192, (3, 3, 3)),
    "MaxPool3a": ((1, 3, 3), (1, 2, 2)),
    "Mixed3b": (64, (96, 128), (16, 32), 32),
    "Mixed3c": (128, (128, 192), (32, 96), 64),
    "MaxPool4a": ((3, 3, 3), (2, 2, 2)),
    "Mixed4b": (192, (96, 208), (16, 48), 64),
    "Mixed4c": (160, (112, 224), (24, 64), 64),
    "Mixed4d": (128, (128, 256), (24, 64), 64),
    "Mixed4e": (112, (144, 288), (32, 64), 64),
    "Mixed4f": (256, (160, 320), (32, 128), 128),
    "MaxPool5a": ((2, 2, 2), (2, 2, 2)),
    "Mixed5b": (256, (160, 320), (32, 128), 128),
    "Mixed5c": (384, (192, 384), (48, 128), 128),
}


class InceptionModule(keras.layers.Layer):
    """Four branches side by side, concatenated.

        y = [C1(x), C3(C1(x)), C3(C1(x)), C1(max pool(x))]

    with C1 and C3 convolutions of 1 x 1 and 3 x 3 places, C3 and the maximum also of `extent` frames.

    Args:
        widths: the numbers of kernels, as in `(64, (96, 128), (16, 32), 32)`.
        extent: the frames that C3 and the maximum span: 1 or 3.

    Raises:
        UserError: if `extent` is neither.

    Source: Szegedy et al. 2015, "Going deeper with convolutions"; the third branch with 3 x 3 in place of 5 x 5 as in
    the released code of Inception-v1 and of I3D.
    """

    def __init__(self, widths: tuple[Any, ...], extent: int, **kwargs: Any):
        if extent not in (1, 3):
            raise ArgumentError(f"extent={extent}: expected 1 or 3 frames.")
        super().__init__(**kwargs)
        self.extent, self.strides = extent, (1, 1, 1)
        first, *(second, third), last = widths

        def conv(filters: int, size: int) -> SpaceTimeConv:
            return SpaceTimeConv(filters, (extent if size > 1 else 1, size, size), dtype=self.dtype_policy)

        self.branch_0 = conv(first, 1)
        self.branch_1_reduction, self.branch_1 = conv(second[0], 1), conv(second[1], 3)
        self.branch_2_reduction, self.branch_2 = conv(third[0], 1), conv(third[1], 3)
        self.branch_3 = conv(last, 1)
        self.filters = first + second[1] + third[1] + last

    def build(self, input_shape: Any) -> None:
        """Creates the weights of all branches for frames `(B, T, h, w, D)`."""
        for layer in (self.branch_0, self.branch_1_reduction, self.branch_2_reduction, self.branch_3):
            layer.build(input_shape)
        self.branch_1.build((*input_shape[:-1], self.branch_1_reduction.filters))
        self.branch_2.build((*input_shape[:-1], self.branch_2_reduction.filters))

    def call(self, frames: tf.Tensor, valid: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Maps `frames` `(B, T, h, w, D)` to `(B, T, h, w, E)`; `valid` `(B, T)` bool is True for real frames."""

        def run(*layers: keras.layers.Layer) -> tf.Tensor:
            y = frames
            for layer in layers:
                y = layer(y, valid, training=training)
            return y

        pooled = max_pool(frames, valid, (self.extent, 3, 3), (1, 1, 1))
        branches = [
            run(self.branch_0),
            run(self.branch_1_reduction, self.branch_1),
            run(self.branch_2_reduction, self.branch_2),
            self.branch_3(pooled, valid, training=training),
        ]
        return tf.concat(branches, axis=-1)


class Inception(keras.layers.Layer):
    """Inception-v1 with batch normalisation up to its last module: of frames, or inflated, of clips.

    Inflated, the kernels of more than one place and the poolings also span time, as published: it is I3D. A kernel of
    the inflated network that repeats one of the other network in time, divided by the number of its frames, gives
    the same answer for a clip that does not change.

    Args:
        inflated: whether kernels, poolings and strides extend over time.
        width: a factor of all numbers of kernels.

    Raises:
        UserError: if `width` is not in (0, 16].

    Source: Szegedy et al. 2015, "Going deeper with convolutions"; Ioffe & Szegedy 2015 for the normalisation; Carreira
    & Zisserman 2017, "Quo vadis, action recognition? A new model and the Kinetics dataset".
    """

    def __init__(self, inflated: bool = False, width: float = 1.0, **kwargs: Any):
        super().__init__(**kwargs)
        check_width(width=width)
        self.inflated, self.width = inflated, width
        stages: dict[str, tuple[Any, ...]] = {"Conv1a": (64, (7, 7, 7), (2, 2, 2))} | STAGES
        self.stages = {name: self._stage(name, setting, width) for name, setting in stages.items()}
        self.members = LayerList(
            self, "part", [stage for stage in self.stages.values() if not isinstance(stage, tuple)]
        )

    def _stage(self, name: str, setting: tuple[Any, ...], width: float) -> Any:
        """Returns a layer, or of a pooling its extent and strides."""
        if name.startswith("Mixed"):
            return InceptionModule(_scaled(setting, width), 3 if self.inflated else 1, dtype=self.dtype_policy)
        sizes = [extent if self.inflated else (1, *extent[1:]) for extent in setting if isinstance(extent, tuple)]
        if name.startswith("MaxPool"):
            return tuple(sizes)
        return SpaceTimeConv(_scaled(setting[0], width), *sizes, dtype=self.dtype_policy)

    def build(self, input_shape: Any) -> None:
        """Creates the weights for frames of `input_shape`, (B, T, S, S, channels)."""
        for layer in self.members:
            layer.build(input_shape)
            input_shape = (*input_shape[:-1], layer.filters)

    def call(self, frames: tf.Tensor, valid: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """Maps `frames` `(B, T, S, S, channels)` float to the output of the last module, and its padding mask.

        Args:
            frames: `(B, T, S, S, channels)` float, B and T at least 1.
            valid: `(B, T)` bool, the padding mask: True for real frames.
            training: whether to normalise by the moments of the batch.

        Returns:
            `(B, T', S / 32, S / 32, 1024 width)` of the compute dtype, and which of its frames are real, `(B, T')`
            bool; T' is T or, inflated, T / 8, and all are rounded up.
        """
        *_, (_, maps, is_real) = self.end_points(frames, valid, training)
        return maps, is_real

    def end_points(
        self, frames: tf.Tensor, valid: tf.Tensor, training: bool
    ) -> Iterator[tuple[str, tf.Tensor, tf.Tensor]]:
        """Yields the name of each stage, its output and its padding mask.

        Args:
            frames: `(B, T, S, S, channels)` float, B and T at least 1.
            valid: `(B, T)` bool, the padding mask: True for real frames.
            training: whether to normalise by the moments of the batch.
        """
        for name, stage in self.stages.items():
            if isinstance(stage, tuple):
                frames, stride = max_pool(frames, valid, *stage), stage[1][0]
            else:
                frames, stride = stage(frames, valid, training=training), stage.strides[0]
            valid = valid[:, ::stride] if stride > 1 else valid
            yield name, frames, valid

    def with_files(self) -> keras.Model:
        """Returns a model of this layer, once it is built, for `save_weights` and `load_weights`, which layers lack."""
        model = keras.Model(name="inception")
        model.layer, model.built = self, True
        return model

    def inflate(self, source: "Inception") -> None:
        """Takes the weights of a network over frames, of the same width, all moving moments included.

            W[t] = W_source / n   for the n frames t of each kernel

        Where this network reads other channels, as of optical flow, the first kernels are the mean over the source's.

        Args:
            source: a network that is not inflated.

        Raises:
            UserError: if its width is another one.

        Source: Carreira & Zisserman 2017; for other channels Wang et al. 2016, "Temporal segment networks".
        """
        for weight, original in zip(self.weights, source.weights, strict=True):
            value = original.numpy()
            if weight.name == "kernel":
                if value.shape[3] != weight.shape[3] and weight is self.stages["Conv1a"].kernel:
                    value = np.repeat(value.mean(axis=3, keepdims=True), weight.shape[3], axis=3)
                value = np.repeat(value, weight.shape[0], axis=0) / weight.shape[0]
            if value.shape != tuple(weight.shape):
                raise ArgumentError(
                    f"width={self.width:g}: the network of frames has another one: its kernels {weight.path} have the "
                    f"shape {value.shape}, not {tuple(weight.shape)}. Give both networks one width."
                )
            weight.assign(value)


class FrameInception(keras.layers.Layer):
    """Inception-v1 over single frames, as a network of yt8m/layers/backbones.py is called.

    Args:
        width: a factor of all numbers of kernels.
    """

    def __init__(self, width: float = 1.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.inception = Inception(width=width)

    def build(self, input_shape: Any) -> None:
        """Creates the weights for frames of `input_shape`, (N, S, S, channels)."""
        self.inception.build((input_shape[0], 1, *input_shape[1:]))

    def call(self, frames: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Maps `frames` `(N, S, S, channels)` float to feature maps `(N, S / 32, S / 32, 1024 width)`."""
        every_frame = tf.ones_like(frames[:, :1, 0, 0], tf.bool)
        maps, _ = self.inception(frames[:, tf.newaxis], every_frame, training=training)
        return maps[:, 0]


def _scaled(widths: Any, width: float) -> Any:
    """Multiplies numbers of kernels, which may be nested."""
    if isinstance(widths, tuple):
        return tuple(_scaled(each, width) for each in widths)
    return max(1, round(widths * width))
