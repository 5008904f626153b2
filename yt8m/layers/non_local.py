"""Non-local VLAD: self-attention over the clusters of a video before they are scaled to unit length."""

import math
from typing import Any

import keras
import tensorflow as tf

from yt8m.arguments import check_at_least, check_positive
from yt8m.layers.pooling import frame_counts
from yt8m.layers.vlad import NetRVLAD, NetVLAD, unit_clusters

_NUM_FRAMES = 300.0  # of a training example of the published model


class NonLocalBlock(keras.layers.Layer):
    """Single-head self-attention over tokens, with a residual connection.

        y_k = v_k + sum_j softmax_j(s (v_k Q) . (v_j K))_j (v_j G) O

    Args:
        inner_size: the width of v Q, v K and v G.
        scale: the factor s of the logits.

    Raises:
        UserError: if `inner_size` is below 1, or `scale` is not above 0.

    Source: Wang et al. 2018, "Non-local neural networks", embedded Gaussian; 17Skye17/2nd-YouTube8M, without biases, so
    that a video without frames stays at 0. The light form of that code takes v K for v G; here they are two maps.
    """

    def __init__(self, inner_size: int, scale: float, **kwargs: Any):
        # In float32 under every policy: products of sums over hundreds of frames exceed float16.
        super().__init__(**{**kwargs, "dtype": "float32"})
        check_at_least(1, inner_size=inner_size)
        check_positive(scale=scale)
        self.inner_size = inner_size
        self.scale = scale

    def build(self, input_shape: Any) -> None:
        """Creates the kernels Q, K, G `(D, inner_size)` and O `(inner_size, D)`, normal with deviation rows^-1/2."""
        size, inner = input_shape[-1], self.inner_size
        self.query, self.key, self.value = (self._matrix(name, size, inner) for name in ("query", "key", "value"))
        self.output_map = self._matrix("output_map", inner, size)

    def _matrix(self, name: str, rows: int, columns: int) -> keras.Variable:
        normal = keras.initializers.RandomNormal(stddev=1.0 / math.sqrt(rows))
        return self.add_weight(shape=(rows, columns), initializer=normal, name=name)

    def call(self, tokens: tf.Tensor) -> tf.Tensor:
        """Returns `tokens` `(B, K, D)` float plus their self-attention, `(B, K, D)` float32."""
        query, key, value = (
            tf.tensordot(tokens, tf.convert_to_tensor(matrix), axes=1) for matrix in (self.query, self.key, self.value)
        )
        shares = tf.nn.softmax(self.scale * tf.matmul(query, key, transpose_b=True))
        blends = tf.matmul(shares, value)
        return tokens + tf.tensordot(blends, tf.convert_to_tensor(self.output_map), axes=1)


class NonLocalVLAD(keras.layers.Layer):
    """VLAD followed by self-attention over the clusters.

        V_k = (300 / T) sum_t a[t, k] (x_t - c_k)
        y   = NonLocalBlock(V), each cluster and then the whole scaled to unit length

    The logits of the block grow with the square of the number of real frames T, so the factor 300 / T scales V to the
    number of frames that the published model is trained with. The block has inner_size = K and s = 1 / K; in the light
    form, which sums frames instead of residuals, inner_size = D / 2 and s = 1 / sqrt(D).

    A cluster gets about 300 / K frames, so the logits grow as (300 / K)^2: near 1 with 64 clusters, in the thousands
    with 4, where the softmax is one-hot in float32, and Q and K get no gradient.

    Args:
        cluster_size: the number of clusters, K.
        add_batch_norm: whether the assignment logits are batch-normalised; if not, a bias is added.
        light: whether to use the light form described above.

    Raises:
        UserError: if `cluster_size` is below 1.

    Source: Tang et al. 2018, "Non-local NetVLAD encoding for video classification"; 17Skye17/2nd-YouTube8M, which
    divides by 64 whatever the number of clusters, 64 for images and 32 for sound in its best models.
    """

    def __init__(self, cluster_size: int, add_batch_norm: bool = True, light: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.light = light
        kind = NetRVLAD if light else NetVLAD
        self.vlad = kind(cluster_size, add_batch_norm, dtype=self.dtype_policy)

    def build(self, input_shape: Any) -> None:
        """Creates the weights of the VLAD, kernel `(D, K)` and centres `(K, D)`, and of NonLocalBlock."""
        clusters, size = self.vlad.cluster_size, input_shape[-1]
        inner, scale = (max(1, size // 2), size**-0.5) if self.light else (clusters, 1.0 / clusters)
        self.vlad.build(input_shape)
        self.block = NonLocalBlock(inner, scale)
        self.block.build((None, clusters, size))

    def call(self, frames: tf.Tensor, valid: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Pools `frames` `(B, T, D)` float to `(B, K D)` for K clusters.

        `valid` `(B, T)` bool is the padding mask, True for real frames.
        A video without real frames gives zeros.
        """
        sums = self.vlad.aggregate(self.vlad.assign(frames, valid, training), frames)
        scale = _NUM_FRAMES / frame_counts(valid)
        return unit_clusters(self.block(scale[:, tf.newaxis, tf.newaxis] * tf.cast(sums, tf.float32)))
