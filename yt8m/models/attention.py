"""Registered models that pool by attention over the frames."""

from typing import Any

import tensorflow as tf

from yt8m.layers.attention_clusters import AttentionClusters
from yt8m.layers.layer_list import LayerList
from yt8m.layers.normalisation import MaskedBatchNormalization
from yt8m.layers.transformer import TransformerEncoder
from yt8m.models.base import SampledModel
from yt8m.models.late_fusion import LateFusionModel
from yt8m.registry import FRAME_LEVEL_MODELS
from yt8m.schema import DataSpec


@FRAME_LEVEL_MODELS.register(defaults={"cluster_size": 32, "iterations": 100, "sampling": "uniform"})
class AttentionClusterModel(LateFusionModel):
    """Several weighted means of the frames per feature, moved apart, then a hidden layer, a gate and the classifier.

        y_k = (alpha_k v_k + beta_k) / (sqrt(K) |alpha_k v_k + beta_k|),   v_k = sum_t a[t, k] x_t
        a[:, k] = softmax_t(tanh(x_t V + b) W)_k

    One cluster that is not shifted is plain attention pooling. The widest feature has `cluster_size`, others half.

    Args:
        spec: what the records hold.
        cluster_size: the number of means of the widest feature.
        attention_size: the width of x V; 0 scores a frame by x W alone.
        shift: whether there are alpha and beta.
        inherited: see LateFusionModel.

    Raises:
        UserError: if there is no cluster, or a width is below 0.

    Source: Long et al. 2018, "Attention Clusters: purely attention based local feature integration for video
    classification".
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        attention_size: int = 256,
        shift: bool = True,
        **inherited: Any,
    ):
        super().__init__(spec, **inherited)
        options = (attention_size, shift)
        self.pool_each(lambda clusters, _: AttentionClusters(clusters, *options, dtype=self.dtype_policy), share=2)


@FRAME_LEVEL_MODELS.register()
class TransformerModel(SampledModel):
    """A Transformer over the frames, pooled and classified.

        x_0 = BN(x) [P + positions],   a = x + SelfAttention(LN(x)),   x_l = a + FeedForward(LN(a))
        p = classifier(pool_t LN(x_L))

    Without positions the order of the frames has no influence, unless it pools the first.

    Args:
        spec: what the records hold.
        num_layers: L.
        model_size: the width in which it works; 0 for that of the frames, without P.
        head_size: the width of an attention head; the number of heads is the largest that divides the frame's width
            into heads of that width or more.
        feedforward_size: the width of the hidden layer of FeedForward; 0 for four times the one it works in.
        activation: after that layer: `gelu` or `relu`.
        positions: the encoding of its position that is added to a frame: `none`, `sinusoidal` or `learnt`.
        pooling: `mean`, `first` or `attention`.
        dropout: the share of features that the output of each part loses in training.
        separate_encoders: whether every feature has a Transformer of its own, whose outputs are concatenated.
        inherited: see SampledModel.

    Raises:
        UserError: if a name is not known or a number out of range.

    Source: Vaswani et al. 2017, "Attention is all you need"; over frames of YouTube-8M: hughshaoqz/3rd-Youtube8M-TM,
    Bert, which normalises after each part, drops attention weights too, attends to padding, and whose first frame is
    the last. Here the frames are normalised by the batch first.
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
        separate_encoders: bool = False,
        **inherited: Any,
    ):
        super().__init__(spec, **inherited)
        self.widths = spec.feature_sizes if separate_encoders else (spec.total_size,)
        self.input_norm = MaskedBatchNormalization(dtype=self.dtype_policy)
        encoders = [
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
        self.encoders = LayerList(self, "encoder", encoders)

    def pool(self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool) -> tf.Tensor:
        """Maps `frames` `(B, T, D)` to the pooled outputs of all encoders, `(B, E)`."""
        frames = self.input_norm(frames, valid=valid, training=training)
        streams = zip(self.encoders, tf.split(frames, self.widths, axis=-1), strict=True)
        pooled = [encoder(stream, valid, random_key=random_key, training=training) for encoder, stream in streams]
        return tf.concat(pooled, axis=-1)
