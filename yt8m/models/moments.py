"""The registered model of a video's mean, standard deviation and length."""

import tensorflow as tf

from yt8m.layers.pooling import masked_mean
from yt8m.models.base import PreparedFramesModel
from yt8m.registry import FRAME_LEVEL_MODELS


@FRAME_LEVEL_MODELS.register(defaults={"unit_frames": False})
class MomentsModel(PreparedFramesModel):
    """Mean and standard deviation of every feature over the frames, and the video's length.

        p = classifier([mean_t(x_t), sqrt(mean_t(x_t^2) - mean_t(x_t)^2), T / T_max - 1/2])

    for T of at most T_max frames. Frames are not scaled to unit length by default.

    Args:
        spec: the features' names and sizes, the number of classes and T_max.
        inherited: further keyword arguments, those of PreparedFramesModel.

    Source: mpekalski/Y8M, whose video-level networks (MonnModel) read these features.
    """

    def pool(self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool) -> tf.Tensor:
        """Maps `frames` `(B, T, D)` to mean, standard deviation and length, `(B, 2 D + 1)` float32."""
        frames = tf.cast(self.prepare(frames, valid, random_key, training), tf.float32)
        mean = masked_mean(frames, valid)
        variance = masked_mean(tf.square(frames - mean[:, tf.newaxis, :]), valid)
        # The gradient of a square root is not finite at 0: a feature that does not vary has none.
        varies = variance > 0.0
        stddev = tf.where(varies, tf.sqrt(tf.where(varies, variance, 1.0)), 0.0)
        num_frames = tf.reduce_sum(tf.cast(valid, tf.float32), axis=1, keepdims=True)
        return tf.concat([mean, stddev, num_frames / self.spec.max_frames - 0.5], axis=-1)
