"""Triangulation embedding (T-embedding) and FAemb: pooling of the unit vectors from cluster centres to frames."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from yt8m.arguments import check_at_least
from yt8m.layers.assignment import SoftAssignment, cluster_mass
from yt8m.layers.normalisation import MaskedBatchNormalization, l2_normalise
from yt8m.layers.pooling import frame_counts
from yt8m.layers.triangulation import (
    AllFrames,
    DirectionWhitening,
    MovingMean,
    direction_product_sums,
    direction_sums,
    squared_distances,
)


def approximation_error(
    shares: tf.Tensor, frames: tf.Tensor, valid: tf.Tensor, centres: tf.Tensor, squares: tf.Tensor, cubic: float
) -> tf.Tensor:
    """FAemb's error of approximating the frames by the cluster centres.

        e = mean_t ( |x_t - sum_k a[t, k] c_k|^2 / 2 + mu sum_k a[t, k] |x_t - c_k|^3 )

    The first term is small if every frame is the weighted mean of the centres. The second bounds the error of replacing
    a smooth function by the weighted mean of its second-order Taylor series around the centres.

    Args:
        shares: a, `(B, T, K)` float, which adds up to 1 for a real frame.
        frames: `(B, T, D)` float.
        valid: `(B, T)` bool, the padding mask: True for real frames.
        centres: c, `(K, D)` float.
        squares: `(B, T, K)` float, `squared_distances(frames, centres)`.
        cubic: the weight mu of the second term.

    Returns:
        e, `(B,)` float; 0 for a video without real frames.

    Source: Do, Tran & Cheung 2015, "FAemb", where a are any coefficients that add up to 1, found per frame by
    minimising e; here a is a softmax, and e is a term of the loss.
    """
    rest = frames - tf.tensordot(shares, centres, axes=1)
    terms = 0.5 * tf.reduce_sum(tf.square(rest), axis=2) + cubic * tf.reduce_sum(shares * squares**1.5, axis=2)
    return tf.reduce_sum(tf.where(valid, terms, 0.0), axis=1) / frame_counts(valid)


def _centres(layer: keras.layers.Layer, count: int, size: int) -> keras.Variable:
    initializer = keras.initializers.RandomNormal(stddev=1.0 / math.sqrt(size))
    return layer.add_weight(shape=(count, size), initializer=initializer, name="centres")


class TEmbedding(keras.layers.Layer):
    """Triangulation embedding: sums the whitened unit vectors from every cluster centre to the frames.

        V_k = sum_t a[t, k] white_k((x_t - c_k) / |x_t - c_k|),   y = [V_1 / |V_1|, V_2 / |V_2|, ...]

    Args:
        cluster_size: the number of clusters, K.
        add_batch_norm: whether the assignment logits are batch-normalised; if not, a bias is added.
        weighted: whether a = SoftAssignment(x); if not, a = 1 for every real frame and cluster.
        whitening: `diagonal`, `full` or `none`, as defined by DirectionWhitening.

    Raises:
        UserError: if `cluster_size` is below 1, or `whitening` is none of the three.

    Source: Jegou & Zisserman 2014, "Triangulation embedding" (not weighted); Kmiec, Bae & An 2018, first-order branch
    of the third model (weighted), from its description: its code was not published.
    """

    def __init__(
        self,
        cluster_size: int,
        add_batch_norm: bool = True,
        weighted: bool = True,
        whitening: str = "diagonal",
        **kwargs: Any,
    ):
        # In float32 under every policy: a distance is a difference of squares.
        super().__init__(**{**kwargs, "dtype": "float32"})
        check_at_least(1, cluster_size=cluster_size)
        self.cluster_size = cluster_size
        self.assignment = SoftAssignment(cluster_size, add_batch_norm, dtype="float32") if weighted else None
        self.whitening = DirectionWhitening(whitening)

    def build(self, input_shape: Any) -> None:
        """Creates the centres `(K, D)`, the kernel `(D, K)` of the assignment if weighted, and the moving moments."""
        self.centres = _centres(self, self.cluster_size, input_shape[-1])
        self.whitening.build((None, self.cluster_size, input_shape[-1]))
        if self.assignment is not None:
            self.assignment.build(input_shape)

    def call(self, frames: tf.Tensor, valid: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Pools `frames` `(B, T, D)` float to `(B, K D)` for K clusters.

        `valid` `(B, T)` bool is the padding mask, True for real frames.
        A video without real frames gives zeros.
        """
        centres = tf.convert_to_tensor(self.centres)
        squares = squared_distances(frames, centres)
        if self.assignment is None:
            shares = tf.where(tf.expand_dims(valid, 2), tf.ones_like(squares), 0.0)
        else:
            shares = self.assignment(frames, valid, training=training)
        sums = direction_sums(shares, frames, centres, squares)
        all_frames = AllFrames(frames, valid, centres, squares) if training else None
        clusters = self.whitening(sums, cluster_mass(shares), all_frames=all_frames)
        return _side_by_side(l2_normalise(clusters))


