"""Registered VLAD models with attention, or with more than first-order statistics: those of Kmiec, Bae & An."""

from typing import Any

import tensorflow as tf

from yt8m.arguments import check_at_least, check_share
from yt8m.layers.attention_vlad import AttentionEnhancedVLAD, AttentionSimilarityVLAD
from yt8m.layers.second_order import SecondOrderPooling
from yt8m.models.base import Pooled
from yt8m.models.vlad import VLADModel
from yt8m.registry import FRAME_LEVEL_MODELS, hyper_parameters
from yt8m.schema import DataSpec

_SHARE = 4  # features other than the widest have a quarter of its clusters


@hyper_parameters(
    defaults={
        "cluster_size": 256,
        "hidden_size": 512,
        "relu": False,
        "gating": True,
        "iterations": 256,
        "sampling": "uniform",
    }
)
class KmiecModel(VLADModel):
    """Base class of the models of Kmiec et al.: 256 equally spaced frames, a linear hidden layer, a context gate.

    Args:
        spec: the features' names and sizes, and the number of classes.
        inherited: further keyword arguments, those of VLADModel.

    Source: Kmiec, Bae & An 2018; pomonam/LearnablePoolingMethods.
    """


@FRAME_LEVEL_MODELS.register()
class SecondOrderVLADModel(KmiecModel):
    """T-embedding and FAemb per feature (first and second order), then a hidden layer, a gate and the classifier.

        V_k = sum_t a[t, k] white(u[t, k]),   u[t, k] = (x_t - c_k) / |x_t - c_k|;   see TEmbedding
        G_k = sum_t a'[t, k] (u'[t, k] u'[t, k]^T - E[u' u'^T]),   u' the same of z_t = x_t P;   see FAEmbedding

    V has `cluster_size` clusters for the widest feature, a quarter of it for others.

    Args:
        spec: the features' names and sizes, and the number of classes.
        second_cluster_size: the number of clusters of G for the widest feature; a quarter of it for others, at least 1.
        projected_size: the width of z for the widest feature; half of it for others, at least 1.
        weighted: whether a = SoftAssignment(x); if not, a = 1, as in T-embedding.
        whitening: of the directions u: `diagonal`, `full` (for features of at most 256 numbers) or `none`.
        approximation_penalty: the factor of FAemb's approximation error, which is added to the loss.
        cubic: the weight mu of the cubic term of that error, see approximation_error.
        inherited: further keyword arguments, those of KmiecModel.

    Raises:
        UserError: if `whitening` is none of the three, a size is below 1, or a factor is below 0.

    Source: Kmiec, Bae & An 2018, "Learnable pooling methods for video classification", third model, from its
    description: neither its code nor the sizes of G were published. T-embedding: Jegou & Zisserman 2014; FAemb: Do,
    Tran & Cheung 2015.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        second_cluster_size: int = 64,
        projected_size: int = 32,
        weighted: bool = True,
        whitening: str = "diagonal",
        approximation_penalty: float = 0.0,
        cubic: float = 0.1,
        **inherited: Any,
    ):
        # The pooling layers are given a part of these sizes, at least 1.
        check_at_least(1, second_cluster_size=second_cluster_size, projected_size=projected_size)
        check_at_least(0, approximation_penalty=approximation_penalty)
        super().__init__(spec, **inherited)
        self.approximation_penalty = approximation_penalty

        def make_pool(clusters: int, is_widest: bool) -> SecondOrderPooling:
            return SecondOrderPooling(
                clusters,
                second_cluster_size if is_widest else max(1, second_cluster_size // _SHARE),
                projected_size if is_widest else max(1, projected_size // 2),
                add_batch_norm=self.add_batch_norm,
                weighted=weighted,
                whitening=whitening,
                cubic=cubic,
            )

        self.pool_each(make_pool, _SHARE)

    def pool(
        self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool
    ) -> tf.Tensor | Pooled:
        """Maps `frames` `(B, T, D)` to the hidden layer, `(B, hidden_size)`.

        If `approximation_penalty` is above 0, the result is a `Pooled` with the loss `approximation` `(B,)`.
        """
        pooled = self.describe(frames, valid, random_key, training)
        vector = self.fuse([descriptor for descriptor, _ in pooled], random_key, training)
        if not self.approximation_penalty:
            return vector
        error = tf.add_n([error for _, error in pooled])
        return Pooled(vector, losses={"approximation": self.approximation_penalty * error})


class AttentionVLADModel(KmiecModel):
    """Base class of Kmiec's models whose pooling layers contain self-attention with dropout.

    Args:
        spec: the features' names and sizes, and the number of classes.
        head_size: the least width of an attention head; the number of heads is the largest divisor h of a feature's
            width with width / h >= head_size.
        attention_dropout: the dropout rate after self-attention, in [0, 1).
        inherited: further keyword arguments, those of KmiecModel.

    Raises:
        UserError: if `head_size` is below 1, or `attention_dropout` is outside [0, 1).
    """

    def __init__(self, spec: DataSpec, *, head_size: int = 16, attention_dropout: float = 0.1, **inherited: Any):
        check_share(attention_dropout=attention_dropout)
        super().__init__(spec, **inherited)
        self.head_size = head_size
        self.attention_dropout = attention_dropout

    def describe(
        self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool
    ) -> list[tf.Tensor]:
        """Pools every feature of `frames` `(B, T, D)` by its own layer to `(B, K size)`, for K clusters.

        `random_key` `(B,)` int64 is passed to the pooling layers, for their dropout.
        """
        streams = zip(self.pools, self.streams(frames, valid, random_key, training), strict=True)
        return [pool(stream, valid, random_key=random_key, training=training) for pool, stream in streams]


@FRAME_LEVEL_MODELS.register(aliases=("NetVladV1",))
class AttentionEnhancedVLADModel(AttentionVLADModel):
    """One NetVLAD per feature between two Transformer encoders, then a hidden layer, a gate and the classifier.

        y = L2(E'(NetVLAD(E(x))))   with self-attention over frames in E and over clusters in E'

    See AttentionEnhancedVLAD. The widest feature has `cluster_size` clusters, others a quarter of it.

    Args:
        spec: the features' names and sizes, and the number of classes.
        inherited: further keyword arguments, those of AttentionVLADModel.

    Source: Kmiec, Bae & An 2018, "Learnable pooling methods for video classification", first model;
    pomonam/LearnablePoolingMethods, NetVladV1, whose audio has heads half as wide.
    """

    def __init__(self, spec: DataSpec, **inherited: Any):
        super().__init__(spec, **inherited)
        options, salts = (self.head_size, self.attention_dropout), iter(spec.feature_names)

        def make_pool(clusters: int, _: bool) -> AttentionEnhancedVLAD:
            return AttentionEnhancedVLAD(clusters, *options, next(salts), self.add_batch_norm, dtype=self.dtype_policy)

        self.pool_each(make_pool, _SHARE)


@FRAME_LEVEL_MODELS.register(aliases=("NetVladV2",))
class AttentionSimilarityVLADModel(AttentionVLADModel):
    """One VLAD per feature, its soft assignment by self-attention, then a hidden layer, a gate and the classifier.

        V_k = sum_t a[t, k] (x_t - c_k),   a computed by self-attention over the frames

    See AttentionSimilarityVLAD. The widest feature has `cluster_size` clusters, others a quarter of it.

    Args:
        spec: the features' names and sizes, and the number of classes.
        similarity: how a is computed from logits z: `bn_relu`, a = BN(relu(z)), the paper's, or `softmax`, a =
            softmax_k(BN(z)).
        inherited: further keyword arguments, those of AttentionVLADModel.

    Raises:
        UserError: if `similarity` is neither.

    Source: Kmiec, Bae & An 2018, "Learnable pooling methods for video classification", second model;
    pomonam/LearnablePoolingMethods, NetVladV2.
    """

    def __init__(self, spec: DataSpec, *, similarity: str = "bn_relu", **inherited: Any):
        super().__init__(spec, **inherited)
        options, salts = (self.head_size, self.attention_dropout), iter(spec.feature_names)

        def make_pool(clusters: int, _: bool) -> AttentionSimilarityVLAD:
            return AttentionSimilarityVLAD(clusters, *options, next(salts), similarity, dtype=self.dtype_policy)

        self.pool_each(make_pool, _SHARE)
