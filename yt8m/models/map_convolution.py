"""The registered clip model that convolves a network's last feature map over time and places."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from yt8m.arguments import check_at_least, check_share
from yt8m.batch import KEY, Batch
from yt8m.layers.hidden_layers import HiddenLayers
from yt8m.layers.pooling import masked_max
from yt8m.layers.windows import sliding_windows
from yt8m.models.base import build_classifier
from yt8m.models.clips import BackboneModel
from yt8m.registry import CLIP_MODELS
from yt8m.schema import DataSpec


@CLIP_MODELS.register()
class MapTimeConvModel(BackboneModel):
    """Convolution of the last feature map over time and places, maximum over time, and a fully connected layer.

        p = classifier(FC(max_w relu(maps of window w * W + b)))

    A kernel spans `window_size` frames and 3 x 3 places. The maximum is taken at every place, and FC reads all places.
    The other architectures of the paper are `ClipModel` with `frame_features=map` and ConvPoolModel, LatePoolModel,
    SlowPoolModel or LocalPoolModel.

    Args:
        spec: the features' names and channels, the size of the frames, and the number of classes.
        num_kernels: the number of kernels.
        window_size: the number of frames that a kernel spans.
        window_stride: the number of frames between the starts of two windows, at most `window_size`.
        hidden_size: the width of FC.
        dropout: the dropout rate after FC, in [0, 1).
        classifier: the name of a registered video-level model.
        classifier_hparams: values of the classifier's hyper-parameters by name; the others keep their defaults.
        inherited: further keyword arguments, those of BackboneModel.

    Raises:
        UserError: if a size is below 1, there are frames between two windows, `dropout` is outside [0, 1), or the
            classifier or one of its hyper-parameters cannot be.

    Source: Ng et al. 2015, "Beyond short snippets", "time-domain convolution": 256 kernels of 3 x 3 places and 10
    frames, stride 5. What the last window of a clip lacks is 0.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        num_kernels: int = 256,
        window_size: int = 10,
        window_stride: int = 5,
        hidden_size: int = 4096,
        dropout: float = 0.0,
        classifier: str = "LogisticModel",
        classifier_hparams: Mapping[str, Any] | None = None,
        **inherited: Any,
    ):
        check_at_least(1, num_kernels=num_kernels, window_stride=window_stride, hidden_size=hidden_size)
        check_at_least(window_stride, window_size=window_size)
        check_share(dropout=dropout)
        super().__init__(spec, "map", **inherited)
        self.window_size, self.window_stride = window_size, window_stride
        self.kernels = keras.layers.Conv2D(num_kernels, 3, padding="same", activation="relu")
        self.video_layer = HiddenLayers(
            [hidden_size], salt="video layer", add_batch_norm=False, dropout=dropout, dtype=self.dtype_policy
        )
        self.classifier = build_classifier(classifier, spec.num_classes, classifier_hparams)

    def outputs_of_clips(self, batch: Batch, valid: tf.Tensor, training: bool) -> dict[str, Any]:
        """Maps clips `(B, T, S, S, channels)` to `predictions` and `logits`, `(B, C)` float32 each.

        `valid` `(B, T)` bool is the padding mask, True for real frames.
        """
        streams = zip(self.read(batch, valid, training).values(), self.backbones, strict=True)
        maps = [tf.reshape(vectors, (*tf.unstack(tf.shape(valid)), *network.map_shape)) for vectors, network in streams]
        responses = self._responses(tf.concat(maps, axis=-1), valid)
        random_key = batch.get(KEY)
        hidden = self.video_layer(responses, random_key=random_key, training=training)
        return self.classifier(hidden, random_key=random_key, training=training)

    def _responses(self, maps: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        """Returns the largest response to each kernel at each place, `(B, h w num_kernels)`, of `(B, T, h, w, D)`."""
        height, width, channels = maps.shape[2:]
        rows = tf.reshape(maps, (*tf.unstack(tf.shape(valid)), height * width * channels))
        windows, _, is_window = sliding_windows(rows, valid, self.window_size, self.window_stride)
        # The frames of a window are channels of one map: a kernel spans them all.
        windows = tf.reshape(windows, (-1, self.window_size, height, width, channels))
        windows = tf.reshape(tf.transpose(windows, (0, 2, 3, 1, 4)), (-1, height, width, self.window_size * channels))
        size = height * width * self.kernels.filters
        responses = tf.reshape(self.kernels(windows), (*tf.unstack(tf.shape(is_window)), size))
        return masked_max(responses, is_window)

    def start_at_prior(self, prior: np.ndarray) -> None:
        """Sets the classifier's bias from `prior` `(C,)`, each class's frequency p in training."""
        self.classifier.start_at_prior(prior)
