"""Registered models that attend to frames before anything is classified."""

from typing import Any

import tensorflow as tf

from yt8m.layers.attention_clusters import AttentionClusters
from yt8m.layers.normalisation import MaskedBatchNormalization
from yt8m.layers.transformer import TransformerEncoder
from yt8m.models.base import SampledModel
from yt8m.models.late_fusion import LateFusionModel
from yt8m.registry import FRAME_LEVEL_MODELS
from yt8m.schema import DataSpec


@FRAME_LEVEL_MODELS.register()
class AttentionClusterModel(LateFusionModel):
    """Weighted means of every feature's frames, moved apart, a hidden layer, a gate, a classifier.

        y_k = (alpha_k v_k + beta_k) / (sqrt(K) |alpha_k v_k + beta_k|),   v_k = sum_t a[t, k] x_t
        a[:, k] = softmax_t(tanh(x_t V + b) W)_k

    One cluster that is not shifted is plain attention pooling. The widest feature has `cluster_size`, others half.

    Args:
        spec: what the records hold.
        cluster_size: the number of means of the widest feature.
        attention_size: the width of x V; 0 scores a frame by x W alone.
        shift: whether there are alpha and beta.
        iterations: as in LateFusionModel.
        sampling: as in LateFusionModel.
        inherited: see LateFusionModel.

    Source: Long et al. 2018, "Attention Clusters: purely attention based local feature integration for video
    classification".
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        cluster_size: int = 32,
        attention_size: int = 256,
        shift: bool = True,
        iterations: int = 100,
        sampling: str = "uniform",
        **inherited: Any,
    ):
        super().__init__(spec, cluster_size=cluster_size, iterations=iterations, sampling=sampling, **inherited)
        options = (attention_size, shift)
        self.pool_each(lambda clusters, _: AttentionClusters(clusters, *options, dtype=self.dtype_policy), share=2)


@FRAME_LEVEL_MODELS.register()
class TransformerModel(SampledModel):
    """A Transformer over the frames, pooled and classified.

        x_0 = BN(x) [P + positions],   a = x + SelfAttention(LN(x)),   x_l = a + FeedForward(LN(a))
        p = classifier(pool_t LN(x_L))

    Without positions it does not see the order of frames, unless it pools the first.

    Args:
        spec: what the records hold.
        num_layers: L.
        model_size: the width in which it works; 0 for that of the frames, without P.
        head_size: the width of an attention head; the number of heads is the largest that divides the frame's width
            into heads of that width or more.
        feedforward_size: the width of the hidden layer of FeedForward; 0 for four times the one it works in.
        activation: behind that layer: `gelu` or `relu`.
        positions: what is added to a frame for its place: `none`, `sinusoidal` or `learnt`.
        pooling: `mean`, `first` or `attention`.
        dropout: the share of features that the output of each part loses in training.
        late_fusion: whether every feature has a Transformer of its own, and their outputs stand side by side.
        inherited: see SampledModel.

    Raises:
        UserError: if a name is not known or a number too small.

    Source: Vaswani et al. 2017, "Attention is all you need"; over frames of YouTube-8M: hughshaoqz/3rd-Youtube8M-TM,
    Bert, which normalises behind each part, drops attention weights too, attends to padding, and whose first frame is
    the last. Here the frames are normalised by the batch in front.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        num_layers: int = 2,
        model_size: int = 0,
        head_size: int = 64,
        feedforward_size: int = 0,
        activation: str = "gelu",
        positions: str = "none",
        pooling: str = "mean",
        dropout: float = 0.1,
        late_fusion: bool = False,
        **inherited: Any,
    ):
        super().__init__(spec, **inherited)
        self.widths = spec.feature_sizes if late_fusion else (spec.total_size,)
        self.input_norm = MaskedBatchNormalization(dtype=self.dtype_policy)
        self.encoders = [
            TransformerEncoder(
                num_layers=num_layers,
                model_size=model_size,
                head_size=head_size,
                feedforward_size=feedforward_size,
                activation=activation,
                positions=positions,
                num_positions=spec.max_frames,
                pooling=pooling,
                dropout=dropout,
                salt=f"encoder {index}",
                dtype=self.dtype_policy,
            )
            for index, _ in enumerate(self.widths)
        ]
        for index, encoder in enumerate(self.encoders):
            setattr(self, f"encoder_{index}", encoder)  # a checkpoint finds attributes, not what is in lists

    def pool(self, frames: tf.Tensor, valid: tf.Tensor, key: tf.Tensor | None, training: bool) -> tf.Tensor:
        """Encodes and pools the frames, or every feature of them."""
        frames = self.input_norm(frames, valid=valid, training=training)
        streams = zip(self.encoders, tf.split(frames, self.widths, axis=-1), strict=True)
        pooled = [encoder(stream, valid, key=key, training=training) for encoder, stream in streams]
        return tf.concat(pooled, axis=-1)
