"""Recurrent networks over the true length of each video."""

from typing import Any

import keras
import tensorflow as tf

from yt8m.layers.dropout import KeyedDropout

_CELLS = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU}


class RecurrentStack(keras.layers.Layer):
    """A stack of recurrent layers that stops at the end of each video.

    Keras' layers do the walking: on a GPU through cuDNN, on a CPU step by step.

    Args:
        cell: `lstm` or `gru`.
        units: the width of every layer.
        num_layers: how many layers; each reads the outputs of the one before.
        dropout: the share of features to drop, in training, between two layers.

    Source: Hochreiter & Schmidhuber 1997 with forget gates biased to 1; Cho et al. 2014 with the reset gate behind the
    recurrent product, the form that cuDNN computes.
    """

    def __init__(self, cell: str, units: int, num_layers: int, dropout: float = 0.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.walks = [
            _CELLS[cell](units, return_sequences=True, return_state=True, dtype=self.dtype_policy)
            for _ in range(num_layers)
        ]
        for depth, walk in enumerate(self.walks):
            setattr(self, f"walk_{depth}", walk)  # a checkpoint finds attributes, not what is in lists

        self.dropouts = [KeyedDropout(dropout, f"recurrent layer {depth}") for depth in range(num_layers - 1)]

    def build(self, input_shape: Any) -> None:
        """Creates the weights of every layer."""
        for walk in self.walks:
            walk.build(input_shape)
            input_shape = (*input_shape[:-1], walk.units)

    def call(
        self, frames: tf.Tensor, valid: tf.Tensor, key: tf.Tensor | None = None, training: bool = False
    ) -> list[list[tf.Tensor]]:
        """Reads `frames` `(B, T, D)` that exist where `valid` `(B, T)` is true, and stand in front of padding.

        `key` `(B,)` int64 decides what is dropped.

        Returns:
            For each layer its states after the last frame of each video, `(B, units)` each: [h, c] of an LSTM, [h] of
            a GRU. A video without frames leaves zeros.
        """
        frames, walked = _something_to_walk(frames, valid)
        key = None if key is None else tf.pad(key, [[0, tf.shape(frames)[0] - tf.shape(key)[0]]])
        has_frames = tf.reduce_any(valid, axis=1, keepdims=True)
        states = []
        for depth, walk in enumerate(self.walks):
            if depth:
                frames = self.dropouts[depth - 1](frames, key=key, training=training)
            frames, *last = walk(frames, mask=walked)
            states.append([tf.where(has_frames, state[: tf.shape(valid)[0]], 0) for state in last])
        return states


def _something_to_walk(frames: tf.Tensor, valid: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Adds what the layers cannot do without: a video, a frame, and in every video a first frame (cuDNN needs it)."""
    missing = [[0, tf.cast(tf.equal(size, 0), tf.int32)] for size in tf.unstack(tf.shape(valid))]
    frames = tf.pad(frames, [*missing, [0, 0]])
    valid = tf.pad(valid, missing)
    return frames, valid | (tf.range(tf.shape(valid)[1]) == 0)


def reverse_frames(frames: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """Turns the frames of each video around and leaves its padding behind it."""
    return tf.reverse_sequence(frames, tf.reduce_sum(tf.cast(valid, tf.int32), axis=1), seq_axis=1)
