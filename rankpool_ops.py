"""Rank pooling: a sequence of frames is represented by the weights of a linear regression of time on its frames.

The public interface of `yt8m/rankpool/`. docs/rank-pooling.md describes the problem, the algorithm, the gradient and
their limits.
"""

import math
from typing import Any, Literal, NamedTuple, get_args

import keras
import tensorflow as tf

from yt8m.arguments import check_at_least, check_one_of, check_positive
from yt8m.errors import UserError
from yt8m.rankpool.gradient import GradientName, Solved, differentiable_descriptor, finite_problem
from yt8m.rankpool.precision import Precision, solve_in
from yt8m.rankpool.sequences import (
    approximate_rank_pool,
    forward_and_reverse,
    is_frame,
    reversed_frames,
    running_mean,
    signed_sqrt,
    unit_length,
)
from yt8m.rankpool.solver import Problem

__all__ = [
    "Direction",
    "GradientName",
    "Method",
    "RankPoolInfo",
    "RankPooling",
    "approximate_rank_pool",
    "forward_and_reverse",
    "rank_pool",
    "reversed_frames",
    "running_mean",
    "signed_sqrt",
    "unit_length",
]

InternalDtype = Literal["auto", "float32", "float64"]
Direction = Literal["forward", "reverse", "both"]
Method = Literal["rank_pool", "approximate"]

# c * trace(V V^T) of a sequence above which float32 would lose digits that matter: measured in docs/rank-pooling.md.
_LARGEST_SCALE_IN_FLOAT32 = 1e3


class RankPoolInfo(NamedTuple):
    """The solver's report on each sequence.

    Attributes:
        iterations: `(B,)` int32, the number of linear systems solved.
        converged: `(B,)` bool, whether the descriptor u is the exact optimum, up to rounding; False where u is NaN.
        duality_gap: `(B,)` float64, primal minus dual objective, an upper bound of |u - optimum|^2 / 2; NaN where u is.
    """

    iterations: tf.Tensor
    converged: tf.Tensor
    duality_gap: tf.Tensor


def rank_pool(
    frames: tf.Tensor,
    num_frames: tf.Tensor | None = None,
    *,
    c: float | tf.Tensor = 1.0,
    epsilon: float | tf.Tensor = 0.1,
    gradient: GradientName = "exact",
    targets: tf.Tensor | None = None,
    internal_dtype: InternalDtype = "auto",
    return_info: bool = False,
) -> Any:
    """Pools each sequence into the weights u of an epsilon-insensitive linear regression of time on its frames.

        u = argmin  |u|^2 / 2 + c / 2 * sum over t <= N of max(0, |y_t - u.v_t| - epsilon)^2,     y_t = t, no bias

    for the N real frames v_t. The solution and its gradient are exact, at the cost of a few T x T factorisations and
    O(B T^2 + B T D) memory. The C of liblinear and scikit-learn is c / 2.

    Padding has no influence, whatever its values, and gets a gradient of exactly 0. A sequence without frames gives 0.
    A sequence gives NaN, and a NaN gradient of its frames, if a frame or target is not finite, c <= 0, epsilon < 0, or
    c |v|^2 is so large that the solution is lost to rounding (about 1e15 in float64); other sequences are unaffected.

    Args:
        frames: v, `(B, T, D)` float; float16 and bfloat16 are computed in float32.
        num_frames: N, `(B,)` int; None for N = T.
        c: the weight of the regression loss against the norm of u: a positive number, or a `()` or `(B,)` tensor.
        epsilon: the half width of the tube in which errors cost nothing: a number, or a `()` or `(B,)` tensor.
        gradient: `exact`; `diagonal`, the paper's approximation, at the same cost; or `sherman_morrison`, the paper's
            algorithm for the exact gradient, a reference with O(B D^2) memory. Second derivatives are exact for
            `exact` and `sherman_morrison`; for `diagonal` they raise a UserError.
        targets: y, `(T,)` or `(B, T)` float; None for 1 ... T.
        internal_dtype: the precision of the solver for float32 frames. `auto` uses float64 for each sequence with
            c * sum |v_t|^2 above 1e3, or whose frames nearly cancel in u, and computes its factorisation again in the
            backward pass; `float64` uses float64 for all and keeps the factorisation; `float32` never uses float64.
            float64 frames are always solved in float64.
        return_info: whether to return a `RankPoolInfo` as well.

    Returns:
        u, `(B, D)` of the dtype of the frames, differentiable in frames, c, epsilon and targets; with `return_info` the
        pair (u, `RankPoolInfo`).

    Raises:
        UserError: if `gradient` or `internal_dtype` is none of those listed, a number c is not above 0, a number
            epsilon is below 0, or `frames` is not a float tensor `(B, T, D)`.

    Source: Fernando & Gould 2016, "Learning End-to-end Video Classification with Rank-Pooling", equation 5.
    """
    check_one_of(get_args(GradientName), gradient=gradient)
    check_one_of(get_args(InternalDtype), internal_dtype=internal_dtype)
    _check_numbers(c, epsilon)
    frames = tf.convert_to_tensor(frames)
    problem = _stated_problem(frames, num_frames, c, epsilon, targets)
    descriptor, info = _pooled(problem, gradient, internal_dtype)
    descriptor = tf.ensure_shape(tf.cast(descriptor, frames.dtype), [frames.shape[0], frames.shape[2]])
    return (descriptor, info) if return_info else descriptor


