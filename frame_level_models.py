"""The registered models over frames and clips: the simple ones here, the others one family per file in `yt8m/models/`.

FrameLevelLogisticModel, DbofModel                          here: those of google/youtube-8m
RankPoolModel, AveragePoolModel, MaxPoolModel               here: rank pooling and its baselines
MomentsModel                                                yt8m/models/moments.py
ConvPoolModel, LatePoolModel, SlowPoolModel, LocalPoolModel,
TimeConvModel                                               yt8m/models/temporal_pooling.py
LstmModel, GruModel                                         yt8m/models/recurrent.py
DeepLstmModel                                               yt8m/models/deep_lstm.py
BiLstmModel, BiGruModel                                     yt8m/models/bidirectional.py
LstmAttentionModel, MultiscaleCnnLstmModel                  yt8m/models/monkeytyping.py
CnnChainModel, LstmCnnChainModel                            yt8m/models/chains.py
SoftDbofModelLF, GatedDbofModelLF, DbofModelLF              yt8m/models/bags.py
NetVLADModelLF, NetFVModelLF, NonLocalVLADModel             yt8m/models/vlad.py
NeXtVLADModel, MixNeXtVLADModel                             yt8m/models/nextvlad.py
AttentionClusterModel, TransformerModel                     yt8m/models/attention.py
AttentionEnhancedVLADModel, AttentionSimilarityVLADModel,
SecondOrderVLADModel                                        yt8m/models/attention_vlad.py
FrameVoteModel                                              yt8m/models/frame_vote.py
ClipModel, CnnLstmModel                                     yt8m/models/clips.py: clips, through a network per frame
MapTimeConvModel                                            yt8m/models/map_convolution.py: clips
I3dModel                                                    yt8m/models/i3d.py: clips
C3dModel                                                    yt8m/models/c3d.py: clips
TwoStreamModel, FusedTwoStreamModel                         yt8m/models/two_stream.py: clips
"""

from typing import Any

import keras
import tensorflow as tf

from yt8m.arguments import check_at_least, check_share, choose
from yt8m.layers.dbof import ACTIVATIONS, Activation, DeepBagOfFrames
from yt8m.layers.dense import NormalisedDense
from yt8m.layers.dropout import KeyedDropout
from yt8m.layers.normalisation import MaskedBatchNormalization, l2_normalise
from yt8m.layers.pooling import masked_max, masked_mean
from yt8m.models.base import FrameLevelModel, SampledModel
from yt8m.registry import FRAME_LEVEL_MODELS, hyper_parameters
from yt8m.schema import DataSpec

from rankpool_ops import Direction, GradientName, Method, RankPooling, running_mean, signed_sqrt, unit_length

_PROJECTION_ACTIVATIONS: dict[str, Activation] = {**ACTIVATIONS, "relu": tf.nn.relu, "linear": tf.identity}


@FRAME_LEVEL_MODELS.register()
class FrameLevelLogisticModel(FrameLevelModel):
    """Logistic regression on the mean frame.

        p = sigmoid(mean_t(x_t) W + b)

    Args:
        spec: the features' names and sizes, and the number of classes.
        l2_penalty: lambda in the penalty lambda / 2 * sum of W^2.

    Raises:
        UserError: if `l2_penalty` is below 0.

    Source: google/youtube-8m, FrameLevelLogisticModel.
    """

    def __init__(self, spec: DataSpec, *, l2_penalty: float = 1e-8, **kwargs: Any):
        check_at_least(0, l2_penalty=l2_penalty)
        super().__init__(spec, "LogisticModel", {"l2_penalty": l2_penalty}, **kwargs)

    def pool(self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool) -> tf.Tensor:
        """Averages the real frames of `frames` `(B, T, D)` over time to `(B, D)`."""
        return masked_mean(frames, valid)


