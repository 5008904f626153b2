"""What is done to the frames of a sequence before it is pooled, and pooling with fixed weights.

Padding, the frames after the end of a sequence, changes no result, whatever it holds, and comes out as 0.
"""

from collections.abc import Callable

import tensorflow as tf

# Bounds the slope of the square root: 1 / (2 sqrt(1e-6)) = 500.
_SMALLEST_ROOTED = 1e-6
# A frame shorter than its square root has no direction worth keeping.
_SMALLEST_SQUARED_LENGTH = 1e-24
_FRAMES_PER_BLOCK = 20


def is_frame(frames: tf.Tensor, num_frames: tf.Tensor | None) -> tf.Tensor:
    """Returns a `(B, T)` bool mask: the first `num_frames` of each sequence, or all of them for None."""
    batch, longest = tf.shape(frames)[0], tf.shape(frames)[1]
    if num_frames is None:
        return tf.ones([batch, longest], tf.bool)
    return tf.sequence_mask(num_frames, longest)


def running_mean(frames: tf.Tensor, num_frames: tf.Tensor | None = None) -> tf.Tensor:
    """Replaces every frame by the mean of all frames up to it.

        m_t = (v_1 + ... + v_t) / t

    Args:
        frames: `(B, T, D)` float.
        num_frames: `(B,)` int, or None where all T frames count.

    Returns:
        `(B, T, D)`, 0 after the end of a sequence.

    Source: Fernando et al. 2015 ("Modeling video evolution for action recognition"), time varying mean vectors.
    """
    weights = 1 / tf.range(1, tf.shape(frames)[1] + 1)
    weights = tf.where(is_frame(frames, num_frames), tf.cast(weights, frames.dtype), 0)
    return _running_sum(_zero_padded(frames, num_frames)) * weights[..., tf.newaxis]


def _running_sum(frames: tf.Tensor) -> tf.Tensor:
    """Sums over time, as products with triangles of ones: three times as fast on a CPU as `tf.cumsum`.

    Each block of frames is summed on its own, then the totals of all earlier blocks are added.
    """
    batch, longest, size = tf.unstack(tf.shape(frames))
    num_blocks = (longest + _FRAMES_PER_BLOCK - 1) // _FRAMES_PER_BLOCK
    padded = tf.pad(frames, [[0, 0], [0, num_blocks * _FRAMES_PER_BLOCK - longest], [0, 0]])
    blocks = tf.reshape(padded, [batch, num_blocks, _FRAMES_PER_BLOCK, size])
    triangle = tf.linalg.band_part(tf.ones([_FRAMES_PER_BLOCK, _FRAMES_PER_BLOCK], frames.dtype), -1, 0)
    within = tf.matmul(triangle, blocks)
    before = tf.cumsum(within[:, :, -1], axis=1, exclusive=True)
    return tf.reshape(within + before[:, :, tf.newaxis], tf.shape(padded))[:, :longest]


def reversed_frames(frames: tf.Tensor, num_frames: tf.Tensor | None = None) -> tf.Tensor:
    """Returns `(B, T, D)` frames in reverse order of time; padding stays at the end, as 0."""
    if num_frames is None:
        return tf.reverse(frames, axis=[1])
    lengths = tf.clip_by_value(tf.cast(num_frames, tf.int32), 0, tf.shape(frames)[1])
    return tf.reverse_sequence(_zero_padded(frames, lengths), lengths, seq_axis=1, batch_axis=0)


def forward_and_reverse(
    pool: Callable[[tf.Tensor, tf.Tensor | None], tf.Tensor], frames: tf.Tensor, num_frames: tf.Tensor | None = None
) -> tf.Tensor:
    """Pools a sequence in both directions of time.

    Args:
        pool: of frames `(B, T, D)` and their number, `(B, E)`; includes the running mean and whatever follows it,
            because it is the raw frames that are reversed.
        frames: `(B, T, D)`.
        num_frames: `(B,)` int or None.

    Returns:
        `(B, 2 E)`: forward, then reverse.

    Source: Fernando et al. 2015, forward and reverse rank pooling.
    """
    return tf.concat([pool(frames, num_frames), pool(reversed_frames(frames, num_frames), num_frames)], axis=-1)


@tf.custom_gradient
def signed_sqrt(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Returns sign(x) sqrt|x|, element by element.

    The true derivative 1 / (2 sqrt|x|) is infinite at 0, the most frequent value of rectified features. Here it is
    1 / (2 sqrt(max(|x|, 1e-6))), at most 500, and 0 at exactly 0: an absent feature has no gradient.

    Source: Perronnin et al. 2010 (power normalisation), as public rank pooling code applies it after the running mean.
    """

    def grad(upstream: tf.Tensor) -> tf.Tensor:
        slope = 0.5 * tf.math.rsqrt(tf.maximum(tf.abs(x), tf.constant(_SMALLEST_ROOTED, x.dtype)))
        return upstream * tf.where(x != 0, slope, 0)

    return tf.sign(x) * tf.sqrt(tf.abs(x)), grad


def unit_length(frames: tf.Tensor) -> tf.Tensor:
    """Divides each frame `(..., D)` by its Euclidean norm. A zero frame stays 0 and gets a zero gradient."""
    squared = tf.einsum("...d,...d->...", frames, frames)[..., tf.newaxis]
    has_length = squared > tf.constant(_SMALLEST_SQUARED_LENGTH, frames.dtype)
    scale = tf.where(has_length, tf.math.rsqrt(tf.where(has_length, squared, 1)), 0)
    return frames * scale


def approximate_rank_pool(
    frames: tf.Tensor, num_frames: tf.Tensor | None = None, *, includes_running_mean: bool = True
) -> tf.Tensor:
    """Rank pooling after one gradient step from 0: one fixed weight per frame, and no problem to solve.

        u = sum_t alpha_t v_t,   alpha_t = sum over i = t ... N of (2 i - N - 1) / i     with the running mean inside
                                 alpha_t = 2 t - N - 1                                   without it

    The first form equals 2 (N - t + 1) - (N + 1) (H_N - H_(t-1)) with harmonic numbers H, and equals the second form
    applied to `running_mean(frames)`. Both weights are 0 for a sequence of one frame; as in the authors' code, which
    differs from the paper there, such a sequence is its frame.

    Args:
        frames: `(B, T, D)` float.
        num_frames: `(B,)` int, N, or None where all T frames count.
        includes_running_mean: False where the frames are running means already, or are to be pooled as they are.

    Returns:
        `(B, D)` of the dtype of the frames, 0 for a sequence without frames.

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
    pooled = tf.linalg.matvec(tf.cast(_zero_padded(frames, num_frames), dtype), weights, transpose_a=True)
    return tf.cast(pooled, frames.dtype)


def _zero_padded(frames: tf.Tensor, num_frames: tf.Tensor | None) -> tf.Tensor:
    if num_frames is None:
        return frames
    return tf.where(is_frame(frames, num_frames)[..., tf.newaxis], frames, 0)
