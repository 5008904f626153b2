"""Registered NeXtVLAD models: one, and a mixture of several that teach each other."""

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
    """From frames to the vector that is classified.

        h = BN(dropout([NeXtVLAD(x_1), NeXtVLAD(x_2), ...]) H),   y = h * sigmoid(relu(BN(h W1)) W2)

    Args:
        spec: names the features and their sizes.
        cluster_size: clusters of the widest feature; others have half of it, at least 1.
        groups: groups of the widest feature; others have half of it, at least 1.
        expansion: by how much a frame is widened.
        hidden_size: the width of h.
        gating_ratio: by how much h W1 is narrower than h.
        dropout: the share of descriptor features to drop in training.
        salt: names the draws of the dropout.

    Raises:
        UserError: if a size is below 1, or the share to drop is not in [0, 1).
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
        """Creates the weights of pooling, hidden layer and gate."""
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
        """Pools `frames` `(B, T, D)` where `valid` `(B, T)` is true to `(B, hidden_size)`."""
        streams = zip(self.pools, tf.split(frames, self.spec.feature_sizes, axis=-1), strict=True)
        descriptor = tf.concat([pool(stream, valid, training=training) for pool, stream in streams], axis=-1)
        descriptor = self.dropout(descriptor, random_key=random_key, training=training)
        return self.gate(self.hidden(descriptor, training=training), training=training)


@hyper_parameters(defaults={"classifier": "LogisticModel", "unit_frames": False}, flags={"hidden_size": "hidden_size"})
class NeXtVLADBase(SampledModel):
    """What the NeXtVLAD models share: frames whose whitening is undone, trunks of one size, a logistic classifier.

        x = (stored - shift) * scale

    Frames are not scaled to unit length: their whitening is undone, by a scale that is trained further. The authors'
    penalty is classifier.l2_penalty=1e-5.

    Args:
        spec: what the records hold.
        cluster_size: clusters of the widest feature; others have half of it, at least 1.
        groups: groups of the widest feature; others have half of it, at least 1.
        expansion: by how much a frame is widened before it is cut into groups.
        hidden_size: the width of a trunk's hidden layer.
        gating_ratio: by how much the hidden layer of its gate is narrower.
        dropout: the share of descriptor features to drop in training.
        unit_frames: whether frames are scaled to unit length after their whitening is undone.
        inherited: see SampledModel.
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
        """Undoes the whitening of `frames` `(B, T, D)`, and scales them to unit length, if asked for."""
        return super().normalise(self.reverse_whitening(frames, valid), valid)


@FRAME_LEVEL_MODELS.register()
class NeXtVLADModel(NeXtVLADBase):
    """One NeXtVLAD per feature, then a hidden layer, a squeeze-and-excitation gate and the classifier.

        h = BN(dropout([NeXtVLAD(x_1), ...]) H),   p = classifier(gate(h))

    Args:
        spec: what the records hold.
        inherited: see NeXtVLADBase.

    Source: Lin, Xiao & Fan 2018, "NeXtVLAD"; linrongc/youtube-8m. Padding is left out of all moments here, and the
    classifier's bias is free of the penalty.
    """

    def __init__(self, spec: DataSpec, **inherited: Any):
        super().__init__(spec, **inherited)
        self.trunk = self.make_trunk(salt="descriptor")

    def pool(self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool) -> tf.Tensor:
        """Maps `frames` `(B, T, D)` to the gated hidden layer over the descriptors, `(B, hidden_size)`."""
        return self.trunk(frames, valid, random_key=random_key, training=training)


@FRAME_LEVEL_MODELS.register(defaults={"cluster_size": 112, "gating_ratio": 16}, loss="BranchCrossEntropyLoss")
class MixNeXtVLADModel(NeXtVLADBase):
    """Several NeXtVLAD models in one, blended by a gate on the mean frame, and taught by their blend.

        z = sum_m a_m z_m,   a = softmax(BN(mean_t(x_t)) W + b),   p = sigmoid(z)
        losses["distillation"] = w * sum_m KL(softmax(z / tau) || softmax(z_m / tau))   over classes

    The branches' own losses need labels: BranchCrossEntropyLoss, which this model is trained with, adds them.

    Args:
        spec: what the records hold.
        num_branches: how many models, M.
        temperature: tau.
        distillation_weight: w; 0 for no distillation.
        fixed_teacher: whether the distillation has no gradient to the blend and trains the branches only.
        inherited: see NeXtVLADBase.

    Raises:
        UserError: if there is no branch, the temperature is not above 0, or the weight is below 0.

    Source: Lin, Xiao & Fan 2018, "NeXtVLAD"; Lan, Zhu & Gong 2018, "Knowledge distillation by on-the-fly native
    ensemble"; linrongc/youtube-8m, whose gate averages over padding too. w = tau^2 = 9 is theirs, and so is a teacher
    that has a gradient.
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
        """Pools `frames` `(B, T, D)` once per branch: `(B, hidden_size)` each."""
        return [trunk(frames, valid, random_key=random_key, training=training) for trunk in self.trunks]

    def classify(
        self, vector: list[tf.Tensor], frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool
    ) -> dict[str, Any]:
        """Classifies the vectors `(B, E)` of all branches and blends their logits; `branch_logits` are `(B, M, C)`."""
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
        """Returns sum_m KL(softmax(z / tau) || softmax(z_m / tau)) as `(B,)`."""
        blend = tf.stop_gradient(logits) if self.fixed_teacher else logits
        teacher = tf.nn.log_softmax(blend / self.temperature)[:, tf.newaxis, :]
        student = tf.nn.log_softmax(branch_logits / self.temperature)
        return tf.reduce_sum(tf.exp(teacher) * (teacher - student), axis=(1, 2))

    def start_at_prior(self, prior: np.ndarray) -> None:
        """Starts the classifier of every branch at the class prior `(C,)`."""
        for classifier in self.classifiers:
            classifier.start_at_prior(prior)
