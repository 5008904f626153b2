"""The derivative of rank pooling by implicit differentiation, with the final factorisation of the solver."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import tensorflow as tf

from yt8m.errors import UserError
from yt8m.rankpool.precision import Precision, are_all, as_dtype, only, select
from yt8m.rankpool.solver import Problem, Solution, factorised, regression_system

GradientName = Literal["exact", "diagonal", "sherman_morrison"]


class Solved(NamedTuple):
    """A rank pooling problem as given, as solved, and its solution.

    Attributes:
        given: the problem that is differentiated; padding may have any values.
        finite: the problem that was solved, from `finite_problem`; constant, no gradient flows through it.
        is_usable: `(B,)` bool, whether the sequence could be solved; if not, descriptor and gradient are NaN.
        solution: the solution of `finite`; constant.
        factor: `(B, T, T)` float, the solver's Cholesky factor, or None to compute it again. Not used for sequences
            that were solved in float64 among float32 ones.
        precision: the precision in which each sequence was solved.
    """

    given: Problem
    finite: Problem
    is_usable: tf.Tensor
    solution: Solution
    factor: tf.Tensor | None
    precision: Precision


class _Derivatives(NamedTuple):
    """The derivatives of the loss L with respect to the fields of a `Problem`, each of the shape of its field."""

    frames: tf.Tensor
    targets: tf.Tensor
    c: tf.Tensor
    epsilon: tf.Tensor


def differentiable_descriptor(solved: Solved, gradient: GradientName) -> tf.Tensor:
    """Returns the `(B, D)` descriptor, differentiable in frames, targets, c and epsilon of the given problem.

    On the active frames the optimality condition u = sum alpha_t v_t, alpha_t = c (y_t - u.v_t - s_t epsilon), holds
    under small changes. With its Hessian H = I + c * sum over active v_t v_t^T, g = dL/du, z = H^-1 g and, on active
    frames, beta_t = c z.v_t:

        dL/dv_t = alpha_t z - beta_t u                dL/dy_t = beta_t
        dL/dc = sum alpha_t z.v_t / c                 dL/depsilon = - sum s_t beta_t

    Args:
        solved: the problem and its solution.
        gradient: `exact`; `diagonal`, which replaces H by its diagonal; or `sherman_morrison`, which computes H^-1 by
            one rank-one update per frame in O(T D^2), the paper's algorithm, kept as a reference.

    Source: Fernando & Gould 2016, equations 20 and 21 with the signs that finite differences confirm, and Lemma 3.
    """
    given = solved.given

    @tf.custom_gradient
    def descriptor(frames: tf.Tensor, targets: tf.Tensor, c: tf.Tensor, epsilon: tf.Tensor) -> tuple:
        pooled = tf.cast(solved.solution.descriptor, frames.dtype)
        pooled = tf.where(tf.expand_dims(solved.is_usable, 1), pooled, math.nan)
        inputs = solved._replace(given=Problem(frames, given.is_frame, targets, c, epsilon))
        return pooled, lambda upstream: _first_derivatives(inputs, upstream, gradient)

    return descriptor(given.frames, given.targets, given.c, given.epsilon)


def finite_problem(problem: Problem, is_usable: tf.Tensor) -> Problem:
    """Sets padding and all frames and targets of unusable sequences to 0; the latter get c = 1 and epsilon = 0.

    Args:
        problem: the problem to be differentiated, whose numbers may be NaN or infinite.
        is_usable: `(B,)` bool, False for a sequence with a number that is not finite or out of range.
    """
    # By tf.where, because a product with a mask would keep NaN.
    is_frame = problem.is_frame & tf.expand_dims(is_usable, 1)
    return Problem(
        frames=tf.where(tf.expand_dims(is_frame, 2), problem.frames, 0),
        is_frame=is_frame,
        targets=tf.where(is_frame, problem.targets, 0),
        c=tf.where(is_usable, problem.c, 1),
        epsilon=tf.where(is_usable, problem.epsilon, 0),
    )


def _first_derivatives(solved: Solved, upstream: tf.Tensor, gradient: GradientName) -> _Derivatives:
    """Returns the derivatives of the loss L by frames, targets, c and epsilon, from `upstream` = dL/du `(B, D)`.

    They can be differentiated again, unless `gradient` is `diagonal`. A sequence with NaN in `upstream` has NaN
    derivatives, but those by its padding are 0.
    """
    given = solved.given
    is_known = solved.is_usable & tf.reduce_all(tf.math.is_finite(upstream), axis=-1)

    @tf.custom_gradient
    def derivatives(
        frames: tf.Tensor, targets: tf.Tensor, c: tf.Tensor, epsilon: tf.Tensor, upstream: tf.Tensor
    ) -> tuple:
        inputs = Problem(frames, given.is_frame, targets, c, epsilon)
        values = _derivatives_of_solution(solved, is_known, upstream, gradient)

        def second(*second_upstreams: tf.Tensor) -> list[tf.Tensor]:
            if gradient == "diagonal":
                raise UserError(
                    "rank_pool(gradient='diagonal') has no second derivative: its first one is an approximation. "
                    "Use gradient='exact' where a gradient is differentiated again."
                )
            return _second_derivatives(inputs, is_known, solved.solution.signs, upstream, second_upstreams)

        return values, second

    return _Derivatives(*derivatives(given.frames, given.targets, given.c, given.epsilon, upstream))


def _derivatives_of_solution(
    solved: Solved, is_known: tf.Tensor, upstream: tf.Tensor, gradient: GradientName
) -> _Derivatives:
    solution, dtype = solved.solution, solved.given.frames.dtype
    upstream = tf.where(is_known[:, tf.newaxis], upstream, 0)
    z, z_dot_frames = _solve_hessian(solved, upstream, _HESSIAN_SOLVES[gradient])
    # Where the factorisation was lost z is garbage, and even a weight of 0 would carry that into the padding.
    z = tf.where(is_known[:, tf.newaxis], z, 0)
    c, alpha, signs = (tf.cast(x, dtype) for x in (solved.finite.c[:, tf.newaxis], solution.alpha, solution.signs))
    is_kept = is_known[:, tf.newaxis] | ~solved.given.is_frame
    alpha = tf.where(is_kept, alpha, math.nan)
    beta = tf.where(is_kept, c * z_dot_frames, math.nan)
    for_c = tf.where(is_known, tf.reduce_sum(alpha / c * z_dot_frames, axis=-1), math.nan)
    descriptor = tf.where(is_known[:, tf.newaxis], tf.cast(solution.descriptor, dtype), 0)
    for_epsilon = -tf.reduce_sum(signs * beta, axis=-1)
    small = (tf.cast(x, solved.given.targets.dtype) for x in (beta, for_c, for_epsilon))
    return _Derivatives(_rank_two(alpha, z, -beta, descriptor), *small)


def _rank_two(a: tf.Tensor, x: tf.Tensor, b: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Returns a x^T + b y^T, `(B, T, D)`, of a and b `(B, T)`, x and y `(B, D)`, as one matrix product."""
    return tf.matmul(tf.stack([a, b], axis=2), tf.stack([x, y], axis=1))


