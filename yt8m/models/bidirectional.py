"""Registered bidirectional recurrent models of the first place of 2018."""

from typing import Any

import tensorflow as tf

from yt8m.arguments import ArgumentError, check_at_least, check_share
from yt8m.layers.dropout import KeyedDropout
from yt8m.layers.recurrent import RecurrentStack, reverse_frames
from yt8m.models.base import PreparedFramesModel
from yt8m.registry import FRAME_LEVEL_MODELS, hyper_parameters
from yt8m.schema import DataSpec


@hyper_parameters(defaults={"classifier": "LogisticModel"})
class BidirectionalModel(PreparedFramesModel):
    """Base class: two layers read the frames, one in each direction, and a second layer reads the outputs of both.

        h_t = [forward(x)_t, backward(x)_t],   p = classifier(last state of second(h))

    Args:
        spec: the features' names and sizes, and the number of classes.
        cell: `lstm` or `gru`.
        units: the width of the second layer, and of both directions together: half of it each.
        dropout: the dropout rate of h, in [0, 1).
        inherited: further keyword arguments, those of PreparedFramesModel.

    Raises:
        UserError: if `units` is odd or below 2, or `dropout` is outside [0, 1).
    """

    def __init__(self, spec: DataSpec, cell: str, *, units: int = 1024, dropout: float = 0.0, **inherited: Any):
        check_at_least(2, units=units)
        if units % 2:
            raise ArgumentError(f"units={units}: expected an even number, half for each direction.")
        check_share(dropout=dropout)
        super().__init__(spec, **inherited)
        self.forward_layer = RecurrentStack(cell, units // 2, 1, dtype=self.dtype_policy)
        self.backward_layer = RecurrentStack(cell, units // 2, 1, dtype=self.dtype_policy)
        self.dropout = KeyedDropout(dropout, "both directions")
        self.second_layer = RecurrentStack(cell, units, 1, dtype=self.dtype_policy)

    def pool(self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool) -> tf.Tensor:
        """Maps `frames` `(B, T, D)` to the last state of the second layer, c of an LSTM or h of a GRU, `(B, units)`."""
        frames = self.prepare(frames, valid, random_key, training)
        forward, _ = self.forward_layer(frames, valid)
        backward, _ = self.backward_layer(reverse_frames(frames, valid), valid)
        both = tf.concat([forward, reverse_frames(backward, valid)], axis=-1)
        both = self.dropout(both, random_key=random_key, training=training)
        _, [states] = self.second_layer(both, valid)
        return states[-1]


@FRAME_LEVEL_MODELS.register()
class BiLstmModel(BidirectionalModel):
    """LSTMs in both directions, then a second LSTM, whose last cell state is classified.

    Args:
        spec: the features' names and sizes, and the number of classes.
        inherited: further keyword arguments, those of BidirectionalModel.

    Source: Skalic & Austin 2018, "Building a size constrained predictive model for video classification";
    miha-skalic/youtube8mchallenge.
    """

    def __init__(self, spec: DataSpec, **inherited: Any):
        super().__init__(spec, "lstm", **inherited)


@FRAME_LEVEL_MODELS.register()
class BiGruModel(BidirectionalModel):
    """GRUs in both directions, then a second GRU, whose last output is classified.

    Args:
        spec: the features' names and sizes, and the number of classes.
        inherited: further keyword arguments, those of BidirectionalModel.

    Source: Skalic & Austin 2018, "Building a size constrained predictive model for video classification";
    miha-skalic/youtube8mchallenge.
    """

    def __init__(self, spec: DataSpec, **inherited: Any):
        super().__init__(spec, "gru", **inherited)
