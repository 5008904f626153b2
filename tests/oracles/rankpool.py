"""Rank pooling from its definition, in float64 NumPy and in the primal: nothing here knows of a T x T system.

P(u) = |u|^2 / 2 + c / 2 * sum over frames of max(0, |y_t - u.v_t| - epsilon)^2
"""

import math

import numpy as np
from hypothesis import strategies as st

# Shape of a batch of hostile problems.
LONGEST, WIDEST = 40, 30
# A problem, or a batch of them: frames, num_frames, c, epsilon.
Hostile = dict[str, np.ndarray]
KINDS = ("walk", "gaussian", "duplicates", "collinear", "rectified", "bytes", "ramp", "zero")


def objective(u: np.ndarray, frames: np.ndarray, targets: np.ndarray, c: float, epsilon: float) -> float:
    """Returns P(u) for one sequence: frames `(T, D)`, targets `(T,)`."""
    outside = np.maximum(np.abs(targets - frames @ u) - epsilon, 0)
    return u @ u / 2 + c / 2 * np.sum(outside**2)


def slope(u: np.ndarray, frames: np.ndarray, targets: np.ndarray, c: float, epsilon: float) -> np.ndarray:
    """Returns the gradient of P, `(D,)`; P is 1-strongly convex, so its norm bounds the distance to the optimum."""
    residual = targets - frames @ u
    return u - c * frames.T @ (np.sign(residual) * np.maximum(np.abs(residual) - epsilon, 0))


def optimum(frames: np.ndarray, targets: np.ndarray, c: float, epsilon: float) -> np.ndarray:
    """Minimises P by Newton steps, halved until P falls enough, for c growing up to the one asked for.

    P is a ridge regression wherever the set of frames outside the tube stands still, so the last step is exact. Least
    squares instead of normal equations, because they square the condition.
    """
    u = np.zeros(frames.shape[1])
    for weight in np.geomspace(min(c, 1e-4), c, 1 + math.ceil(2 * math.log10(max(c / 1e-4, 1)))):
        u = _newton(u, frames, targets, weight, epsilon)
    return u


def _newton(u: np.ndarray, frames: np.ndarray, targets: np.ndarray, c: float, epsilon: float) -> np.ndarray:
    """Ends where the frames outside the tube stand still, or where P does not fall any more that can be told."""
    best = u
    for _ in range(200):
        target = _ridge(u, frames, targets, c, epsilon)
        best = min((best, u, target), key=lambda w: np.linalg.norm(slope(w, frames, targets, c, epsilon)))
        if np.array_equal(_sides(u, frames, targets, epsilon), _sides(target, frames, targets, epsilon)):
            return target
        value, fall = objective(u, frames, targets, c, epsilon), slope(u, frames, targets, c, epsilon) @ (u - target)
        if fall <= 1e-28 * value:
            return best
        steps = 0.5 ** np.arange(40)
        values = [objective(u + step * (target - u), frames, targets, c, epsilon) for step in steps]
        is_enough = np.array(values) <= value - 0.25 * steps * fall
        if not is_enough.any():
            return best
        u = u + steps[np.argmax(is_enough)] * (target - u)
    raise AssertionError("the reference solver did not converge")


def _sides(u: np.ndarray, frames: np.ndarray, targets: np.ndarray, epsilon: float) -> np.ndarray:
    residual = targets - frames @ u
    return np.where(np.abs(residual) > epsilon, np.sign(residual), 0)


def _ridge(u: np.ndarray, frames: np.ndarray, targets: np.ndarray, c: float, epsilon: float) -> np.ndarray:
    """argmin |w|^2 / 2 + c / 2 * sum over frames outside the tube of u of (y_t - side_t epsilon - w.v_t)^2."""
    sides = _sides(u, frames, targets, epsilon)
    rows = math.sqrt(c) * frames[sides != 0]
    right = math.sqrt(c) * (targets - sides * epsilon)[sides != 0]
    stacked = np.concatenate([rows, np.eye(frames.shape[1])])
    return _least_squares(stacked, np.concatenate([right, np.zeros(frames.shape[1])]))