class _Active(NamedTuple):
    """The parts of the Hessian H = I + c * sum over active frames of v_t v_t^T, in one dtype.

    Attributes:
        problem: the problem, whose frames v and c are used.
        signs: `(B, T)` float, not 0 for active frames.
        factor: `(B, T, T)`, the solver's Cholesky factor, or None to compute it.
    """

    problem: Problem
    signs: tf.Tensor
    factor: tf.Tensor | None


# Of g `(B, D)`: z = H^-1 g, and the products z.v_t `(B, T)`, 0 for frames that are not active.
_HessianSolve = Callable[[_Active, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def _solve_hessian(solved: Solved, upstream: tf.Tensor, hessian_solve: _HessianSolve) -> tuple[tf.Tensor, tf.Tensor]:
    """Applies `hessian_solve` to each sequence in the precision in which it was solved.

    Returns z = H^-1 g `(B, D)` for g = `upstream` `(B, D)`, and z.v_t `(B, T)`, of the dtype of `upstream`.
    """
    signs, is_wide = solved.solution.signs, solved.precision.is_wide

    def solve_in(dtype: tf.DType, problem: Problem, factor: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        own_signs = tf.where(problem.is_frame, tf.cast(signs, dtype), 0)
        z, z_dot_frames = hessian_solve(_Active(as_dtype(problem, dtype), own_signs, factor), tf.cast(upstream, dtype))
        return tf.cast(z, upstream.dtype), tf.cast(z_dot_frames, upstream.dtype)

    if is_wide is None:
        return solve_in(solved.precision.dtype, solved.finite, solved.factor)
    nothing = lambda: (tf.zeros_like(upstream), tf.zeros_like(signs))  # noqa: E731
    wide = tf.cond(tf.reduce_any(is_wide), lambda: solve_in(tf.float64, only(solved.finite, is_wide), None), nothing)
    narrow = tf.cond(
        are_all(is_wide), nothing, lambda: solve_in(tf.float32, only(solved.finite, ~is_wide), solved.factor)
    )
    z, z_dot_frames = select(is_wide, wide, narrow)
    return z, z_dot_frames


def _exact(active: _Active, upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns z = H^-1 g and z.v_t for g = `upstream`, by the solver's T x T factor (Woodbury identity)."""
    problem, factor = active.problem, active.factor
    if factor is None:
        factor = factorised(regression_system(problem.frames, problem.c), active.signs)
    projected = tf.where(active.signs != 0, tf.linalg.matvec(problem.frames, upstream), 0)
    beta = tf.linalg.cholesky_solve(factor, projected[..., tf.newaxis])[..., 0]
    beta = tf.where(active.signs != 0, beta, 0)
    return upstream - tf.linalg.matvec(problem.frames, beta, transpose_a=True), beta / problem.c[:, tf.newaxis]


def _diagonal(active: _Active, upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns z = g / diag(H) and z.v_t for g = `upstream`."""
    problem = active.problem
    is_active = tf.cast(active.signs != 0, upstream.dtype)
    sum_of_squares = tf.linalg.matvec(tf.square(problem.frames), is_active, transpose_a=True)
    return _with_dot_products(active, upstream / (1 + problem.c[:, tf.newaxis] * sum_of_squares))


def _sherman_morrison(active: _Active, upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns z = H^-1 g and z.v_t for g = `upstream`, with H^-1 `(B, D, D)` by one rank-one update per frame."""
    scaled = tf.sqrt(active.problem.c)[:, tf.newaxis, tf.newaxis] * active.problem.frames
    updates = tf.transpose(tf.where(active.signs[..., tf.newaxis] != 0, scaled, 0), [1, 0, 2])
    # One more frame, of zeros, changes nothing; without any, XLA would refuse to read from an empty list.
    updates = tf.pad(updates, [[0, 1], [0, 0], [0, 0]])

    def update(inverse: tf.Tensor, frame: tf.Tensor) -> tf.Tensor:
        x = tf.linalg.matvec(inverse, frame)
        shrink = 1 + tf.reduce_sum(x * frame, axis=-1)[:, tf.newaxis, tf.newaxis]
        return inverse - x[:, :, tf.newaxis] * x[:, tf.newaxis, :] / shrink

    _, batch, size = tf.unstack(tf.shape(updates))
    inverse = tf.foldl(update, updates, tf.eye(size, batch_shape=[batch], dtype=updates.dtype))
    return _with_dot_products(active, tf.linalg.matvec(inverse, upstream))


def _with_dot_products(active: _Active, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return z, tf.where(active.signs != 0, tf.linalg.matvec(active.problem.frames, z), 0)


_HESSIAN_SOLVES: dict[str, _HessianSolve] = {
    "exact": _exact,
    "diagonal": _diagonal,
    "sherman_morrison": _sherman_morrison,
}


def _second_derivatives(
    given: Problem,
    is_known: tf.Tensor,
    signs: tf.Tensor,
    upstream: tf.Tensor,
    second_upstreams: tuple[tf.Tensor, ...],
) -> list[tf.Tensor]:
    """Differentiates the first derivatives by automatic differentiation of their closed form on the active set."""
    sources = [given.frames, given.targets, given.c, given.epsilon, upstream]
    with tf.GradientTape() as tape:
        tape.watch(sources)
        finite_upstream = tf.cast(tf.where(is_known[:, tf.newaxis], upstream, 0), tf.float64)
        problem = as_dtype(finite_problem(given, is_known), tf.float64)
        first = _closed_form_derivatives(problem, tf.cast(signs, tf.float64), finite_upstream)
    wide_upstreams = [tf.cast(x, tf.float64) for x in second_upstreams]
    seconds = tape.gradient(first, sources, output_gradients=wide_upstreams)
    is_kept = is_known[:, tf.newaxis] | ~given.is_frame
    kept = [is_kept[..., tf.newaxis], is_kept, is_known, is_known, is_known[:, tf.newaxis]]
    return [tf.where(mask, value, math.nan) for mask, value in zip(kept, seconds, strict=True)]


def _closed_form_derivatives(problem: Problem, signs: tf.Tensor, upstream: tf.Tensor) -> list[tf.Tensor]:
    """Returns the exact first derivatives in float64, computed by operations that TensorFlow can differentiate."""
    is_active, c = signs != 0, problem.c[:, tf.newaxis]
    factor = factorised(regression_system(problem.frames, problem.c), signs)
    right = tf.where(is_active, problem.targets - signs * problem.epsilon[:, tf.newaxis], 0)
    projected = tf.where(is_active, tf.linalg.matvec(problem.frames, upstream), 0)
    both = tf.linalg.cholesky_solve(factor, tf.stack([right, projected], axis=-1))
    alpha, beta = (tf.where(is_active, both[..., i], 0) for i in range(2))
    u = tf.linalg.matvec(problem.frames, alpha, transpose_a=True)
    z = upstream - tf.linalg.matvec(problem.frames, beta, transpose_a=True)
    for_c = tf.reduce_sum(alpha * beta / tf.square(c), axis=-1)
    return [_rank_two(alpha, z, -beta, u), beta, for_c, -tf.reduce_sum(signs * beta, axis=-1)]
