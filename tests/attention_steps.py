"""Attention layers as they are at evaluation, step by step from the oracles, and how tests compare with them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from layer_checks import LENGTHS, close, norm, pooled, true_frames

from yt8m.layers.attention import SelfAttention
from yt8m.layers.normalisation import LayerNormalization
from yt8m.layers.transformer import EncoderBlock, FeedForward, NormalisedAttention, NormalisedBlock

from oracles import attention as oracles
from oracles import vlad as oracles_vlad


def attention_by_frames(layer: SelfAttention, x: np.ndarray) -> np.ndarray:
    """A built SelfAttention as it is at evaluation, from its definition."""
    kernel, bias = (weight.numpy() for weight in layer.output_map.weights)
    if layer.logit_norm is None:
        scales = np.full(layer.num_heads, (x.shape[1] // layer.num_heads) ** -0.5)
    else:
        scales = layer.logit_norm.gamma.numpy() / np.sqrt(layer.logit_norm.moving_variance.numpy() + 1e-3)

    def middle(row: np.ndarray) -> np.ndarray:
        return row if layer.output_norm is None else norm(layer.output_norm, row)

    return oracles.self_attention(
        x, layer.projection.numpy(), scales, middle, lambda row: oracles_vlad.affine(row, kernel) + bias
    )


def layer_norm(layer: LayerNormalization, rows: np.ndarray) -> np.ndarray:
    normalised = [oracles.layer_norm(row, layer.gamma.numpy(), layer.beta.numpy()) for row in rows]
    return np.array(normalised).reshape(rows.shape)


def keras_dense(layer: Any, row: np.ndarray) -> np.ndarray:
    return oracles_vlad.affine(row, layer.kernel.numpy()) + layer.bias.numpy()


def feedforward(layer: FeedForward, rows: np.ndarray, activate: Any) -> np.ndarray:
    narrow = [keras_dense(layer.narrowing, activate(keras_dense(layer.widening, row))) for row in rows]
    return np.array(narrow).reshape(rows.shape)


def relu(row: np.ndarray) -> np.ndarray:
    return np.maximum(row, 0.0)


def encoder_block(block: EncoderBlock, x: np.ndarray, activate: Any) -> np.ndarray:
    x = x + attention_by_frames(block.attention, layer_norm(block.attention_norm, x))
    return x + feedforward(block.feedforward, layer_norm(block.feedforward_norm, x), activate)


def normalised_attention(layer: NormalisedAttention, x: np.ndarray) -> np.ndarray:
    return layer_norm(layer.norm, x + attention_by_frames(layer.attention, x))


def normalised_block(block: NormalisedBlock, x: np.ndarray) -> np.ndarray:
    seen = normalised_attention(block.attention, x)
    return layer_norm(block.norm, seen + feedforward(block.feedforward, seen, relu))


def check_frames(layer: Any, expected: Callable[[np.ndarray], np.ndarray], atol: float = 1e-4) -> None:
    """Compares a layer that maps frames to frames with its definition, on the frames that exist."""
    y = pooled(layer)
    assert np.all(np.isfinite(y))
    for video, length in enumerate(LENGTHS):
        close(y[video, :length], expected(true_frames(video)), atol)


def without_padding(layer: Any) -> Any:
    """Lets a layer that knows no padding be called like those that do."""

    class Called:
        weights = property(lambda _: layer.weights)

        def build(self, shape: Any) -> None:
            layer.build(shape)

        def __call__(self, frames: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
            return layer(frames)

    return Called()
