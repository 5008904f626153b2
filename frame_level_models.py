"""The door to the registered models over frames; here those of the starter and the recurrent ones."""

from typing import Any

import tensorflow as tf

from yt8m.errors import UserError, choose
from yt8m.frame_level import FrameLevelModel, SampledModel
from yt8m.layers.dbof import ACTIVATIONS, DeepBagOfFrames
from yt8m.layers.dense import NormalisedDense
from yt8m.layers.dropout import KeyedDropout
from yt8m.layers.normalisation import MaskedBatchNormalization
from yt8m.layers.pooling import masked_mean
from yt8m.layers.recurrent import RecurrentStack, reverse_frames
from yt8m.registry import FRAME_LEVEL_MODELS
from yt8m.sampling import FrameSampling
from yt8m.schema import DataSpec

import attention_models  # noqa: F401  registers its models
import attention_vlad_models  # noqa: F401  registers its models
import bag_models  # noqa: F401  registers its models
import nextvlad_models  # noqa: F401  registers its models
import rankpool_models  # noqa: F401  registers its models
import video_level_models  # noqa: F401  registers the classifiers
import vlad_models  # noqa: F401  registers its models


@FRAME_LEVEL_MODELS.register()
class FrameLevelLogisticModel(FrameLevelModel):
    """Logistic regression on the mean frame.

        p = sigmoid(mean_t(x_t) W + b)

    Args:
        spec: what the records hold.
        l2_penalty: lambda in lambda / 2 * sum w^2 over W.

    Source: google/youtube-8m, FrameLevelLogisticModel.
    """

    def __init__(self, spec: DataSpec, *, l2_penalty: float = 1e-8, **kwargs: Any):
        super().__init__(spec, "LogisticModel", {"l2_penalty": l2_penalty}, **kwargs)

    def pool(self, frames: tf.Tensor, valid: tf.Tensor, key: tf.Tensor | None, training: bool) -> tf.Tensor:
        """Averages over the frames of each video."""
        return masked_mean(frames, valid)


