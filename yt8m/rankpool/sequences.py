"""Preprocessing of the frames before rank pooling, and approximate rank pooling with fixed weights.

Padding, the frames after the first `num_frames` of a sequence, has no influence, whatever its values, and becomes 0.
"""

from collections.abc import Callable

import tensorflow as tf

from yt8m.portability import is_portable

# Bounds the slope of the square root: 1 / (2 sqrt(1e-6)) = 500.
_SMALLEST_ROOTED = 1e-6
# A frame shorter than its square root has no direction worth keeping.
_SMALLEST_SQUARED_LENGTH = 1e-24
_FRAMES_PER_BLOCK = 20


def is_frame(frames: tf.Tensor, num_frames: tf.Tensor | None) -> tf.Tensor:
    """Returns the padding mask `(B, T)` bool, True for the first `num_frames` frames of each sequence.

    Args:
        frames: `(B, T, D)` float, of which only the shape is used.
        num_frames: `(B,)` int; None for T.
    """
    batch, longest = tf.shape(frames)[0], tf.shape(frames)[1]
    if num_frames is None:
        return tf.ones([batch, longest], tf.bool)
    return tf.sequence_mask(num_frames, longest)


def running_mean(frames: tf.Tensor, num_frames: tf.Tensor | None = None) -> tf.Tensor:
    """Replaces every frame by the mean of all frames up to it.

        m_t = (v_1 + ... + v_t) / t

    Args:
        frames: `(B, T, D)` float.
        num_frames: `(B,)` int, the number of real frames; None for T.

    Returns:
        m, `(B, T, D)` of the dtype of the frames, 0 for padding.

    Source: Fernando et al. 2015 ("Modeling video evolution for action recognition"), time varying mean vectors.
    """
    dtype = tf.float64 if frames.dtype == tf.float64 else tf.float32
    weights = tf.cast(1 / tf.cast(tf.range(1, tf.shape(frames)[1] + 1), dtype), frames.dtype)
    # Of frames that are all the same the mean is that frame, to the last bit.
    first = frames[:, :1]
    later = _running_sum(_zero_padded(frames - first, num_frames)) * weights[tf.newaxis, :, tf.newaxis]
    return _zero_padded(first + later, num_frames)


def _running_sum(frames: tf.Tensor) -> tf.Tensor:
    """Returns the cumulative sum of `frames` `(B, T, D)` over time, `(B, T, D)`.

    Blocks of 20 frames are multiplied by a triangular matrix of ones, then the totals of all earlier blocks are added:
    three times as fast on a CPU as `tf.cumsum`.
    """
    batch, longest, size = tf.unstack(tf.shape(frames))
    num_blocks = (longest + _FRAMES_PER_BLOCK - 1) // _FRAMES_PER_BLOCK
    padded = tf.pad(frames, [[0, 0], [0, num_blocks * _FRAMES_PER_BLOCK - longest], [0, 0]])
    blocks = tf.reshape(padded, [batch, num_blocks, _FRAMES_PER_BLOCK, size])
    triangle = tf.linalg.band_part(tf.ones([_FRAMES_PER_BLOCK, _FRAMES_PER_BLOCK], frames.dtype), -1, 0)
    within = tf.matmul(triangle, blocks)
    before = tf.cumsum(within[:, :, -1], axis=1, exclusive=True)
    return tf.reshape(within + tf.expand_dims(before, 2), tf.shape(padded))[:, :longest]


def reversed_frames(frames: tf.Tensor, num_frames: tf.Tensor | None = None) -> tf.Tensor:
    """Reverses the order of the real frames of `frames` `(B, T, D)`: the same shape; padding stays at the end, as 0.

    `num_frames` `(B,)` int is the number of real frames; None for T.
    """
    if num_frames is None:
        return tf.reverse(frames, axis=[1])
    lengths = tf.clip_by_value(tf.cast(num_frames, tf.int32), 0, tf.shape(frames)[1])
    return tf.reverse_sequence(_zero_padded(frames, lengths), lengths, seq_axis=1, batch_axis=0)


def forward_and_reverse(
    pool: Callable[[tf.Tensor, tf.Tensor | None], tf.Tensor], frames: tf.Tensor, num_frames: tf.Tensor | None = None
) -> tf.Tensor:
    """Pools the frames in temporal and in reversed order and concatenates the results.

    Args:
        pool: a function from frames `(B, T, D)` and num_frames `(B,)` to `(B, E)`. It includes the running mean,
            because the raw frames are reversed.
        frames: `(B, T, D)` float.
        num_frames: `(B,)` int, the number of real frames; None for T.

    Returns:
        `(B, 2 E)` float: forward, then reverse.

    Source: Fernando et al. 2015, forward and reverse rank pooling.
    """
    return tf.concat([pool(frames, num_frames), pool(reversed_frames(frames, num_frames), num_frames)], axis=-1)