@FRAME_LEVEL_MODELS.register(
    defaults={"iterations": 30, "sampling": "random"},
    flags={
        "hidden_size": "hidden_size",
        "dbof_add_batch_norm": "add_batch_norm",
        "dbof_cluster_size": "cluster_size",
        "dbof_hidden_size": "hidden_size",
        "dbof_pooling_method": "pooling_method",
        "dbof_activation": "activation",
    },
)
class DbofModel(SampledModel):
    """Deep bag of frames (DBoF): project every frame, pool over time, project again, classify.

        h = g(BN(pool_t f(BN(BN(x_t) W)) H)),   p = classifier(h)

    The model is trained on 30 random frames per video by default and evaluated on all frames.

    Args:
        spec: the features' names and sizes, and the number of classes.
        add_batch_norm: whether to batch-normalise frames and both projections; if not, the projections have biases.
        cluster_size: the width of the first projection, x W.
        hidden_size: the width of h.
        pooling_method: `max` or `average` over the frames.
        activation: f, `sigmoid` or `relu6`.
        hidden_activation: g, `sigmoid` or `relu6`; None for g = f.
        input_dropout: the dropout rate of the frames' features, in [0, 1).
        inherited: further keyword arguments, those of SampledModel.

    Raises:
        UserError: if a name is none of those listed, a size is below 1, or `input_dropout` is outside [0, 1).

    Source: Abu-El-Haija et al. 2016, "YouTube-8M"; google/youtube-8m, DbofModel, which samples frames at evaluation
    too.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        add_batch_norm: bool = True,
        cluster_size: int = 8192,
        hidden_size: int = 1024,
        pooling_method: str = "max",
        activation: str = "sigmoid",
        hidden_activation: str | None = None,
        input_dropout: float = 0.0,
        **inherited: Any,
    ):
        check_at_least(1, hidden_size=hidden_size)
        check_share(input_dropout=input_dropout)
        super().__init__(spec, **inherited)
        self.input_dropout = KeyedDropout(input_dropout, "frames")
        self.bag = DeepBagOfFrames(
            cluster_size, pooling_method, activation, add_batch_norm=add_batch_norm, dtype=self.dtype_policy
        )
        self.hidden = NormalisedDense(hidden_size, add_batch_norm=add_batch_norm, dtype=self.dtype_policy)
        self.activate = choose(ACTIVATIONS, hidden_activation=hidden_activation or activation)

    def pool(self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool) -> tf.Tensor:
        """Maps `frames` `(B, T, D)` to the hidden layer over the pooled projection, `(B, hidden_size)`."""
        frames = self.input_dropout(frames, random_key=random_key, training=training)
        bag = self.bag(frames, valid, training=training)
        return self.activate(self.hidden(bag, training=training))


@hyper_parameters(defaults={"unit_frames": False})
class SequencePoolModel(FrameLevelModel):
    """Base class of the rank, average and max pooling models: the steps before and after the pooling.

        x' = f(BN(BN(x) W)),   z_t = L2(sqrt(mean_(i <= t) x'_i)),   p = classifier(L2(sqrt(pool(z))))

    where sqrt is the signed square root sign(v) sqrt|v|, and every step but the last L2 is optional. The frames x are
    not scaled to unit length by default.

    Args:
        spec: the features' names and sizes, and the number of classes.
        add_batch_norm: whether to batch-normalise frames and projection; if not, the projection has a bias.
        input_dropout: the dropout rate of the frames' features, in [0, 1).
        projection_size: the width of x W, which is trained through the pooling; 0 for no projection.
        projection_activation: f: `relu`, `relu6`, `sigmoid` or `linear`.
        takes_running_mean: whether to replace frame t by the mean of frames 1 to t.
        takes_frame_sqrt: whether to take the signed square root of every feature after the running mean.
        takes_unit_length: whether to divide z_t by its norm.
        takes_pooled_sqrt: whether to take the signed square root of every feature of the pooled vector.
        unit_frames: whether the stored frames x are scaled to unit length first.
        inherited: further keyword arguments, those of FrameLevelModel.

    Raises:
        UserError: if another activation is given, `projection_size` is below 0, or `input_dropout` is outside [0, 1).
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        add_batch_norm: bool = False,
        input_dropout: float = 0.0,
        projection_size: int = 0,
        projection_activation: str = "relu",
        takes_running_mean: bool = False,
        takes_frame_sqrt: bool = False,
        takes_unit_length: bool = True,
        takes_pooled_sqrt: bool = True,
        **inherited: Any,
    ):
        check_at_least(0, projection_size=projection_size)
        check_share(input_dropout=input_dropout)
        super().__init__(spec, **inherited)
        self.input_norm = MaskedBatchNormalization(dtype=self.dtype_policy) if add_batch_norm else None
        self.input_dropout = KeyedDropout(input_dropout, "frames")
        self.projection: keras.layers.Layer | None = None
        if projection_size > 0:
            self.projection = NormalisedDense(projection_size, add_batch_norm=add_batch_norm, dtype=self.dtype_policy)
        self.activate = choose(_PROJECTION_ACTIVATIONS, projection_activation=projection_activation)
        self.takes_running_mean, self.takes_frame_sqrt = takes_running_mean, takes_frame_sqrt
        self.takes_unit_length, self.takes_pooled_sqrt = takes_unit_length, takes_pooled_sqrt

    def pool(self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool) -> tf.Tensor:
        """Projects `frames` `(B, T, D)`, pools them by `pool_sequence` to `(B, E)` and scales these to unit length."""
        frames = self._projected(self.input_dropout(frames, random_key=random_key, training=training), valid, training)
        # In float32: the regression depends on small differences between frames, which float16 would round away.
        pooled = self.pool_sequence(tf.cast(frames, tf.float32), valid)
        return l2_normalise(signed_sqrt(pooled) if self.takes_pooled_sqrt else pooled)

    def _projected(self, frames: tf.Tensor, valid: tf.Tensor, training: bool) -> tf.Tensor:
        if self.input_norm is not None:
            frames = self.input_norm(frames, valid=valid, training=training)
        if self.projection is None:
            return frames
        return self.activate(self.projection(frames, valid=valid, training=training))

    def pool_sequence(self, frames: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        """Pools projected `frames` `(B, T, D)` float32 to `(B, E)` float32, after the optional preprocessing.

        `valid` `(B, T)` bool is the padding mask, True for real frames.
        """
        raise NotImplementedError

    def _prepared(self, frames: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        """Applies running mean, signed square root and unit length, each if configured, to `frames` `(B, T, D)`.

        `valid` `(B, T)` bool is the padding mask, True for real frames.
        """
        if self.takes_running_mean:
            frames = running_mean(frames, _num_frames(valid))
        if self.takes_frame_sqrt:
            frames = signed_sqrt(frames)
        return unit_length(frames) if self.takes_unit_length else frames


@FRAME_LEVEL_MODELS.register(defaults={"takes_running_mean": True})
class RankPoolModel(SequencePoolModel):
    """Rank pooling: the classifier reads the weights u of a linear regression of time t on the frames z_t.

        u = argmin_u |u|^2 / 2 + c / 2 sum_t max(0, |t - u.z_t| - epsilon)^2,   p = classifier(L2(sqrt(u)))

    with z of `SequencePoolModel`; for both directions of time the two u are concatenated. The projection is trained
    through the regression.

    Args:
        spec: the features' names and sizes, and the number of classes.
        c: the weight of the regression loss against the norm of u; with `learns_c`, its initial value.
        epsilon: the half width of the epsilon-insensitive tube: smaller errors |t - u.z_t| cost nothing.
        learns_c: whether log(c) is trained.
        method: `rank_pool`, or `approximate` for fixed weights of the frames (Bilen et al. 2016).
        gradient: the gradient of u: `exact`; `diagonal`, the paper's approximation; or `sherman_morrison`, the paper's
            algorithm for the exact one.
        direction: of time: `forward`, `reverse` or `both`.
        inherited: further keyword arguments, those of SequencePoolModel.

    Raises:
        UserError: if a name is none of those listed, `c` is not above 0, or `epsilon` is below 0.

    Source: Fernando & Gould 2016, "Learning End-to-end Video Classification with Rank-Pooling"; running mean and both
    directions as in Fernando et al. 2015; square root and length as in Perronnin et al. 2010.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        c: float = 1.0,
        epsilon: float = 0.1,
        learns_c: bool = False,
        method: Method = "rank_pool",
        gradient: GradientName = "exact",
        direction: Direction = "forward",
        **inherited: Any,
    ):
        super().__init__(spec, **inherited)
        self.rank_pooling = RankPooling(
            c,
            epsilon,
            learns_c=learns_c,
            method=method,
            gradient=gradient,
            takes_running_mean=self.takes_running_mean,
            takes_signed_sqrt=self.takes_frame_sqrt,
            takes_unit_length=self.takes_unit_length,
            direction=direction,
        )

    def pool_sequence(self, frames: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        """Rank-pools projected `frames` `(B, T, D)` to `(B, D)`, or `(B, 2 D)` for `direction=both`."""
        # RankPooling takes the running means itself, because those of the reversed frames are different.
        return self.rank_pooling(frames, _num_frames(valid))


@FRAME_LEVEL_MODELS.register()
class AveragePoolModel(SequencePoolModel):
    """Average pooling, with the same steps before and after the pooling as `RankPoolModel`.

        p = classifier(L2(sqrt(mean_t z_t)))

    Args:
        spec: the features' names and sizes, and the number of classes.
        inherited: further keyword arguments, those of SequencePoolModel. With `takes_running_mean` early frames get
            larger weights.

    Source: the baseline of Fernando & Gould 2016, table 1.
    """

    def pool_sequence(self, frames: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        """Averages projected `frames` `(B, T, D)` over time to `(B, D)`, after the optional preprocessing."""
        return masked_mean(self._prepared(frames, valid), valid)


@FRAME_LEVEL_MODELS.register()
class MaxPoolModel(SequencePoolModel):
    """Max pooling, with the same steps before and after the pooling as `RankPoolModel`.

        p = classifier(L2(sqrt(max_t z_t)))

    Args:
        spec: the features' names and sizes, and the number of classes.
        inherited: further keyword arguments, those of SequencePoolModel. With `takes_running_mean` the maximum depends
            on the order of the frames.

    Source: the baseline of Fernando & Gould 2016, table 1.
    """

    def pool_sequence(self, frames: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        """Takes the maximum of projected `frames` `(B, T, D)` over time, `(B, D)`, after the optional preprocessing."""
        return masked_max(self._prepared(frames, valid), valid)


def _num_frames(valid: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(valid, tf.int32), axis=1)
