"""Recurrent networks over the true length of each video."""

from typing import Any

import keras
import tensorflow as tf

CELLS = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU}


class RecurrentStack(keras.layers.Layer):
    """A stack of recurrent layers that stops at the end of each video.

    Args:
        cell: `lstm` or `gru`.
        units: the width of every layer.
        num_layers: how many layers; each reads the outputs of the one before.

    Source: Hochreiter & Schmidhuber 1997 with forget gates biased to 1; Cho et al. 2014 with the reset gate behind the
    recurrent product, as cuDNN has it.
    """

    def __init__(self, cell: str, units: int, num_layers: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.layers = [
            CELLS[cell](units, return_sequences=True, return_state=True, dtype=self.dtype_policy)
            for _ in range(num_layers)
        ]

    def build(self, input_shape: Any) -> None:
        """Creates the weights of every layer."""
        for layer in self.layers:
            layer.build(input_shape)
            input_shape = (*input_shape[:-1], layer.units)

    def call(self, frames: tf.Tensor, valid: tf.Tensor, training: bool = False) -> list[list[tf.Tensor]]:
        """Reads `frames` `(B, T, D)` that exist where `valid` `(B, T)` is true.

        Returns:
            For each layer its states after the last true frame, `(B, units)` each: [h, c] of an LSTM, [h] of a GRU. A
            video without frames leaves zeros.
        """
        frames, valid = _at_least_one_frame(frames, valid)
        states = []
        for layer in self.layers:
            frames, *last = layer(frames, mask=valid)
            states.append(last)
        return states


def _at_least_one_frame(frames: tf.Tensor, valid: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Appends a masked frame to a batch that has none at all: the recurrence needs something to walk over."""
    missing = tf.cast(tf.equal(tf.shape(valid)[1], 0), tf.int32)
    return tf.pad(frames, [[0, 0], [0, missing], [0, 0]]), tf.pad(valid, [[0, 0], [0, missing]])


def reverse_frames(frames: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """Turns the frames of each video around and leaves its padding behind it."""
    return tf.reverse_sequence(frames, tf.reduce_sum(tf.cast(valid, tf.int32), axis=1), seq_axis=1)
