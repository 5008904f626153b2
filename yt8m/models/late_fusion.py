"""Late fusion: every feature is pooled on its own, and what follows sees all of them."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from yt8m.errors import UserError, choose
from yt8m.layers.dense import NormalisedDense
from yt8m.layers.dropout import KeyedDropout
from yt8m.layers.gating import GATINGS
from yt8m.layers.normalisation import MaskedBatchNormalization
from yt8m.layers.whitening import ReverseWhitening
from yt8m.models.base import SampledModel, stream_sizes
from yt8m.registry import hyper_parameters
from yt8m.schema import DataSpec


@hyper_parameters(flags={"hidden_size": "hidden_size", "gating": "gating", "gating_remove_diag": "gating_remove_diag"})
class LateFusionModel(SampledModel):
    """What these models share: pool every feature on its own, then a hidden layer over all, a gate, a classifier.

        x = BN(frames),   h = f([pool_1(x_1), pool_2(x_2), ...] H + b),   y = classifier(gate(h))

    H starts from a normal distribution of standard deviation 1 / sqrt(K) for the K clusters of the widest feature,
    whatever the width of the descriptor: its parts have unit length, so h starts with numbers of that size.

    A model is what it pools with: it calls `pool_each` when it is constructed.

    Args:
        spec: what the records hold.
        cluster_size: clusters of the widest feature, K.
        dimred: the width to which the descriptor is projected in front of the hidden layer; -1 for none.
        hidden_size: the width of h.
        add_batch_norm: whether to normalise; if not, biases take its place.
        relu: whether f is relu6 behind batch normalisation; if not, the hidden layer is linear.
        gating: whether the hidden layer is gated.
        gating_form: `context`, `squeeze_excitation`, `bottleneck` or `glu`: see yt8m/layers/gating.py.
        gating_remove_diag: whether a hidden unit has no say in its own gate.
        iterations: as in SampledModel.
        sampling: as in SampledModel.
        reverse_whitening: whether the whitening of image features is undone first, by a scale that is learnt.
        input_dropout: the share of the frames' features to drop in training, behind the normalisation.
        dropout: the share of the descriptor's features to drop in training.
        inherited: see SampledModel.

    Raises:
        UserError: if there is no cluster, or a name is not known.

    Source: Miech, Laptev & Sivic 2017, "Learnable pooling with Context Gating"; antoine77340/Youtube-8M-WILLOW. Unlike
    the latter they draw no frames at evaluation.
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
        iterations: int = 30,
        sampling: str = "random",
        reverse_whitening: bool = False,
        input_dropout: float = 0.0,
        dropout: float = 0.0,
        **inherited: Any,
    ):
        super().__init__(spec, iterations=iterations, sampling=sampling, **inherited)
        if cluster_size < 1:
            raise UserError(f"--hparams: cluster_size={cluster_size}: expected at least 1.")
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
        make_gate = choose(GATINGS, gating_form, "gating form")
        _check_diagonal(gating_remove_diag, gating, gating_form)
        options = {"remove_diagonal": True} if gating_remove_diag else {}
        self.gate = make_gate(add_batch_norm=add_batch_norm, dtype=self.dtype_policy, **options) if gating else None

    def pool_each(self, make_pool: Callable[[int, bool], keras.layers.Layer], share: int) -> None:
        """Makes the layers that pool, one a feature.

        Args:
            make_pool: `(clusters, is_widest) -> layer`.
            share: of how many clusters of the widest feature the others have one.
        """
        widest = max(self.spec.feature_sizes)
        sizes = zip(self.spec.feature_sizes, stream_sizes(self.cluster_size, share, self.spec), strict=True)
        self.pools = [make_pool(clusters, width == widest) for width, clusters in sizes]
        for index, layer in enumerate(self.pools):
            setattr(self, f"pool_{index}", layer)  # a checkpoint finds attributes, not what is in lists

    def normalise(self, frames: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        """Undoes the whitening, if it is to, and scales to unit length, if it is to."""
        if self.reverse_whitening is not None:
            frames = self.reverse_whitening(frames, valid)
        return super().normalise(frames, valid)

    def pool(self, frames: tf.Tensor, valid: tf.Tensor, key: tf.Tensor | None, training: bool) -> tf.Tensor:
        """Pools every feature, sets the descriptors side by side and maps them to the hidden layer."""
        streams = zip(self.pools, self.streams(frames, valid, key, training), strict=True)
        return self.fuse([pool(stream, valid, training=training) for pool, stream in streams], key, training)

    def streams(self, frames: tf.Tensor, valid: tf.Tensor, key: tf.Tensor | None, training: bool) -> list[tf.Tensor]:
        """Normalises `frames` `(B, T, D)` and parts them into their features, `(B, T, size)` each."""
        if self.input_norm is not None:
            frames = self.input_norm(frames, valid=valid, training=training)
        frames = self.input_dropout(frames, key=key, training=training)
        return tf.split(frames, self.spec.feature_sizes, axis=-1)

    def fuse(self, descriptors: list[tf.Tensor], key: tf.Tensor | None, training: bool) -> tf.Tensor:
        """Sets descriptors `(B, E)` side by side and maps them to the hidden layer, `(B, hidden_size)`."""
        descriptor = tf.cast(tf.concat(descriptors, axis=-1), self.compute_dtype)
        descriptor = self.dropout(descriptor, key=key, training=training)
        if self.reduction is not None:
            descriptor = self.reduction(descriptor)
        hidden = self.hidden(descriptor, training=training)
        if self.relu:
            hidden = tf.nn.relu6(hidden)
        return hidden if self.gate is None else self.gate(hidden, training=training)


def _check_diagonal(is_removed: bool, gating: bool, form: str) -> None:
    if is_removed and not gating:
        raise UserError("--gating_remove_diag: the hidden layer has no gate. Add --gating, or leave it out.")
    if is_removed and form not in ("context", "glu"):
        raise UserError(f"--gating_remove_diag: the gating form '{form}' has no diagonal. Leave it out.")
