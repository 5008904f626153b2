"""Late fusion: every feature is pooled on its own, and the descriptors are fused by a hidden layer."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from yt8m.arguments import ArgumentError, check_at_least, check_share, choose
from yt8m.layers.dense import NormalisedDense
from yt8m.layers.dropout import KeyedDropout
from yt8m.layers.gating import GATINGS
from yt8m.layers.layer_list import LayerList
from yt8m.layers.normalisation import MaskedBatchNormalization
from yt8m.layers.whitening import ReverseWhitening
from yt8m.models.base import Pooled, SampledModel, stream_sizes
from yt8m.registry import hyper_parameters
from yt8m.schema import DataSpec


@hyper_parameters(
    defaults={"iterations": 30, "sampling": "random"},
    flags={"hidden_size": "hidden_size", "gating": "gating", "gating_remove_diag": "gating_remove_diag"},
)
class LateFusionModel(SampledModel):
    """Fuses descriptors: one pooling per feature, then a hidden layer over all of them, a gate and the classifier.

        x = BN(frames),   h = f([pool_1(x_1), pool_2(x_2), ...] H + b),   y = classifier(gate(h))

    H starts from a normal distribution of standard deviation 1 / sqrt(K) for the K clusters of the widest feature,
    whatever the width of the descriptor: its parts have unit length, so h starts with numbers of that size.

    A subclass only chooses its pooling layers: it calls `pool_each` when it is constructed.

    Args:
        spec: what the records hold.
        cluster_size: clusters of the widest feature, K.
        dimred: the width to which the descriptor is projected before the hidden layer; 0 or -1 for no projection.
        hidden_size: the width of h.
        add_batch_norm: whether to normalise by the batch; if not, there are biases.
        relu: whether f is relu6 after batch normalisation; if not, the hidden layer is linear.
        gating: whether the hidden layer is gated.
        gating_form: `context`, `squeeze_excitation`, `bottleneck` or `glu`: see yt8m/layers/gating.py.
        gating_remove_diag: whether to keep a hidden unit from influencing its own gate.
        reverse_whitening: whether the whitening of image features is undone first, by a scale that is learnt.
        input_dropout: the share of the frames' features to drop in training, after the normalisation.
        dropout: the share of the descriptor's features to drop in training.
        inherited: see SampledModel.

    Raises:
        UserError: if a name is not known or a number out of range.

    Source: Miech, Laptev & Sivic 2017, "Learnable pooling with Context Gating"; antoine77340/Youtube-8M-WILLOW. Unlike
    in the latter, no frames are drawn at evaluation.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        cluster_size: int = 64,
        dimred: int = -1,
        hidden_size: int = 1024,
        add_batch_norm: bool = True,
        relu: bool = True,
        gating: bool = False,
        gating_form: str = "context",
        gating_remove_diag: bool = False,
        reverse_whitening: bool = False,
        input_dropout: float = 0.0,
        dropout: float = 0.0,
        **inherited: Any,
    ):
        check_at_least(1, cluster_size=cluster_size, hidden_size=hidden_size)
        check_at_least(-1, dimred=dimred)
        check_share(input_dropout=input_dropout, dropout=dropout)
        make_gate = choose(GATINGS, gating_form=gating_form)
        _check_diagonal(gating_remove_diag, gating, gating_form)
        super().__init__(spec, **inherited)
        self.cluster_size = cluster_size
        self.add_batch_norm = add_batch_norm
        self.reverse_whitening = ReverseWhitening(spec) if reverse_whitening else None
        self.input_dropout = KeyedDropout(input_dropout, "frames")
        self.dropout = KeyedDropout(dropout, "descriptor")
        self.input_norm = MaskedBatchNormalization(dtype=self.dtype_policy) if add_batch_norm else None
        stddev = cluster_size**-0.5
        self.reduction = None
        if dimred > 0:
            self.reduction = NormalisedDense(
                dimred, add_batch_norm=False, kernel_stddev=stddev, dtype=self.dtype_policy
            )
        self.relu = relu
        self.hidden = NormalisedDense(
            hidden_size,
            add_batch_norm=add_batch_norm and relu,
            kernel_stddev=stddev if self.reduction is None else None,
            dtype=self.dtype_policy,
        )
        options = {"remove_diagonal": True} if gating_remove_diag else {}
        self.gate = make_gate(add_batch_norm=add_batch_norm, dtype=self.dtype_policy, **options) if gating else None

    def pool_each(self, make_pool: Callable[[int, bool], keras.layers.Layer], share: int) -> None:
        """Makes the layers that pool, one per feature.

        Args:
            make_pool: `(clusters, is_widest) -> layer`.
            share: by how much the number of clusters of the widest feature is divided for the others.
        """
        widest = max(self.spec.feature_sizes)
        sizes = zip(self.spec.feature_sizes, stream_sizes(self.cluster_size, share, self.spec), strict=True)
        self.pools = LayerList(self, "pool", [make_pool(clusters, width == widest) for width, clusters in sizes])

    def normalise(self, frames: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        """Undoes the whitening of `frames` `(B, T, D)` and scales them to unit length, each if asked for."""
        if self.reverse_whitening is not None:
            frames = self.reverse_whitening(frames, valid)
        return super().normalise(frames, valid)

    def pool(
        self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool
    ) -> tf.Tensor | Pooled:
        """Maps `frames` `(B, T, D)` to the hidden layer over the descriptors of all features, `(B, hidden_size)`."""
        return self.fuse(self.describe(frames, valid, random_key, training), random_key, training)

    def describe(self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool) -> list[Any]:
        """Pools every feature of `frames` `(B, T, D)` and returns the outputs of the pooling layers, `(B, E)` each."""
        streams = zip(self.pools, self.streams(frames, valid, random_key, training), strict=True)
        return [pool(stream, valid, training=training) for pool, stream in streams]

    def streams(
        self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool
    ) -> list[tf.Tensor]:
        """Normalises `frames` `(B, T, D)` and splits them into their features, `(B, T, size)` each."""
        if self.input_norm is not None:
            frames = self.input_norm(frames, valid=valid, training=training)
        frames = self.input_dropout(frames, random_key=random_key, training=training)
        return tf.split(frames, self.spec.feature_sizes, axis=-1)

    def fuse(self, descriptors: list[tf.Tensor], random_key: tf.Tensor | None, training: bool) -> tf.Tensor:
        """Concatenates descriptors `(B, E)` and maps them to the hidden layer, `(B, hidden_size)`."""
        descriptor = tf.cast(tf.concat(descriptors, axis=-1), self.compute_dtype)
        descriptor = self.dropout(descriptor, random_key=random_key, training=training)
        if self.reduction is not None:
            descriptor = self.reduction(descriptor)
        hidden = self.hidden(descriptor, training=training)
        if self.relu:
            hidden = tf.nn.relu6(hidden)
        return hidden if self.gate is None else self.gate(hidden, training=training)


def _check_diagonal(is_removed: bool, gating: bool, form: str) -> None:
    if is_removed and not gating:
        raise ArgumentError("gating_remove_diag=True: the hidden layer has no gate. Add gating=True, or leave it out.")
    if is_removed and form not in ("context", "glu"):
        raise ArgumentError(f"gating_remove_diag=True: a gate of the form '{form}' has no diagonal. Leave it out.")
