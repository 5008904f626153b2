"""Solving some sequences of a batch in float32 and others in float64."""

from typing import NamedTuple

import tensorflow as tf

from yt8m.rankpool.solver import Problem, Solution, solve

# Norm of the frames' parts alpha_t v_t over that of their sum, above which float32 would lose digits that matter, where
# c * sum |v_t|^2 is at most 1e3: errors were up to 32 roundings times this (docs/rank-pooling.md).
_LARGEST_CANCELLATION = 2.0


class Precision(NamedTuple):
    """The precision of each sequence: one dtype for all, or float32 for some and float64 for others.

    Attributes:
        dtype: the dtype of all sequences if `is_wide` is None.
        is_wide: `(B,)` bool, True for float64 and False for float32, or None.
    """

    dtype: tf.DType
    is_wide: tf.Tensor | None


def solve_in(
    precision: Precision, problem: Problem, squares: tf.Tensor
) -> tuple[Precision, Solution, tf.Tensor | None]:
    """Solves each sequence in its precision, and again in float64 if its frames nearly cancel in u.

    Args:
        precision: the precision of the first attempt.
        problem: a problem with finite numbers only, see `finite_problem`.
        squares: `(B, T)` float, |v_t|^2.

    Returns:
        The precision that each sequence was solved in; the solution, cast to float32 if precisions differ; and the
        solver's Cholesky factor `(B, T, T)`, valid for float32 sequences only if precisions differ, because memory for
        a float64 factor would be needed in every batch.
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
    """Returns `(B,)` bool: whether frames cancel in u = sum alpha_t v_t, which magnifies the rounding errors of u."""
    parts = tf.reduce_sum(tf.where(problem.is_frame, tf.square(solution.alpha) * squares, 0), axis=1)
    return parts > _LARGEST_CANCELLATION**2 * tf.reduce_sum(tf.square(solution.descriptor), axis=1)


def are_all(is_wide: tf.Tensor) -> tf.Tensor:
    """Returns a scalar bool: whether all of `is_wide` `(B,)` bool are True and the batch is not empty."""
    return tf.reduce_any(is_wide) & tf.reduce_all(is_wide)


def only(problem: Problem, is_own: tf.Tensor) -> Problem:
    """Masks all frames of the sequences where `is_own` `(B,)` bool is False, so that they need no iterations."""
    return problem._replace(is_frame=problem.is_frame & tf.expand_dims(is_own, 1))


def as_dtype(problem: Problem, dtype: tf.DType) -> Problem:
    """Casts all fields of a problem but the mask `is_frame` to `dtype`."""
    return Problem(*(field if field.dtype == tf.bool else tf.cast(field, dtype) for field in problem))


def select(is_wide: tf.Tensor, wide: tuple[tf.Tensor, ...], narrow: tuple[tf.Tensor, ...]) -> list[tf.Tensor]:
    """Takes each field, `(B,)` or `(B, N)`, from `wide` where `is_wide` `(B,)` bool is True, else from `narrow`."""
    pairs = zip(wide, narrow, strict=True)
    return [tf.where(is_wide if a.shape.rank == 1 else tf.expand_dims(is_wide, 1), a, b) for a, b in pairs]


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
