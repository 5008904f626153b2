"""Normalisation: to unit length, layer normalisation, and batch normalisation under a padding mask."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from yt8m.arguments import check_at_least, check_one_of, check_share
from yt8m.distribution import all_replica_sum

_TINY_SQUARE = 1e-12  # a vector shorter than 1e-6 counts as zero


def l2_normalise(x: tf.Tensor, axis: int = -1) -> tf.Tensor:
    """Scales vectors to unit length and leaves zero vectors zero, with a finite gradient there.

        y = x / |x|   where |x| > 1e-6, else x

    Short vectors are not divided by a lower bound of |x|: that would multiply their gradient by 1e6, too much for
    float16.

    Args:
        x: float, any shape.
        axis: the axis of the vectors.

    Returns:
        y, of the shape and dtype of `x`; |x| is computed in float32.
    """
    exact = tf.cast(x, tf.float32)
    return tf.cast(exact * unit_scale(tf.reduce_sum(tf.square(exact), axis=axis, keepdims=True)), x.dtype)


def unit_scale(squares: tf.Tensor) -> tf.Tensor:
    """Returns 1 / |x|, or 1 where |x| <= 1e-6, for `squares` float32 of any shape, |x|^2: the same shape."""
    return tf.where(squares > _TINY_SQUARE, tf.math.rsqrt(tf.maximum(squares, _TINY_SQUARE)), 1.0)


class MaskedBatchNormalization(keras.layers.Layer):
    """Batch normalisation of the last axis under a padding mask, with moments over all replicas.

        y = gamma * (x - mean) / sqrt(variance + epsilon) + beta

    In training mean and variance are those of the unmasked positions of the batch on all replicas; at evaluation they
    are the moving moments, which a batch without unmasked positions does not change.

        moving += rate * (batch - moving),   rate = max(1 - momentum, 10 / (10 + t)) in step t = 0, 1, ...

    So the first batch replaces the initial values, and a short run averages over about its last tenth; with a fixed
    momentum of 0.999 the initial values would still count after thousands of steps.

    Args:
        momentum: the decay of the moving moments per step, in [0, 1), once t > 10 momentum / (1 - momentum).
        epsilon: added to the variance.
        gamma_initializer: `ones`; or `zeros`, for the last normalisation of a residual branch.

    Raises:
        UserError: if `momentum` is outside [0, 1), `epsilon` is below 0, or another initialiser is given.

    Source: Ioffe & Szegedy 2015, "Batch normalization"; momentum and epsilon of slim.batch_norm; the warm-up is that of
    tf.train.ExponentialMovingAverage(num_updates), without its bias towards the initial value.
    """

    def __init__(self, momentum: float = 0.999, epsilon: float = 1e-3, gamma_initializer: str = "ones", **kwargs: Any):
        super().__init__(autocast=False, **kwargs)
        check_share(momentum=momentum)
        check_at_least(0, epsilon=epsilon)
        check_one_of(("ones", "zeros"), gamma_initializer=gamma_initializer)
        self.momentum = momentum
        self.epsilon = epsilon
        self.gamma_initializer = gamma_initializer

    def build(self, input_shape: Any) -> None:
        """Creates gamma, beta, moving mean and moving variance, `(F,)` float32 each under every dtype policy."""
        self.gamma = self._vector(input_shape[-1], "gamma", self.gamma_initializer, trainable=True)
        self.beta = self._vector(input_shape[-1], "beta", "zeros", trainable=True)
        self.moving_mean = self._vector(input_shape[-1], "moving_mean", "zeros", trainable=False)
        self.moving_variance = self._vector(input_shape[-1], "moving_variance", "ones", trainable=False)
        self.num_updates = self.add_weight(
            shape=(), initializer="zeros", trainable=False, autocast=False, aggregation="mean", name="num_updates"
        )

    def _vector(self, size: int, name: str, initializer: str, trainable: bool) -> keras.Variable:
        aggregation = "none" if trainable else "mean"  # moving moments are the same on all replicas
        return self.add_weight(
            shape=(size,),
            initializer=initializer,
            trainable=trainable,
            autocast=False,
            aggregation=aggregation,
            name=name,
        )

    def call(self, x: tf.Tensor, valid: tf.Tensor | None = None, training: bool = False) -> tf.Tensor:
        """Normalises `x` `(..., F)` float: the same shape and dtype.

        `valid` `(...)` bool is True for the positions that the batch moments are taken over; None for all. Masked
        positions are normalised too.
        """
        rows = tf.reshape(tf.cast(x, tf.float32), (-1, x.shape[-1]))
        if training:
            weights = tf.ones_like(rows[:, 0]) if valid is None else tf.reshape(tf.cast(valid, tf.float32), (-1,))
            y, *moments = _normalise_by_batch(rows, weights, self.gamma.value, self.beta.value, self.epsilon)
            self._follow(*moments)
        else:
            scale = self.gamma * tf.math.rsqrt(self.moving_variance + self.epsilon)
            y = rows * scale + (self.beta - self.moving_mean * scale)
        return tf.cast(tf.reshape(y, tf.shape(x)), x.dtype)

    def end_warm_up(self) -> None:
        """Lets the next batch move the moving moments by 1 - momentum alone: they were read from a file."""
        self.num_updates.assign(10.0 * self.momentum / (1.0 - self.momentum))

    def _follow(self, mean: tf.Tensor, variance: tf.Tensor, count: tf.Tensor) -> None:
        """Moves the moving moments towards those of a batch, unless all of its positions are masked."""
        rate = moving_rate(self.num_updates, count, self.momentum)
        self.moving_mean.assign_add(rate * (mean - self.moving_mean))
        self.moving_variance.assign_add(rate * (variance - self.moving_variance))
        self.num_updates.assign_add(tf.cast(count > 0.0, tf.float32))


def moving_rate(num_updates: tf.Tensor, count: tf.Tensor, momentum: float) -> tf.Tensor:
    """Returns the rate of a moving average, moving += rate * (batch - moving), as a scalar float32.

        rate = max(1 - momentum, 10 / (10 + num_updates))   if count > 0, else 0

    Args:
        num_updates: scalar float32, the batches so far.
        count: scalar float32, the unmasked positions of the batch.
        momentum: the decay per step after many batches.
    """
    return tf.cast(count > 0.0, tf.float32) * tf.maximum(1.0 - momentum, 10.0 / (10.0 + num_updates))


@tf.autograph.experimental.do_not_convert
@tf.custom_gradient
def _normalise_by_batch(
    x: tf.Tensor, weights: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float
) -> tuple[tuple[tf.Tensor, ...], Callable[..., tuple[tf.Tensor | None, ...]]]:
    """Batch-normalises rows by their weighted moments over all replicas.

    With z = (x - mean) / sqrt(variance + epsilon), n = sum_j weights_j and upstream gradients g, where sums run over
    the rows of all replicas for x and over a replica's own for gamma and beta:

        d loss / d x_i = gamma / sqrt(variance + epsilon) * (g_i - weights_i (sum_j g_j + z_i sum_j g_j z_j) / n)
        d loss / d gamma = sum_j g_j z_j,   d loss / d beta = sum_j g_j

    Written out because then only x is kept in memory for the gradient, not six tensors of its size.

    Args:
        x: `(N, F)` float32.
        weights: `(N,)` float32, 1 for a real row and 0 for padding.
        gamma: `(F,)` float32.
        beta: `(F,)` float32.
        epsilon: added to the variance.

    Returns:
        The normalised rows `(N, F)`, the mean `(F,)`, the variance `(F,)` and n `()`, all float32.
    """
    mean, variance, count = _moments(x, weights)
    inverse = tf.math.rsqrt(variance + epsilon)
    scale = gamma * inverse

    def gradient(upstream: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
        ones = tf.ones_like(weights)
        to_beta = _weighted_sum(ones, upstream)
        to_gamma = _weighted_sum(ones, upstream * (x - mean)) * inverse
        sum_g, sum_gz = tf.unstack(all_replica_sum(tf.stack([to_beta, to_gamma])) / tf.maximum(count, 1.0))
        through_moments = x * (inverse * sum_gz) + (sum_g - mean * inverse * sum_gz)
        to_x = scale * (upstream - weights[:, tf.newaxis] * through_moments)
        return to_x, None, to_gamma, to_beta, None

    return (x * scale + (beta - mean * scale), mean, variance, count), gradient


def _moments(x: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    # One message between the replicas: the count is sent after the sums.
    totals = all_replica_sum(tf.concat([_weighted_sum(weights, x), [tf.reduce_sum(weights)]], axis=0))
    count = totals[-1]
    mean = totals[:-1] / tf.maximum(count, 1.0)
    # Two passes: a mean of squares minus a squared mean loses all digits where the mean is large.
    squares = all_replica_sum(_weighted_sum(weights, tf.math.squared_difference(x, mean)))
    return mean, squares / tf.maximum(count, 1.0), count


def _weighted_sum(weights: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Returns sum_n weights[n] rows[n], `(F,)`, of `weights` `(N,)` and `rows` `(N, F)`, as one matrix product."""
    return tf.linalg.matvec(rows, weights, transpose_a=True)


