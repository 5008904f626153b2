"""Registered recurrent models: stacks of LSTM or GRU layers over the frames of a video."""

from typing import Any

import tensorflow as tf

from yt8m.arguments import check_at_least, check_share, choose
from yt8m.layers.recurrent import RecurrentStack, reverse_frames
from yt8m.models.base import PreparedFramesModel
from yt8m.registry import FRAME_LEVEL_MODELS, hyper_parameters
from yt8m.sampling import FrameSampling
from yt8m.schema import DataSpec


@hyper_parameters(flags={"iterations": "iterations"})
class RecurrentModel(PreparedFramesModel):
    """Base class of the recurrent models: a stack of layers over the frames in temporal, reversed or random order.

    Args:
        spec: the features' names and sizes, and the number of classes.
        cell: `lstm` or `gru`.
        units: the width of every layer.
        num_layers: the number of layers in the stack.
        random_sequence: whether to read frames in random order: `iterations` frames drawn with replacement in training,
            all frames at evaluation, in an order that depends on the video alone.
        backward: whether to read the frames in reversed order.
        iterations: the number of frames that `random_sequence` draws in training.
        dropout: the dropout rate between two layers, in [0, 1).
        inherited: further keyword arguments, those of PreparedFramesModel.

    Raises:
        UserError: if a size is too small, or a dropout rate is outside [0, 1).
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
        dropout: float = 0.0,
        **inherited: Any,
    ):
        check_at_least(1 if random_sequence else 0, iterations=iterations)
        check_share(dropout=dropout)
        super().__init__(spec, **inherited)
        self.training_sampling = FrameSampling("random", iterations) if random_sequence else None
        self.evaluation_sampling = FrameSampling("shuffled") if random_sequence else None
        self.backward = backward
        self.stack = RecurrentStack(cell, units, num_layers, dropout, dtype=self.dtype_policy)

    def frame_sampling(self, training: bool) -> FrameSampling | None:
        """Returns None for all frames in order or, for `random_sequence`, random draws or all frames shuffled."""
        return self.training_sampling if training else self.evaluation_sampling

    def read(
        self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool
    ) -> tuple[tf.Tensor, list[list[tf.Tensor]]]:
        """Runs the stack over `frames` `(B, T, D)` float, prepared and in the order that was asked for.

        `valid` `(B, T)` bool is the padding mask, True for real frames. `random_key` `(B,)` int64 is each video's
        source of randomness, for dropout. Returns the outputs of the top layer after every frame, `(B, T, units)`, and
        the last states of every layer, `(B, units)` each.
        """
        frames = self.prepare(frames, valid, random_key, training)
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
    """A stack of LSTM layers; the states after the last frame are classified.

    Args:
        spec: the features' names and sizes, and the number of classes.
        lstm_cells: the width of every layer.
        lstm_layers: the number of layers in the stack.
        state: the input of the classifier: `last_h`, the output h of the top layer; `all`, [c, h] of every layer.
        inherited: further keyword arguments, those of RecurrentModel.

    Raises:
        UserError: if another state is given, or `lstm_cells` or `lstm_layers` is below 1.

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
        """Runs the stack over `frames` `(B, T, D)` and returns the states chosen by `state`, `(B, E)`."""
        _, states = self.read(frames, valid, random_key, training)
        return self.summarise(states)


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
    """A stack of GRU layers; the outputs of all layers after the last frame are classified.

    Args:
        spec: the features' names and sizes, and the number of classes.
        gru_cells: the width of every layer.
        gru_layers: the number of layers in the stack.
        inherited: further keyword arguments, those of RecurrentModel.

    Raises:
        UserError: if `gru_cells` or `gru_layers` is below 1.

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
        """Maps `frames` `(B, T, D)` to the last outputs of all layers, `(B, gru_layers * gru_cells)`."""
        _, states = self.read(frames, valid, random_key, training)
        return tf.concat([h for (h,) in states], axis=-1)
