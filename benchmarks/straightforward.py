"""Pooling computed as its equations are written, with one residual per frame and cluster: what older code does.

The layers take the places of those of a registered model, whose other parts stay.
"""

from typing import Any

import keras
import tensorflow as tf

from yt8m.layers.attention import num_heads
from yt8m.layers.nextvlad import NeXtVLAD
from yt8m.layers.vlad import NetVLAD
from yt8m.models.attention import TransformerModel
from yt8m.models.nextvlad import NeXtVLADModel
from yt8m.models.vlad import NetVLADModelLF


def sum_of_residuals(shares: tf.Tensor, frames: tf.Tensor, centres: tf.Tensor) -> tf.Tensor:
    """Returns sum_t a[b, t, k] (x[b, t] - c_k) as `(B, K, D)`, by way of `(B, T, K, D)`."""
    tiled = tf.tile(frames[:, :, tf.newaxis, :], (1, 1, centres.shape[0], 1))
    return tf.einsum("btk,btkd->bkd", shares, tiled - centres)


class TiledNetVLAD(keras.layers.Layer):
    """NetVLAD."""

    def __init__(self, cluster_size: int):
        super().__init__()
        self.cluster_size = cluster_size

    def build(self, input_shape: Any) -> None:
        self.kernel = self.add_weight(shape=(input_shape[-1], self.cluster_size))
        self.centres = self.add_weight(shape=(self.cluster_size, input_shape[-1]))
        self.norm = keras.layers.BatchNormalization(epsilon=1e-3)
        self.norm.build((*input_shape[:-1], self.cluster_size))

    def call(self, frames: tf.Tensor, valid: tf.Tensor, training: bool = False) -> tf.Tensor:
        logits = self.norm(tf.einsum("btd,dk->btk", frames, self.kernel), training=training, mask=valid)
        shares = tf.nn.softmax(logits) * tf.cast(valid, tf.float32)[:, :, tf.newaxis]
        clusters = tf.math.l2_normalize(sum_of_residuals(shares, frames, self.centres), axis=2)
        size = self.cluster_size * frames.shape[2]
        return tf.math.l2_normalize(tf.reshape(clusters, (-1, size)), axis=1)


class TiledNeXtVLAD(keras.layers.Layer):
    """NeXtVLAD."""

    def __init__(self, cluster_size: int, groups: int, expansion: int):
        super().__init__()
        self.cluster_size, self.groups, self.expansion = cluster_size, groups, expansion

    def build(self, input_shape: Any) -> None:
        width = self.expansion * input_shape[-1]
        self.width = width // self.groups
        self.descriptor_size = self.cluster_size * self.width
        logits = self.groups * self.cluster_size
        shapes = {"widening": input_shape[-1:], "attention": (width,), "assignment": (width,)}
        for (name, shape), units in zip(shapes.items(), (width, self.groups, logits), strict=True):
            layer = keras.layers.Dense(units, use_bias=name != "assignment")
            setattr(self, name, layer)
            layer.build((*input_shape[:-1], *shape))
        self.centres = self.add_weight(shape=(self.cluster_size, self.width))
        self.norm, self.descriptor_norm = (keras.layers.BatchNormalization(epsilon=1e-3) for _ in range(2))
        self.norm.build((*input_shape[:-1], logits))
        self.descriptor_norm.build((None, self.descriptor_size))

    def call(self, frames: tf.Tensor, valid: tf.Tensor, training: bool = False) -> tf.Tensor:
        length = tf.shape(frames)[1]
        wide = self.widening(frames)
        attention = tf.sigmoid(self.attention(wide)) * tf.cast(valid, tf.float32)[:, :, tf.newaxis]
        logits = self.norm(self.assignment(wide), training=training, mask=valid)
        shares = tf.nn.softmax(tf.reshape(logits, (-1, length * self.groups, self.cluster_size)))
        shares *= tf.reshape(attention, (-1, length * self.groups, 1))
        members = tf.reshape(wide, (-1, length * self.groups, self.width))
        clusters = tf.math.l2_normalize(sum_of_residuals(shares, members, self.centres), axis=2)
        return self.descriptor_norm(tf.reshape(clusters, (-1, self.descriptor_size)), training=training)


class WholeSelfAttention(keras.layers.Layer):
    """Self-attention with all its weights in memory, for the gradient too."""

    def __init__(self, num_heads: int):
        super().__init__()
        self.num_heads = num_heads

    def build(self, input_shape: Any) -> None:
        size = input_shape[-1]
        self.projections = [self.add_weight(shape=(size, self.num_heads, size // self.num_heads)) for _ in range(3)]
        self.output_map = keras.layers.EinsumDense("bthw,hwd->btd", (None, size), bias_axes="d")
        self.output_map.build((*input_shape[:-1], self.num_heads, size // self.num_heads))

    def call(self, frames: tf.Tensor, valid: tf.Tensor, training: bool = False) -> tf.Tensor:
        queries, keys, values = (tf.einsum("btd,dhw->bthw", frames, kernel) for kernel in self.projections)
        logits = tf.einsum("bihw,bjhw->bhij", queries, keys) / (frames.shape[2] / self.num_heads) ** 0.5
        hidden = 1.0 - tf.cast(valid, tf.float32)[:, tf.newaxis, tf.newaxis, :]
        weights = tf.nn.softmax(logits + tf.tile(-1e9 * hidden, (1, self.num_heads, tf.shape(frames)[1], 1)))
        return self.output_map(tf.einsum("bhij,bjhw->bihw", weights, values))


def make_straightforward(model: Any) -> None:
    """Puts layers of this file in the places of those of a model that is not built yet.

    Raises:
        TypeError: if there are none for such a model.
    """
    if isinstance(model, NetVLADModelLF):
        _replace_pools(model, [TiledNetVLAD(pool.cluster_size) for pool in model.pools if isinstance(pool, NetVLAD)])
    elif isinstance(model, NeXtVLADModel):
        pools = [pool for pool in model.trunk.pools if isinstance(pool, NeXtVLAD)]
        _replace_pools(model.trunk, [TiledNeXtVLAD(pool.cluster_size, pool.groups, pool.expansion) for pool in pools])
    elif isinstance(model, TransformerModel):
        for encoder, width in zip(model.encoders, model.widths, strict=True):
            for block in encoder.blocks:
                block.attention = WholeSelfAttention(num_heads(width, block.attention.head_size))
                block.attention_norm, block.feedforward_norm = (keras.layers.LayerNormalization() for _ in range(2))
    else:
        raise TypeError(f"There is no straightforward {type(model).__name__}.")


def _replace_pools(owner: Any, pools: list[keras.layers.Layer]) -> None:
    owner.pools = pools
    for index, pool in enumerate(pools):
        setattr(owner, f"pool_{index}", pool)
