"""Registered models that pool every feature by VLAD or a Fisher vector."""

from collections.abc import Callable
from functools import partial
from typing import Any

import keras

from yt8m.arguments import ArgumentError
from yt8m.layers.fisher import NetFV
from yt8m.layers.non_local import NonLocalVLAD
from yt8m.layers.vlad import GatedVLAD, NetRVLAD, NetVLAD
from yt8m.models.late_fusion import LateFusionModel
from yt8m.registry import FRAME_LEVEL_MODELS, hyper_parameters
from yt8m.schema import DataSpec


@hyper_parameters(
    flags={
        "netvlad_cluster_size": "cluster_size",
        "netvlad_hidden_size": "hidden_size",
        "netvlad_add_batch_norm": "add_batch_norm",
        "netvlad_relu": "relu",
    }
)
class VLADModel(LateFusionModel):
    """Base class of the models with one VLAD per feature: the flags that set their sizes.

    Args:
        spec: the features' names and sizes, and the number of classes.
        inherited: further keyword arguments, those of LateFusionModel.
    """


@FRAME_LEVEL_MODELS.register(flags={"netvlad_dimred": "dimred", "lightvlad": "lightvlad", "vlagd": "vlagd"})
class NetVLADModelLF(VLADModel):
    """One NetVLAD per feature, then a hidden layer, a gate and the classifier.

        V_k = sum_t a[t, k] (x_t - c_k),   a = softmax(BN(x W))

    The widest feature has `cluster_size` clusters, others half of it.

    Args:
        spec: the features' names and sizes, and the number of classes.
        lightvlad: whether to sum frames instead of residuals, V_k = sum_t a[t, k] x_t: NetRVLAD.
        vlagd: whether to sum frames and multiply by a trained gate, V_k = sigmoid(g_k) * sum_t a[t, k] x_t: GatedVLAD.
        tied: whether a is computed from the centres c, as in the original NetVLAD; if not, W is separate.
        inherited: further keyword arguments, those of VLADModel.

    Raises:
        UserError: if more than one of `lightvlad`, `vlagd` and `tied` is True.

    Source: Miech, Laptev & Sivic 2017; antoine77340/Youtube-8M-WILLOW, NetVLADModelLF, where the
    flag netvlad_dimred has no effect.
    """

    def __init__(
        self, spec: DataSpec, *, lightvlad: bool = False, vlagd: bool = False, tied: bool = False, **inherited: Any
    ):
        super().__init__(spec, **inherited)
        make = _vlad_kind(lightvlad, vlagd, tied)
        self.pool_each(lambda clusters, _: make(clusters, self.add_batch_norm, dtype=self.dtype_policy), share=2)


def _vlad_kind(lightvlad: bool, vlagd: bool, tied: bool) -> Callable[..., keras.layers.Layer]:
    if lightvlad + vlagd + tied > 1:
        raise ArgumentError(f"lightvlad={lightvlad}, vlagd={vlagd}, tied={tied}: expected one of them at most.")
    if tied:
        return partial(NetVLAD, tied=True)
    return NetRVLAD if lightvlad else GatedVLAD if vlagd else NetVLAD


@FRAME_LEVEL_MODELS.register(defaults={"relu": False, "gating": True, "iterations": 300})
class NonLocalVLADModel(VLADModel):
    """One NetVLAD per feature with self-attention over its clusters, then a hidden layer, a gate and the classifier.

        y = V + softmax(s (V Q) (V K)^T) (V G) O,   V_k = sum_t a[t, k] (x_t - c_k)

    See NonLocalVLAD. The widest feature has `cluster_size` clusters, others half of it.

    Args:
        spec: the features' names and sizes, and the number of classes.
        light: whether to sum frames instead of residuals, and to attend in half the width of a feature.
        inherited: further keyword arguments, those of VLADModel.

    Source: Tang et al. 2018, "Non-local NetVLAD encoding for video classification"; 17Skye17/2nd-YouTube8M, whose
    classifier has 8 mixtures and gated probabilities.
    """

    def __init__(self, spec: DataSpec, *, light: bool = False, **inherited: Any):
        super().__init__(spec, **inherited)
        self.pool_each(
            lambda clusters, _: NonLocalVLAD(clusters, self.add_batch_norm, light, dtype=self.dtype_policy), share=2
        )


@FRAME_LEVEL_MODELS.register(
    defaults={"hidden_size": 2048},
    flags={
        "netvlad_add_batch_norm": "add_batch_norm",
        "fv_cluster_size": "cluster_size",
        "fv_hidden_size": "hidden_size",
        "fv_relu": "relu",
        "fv_couple_weights": "couple_weights",
        "fv_coupling_factor": "coupling_factor",
    },
)
class NetFVModelLF(LateFusionModel):
    """One Fisher vector per feature, then a hidden layer, a gate and the classifier.

        V1_k = sum_t a[t, k] (x_t - c_k) / s_k,   a = softmax(BN(x W))
        V2_k = sum_t a[t, k] ((x_t - c_k)^2 / s_k^2 - 1)

    See NetFV. The widest feature has `cluster_size` clusters, others half of it.

    Args:
        spec: the features' names and sizes, and the number of classes.
        couple_weights: whether c = coupling_factor * W^T; if not, c is trained separately.
        coupling_factor: the factor in c = coupling_factor * W^T.
        mixture_gradient: whether to append the gradient by the mixture weights, V0 of NetFV.
        inherited: further keyword arguments, those of LateFusionModel.

    Raises:
        UserError: if `coupling_factor` is not finite.

    Source: Miech, Laptev & Sivic 2017; antoine77340/Youtube-8M-WILLOW, NetFVModelLF.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        couple_weights: bool = True,
        coupling_factor: float = 0.01,
        mixture_gradient: bool = False,
        **inherited: Any,
    ):
        super().__init__(spec, **inherited)
        options = (self.add_batch_norm, couple_weights, coupling_factor, mixture_gradient)
        self.pool_each(lambda clusters, _: NetFV(clusters, *options), share=2)