def _check_numbers(c: float | tf.Tensor, epsilon: float | tf.Tensor) -> None:
    """Checks that c > 0 and epsilon >= 0 if they are Python numbers; in a tensor, elements out of range give NaN."""
    if isinstance(c, int | float):
        check_positive(c=c)
    if isinstance(epsilon, int | float):
        check_at_least(0, epsilon=epsilon)


def _stated_problem(
    frames: tf.Tensor,
    num_frames: tf.Tensor | None,
    c: float | tf.Tensor,
    epsilon: float | tf.Tensor,
    targets: tf.Tensor | None,
) -> Problem:
    """Checks the frames and broadcasts the arguments of `rank_pool`; targets, c and epsilon become float64."""
    if frames.shape.rank != 3 or not frames.dtype.is_floating:
        raise UserError(f"frames have shape {frames.shape} and dtype {frames.dtype.name}: expected float (B, T, D).")
    batch, longest = tf.shape(frames)[0], tf.shape(frames)[1]
    times = tf.range(1, longest + 1) if targets is None else targets
    return Problem(
        frames=frames if frames.dtype == tf.float64 else tf.cast(frames, tf.float32),
        is_frame=is_frame(frames, num_frames),
        targets=tf.broadcast_to(_float64(times), [batch, longest]),
        c=tf.broadcast_to(_float64(c), [batch]),
        epsilon=tf.broadcast_to(_float64(epsilon), [batch]),
    )


def _float64(value: Any) -> tf.Tensor:
    """Converts a Python number without rounding it to float32 first, as `tf.cast(0.1, tf.float64)` would."""
    return tf.cast(value, tf.float64) if tf.is_tensor(value) else tf.convert_to_tensor(value, tf.float64)


def _pooled(problem: Problem, gradient: GradientName, internal_dtype: InternalDtype) -> tuple[tf.Tensor, RankPoolInfo]:
    # Nothing differentiates the iteration: its result is a constant to which the gradient is attached.
    constant = Problem(*(tf.stop_gradient(field) for field in problem))
    squares = tf.einsum("btd,btd->bt", constant.frames, constant.frames)
    is_usable = _is_usable(constant, squares)
    # Most batches can do without this pass over the frames: finite padding is harmless, its weight is 0.
    finite = tf.cond(
        tf.reduce_all(is_usable) & _all_finite(squares) & _all_finite(constant.targets),
        lambda: constant,
        lambda: finite_problem(constant, is_usable),
    )
    precision = _precision(finite, squares, internal_dtype)
    precision, solution, factor = solve_in(precision, finite, squares)
    is_usable &= solution.is_sound
    solved = Solved(problem, finite, is_usable, solution, factor, precision)
    gap = tf.where(is_usable, tf.cast(solution.duality_gap, tf.float64), math.nan)
    info = RankPoolInfo(solution.iterations, solution.converged & is_usable, gap)
    return differentiable_descriptor(solved, gradient), info