class LayerNormalization(keras.layers.Layer):
    """Layer normalisation: every position is normalised by the mean and variance of its own features.

        y = gamma * (x - mean(x)) / sqrt(variance(x) + epsilon) + beta

    Args:
        epsilon: added to the variance.

    Raises:
        UserError: if `epsilon` is below 0.

    Source: Ba, Kiros & Hinton 2016, "Layer normalization". tf.contrib.layers.layer_norm, which the code of Kmiec, Bae &
    An 2018 calls, takes moments over all positions of a video, padding included.
    """

    def __init__(self, epsilon: float = 1e-6, **kwargs: Any):
        super().__init__(autocast=False, **kwargs)
        check_at_least(0, epsilon=epsilon)
        self.epsilon = epsilon

    def build(self, input_shape: Any) -> None:
        """Creates gamma and beta, `(F,)` float32 each under every dtype policy."""
        self.gamma = self.add_weight(shape=(input_shape[-1],), initializer="ones", autocast=False, name="gamma")
        self.beta = self.add_weight(shape=(input_shape[-1],), initializer="zeros", autocast=False, name="beta")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Normalises `x` `(..., F)` float: the same shape and dtype."""
        rows = tf.reshape(tf.cast(x, tf.float32), (-1, x.shape[-1]))
        y = _normalise_rows(rows, self.gamma.value, self.beta.value, self.epsilon)
        return tf.cast(tf.reshape(y, tf.shape(x)), x.dtype)


@tf.autograph.experimental.do_not_convert
@tf.custom_gradient
def _normalise_rows(
    x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float
) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor | None, ...]]]:
    """Layer-normalises the rows of `x` `(N, F)` float32; only x is kept in memory for the gradient.

    With z = (x - mean) / sqrt(variance + epsilon), upstream gradients g, h = gamma * g and means over a row's features:

        d loss / d x = (h - mean(h) - z mean(h z)) / sqrt(variance + epsilon)
    """
    mean = _row_means(x)
    inverse = tf.math.rsqrt(_row_means(tf.math.squared_difference(x, mean)) + epsilon)

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
        z = (x - mean) * inverse
        ones, product = tf.ones_like(mean[:, 0]), upstream * z
        # With gamma as the weights of a sum, h itself is never made.
        share, share_z = (tf.linalg.matvec(rows, gamma)[:, tf.newaxis] / rows.shape[1] for rows in (upstream, product))
        to_x = inverse * (upstream * gamma - share - z * share_z)
        return to_x, _weighted_sum(ones, product), _weighted_sum(ones, upstream), None

    return (x - mean) * (inverse * gamma) + beta, gradient


def _row_means(rows: tf.Tensor) -> tf.Tensor:
    """Returns the mean of each of the `rows` `(N, F)`, `(N, 1)`, as one matrix product."""
    return tf.linalg.matvec(rows, tf.fill((rows.shape[1],), 1.0 / rows.shape[1]))[:, tf.newaxis]