@tf.custom_gradient
def signed_sqrt(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Returns sign(x) sqrt|x| elementwise, for `x` float of any shape.

    The true derivative 1 / (2 sqrt|x|) is infinite at 0, the most frequent value of rectified features. The one used is
    1 / (2 sqrt(max(|x|, 1e-6))), at most 500, and 0 at exactly 0.

    Source: Perronnin et al. 2010 (power normalisation), as public rank pooling code applies it after the running mean.
    """

    def grad(upstream: tf.Tensor) -> tf.Tensor:
        slope = 0.5 * tf.math.rsqrt(tf.maximum(tf.abs(x), tf.constant(_SMALLEST_ROOTED, x.dtype)))
        return upstream * tf.where(x != 0, slope, 0)

    return tf.sign(x) * tf.sqrt(tf.abs(x)), grad


def unit_length(frames: tf.Tensor) -> tf.Tensor:
    """Divides each of the `frames` `(..., D)` float by its Euclidean norm; one shorter than 1e-12 becomes 0.

    A frame that becomes 0 has a zero gradient.
    """
    if is_portable():
        squared = tf.reduce_sum(tf.square(frames), axis=-1, keepdims=True)
    else:  # LiteRT has no einsum
        squared = tf.expand_dims(tf.einsum("...d,...d->...", frames, frames), -1)
    has_length = squared > tf.constant(_SMALLEST_SQUARED_LENGTH, frames.dtype)
    scale = tf.where(has_length, tf.math.rsqrt(tf.where(has_length, squared, 1)), 0)
    return frames * scale


def approximate_rank_pool(
    frames: tf.Tensor, num_frames: tf.Tensor | None = None, *, includes_running_mean: bool = True
) -> tf.Tensor:
    """Approximate rank pooling: a weighted sum of the frames with fixed weights, the first gradient step from u = 0.

        u = sum_t alpha_t v_t,   alpha_t = sum over i = t ... N of (2 i - N - 1) / i     with the running mean included
                                 alpha_t = 2 t - N - 1                                   without

    The first form equals 2 (N - t + 1) - (N + 1) (H_N - H_(t-1)) with harmonic numbers H, and equals the second form
    applied to `running_mean(frames)`. Both weights are 0 for N = 1; as in the authors' code, but not in the paper, the
    result is then the frame itself.

    Args:
        frames: v, `(B, T, D)` float.
        num_frames: N, `(B,)` int; None for N = T.
        includes_running_mean: whether to use the first form; False if the frames are running means already.

    Returns:
        u, `(B, D)` of the dtype of the frames, 0 for a sequence without frames.

    Source: Bilen et al. 2016, "Dynamic Image Networks for Action Recognition", and its released code.
    """
    dtype = tf.float64 if frames.dtype == tf.float64 else tf.float32
    counts = is_frame(frames, num_frames)
    lengths = tf.reduce_sum(tf.cast(counts, dtype), axis=1, keepdims=True)
    times = tf.cast(tf.range(1, tf.shape(frames)[1] + 1), dtype)[tf.newaxis, :]
    weights = 2 * times - lengths - 1
    if includes_running_mean:
        weights = tf.cumsum(tf.where(counts, weights / times, 0), axis=1, reverse=True)
    weights = tf.where(counts, tf.where(lengths != 1, weights, 1), 0)
    # The weights of more than one frame add up to 0: taken from the first frame on, a still sequence gives exactly 0.
    # Its rounding errors would be all that is left, and whatever normalises u would make them large.
    frames = _zero_padded(frames, num_frames)
    first = tf.where(tf.expand_dims(lengths, 2) != 1, frames[:, :1], 0)
    pooled = tf.linalg.matvec(tf.cast(frames - first, dtype), weights, transpose_a=True)
    return tf.cast(pooled, frames.dtype)


def _zero_padded(frames: tf.Tensor, num_frames: tf.Tensor | None) -> tf.Tensor:
    if num_frames is None:
        return frames
    return tf.where(tf.expand_dims(is_frame(frames, num_frames), 2), frames, 0)