@FRAME_LEVEL_MODELS.register()
class DbofModel(SampledModel):
    """Deep bag of frames: project every frame, pool over time, project again, classify.

        h = g(BN(pool_t f(BN(BN(x_t) W)) H)),   p = classifier(h)

    In training it sees a few random frames of a video, at evaluation all of them.

    Args:
        spec: what the records hold.
        iterations: as in SampledModel.
        sampling: as in SampledModel.
        add_batch_norm: whether to normalise the input and both projections; if not, the projections have biases.
        cluster_size: the width of the first projection, W.
        hidden_size: the width of the second projection, H.
        pooling_method: `max` or `average` over frames.
        activation: f, `sigmoid` or `relu6`.
        hidden_activation: g, one of the same; None for f.
        input_dropout: the share of their features to drop in training.
        inherited: see SampledModel.

    Source: Abu-El-Haija et al. 2016, "YouTube-8M"; google/youtube-8m, DbofModel. Unlike the latter it draws no frames
    at evaluation.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        iterations: int = 30,
        sampling: str = "random",
        add_batch_norm: bool = True,
        cluster_size: int = 8192,
        hidden_size: int = 1024,
        pooling_method: str = "max",
        activation: str = "sigmoid",
        hidden_activation: str | None = None,
        input_dropout: float = 0.0,
        **inherited: Any,
    ):
        super().__init__(spec, iterations=iterations, sampling=sampling, **inherited)
        self.input_dropout = KeyedDropout(input_dropout, "frames")
        self.bag = DeepBagOfFrames(
            cluster_size, pooling_method, activation, add_batch_norm=add_batch_norm, dtype=self.dtype_policy
        )
        self.hidden = NormalisedDense(hidden_size, add_batch_norm=add_batch_norm, dtype=self.dtype_policy)
        self.activate = choose(ACTIVATIONS, hidden_activation or activation, "activation")

    def pool(self, frames: tf.Tensor, valid: tf.Tensor, key: tf.Tensor | None, training: bool) -> tf.Tensor:
        """Bag of frames, then a hidden layer."""
        frames = self.input_dropout(frames, key=key, training=training)
        bag = self.bag(frames, valid, training=training)
        return self.activate(self.hidden(bag, training=training))


class RecurrentModel(FrameLevelModel):
    """What the recurrent models share: a stack that reads the frames, in time, backwards or as a shuffled bag.

    Args:
        spec: what the records hold.
        cell: `lstm` or `gru`.
        units: the width of every layer.
        num_layers: how many.
        random_sequence: whether to read frames in random order: `iterations` draws in training, all at evaluation, in
            an order that is the video's own.
        backward: whether to read from the end.
        iterations: how many frames `random_sequence` draws.
        input_batch_norm: whether their features are normalised by the moments of all frames that exist.
        input_dropout: the share of their features to drop in training.
        dropout: the share of features to drop between two layers.
        inherited: see FrameLevelModel.
    """

    def __init__(
        self,
        spec: DataSpec,
        cell: str,
        units: int,
        num_layers: int,
        *,
        random_sequence: bool = False,
        backward: bool = False,
        iterations: int = 30,
        input_batch_norm: bool = False,
        input_dropout: float = 0.0,
        dropout: float = 0.0,
        **inherited: Any,
    ):
        super().__init__(spec, **inherited)
        if num_layers < 1 or units < 1:
            raise UserError(f"{cell}_layers={num_layers}, {cell}_cells={units}: expected at least 1 of each.")
        self.training_sampling = FrameSampling("random", iterations) if random_sequence else None
        self.evaluation_sampling = FrameSampling("shuffled") if random_sequence else None
        self.input_norm = MaskedBatchNormalization() if input_batch_norm else None
        self.input_dropout = KeyedDropout(input_dropout, "frames")
        self.backward = backward
        self.stack = RecurrentStack(cell, units, num_layers, dropout, dtype=self.dtype_policy)

    def frame_sampling(self, training: bool) -> FrameSampling | None:
        """All frames in order or, for a random sequence, draws in training and a shuffle at evaluation."""
        return self.training_sampling if training else self.evaluation_sampling

    def read(self, frames: tf.Tensor, valid: tf.Tensor, key: tf.Tensor | None, training: bool) -> list[list[tf.Tensor]]:
        """Returns the last states of every layer."""
        if self.input_norm is not None:
            frames = self.input_norm(frames, valid=valid, training=training)
        frames = self.input_dropout(frames, key=key, training=training)
        if self.backward:
            frames = reverse_frames(frames, valid)
        return self.stack(frames, valid, key=key, training=training)


@FRAME_LEVEL_MODELS.register()
class LstmModel(RecurrentModel):
    """A stack of LSTM layers whose last state is classified.

    Args:
        spec: what the records hold.
        lstm_cells: the width of every layer.
        lstm_layers: how many.
        state: what the classifier sees: `last_h`, the output of the top layer; `all`, [c, h] of every layer.
        inherited: see RecurrentModel.

    Raises:
        UserError: if `state` is neither.

    Source: google/youtube-8m, LstmModel (`last_h`); antoine77340/Youtube-8M-WILLOW, LstmModel (`all`).
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        lstm_cells: int = 1024,
        lstm_layers: int = 2,
        state: str = "last_h",
        **inherited: Any,
    ):
        super().__init__(spec, "lstm", lstm_cells, lstm_layers, **inherited)
        self.summarise = choose(LSTM_STATES, state, "LSTM state")

    def pool(self, frames: tf.Tensor, valid: tf.Tensor, key: tf.Tensor | None, training: bool) -> tf.Tensor:
        """Reads the video and returns the chosen part of the state."""
        return self.summarise(self.read(frames, valid, key, training))


def _top_output(states: list[list[tf.Tensor]]) -> tf.Tensor:
    return states[-1][0]


def _all_states(states: list[list[tf.Tensor]]) -> tf.Tensor:
    return tf.concat([part for h, c in states for part in (c, h)], axis=-1)


LSTM_STATES = {"last_h": _top_output, "all": _all_states}


@FRAME_LEVEL_MODELS.register()
class GruModel(RecurrentModel):
    """A stack of GRU layers; the last outputs of all layers are classified.

    Args:
        spec: what the records hold.
        gru_cells: the width of every layer.
        gru_layers: how many.
        inherited: see RecurrentModel.

    Source: antoine77340/Youtube-8M-WILLOW, GruModel.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        gru_cells: int = 1024,
        gru_layers: int = 2,
        **inherited: Any,
    ):
        super().__init__(spec, "gru", gru_cells, gru_layers, **inherited)

    def pool(self, frames: tf.Tensor, valid: tf.Tensor, key: tf.Tensor | None, training: bool) -> tf.Tensor:
        """Reads the video and returns the last outputs of all layers."""
        return tf.concat([h for (h,) in self.read(frames, valid, key, training)], axis=-1)
