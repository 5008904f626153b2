"""Which sequences are computed in float64, and a computation in both precisions at once."""

from typing import NamedTuple

import tensorflow as tf

from yt8m.rankpool.solver import Problem, Solution, solve


class Precision(NamedTuple):
    """One precision for all sequences, or float32 for some and float64 for others.

    Attributes:
        dtype: of all sequences, unless `is_wide` says otherwise.
        is_wide: None, or `(B,)` bool: sequences that are computed in float64 while the others use float32.
    """

    dtype: tf.DType
    is_wide: tf.Tensor | None


def solve_in(precision: Precision, problem: Problem) -> tuple[Solution, tf.Tensor | None]:
    """Solves each sequence in its precision.

    Returns:
        The solution, in float32 where precisions differ, and the factor of the solver; of float64 sequences among
        others there is none: handing one through would cost every batch the memory of it.
    """
    if precision.is_wide is None:
        return solve(as_dtype(problem, precision.dtype))
    is_wide = precision.is_wide
    batch, longest, _ = tf.unstack(tf.shape(problem.frames))

    def wide() -> Solution:
        return _in_float32(solve(as_dtype(only(problem, is_wide), tf.float64))[0])

    def narrow() -> tuple[Solution, tf.Tensor]:
        return solve(as_dtype(only(problem, ~is_wide), tf.float32))

    def no_factor() -> tf.Tensor:
        return tf.zeros([batch, longest, longest], tf.float32)

    wide_solution = tf.cond(tf.reduce_any(is_wide), wide, lambda: _no_solution(problem))
    narrow_solution, factor = tf.cond(are_all(is_wide), lambda: (_no_solution(problem), no_factor()), narrow)
    return Solution(*select(is_wide, wide_solution, narrow_solution)), factor


def are_all(is_wide: tf.Tensor) -> tf.Tensor:
    """False for an empty batch, which then is computed like any other."""
    return tf.reduce_any(is_wide) & tf.reduce_all(is_wide)


def only(problem: Problem, is_own: tf.Tensor) -> Problem:
    """Empties the sequences of the other precision, so that they cost no iterations and change nothing."""
    return problem._replace(is_frame=problem.is_frame & is_own[:, tf.newaxis])


def as_dtype(problem: Problem, dtype: tf.DType) -> Problem:
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
