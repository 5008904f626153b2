"""Late fusion: every feature is pooled separately, and a hidden layer combines the concatenated descriptors."""

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
    """Base class for late fusion: one pooling layer per feature, then a hidden layer, a gate and the classifier.

        x = BN(frames),   h = f([pool_1(x_1), pool_2(x_2), ...] H + b),   y = classifier(gate(h))

    H is initialised with standard deviation 1 / sqrt(K), K the number of clusters of the widest feature, whatever the
    width of the concatenated descriptors: each has unit length, so the entries of h start at about that size.

    A subclass only chooses its pooling layers: its constructor calls `pool_each`.

    Args:
        spec: the features' names and sizes, and the number of classes.
        cluster_size: the number of clusters of the widest feature, K.
        dimred: the width to which the concatenated descriptors are projected before H; 0 or -1 for no projection.
        hidden_size: the width of h.
        add_batch_norm: whether to batch-normalise frames, pooling and gate; if not, biases are added.
        relu: whether h = relu6(BN(...)); if not, the hidden layer is linear.
        gating: whether h is multiplied by a gate.
        gating_form: the gate: `context`, `squeeze_excitation`, `bottleneck` or `glu`, see yt8m/layers/gating.py.
        gating_remove_diag: whether the gate's weight matrix has no diagonal, so that no unit influences its own gate.
        reverse_whitening: whether the PCA whitening of image features is first reversed, by a scale that is trained.
        input_dropout: the dropout rate of the frames' features after batch normalisation, in [0, 1).
        dropout: the dropout rate of the concatenated descriptors, in [0, 1).
        inherited: further keyword arguments, those of SampledModel.

    Raises:
        UserError: if a name is none of those listed, a size is too small, a dropout rate is outside [0, 1), or a
            diagonal is to be removed where there is none.

    Source: Miech, Laptev & Sivic 2017, "Learnable pooling with Context Gating"; antoine77340/Youtube-8M-WILLOW, which,
    unlike this model, samples frames at evaluation too.
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
        """Creates one pooling layer per feature.

        Args:
            make_pool: a function `(clusters, is_widest) -> layer`, called once per feature with its number of clusters.
            share: the divisor s: features other than the widest have max(1, K // s) clusters.
        """
        widest = max(self.spec.feature_sizes)
        sizes = zip(self.spec.feature_sizes, stream_sizes(self.cluster_size, share, self.spec), strict=True)
        self.pools = LayerList(self, "pool", [make_pool(clusters, width == widest) for width, clusters in sizes])

    def normalise(self, frames: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        """Reverses the whitening of `frames` `(B, T, D)` and scales them to unit length, each if configured."""
        if self.reverse_whitening is not None:
            frames = self.reverse_whitening(frames, valid)
        return super().normalise(frames, valid)

    def pool(
        self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool
    ) -> tf.Tensor | Pooled:
        """Maps `frames` `(B, T, D)` to the hidden layer over the descriptors of all features, `(B, hidden_size)`."""
        return self.fuse(self.describe(frames, valid, random_key, training), random_key, training)

    def describe(self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool) -> list[Any]:
        """Returns the output of each feature's pooling layer, `(B, E)` float, with a width E per feature.

        Args:
            frames: `(B, T, D)` float.
            valid: `(B, T)` bool, the padding mask: True for real frames.
            random_key: `(B,)` int64, each example's source of randomness; may be None at evaluation.
            training: whether to apply dropout and to normalise by the moments of the batch.
        """
        streams = zip(self.pools, self.streams(frames, valid, random_key, training), strict=True)
        return [pool(stream, valid, training=training) for pool, stream in streams]

    def streams(
        self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool
    ) -> list[tf.Tensor]:
        """Batch-normalises `frames` `(B, T, D)`, applies dropout and splits them into features `(B, T, size)`.

        `valid` `(B, T)` bool is the padding mask, True for real frames. `random_key` `(B,)` int64 is each video's
        source of randomness, for dropout.
        """
        if self.input_norm is not None:
            frames = self.input_norm(frames, valid=valid, training=training)
        frames = self.input_dropout(frames, random_key=random_key, training=training)
        return tf.split(frames, self.spec.feature_sizes, axis=-1)

    def fuse(self, descriptors: list[tf.Tensor], random_key: tf.Tensor | None, training: bool) -> tf.Tensor:
        """Concatenates `descriptors` `(B, E)` float and maps them to the gated hidden layer, `(B, hidden_size)`.

        `random_key` `(B,)` int64 is each video's source of randomness, for dropout.
        """
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
