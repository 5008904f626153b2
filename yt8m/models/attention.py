"""Registered models that pool the frames by attention: Attention Clusters and a Transformer."""

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
    """Attention Clusters per feature: K shifted weighted means of the frames, then hidden layer, gate and classifier.

        y_k = (alpha_k v_k + beta_k) / (sqrt(K) |alpha_k v_k + beta_k|),   v_k = sum_t a[t, k] x_t
        a[:, k] = softmax_t(tanh(x_t V + b) W)_k

    With K = 1 and no shift this is plain attention pooling. K is `cluster_size` for the widest feature and half of it
    for others.

    Args:
        spec: the features' names and sizes, and the number of classes.
        cluster_size: the number of means of the widest feature, K.
        attention_size: the width of x V; 0 for a[:, k] = softmax_t(x_t W)_k.
        shift: whether to learn alpha and beta, two scalars per mean; if not, y = v / |v|.
        inherited: further keyword arguments, those of LateFusionModel.

    Raises:
        UserError: if `cluster_size` is below 1 or `attention_size` is below 0.

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
    """A pre-norm Transformer encoder over the frames, pooled over time, then the classifier.

        x_0 = BN(x) P + positions,   a = x_{l-1} + SelfAttention(LN(x_{l-1})),   x_l = a + FeedForward(LN(a))
        p = classifier(pool_t LN(x_L))

    With `positions=none` the output does not depend on the order of the frames, except with `pooling=first`.

    Args:
        spec: the features' names and sizes, and the number of classes.
        num_layers: the number of encoder layers, L.
        model_size: the width of x_0; 0 for the width of the frames, without P.
        head_size: the least width of an attention head; the number of heads is the largest divisor h of the width of
            x_0 with width / h >= head_size.
        feedforward_size: the width of the hidden layer of FeedForward; 0 for four times the width of x_0.
        activation: the activation of that hidden layer, `gelu` or `relu`.
        positions: the positional encoding: `none`, `sinusoidal` or `learnt`.
        pooling: over time: `mean`, `first` (the first frame) or `attention` (a weighted mean).
        dropout: the dropout rate after SelfAttention and FeedForward, in [0, 1).
        separate_encoders: whether every feature has its own encoder, whose outputs are concatenated.
        inherited: further keyword arguments, those of SampledModel.

    Raises:
        UserError: if a name is none of those listed, a size is too small, or `dropout` is outside [0, 1).

    Source: Vaswani et al. 2017, "Attention is all you need"; on YouTube-8M: hughshaoqz/3rd-Youtube8M-TM, Bert, which is
    post-norm, applies dropout to attention weights too, attends to padding, and pools the last frame as the first.
    Here the frames are batch-normalised first.
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
        """Maps `frames` `(B, T, D)` to the concatenated outputs of all encoders, `(B, E)`."""
        frames = self.input_norm(frames, valid=valid, training=training)
        streams = zip(self.encoders, tf.split(frames, self.widths, axis=-1), strict=True)
        pooled = [encoder(stream, valid, random_key=random_key, training=training) for encoder, stream in streams]
        return tf.concat(pooled, axis=-1)
