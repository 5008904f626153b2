"""The registered two-stream networks: Inception-v1 over single pictures and over stacks of optical flow."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from yt8m.arguments import check_at_least, check_width
from yt8m.errors import UserError
from yt8m.layers.inception import Inception
from yt8m.layers.pooling import masked_mean
from yt8m.layers.space_time import SpaceTimeConv, max_pool
from yt8m.layers.windows import sliding_windows
from yt8m.models.streams import FLOW_CHANNELS, StreamsModel, real_frames
from yt8m.registry import CLIP_MODELS
from yt8m.schema import DataSpec


class WindowedStreamsModel(StreamsModel):
    """Base class of networks over snapshots: one picture, and the flow of the frames around it.

    A clip is cut into windows of L frames. Of each the middle picture is one input of Inception-v1, and the flow of all
    L frames, 2 L channels, is the input of another. Flow that the last window lacks is 0.

    Args:
        spec: the features' names and channels, the size of the frames, and the number of classes.
        num_streams: the number of vectors that `describe` returns.
        flow_length: L.
        window_stride: the number of frames between the starts of two windows, at most L.
        inception_width: a factor of all numbers of kernels.
        inherited: further keyword arguments, those of StreamsModel.

    Raises:
        UserError: if there are not one feature of pictures and one of flow, a window has no frames, there are frames
            between two windows, or `inception_width` is not in (0, 16].
    """

    def __init__(
        self,
        spec: DataSpec,
        num_streams: int,
        *,
        flow_length: int = 10,
        window_stride: int = 10,
        inception_width: float = 1.0,
        **inherited: Any,
    ):
        check_at_least(1, window_stride=window_stride)
        check_at_least(window_stride, flow_length=flow_length)
        check_width(inception_width=inception_width)
        super().__init__(spec, num_streams, **inherited)
        features = dict(zip(spec.feature_sizes, spec.feature_names, strict=True))
        self.pictures, self.flow = features.get(3, ""), features.get(FLOW_CHANNELS, "")
        if sorted(spec.feature_sizes) != [FLOW_CHANNELS, 3]:
            raise UserError(
                f"Two streams are read: a feature of 3 channels, pictures, and one of 2, flow. The data have "
                f"{', '.join(spec.feature_names)} of {', '.join(map(str, spec.feature_sizes))} channels."
            )
        self.length, self.stride = flow_length, window_stride
        self.spatial, self.temporal = Inception(width=inception_width), Inception(width=inception_width)

    def maps(
        self, clips: Mapping[str, tf.Tensor], valid: tf.Tensor, training: bool
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Computes the last feature maps of both streams for every window.

        Args:
            clips: the features `(B, T, S, S, channels)` float by name, 0 where padded.
            valid: `(B, T)` bool, the padding mask: True for real frames.
            training: whether to normalise by the moments of the batch.

        Returns:
            The maps of pictures and of flow, `(B, W, S / 32, S / 32, 1024 inception_width)` each, and which of the W
            windows the clip has, `(B, W)` bool.
        """
        size, num_frames = self.spec.clip_size, real_frames(valid)
        rows = tf.reshape(clips[self.flow], (*tf.unstack(tf.shape(valid)), size * size * FLOW_CHANNELS))
        windows, _, is_window = sliding_windows(rows, valid, self.length, self.stride)
        stacks = tf.reshape(windows, (*tf.unstack(tf.shape(is_window)), self.length, size, size, FLOW_CHANNELS))
        stacks = tf.transpose(stacks, (0, 1, 3, 4, 2, 5))
        stacks = tf.reshape(stacks, (*tf.unstack(tf.shape(is_window)), size, size, self.length * FLOW_CHANNELS))
        middles = tf.range(tf.shape(is_window)[1]) * self.stride + self.length // 2
        middles = tf.minimum(middles[tf.newaxis], tf.maximum(num_frames, 1)[:, tf.newaxis] - 1)
        pictures = tf.gather(clips[self.pictures], middles, axis=1, batch_dims=1)
        spatial, _ = self.spatial(pictures, is_window, training=training)
        temporal, _ = self.temporal(stacks, is_window, training=training)
        return spatial, temporal, is_window


@CLIP_MODELS.register(loss="BranchCrossEntropyLoss")
class TwoStreamModel(WindowedStreamsModel):
    """Two streams: a network over single pictures and a network over the flow around them, logits averaged.

        vector_s = mean over windows and places of inception_s(window),   f = (f_pictures + f_flow) / 2

    Args:
        spec: the features' names and channels, the size of the frames, and the number of classes.
        inherited: further keyword arguments, those of WindowedStreamsModel.

    Source: Simonyan & Zisserman 2014, "Two-stream convolutional networks", with Inception-v1 as in Carreira & Zisserman
    2017.
    """

    def __init__(self, spec: DataSpec, **inherited: Any):
        super().__init__(spec, 2, **inherited)

    def describe(self, clips: Mapping[str, tf.Tensor], valid: tf.Tensor, training: bool) -> list[tf.Tensor]:
        """Maps `clips` `(B, T, S, S, channels)` to a vector `(B, 1024 inception_width)` per stream.

        `valid` `(B, T)` bool is the padding mask, True for real frames.
        """
        *maps, is_window = self.maps(clips, valid, training)
        return [masked_mean(tf.reduce_mean(tf.cast(each, tf.float32), axis=(2, 3)), is_window) for each in maps]


@CLIP_MODELS.register()
class FusedTwoStreamModel(WindowedStreamsModel):
    """Two streams that are fused over time and places before they are classified.

        vector = mean of max pool(relu(BN([inception_1(pictures), inception_2(flow)] * W)))

    The kernels W are of 3 x 3 x 3, the pooling is of 3 x 3 x 3 with stride 2.

    Args:
        spec: the features' names and channels, the size of the frames, and the number of classes.
        fusion_size: the number of kernels W.
        inherited: further keyword arguments, those of WindowedStreamsModel.

    Raises:
        UserError: if `fusion_size` is below 1.

    Source: Feichtenhofer, Pinz & Zisserman 2016, "Convolutional two-stream network fusion", in the form that Carreira &
    Zisserman 2017 compare with I3D as "3D-fused two-stream", for clips of 5 windows. They do not state the stride.
    """

    def __init__(self, spec: DataSpec, *, fusion_size: int = 512, **inherited: Any):
        check_at_least(1, fusion_size=fusion_size)
        super().__init__(spec, 1, **inherited)
        self.fusion = SpaceTimeConv(fusion_size, (3, 3, 3), dtype=self.dtype_policy)

    def describe(self, clips: Mapping[str, tf.Tensor], valid: tf.Tensor, training: bool) -> list[tf.Tensor]:
        """Maps `clips` `(B, T, S, S, channels)` to one vector `(B, fusion_size)`.

        `valid` `(B, T)` bool is the padding mask, True for real frames.
        """
        spatial, temporal, is_window = self.maps(clips, valid, training)
        fused = self.fusion(tf.concat([spatial, temporal], axis=-1), is_window, training=training)
        pooled = max_pool(fused, is_window, (3, 3, 3), (2, 2, 2))
        return [masked_mean(tf.reduce_mean(tf.cast(pooled, tf.float32), axis=(2, 3)), is_window[:, ::2])]
