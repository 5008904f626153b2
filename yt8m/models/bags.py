"""Registered models that pool every feature by a (soft or deep) bag of frames."""

from typing import Any

import keras

from yt8m.layers.dbof import GatedBagOfFrames, MeanAndMaxBagOfFrames, SoftBagOfFrames
from yt8m.models.late_fusion import LateFusionModel
from yt8m.registry import FRAME_LEVEL_MODELS, hyper_parameters
from yt8m.schema import DataSpec

_SHARE = 8  # features other than the widest have an eighth of its clusters


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
    """Base class of the models with bags of frames: default sizes, and the flags that set them.

    Args:
        spec: the features' names and sizes, and the number of classes.
        cluster_size: the number of clusters of the widest feature; others have an eighth of it, at least 1.
        inherited: further keyword arguments, those of LateFusionModel.
    """


@FRAME_LEVEL_MODELS.register(flags={"softdbof_maxpool": "max_pool"})
class SoftDbofModelLF(BagModel):
    """One soft histogram of frames over clusters per feature, then a hidden layer and the classifier.

        y = L2(sum_t a[t])   or, with max_pool,   [L2(sum_t a[t]), L2(max_t a[t])],   a = softmax(BN(x W))

    Args:
        spec: the features' names and sizes, and the number of classes.
        max_pool: whether to append the maximum over time.
        inherited: further keyword arguments, those of BagModel.

    Source: Miech, Laptev & Sivic 2017; antoine77340/Youtube-8M-WILLOW, SoftDbofModelLF.
    """

    def __init__(self, spec: DataSpec, *, max_pool: bool = False, **inherited: Any):
        super().__init__(spec, **inherited)
        options = (max_pool, self.add_batch_norm)
        self.pool_each(lambda clusters, _: SoftBagOfFrames(clusters, *options, dtype=self.dtype_policy), _SHARE)


@FRAME_LEVEL_MODELS.register(flags={"softdbof_maxpool": "max_pool"})
class GatedDbofModelLF(BagModel):
    """One soft histogram of frames per feature, gated for the widest feature, then a hidden layer and the classifier.

        y = L2(sigmoid(BN(L2(max_t a[t]) A B)) * sum_t a[t]),   a = softmax(BN(x W))   for the widest feature
        y = L2(sum_t a[t])                                                             for others

    Args:
        spec: the features' names and sizes, and the number of classes.
        max_pool: whether to append L2(max_t a[t]) for the other features.
        inherited: further keyword arguments, those of BagModel.

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
        spec: the features' names and sizes, and the number of classes.
        activation: f: `relu6` (also called `relu`, as in WILLOW's code), `sigmoid` or `glu`.
        inherited: further keyword arguments, those of BagModel.

    Raises:
        UserError: if another activation is given.

    Source: antoine77340/Youtube-8M-WILLOW, DbofModelLF.
    """

    def __init__(self, spec: DataSpec, *, activation: str = "relu6", **inherited: Any):
        super().__init__(spec, **inherited)
        options = (activation, self.add_batch_norm)
        self.pool_each(lambda clusters, _: MeanAndMaxBagOfFrames(clusters, *options, dtype=self.dtype_policy), _SHARE)
