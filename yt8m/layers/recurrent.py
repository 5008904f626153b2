"""Recurrent networks over the true length of each video."""

from typing import Any

import keras
import tensorflow as tf

from yt8m.arguments import check_at_least, check_share, choose
from yt8m.layers.dropout import KeyedDropout
from yt8m.layers.layer_list import LayerList

_CELLS = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU}


class RecurrentStack(keras.layers.Layer):
    """A stack of recurrent layers that stops at the end of each video.

    Keras' layers do the work: on a GPU through cuDNN, on a CPU step by step.

    Args:
        cell: `lstm` or `gru`.
        units: the width of every layer.
        num_layers: how many layers; each reads the outputs of the one before.
        dropout: the share of features to drop, in training, between two layers.

    Raises:
        UserError: if there is no such cell or no layer, a layer has no width, or the share is not in [0, 1).

    Source: Hochreiter & Schmidhuber 1997 with forget gates biased to 1; Cho et al. 2014 with the reset gate after the
    recurrent product, the form that cuDNN computes.
    """

    def __init__(self, cell: str, units: int, num_layers: int, dropout: float = 0.0, **kwargs: Any):
        super().__init__(**kwargs)
        check_at_least(1, units=units, num_layers=num_layers)
        check_share(dropout=dropout)
        make_layer = choose(_CELLS, cell=cell)
        options = {"return_sequences": True, "return_state": True, "dtype": self.dtype_policy}
        # Their name in checkpoints is older than that of the attribute.
        self.layers = LayerList(self, "walk", (make_layer(units, **options) for _ in range(num_layers)))
        self.dropouts = [KeyedDropout(dropout, f"recurrent layer {depth}") for depth in range(num_layers - 1)]

    def build(self, input_shape: Any) -> None:
        """Creates the weights of every layer."""
        for layer in self.layers:
            layer.build(input_shape)
            input_shape = (*input_shape[:-1], layer.units)

    def call(
        self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None = None, training: bool = False
    ) -> list[list[tf.Tensor]]:
        """Reads `frames` `(B, T, D)` that exist where `valid` `(B, T)` is true; padding follows them.

        `random_key` `(B,)` int64 decides what is dropped.

        Returns:
            For each layer its states after the last frame of each video, `(B, units)` each: [h, c] of an LSTM, [h] of
            a GRU. A video without frames leaves zeros.
        """
        frames, is_read = _at_least_one_frame(frames, valid)
        random_key = (
            None if random_key is None else tf.pad(random_key, [[0, tf.shape(frames)[0] - tf.shape(random_key)[0]]])
        )
        has_frames = tf.reduce_any(valid, axis=1, keepdims=True)
        states = []
        for depth, layer in enumerate(self.layers):
            if depth:
                frames = self.dropouts[depth - 1](frames, random_key=random_key, training=training)
            frames, *last = layer(frames, mask=is_read)
            states.append([tf.where(has_frames, state[: tf.shape(valid)[0]], 0) for state in last])
        return states


def _at_least_one_frame(frames: tf.Tensor, valid: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Adds what Keras' layers need: a video, a frame, and a first frame in every video (for cuDNN)."""
    missing = [[0, tf.cast(tf.equal(size, 0), tf.int32)] for size in tf.unstack(tf.shape(valid))]
    frames = tf.pad(frames, [*missing, [0, 0]])
    valid = tf.pad(valid, missing)
    return frames, valid | (tf.range(tf.shape(valid)[1]) == 0)


def reverse_frames(frames: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """Reverses the frames of each video and leaves its padding at the end."""
    return tf.reverse_sequence(frames, tf.reduce_sum(tf.cast(valid, tf.int32), axis=1), seq_axis=1)
