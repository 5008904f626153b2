"""The registered kernel ridge regression, whose kernel learns how much each feature counts."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from yt8m.arguments import ArgumentError, check_at_least, check_positive
from yt8m.classifiers.base import Outputs
from yt8m.classifiers.cholesky import blocks, factorise, inverse_diagonal, solve_factorised, solve_forwards
from yt8m.registry import VIDEO_LEVEL_MODELS

_SCALE_VIDEOS = 4096  # videos that the scales of features are learned on
_FREQUENCIES = 1e-6, 0.9  # between them a prediction is the function itself
_LOGITS_BEYOND = 10.0  # per unit of the function: at 0.9 about the slope of the logit, so that there is no corner
_SAME_VIDEO = 1e-4  # squared distance; above what rounding leaves of 0
_JITTER = 1e-10  # of the mean of a diagonal: what float64 loses of the smallest eigenvalues


@VIDEO_LEVEL_MODELS.register()
class KernelRidgeModel(keras.Model):
    """Kernel ridge regression on the labels of the training videos, solved exactly.

        f_c(x) = prior_c + sum_j a_jc k(x, x_j),   k(x, x') = exp(-sum_e s_e^2 (x_e - x'_e)^2 / sigma)

        minimise over a   sum_i sum_c (y_ic - f_c(x_i))^2 + lambda sum_c a_c . K a_c

    y_ic is 1 if c is a label of video i, else 0, prior_c is the class's frequency in training, and K holds the kernel
    of the M centres x_j. These are all training videos, or `num_centres` of them, evenly spaced in the order of the
    shards (a Nystrom approximation: all videos count, as a sum of M kernels). There is one pass over the shards and no
    gradient step.

    **Scales.** s says how much each feature counts. It starts equal for all. Each round solves the problem for 4096
    evenly spaced videos and then takes the root mean square derivative of the solution:

        s_e^2  <-  mean_i sum_c (df_c / dx_e (x_i))^2,   scaled so that the mean of sum_e s_e^2 (x_e - x'_e)^2 is 1.

    So a feature on which no label depends stops counting for the distance, and sigma has the unit of the mean squared
    distance, whatever the data.

    **Stacking.** With `stacking` w > 0 there is a second regression of the same kind, with its own coefficients b, that
    knows what the first one says of the video and of the training videos:

        f'_c(x) = prior_c + sum_j b_jc k(x, x_j) exp(-|g(x) - g_j|^2 / sigma),   g(x) = r (f(x) - prior)

    So a label may depend on other labels. g_j is of the prediction for x_j without x_j among the training videos, which
    the solution gives in closed form; with it videos of training and others look alike. r is such that the mean of
    |g_i - g_j|^2 is w.

    **Predictions** are f, an estimate of the frequency of a label, where it is from 1e-6 to 0.9. Beyond, where f may
    leave [0, 1], the logit continues along a line, so that every prediction keeps its place in the order.

    For N videos of E features that are all centres, solving holds 4 N^2 + N (14 C + 16 E) bytes, and takes
    N^3 / 6 + N^2 C multiplications. With M < N centres the matrix has 8 M^2 bytes and its products as many again, and
    N M^2 multiplications come first. The model has M (E + C) numbers of 4 bytes. Stacking takes twice the
    multiplications and N^3 / 6 more, or N M^2 / 2 with M < N centres, and M (E + 2 C) more numbers.

    Args:
        num_classes: the number of classes, C.
        bandwidth: sigma, in mean squared distances.
        penalty: lambda.
        scale_rounds: how often the scales are learned; 0 leaves them equal.
        num_centres: the largest M.
        stacking: w, the mean squared distance of predictions, in that of the videos; 0 for f without a second
            regression.
        leave_one_out: whether a training video is predicted as if the model had not seen it, by which the model may
            teach others. It is so for every centre, and for a video nearer to one than 1e-4 mean squared distances.

    Raises:
        UserError: if `bandwidth` or `penalty` is not above 0, `scale_rounds` or `stacking` is below 0, `num_centres`
            below 1, or below the number of videos where one is to be left out.

    Source: Saunders, Gammerman & Vovk 1998, "Ridge regression learning algorithm in dual variables"; Williams & Seeger
    2001, "Using the Nystrom method to speed up kernel machines"; scales: Radhakrishnan et al. 2024, "Mechanism for
    feature learning in neural networks and backpropagation-free machine learning models" (recursive feature machines,
    here with a diagonal matrix and a Gaussian kernel); stacking: Wolpert 1992, "Stacked generalization".
    """

    def __init__(
        self,
        num_classes: int,
        *,
        bandwidth: float = 0.7,
        penalty: float = 0.03,
        scale_rounds: int = 2,
        num_centres: int = 16384,
        stacking: float = 0.0,
        leave_one_out: bool = False,
        **kwargs: Any,
    ):
        check_positive(bandwidth=bandwidth, penalty=penalty)
        check_at_least(0, scale_rounds=scale_rounds, stacking=stacking)
        check_at_least(1, num_centres=num_centres)
        super().__init__(autocast=False, **kwargs)
        self.num_classes = num_classes
        self.bandwidth = bandwidth
        self.penalty = penalty
        self.scale_rounds = scale_rounds
        self.num_centres = num_centres
        self.stacking = stacking
        self.leave_one_out = leave_one_out

    def build(self, vector_shape: Any) -> None:
        """Creates the weights for vectors of `vector_shape` `(B, E)`, without centres.

        These are the scales `(E,)`, the prior `(C,)`, the scaled centres `(M, E)` and their coefficients a `(M, C)`;
        with stacking also r, the centres with their g `(M, E + C)` and the coefficients b `(M, C)`. Where one is to be
        left out there are the predictions of the centres without them, `(M, C)`.
        """
        size = vector_shape[1]
        self.scales = self.add_weight(name="scales", shape=(size,), initializer="ones", trainable=False)
        self.prior = self.add_weight(name="prior", shape=(self.num_classes,), initializer="zeros", trainable=False)
        self.centres = _rows(size, "centres")
        self.coefficients = _rows(self.num_classes, "coefficients")
        if self.stacking:
            self.prediction_scale = self.add_weight(
                name="prediction_scale", shape=(), initializer="ones", trainable=False
            )
            self.stacked_centres = _rows(size + self.num_classes, "stacked_centres")
            self.stacked_coefficients = _rows(self.num_classes, "stacked_coefficients")
        if self.leave_one_out:
            self.left_out = _rows(self.num_classes, "left_out")

    def remember(self, examples: Iterable[tuple[tf.Tensor, tf.Tensor]]) -> None:
        """Fits scales, centres and coefficients; the prior stays.

        Args:
            examples: batches of vectors `(B, E)` float and their labels `(B, C)` bool.

        Raises:
            ArgumentError: if one is to be left out and not all videos can be centres, or the penalty is too small.
        """
        vectors, labels = [self.centres[:0].numpy()], [self.coefficients[:0].numpy().astype(bool)]
        for batch, labels_of_batch in examples:
            vectors.append(np.asarray(batch, np.float32))
            labels.append(np.asarray(labels_of_batch))
        x, targets = np.concatenate(vectors), np.concatenate(labels) - self.prior.numpy()

        if self.leave_one_out and len(x) > self.num_centres:
            raise ArgumentError(
                f"num_centres={self.num_centres}: with leave_one_out all {len(x)} videos have to be centres. Give at "
                "least as many."
            )

        # 1. How much each feature counts.
        scales = _of_unit_distance(np.ones(x.shape[1]), x)
        some = evenly_spaced(len(x), _SCALE_VIDEOS)
        for _ in range(self.scale_rounds):
            scaled = x[some] * scales
            coefficients, _ = solve(scaled, targets[some], scaled, self.bandwidth, self.penalty)
            slopes = mean_squared_derivatives(scaled, coefficients, self.bandwidth)
            if slopes.any():
                scales = _of_unit_distance(scales * np.sqrt(slopes), x)
        x *= scales
        self.scales.assign(scales)

        # 2. The regression.
        # All videos are a view; a list of their places would be a copy of them.
        places = slice(None) if len(x) <= self.num_centres else evenly_spaced(len(x), self.num_centres)
        options = (self.bandwidth, self.penalty)
        with_left_out = bool(self.stacking or self.leave_one_out)
        coefficients, left_out = solve(x, targets, x[places], *options, with_left_out)
        self.centres.assign(x[places])
        self.coefficients.assign(coefficients)

        # 3. The regression that knows its predictions.
        if self.stacking:
            scale = np.sqrt(self.stacking) * _of_unit_distance(np.ones(self.num_classes), left_out)[0]
            x = np.concatenate([x, scale * left_out], axis=1)
            coefficients, left_out = solve(x, targets, x[places], *options, self.leave_one_out)
            self.prediction_scale.assign(scale)
            self.stacked_centres.assign(x[places])
            self.stacked_coefficients.assign(coefficients)
        if self.leave_one_out:
            self.left_out.assign(left_out)

    def call(self, vector: tf.Tensor, random_key: tf.Tensor | None = None, training: bool = False) -> Outputs:
        """Maps `vector` `(B, E)` float to `predictions` and `logits`, `(B, C)` float32 each.

        `random_key` `(B,)` int64 is each example's source of randomness, of which nothing is drawn.
        """
        x = tf.cast(vector, tf.float32) * self.scales
        similarities = kernel(x, self.centres, self.bandwidth)
        f = tf.matmul(similarities, self.coefficients)
        if self.stacking:
            x = tf.concat([x, self.prediction_scale * f], axis=1)
            f = tf.matmul(kernel(x, self.stacked_centres, self.bandwidth), self.stacked_coefficients)
        if self.leave_one_out:
            itself = tf.reduce_max(similarities, axis=1, keepdims=True) > np.exp(-_SAME_VIDEO / self.bandwidth)
            f = tf.where(itself, tf.gather(self.left_out, tf.argmax(similarities, axis=1)), f)
        logits = logits_of_frequencies(self.prior + f)
        return {"predictions": tf.math.sigmoid(logits), "logits": logits}

    def start_at_prior(self, prior: np.ndarray) -> None:
        """Takes `prior` `(C,)` float, each class's frequency in training, which is predicted far from all videos."""
        self.prior.assign(prior)


