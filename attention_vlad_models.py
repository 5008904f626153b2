"""Registered VLAD models with attention, or with more than first-order statistics."""

from typing import Any

import keras
import tensorflow as tf

from yt8m.errors import UserError
from yt8m.late_fusion import LateFusionModel, random_frames
from yt8m.layers.attention_vlad import AttentionEnhancedVLAD, AttentionSimilarityVLAD
from yt8m.layers.frames import read_frames
from yt8m.layers.second_order import SecondOrderPooling
from yt8m.registry import FRAME_LEVEL_MODELS
from yt8m.schema import DataSpec


@FRAME_LEVEL_MODELS.register()
class SecondOrderVLADModel(LateFusionModel):
    """Directions of frames, and products of directions, of every feature; a hidden layer, context gating, a classifier.

        V_k = sum_t a[t, k] white(u[t, k]),   u[t, k] = (x_t - c_k) / |x_t - c_k|                 see TEmbedding
        G_k = sum_t a'[t, k] (u'[t, k] u'[t, k]^T - E[u' u'^T]), the same of z_t = x_t P          see FAEmbedding

    Args:
        spec: what the records hold.
        cluster_size: clusters of the directions of the widest feature; others have a quarter of it, at least 1.
        second_cluster_size: clusters of the products of the widest feature; others have a quarter, at least 1.
        projected_size: the width of z for the widest feature; half of it for others.
        weighted: whether a = SoftAssignment(x); if not, a = 1, as in T-embedding.
        whitening: of directions: `diagonal`, `full` (features of at most 256 numbers) or `none`.
        approximation_penalty: how much the approximation error of FAemb adds to the loss; 0 for not at all.
        cubic: mu of that error: see approximation_error.
        hidden_size: the width of the hidden layer.
        add_batch_norm: whether to normalise; if not, biases take its place.
        relu: whether the hidden layer is relu6 of its batch normalisation; if not, it is linear.
        gating: whether the hidden layer is gated.
        gating_form: `context`, `squeeze_excitation`, `bottleneck` or `glu`: see yt8m/layers/gating.py.
        gating_remove_diag: whether a hidden unit has no say in its own gate.
        iterations: how many frames a training example has; 0 for all.
        sample_random_frames: whether they are drawn one by one; if not, they follow each other from a random start.
        sampling: how they are drawn: a method of yt8m/sampling.py, or `all`.
        evaluation_sampling: which frames are evaluated: `all`, or `uniform` for `iterations` of them.
        unit_frames: whether frames are scaled to unit length.
        reverse_whitening: whether the whitening of image features is undone first, by a scale that is learnt.
        input_dropout: the share of the frames' features to drop in training.
        dropout: the share of the descriptor's features to drop in training.
        classifier: the name of a video-level model.
        classifier_hparams: its hyper-parameters.

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
        cluster_size: int = 256,
        second_cluster_size: int = 64,
        projected_size: int = 32,
        weighted: bool = True,
        whitening: str = "diagonal",
        approximation_penalty: float = 0.0,
        cubic: float = 0.1,
        hidden_size: int = 512,
        add_batch_norm: bool = True,
        relu: bool = False,
        gating: bool = True,
        gating_form: str = "context",
        gating_remove_diag: bool = False,
        iterations: int = 256,
        sample_random_frames: bool = True,
        sampling: str = "uniform",
        evaluation_sampling: str = "all",
        unit_frames: bool = True,
        reverse_whitening: bool = False,
        input_dropout: float = 0.0,
        dropout: float = 0.0,
        classifier: str = "MoeModel",
        classifier_hparams: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        if min(approximation_penalty, cubic) < 0.0 or min(second_cluster_size, projected_size) < 1:
            raise UserError(
                f"--hparams: approximation_penalty={approximation_penalty}, cubic={cubic}: expected 0 or more; "
                f"second_cluster_size={second_cluster_size}, projected_size={projected_size}: expected at least 1."
            )

        def make_pool(clusters: int, is_widest: bool) -> SecondOrderPooling:
            second = second_cluster_size if is_widest else max(1, second_cluster_size // 4)
            return SecondOrderPooling(
                clusters,
                second,
                projected_size if is_widest else max(1, projected_size // 2),
                add_batch_norm=add_batch_norm,
                weighted=weighted,
                whitening=whitening,
                cubic=cubic,
            )

        super().__init__(
            spec,
            make_pool,
            cluster_size=cluster_size,
            share=4,
            hidden_size=hidden_size,
            add_batch_norm=add_batch_norm,
            relu=relu,
            gating=gating,
            gating_form=gating_form,
            gating_remove_diag=gating_remove_diag,
            training_sampling=random_frames(iterations, sample_random_frames, sampling),
            evaluation_sampling=evaluation_sampling,
            iterations=iterations,
            unit_frames=unit_frames,
            reverse_whitening=reverse_whitening,
            input_dropout=input_dropout,
            dropout=dropout,
            classifier=classifier,
            classifier_hparams=classifier_hparams,
            **kwargs,
        )
        self.approximation_penalty = approximation_penalty

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


class AttentionVLADModel(LateFusionModel):
    """What Kmiec's attention models share: layers that pool a feature and drop by the examples' keys."""

    def pool(self, frames: tf.Tensor, valid: tf.Tensor, key: tf.Tensor | None, training: bool) -> tf.Tensor:
        """Pools every feature, sets the descriptors side by side and maps them to the hidden layer."""
        streams = zip(self.pools, self.streams(frames, valid, key, training), strict=True)
        return self.fuse([pool(stream, valid, key=key, training=training) for pool, stream in streams], key, training)


@FRAME_LEVEL_MODELS.register(aliases=("NetVladV1",))
class AttentionEnhancedVLADModel(AttentionVLADModel):
    """NetVLAD of every feature between two encoders, a hidden layer, context gating, a classifier.

        y = L2(E'(NetVLAD(E(x)))): frames look at each other in E, clusters in E'; see AttentionEnhancedVLAD

    Args:
        spec: what the records hold.
        cluster_size: the number of clusters of the widest feature; others have a quarter of it, at least 1.
        head_size: the width of an attention head; a feature has as many heads as its width can be divided into.
        attention_dropout: the share of features that the output of attention loses in training.
        hidden_size: the width of the hidden layer.
        add_batch_norm: whether to normalise around the encoders too; if not, biases take its place.
        relu: whether the hidden layer is relu6 of its batch normalisation; if not, it is linear.
        gating: whether the hidden layer is gated.
        gating_form: `context`, `squeeze_excitation`, `bottleneck` or `glu`: see yt8m/layers/gating.py.
        gating_remove_diag: whether a hidden unit has no say in its own gate.
        iterations: how many frames a training example has; 0 for all.
        sample_random_frames: whether they are drawn one by one; if not, they follow each other from a random start.
        sampling: how they are drawn: a method of yt8m/sampling.py, or `all`.
        evaluation_sampling: which frames are evaluated: `all`, or `uniform` for `iterations` of them.
        unit_frames: whether frames are scaled to unit length.
        reverse_whitening: whether the whitening of image features is undone first, by a scale that is learnt.
        input_dropout: the share of the frames' features to drop in training.
        dropout: the share of the descriptor's features to drop in training.
        classifier: the name of a video-level model.
        classifier_hparams: its hyper-parameters.

    Raises:
        UserError: if a name is not known or a number too small.

    Source: Kmiec, Bae & An 2018, "Learnable pooling methods for video classification", first model;
    pomonam/LearnablePoolingMethods, NetVladV1, whose audio has heads half as wide.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        cluster_size: int = 256,
        head_size: int = 16,
        attention_dropout: float = 0.1,
        hidden_size: int = 512,
        add_batch_norm: bool = True,
        relu: bool = False,
        gating: bool = True,
        gating_form: str = "context",
        gating_remove_diag: bool = False,
        iterations: int = 256,
        sample_random_frames: bool = True,
        sampling: str = "uniform",
        evaluation_sampling: str = "all",
        unit_frames: bool = True,
        reverse_whitening: bool = False,
        input_dropout: float = 0.0,
        dropout: float = 0.0,
        classifier: str = "MoeModel",
        classifier_hparams: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        salts = iter(spec.feature_names)

        def make_pool(clusters: int, _: bool) -> keras.layers.Layer:
            return AttentionEnhancedVLAD(
                clusters, head_size, attention_dropout, next(salts), add_batch_norm, dtype=self.dtype_policy
            )

        super().__init__(
            spec,
            make_pool,
            cluster_size=cluster_size,
            share=4,
            hidden_size=hidden_size,
            add_batch_norm=add_batch_norm,
            relu=relu,
            gating=gating,
            gating_form=gating_form,
            gating_remove_diag=gating_remove_diag,
            training_sampling=random_frames(iterations, sample_random_frames, sampling),
            evaluation_sampling=evaluation_sampling,
            iterations=iterations,
            unit_frames=unit_frames,
            reverse_whitening=reverse_whitening,
            input_dropout=input_dropout,
            dropout=dropout,
            classifier=classifier,
            classifier_hparams=classifier_hparams,
            **kwargs,
        )


@FRAME_LEVEL_MODELS.register(aliases=("NetVladV2",))
class AttentionSimilarityVLADModel(AttentionVLADModel):
    """VLAD of every feature, assigned by encoders, a hidden layer, context gating, a classifier.

        V_k = sum_t a[t, k] (x_t - c_k),   a by self-attention over the frames; see AttentionSimilarityVLAD

    Args:
        spec: what the records hold.
        cluster_size: the number of clusters of the widest feature; others have a quarter of it, at least 1.
        head_size: the width of an attention head; a feature has as many heads as its width can be divided into.
        attention_dropout: the share of features that the output of attention loses in training.
        similarity: `bn_relu`, the paper's, or `softmax`.
        hidden_size: the width of the hidden layer.
        add_batch_norm: whether to normalise around the encoders too; if not, biases take its place.
        relu: whether the hidden layer is relu6 of its batch normalisation; if not, it is linear.
        gating: whether the hidden layer is gated.
        gating_form: `context`, `squeeze_excitation`, `bottleneck` or `glu`: see yt8m/layers/gating.py.
        gating_remove_diag: whether a hidden unit has no say in its own gate.
        iterations: how many frames a training example has; 0 for all.
        sample_random_frames: whether they are drawn one by one; if not, they follow each other from a random start.
        sampling: how they are drawn: a method of yt8m/sampling.py, or `all`.
        evaluation_sampling: which frames are evaluated: `all`, or `uniform` for `iterations` of them.
        unit_frames: whether frames are scaled to unit length.
        reverse_whitening: whether the whitening of image features is undone first, by a scale that is learnt.
        input_dropout: the share of the frames' features to drop in training.
        dropout: the share of the descriptor's features to drop in training.
        classifier: the name of a video-level model.
        classifier_hparams: its hyper-parameters.

    Raises:
        UserError: if a name is not known or a number too small.

    Source: Kmiec, Bae & An 2018, "Learnable pooling methods for video classification", second model;
    pomonam/LearnablePoolingMethods, NetVladV2.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        cluster_size: int = 256,
        head_size: int = 16,
        attention_dropout: float = 0.1,
        similarity: str = "bn_relu",
        hidden_size: int = 512,
        add_batch_norm: bool = True,
        relu: bool = False,
        gating: bool = True,
        gating_form: str = "context",
        gating_remove_diag: bool = False,
        iterations: int = 256,
        sample_random_frames: bool = True,
        sampling: str = "uniform",
        evaluation_sampling: str = "all",
        unit_frames: bool = True,
        reverse_whitening: bool = False,
        input_dropout: float = 0.0,
        dropout: float = 0.0,
        classifier: str = "MoeModel",
        classifier_hparams: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        salts = iter(spec.feature_names)

        def make_pool(clusters: int, _: bool) -> keras.layers.Layer:
            return AttentionSimilarityVLAD(
                clusters, head_size, attention_dropout, next(salts), similarity, dtype=self.dtype_policy
            )

        super().__init__(
            spec,
            make_pool,
            cluster_size=cluster_size,
            share=4,
            hidden_size=hidden_size,
            add_batch_norm=add_batch_norm,
            relu=relu,
            gating=gating,
            gating_form=gating_form,
            gating_remove_diag=gating_remove_diag,
            training_sampling=random_frames(iterations, sample_random_frames, sampling),
            evaluation_sampling=evaluation_sampling,
            iterations=iterations,
            unit_frames=unit_frames,
            reverse_whitening=reverse_whitening,
            input_dropout=input_dropout,
            dropout=dropout,
            classifier=classifier,
            classifier_hparams=classifier_hparams,
            **kwargs,
        )
