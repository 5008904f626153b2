"""Multi-head self-attention over real frames; attention weights are held for a few rows of the batch at a time."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from yt8m.arguments import check_at_least, check_share
from yt8m.distribution import all_replica_sum
from yt8m.layers.normalisation import MaskedBatchNormalization, moving_rate
from yt8m.portability import is_portable

# Attention weights in memory at a time: 16 MB. Few enough to stay in a CPU's cache between a product and its softmax,
# enough to fill a GPU.
_WEIGHTS_AT_A_TIME = 1 << 22

Rows = tuple[tf.Tensor, ...]


def attend(queries: tf.Tensor, keys: tf.Tensor, values: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """Dot-product attention: averages the values of real frames, weighted by a softmax of query times key.

        o[b, h, i] = sum_j a[i, j] v[b, h, j],   a[i] = softmax_j(q[b, h, i] . k[b, h, j])   over j with valid[b, j]

    The weights a are computed a few rows at a time and once more for the gradient, so memory grows with T, not T^2. In
    a graph that is to be portable they are computed at once.

    Args:
        queries: q, `(B, H, T, W)` float, H heads of width W, already scaled.
        keys: k, `(B, H, T, W)` float.
        values: v, `(B, H, T, W)` float.
        valid: `(B, T)` bool, the padding mask: True for real frames.

    Returns:
        o, `(B, H, T, W)` of the dtype of `values`, 0 in a video without real frames. Computed in float32 under every
        dtype policy.

    Source: Vaswani et al. 2017, "Attention is all you need"; recomputation as in Rabe & Staats 2021, "Self-attention
    does not need O(n^2) memory".
    """
    shape = tf.shape(queries)
    rows = [tf.reshape(x, (shape[0] * shape[1], shape[2], queries.shape[3])) for x in (queries, keys, values)]
    is_real = tf.reshape(tf.tile(tf.expand_dims(valid, 1), (1, shape[1], 1)), (shape[0] * shape[1], shape[2]))
    return tf.reshape(_attend_rows(*rows, is_real), shape)


@tf.autograph.experimental.do_not_convert
@tf.custom_gradient
def _attend_rows(
    queries: tf.Tensor, keys: tf.Tensor, values: tf.Tensor, is_real: tf.Tensor
) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor | None, ...]]]:
    """`attend` for tensors `(B * H, T, W)`, with its gradient.

    With upstream gradients g and d_i = g_i . o_i, which equals sum_j a_ij g_i . v_j:

        to logits: z_ij = a_ij (g_i . v_j - d_i),   to q_i: sum_j z_ij k_j,   to k_j: sum_i z_ij q_i,
        to v_j: sum_i a_ij g_i
    """
    rows = (queries, keys, values, is_real)
    (outputs,) = _at_once(_blend, rows) if is_portable() else _in_chunks(_blend, rows, 1)

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
        to_rows = _in_chunks(_blend_gradient, (queries, keys, values, is_real, outputs, upstream), 3)
        return (*to_rows, None)

    return outputs, gradient


def _weights(queries: tf.Tensor, keys: tf.Tensor, is_real: tf.Tensor) -> tf.Tensor:
    # Padding is masked before the softmax: after it, the weights of all real frames might have underflowed. In a video
    # without real frames all logits are masked, and all weights are 0.
    bias = tf.expand_dims(tf.where(is_real, 0.0, -1e9), 1)
    weights = tf.nn.softmax(tf.matmul(queries, keys, transpose_b=True) + bias)
    has_frames = tf.reduce_any(is_real, axis=1, keepdims=True)
    return tf.where(tf.expand_dims(has_frames, 2), weights, 0.0)


def _blend(queries: tf.Tensor, keys: tf.Tensor, values: tf.Tensor, is_real: tf.Tensor) -> Rows:
    return (tf.matmul(_weights(queries, keys, is_real), values),)


def _blend_gradient(
    queries: tf.Tensor, keys: tf.Tensor, values: tf.Tensor, is_real: tf.Tensor, outputs: tf.Tensor, upstream: tf.Tensor
) -> Rows:
    weights = _weights(queries, keys, is_real)
    shared = tf.reduce_sum(upstream * outputs, axis=-1, keepdims=True)
    to_logits = weights * (tf.matmul(upstream, values, transpose_b=True) - shared)
    return (
        tf.matmul(to_logits, keys),
        tf.matmul(to_logits, queries, transpose_a=True),
        tf.matmul(weights, upstream, transpose_a=True),
    )


def _in_chunks(work: Callable[..., Rows], rows: Rows, num_results: int) -> Rows:
    """Applies `work` to slices of all `rows` `(N, ...)` along the first axis, in float32, and concatenates the results.

    `work` returns `num_results` tensors `(n, T, W)`, which are cast to the dtype of the first of the `rows`.
    """
    count, length = tf.unstack(tf.shape(rows[0])[:2])
    size = tf.maximum(_WEIGHTS_AT_A_TIME // tf.maximum(length * length, 1), 1)
    num_chunks = tf.maximum((count + size - 1) // size, 1)  # a batch of no videos is a chunk of no rows
    dtype = rows[0].dtype

    def step(index: tf.Tensor, *results: tf.TensorArray) -> tuple[Any, ...]:
        done = _at_once(work, tuple(row[index * size : (index + 1) * size] for row in rows))
        return index + 1, *(result.write(index, part) for result, part in zip(results, done, strict=True))

    arrays = [tf.TensorArray(dtype, num_chunks, infer_shape=False) for _ in range(num_results)]
    # One chunk at a time: several would be in memory together.
    loop = tf.while_loop(lambda index, *_: index < num_chunks, step, (0, *arrays), parallel_iterations=1)
    width = rows[0].shape[2]
    return tuple(tf.reshape(array.concat(), (count, length, width)) for array in loop[1:])


def _at_once(work: Callable[..., Rows], rows: Rows) -> Rows:
    """Applies `work` to `rows` in float32; the results have the dtype of the first of the `rows`."""
    done = work(*(tf.cast(row, tf.float32) if row.dtype.is_floating else row for row in rows))
    return tuple(tf.cast(part, rows[0].dtype) for part in done)


class LogitNormalization(keras.layers.Layer):
    """Batch normalisation of attention logits per head, reduced to what changes their softmax: one factor per head.

        z[b, h, i, j] = q[b, h, i] . k[b, h, j],   y = gamma_h (z - mean_h) / sqrt(variance_h + epsilon) + beta_h

    with mean and variance over all pairs (i, j) of real frames. Terms that are the same for all j cancel in the softmax
    over j, mean and beta included, so neither is kept. All that remains is one factor per head, applied to the queries:

        gamma_h / sqrt(variance_h + epsilon)

    The variance is computed without the logits. For n frames with means q' and k', centred q" and k":

        sum_ij (z_ij - q' . k')^2 = n sum_i (q"_i . k')^2 + n sum_j (q' . k"_j)^2 + sum_ij (q"_i . k"_j)^2

    where the last sum is the sum of the elementwise product of the matrices sum_i q"_i q"_i^T and sum_j k"_j k"_j^T.

    Args:
        momentum: the decay of the moving variance per step, in [0, 1); lower in the first steps, see `moving_rate`.
        epsilon: added to the variance.

    Raises:
        UserError: if `momentum` is outside [0, 1) or `epsilon` is below 0.

    Source: Kmiec, Bae & An 2018, "Learnable pooling methods for video classification": batch normalisation in place of
    the division by sqrt(W). Their code has a scale for every position of a key and counts padding in its moments.
    """

    def __init__(self, momentum: float = 0.999, epsilon: float = 1e-3, **kwargs: Any):
        super().__init__(autocast=False, **kwargs)
        check_share(momentum=momentum)
        check_at_least(0, epsilon=epsilon)
        self.momentum = momentum
        self.epsilon = epsilon

    def build(self, input_shape: Any) -> None:
        """Creates gamma and the moving variance, `(H,)` each, for queries of `input_shape` `(B, H, T, W)`."""
        shape, fixed = (input_shape[1],), {"trainable": False, "autocast": False, "aggregation": "mean"}
        self.gamma = self.add_weight(shape=shape, initializer="ones", autocast=False, name="gamma")
        self.moving_variance = self.add_weight(shape=shape, initializer="ones", name="moving_variance", **fixed)
        self.num_updates = self.add_weight(shape=(), initializer="zeros", name="num_updates", **fixed)

    def call(self, queries: tf.Tensor, keys: tf.Tensor, valid: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Multiplies `queries` `(B, H, T, W)` float by the factor of each head: the same shape and dtype.

        The variance of the batch, used in training, is that of `queries` and `keys` `(B, H, T, W)` float where the
        padding mask `valid` `(B, T)` bool is True.
        """
        variance = self.moving_variance.value
        if training:
            variance, count = _logit_variance(tf.cast(queries, tf.float32), tf.cast(keys, tf.float32), valid)
            rate = moving_rate(self.num_updates, count, self.momentum)
            self.moving_variance.assign_add(rate * (variance - self.moving_variance))
            self.num_updates.assign_add(tf.cast(count > 0.0, tf.float32))
        scale = self.gamma * tf.math.rsqrt(variance + self.epsilon)
        return queries * tf.cast(scale, queries.dtype)[:, tf.newaxis, tf.newaxis]


