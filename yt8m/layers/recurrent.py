"""Stacks of LSTM or GRU layers over the real frames of each video."""

from typing import Any

import keras
import tensorflow as tf

from yt8m.arguments import check_at_least, check_share, choose
from yt8m.layers.dropout import KeyedDropout
from yt8m.layers.frames import pad_mask
from yt8m.layers.layer_list import LayerList
from yt8m.portability import is_portable

_CELLS = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU}


class RecurrentStack(keras.layers.Layer):
    """A stack of LSTM or GRU layers that stops at the last real frame of each video.

    Keras' layers are used: cuDNN on a GPU, one step at a time on a CPU. A graph that is to be portable has a loop of
    our own over Keras' cells, because the loop of Keras' layers keeps its outputs in a list of tensors.

    Args:
        cell: `lstm` or `gru`.
        units: the width of every layer.
        num_layers: the number of layers; each reads the outputs of the one before.
        dropout: the dropout rate between two layers, in [0, 1).

    Raises:
        UserError: if `cell` is neither, `units` or `num_layers` is below 1, or `dropout` is outside [0, 1).

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
        """Creates the weights of every layer for frames of width D; layers after the first read width `units`."""
        for layer in self.layers:
            layer.build(input_shape)
            input_shape = (*input_shape[:-1], layer.units)

    def call(
        self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None = None, training: bool = False
    ) -> tuple[tf.Tensor, list[list[tf.Tensor]]]:
        """Runs all layers over the real frames of each video.

        Args:
            frames: `(B, T, D)` float.
            valid: `(B, T)` bool, the padding mask: True for real frames, which come before all padding.
            random_key: `(B,)` int64, each video's source of randomness, for dropout.
            training: whether to drop.

        Returns:
            outputs: h of the top layer after every frame, `(B, T, units)`, 0 where padded.
            states: per layer the states after the last real frame of each video, `(B, units)` each: [h, c] of an LSTM,
                [h] of a GRU. A video without real frames has zeros.
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
            frames, *last = _step_by_step(layer, frames, is_read) if is_portable() else layer(frames, mask=is_read)
            states.append([tf.where(has_frames, state[: tf.shape(valid)[0]], 0) for state in last])
        outputs = frames[: tf.shape(valid)[0], : tf.shape(valid)[1]]
        return tf.where(tf.expand_dims(valid, 2), outputs, 0), states


def _at_least_one_frame(frames: tf.Tensor, valid: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Pads an empty batch to one video and one frame, and marks every first frame as real, as cuDNN needs."""
    missing = [[0, tf.cast(tf.equal(size, 0), tf.int32)] for size in tf.unstack(tf.shape(valid))]
    frames = tf.pad(frames, [*missing, [0, 0]])
    valid = pad_mask(valid, missing)
    return frames, valid | (tf.range(tf.shape(valid)[1]) == 0)


def _step_by_step(layer: keras.layers.RNN, frames: tf.Tensor, is_read: tf.Tensor) -> list[tf.Tensor]:
    """What a Keras layer returns for `frames` `(B, T, D)`, of which those count where `is_read` `(B, T)` is True."""
    times = tf.reshape(tf.range(tf.shape(frames)[1]), (1, -1, 1))

    def step(time: tf.Tensor, outputs: tf.Tensor, *states: tf.Tensor) -> tuple[tf.Tensor, ...]:
        _, after = layer.cell(tf.gather(frames, time, axis=1), states)
        is_real = tf.expand_dims(tf.gather(is_read, time, axis=1), 1)
        states = tuple(tf.where(is_real, new, old) for new, old in zip(after, states, strict=True))
        return time + 1, tf.where(times == time, tf.expand_dims(states[0], 1), outputs), *states

    before = [
        tf.zeros([tf.shape(frames)[0], layer.units], frames.dtype) for _ in tf.nest.flatten(layer.cell.state_size)
    ]
    outputs = tf.zeros([*tf.unstack(tf.shape(frames)[:2]), layer.units], frames.dtype)
    loop = tf.while_loop(lambda time, *_: time < tf.shape(frames)[1], step, (tf.constant(0), outputs, *before))
    return list(loop[1:])


def reverse_frames(frames: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """Reverses the order of the real frames of `frames` `(B, T, D)` float; padding stays at the end.

    `valid` `(B, T)` bool is the padding mask, True for real frames, which come before all padding. Returns the shape of
    `frames`.
    """
    return tf.reverse_sequence(frames, tf.reduce_sum(tf.cast(valid, tf.int32), axis=1), seq_axis=1)