def _least_squares(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    q, r = np.linalg.qr(matrix)
    return np.linalg.solve(r, q.T @ right)


def compressed(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotates long frames into the space that they span: `(T, T)` coordinates and its `(D, T)` basis.

    P does not change under a rotation, and its optimum lies in that space.
    """
    basis, coordinates = np.linalg.qr(frames.T)
    return coordinates.T, basis


def rank_pool(frames: np.ndarray, targets: np.ndarray, c: float, epsilon: float) -> np.ndarray:
    """The optimum `(D,)`, for frames of any size."""
    if frames.shape[1] <= frames.shape[0]:
        return optimum(frames, targets, c, epsilon)
    coordinates, basis = compressed(frames)
    return basis @ optimum(coordinates, targets, c, epsilon)


def hessian(u: np.ndarray, frames: np.ndarray, targets: np.ndarray, c: float, epsilon: float) -> np.ndarray:
    """I + c sum over frames outside the tube of v_t v_t^T, `(D, D)`."""
    outside = frames[_sides(u, frames, targets, epsilon) != 0]
    return np.eye(frames.shape[1]) + c * outside.T @ outside


def solve_hessian(
    u: np.ndarray, upstream: np.ndarray, frames: np.ndarray, targets: np.ndarray, c: float, epsilon: float
) -> np.ndarray:
    """H^-1 g, as least squares in the span of the frames; what is orthogonal to them H leaves alone."""
    if frames.shape[1] > frames.shape[0]:
        coordinates, basis = compressed(frames)
        inside = basis.T @ upstream
        return upstream - basis @ inside + basis @ solve_hessian(basis.T @ u, inside, coordinates, targets, c, epsilon)
    outside = math.sqrt(c) * frames[_sides(u, frames, targets, epsilon) != 0]
    _, r = np.linalg.qr(np.concatenate([outside, np.eye(frames.shape[1])]))
    return np.linalg.solve(r, np.linalg.solve(r.T, upstream))


def pull_back(
    u: np.ndarray, z: np.ndarray, frames: np.ndarray, targets: np.ndarray, c: float, epsilon: float
) -> Hostile:
    """Derivatives of g.u, frame by frame, with z = H^-1 g: differentiate u = c sum psi(y_t - u.v_t) v_t on both sides.

    With e_t = psi(y_t - u.v_t), outside the tube,

        H du = c sum (e_t dv_t - (u.dv_t) v_t + dy_t v_t - s_t deps v_t) + u/c dc.
    """
    residual, sides = targets - frames @ u, _sides(u, frames, targets, epsilon)
    derivatives = {"frames": np.zeros_like(frames), "targets": np.zeros_like(targets), "epsilon": np.zeros(())}
    for t in np.flatnonzero(sides):
        excess = residual[t] - sides[t] * epsilon
        derivatives["frames"][t] = c * (excess * z - (z @ frames[t]) * u)
        derivatives["targets"][t] = c * (z @ frames[t])
        derivatives["epsilon"] -= c * sides[t] * (z @ frames[t])
    return derivatives | {"c": z @ u / c}


def margin(u: np.ndarray, frames: np.ndarray, targets: np.ndarray, epsilon: float) -> float:
    """How far the frame nearest to the rim of the tube is from it: the gradient jumps where this is 0."""
    return float(np.min(np.abs(np.abs(targets - frames @ u) - epsilon), initial=np.inf))


def hostile_frames(kind: str, rng: np.random.Generator, longest: int, size: int) -> np.ndarray:
    """Returns `(T, D)` frames of one kind."""
    noise = rng.standard_normal((longest, size))
    if kind == "walk":
        return np.cumsum(noise, axis=0)
    if kind == "duplicates":
        return noise[np.sort(rng.integers(0, max(longest // 4, 1), longest))]
    if kind == "collinear":
        return noise[:, :1] * noise[:1, :]
    if kind == "rectified":
        return np.maximum(noise - 0.5, 0)
    if kind == "bytes":
        return np.round(40 * noise) / 32
    if kind == "ramp":
        return np.arange(1, longest + 1)[:, np.newaxis] * noise[:1] / longest + 1e-3 * noise
    return noise * (kind != "zero")


@st.composite
def hostile_problems(draw: st.DrawFn) -> Hostile:
    """One problem: frames in rows whose scales may lie six decades apart, c over seven decades, epsilon 0 to 10."""
    longest, size = draw(st.integers(1, LONGEST)), draw(st.integers(1, WIDEST))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    frames = hostile_frames(draw(st.sampled_from(KINDS)), rng, longest, size)
    decades = draw(st.sampled_from((0, 0, 1, 3)))
    frames = frames * 10 ** rng.uniform(-decades, decades, (longest, 1))
    return {
        "frames": frames,
        "c": np.float64(10 ** draw(st.floats(-3, 4))),
        "epsilon": np.float64(draw(st.sampled_from((0.0, 0.1, 0.5, 1.0, 2.0, 10.0)) | st.floats(0, 10))),
        "num_frames": np.int32(draw(st.integers(0, longest) | st.just(longest))),
    }


def batch_of_problems(problems: list[Hostile]) -> Hostile:
    """Pads problems to one shape with zeros: neither a zero frame after the end nor a zero feature counts."""
    frames = np.zeros((len(problems), LONGEST, WIDEST))
    for row, problem in zip(frames, problems, strict=True):
        length, size = problem["frames"].shape
        row[:length, :size] = problem["frames"]
    return {"frames": frames} | {name: np.stack([p[name] for p in problems]) for name in ("c", "epsilon", "num_frames")}


def stationarity(batch: Hostile, u: np.ndarray) -> np.ndarray:
    """Returns the norm of u - sum alpha_t v_t, alpha_t = c psi(y_t - u.v_t), relative to what rounding moves, `(B,)`.

    A change of the size of sum |alpha_t| |v_t| in u, or of y_t in a residual, comes back times c |v_t| in each alpha_t.
    """
    times = np.arange(1, batch["frames"].shape[1] + 1)
    is_frame = times <= batch["num_frames"][:, np.newaxis]
    c, epsilon = batch["c"][:, np.newaxis], batch["epsilon"][:, np.newaxis]
    residual = times - np.einsum("btd,bd->bt", batch["frames"], u)
    alpha = c * np.sign(residual) * np.maximum(np.abs(residual) - epsilon, 0) * is_frame
    lengths = np.linalg.norm(batch["frames"], axis=-1) * is_frame
    left = np.linalg.norm(u - np.einsum("bt,btd->bd", alpha, batch["frames"]), axis=-1)
    size = np.linalg.norm(u, axis=-1) + np.sum(np.abs(alpha) * lengths, axis=-1)
    moved = size * (1 + np.sum(c * lengths**2, axis=-1)) + np.sum(c * lengths * times, axis=-1)
    return left / (moved + np.finfo(float).tiny)
