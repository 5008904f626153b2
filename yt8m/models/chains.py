"""Registered chains of classifiers over convolutions of frames: each prediction is a feature of the next."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from yt8m.arguments import check_at_least, check_fraction
from yt8m.layers.frame_cnn import FrameCNN
from yt8m.layers.layer_list import LayerList
from yt8m.layers.normalisation import l2_normalise
from yt8m.layers.pooling import masked_max, masked_mean
from yt8m.layers.recurrent import RecurrentStack
from yt8m.layers.supports import PredictionCode, chained_outputs
from yt8m.models.base import PreparedFramesModel, stream_sizes
from yt8m.registry import FRAME_LEVEL_MODELS
from yt8m.schema import DataSpec


class FrameChainModel(PreparedFramesModel):
    """Base class of chains over frames: one convolution and one classifier per step.

        f_l = L2(max_t FrameCNN_l(o)_t),   m = L2(relu(mean_t(x_t) V + b)),   s_l = L2(relu(p_l W_l + b_l))
        p_0 = classifier_0(f_0),   p_l = classifier_l([f_l, m, s_0, ..., s_(l-1)])
        p = p_L,   loss = (1 - w) BCE(p, y) + w sum_(l < L) BCE(p_l, y)

    o are the frames x, or what a subclass makes of them in `encode`.

    Args:
        spec: the features' names and sizes, and the number of classes.
        num_supports: the number of predictions before the last, L.
        code_size: the width of m and of each s_l, and the number of filters over a single frame.
        support_weight: w, in [0, 1].
        inherited: further keyword arguments, those of PreparedFramesModel.

    Raises:
        UserError: if a size is below 1, or `support_weight` is outside [0, 1].
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        num_supports: int = 4,
        code_size: int = 128,
        support_weight: float = 0.05,
        **inherited: Any,
    ):
        check_at_least(1, num_supports=num_supports, code_size=code_size)
        check_fraction(support_weight=support_weight)
        super().__init__(spec, **inherited)
        self.support_weight = support_weight
        cnns = (FrameCNN(code_size, dtype=self.dtype_policy) for _ in range(num_supports + 1))
        self.cnns = LayerList(self, "cnn", cnns)
        self.mean_code = keras.layers.Dense(code_size, activation="relu", dtype=self.dtype_policy)
        self.codes = LayerList(self, "code", (PredictionCode(code_size) for _ in range(num_supports)))
        supports = [self.make_classifier() for _ in range(num_supports)]
        self.classifiers = LayerList(self, "chained", [*supports, self.classifier])

    def encode(self, frames: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        """Maps prepared `frames` `(B, T, D)` float to what is convolved, o `(B, T, E)`; by default, the frames.

        `valid` `(B, T)` bool is the padding mask, True for real frames.
        """
        return frames

    def summarise(self, mean: tf.Tensor) -> tf.Tensor:
        """Maps the `mean` frame `(B, D)` float to what every step but the first sees of it, m `(B, code_size)`."""
        return l2_normalise(self.mean_code(mean))

    def pool(
        self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool
    ) -> list[tf.Tensor]:
        """Maps `frames` `(B, T, D)` to the features of every step but its codes: f_0, [f_1, m], ..., `(B, E)` each."""
        frames = self.prepare(frames, valid, random_key, training)
        encoded = self.encode(frames, valid)
        first, *others = (l2_normalise(masked_max(cnn(encoded), valid)) for cnn in self.cnns)
        mean = self.summarise(masked_mean(frames, valid))
        return [first, *(tf.concat([own, mean], axis=-1) for own in others)]

    def classify(
        self, vector: list[tf.Tensor], frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool
    ) -> dict[str, Any]:
        """Runs the chain over the `vector` `(B, E)` of each step.

        Returns `predictions` and `logits` `(B, C)`, `branch_logits` `(B, L, C)` and `branch_weights` `(1, 1 + L)`.
        """
        return chained_outputs(vector, self.classifiers, self.codes, self.support_weight, random_key, training)

    def start_at_prior(self, prior: np.ndarray) -> None:
        """Sets the bias of every step's classifier from `prior` `(C,)`, each class's frequency p in training."""
        for classifier in self.classifiers:
            classifier.start_at_prior(prior)


@FRAME_LEVEL_MODELS.register(loss="BranchCrossEntropyLoss")
class CnnChainModel(FrameChainModel):
    """A chain of classifiers over convolutions of the frames, the mean frame, and codes of all predictions before.

    As FrameChainModel, where the steps after the first see the mean frame itself beside its code:
    m = [mean_t(x_t), L2(relu(mean_t(x_t) V + b))].

    Args:
        spec: the features' names and sizes, and the number of classes.
        inherited: further keyword arguments, those of FrameChainModel.

    Source: Wang, Zhang & Wu 2017, "The monkeytyping solution to the YouTube-8M video understanding challenge";
    wangheda/youtube-8m, with 4 experts per class. There padding counts as 0 in the maximum.
    """

    def summarise(self, mean: tf.Tensor) -> tf.Tensor:
        """Maps the `mean` frame `(B, D)` float to itself and its code, `(B, D + code_size)`."""
        return tf.concat([mean, super().summarise(mean)], axis=-1)


@FRAME_LEVEL_MODELS.register(defaults={"num_supports": 3}, loss="BranchCrossEntropyLoss")
class LstmCnnChainModel(FrameChainModel):
    """A chain of classifiers over convolutions of the outputs of LSTMs, one LSTM per feature.

        o_t = [LSTM(L2(x_1))_t, LSTM(L2(x_2))_t, ...]

    and the rest as FrameChainModel.

    Args:
        spec: the features' names and sizes, and the number of classes.
        lstm_cells: the width of the LSTM of the widest feature; an eighth of it for others, at least 1.
        unit_frames: whether every feature of a frame is scaled to unit length, each on its own.
        inherited: further keyword arguments, those of FrameChainModel.

    Raises:
        UserError: if `lstm_cells` is below 1.

    Source: Wang, Zhang & Wu 2017, "The monkeytyping solution to the YouTube-8M video understanding challenge";
    wangheda/youtube-8m, with 4 experts per class; there the first step has twice as many filters over two frames, not
    over three.
    """

    def __init__(self, spec: DataSpec, *, lstm_cells: int = 1024, unit_frames: bool = True, **inherited: Any):
        check_at_least(1, lstm_cells=lstm_cells)
        super().__init__(spec, unit_frames=unit_frames, **inherited)
        sizes = stream_sizes(lstm_cells, 8, spec)
        self.lstms = LayerList(
            self, "lstm", (RecurrentStack("lstm", size, 1, dtype=self.dtype_policy) for size in sizes)
        )

    def normalise(self, frames: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        """Scales every feature of the `frames` `(B, T, D)` to unit length, unless `unit_frames` is False."""
        if not self.unit_frames:
            return frames
        return tf.concat([l2_normalise(stream) for stream in self._streams(frames)], axis=-1)

    def encode(self, frames: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        """Runs one LSTM per feature over `frames` `(B, T, D)` and concatenates their outputs, `(B, T, E)`."""
        streams = zip(self.lstms, self._streams(frames), strict=True)
        return tf.concat([lstm(stream, valid)[0] for lstm, stream in streams], axis=-1)

    def _streams(self, frames: tf.Tensor) -> list[tf.Tensor]:
        return tf.split(frames, self.spec.feature_sizes, axis=-1)
