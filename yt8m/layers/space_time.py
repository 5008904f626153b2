"""Convolution and pooling over time and places, of clips of different lengths."""

from typing import Any

import keras
import tensorflow as tf

from yt8m.arguments import check_at_least
from yt8m.layers.frames import valid_frames
from yt8m.layers.normalisation import MaskedBatchNormalization

Sizes = tuple[int, int, int]  # along time, height and width


def strided_length(num_frames: tf.Tensor, stride: int) -> tf.Tensor:
    """Returns ceil(num_frames / stride), the frames that a stride leaves, for `num_frames` int of any shape."""
    return -(-num_frames // stride)


def repeat_ends(frames: tf.Tensor, num_frames: tf.Tensor, size: int, stride: int) -> tf.Tensor:
    """Pads clips in time for windows of `size` frames every `stride` frames, by repeating first and last frame.

        y[b, t] = x[b, min(max(t - before, 0), T_b - 1)],   before = floor((size - stride) / 2)

    So a clip that does not change is not changed by its ends, whatever its length. Zeros, in their place, would be
    frames of another clip. `before` is what TensorFlow's padding `SAME` is for lengths that `stride` divides.

    Args:
        frames: `(B, T, h, w, D)` float, T at least 1.
        num_frames: `(B,)` int32, T_b, the number of real frames; of a clip without any the first counts as real.
        size: the number of frames in a window.
        stride: the number of frames between the starts of two windows.

    Returns:
        `(B, T', h, w, D)`, T' just enough for ceil(T / stride) windows, or more.
    """
    if size == 1:
        return frames
    width = tf.shape(frames)[1]
    before = max(size - stride, 0) // 2
    after = tf.maximum((strided_length(width, stride) - 1) * stride + size - before - width, 0)
    last = tf.gather(frames, tf.maximum(num_frames, 1) - 1, axis=1, batch_dims=1)[:, tf.newaxis]
    is_real = valid_frames(tf.maximum(num_frames, 1), width)[:, :, tf.newaxis, tf.newaxis, tf.newaxis]
    return tf.concat(
        [tf.repeat(frames[:, :1], before, axis=1), tf.where(is_real, frames, last), tf.repeat(last, after, axis=1)],
        axis=1,
    )


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
        self.kernel = self.add_weight(
            shape=(*self.extent, input_shape[-1], self.filters),
            initializer=keras.initializers.HeNormal(),
            name="kernel",
        )
        self.batch_norm.build((*input_shape[:-1], self.filters))

    def call(self, frames: tf.Tensor, num_frames: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Maps `frames` `(B, T, h, w, D)` to `(B, ceil(T / stride), h', w', filters)` of the compute dtype.

        `num_frames` `(B,)` int32 is the number of real frames; B and T are at least 1.
        """
        y = self._convolved(frames, num_frames)
        positions = tf.broadcast_to(
            valid_frames(strided_length(num_frames, self.strides[0]), tf.shape(y)[1])[:, :, tf.newaxis, tf.newaxis],
            tf.shape(y)[:-1],
        )
        return tf.nn.relu(self.batch_norm(y, valid=positions, training=training))

    def _convolved(self, frames: tf.Tensor, num_frames: tf.Tensor) -> tf.Tensor:
        kernel = tf.convert_to_tensor(self.kernel)
        count, width = tf.unstack(tf.shape(frames)[:2])
        if self.extent[0] == self.strides[0] == 1:
            rows = tf.reshape(frames, (count * width, *frames.shape[2:]))
            rows = tf.nn.conv2d(rows, kernel[0], self.strides[1:], "SAME")
            return tf.reshape(rows, (count, width, *rows.shape[1:]))
        padded = repeat_ends(frames, num_frames, self.extent[0], self.strides[0])
        padded = tf.pad(padded, [[0, 0], [0, 0], *_borders(frames.shape, self.extent, self.strides), [0, 0]])
        y = tf.nn.conv3d(padded, kernel, [1, *self.strides, 1], "VALID")
        return y[:, : strided_length(width, self.strides[0])]


def max_pool(frames: tf.Tensor, num_frames: tf.Tensor, kernel: Sizes, strides: Sizes) -> tf.Tensor:
    """Takes the maximum over windows of time and places, of which padding is no part.

    Args:
        frames: `(B, T, h, w, D)` float, at least 0.
        num_frames: `(B,)` int32, the number of real frames.
        kernel: the window's extent along time, height and width.
        strides: the strides along time, height and width.

    Returns:
        `(B, ceil(T / stride), h', w', D)` of the dtype of `frames`.
    """
    count, width = tf.unstack(tf.shape(frames)[:2])
    if kernel[0] == strides[0] == 1:
        rows = tf.reshape(frames, (count * width, *frames.shape[2:]))
        rows = tf.nn.max_pool2d(rows, kernel[1:], strides[1:], "SAME")
        return tf.reshape(rows, (count, width, *rows.shape[1:]))
    padded = repeat_ends(frames, num_frames, kernel[0], strides[0])
    padded = tf.pad(padded, [[0, 0], [0, 0], *_borders(frames.shape, kernel, strides), [0, 0]])
    return tf.nn.max_pool3d(padded, kernel, strides, "VALID")[:, : strided_length(width, strides[0])]


def _borders(shape: Any, kernel: Sizes, strides: Sizes) -> list[list[int]]:
    """The zeros above, below, left and right of frames with which a window is `SAME`."""
    borders = []
    for size, extent, stride in zip(shape[2:4], kernel[1:], strides[1:], strict=True):
        total = max((-(-size // stride) - 1) * stride + extent - size, 0)
        borders.append([total // 2, total - total // 2])
    return borders
