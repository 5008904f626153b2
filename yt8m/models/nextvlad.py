"""Registered NeXtVLAD models: a single one, and a mixture of branches trained with mutual distillation."""

import math
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from yt8m.arguments import check_at_least, check_positive, check_share
from yt8m.layers.dense import NormalisedDense
from yt8m.layers.dropout import KeyedDropout
from yt8m.layers.gating import SqueezeExcitation
from yt8m.layers.layer_list import LayerList
from yt8m.layers.nextvlad import NeXtVLAD
from yt8m.layers.normalisation import MaskedBatchNormalization
from yt8m.layers.pooling import masked_mean
from yt8m.layers.whitening import ReverseWhitening
from yt8m.models.base import SampledModel, stream_sizes
from yt8m.registry import FRAME_LEVEL_MODELS, hyper_parameters
from yt8m.schema import DataSpec


class NeXtVLADTrunk(keras.layers.Layer):
    """One NeXtVLAD per feature, concatenated, then a hidden layer and a squeeze-and-excitation gate.

        h = BN(dropout([NeXtVLAD(x_1), NeXtVLAD(x_2), ...]) H),   y = h * sigmoid(relu(BN(h W1)) W2)

    Args:
        spec: the features' names and sizes.
        cluster_size: the number of clusters of the widest feature; half of it for others, at least 1.
        groups: the number of groups of the widest feature; half of it for others, at least 1.
        expansion: the factor by which frames are widened before they are split into groups.
        hidden_size: the width of h.
        gating_ratio: the width of h divided by the width of h W1.
        dropout: the dropout rate of the concatenated descriptors, in [0, 1).
        salt: a name that makes this layer's random numbers independent of those of other layers.

    Raises:
        UserError: if a size or ratio is below 1, or `dropout` is outside [0, 1).
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        cluster_size: int,
        groups: int,
        expansion: int,
        hidden_size: int,
        gating_ratio: int,
        dropout: float,
        salt: str,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        check_at_least(1, cluster_size=cluster_size, groups=groups, hidden_size=hidden_size, gating_ratio=gating_ratio)
        check_share(dropout=dropout)
        self.spec = spec
        self.hidden_size = hidden_size
        sizes = zip(stream_sizes(cluster_size, 2, spec), stream_sizes(groups, 2, spec), strict=True)
        pools = (NeXtVLAD(clusters, own, expansion, dtype=self.dtype_policy) for clusters, own in sizes)
        self.pools = LayerList(self, "pool", pools)
        self.dropout = KeyedDropout(dropout, salt)
        self.gate = SqueezeExcitation(ratio=gating_ratio, dtype=self.dtype_policy)

    def build(self, input_shape: Any) -> None:
        """Creates the weights of every NeXtVLAD, of the hidden layer and of the gate, for frames of width D."""
        size = 0
        for pool, width in zip(self.pools, self.spec.feature_sizes, strict=True):
            pool.build((*input_shape[:-1], width))
            size += pool.descriptor_size
        self.hidden = NormalisedDense(self.hidden_size, kernel_stddev=math.sqrt(2.0 / size), dtype=self.dtype_policy)
        self.hidden.build((None, size))
        self.gate.build((None, self.hidden_size))

    def call(
        self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None = None, training: bool = False
    ) -> tf.Tensor:
        """Pools `frames` `(B, T, D)` float to `(B, hidden_size)`.

        `valid` `(B, T)` bool is the padding mask, True for real frames. `random_key` `(B,)` int64 is each video's
        source of randomness, for dropout.
        """
        streams = zip(self.pools, tf.split(frames, self.spec.feature_sizes, axis=-1), strict=True)
        descriptor = tf.concat([pool(stream, valid, training=training) for pool, stream in streams], axis=-1)
        descriptor = self.dropout(descriptor, random_key=random_key, training=training)
        return self.gate(self.hidden(descriptor, training=training), training=training)


@hyper_parameters(defaults={"classifier": "LogisticModel", "unit_frames": False}, flags={"hidden_size": "hidden_size"})
class NeXtVLADBase(SampledModel):
    """Base class of the NeXtVLAD models: reversed whitening of the frames, and a logistic classifier by default.

        x = (stored - shift) * scale

    where scale starts as the reversal of the PCA whitening and is trained. By default frames are not scaled to unit
    length. A subclass pools the frames by one or more trunks: a NeXtVLADTrunk is one NeXtVLAD per feature, a hidden
    layer and a gate. The authors' penalty is classifier.l2_penalty=1e-5.

    Args:
        spec: the features' names and sizes, and the number of classes.
        cluster_size: the number of clusters of the widest feature; half of it for others, at least 1.
        groups: the number of groups of the widest feature; half of it for others, at least 1.
        expansion: the factor by which frames are widened before they are split into groups.
        hidden_size: the width of the hidden layer.
        gating_ratio: `hidden_size` divided by the width of the hidden layer of the gate.
        dropout: the dropout rate of the concatenated descriptors, in [0, 1).
        unit_frames: whether frames are scaled to unit length after their whitening is reversed.
        inherited: further keyword arguments, those of SampledModel.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        cluster_size: int = 128,
        groups: int = 8,
        expansion: int = 2,
        hidden_size: int = 2048,
        gating_ratio: int = 8,
        dropout: float = 0.5,
        **inherited: Any,
    ):
        super().__init__(spec, **inherited)
        self.reverse_whitening = ReverseWhitening(spec)
        self.make_trunk = partial(
            NeXtVLADTrunk,
            spec,
            cluster_size=cluster_size,
            groups=groups,
            expansion=expansion,
            hidden_size=hidden_size,
            gating_ratio=gating_ratio,
            dropout=dropout,
            dtype=self.dtype_policy,
        )

    def normalise(self, frames: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        """Reverses the whitening of `frames` `(B, T, D)`, and scales them to unit length if `unit_frames`."""
        return super().normalise(self.reverse_whitening(frames, valid), valid)


@FRAME_LEVEL_MODELS.register()
class NeXtVLADModel(NeXtVLADBase):
    """One NeXtVLAD per feature, then a hidden layer, a squeeze-and-excitation gate and the classifier.

        h = BN(dropout([NeXtVLAD(x_1), ...]) H),   p = classifier(gate(h))

    Args:
        spec: the features' names and sizes, and the number of classes.
        inherited: further keyword arguments, those of NeXtVLADBase.

    Source: Lin, Xiao & Fan 2018, "NeXtVLAD"; linrongc/youtube-8m. Unlike there, padding is left out of all batch
    moments, and the L2 penalty does not include the classifier's bias.
    """

    def __init__(self, spec: DataSpec, **inherited: Any):
        super().__init__(spec, **inherited)
        self.trunk = self.make_trunk(salt="descriptor")

    def pool(self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool) -> tf.Tensor:
        """Maps `frames` `(B, T, D)` to the gated hidden layer over the descriptors, `(B, hidden_size)`."""
        return self.trunk(frames, valid, random_key=random_key, training=training)


@FRAME_LEVEL_MODELS.register(defaults={"cluster_size": 112, "gating_ratio": 16}, loss="BranchCrossEntropyLoss")
class MixNeXtVLADModel(NeXtVLADBase):
    """A mixture of M NeXtVLAD branches, weighted by a gate on the mean frame, each distilled from the mixture.

        z = sum_m a_m z_m,   a = softmax(BN(mean_t(x_t)) W + b),   p = sigmoid(z)
        losses["distillation"] = w * sum_m KL(softmax(z / tau) || softmax(z_m / tau))   over classes

    z_m are the logits of branch m. The default loss, BranchCrossEntropyLoss, adds the cross entropy of every branch.

    Args:
        spec: the features' names and sizes, and the number of classes.
        num_branches: the number of branches, M.
        temperature: the temperature tau of both softmaxes in the distillation loss.
        distillation_weight: the factor w of the distillation loss; 0 for no distillation.
        fixed_teacher: whether the teacher z is a constant in the distillation loss, which then trains only z_m.
        inherited: further keyword arguments, those of NeXtVLADBase.

    Raises:
        UserError: if `num_branches` is below 1, `temperature` is not above 0, or `distillation_weight` is below 0.

    Source: Lin, Xiao & Fan 2018, "NeXtVLAD"; Lan, Zhu & Gong 2018, "Knowledge distillation by on-the-fly native
    ensemble"; linrongc/youtube-8m, from which w = tau^2 = 9 and the teacher with a gradient are taken; its gate
    averages over padding too.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        num_branches: int = 3,
        temperature: float = 3.0,
        distillation_weight: float = 9.0,
        fixed_teacher: bool = False,
        **inherited: Any,
    ):
        check_at_least(1, num_branches=num_branches)
        check_positive(temperature=temperature)
        check_at_least(0, distillation_weight=distillation_weight)
        super().__init__(spec, **inherited)
        self.temperature = temperature
        self.distillation_weight = distillation_weight
        self.fixed_teacher = fixed_teacher
        trunks = (self.make_trunk(salt=f"descriptor {branch}") for branch in range(num_branches))
        self.trunks = LayerList(self, "trunk", trunks)
        others = (self.make_classifier() for _ in range(num_branches - 1))
        self.classifiers = LayerList(self, "classifier", [self.classifier, *others])
        self.blend_norm = MaskedBatchNormalization(dtype="float32")
        self.blend_gate = keras.layers.Dense(num_branches, dtype="float32")

    def pool(
        self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool
    ) -> list[tf.Tensor]:
        """Pools `frames` `(B, T, D)` once per branch and returns the hidden layers, `(B, hidden_size)` each."""
        return [trunk(frames, valid, random_key=random_key, training=training) for trunk in self.trunks]

    def classify(
        self, vector: list[tf.Tensor], frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool
    ) -> dict[str, Any]:
        """Classifies the `vector` `(B, E)` of each branch and averages the logits by the softmax gate.

        Returns `predictions` and `logits` `(B, C)`, `branch_logits` `(B, M, C)` and the loss `distillation` `(B,)`.
        """
        branches = zip(self.classifiers, vector, strict=True)
        branch_logits = tf.stack(
            [own(part, random_key=random_key, training=training)["logits"] for own, part in branches], axis=1
        )
        gate = self.blend_gate(self.blend_norm(masked_mean(frames, valid), training=training))
        logits = tf.reduce_sum(tf.nn.softmax(gate)[:, :, tf.newaxis] * branch_logits, axis=1)
        outputs = {"predictions": tf.sigmoid(logits), "logits": logits, "branch_logits": branch_logits}
        if self.distillation_weight:
            outputs["losses"] = {"distillation": self.distillation_weight * self._distillation(logits, branch_logits)}
        return outputs

    def _distillation(self, logits: tf.Tensor, branch_logits: tf.Tensor) -> tf.Tensor:
        """Returns sum_m KL(softmax(logits / tau) || softmax(branch_logits[m] / tau)), `(B,)`, in nats."""
        blend = tf.stop_gradient(logits) if self.fixed_teacher else logits
        teacher = tf.nn.log_softmax(blend / self.temperature)[:, tf.newaxis, :]
        student = tf.nn.log_softmax(branch_logits / self.temperature)
        return tf.reduce_sum(tf.exp(teacher) * (teacher - student), axis=(1, 2))

    def start_at_prior(self, prior: np.ndarray) -> None:
        """Sets the bias of every branch's classifier from `prior` `(C,)`, each class's frequency p in training.

        For a zero vector every branch then predicts p: bias = log(p / (1 - p)) for logistic regression.
        """
        for classifier in self.classifiers:
            classifier.start_at_prior(prior)
