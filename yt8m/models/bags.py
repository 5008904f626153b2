"""Registered models that pool every feature to a bag of frames."""

from typing import Any

import keras

from yt8m.layers.dbof import GatedBagOfFrames, MeanAndMaxBagOfFrames, SoftBagOfFrames
from yt8m.models.late_fusion import LateFusionModel
from yt8m.registry import FRAME_LEVEL_MODELS, hyper_parameters
from yt8m.schema import DataSpec

_SHARE = 8  # a bag of any feature but the widest has an eighth of the clusters


@hyper_parameters(
    defaults={"cluster_size": 8192},
    flags={
        "dbof_add_batch_norm": "add_batch_norm",
        "dbof_cluster_size": "cluster_size",
        "dbof_hidden_size": "hidden_size",
        "dbof_relu": "relu",
    },
)
class BagModel(LateFusionModel):
    """What the models with bags of frames share: many clusters, and the flags that set them.

    Args:
        spec: what the records hold.
        cluster_size: the number of clusters of the widest feature; others have an eighth of it, at least 1.
        inherited: see LateFusionModel.
    """


@FRAME_LEVEL_MODELS.register(flags={"softdbof_maxpool": "max_pool"})
class SoftDbofModelLF(BagModel):
    """One soft bag of frames per feature, then a hidden layer and the classifier.

        y = L2(sum_t a[t]),   a = softmax(BN(x W))

    Args:
        spec: what the records hold.
        max_pool: whether the largest share of each cluster follows the sums.
        inherited: see BagModel.

    Source: Miech, Laptev & Sivic 2017; antoine77340/Youtube-8M-WILLOW, SoftDbofModelLF.
    """

    def __init__(self, spec: DataSpec, *, max_pool: bool = False, **inherited: Any):
        super().__init__(spec, **inherited)
        options = (max_pool, self.add_batch_norm)
        self.pool_each(lambda clusters, _: SoftBagOfFrames(clusters, *options, dtype=self.dtype_policy), _SHARE)


@FRAME_LEVEL_MODELS.register(flags={"softdbof_maxpool": "max_pool"})
class GatedDbofModelLF(BagModel):
    """One soft bag of frames per feature, that of the widest gated, then a hidden layer and the classifier.

        y = L2(sigmoid(BN(L2(max_t a[t]) A B)) * sum_t a[t]),   a = softmax(BN(x W))

    Args:
        spec: what the records hold.
        max_pool: whether the largest share of each cluster follows the sums of the other features.
        inherited: see BagModel.

    Source: Miech, Laptev & Sivic 2017; antoine77340/Youtube-8M-WILLOW, GatedDbofModelLF.
    """

    def __init__(self, spec: DataSpec, *, max_pool: bool = False, **inherited: Any):
        super().__init__(spec, **inherited)

        def make_pool(clusters: int, is_widest: bool) -> keras.layers.Layer:
            if is_widest:
                return GatedBagOfFrames(clusters, self.add_batch_norm, dtype=self.dtype_policy)
            return SoftBagOfFrames(clusters, max_pool, self.add_batch_norm, dtype=self.dtype_policy)

        self.pool_each(make_pool, _SHARE)


@FRAME_LEVEL_MODELS.register(flags={"dbof_activation": "activation"})
class DbofModelLF(BagModel):
    """One deep bag of frames per feature, pooled by mean and maximum, then a hidden layer and the classifier.

        y = [L2(mean_t f(BN(x_t W))), L2(max_t f(BN(x_t W)))]

    Args:
        spec: what the records hold.
        activation: f, `relu6`, which WILLOW calls `relu`, `sigmoid` or `glu`.
        inherited: see BagModel.

    Raises:
        UserError: if there is no such activation.

    Source: antoine77340/Youtube-8M-WILLOW, DbofModelLF.
    """

    def __init__(self, spec: DataSpec, *, activation: str = "relu6", **inherited: Any):
        super().__init__(spec, **inherited)
        options = (activation, self.add_batch_norm)
        self.pool_each(lambda clusters, _: MeanAndMaxBagOfFrames(clusters, *options, dtype=self.dtype_policy), _SHARE)
