"""Registered recurrent models: stacks of LSTM and GRU layers that read a video frame by frame."""

from typing import Any

import tensorflow as tf

from yt8m.arguments import check_at_least, check_share, choose
from yt8m.layers.dropout import KeyedDropout
from yt8m.layers.normalisation import MaskedBatchNormalization
from yt8m.layers.recurrent import RecurrentStack, reverse_frames
from yt8m.models.base import FrameLevelModel
from yt8m.registry import FRAME_LEVEL_MODELS, hyper_parameters
from yt8m.sampling import FrameSampling
from yt8m.schema import DataSpec


@hyper_parameters(flags={"iterations": "iterations"})
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

    Raises:
        UserError: if a number is out of range.
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
        check_at_least(1 if random_sequence else 0, iterations=iterations)
        check_share(input_dropout=input_dropout, dropout=dropout)
        super().__init__(spec, **inherited)
        self.training_sampling = FrameSampling("random", iterations) if random_sequence else None
        self.evaluation_sampling = FrameSampling("shuffled") if random_sequence else None
        self.input_norm = MaskedBatchNormalization() if input_batch_norm else None
        self.input_dropout = KeyedDropout(input_dropout, "frames")
        self.backward = backward
        self.stack = RecurrentStack(cell, units, num_layers, dropout, dtype=self.dtype_policy)

    def frame_sampling(self, training: bool) -> FrameSampling | None:
        """All frames in order or, for a random sequence, draws in training and all frames shuffled at evaluation."""
        return self.training_sampling if training else self.evaluation_sampling

    def read(
        self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool
    ) -> list[list[tf.Tensor]]:
        """Reads `frames` `(B, T, D)` and returns the last states of every layer, `(B, units)` each."""
        if self.input_norm is not None:
            frames = self.input_norm(frames, valid=valid, training=training)
        frames = self.input_dropout(frames, random_key=random_key, training=training)
        if self.backward:
            frames = reverse_frames(frames, valid)
        return self.stack(frames, valid, random_key=random_key, training=training)


@FRAME_LEVEL_MODELS.register(
    flags={
        "lstm_cells": "lstm_cells",
        "lstm_layers": "lstm_layers",
        "lstm_random_sequence": "random_sequence",
        "lstm_backward": "backward",
    }
)
class LstmModel(RecurrentModel):
    """A stack of LSTM layers whose last state is classified.

    Args:
        spec: what the records hold.
        lstm_cells: the width of every layer.
        lstm_layers: how many.
        state: what is classified: `last_h`, the output of the top layer; `all`, [c, h] of every layer.
        inherited: see RecurrentModel.

    Raises:
        UserError: if there is no such state, no layer, or a layer has no width.

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
        check_at_least(1, lstm_cells=lstm_cells, lstm_layers=lstm_layers)
        super().__init__(spec, "lstm", lstm_cells, lstm_layers, **inherited)
        self.summarise = choose(LSTM_STATES, state=state)

    def pool(self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool) -> tf.Tensor:
        """Reads `frames` `(B, T, D)` and returns the chosen part of the last states, `(B, E)`."""
        return self.summarise(self.read(frames, valid, random_key, training))


def _top_output(states: list[list[tf.Tensor]]) -> tf.Tensor:
    return states[-1][0]


def _all_states(states: list[list[tf.Tensor]]) -> tf.Tensor:
    return tf.concat([part for h, c in states for part in (c, h)], axis=-1)


LSTM_STATES = {"last_h": _top_output, "all": _all_states}


@FRAME_LEVEL_MODELS.register(
    flags={
        "gru_cells": "gru_cells",
        "gru_layers": "gru_layers",
        "gru_random_sequence": "random_sequence",
        "gru_backward": "backward",
    }
)
class GruModel(RecurrentModel):
    """A stack of GRU layers; the last outputs of all layers are classified.

    Args:
        spec: what the records hold.
        gru_cells: the width of every layer.
        gru_layers: how many.
        inherited: see RecurrentModel.

    Raises:
        UserError: if there is no layer, or a layer has no width.

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
        check_at_least(1, gru_cells=gru_cells, gru_layers=gru_layers)
        super().__init__(spec, "gru", gru_cells, gru_layers, **inherited)

    def pool(self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool) -> tf.Tensor:
        """Reads `frames` `(B, T, D)` and returns the last outputs of all layers, `(B, gru_layers * gru_cells)`."""
        return tf.concat([h for (h,) in self.read(frames, valid, random_key, training)], axis=-1)