def _logit_variance(queries: tf.Tensor, keys: tf.Tensor, valid: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the variance `(H,)` of q . k over all pairs of real frames on all replicas, and the number of pairs."""
    is_real = tf.cast(valid, tf.float32)[:, tf.newaxis, :, tf.newaxis]
    num_frames = tf.reduce_sum(is_real, axis=(2, 3))
    query, from_query = _centred(queries, is_real, num_frames)
    key, from_key = _centred(keys, is_real, num_frames)
    means = tf.reduce_sum(query * key, axis=2)
    within = num_frames * (_quadratic(from_query, key) + _quadratic(from_key, query))
    within += tf.reduce_sum(from_query * from_key, axis=(2, 3))
    pairs = tf.square(num_frames)
    *sums, count = tf.unstack(all_replica_sum(tf.concat([tf.reduce_sum(pairs * means, 0), [tf.reduce_sum(pairs)]], 0)))
    mean = tf.stack(sums) / tf.maximum(count, 1.0)
    squares = all_replica_sum(tf.reduce_sum(within + pairs * tf.square(means - mean), axis=0))
    return squares / tf.maximum(count, 1.0), count


def _centred(rows: tf.Tensor, is_real: tf.Tensor, num_frames: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the means `(B, H, W)` of the real rows, and sum_t x x^T `(B, H, W, W)` of the centred rows x."""
    mean = tf.reduce_sum(rows * is_real, axis=2) / tf.maximum(num_frames, 1.0)[:, :, tf.newaxis]
    centred = (rows - mean[:, :, tf.newaxis, :]) * is_real
    return mean, tf.matmul(centred, centred, transpose_a=True)


def _quadratic(matrices: tf.Tensor, vectors: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(vectors * tf.linalg.matvec(matrices, vectors), axis=2)


def num_heads(width: int, head_size: int) -> int:
    """Returns the number of attention heads: the largest divisor h of `width` with width / h >= head_size, else 1.

    Raises:
        UserError: if `head_size` is below 1.
    """
    check_at_least(1, head_size=head_size)
    return max(heads for heads in range(1, max(1, width // head_size) + 1) if width % heads == 0)


class SelfAttention(keras.layers.Layer):
    """Multi-head self-attention: every frame attends to all frames of its video.

        [q_i, k_i, v_i] = x_i P,   o = concat over heads of attend(q / sqrt(W), k, v),   y_i = o_i O + b

    or, with batch normalisation in place of the division by sqrt(W),

        o = BN(concat over heads of attend(LogitNormalization(q, k), k, v))

    P has no bias: a bias of k would cancel in the softmax. BN starts with gamma = 0 and b = 0, so that a residual block
    x + y starts as the identity.

    Args:
        head_size: the least width of a head; the actual width is W = D / num_heads(D, head_size).
        add_batch_norm: whether to use the second form.

    Raises:
        UserError: if `head_size` is below 1.

    Source: Vaswani et al. 2017, "Attention is all you need"; with batch normalisation: Kmiec, Bae & An 2018, whose
    gamma starts at 1; gamma = 0 at the end of a residual branch: Goyal et al. 2017, "Accurate, large minibatch SGD".
    """

    def __init__(self, head_size: int, add_batch_norm: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        check_at_least(1, head_size=head_size)
        self.head_size = head_size
        policy = self.dtype_policy
        self.logit_norm = LogitNormalization(dtype=policy) if add_batch_norm else None
        self.output_norm = None
        if add_batch_norm:
            self.output_norm = MaskedBatchNormalization(gamma_initializer="zeros", dtype=policy)

    def build(self, input_shape: Any) -> None:
        """Creates the kernels P `(D, 3 D)` and O `(D, D)`, each `(D, D)` block Glorot-uniform, and a bias b `(D,)`."""
        size = input_shape[-1]
        self.num_heads = num_heads(size, self.head_size)
        glorot = keras.initializers.VarianceScaling(1.0, mode="fan_in", distribution="uniform")
        self.projection = self.add_weight(shape=(size, 3 * size), initializer=glorot, name="projection")
        self.output_map = keras.layers.Dense(size, dtype=self.dtype_policy)
        self.output_map.build(input_shape)
        if self.logit_norm is not None and self.output_norm is not None:
            self.logit_norm.build((None, self.num_heads, None, size // self.num_heads))
            self.output_norm.build(input_shape)

    def call(self, frames: tf.Tensor, valid: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Applies self-attention to `frames` `(B, T, D)` float: the same shape and dtype.

        `valid` `(B, T)` bool is the padding mask, True for real frames.
        """
        size, width = frames.shape[2], frames.shape[2] // self.num_heads
        count, length = tf.unstack(tf.shape(valid))
        mapped = tf.tensordot(frames, tf.convert_to_tensor(self.projection), axes=1)
        mapped = tf.reshape(mapped, (count, length, 3, self.num_heads, width))
        queries, keys, values = tf.unstack(tf.transpose(mapped, (2, 0, 3, 1, 4)))
        if self.logit_norm is None:
            queries *= tf.cast(width**-0.5, queries.dtype)
        else:
            queries = self.logit_norm(queries, keys, valid, training=training)
        blends = tf.transpose(attend(queries, keys, values, valid), (0, 2, 1, 3))
        blends = tf.reshape(blends, (count, length, size))
        if self.output_norm is not None:
            blends = self.output_norm(blends, valid=valid, training=training)
        return self.output_map(blends)