def _rows(width: int, name: str) -> tf.Variable:
    """A weight `(M, width)` of no rows yet: TensorFlow's, because Keras has none whose size a checkpoint decides."""
    return tf.Variable(tf.zeros([0, width]), shape=[None, width], trainable=False, name=name)


def evenly_spaced(size: int, count: int) -> np.ndarray:
    """Returns the numbers, `(M,)` int64, of at most `count` of `size` things in a row, the first of them 0."""
    count = min(size, count)
    return np.arange(count) * size // max(count, 1)


def kernel(x: tf.Tensor, y: tf.Tensor | tf.Variable, bandwidth: float) -> tf.Tensor:
    """Returns exp(-|x_i - y_j|^2 / bandwidth), `(B, M)`, for `x` `(B, E)` and `y` `(M, E)`, all float32."""
    y = tf.convert_to_tensor(y)
    products = tf.matmul(x, y, transpose_b=True)
    squares = tf.reduce_sum(x**2, axis=1, keepdims=True) - 2.0 * products + tf.reduce_sum(y**2, axis=1)
    return tf.exp(-tf.maximum(squares, 0.0) / bandwidth)


def solve(
    vectors: np.ndarray,
    targets: np.ndarray,
    centres: np.ndarray,
    bandwidth: float,
    penalty: float,
    with_left_out: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the coefficients a of the best weighted sums of kernels, and what they would be worth on new videos.

        minimise   |T - K a|^2 + penalty sum_c a_c . K' a_c,   K = k(vectors, centres),   K' = k(centres, centres)

    by (K' + penalty I) a = T in float32 if the centres are the vectors, else by (K^T K + penalty K') a = K^T T in
    float64, because a square has twice the digits.

    Without vector i in the first sum, K a would be t_i - (t_i - (K a)_i) / (1 - h_i) there; h_i = k_i A^-1 k_i is its
    leverage, k_i its row of K and A the second matrix. If the centres are the vectors, that is t_i - a_i / B_ii, B the
    inverse of the first matrix.

    Args:
        vectors: `(N, E)` float32.
        targets: `(N, C)` float32, T.
        centres: `(M, E)` float32; all vectors in their order if M = N.
        bandwidth: of the kernel.
        penalty: lambda.
        with_left_out: whether to compute predictions without the video.

    Returns:
        a, `(M, C)` float32; and the prediction for each vector without it, `(N, C)` float32, or no row, `(0, C)`.

    Raises:
        ArgumentError: if the penalty is too small for the digits.

    Source: leaving out one by its leverage: Allen 1974, "The relationship between variable selection and data
    augmentation and a method for prediction" (PRESS).
    """
    exact, size = len(vectors) == len(centres), len(centres)
    matrix: np.ndarray = np.empty((size, size), np.float32 if exact else np.float64)
    for here in blocks(size):
        matrix[here] = kernel(centres[here], centres, bandwidth)
    diagonal = np.einsum("ii->i", matrix)  # a view
    if exact:
        diagonal += penalty
        right = np.array(targets)
    else:
        matrix *= penalty
        right = np.zeros((size, targets.shape[1]))
        for here in blocks(len(vectors)):
            similarities = tf.cast(kernel(vectors[here], centres, bandwidth), tf.float64)
            matrix += tf.matmul(similarities, similarities, transpose_a=True).numpy()
            right += tf.matmul(similarities, targets[here].astype(np.float64), transpose_a=True).numpy()
        diagonal += _JITTER * np.mean(diagonal)
    try:
        factorise(matrix)
    except np.linalg.LinAlgError as error:
        raise ArgumentError(
            f"penalty={penalty:g}: with {size} centres that is lost among the rounding errors. Try {penalty * 10:g}."
        ) from error
    solve_factorised(matrix, right)
    if not with_left_out:
        return right.astype(np.float32, copy=False), targets[:0]

    if exact:
        return right, targets - right / inverse_diagonal(matrix)[:, np.newaxis]
    left_out = np.empty_like(targets)
    for here in blocks(len(vectors)):
        similarities = kernel(vectors[here], centres, bandwidth).numpy().T.astype(np.float64)
        errors = targets[here] - tf.matmul(similarities, right, transpose_a=True).numpy()
        solve_forwards(matrix, similarities)
        leverages = np.einsum("ij,ij->j", similarities, similarities)
        left_out[here] = targets[here] - errors / (1.0 - leverages)[:, np.newaxis]
    return right.astype(np.float32), left_out


def mean_squared_derivatives(centres: np.ndarray, coefficients: np.ndarray, bandwidth: float) -> np.ndarray:
    """Estimates how steep f(x) = k(x, centres) a is along each axis, mean_i sum_c (df_c / dx_e (x_i))^2.

    The mean is over the centres. The sum over classes is that of one random combination of them per centre,
    sum_c v_c f_c with signs v of -1 or 1, whose squared derivative has this sum as its expectation (Hutchinson 1989).

    Args:
        centres: `(M, E)` float32.
        coefficients: `(M, C)` float32, a.
        bandwidth: of the kernel.

    Returns:
        `(E,)` float32; the factor, (2 / bandwidth)^2, is left out.
    """
    generator, total = np.random.default_rng(0), np.zeros(centres.shape[1], np.float32)
    for here in blocks(len(centres)):
        x = centres[here]
        signs = generator.choice(np.array([-1, 1], np.float32), (len(x), coefficients.shape[1]))
        weights = tf.matmul(signs, coefficients, transpose_b=True) * kernel(x, centres, bandwidth)
        derivatives = tf.matmul(weights, centres) - tf.reduce_sum(weights, axis=1, keepdims=True) * x
        total += tf.reduce_sum(derivatives**2, axis=0).numpy()
    return total / max(len(centres), 1)


def _of_unit_distance(scales: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Divides `scales` `(E,)` so that `vectors` `(N, E)` times them have a mean squared distance of 1.

    Without two different vectors the scales are 1.
    """
    mean_square = 2.0 * np.sum(scales**2 * np.var(vectors, axis=0, dtype=np.float64)) if len(vectors) else 0.0
    return (scales / np.sqrt(mean_square)).astype(np.float32) if mean_square else np.ones(len(scales), np.float32)


def logits_of_frequencies(f: tf.Tensor) -> tf.Tensor:
    """Maps `f` `(B, C)` float32 to log(f / (1 - f)) from 1e-6 to 0.9, and beyond to a line of slope 10: `(B, C)`."""
    inside = tf.clip_by_value(f, *_FREQUENCIES)
    return tf.math.log(inside / (1.0 - inside)) + _LOGITS_BEYOND * (f - inside)
