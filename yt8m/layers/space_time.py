"""Convolution and pooling over time and places, of clips of different lengths."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from yt8m.arguments import check_at_least
from yt8m.layers.normalisation import MaskedBatchNormalization

Sizes = tuple[int, int, int]  # along time, height and width


def repeat_ends(frames: tf.Tensor, valid: tf.Tensor, size: int, stride: int) -> tf.Tensor:
    """Pads clips in time for windows of `size` frames every `stride` frames, by repeating first and last frame.

        y[b, t] = x[b, min(max(t - before, 0), T_b - 1)],   before = floor((size - stride) / 2)

    So a clip that does not change is not changed by its ends, whatever its length. Zeros, in their place, would be
    frames of another clip. `before` is what TensorFlow's padding `SAME` is for lengths that `stride` divides.

    Args:
        frames: `(B, T, h, w, D)` float, T at least 1.
        valid: `(B, T)` bool, the padding mask: True for the T_b real frames; of a clip without any the first counts.
        size: the number of frames in a window.
        stride: the number of frames between the starts of two windows, at most `size`.

    Returns:
        `(B, T + size - 1, h, w, D)`, just enough for ceil(T / stride) windows.
    """
    if size == 1:
        return frames
    before = (size - stride) // 2
    num_frames = tf.reduce_sum(tf.cast(valid, tf.int32), axis=1)
    first, last = frames[:, :1], tf.gather(frames, tf.maximum(num_frames, 1)[:, tf.newaxis] - 1, axis=1, batch_dims=1)
    main = tf.where(valid[:, :, tf.newaxis, tf.newaxis, tf.newaxis], frames, last)
    return tf.concat([*[first] * before, main, *[last] * (size - 1 - before)], axis=1)


class SpaceTimeConv(keras.layers.Layer):
    """Convolution over time and places, batch normalisation and rectified units.

        y = relu(BN(x * W))

    The borders of the frames are padded with zeros as by `SAME`, the ends of the clip by `repeat_ends`. Kernels of one
    frame are convolutions of frames.

    Args:
        filters: the number of kernels.
        kernel: the kernel's extent along time, height and width.
        strides: the strides along time, height and width.

    Raises:
        UserError: if `filters` is below 1.

    Source: the unit of Carreira & Zisserman 2017, "Quo vadis, action recognition?", whose code pads clips with zeros.
    """

    def __init__(self, filters: int, kernel: Sizes, strides: Sizes = (1, 1, 1), **kwargs: Any):
        super().__init__(**kwargs)
        check_at_least(1, filters=filters)
        self.filters, self.extent, self.strides = filters, kernel, strides
        self.batch_norm = MaskedBatchNormalization(dtype=self.dtype_policy)

    def build(self, input_shape: Any) -> None:
        """Creates the kernel W `(time, height, width, D, filters)`, and the batch normalisation."""
        self.kernel = self.add_weight(shape=(*self.extent, input_shape[-1], self.filters), name="kernel")
        self.batch_norm.build((*input_shape[:-1], self.filters))

    def call(self, frames: tf.Tensor, valid: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Maps `frames` `(B, T, h, w, D)` to `(B, ceil(T / stride), h', w', filters)` of the compute dtype.

        `valid` `(B, T)` bool is the padding mask, True for real frames; that of the result is `valid[:, ::stride]`. B
        and T are at least 1.
        """
        kernel = tf.convert_to_tensor(self.kernel)
        if self.extent[0] == self.strides[0] == 1:
            y = _frame_by_frame(lambda rows: tf.nn.conv2d(rows, kernel[0], self.strides[1:], "SAME"), frames)
        else:
            padded = repeat_ends(frames, valid, self.extent[0], self.strides[0])
            padded = tf.pad(padded, [[0, 0], [0, 0], *_borders(frames.shape, self.extent, self.strides), [0, 0]])
            y = tf.nn.conv3d(padded, kernel, [1, *self.strides, 1], "VALID")
        is_real = valid[:, :: self.strides[0], tf.newaxis, tf.newaxis] & tf.ones(y.shape[2:4], tf.bool)
        return tf.nn.relu(self.batch_norm(y, valid=is_real, training=training))


def max_pool(frames: tf.Tensor, valid: tf.Tensor, kernel: Sizes, strides: Sizes) -> tf.Tensor:
    """Takes the maximum over windows of time and places, of which padding is no part.

    Args:
        frames: `(B, T, h, w, D)` float, at least 0, as rectified units are.
        valid: `(B, T)` bool, the padding mask: True for real frames; that of the result is `valid[:, ::stride]`.
        kernel: the window's extent along time, height and width.
        strides: the strides along time, height and width.

    Returns:
        `(B, ceil(T / stride), h', w', D)` of the dtype of `frames`.
    """
    # Places first, then time: the maximum of maxima is the same, and there are fewer of them.
    pooled = _frame_by_frame(lambda rows: tf.nn.max_pool2d(rows, kernel[1:], strides[1:], "SAME"), frames)
    if kernel[0] == 1:
        return pooled
    padded = repeat_ends(pooled, valid, kernel[0], strides[0])
    maxima = padded[:, : tf.shape(padded)[1] - kernel[0] + 1]
    for shift in range(1, kernel[0]):
        maxima = tf.maximum(maxima, padded[:, shift : tf.shape(padded)[1] - kernel[0] + 1 + shift])
    return maxima[:, :: strides[0]]


def _frame_by_frame(apply: Callable[[tf.Tensor], tf.Tensor], frames: tf.Tensor) -> tf.Tensor:
    """Applies a function of `(N, h, w, D)` to `frames` `(B, T, h, w, D)`."""
    rows = apply(tf.reshape(frames, (-1, *frames.shape[2:])))
    return tf.reshape(rows, tf.concat([tf.shape(frames)[:2], rows.shape[1:]], axis=0))


def _borders(shape: Any, kernel: Sizes, strides: Sizes) -> list[list[int]]:
    """The zeros above, below, left and right of frames with which a window is `SAME`."""
    borders = []
    for size, extent, stride in zip(shape[2:4], kernel[1:], strides[1:], strict=True):
        total = max((-(-size // stride) - 1) * stride + extent - size, 0)
        borders.append([total // 2, total - total // 2])
    return borders
