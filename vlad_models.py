"""Registered models that pool every feature on its own: VLAD and Fisher vectors, late fusion."""

from collections.abc import Callable
from functools import partial
from typing import Any

import keras

from yt8m.errors import UserError
from yt8m.late_fusion import LateFusionModel, random_frames
from yt8m.layers.fisher import NetFV
from yt8m.layers.non_local import NonLocalVLAD
from yt8m.layers.vlad import GatedVLAD, NetRVLAD, NetVLAD
from yt8m.registry import FRAME_LEVEL_MODELS
from yt8m.schema import DataSpec


@FRAME_LEVEL_MODELS.register()
class NetVLADModelLF(LateFusionModel):
    """NetVLAD of every feature, a hidden layer, context gating, a classifier.

        V_k = sum_t a[t, k] (x_t - c_k),   a = softmax(BN(x W))

    Args:
        spec: what the records hold.
        cluster_size: the number of clusters of the widest feature; others have half of it, at least 1.
        lightvlad: whether to sum frames instead of residuals: NetRVLAD.
        vlagd: whether to sum frames and gate every feature of every cluster: GatedVLAD.
        tied: whether the assignment follows from the centres, as in the original NetVLAD.
        dimred: the width to which the joint descriptor is projected in front of the hidden layer; -1 for none.
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
        UserError: if more than one kind of VLAD is asked for.

    Source: Miech, Laptev & Sivic 2017; antoine77340/Youtube-8M-WILLOW, NetVLADModelLF, which reads dimred and does not
    use it.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        cluster_size: int = 64,
        lightvlad: bool = False,
        vlagd: bool = False,
        tied: bool = False,
        dimred: int = -1,
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
        make = _vlad_kind(lightvlad, vlagd, tied)
        super().__init__(
            spec,
            lambda clusters, _: make(clusters, add_batch_norm, dtype=self.dtype_policy),
            cluster_size=cluster_size,
            share=2,
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
            descriptor_size=dimred,
            classifier=classifier,
            classifier_hparams=classifier_hparams,
            **kwargs,
        )


def _vlad_kind(lightvlad: bool, vlagd: bool, tied: bool) -> Callable[..., keras.layers.Layer]:
    if lightvlad + vlagd + tied > 1:
        raise UserError(f"--lightvlad={lightvlad} --vlagd={vlagd} tied={tied}: choose one of them, or none.")
    if tied:
        return partial(NetVLAD, tied=True)
    return NetRVLAD if lightvlad else GatedVLAD if vlagd else NetVLAD


@FRAME_LEVEL_MODELS.register()
class NonLocalVLADModel(LateFusionModel):
    """NetVLAD of every feature whose clusters look at each other, a hidden layer, context gating, a classifier.

        y = V + softmax(s (V Q) (V K)^T) (V G) O,   V_k = sum_t a[t, k] (x_t - c_k): see NonLocalVLAD

    Args:
        spec: what the records hold.
        cluster_size: the number of clusters of the widest feature; others have half of it, at least 1.
        light: whether to sum frames instead of residuals, and to work in half the width of a feature.
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

    Source: Tang et al. 2018, "Non-local NetVLAD encoding for video classification"; 17Skye17/2nd-YouTube8M, which has
    8 mixtures and gated probabilities behind it.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        cluster_size: int = 64,
        light: bool = False,
        hidden_size: int = 1024,
        add_batch_norm: bool = True,
        relu: bool = False,
        gating: bool = True,
        gating_form: str = "context",
        gating_remove_diag: bool = False,
        iterations: int = 300,
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
            lambda clusters, _: NonLocalVLAD(clusters, add_batch_norm, light, dtype=self.dtype_policy),
            cluster_size=cluster_size,
            share=2,
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
class NetFVModelLF(LateFusionModel):
    """Fisher vectors of every feature, a hidden layer, context gating, a classifier.

        first and second order of (x_t - c_k) / s_k: see NetFV

    Args:
        spec: what the records hold.
        cluster_size: the number of clusters of the widest feature; others have half of it, at least 1.
        couple_weights: whether the centres are `coupling_factor` times the weights of the assignment.
        coupling_factor: see `couple_weights`.
        mixture_gradient: whether the gradient of mixture weights joins the other two.
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

    Source: Miech, Laptev & Sivic 2017; antoine77340/Youtube-8M-WILLOW, NetFVModelLF.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        cluster_size: int = 64,
        couple_weights: bool = True,
        coupling_factor: float = 0.01,
        mixture_gradient: bool = False,
        hidden_size: int = 2048,
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
        options = (add_batch_norm, couple_weights, coupling_factor, mixture_gradient)
        super().__init__(
            spec,
            lambda clusters, _: NetFV(clusters, *options),
            cluster_size=cluster_size,
            share=2,
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
