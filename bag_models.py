"""Registered models that pool every feature on its own: bags of frames, late fusion."""

from typing import Any

import keras

from yt8m.late_fusion import LateFusionModel, random_frames
from yt8m.layers.dbof import GatedBagOfFrames, MeanAndMaxBagOfFrames, SoftBagOfFrames
from yt8m.registry import FRAME_LEVEL_MODELS
from yt8m.schema import DataSpec


@FRAME_LEVEL_MODELS.register()
class SoftDbofModelLF(LateFusionModel):
    """Soft bag of frames of every feature, a hidden layer, a classifier.

        y = L2(sum_t a[t]),   a = softmax(BN(x W))

    Args:
        spec: what the records hold.
        cluster_size: the number of clusters of the widest feature; others have an eighth of it, at least 1.
        max_pool: whether the largest share of each cluster follows the sums.
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

    Source: Miech, Laptev & Sivic 2017; antoine77340/Youtube-8M-WILLOW, SoftDbofModelLF.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        cluster_size: int = 8192,
        max_pool: bool = False,
        hidden_size: int = 1024,
        add_batch_norm: bool = True,
        relu: bool = True,
        gating: bool = False,
        gating_form: str = "context",
        gating_remove_diag: bool = False,
        iterations: int = 30,
        sample_random_frames: bool = True,
        sampling: str = "random",
        evaluation_sampling: str = "all",
        unit_frames: bool = True,
        reverse_whitening: bool = False,
        input_dropout: float = 0.0,
        dropout: float = 0.0,
        classifier: str = "MoeModel",
        classifier_hparams: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(
            spec,
            lambda clusters, _: SoftBagOfFrames(clusters, max_pool, add_batch_norm, dtype=self.dtype_policy),
            cluster_size=cluster_size,
            share=8,
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


@FRAME_LEVEL_MODELS.register()
class GatedDbofModelLF(LateFusionModel):
    """Soft bags of frames, that of the widest feature gated, a hidden layer, a classifier.

        y = L2(sigmoid(BN(L2(max_t a[t]) A B)) * sum_t a[t]),   a = softmax(BN(x W))

    Args:
        spec: what the records hold.
        cluster_size: the number of clusters of the widest feature; others have an eighth of it, at least 1.
        max_pool: whether the largest share of each cluster follows the sums of the other features.
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

    Source: Miech, Laptev & Sivic 2017; antoine77340/Youtube-8M-WILLOW, GatedDbofModelLF.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        cluster_size: int = 8192,
        max_pool: bool = False,
        hidden_size: int = 1024,
        add_batch_norm: bool = True,
        relu: bool = True,
        gating: bool = False,
        gating_form: str = "context",
        gating_remove_diag: bool = False,
        iterations: int = 30,
        sample_random_frames: bool = True,
        sampling: str = "random",
        evaluation_sampling: str = "all",
        unit_frames: bool = True,
        reverse_whitening: bool = False,
        input_dropout: float = 0.0,
        dropout: float = 0.0,
        classifier: str = "MoeModel",
        classifier_hparams: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        def make_pool(clusters: int, is_widest: bool) -> keras.layers.Layer:
            if is_widest:
                return GatedBagOfFrames(clusters, add_batch_norm, dtype=self.dtype_policy)
            return SoftBagOfFrames(clusters, max_pool, add_batch_norm, dtype=self.dtype_policy)

        super().__init__(
            spec,
            make_pool,
            cluster_size=cluster_size,
            share=8,
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


@FRAME_LEVEL_MODELS.register()
class DbofModelLF(LateFusionModel):
    """Deep bag of frames of every feature, pooled both ways, a hidden layer, a classifier.

        y = [L2(mean_t f(BN(x_t W))), L2(max_t f(BN(x_t W)))]

    Args:
        spec: what the records hold.
        cluster_size: the number of detectors of the widest feature; others have an eighth of it, at least 1.
        activation: f, `relu6`, `sigmoid` or `glu`.
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
        UserError: if there is no such activation.

    Source: antoine77340/Youtube-8M-WILLOW, DbofModelLF.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        cluster_size: int = 8192,
        activation: str = "relu6",
        hidden_size: int = 1024,
        add_batch_norm: bool = True,
        relu: bool = True,
        gating: bool = False,
        gating_form: str = "context",
        gating_remove_diag: bool = False,
        iterations: int = 30,
        sample_random_frames: bool = True,
        sampling: str = "random",
        evaluation_sampling: str = "all",
        unit_frames: bool = True,
        reverse_whitening: bool = False,
        input_dropout: float = 0.0,
        dropout: float = 0.0,
        classifier: str = "MoeModel",
        classifier_hparams: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(
            spec,
            lambda clusters, _: MeanAndMaxBagOfFrames(clusters, activation, add_batch_norm, dtype=self.dtype_policy),
            cluster_size=cluster_size,
            share=8,
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
