"""Which sequences are computed in float64, and a computation in both precisions at once."""

from typing import NamedTuple

import tensorflow as tf

from yt8m.rankpool.solver import Problem, Solution, solve

# Norm of the frames' parts alpha_t v_t over that of their sum, above which float32 would lose digits that matter, where
# c * sum |v_t|^2 is at most 1e3: errors were up to 32 roundings times this (docs/rank-pooling.md).
_LARGEST_CANCELLATION = 2.0


class Precision(NamedTuple):
    """One precision for all sequences, or float32 for some and float64 for others.

    Attributes:
        dtype: of all sequences, unless `is_wide` says otherwise.
        is_wide: None, or `(B,)` bool: sequences that are computed in float64 while the others use float32.
    """

    dtype: tf.DType
    is_wide: tf.Tensor | None


def solve_in(
    precision: Precision, problem: Problem, squares: tf.Tensor
) -> tuple[Precision, Solution, tf.Tensor | None]:
    """Solves each sequence in its precision, and once more in float64 where float32 turned out to lose digits.

    Args:
        precision: of the first attempt.
        problem: finite, in the dtype of its frames.
        squares: `(B, T)`, |v_t|^2.

    Returns:
        The precision of the solution; the solution, in float32 where precisions differ; and the factor of the solver.
        Of float64 sequences among others there is no factor: room for it would cost every batch.
    """
    if precision.is_wide is None:
        return precision, *solve(as_dtype(problem, precision.dtype))
    is_wide = precision.is_wide
    batch, longest, _ = tf.unstack(tf.shape(problem.frames))

    def narrow() -> tuple[Solution, tf.Tensor]:
        return solve(as_dtype(only(problem, ~is_wide), tf.float32))

    def nothing_narrow() -> tuple[Solution, tf.Tensor]:
        return _no_solution(problem), tf.zeros([batch, longest, longest], tf.float32)

    narrow_solution, factor = tf.cond(are_all(is_wide), nothing_narrow, narrow)
    is_wide |= _is_rough(problem, squares, narrow_solution)

    def wide() -> Solution:
        return _in_float32(solve(as_dtype(only(problem, is_wide), tf.float64))[0])

    wide_solution = tf.cond(tf.reduce_any(is_wide), wide, lambda: _no_solution(problem))
    return precision._replace(is_wide=is_wide), Solution(*select(is_wide, wide_solution, narrow_solution)), factor


def _is_rough(problem: Problem, squares: tf.Tensor, solution: Solution) -> tf.Tensor:
    """Whether frames cancel in u = sum alpha_t v_t, so that the rounding of each weighs more in what is left."""
    parts = tf.reduce_sum(tf.where(problem.is_frame, tf.square(solution.alpha) * squares, 0), axis=1)
    return parts > _LARGEST_CANCELLATION**2 * tf.reduce_sum(tf.square(solution.descriptor), axis=1)


def are_all(is_wide: tf.Tensor) -> tf.Tensor:
    """False for an empty batch, which then is computed like any other."""
    return tf.reduce_any(is_wide) & tf.reduce_all(is_wide)


def only(problem: Problem, is_own: tf.Tensor) -> Problem:
    """Empties the sequences of the other precision, so that they cost no iterations and change nothing."""
    return problem._replace(is_frame=problem.is_frame & is_own[:, tf.newaxis])


def as_dtype(problem: Problem, dtype: tf.DType) -> Problem:
    """Casts the numbers of a problem; which frames there are stays as it is."""
    return Problem(*(field if field.dtype == tf.bool else tf.cast(field, dtype) for field in problem))


def select(is_wide: tf.Tensor, wide: tuple[tf.Tensor, ...], narrow: tuple[tf.Tensor, ...]) -> list[tf.Tensor]:
    """Takes each sequence, `(B,)` or `(B, N)`, from its own computation."""
    pairs = zip(wide, narrow, strict=True)
    return [tf.where(is_wide if a.shape.rank == 1 else is_wide[:, tf.newaxis], a, b) for a, b in pairs]


def _in_float32(solution: Solution) -> Solution:
    return Solution(*(tf.cast(x, tf.float32) if x.dtype == tf.float64 else x for x in solution))


def _no_solution(problem: Problem) -> Solution:
    batch, longest, size = tf.unstack(tf.shape(problem.frames))
    return Solution(
        descriptor=tf.zeros([batch, size]),
        alpha=tf.zeros([batch, longest]),
        signs=tf.zeros([batch, longest]),
        iterations=tf.zeros([batch], tf.int32),
        converged=tf.zeros([batch], tf.bool),
        is_sound=tf.zeros([batch], tf.bool),
        duality_gap=tf.zeros([batch]),
    )
