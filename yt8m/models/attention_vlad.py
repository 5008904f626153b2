"""Registered VLAD models with attention, or with more than first-order statistics: those of Kmiec, Bae & An."""

from typing import Any

import tensorflow as tf

from yt8m.errors import UserError
from yt8m.layers.attention_vlad import AttentionEnhancedVLAD, AttentionSimilarityVLAD
from yt8m.layers.frames import read_frames
from yt8m.layers.second_order import SecondOrderPooling
from yt8m.models.late_fusion import LateFusionModel
from yt8m.registry import FRAME_LEVEL_MODELS, hyper_parameters
from yt8m.schema import DataSpec

_SHARE = 4  # any feature but the widest has a quarter of the clusters


@hyper_parameters(
    flags={
        "netvlad_cluster_size": "cluster_size",
        "netvlad_hidden_size": "hidden_size",
        "netvlad_add_batch_norm": "add_batch_norm",
        "netvlad_relu": "relu",
    }
)
class KmiecModel(LateFusionModel):
    """What the models of Kmiec et al. have in common: 256 frames at equal distances, a linear hidden layer, a gate.

    Args:
        spec: what the records hold.
        cluster_size: as in LateFusionModel.
        hidden_size: as in LateFusionModel.
        relu: as in LateFusionModel.
        gating: as in LateFusionModel.
        iterations: as in LateFusionModel.
        sampling: as in LateFusionModel.
        inherited: see LateFusionModel.

    Source: Kmiec, Bae & An 2018; pomonam/LearnablePoolingMethods.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        cluster_size: int = 256,
        hidden_size: int = 512,
        relu: bool = False,
        gating: bool = True,
        iterations: int = 256,
        sampling: str = "uniform",
        **inherited: Any,
    ):
        super().__init__(
            spec,
            cluster_size=cluster_size,
            hidden_size=hidden_size,
            relu=relu,
            gating=gating,
            iterations=iterations,
            sampling=sampling,
            **inherited,
        )


@FRAME_LEVEL_MODELS.register()
class SecondOrderVLADModel(KmiecModel):
    """Directions of frames, and products of directions, of every feature; a hidden layer, context gating, a classifier.

        V_k = sum_t a[t, k] white(u[t, k]),   u[t, k] = (x_t - c_k) / |x_t - c_k|                 see TEmbedding
        G_k = sum_t a'[t, k] (u'[t, k] u'[t, k]^T - E[u' u'^T]), the same of z_t = x_t P          see FAEmbedding

    The widest feature has `cluster_size` clusters of directions, others a quarter of it.

    Args:
        spec: what the records hold.
        second_cluster_size: clusters of the products of the widest feature; others have a quarter, at least 1.
        projected_size: the width of z for the widest feature; half of it for others.
        weighted: whether a = SoftAssignment(x); if not, a = 1, as in T-embedding.
        whitening: of directions: `diagonal`, `full` (features of at most 256 numbers) or `none`.
        approximation_penalty: how much the approximation error of FAemb adds to the loss; 0 for not at all.
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
        if min(approximation_penalty, cubic) < 0.0 or min(second_cluster_size, projected_size) < 1:
            raise UserError(
                f"--hparams: approximation_penalty={approximation_penalty}, cubic={cubic}: expected 0 or more; "
                f"second_cluster_size={second_cluster_size}, projected_size={projected_size}: expected at least 1."
            )
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

    def call(self, batch: Any, training: bool = False) -> dict[str, Any]:
        """Maps a batch to predictions and logits `(B, C)`; in training the approximation error may be a loss."""
        frames, valid = read_frames(batch, self.spec)
        frames, key = tf.cast(self.normalise(frames, valid), self.compute_dtype), batch.get("key")
        streams = zip(self.pools, self.streams(frames, valid, key, training), strict=True)
        pooled = [pool(stream, valid, training=training) for pool, stream in streams]
        vector = self.fuse([descriptor for descriptor, _ in pooled], key, training)
        outputs = self.classifier(vector, key=key, training=training)
        if training and self.approximation_penalty:
            error = tf.add_n([error for _, error in pooled])
            outputs["losses"] = {"approximation": self.approximation_penalty * error}
        return outputs


class AttentionVLADModel(KmiecModel):
    """What Kmiec's attention models share: layers that pool a feature and drop by the examples' keys."""

    def pool(self, frames: tf.Tensor, valid: tf.Tensor, key: tf.Tensor | None, training: bool) -> tf.Tensor:
        """Pools every feature, sets the descriptors side by side and maps them to the hidden layer."""
        streams = zip(self.pools, self.streams(frames, valid, key, training), strict=True)
        return self.fuse([pool(stream, valid, key=key, training=training) for pool, stream in streams], key, training)


@FRAME_LEVEL_MODELS.register(aliases=("NetVladV1",))
class AttentionEnhancedVLADModel(AttentionVLADModel):
    """NetVLAD of every feature between two encoders, a hidden layer, context gating, a classifier.

        y = L2(E'(NetVLAD(E(x)))): frames look at each other in E, clusters in E'; see AttentionEnhancedVLAD

    The widest feature has `cluster_size` clusters, others a quarter of it.

    Args:
        spec: what the records hold.
        head_size: the width of an attention head; a feature has as many heads as its width can be divided into.
        attention_dropout: the share of features that the output of attention loses in training.
        inherited: see KmiecModel.

    Raises:
        UserError: if a name is not known or a number too small.

    Source: Kmiec, Bae & An 2018, "Learnable pooling methods for video classification", first model;
    pomonam/LearnablePoolingMethods, NetVladV1, whose audio has heads half as wide.
    """

    def __init__(self, spec: DataSpec, *, head_size: int = 16, attention_dropout: float = 0.1, **inherited: Any):
        super().__init__(spec, **inherited)
        salts = iter(spec.feature_names)

        def make_pool(clusters: int, _: bool) -> AttentionEnhancedVLAD:
            return AttentionEnhancedVLAD(
                clusters, head_size, attention_dropout, next(salts), self.add_batch_norm, dtype=self.dtype_policy
            )

        self.pool_each(make_pool, _SHARE)


@FRAME_LEVEL_MODELS.register(aliases=("NetVladV2",))
class AttentionSimilarityVLADModel(AttentionVLADModel):
    """VLAD of every feature, assigned by encoders, a hidden layer, context gating, a classifier.

        V_k = sum_t a[t, k] (x_t - c_k),   a by self-attention over the frames; see AttentionSimilarityVLAD

    The widest feature has `cluster_size` clusters, others a quarter of it.

    Args:
        spec: what the records hold.
        head_size: the width of an attention head; a feature has as many heads as its width can be divided into.
        attention_dropout: the share of features that the output of attention loses in training.
        similarity: `bn_relu`, the paper's, or `softmax`.
        inherited: see KmiecModel.

    Raises:
        UserError: if a name is not known or a number too small.

    Source: Kmiec, Bae & An 2018, "Learnable pooling methods for video classification", second model;
    pomonam/LearnablePoolingMethods, NetVladV2.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        head_size: int = 16,
        attention_dropout: float = 0.1,
        similarity: str = "bn_relu",
        **inherited: Any,
    ):
        super().__init__(spec, **inherited)
        salts = iter(spec.feature_names)

        def make_pool(clusters: int, _: bool) -> AttentionSimilarityVLAD:
            return AttentionSimilarityVLAD(
                clusters, head_size, attention_dropout, next(salts), similarity, dtype=self.dtype_policy
            )

        self.pool_each(make_pool, _SHARE)
