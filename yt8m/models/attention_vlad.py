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

_SHARE = 4  # any feature but the widest has a quarter of the clusters


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
    """What the models of Kmiec et al. have in common: 256 frames at equal distances, a linear hidden layer, a gate.

    Args:
        spec: what the records hold.
        inherited: see VLADModel.

    Source: Kmiec, Bae & An 2018; pomonam/LearnablePoolingMethods.
    """


@FRAME_LEVEL_MODELS.register()
class SecondOrderVLADModel(KmiecModel):
    """Sums of directions and of their products per feature, then a hidden layer, a gate and the classifier.

        V_k = sum_t a[t, k] white(u[t, k]),   u[t, k] = (x_t - c_k) / |x_t - c_k|; see TEmbedding
        G_k = sum_t a'[t, k] (u'[t, k] u'[t, k]^T - E[u' u'^T]), the same of z_t = x_t P; see FAEmbedding

    The widest feature has `cluster_size` clusters of directions, others a quarter of it.

    Args:
        spec: what the records hold.
        second_cluster_size: clusters of the products of the widest feature; others have a quarter, at least 1.
        projected_size: the width of z for the widest feature; half of it for others.
        weighted: whether a = SoftAssignment(x); if not, a = 1, as in T-embedding.
        whitening: of directions: `diagonal`, `full` (features of at most 256 numbers) or `none`.
        approximation_penalty: the factor of FAemb's approximation error, which is added to the loss.
        cubic: mu of that error: see approximation_error.
        inherited: see KmiecModel.

    Raises:
        UserError: if there is no such whitening, a size is below 1 or a penalty below 0.

    Source: Kmiec, Bae & An 2018, "Learnable pooling methods for video classification", third model, after its
    description: no code of it was published, and neither were the sizes of the second order. T-embedding: Jegou &
    Zisserman 2014; FAemb: Do, Tran & Cheung 2015.
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
        """Maps `frames` `(B, T, D)` to the hidden layer, `(B, hidden_size)`; the approximation error may be a loss."""
        pooled = self.describe(frames, valid, random_key, training)
        vector = self.fuse([descriptor for descriptor, _ in pooled], random_key, training)
        if not self.approximation_penalty:
            return vector
        error = tf.add_n([error for _, error in pooled])
        return Pooled(vector, losses={"approximation": self.approximation_penalty * error})


class AttentionVLADModel(KmiecModel):
    """What Kmiec's attention models share: pooling layers that attend, and drop by the examples' keys.

    Args:
        spec: what the records hold.
        head_size: the width of an attention head; a feature has as many heads as its width can be divided into.
        attention_dropout: the share of features that the output of attention loses in training.
        inherited: see KmiecModel.

    Raises:
        UserError: if the heads have no width, or the share is not in [0, 1).
    """

    def __init__(self, spec: DataSpec, *, head_size: int = 16, attention_dropout: float = 0.1, **inherited: Any):
        check_share(attention_dropout=attention_dropout)
        super().__init__(spec, **inherited)
        self.head_size = head_size
        self.attention_dropout = attention_dropout

    def describe(
        self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool
    ) -> list[tf.Tensor]:
        """Pools every feature of `frames` `(B, T, D)` with its own layer: `(B, K size)` each."""
        streams = zip(self.pools, self.streams(frames, valid, random_key, training), strict=True)
        return [pool(stream, valid, random_key=random_key, training=training) for pool, stream in streams]


@FRAME_LEVEL_MODELS.register(aliases=("NetVladV1",))
class AttentionEnhancedVLADModel(AttentionVLADModel):
    """One NetVLAD per feature, between two encoders, then a hidden layer, a gate and the classifier.

        y = L2(E'(NetVLAD(E(x)))): frames attend to each other in E, clusters in E'; see AttentionEnhancedVLAD

    The widest feature has `cluster_size` clusters, others a quarter of it.

    Args:
        spec: what the records hold.
        inherited: see AttentionVLADModel.

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
    """One VLAD per feature, assigned by self-attention, then a hidden layer, a gate and the classifier.

        V_k = sum_t a[t, k] (x_t - c_k),   a by self-attention over the frames; see AttentionSimilarityVLAD

    The widest feature has `cluster_size` clusters, others a quarter of it.

    Args:
        spec: what the records hold.
        similarity: `bn_relu`, the paper's, or `softmax`.
        inherited: see AttentionVLADModel.

    Raises:
        UserError: if there is no such similarity.

    Source: Kmiec, Bae & An 2018, "Learnable pooling methods for video classification", second model;
    pomonam/LearnablePoolingMethods, NetVladV2.
    """

    def __init__(self, spec: DataSpec, *, similarity: str = "bn_relu", **inherited: Any):
        super().__init__(spec, **inherited)
        options, salts = (self.head_size, self.attention_dropout), iter(spec.feature_names)

        def make_pool(clusters: int, _: bool) -> AttentionSimilarityVLAD:
            return AttentionSimilarityVLAD(clusters, *options, next(salts), similarity, dtype=self.dtype_policy)

        self.pool_each(make_pool, _SHARE)
