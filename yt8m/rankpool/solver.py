"""The rank pooling problem of a batch of sequences, and its exact solution by an active set on the dual."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

MAX_ITERATIONS = 200
# Ordinary problems take 2 to 17 full steps. Of hostile problems, about one in two hundred would cycle for ever.
_FULL_STEPS = 12
# In exact arithmetic no pivot of I / c + V V^T is below 1 / c. One below a quarter of that (0.5 is its root), or NaN,
# means that rounding has eaten the identity.
_SMALLEST_PIVOT = 0.5
# Factor of a diagonal element that uncouples its frame: the rest of its row is then below 1e-19 of it.
_UNCOUPLED = 2.0**64
# A residual must leave the tube by this many roundings of the numbers it is computed from. The alpha of a frame exactly
# on the edge may have the wrong sign at that size, and the frame would enter and leave the active set for ever.
_ROUNDINGS_ON_THE_RIM = 8


class Problem(NamedTuple):
    """The rank pooling problem of every sequence of a batch.

        minimise over u:  |u|^2 / 2 + c / 2 * sum over real frames of max(0, |y_t - u.v_t| - epsilon)^2

    Attributes:
        frames: v, `(B, T, D)` float32 or float64; the solver needs finite values, in the padding too.
        is_frame: `(B, T)` bool, the padding mask: True for real frames.
        targets: y, `(B, T)` float; the solver needs finite values, in the padding too.
        c: `(B,)` float, positive.
        epsilon: `(B,)` float, not negative.
    """

    frames: tf.Tensor
    is_frame: tf.Tensor
    targets: tf.Tensor
    c: tf.Tensor
    epsilon: tf.Tensor


class Solution(NamedTuple):
    """The solution of a `Problem`, with float fields in its dtype.

    Attributes:
        descriptor: `(B, D)`, u = sum over frames of alpha_t v_t.
        alpha: `(B, T)`, the dual solution: at the optimum c sign(r_t) max(0, |r_t| - epsilon), r_t = y_t - u.v_t.
        signs: `(B, T)` in {-1, 0, 1}, the sign of r_t for frames outside the epsilon tube, 0 inside.
        iterations: `(B,)` int32, the linear systems solved until `signs` stopped changing.
        converged: `(B,)` bool, whether `signs` stopped changing and `is_sound`.
        is_sound: `(B,)` bool, False if the factorisation was lost to rounding.
        duality_gap: `(B,)`, primal minus dual objective, an upper bound of |u - optimum|^2 / 2.
    """

    descriptor: tf.Tensor
    alpha: tf.Tensor
    signs: tf.Tensor
    iterations: tf.Tensor
    converged: tf.Tensor
    is_sound: tf.Tensor
    duality_gap: tf.Tensor


class _Point(NamedTuple):
    """An iterate of the solver: alpha of u = sum alpha_t v_t, and the residuals y_t - u.v_t, `(B, T)` float each."""

    alpha: tf.Tensor
    residual: tf.Tensor


class _Step(NamedTuple):
    """The state of the solver: `target` solves the linear system for `signs`, and `wanted` are the signs it implies."""

    point: _Point
    signs: tf.Tensor
    target: _Point
    wanted: tf.Tensor
    factor: tf.Tensor
    is_sound: tf.Tensor


def solve(problem: Problem) -> tuple[Solution, tf.Tensor]:
    """Solves every sequence of a batch exactly, up to rounding.

    For signs s the optimality conditions are one linear system over the frames with s_t != 0,

        (I / c + V V^T) alpha = y - s epsilon,

    with V the frames and y the targets. Its solution determines the signs of the next system: a semismooth Newton step
    of the primal. The first 12 steps are taken in full; most problems converge within three. Since full steps can
    cycle, later ones use an exact line search, which always converges, because the objective is strongly convex and
    piecewise quadratic. Signs that no longer change are optimal. A converged sequence keeps its signs while others
    iterate.

    Returns:
        The solution, and the Cholesky factor `(B, T, T)` of its last system, see `factorised`; undefined where
        `is_sound` is False.

    Source: the primal of Fernando & Gould 2016, equation 5, by the active set method of Hintermueller, Ito & Kunisch
    2002; exact line search for piecewise quadratics as in Mangasarian 2002 ("A finite Newton method").
    """
    system = regression_system(problem.frames, problem.c)
    start = _Point(tf.zeros_like(problem.targets), problem.targets)
    first = _newton_step(problem, system, start, _signs_outside_tube(problem, problem.targets))

    def advance(count: tf.Tensor, iterations: tf.Tensor, step: _Step) -> tuple[tf.Tensor, tf.Tensor, _Step]:
        iterations += tf.cast(tf.reduce_any(step.wanted != step.signs, axis=-1), tf.int32)
        point, signs = tf.cond(
            count < _FULL_STEPS, lambda: (step.target, step.wanted), lambda: _line_search(problem, step)
        )
        return count + 1, iterations, _newton_step(problem, system, point, signs)

    _, iterations, last = tf.while_loop(
        lambda count, iterations, step: tf.reduce_any(step.wanted != step.signs),
        advance,
        (tf.constant(1), tf.ones(tf.shape(first.is_sound), tf.int32), first),
        maximum_iterations=MAX_ITERATIONS - 1,
    )
    return _solution(problem, last, iterations), last.factor


def regression_system(frames: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
    """Returns I / c + V V^T, `(B, T, T)`, for V = `frames` `(B, T, D)` and `c` `(B,)`, both float."""
    gram = tf.matmul(frames, frames, transpose_b=True)
    return tf.linalg.set_diag(gram, tf.linalg.diag_part(gram) + 1 / c[:, tf.newaxis])


def factorised(system: tf.Tensor, signs: tf.Tensor) -> tf.Tensor:
    """Returns the lower Cholesky factor `(B, T, T)` of `system` `(B, T, T)`, restricted to frames with a sign.

    Frames whose `signs` `(B, T)` are 0 are uncoupled by multiplying their diagonal element by 2^64, which is cheaper
    than setting their rows and columns to 0.
    """
    diagonal = tf.linalg.diag_part(system)
    return tf.linalg.cholesky(tf.linalg.set_diag(system, tf.where(signs != 0, diagonal, diagonal * _UNCOUPLED)))


def _signs_outside_tube(problem: Problem, residual: tf.Tensor) -> tf.Tensor:
    is_outside = problem.is_frame & (tf.abs(residual) > problem.epsilon[:, tf.newaxis])
    return tf.where(is_outside, tf.sign(residual), 0)


def _newton_step(problem: Problem, system: tf.Tensor, point: _Point, signs: tf.Tensor) -> _Step:
    c, epsilon = problem.c[:, tf.newaxis], problem.epsilon[:, tf.newaxis]
    is_active = signs != 0
    factor = factorised(system, signs)
    # On a CPU a matrix that is not positive definite comes back as NaN and garbage, not as an error.
    is_sound = tf.reduce_all(tf.linalg.diag_part(factor) * tf.sqrt(c) >= _SMALLEST_PIVOT, axis=-1)
    right = tf.where(is_active, problem.targets - signs * epsilon, 0)
    alpha = tf.linalg.cholesky_solve(factor, right[..., tf.newaxis])[..., 0]
    alpha = tf.where(is_active & tf.expand_dims(is_sound, 1), alpha, 0)
    target = _Point(alpha, problem.targets - (tf.linalg.matvec(system, alpha) - alpha / c))
    rim = _rounding_of_residuals(problem, system, alpha)
    wanted = tf.where(tf.expand_dims(is_sound, 1), _wanted_signs(problem, signs, target, rim), signs)
    return _Step(point, signs, target, wanted, factor, is_sound)


def _rounding_of_residuals(problem: Problem, system: tf.Tensor, alpha: tf.Tensor) -> tf.Tensor:
    """Returns an estimate of the rounding errors of the residuals y_t - sum_j v_t.v_j alpha_j, `(B, T)`.

    The errors of the terms are taken as independent, so they add up in squares.
    """
    lengths = tf.sqrt(tf.linalg.diag_part(system))
    size = tf.abs(problem.targets) + lengths * tf.norm(lengths * alpha, axis=-1, keepdims=True)
    return _ROUNDINGS_ON_THE_RIM * np.finfo(alpha.dtype.as_numpy_dtype).eps / 2 * size


def _wanted_signs(problem: Problem, signs: tf.Tensor, target: _Point, rim: tf.Tensor) -> tf.Tensor:
    """Returns the signs `(B, T)` that follow from `target`: from alpha for active frames, from the residual for others.

    alpha / c equals |residual| - epsilon, but is more exact than a recomputed residual.
    """
    outward = signs * target.alpha
    is_across = outward < -2 * (problem.c * problem.epsilon)[:, tf.newaxis]
    judged = tf.where(outward > 0, signs, tf.where(is_across, -signs, 0))
    is_outside = tf.abs(target.residual) > problem.epsilon[:, tf.newaxis] + rim
    entering = tf.where(problem.is_frame & is_outside, tf.sign(target.residual), 0)
    return tf.where(signs != 0, judged, entering)


def _line_search(problem: Problem, step: _Step) -> tuple[_Point, tf.Tensor]:
    """Minimises the objective on the segment from `step.point` to `step.target`; returns the point and its signs.

    Converged sequences stay at their target. So do those whose slope at the target cannot be distinguished from 0 in
    the given precision: they keep `step.wanted`, which is more exact than signs from recomputed residuals.
    """
    start, target = step.point, step.target
    d = target.alpha - start.alpha
    q = tf.where(problem.is_frame, start.residual - target.residual, 0)
    c, epsilon = problem.c[:, tf.newaxis], problem.epsilon[:, tf.newaxis]
    way = _Way(start.alpha / c, d / c, start.residual, q, epsilon)
    lengths = _corners(way)
    slopes = _slopes(way, lengths)
    noise = np.finfo(slopes.dtype.as_numpy_dtype).eps ** (2 / 3) * tf.abs(slopes[:, 0])
    is_at_rest = tf.reduce_all(step.wanted == step.signs, axis=-1)
    is_inner = tf.expand_dims((slopes[:, 0] < 0) & (slopes[:, 1] > noise) & ~is_at_rest, 1)
    length = _zero_of_slope(lengths, slopes)[:, tf.newaxis]
    inner = _Point(start.alpha + length * d, start.residual - length * q)
    point = _Point(*(tf.where(is_inner, *pair) for pair in zip(inner, step.target, strict=True)))
    return point, tf.where(is_inner, _signs_outside_tube(problem, inner.residual), step.wanted)


class _Way(NamedTuple):
    """A segment of iterates: alpha / c = p + h d and residuals r - h q `(B, T)`, for step lengths 0 <= h <= 1."""

    p: tf.Tensor
    d: tf.Tensor
    r: tf.Tensor
    q: tf.Tensor
    epsilon: tf.Tensor


def _corners(way: _Way) -> tf.Tensor:
    """Returns the step lengths `(B, 2 + 2 T)` at which the slope has a kink: where a frame enters or leaves the tube.

    0 and 1 come first; lengths outside [0, 1] are clipped.
    """
    r, q = way.r, way.q
    ends = tf.tile(tf.constant([[0.0, 1.0]], r.dtype), [tf.shape(r)[0], 1])
    corners = [tf.math.divide_no_nan(r - way.epsilon, q), tf.math.divide_no_nan(r + way.epsilon, q)]
    return tf.concat([ends, *(tf.clip_by_value(corner, 0, 1) for corner in corners)], axis=-1)


def _slopes(way: _Way, lengths: tf.Tensor) -> tf.Tensor:
    """Returns the derivative by h of the objective / c at each of the step lengths h `(B, L)`: `(B, L)`.

    It increases with h and is linear between the step lengths of `_corners`:

        slope(h) = sum q_t (p_t + h d_t - psi(r_t - h q_t)),    psi(r) = sign(r) max(0, |r| - epsilon)
    """
    h = lengths[:, :, tf.newaxis]
    p, d, r, q = (x[:, tf.newaxis, :] for x in (way.p, way.d, way.r, way.q))
    left = r - h * q
    psi = tf.sign(left) * tf.nn.relu(tf.abs(left) - way.epsilon[:, :, tf.newaxis])
    return tf.reduce_sum(q * (p + h * d - psi), axis=-1)


def _zero_of_slope(lengths: tf.Tensor, slopes: tf.Tensor) -> tf.Tensor:
    """Returns the step length of slope 0, `(B,)`, by linear interpolation between the corners around it.

    The result is meaningless for sequences whose slopes all have one sign.
    """
    falls = slopes < 0
    low, high = (
        tf.reduce_max(tf.where(falls, lengths, 0), axis=-1),
        tf.reduce_min(tf.where(~falls, lengths, 1), axis=-1),
    )
    slope_low = tf.reduce_max(tf.where(falls, slopes, slopes.dtype.min), axis=-1)
    slope_high = tf.reduce_min(tf.where(~falls, slopes, slopes.dtype.max), axis=-1)
    return low - (high - low) * tf.math.divide_no_nan(slope_low, slope_high - slope_low)


def _solution(problem: Problem, step: _Step, iterations: tf.Tensor) -> Solution:
    return Solution(
        descriptor=tf.linalg.matvec(problem.frames, step.target.alpha, transpose_a=True),
        alpha=step.target.alpha,
        signs=step.signs,
        iterations=iterations,
        converged=step.is_sound & tf.reduce_all(step.wanted == step.signs, axis=-1),
        is_sound=step.is_sound,
        duality_gap=_duality_gap(problem, step.target),
    )


def _duality_gap(problem: Problem, point: _Point) -> tf.Tensor:
    """Returns primal minus dual objective, `(B,)`, as a sum of one non-negative term per frame (Fenchel-Young).

    So it is exact to rounding, where the difference of the two objectives would cancel.
    """
    c, epsilon = problem.c[:, tf.newaxis], problem.epsilon[:, tf.newaxis]
    outside = tf.nn.relu(tf.abs(point.residual) - epsilon)
    slack = epsilon + outside - tf.sign(point.alpha) * point.residual
    size = tf.abs(point.alpha)
    terms = c * tf.square(outside - size / c) / 2 + size * tf.nn.relu(slack)
    return tf.reduce_sum(tf.where(problem.is_frame, terms, 0), axis=-1)