def _precision(problem: Problem, squares: tf.Tensor, internal_dtype: InternalDtype) -> Precision:
    """Chooses float32 or float64 for the sequences of a batch; `squares` are |v_t|^2, `(B, T)`."""
    dtype = problem.frames.dtype
    if dtype == tf.float64 or internal_dtype != "auto":
        return Precision(tf.float64 if internal_dtype == "float64" else dtype, None)
    sum_of_squares = tf.reduce_sum(tf.where(problem.is_frame, squares, 0), axis=1)
    return Precision(dtype, problem.c * tf.cast(sum_of_squares, tf.float64) > _LARGEST_SCALE_IN_FLOAT32)


def _all_finite(values: tf.Tensor) -> tf.Tensor:
    return tf.reduce_all(tf.math.is_finite(values))


def _is_usable(problem: Problem, squares: tf.Tensor) -> tf.Tensor:
    """Returns whether each sequence can be solved, `(B,)` bool: finite numbers, c > 0 and epsilon >= 0.

    `squares` `(B, T)` are the squared norms of the frames.
    """
    is_fine = tf.math.is_finite(squares) & tf.math.is_finite(problem.targets)
    is_c_fine = (problem.c > 0) & tf.math.is_finite(problem.c)
    is_epsilon_fine = (problem.epsilon >= 0) & tf.math.is_finite(problem.epsilon)
    return tf.reduce_all(is_fine | ~problem.is_frame, axis=1) & is_c_fine & is_epsilon_fine