def _side_by_side(clusters: tf.Tensor) -> tf.Tensor:
    return tf.reshape(clusters, (tf.shape(clusters)[0], clusters.shape[1] * clusters.shape[2]))


class FAEmbedding(keras.layers.Layer):
    """FAemb, second order: sums the outer products of the unit vectors from cluster centres to projected frames.

        z_t = x_t P,   u[t, k] = (z_t - c_k) / |z_t - c_k|,   a[t] = SoftAssignment(z)
        G_k = (K P / T) sum_t a[t, k] (u[t, k] u[t, k]^T - E[u_k u_k^T])
        y   = [g_1 / |g_1|, g_2 / |g_2|, ...],   g = BN(upper(G))

    `upper` takes the entries on and above the diagonal, those above it times sqrt(2), which keeps the norm. E is the
    mean over all real frames on all replicas. T is the number of real frames; the factor K P / T makes the entries of G
    about 1 for every T, since a is about 1 / K and an entry of u u^T about 1 / P.

    Args:
        cluster_size: the number of clusters, K.
        projected_size: the width of z, P.
        add_batch_norm: whether the assignment logits are batch-normalised; if not, a bias is added. BN(upper(G)) is
            computed in any case.
        cubic: the weight mu of the cubic term of `approximation_error`.

    Raises:
        UserError: if `cluster_size` or `projected_size` is below 1, or `cubic` is below 0.

    Source: Do, Tran & Cheung 2015, "FAemb", second order; Kmiec, Bae & An 2018, second-order branch of the third model,
    from its description: its code was not published.
    """

    def __init__(
        self, cluster_size: int, projected_size: int, add_batch_norm: bool = True, cubic: float = 0.0, **kwargs: Any
    ):
        super().__init__(**{**kwargs, "dtype": "float32"})
        check_at_least(1, cluster_size=cluster_size, projected_size=projected_size)
        check_at_least(0, cubic=cubic)
        self.cluster_size = cluster_size
        self.projected_size = projected_size
        self.cubic = cubic
        self.assignment = SoftAssignment(cluster_size, add_batch_norm, dtype="float32")
        rows, columns = np.triu_indices(projected_size)
        self.upper = rows * projected_size + columns
        self.scale = np.where(rows == columns, 1.0, math.sqrt(2.0)).astype(np.float32)
        self.sum_norm = MaskedBatchNormalization()

    def build(self, input_shape: Any) -> None:
        """Creates kernels of projection `(D, P)` and assignment `(P, K)`, centres `(K, P)`, E `(K, P, P)` and BN."""
        size = self.projected_size
        normal = keras.initializers.RandomNormal(stddev=1.0 / math.sqrt(input_shape[-1]))
        self.projection = self.add_weight(shape=(input_shape[-1], size), initializer=normal, name="projection")
        self.centres = _centres(self, self.cluster_size, size)
        self.assignment.build((*input_shape[:-1], size))
        self.mean = MovingMean((self.cluster_size, size, size))
        self.sum_norm.build((None, self.cluster_size * len(self.upper)))

    def call(self, frames: tf.Tensor, valid: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """Pools `frames` `(B, T, D)` float.

        `valid` `(B, T)` bool is the padding mask, True for real frames.

        Returns:
            descriptor: y, `(B, K P (P + 1) / 2)` float32; zeros for a video without real frames.
            error: `approximation_error` of z and c, `(B,)` float32.
        """
        narrow = tf.tensordot(frames, tf.convert_to_tensor(self.projection), axes=1)
        centres = tf.convert_to_tensor(self.centres)
        squares = squared_distances(narrow, centres)
        shares = self.assignment(narrow, valid, training=training)
        mean = tf.convert_to_tensor(self.mean.mean)
        if training:
            all_frames = AllFrames(narrow, valid, centres, squares)
            mean = self.mean.follow(all_frames.mean(direction_product_sums), all_frames.count)
        sums = direction_product_sums(shares, narrow, centres, squares)
        sums -= cluster_mass(shares)[:, :, tf.newaxis, tf.newaxis] * mean
        scale = self.cluster_size * self.projected_size / frame_counts(valid)
        means = scale[:, tf.newaxis, tf.newaxis, tf.newaxis] * sums
        descriptor = self._describe(means, tf.reduce_any(valid, axis=1), training)
        return descriptor, approximation_error(shares, narrow, valid, centres, squares, self.cubic)

    def _describe(self, means: tf.Tensor, has_frames: tf.Tensor, training: bool) -> tf.Tensor:
        flat = tf.reshape(means, (-1, self.cluster_size, self.projected_size**2))
        flat = _side_by_side(tf.gather(flat, self.upper, axis=2) * self.scale)
        flat = self.sum_norm(flat, valid=has_frames, training=training)
        flat = tf.where(tf.expand_dims(has_frames, 1), flat, 0.0)
        return _side_by_side(l2_normalise(tf.reshape(flat, (-1, self.cluster_size, len(self.upper)))))


class SecondOrderPooling(keras.layers.Layer):
    """First- and second-order pooling: concatenates T-embedding and FAemb.

        y = [TEmbedding(x), FAEmbedding(x)]

    Args:
        cluster_size: the number of clusters of TEmbedding, K.
        second_cluster_size: the number of clusters of FAEmbedding, K'.
        projected_size: the width of the projected frames of FAEmbedding, P.
        add_batch_norm: whether the assignment logits are batch-normalised; if not, biases are added.
        weighted: whether TEmbedding weights frames by a soft assignment; if not, every real frame has weight 1.
        whitening: `diagonal`, `full` or `none`, as defined by DirectionWhitening.
        cubic: the weight mu of the cubic term of `approximation_error`.

    Raises:
        UserError: if a size is below 1, `cubic` is below 0, or `whitening` is none of the three.

    Source: Kmiec, Bae & An 2018, "Learnable pooling methods for video classification", third model.
    """

    def __init__(
        self,
        cluster_size: int,
        second_cluster_size: int,
        projected_size: int,
        *,
        add_batch_norm: bool = True,
        weighted: bool = True,
        whitening: str = "diagonal",
        cubic: float = 0.0,
        **kwargs: Any,
    ):
        super().__init__(**{**kwargs, "dtype": "float32"})
        check_at_least(1, second_cluster_size=second_cluster_size)
        self.first = TEmbedding(cluster_size, add_batch_norm, weighted, whitening)
        self.second = FAEmbedding(second_cluster_size, projected_size, add_batch_norm, cubic)

    def build(self, input_shape: Any) -> None:
        """Creates the weights of TEmbedding and FAEmbedding for frames of width D."""
        self.first.build(input_shape)
        self.second.build(input_shape)

    def call(self, frames: tf.Tensor, valid: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """Pools `frames` `(B, T, D)` float.

        `valid` `(B, T)` bool is the padding mask, True for real frames.

        Returns:
            descriptor: y, `(B, K D + K' P (P + 1) / 2)` float32; every cluster's part has unit length.
            error: the approximation error of FAEmbedding, `(B,)` float32.
        """
        second, error = self.second(frames, valid, training=training)
        return tf.concat([self.first(frames, valid, training=training), second], axis=1), error
