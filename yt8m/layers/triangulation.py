"""Sums over frames of the unit vectors from cluster centres c_k to frames x_t, without a tensor of `(B, T, K, D)`.

A direction is such a unit vector, (x_t - c_k) / d[t, k] with d[t, k] = |x_t - c_k|. The sums are products of matrices:

    sum_t a[t, k] (x_t - c_k) / d[t, k] = sum_t b[t, k] x_t - (sum_t b[t, k]) c_k
    sum_t a[t, k] (x_t - c_k) (x_t - c_k)^T / d[t, k]^2
        = sum_t e[t, k] x_t x_t^T - s_k c_k^T - c_k s_k^T + m_k c_k c_k^T

where b = a / d, e = a / d^2, s_k = sum_t e[t, k] x_t and m_k = sum_t e[t, k]. Moments over all real frames of a batch
are the same sums, with a = 1 and the batch as one long video.
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from yt8m.arguments import ArgumentError, check_one_of, check_share
from yt8m.distribution import all_replica_sum
from yt8m.layers.assignment import weighted_sums
from yt8m.layers.normalisation import moving_rate

WHITENINGS = ("diagonal", "full", "none")

_SMALLEST_SQUARE = 1e-8  # float32 cannot resolve the direction of a frame nearer to a centre than 1e-4
_RIDGE = 1e-3  # of the mean variance of a direction's features, 1 / D: added before anything is divided by it
_LARGEST_FULL = 256  # "full" writes D^2 numbers per frame


def squared_distances(frames: tf.Tensor, centres: tf.Tensor) -> tf.Tensor:
    """Returns max(1e-8, |frames[b, t] - centres[k]|^2) `(B, T, K)` of `frames` `(B, T, D)` and `centres` `(K, D)`."""
    products = tf.tensordot(frames, centres, axes=((2,), (1,)))
    squares = tf.reduce_sum(tf.square(frames), axis=2, keepdims=True) + tf.reduce_sum(tf.square(centres), axis=1)
    return tf.maximum(squares - 2.0 * products, _SMALLEST_SQUARE)


def direction_sums(weights: tf.Tensor, frames: tf.Tensor, centres: tf.Tensor, squares: tf.Tensor) -> tf.Tensor:
    """Weighted sum over time of the directions (unit vectors) from every centre to the frames.

        S_k = sum_t a[t, k] (x_t - c_k) / |x_t - c_k|

    Args:
        weights: a, `(B, T, K)` float, 0 for padding.
        frames: x, `(B, T, D)` float.
        centres: c, `(K, D)` float.
        squares: `(B, T, K)` float, `squared_distances(frames, centres)`.

    Returns:
        S, `(B, K, D)` float.
    """
    scaled = weights * tf.math.rsqrt(squares)
    return weighted_sums(scaled, frames) - tf.reduce_sum(scaled, axis=1)[:, :, tf.newaxis] * centres


def direction_product_sums(weights: tf.Tensor, frames: tf.Tensor, centres: tf.Tensor, squares: tf.Tensor) -> tf.Tensor:
    """Weighted sum over time of the outer products of the directions with themselves.

        G_k = sum_t a[t, k] (x_t - c_k) (x_t - c_k)^T / |x_t - c_k|^2

    Args:
        weights: a, `(B, T, K)` float, 0 for padding.
        frames: x, `(B, T, D)` float; the outer products of x take `(B, T, D, D)` in memory.
        centres: c, `(K, D)` float.
        squares: `(B, T, K)` float, `squared_distances(frames, centres)`.

    Returns:
        G, `(B, K, D, D)` float.
    """
    size = frames.shape[2]
    scaled = weights / squares
    pairs = tf.expand_dims(frames, 3) * tf.expand_dims(frames, 2)
    pairs = tf.reshape(pairs, (tf.shape(frames)[0], tf.shape(frames)[1], size * size))
    sums = weighted_sums(scaled, pairs)
    sums = tf.reshape(sums, (tf.shape(frames)[0], centres.shape[0], size, size))
    mixed = weighted_sums(scaled, frames)[:, :, :, tf.newaxis] * centres[:, tf.newaxis, :]
    mass = tf.reduce_sum(scaled, axis=1)[:, :, tf.newaxis, tf.newaxis]
    own = centres[:, :, tf.newaxis] * centres[:, tf.newaxis, :]
    return sums - mixed - tf.linalg.matrix_transpose(mixed) + mass * own


class MovingMean(keras.layers.Layer):
    """Moving average of a statistic over batches, at the rate of `moving_rate`, starting from 0.

    Args:
        shape: the shape of the statistic.
        momentum: the decay of the average per step, in [0, 1); lower in the first steps.

    Raises:
        UserError: if `momentum` is outside [0, 1).
    """

    def __init__(self, shape: tuple[int, ...], momentum: float = 0.999, **kwargs: Any):
        super().__init__(**{**kwargs, "dtype": "float32"})
        check_share(momentum=momentum)
        self.momentum = momentum
        self.mean = self._scalar_or_more(shape, "moving_mean")
        self.num_updates = self._scalar_or_more((), "num_updates")

    def _scalar_or_more(self, shape: tuple[int, ...], name: str) -> keras.Variable:
        return self.add_weight(shape=shape, initializer="zeros", trainable=False, aggregation="mean", name=name)

    def follow(self, value: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        """Updates the average and returns `value`, through which gradients flow; the average has none.

        Args:
            value: the statistic of a batch, float of the shape of the average.
            count: scalar float32, the real frames of the batch; 0 leaves the average as it is.
        """
        rate = moving_rate(self.num_updates, count, self.momentum)
        self.mean.assign_add(rate * (tf.stop_gradient(value) - self.mean))
        self.num_updates.assign_add(tf.cast(count > 0.0, tf.float32))
        return value


class AllFrames:
    """The frames of a batch as one long video, for moments of the directions from centres to real frames.

    Args:
        frames: `(B, T, D)` float.
        valid: `(B, T)` bool, the padding mask: True for real frames.
        centres: `(K, D)` float.
        squares: `(B, T, K)` float, `squared_distances(frames, centres)`.
    """

    def __init__(self, frames: tf.Tensor, valid: tf.Tensor, centres: tf.Tensor, squares: tf.Tensor):
        ones = tf.where(tf.expand_dims(valid, 2), tf.ones_like(squares), 0.0)
        self.arguments = (*map(_as_one_video, (ones, frames)), centres, _as_one_video(squares))
        self.count = all_replica_sum(tf.reduce_sum(tf.cast(valid, tf.float32)))

    def mean(self, sums: Callable[..., tf.Tensor]) -> tf.Tensor:
        """Returns the mean over the real frames of all replicas, `(K, ...)` float.

        Args:
            sums: a function like `direction_sums`, `(weights, frames, centres, squares) -> (1, K, ...)`.
        """
        return all_replica_sum(sums(*self.arguments)[0]) / tf.maximum(self.count, 1.0)


def _as_one_video(x: tf.Tensor) -> tf.Tensor:
    return tf.reshape(x, (1, tf.shape(x)[0] * tf.shape(x)[1], x.shape[2]))


class DirectionWhitening(keras.layers.Layer):
    """Whitens weighted sums of directions per cluster, by the mean and covariance of the directions.

        diagonal:  y_k = (S_k - m_k mu_k) / sqrt(variance_k + ridge)
        full:      y_k = L_k^-1 (S_k - m_k mu_k),   L_k L_k^T = covariance_k + ridge I
        none:      y_k = S_k

    S_k is a sum of directions with total weight m_k; mu_k, variance_k and covariance_k are the moments of the single
    directions from centre k to all real frames on all replicas; ridge = 1e-3 / D. In training `diagonal` uses the
    moments of the batch; otherwise moving moments are used. `full` always uses moving ones, without a gradient, because
    a batch rarely has enough frames for a covariance. L^-1 equals covariance^-1/2 up to a rotation per cluster, which
    changes neither norms nor what a following linear layer can compute.

    Args:
        whitening: `diagonal`, `full` or `none`.

    Raises:
        UserError: if `whitening` is none of the three; when the layer is built, if `full` is asked for D > 256.

    Source: Jegou & Zisserman 2014, "Triangulation embedding" (one covariance over all clusters, from a training set);
    Kmiec, Bae & An 2018, whose code normalises by the batch, feature by feature.
    """

    def __init__(self, whitening: str = "diagonal", **kwargs: Any):
        super().__init__(**{**kwargs, "dtype": "float32"})
        check_one_of(WHITENINGS, whitening=whitening)
        self.kind = whitening

    def build(self, input_shape: Any) -> None:
        """Creates the moving moments for sums of `input_shape` `(B, K, D)`: `(K, D)`, and `(K, D, D)` for `full`.

        Raises:
            UserError: if `full` is asked for D > 256.
        """
        count, size = input_shape[1:]
        self.ridge = _RIDGE / size
        if self.kind == "full" and size > _LARGEST_FULL:
            raise ArgumentError(
                f"whitening=full: of {size} features it would write {size * size} numbers per frame. "
                f"It takes {_LARGEST_FULL} features at most: choose diagonal."
            )
        if self.kind != "none":
            self.mean = MovingMean((count, size))
            self.second = MovingMean((count, size, size) if self.kind == "full" else (count, size))

    def call(self, sums: tf.Tensor, mass: tf.Tensor, all_frames: AllFrames | None = None) -> tf.Tensor:
        """Whitens sums of directions.

        Args:
            sums: S, `(B, K, D)` float32.
            mass: m, `(B, K)` float32, the sums of the weights.
            all_frames: the frames of the batch, in training; None at evaluation.

        Returns:
            y, `(B, K, D)` float32.
        """
        if self.kind == "none":
            return sums
        if self.kind == "full":
            return self._fully(sums, mass, all_frames)
        mean, second = tf.convert_to_tensor(self.mean.mean), tf.convert_to_tensor(self.second.mean)
        if all_frames is not None:
            mean = self.mean.follow(all_frames.mean(direction_sums), all_frames.count)
            second = self.second.follow(all_frames.mean(_direction_square_sums), all_frames.count)
        variance = tf.maximum(second - tf.square(mean), 0.0)
        return (sums - mass[:, :, tf.newaxis] * mean) * tf.math.rsqrt(variance + self.ridge)

    def _fully(self, sums: tf.Tensor, mass: tf.Tensor, all_frames: AllFrames | None) -> tf.Tensor:
        if all_frames is not None:
            self.mean.follow(all_frames.mean(direction_sums), all_frames.count)
            self.second.follow(all_frames.mean(direction_product_sums), all_frames.count)
        mean, second = tf.convert_to_tensor(self.mean.mean), tf.convert_to_tensor(self.second.mean)
        covariance = second - mean[:, :, tf.newaxis] * mean[:, tf.newaxis, :]
        root = tf.linalg.cholesky(covariance + self.ridge * tf.eye(covariance.shape[1]))
        centred = tf.transpose(sums - mass[:, :, tf.newaxis] * mean, (1, 2, 0))
        return tf.transpose(tf.linalg.triangular_solve(root, centred), (2, 0, 1))


def _direction_square_sums(weights: tf.Tensor, frames: tf.Tensor, centres: tf.Tensor, squares: tf.Tensor) -> tf.Tensor:
    """Returns sum_t a[t, k] (x_t - c_k)^2 / |x_t - c_k|^2, elementwise, `(B, K, D)`; arguments as `direction_sums`."""
    scaled = weights / squares
    mass = tf.reduce_sum(scaled, axis=1)[:, :, tf.newaxis]
    sums = weighted_sums(scaled, tf.square(frames)) - 2.0 * centres * weighted_sums(scaled, frames)
    return sums + mass * tf.square(centres)
