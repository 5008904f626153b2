"""Registered models that pool every feature on its own: bags of frames, late fusion."""

from typing import Any

import keras

from yt8m.layers.dbof import GatedBagOfFrames, MeanAndMaxBagOfFrames, SoftBagOfFrames
from yt8m.models.late_fusion import LateFusionModel
from yt8m.registry import FRAME_LEVEL_MODELS
from yt8m.schema import DataSpec

_SHARE = 8  # a bag of any feature but the widest has an eighth of the clusters


@FRAME_LEVEL_MODELS.register(
    flags={
        "dbof_add_batch_norm": "add_batch_norm",
        "dbof_cluster_size": "cluster_size",
        "dbof_hidden_size": "hidden_size",
        "dbof_relu": "relu",
        "softdbof_maxpool": "max_pool",
    }
)
class SoftDbofModelLF(LateFusionModel):
    """Soft bag of frames of every feature, a hidden layer, a classifier.

        y = L2(sum_t a[t]),   a = softmax(BN(x W))

    Args:
        spec: what the records hold.
        cluster_size: the number of clusters of the widest feature; others have an eighth of it, at least 1.
        max_pool: whether the largest share of each cluster follows the sums.
        inherited: see LateFusionModel.

    Source: Miech, Laptev & Sivic 2017; antoine77340/Youtube-8M-WILLOW, SoftDbofModelLF.
    """

    def __init__(self, spec: DataSpec, *, cluster_size: int = 8192, max_pool: bool = False, **inherited: Any):
        super().__init__(spec, cluster_size=cluster_size, **inherited)
        options = (max_pool, self.add_batch_norm)
        self.pool_each(lambda clusters, _: SoftBagOfFrames(clusters, *options, dtype=self.dtype_policy), _SHARE)


@FRAME_LEVEL_MODELS.register(
    flags={
        "dbof_add_batch_norm": "add_batch_norm",
        "dbof_cluster_size": "cluster_size",
        "dbof_hidden_size": "hidden_size",
        "dbof_relu": "relu",
        "softdbof_maxpool": "max_pool",
    }
)
class GatedDbofModelLF(LateFusionModel):
    """Soft bags of frames, that of the widest feature gated, a hidden layer, a classifier.

        y = L2(sigmoid(BN(L2(max_t a[t]) A B)) * sum_t a[t]),   a = softmax(BN(x W))

    Args:
        spec: what the records hold.
        cluster_size: the number of clusters of the widest feature; others have an eighth of it, at least 1.
        max_pool: whether the largest share of each cluster follows the sums of the other features.
        inherited: see LateFusionModel.

    Source: Miech, Laptev & Sivic 2017; antoine77340/Youtube-8M-WILLOW, GatedDbofModelLF.
    """

    def __init__(self, spec: DataSpec, *, cluster_size: int = 8192, max_pool: bool = False, **inherited: Any):
        super().__init__(spec, cluster_size=cluster_size, **inherited)

        def make_pool(clusters: int, is_widest: bool) -> keras.layers.Layer:
            if is_widest:
                return GatedBagOfFrames(clusters, self.add_batch_norm, dtype=self.dtype_policy)
            return SoftBagOfFrames(clusters, max_pool, self.add_batch_norm, dtype=self.dtype_policy)

        self.pool_each(make_pool, _SHARE)


@FRAME_LEVEL_MODELS.register(
    flags={
        "dbof_add_batch_norm": "add_batch_norm",
        "dbof_cluster_size": "cluster_size",
        "dbof_hidden_size": "hidden_size",
        "dbof_relu": "relu",
        "dbof_activation": "activation",
    }
)
class DbofModelLF(LateFusionModel):
    """Deep bag of frames of every feature, pooled both ways, a hidden layer, a classifier.

        y = [L2(mean_t f(BN(x_t W))), L2(max_t f(BN(x_t W)))]

    Args:
        spec: what the records hold.
        cluster_size: the number of detectors of the widest feature; others have an eighth of it, at least 1.
        activation: f, `relu6`, which WILLOW calls `relu`, `sigmoid` or `glu`.
        inherited: see LateFusionModel.

    Raises:
        UserError: if there is no such activation.

    Source: antoine77340/Youtube-8M-WILLOW, DbofModelLF.
    """

    def __init__(self, spec: DataSpec, *, cluster_size: int = 8192, activation: str = "relu6", **inherited: Any):
        super().__init__(spec, cluster_size=cluster_size, **inherited)
        options = (activation, self.add_batch_norm)
        self.pool_each(lambda clusters, _: MeanAndMaxBagOfFrames(clusters, *options, dtype=self.dtype_policy), _SHARE)