@keras.saving.register_keras_serializable("yt8m")
class RankPooling(keras.layers.Layer):
    """Rank pooling layer: frames `(B, T, D)` to a descriptor `(B, D)`, or `(B, 2 D)` for both directions of time.

        z_t = L2(sqrt(mean_(i <= t) x_i)),   u = rank_pool(z)

    where sqrt is signed and the three steps of z are optional. Computed and returned in float32 (float64 for float64
    frames) under every dtype policy, because |u| may exceed the range of float16.

    Args:
        c: the weight of the regression loss against the norm of u; with `learns_c`, its initial value.
        epsilon: the half width of the tube in which errors cost nothing.
        learns_c: whether log(c) is a trainable weight.
        method: `rank_pool`, or `approximate` for `approximate_rank_pool`, which ignores c, epsilon and gradient.
        gradient: `exact`, `diagonal` or `sherman_morrison`, as for `rank_pool`.
        relative_targets: whether the targets are t / N instead of t, so that |u| does not grow with the length N.
        takes_running_mean: whether to replace frame t by the mean of frames 1 to t.
        takes_signed_sqrt: whether to take sign(v) sqrt|v| of every feature.
        takes_unit_length: whether to divide every frame by its norm.
        direction: of time: `forward`, `reverse`, or `both` for the concatenation of the two.
        internal_dtype: the solver's precision: `auto`, `float32` or `float64`, as for `rank_pool`.

    Raises:
        UserError: if a name is none of those listed, c is not above 0, or epsilon is below 0.

    Source: Fernando & Gould 2016; the order of the steps follows Fernando et al. 2015 and its released code.
    """

    def __init__(
        self,
        c: float = 1.0,
        epsilon: float = 0.1,
        *,
        learns_c: bool = False,
        method: Method = "rank_pool",
        gradient: GradientName = "exact",
        relative_targets: bool = False,
        takes_running_mean: bool = True,
        takes_signed_sqrt: bool = False,
        takes_unit_length: bool = True,
        direction: Direction = "forward",
        internal_dtype: InternalDtype = "auto",
        **kwargs: Any,
    ):
        super().__init__(**({"autocast": False} | kwargs))
        _check_numbers(c, epsilon)
        check_one_of(get_args(Method), method=method)
        check_one_of(get_args(GradientName), gradient=gradient)
        check_one_of(get_args(Direction), direction=direction)
        check_one_of(get_args(InternalDtype), internal_dtype=internal_dtype)
        self.c, self.epsilon, self.learns_c = float(c), float(epsilon), learns_c
        self.method, self.gradient, self.direction = method, gradient, direction
        self.relative_targets, self.internal_dtype = relative_targets, internal_dtype
        self.takes_running_mean, self.takes_signed_sqrt = takes_running_mean, takes_signed_sqrt
        self.takes_unit_length = takes_unit_length
        # XLA gives the same results, but its Cholesky factorisation on a CPU is far slower: jit_compile="auto" must not
        # choose it.
        self.supports_jit = False

    def build(self, frames_shape: tuple, num_frames_shape: tuple | None = None) -> None:
        """Creates the weight log(c), `()` float32, if `learns_c`."""
        if self.learns_c:
            initial = keras.initializers.Constant(float(tf.math.log(self.c)))
            self.log_c = self.add_weight(name="log_c", shape=(), initializer=initial, dtype="float32")

    def call(self, frames: tf.Tensor, num_frames: tf.Tensor | None = None) -> tf.Tensor:
        """Pools each sequence of a batch.

        Args:
            frames: `(B, T, D)` float.
            num_frames: `(B,)` int, the number of real frames; None for T.

        Returns:
            u, `(B, D)`, or `(B, 2 D)` for both directions, float32, or float64 for float64 frames.
        """
        if frames.dtype != tf.float64:
            frames = tf.cast(frames, tf.float32)
        if self.direction == "both":
            return forward_and_reverse(self._pool, frames, num_frames)
        return self._pool(reversed_frames(frames, num_frames) if self.direction == "reverse" else frames, num_frames)

    def _pool(self, frames: tf.Tensor, num_frames: tf.Tensor | None) -> tf.Tensor:
        if self.takes_running_mean:
            frames = running_mean(frames, num_frames)
        if self.takes_signed_sqrt:
            frames = signed_sqrt(frames)
        if self.takes_unit_length:
            frames = unit_length(frames)
        if self.method == "approximate":
            return approximate_rank_pool(frames, num_frames, includes_running_mean=False)
        return rank_pool(
            frames,
            num_frames,
            c=tf.exp(tf.convert_to_tensor(self.log_c)) if self.learns_c else self.c,
            epsilon=self.epsilon,
            gradient=self.gradient,
            targets=_relative_times(frames, num_frames) if self.relative_targets else None,
            internal_dtype=self.internal_dtype,
        )

    def compute_output_shape(self, frames_shape: tuple, num_frames_shape: tuple | None = None) -> tuple:
        """Returns the shape of the descriptors, `(B, D)`, or `(B, 2 D)` for `direction=both`."""
        batch, _, size = frames_shape
        return batch, size if size is None or self.direction != "both" else 2 * size

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments by name, as Keras needs them to rebuild the layer."""
        return super().get_config() | {name: getattr(self, name) for name in _LAYER_ARGUMENTS}


_LAYER_ARGUMENTS = (
    "c",
    "epsilon",
    "learns_c",
    "method",
    "gradient",
    "relative_targets",
    "takes_running_mean",
    "takes_signed_sqrt",
    "takes_unit_length",
    "direction",
    "internal_dtype",
)


def _relative_times(frames: tf.Tensor, num_frames: tf.Tensor | None) -> tf.Tensor:
    """Returns t / N for t = 1 ... T, `(B, T)` float64, N the number of real frames of each sequence."""
    lengths = tf.reduce_sum(tf.cast(is_frame(frames, num_frames), tf.float64), axis=1, keepdims=True)
    return tf.cast(tf.range(1, tf.shape(frames)[1] + 1), tf.float64) / tf.maximum(lengths, 1)
