"""Registered temporal pooling models: where the maximum over time is taken, before, between or after hidden layers."""

from functools import partial
from typing import Any

import tensorflow as tf

from yt8m.arguments import check_at_least, check_share
from yt8m.layers.dense import NormalisedDense
from yt8m.layers.hidden_layers import HiddenLayers
from yt8m.layers.pooling import masked_max
from yt8m.layers.windows import max_over_parts, max_over_windows, sliding_windows
from yt8m.models.base import PreparedFramesModel
from yt8m.registry import FRAME_LEVEL_MODELS, hyper_parameters
from yt8m.schema import DataSpec


@hyper_parameters(defaults={"classifier": "LogisticModel"}, flags={"hidden_size": "hidden_size"})
class TemporalPoolModel(PreparedFramesModel):
    """Base class of the temporal pooling models: maxima over real frames, and fully connected layers (FC).

    FC is dropout(relu(BN(x W))), or dropout(relu(x W + b)) without normalisation.

    Args:
        spec: the features' names and sizes, and the number of classes.
        hidden_size: the width of each fully connected layer.
        add_batch_norm: whether fully connected layers are batch-normalised; if not, biases are added.
        dropout: the dropout rate after each fully connected layer, in [0, 1).
        inherited: further keyword arguments, those of PreparedFramesModel.

    Raises:
        UserError: if `hidden_size` is below 1, or `dropout` is outside [0, 1).
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        hidden_size: int = 4096,
        add_batch_norm: bool = False,
        dropout: float = 0.0,
        **inherited: Any,
    ):
        check_at_least(1, hidden_size=hidden_size)
        check_share(dropout=dropout)
        super().__init__(spec, **inherited)
        self.hidden_size = hidden_size
        self.make_layers = partial(
            HiddenLayers, add_batch_norm=add_batch_norm, dropout=dropout, dtype=self.dtype_policy
        )

    def pool(self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool) -> tf.Tensor:
        """Prepares `frames` `(B, T, D)` and pools them by `pool_over_time` to `(B, E)`."""
        frames = self.prepare(frames, valid, random_key=random_key, training=training)
        return self.pool_over_time(frames, valid, random_key=random_key, training=training)

    def pool_over_time(
        self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool
    ) -> tf.Tensor:
        """Pools prepared `frames` `(B, T, D)` float to the input of the classifier, `(B, E)`; arguments as of `pool`.

        `valid` `(B, T)` bool is the padding mask, True for real frames. `random_key` `(B,)` int64 is each video's
        source of randomness, for dropout.
        """
        raise NotImplementedError


@FRAME_LEVEL_MODELS.register()
class ConvPoolModel(TemporalPoolModel):
    """Maximum over all frames, then two fully connected layers.

        p = classifier(FC(FC(max_t x_t)))

    Args:
        spec: the features' names and sizes, and the number of classes.
        inherited: further keyword arguments, those of TemporalPoolModel.

    Source: Ng et al. 2015, "Beyond short snippets", "conv pooling": there of a network's last convolutional layer, here
    of the stored features.
    """

    def __init__(self, spec: DataSpec, **inherited: Any):
        super().__init__(spec, **inherited)
        self.layers_after = self.make_layers([self.hidden_size] * 2, salt="video layer")

    def pool_over_time(
        self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool
    ) -> tf.Tensor:
        """Maps `frames` `(B, T, D)` to FC(FC(their maximum)), `(B, hidden_size)`."""
        return self.layers_after(masked_max(frames, valid), random_key=random_key, training=training)


@FRAME_LEVEL_MODELS.register()
class LatePoolModel(TemporalPoolModel):
    """Two fully connected layers on every frame, then the maximum over all frames.

        p = classifier(max_t FC(FC(x_t)))

    Args:
        spec: the features' names and sizes, and the number of classes.
        inherited: further keyword arguments, those of TemporalPoolModel.

    Source: Ng et al. 2015, "Beyond short snippets", "late pooling".
    """

    def __init__(self, spec: DataSpec, **inherited: Any):
        super().__init__(spec, **inherited)
        self.layers_before = self.make_layers([self.hidden_size] * 2, salt="frame layer")

    def pool_over_time(
        self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool
    ) -> tf.Tensor:
        """Maps `frames` `(B, T, D)` to the maximum of FC(FC(frame)), `(B, hidden_size)`."""
        return masked_max(self.layers_before(frames, valid, random_key=random_key, training=training), valid)


@FRAME_LEVEL_MODELS.register()
class SlowPoolModel(TemporalPoolModel):
    """Maximum over windows, a fully connected layer, maximum over the windows, a fully connected layer.

        p = classifier(FC(max_w FC(max_(t in window w) x_t)))

    Args:
        spec: the features' names and sizes, and the number of classes.
        window_size: the number of frames in a window.
        window_stride: the number of frames between the starts of two windows, at most `window_size`.
        inherited: further keyword arguments, those of TemporalPoolModel.

    Raises:
        UserError: if a window has no frames, or there are frames between two windows.

    Source: Ng et al. 2015, "Beyond short snippets", "slow pooling". The last window of a video may be shorter.
    """

    def __init__(self, spec: DataSpec, *, window_size: int = 10, window_stride: int = 5, **inherited: Any):
        check_at_least(1, window_stride=window_stride)
        check_at_least(window_stride, window_size=window_size)
        super().__init__(spec, **inherited)
        self.window_size, self.window_stride = window_size, window_stride
        self.window_layer = self.make_layers([self.hidden_size], salt="window layer")
        self.video_layer = self.make_layers([self.hidden_size], salt="video layer")

    def pool_over_time(
        self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool
    ) -> tf.Tensor:
        """Maps `frames` `(B, T, D)` to the maximum over two scales of time, `(B, hidden_size)`."""
        windows, is_window = max_over_windows(frames, valid, self.window_size, self.window_stride)
        windows = self.window_layer(windows, is_window, random_key=random_key, training=training)
        return self.video_layer(masked_max(windows, is_window), random_key=random_key, training=training)


@FRAME_LEVEL_MODELS.register()
class LocalPoolModel(TemporalPoolModel):
    """Maximum over each of N parts of the video, two fully connected layers on each, and all of them concatenated.

        p = classifier([FC(FC(max_(t in part 1) x_t)), ..., FC(FC(max_(t in part N) x_t))])

    The parts have equal lengths, whatever the length of the video, and the same layers. The classifier is large: its
    input has N * hidden_size features.

    Args:
        spec: the features' names and sizes, and the number of classes.
        num_parts: N.
        inherited: further keyword arguments, those of TemporalPoolModel.

    Raises:
        UserError: if `num_parts` is below 1.

    Source: Ng et al. 2015, "Beyond short snippets", "local pooling", for videos of one length.
    """

    def __init__(self, spec: DataSpec, *, num_parts: int = 4, **inherited: Any):
        check_at_least(1, num_parts=num_parts)
        super().__init__(spec, **inherited)
        self.num_parts = num_parts
        self.part_layers = self.make_layers([self.hidden_size] * 2, salt="part layer")

    def pool_over_time(
        self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool
    ) -> tf.Tensor:
        """Maps `frames` `(B, T, D)` to the layers of all parts, `(B, num_parts * hidden_size)`."""
        parts = max_over_parts(frames, valid, self.num_parts)
        has_frames = tf.repeat(tf.reduce_any(valid, axis=1, keepdims=True), self.num_parts, axis=1)
        parts = self.part_layers(parts, has_frames, random_key=random_key, training=training)
        return tf.reshape(parts, (tf.shape(parts)[0], self.num_parts * self.hidden_size))


@FRAME_LEVEL_MODELS.register()
class TimeConvModel(TemporalPoolModel):
    """Convolution over time, maximum over the windows, and a fully connected layer.

        p = classifier(FC(max_w relu([x_t for t in window w] W + b)))

    Args:
        spec: the features' names and sizes, and the number of classes.
        num_kernels: the number of kernels, columns of W.
        window_size: the number of frames that a kernel spans.
        window_stride: the number of frames between the starts of two windows, at most `window_size`.
        inherited: further keyword arguments, those of TemporalPoolModel.

    Raises:
        UserError: if there are no kernels, a window has no frames, or there are frames between two windows.

    Source: Ng et al. 2015, "Beyond short snippets", "time-domain convolution". What the last window of a video lacks is
    0.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        num_kernels: int = 256,
        window_size: int = 10,
        window_stride: int = 5,
        **inherited: Any,
    ):
        check_at_least(1, num_kernels=num_kernels, window_stride=window_stride)
        check_at_least(window_stride, window_size=window_size)
        super().__init__(spec, **inherited)
        self.window_size, self.window_stride = window_size, window_stride
        self.kernels = NormalisedDense(num_kernels, add_batch_norm=False, dtype=self.dtype_policy)
        self.video_layer = self.make_layers([self.hidden_size], salt="video layer")

    def pool_over_time(
        self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool
    ) -> tf.Tensor:
        """Maps `frames` `(B, T, D)` to the largest response of every kernel and then to `(B, hidden_size)`."""
        windows, _, is_window = sliding_windows(frames, valid, self.window_size, self.window_stride)
        count, num_windows = tf.unstack(tf.shape(is_window))
        windows = tf.reshape(windows, (count, num_windows, self.window_size * frames.shape[2]))
        responses = masked_max(tf.nn.relu(self.kernels(windows)), is_window)
        return self.video_layer(responses, random_key=random_key, training=training)
