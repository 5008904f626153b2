"""Rank pooling: against its definition, its derivative three ways, every way to run it, and every bad input."""

import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.svm import LinearSVR

from yt8m.distribution import build_strategy
from yt8m.errors import UserError
from yt8m.rankpool import solver

from oracles import rankpool as oracle
from rankpool_ops import (
    RankPooling,
    approximate_rank_pool,
    forward_and_reverse,
    rank_pool,
    reversed_frames,
    running_mean,
    signed_sqrt,
    unit_length,
)

LENGTHS = [12, 7, 1, 0]


def frames_of(kind: str, num_frames: int, size: int, seed: int = 0) -> np.ndarray:
    """Frames `(T, D)` that float32 holds exactly, so that every precision pools the same numbers."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((num_frames, size))
    if kind == "walk":
        frames = np.cumsum(noise, axis=0)
    elif kind == "mean":
        means = np.cumsum(np.cumsum(noise, axis=0) + 3, axis=0)
        frames = means / np.linalg.norm(means, axis=1, keepdims=True)
    elif kind == "shots":
        shots = np.repeat(rng.standard_normal((num_frames // 12 + 1, size)), 12, axis=0)[:num_frames]
        frames = np.clip(np.round((shots + 0.05 * noise + 2) * 255 / 4), 0, 255) * 4 / 255 - 2
        frames[num_frames // 2] = frames[0]
    else:
        frames = np.maximum(noise, 0)
    return frames.astype(np.float32).astype(np.float64)


def batch_of_walks(size: int = 5) -> tuple[tf.Tensor, tf.Tensor]:
    """Sequences of 12, 7, 1 and 0 frames, `(4, 12, D)` float64, and their lengths."""
    return tf.constant(np.stack([frames_of("walk", 12, size, seed) for seed in range(4)])), tf.constant(LENGTHS)


def pooled(frames: Any, num_frames: Any = None, upstream: Any = None, **options: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """The descriptors, and the gradient of their product with `upstream` (of their squared norm without one)."""
    frames = tf.convert_to_tensor(frames)
    with tf.GradientTape() as tape:
        tape.watch(frames)
        u = rank_pool(frames, num_frames, **options)
    return u, tape.gradient(u, frames, output_gradients=2 * u if upstream is None else tf.cast(upstream, u.dtype))


def relative_error(value: Any, expected: np.ndarray) -> float:
    difference = np.linalg.norm(np.asarray(value, np.float64) - expected)
    return float(difference / max(np.linalg.norm(expected), np.finfo(float).tiny))


# Kind, T, D, c, epsilon.
PROBLEMS = [
    ("walk", 1, 1, 1e-3, 0.1),
    ("shots", 1, 40, 1e3, 0.0),
    ("walk", 5, 1, 1.0, 2.0),
    ("mean", 12, 64, 1e3, 0.1),
    ("shots", 12, 64, 0.1, 0.5),
    ("shots", 12, 64, 1.0, 0.1),
    ("relu", 30, 8, 30.0, 0.0),
    ("walk", 30, 200, 1e-3, 10.0),
    ("walk", 30, 200, 1.0, 0.1),
    ("shots", 60, 30, 1e-2, 10.0),
    ("shots", 60, 128, 1e3, 2.0),
    ("mean", 100, 8, 1.0, 0.1),
    ("mean", 300, 1024, 1.0, 0.1),
    ("shots", 300, 1024, 1e3, 0.1),
]


@pytest.mark.parametrize(("kind", "num_frames", "size", "c", "epsilon"), PROBLEMS)
def test_agrees_with_the_definition(kind: str, num_frames: int, size: int, c: float, epsilon: float) -> None:
    frames, times = frames_of(kind, num_frames, size), np.arange(1.0, num_frames + 1)
    u = oracle.rank_pool(frames, times, c, epsilon)
    upstream = np.random.default_rng(1).standard_normal(size)
    z = oracle.solve_hessian(u, upstream, frames, times, c, epsilon)
    gradient = oracle.pull_back(u, z, frames, times, c, epsilon)["frames"]
    scale = c * np.sum(frames**2)
    # docs/rank-pooling.md: what float64 may lose, and float32 below and above the scale that makes it use float64.
    bars = {tf.float64: (1e-9, 1e-7), tf.float32: (5e-6, 5e-5) if scale <= 1e3 else (1e-6, 2e-5)}
    for dtype, (bar, gradient_bar) in bars.items():
        if dtype == tf.float64 and scale > 1e6:
            continue
        value, value_gradient = pooled(tf.constant(frames[None], dtype), None, upstream[None], c=c, epsilon=epsilon)
        assert relative_error(value[0], u) <= bar
        assert relative_error(value_gradient[0], gradient) <= gradient_bar


def test_one_frame_by_hand() -> None:
    # v = 2, y = 1, c = 1, eps = 0.1: u = c (y - eps) v / (1 + c v^2) = 0.9 * 2 / 5 = 0.36.
    # du/dv = 0.9 (1 - v^2) / (1 + v^2)^2 = 0.9 * -3 / 25 = -0.108.
    u, gradient = pooled(tf.constant([[[2.0]]], tf.float64), upstream=tf.ones([1, 1], tf.float64))
    assert u.numpy().item() == pytest.approx(0.36, rel=1e-14)
    assert gradient.numpy().item() == pytest.approx(-0.108, rel=1e-14)


def test_orthogonal_frames_by_hand() -> None:
    # u_t = c (t - eps) / (1 + c) each by itself: 2/3 * 0.5 and 2/3 * 1.5; the third frame is 0 and pulls at nothing.
    frames = tf.constant([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]], tf.float64)
    u = rank_pool(frames, c=2.0, epsilon=0.5)
    np.testing.assert_allclose(u, [[1 / 3, 1.0]], rtol=1e-14)


def test_agrees_with_liblinear_at_half_the_constant() -> None:
    frames, num_frames = batch_of_walks()
    u = rank_pool(frames, num_frames, c=0.5, epsilon=0.3).numpy()
    for row, length in enumerate(LENGTHS[:3]):
        machine = LinearSVR(
            loss="squared_epsilon_insensitive",
            dual=False,
            C=0.25,
            epsilon=0.3,
            fit_intercept=False,
            tol=1e-10,
            max_iter=100_000,
        )
        machine.fit(frames.numpy()[row, :length], np.arange(1, length + 1))
        np.testing.assert_allclose(u[row], machine.coef_, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("frame_kind", ["walk", "shots", "relu"])
def test_gradients_agree_with_central_differences(frame_kind: str) -> None:
    """Of everything that may be learned: frames, targets, c and epsilon."""
    frames = frames_of(frame_kind, 12, 5)
    assert oracle.margin(rank_pool(frames[None], c=0.5, epsilon=0.3)[0].numpy(), frames, np.arange(1.0, 13), 0.3) > 1e-3
    inputs = [tf.constant(frames[None]), tf.constant(0.5, tf.float64), tf.constant(0.3, tf.float64)]
    inputs.append(tf.range(1, 13, dtype=tf.float64))
    rng = np.random.default_rng(2)
    upstream = rng.standard_normal((1, 5))

    def loss(*values: tf.Tensor) -> tf.Tensor:
        u = rank_pool(values[0], c=values[1], epsilon=values[2], targets=values[3])
        return tf.reduce_sum(u * upstream)

    gradients = _gradients(loss, inputs)
    for position, gradient in enumerate(gradients):
        direction = rng.standard_normal(inputs[position].shape)
        expected = _central_difference(loss, inputs, position, direction)
        assert np.sum(gradient * direction) == pytest.approx(expected, rel=1e-5)


def _gradients(function: Any, inputs: list[tf.Tensor]) -> list[tf.Tensor]:
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        value = function(*inputs)
    return tape.gradient(value, inputs)


def _central_difference(function: Any, inputs: list[tf.Tensor], position: int, direction: np.ndarray) -> float:
    step = 1e-6
    ends = [[*inputs[:position], inputs[position] + h * direction, *inputs[position + 1 :]] for h in (step, -step)]
    return float(function(*ends[0]) - function(*ends[1])) / (2 * step)


def test_gradients_agree_with_the_derivation() -> None:
    frames, times = frames_of("walk", 30, 8), np.arange(1.0, 31)
    upstream = np.random.default_rng(3).standard_normal(8)
    inputs = [tf.constant(value) for value in (frames[None], times, np.float64(2.0), np.float64(0.5))]
    frames_tensor, targets, c, epsilon = inputs
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        u = rank_pool(frames_tensor, c=c, epsilon=epsilon, targets=targets)
    gradients = tape.gradient(u, inputs, output_gradients=upstream[None])
    z = oracle.solve_hessian(u[0].numpy(), upstream, frames, times, 2.0, 0.5)
    expected = oracle.pull_back(u[0].numpy(), z, frames, times, 2.0, 0.5)
    np.testing.assert_allclose(gradients[0][0], expected["frames"], rtol=1e-8, atol=1e-10)
    for gradient, name in zip(gradients[1:], ("targets", "c", "epsilon"), strict=True):
        np.testing.assert_allclose(gradient, expected[name], rtol=1e-8, atol=1e-10)


def test_diagonal_gradient_is_its_own_definition() -> None:
    frames, times = frames_of("walk", 30, 8), np.arange(1.0, 31)
    upstream = np.random.default_rng(3).standard_normal(8)
    u, gradient = pooled(frames[None], upstream=upstream[None], gradient="diagonal", c=0.1)
    z = upstream / np.diag(oracle.hessian(u[0].numpy(), frames, times, 0.1, 0.1))
    expected = oracle.pull_back(u[0].numpy(), z, frames, times, 0.1, 0.1)["frames"]
    np.testing.assert_allclose(gradient[0], expected, rtol=1e-10)
    exact = pooled(frames[None], upstream=upstream[None], c=0.1)[1]
    assert relative_error(gradient, exact.numpy()) > 0.1


def test_sherman_morrison_is_the_exact_gradient() -> None:
    frames, num_frames = batch_of_walks()
    exact = pooled(frames, num_frames)[1]
    assert relative_error(pooled(frames, num_frames, gradient="sherman_morrison")[1], exact.numpy()) <= 1e-8


def test_active_frames_lie_on_the_way_full_steps_would_cycle() -> None:
    """Full Newton steps never end here (found by search); the line search ends in a certified optimum."""
    frames = np.array([[3.0, 3.0], [3.0, -1.0], [2.0, 0.0], [0.0, -4.0]])
    u, info = rank_pool(frames[None], c=100.0, epsilon=1.0, return_info=True)
    assert info.converged.numpy().all()
    assert info.iterations.numpy().item() > solver._FULL_STEPS
    np.testing.assert_allclose(u[0], oracle.rank_pool(frames, np.arange(1.0, 5), 100.0, 1.0), rtol=1e-10)


def test_a_frame_on_the_rim_of_the_tube_does_not_keep_float32_busy() -> None:
    """Tubes about as wide as some frame's residual: its alpha and its residual round to opposite verdicts."""
    frames = tf.constant(frames_of("mean", 200, 16)[None])

    def num_outside(epsilon: float) -> int:
        residual = np.arange(1.0, 201) - np.einsum("td,d->t", frames[0], rank_pool(frames, epsilon=epsilon)[0])
        return int(np.sum(np.abs(residual) > epsilon))

    low, high = 1.0, 3.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if num_outside(middle) == num_outside(1.0) else (low, middle)
    epsilon = low + 2e-6 * np.arange(-100, 100)
    many = tf.tile(tf.cast(frames, tf.float32), [200, 1, 1])
    _, info = rank_pool(many, epsilon=tf.constant(epsilon), internal_dtype="float32", return_info=True)
    assert info.converged.numpy().all()
    assert np.max(info.iterations) <= solver._FULL_STEPS


def test_duality_gap_bounds_the_distance_to_the_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = frames_of("walk", 30, 8)
    optimum = oracle.rank_pool(frames, np.arange(1.0, 31), 1.0, 2.0)
    for iterations in (1, 2):
        monkeypatch.setattr(solver, "MAX_ITERATIONS", iterations)
        u, info = rank_pool(frames[None], epsilon=2.0, return_info=True)
        assert not info.converged.numpy().any()
        assert info.iterations.numpy().item() == iterations
        assert info.duality_gap.numpy().item() >= np.sum((u[0] - optimum) ** 2) / 2 > 0


def test_a_converged_sequence_reports_no_gap() -> None:
    frames, num_frames = batch_of_walks()
    u, info = rank_pool(frames, num_frames, return_info=True)
    assert info.converged.numpy().all()
    assert np.all(info.duality_gap <= 1e-20 * (1 + np.sum(u**2, axis=1)))
    assert info.duality_gap.dtype == tf.float64


@tf.function(autograph=False)
def _pooled_problems(frames: tf.Tensor, num_frames: tf.Tensor, c: tf.Tensor, epsilon: tf.Tensor) -> Any:
    with tf.GradientTape() as tape:
        tape.watch(frames)
        u, info = rank_pool(frames, num_frames, c=c, epsilon=epsilon, return_info=True)
    return u, info, tape.gradient(u, frames)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(problems=st.lists(oracle.hostile_problems(), min_size=16, max_size=16))
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_hostile_problems_converge(dtype: tf.DType, problems: list[oracle.Hostile]) -> None:
    """benchmarks/rankpool_fuzz.py does the same to tens of thousands."""
    batch = oracle.batch_of_problems(problems)
    batch["frames"] = batch["frames"].astype(dtype.as_numpy_dtype).astype(np.float64)
    arguments = [tf.constant(batch[name]) for name in ("num_frames", "c", "epsilon")]
    u, info, gradient = _pooled_problems(tf.constant(batch["frames"], dtype), *arguments)
    assert info.converged.numpy().all()
    assert np.isfinite(gradient).all()
    left = oracle.stationarity(batch, u.numpy().astype(np.float64))
    assert left.max() < 100 * np.finfo(dtype.as_numpy_dtype).eps


def test_second_derivatives_agree_with_central_differences() -> None:
    frames, num_frames = batch_of_walks()
    inputs = [frames, tf.constant(0.5, tf.float64), tf.constant(0.3, tf.float64), tf.range(1, 13, dtype=tf.float64)]
    rng = np.random.default_rng(4)
    directions = [rng.standard_normal(value.shape) for value in inputs]

    def loss(*values: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(rank_pool(values[0], num_frames, c=values[1], epsilon=values[2], targets=values[3]) ** 3)

    def slope(*values: tf.Tensor) -> tf.Tensor:
        products = zip(_gradients(loss, list(values)), directions, strict=True)
        return tf.add_n([tf.reduce_sum(gradient * direction) for gradient, direction in products])

    for position, second in enumerate(_gradients(slope, inputs)):
        expected = _central_difference(slope, inputs, position, directions[position])
        assert np.sum(second * directions[position]) == pytest.approx(expected, rel=1e-5)


def _curvature(frames: tf.Tensor, gradient: str = "exact") -> tf.Tensor:
    with tf.GradientTape() as outer:
        outer.watch(frames)
        _, first = pooled(frames, tf.constant(LENGTHS), gradient=gradient)
        value = tf.reduce_sum(first**2)
    return outer.gradient(value, frames)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_second_derivatives_in_a_graph_are_the_eager_ones(jit_compile: bool) -> None:
    frames = tf.cast(batch_of_walks()[0], tf.float32)
    in_graph = tf.function(_curvature, jit_compile=jit_compile)(frames)
    assert relative_error(in_graph, _curvature(tf.cast(frames, tf.float64)).numpy()) <= 1e-4


def test_second_derivative_of_the_diagonal_approximation_is_refused() -> None:
    with pytest.raises(UserError, match="gradient='exact'"):
        _curvature(batch_of_walks()[0], "diagonal")


@pytest.mark.parametrize("padding", [0.0, 1e6, math.nan, math.inf])
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_padding_does_not_matter(padding: float, dtype: tf.DType) -> None:
    frames = tf.cast(batch_of_walks()[0], dtype)
    is_frame = tf.sequence_mask(LENGTHS, 12)[..., tf.newaxis]
    u, gradient = pooled(tf.where(is_frame, frames, tf.cast(padding, dtype)), tf.constant(LENGTHS))
    for row, length in enumerate(LENGTHS):
        alone, alone_gradient = pooled(frames[row : row + 1, :length])
        tolerance = 1e-5 if dtype == tf.float32 else 1e-12
        np.testing.assert_allclose(u[row], alone[0], rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(gradient[row, :length], alone_gradient[0], rtol=tolerance, atol=tolerance)
        np.testing.assert_array_equal(gradient[row, length:], 0)


def test_targets_of_padding_do_not_matter() -> None:
    frames, num_frames = batch_of_walks()
    times = tf.where(tf.sequence_mask(LENGTHS, 12), tf.range(1, 13, dtype=tf.float64), math.nan)
    np.testing.assert_array_equal(rank_pool(frames, num_frames, targets=times), rank_pool(frames, num_frames))


def test_batch_mates_do_not_matter() -> None:
    """Easy and hard, short and long, float32 inside and float64 inside: each sequence as if alone."""
    frames = tf.cast(batch_of_walks()[0], tf.float32) * tf.constant([1.0, 1e-3, 100.0, 0.01])[:, None, None]
    u, gradient = pooled(frames, c=10.0, epsilon=2.0)
    for row in range(4):
        alone, alone_gradient = pooled(frames[row : row + 1], c=10.0, epsilon=2.0)
        assert relative_error(u[row], alone[0].numpy()) <= 2e-6
        assert relative_error(gradient[row], alone_gradient[0].numpy()) <= 2e-6


def test_further_iterations_for_others_change_nothing() -> None:
    """The first sequence needs one system; its mates change from easy to one that needs more than the full steps."""
    easy = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    hard = np.array([[3.0, 3.0], [3.0, -1.0], [2.0, 0.0], [0.0, -4.0]])
    with_easy = rank_pool(np.stack([easy, easy]), c=100.0, epsilon=1.0)
    with_hard, info = rank_pool(np.stack([easy, hard]), c=100.0, epsilon=1.0, return_info=True)
    np.testing.assert_array_equal(with_easy[0], with_hard[0])
    assert info.iterations.numpy()[0] < info.iterations.numpy()[1]


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: tf.DType) -> None:
    frames = tf.cast(batch_of_walks()[0], dtype)
    u, gradient = pooled(frames, tf.constant(LENGTHS), upstream=tf.ones([4, 5], dtype))
    wide, wide_gradient = pooled(tf.cast(frames, tf.float32), tf.constant(LENGTHS), upstream=tf.ones([4, 5]))
    assert u.dtype == gradient.dtype == dtype
    np.testing.assert_array_equal(u, tf.cast(wide, dtype))
    np.testing.assert_array_equal(gradient, tf.cast(wide_gradient, dtype))


def test_precision_inside_can_be_chosen() -> None:
    """c * sum |v|^2 is about 1e7: float32 alone loses digits, and `auto` does what float64 does."""
    frames, times = frames_of("shots", 60, 128), np.arange(1.0, 61)
    expected = oracle.rank_pool(frames, times, 1e3, 0.1)
    narrow = tf.constant(frames[None], tf.float32)
    error = {
        name: relative_error(rank_pool(narrow, c=1e3, internal_dtype=name)[0], expected)
        for name in ("auto", "float32", "float64")
    }
    assert error["auto"] == error["float64"] <= 1e-7
    assert error["float32"] > 1e-6


def test_a_bad_frame_spoils_only_its_sequence() -> None:
    frames, num_frames = batch_of_walks()
    clean, clean_gradient = pooled(frames, num_frames)
    for bad in (math.nan, math.inf):
        spoiled = tf.tensor_scatter_nd_update(frames, [[0, 3, 1]], [tf.constant(bad, tf.float64)])
        u, gradient = pooled(spoiled, num_frames)
        assert np.isnan(u[0]).all()
        assert np.isnan(gradient[0]).all()
        np.testing.assert_array_equal(u[1:], clean[1:])
        np.testing.assert_array_equal(gradient[1:], clean_gradient[1:])


@pytest.mark.parametrize(
    "bad", [{"c": 0.0}, {"c": -1.0}, {"c": math.nan}, {"epsilon": -0.1}, {"epsilon": math.inf}, {"targets": math.nan}]
)
def test_a_bad_tensor_gives_nan_for_its_sequence(bad: dict[str, float]) -> None:
    frames, num_frames = batch_of_walks()
    good: dict[str, Any] = {"c": np.ones(4), "epsilon": np.full(4, 0.1), "targets": np.tile(np.arange(1.0, 13), (4, 1))}
    clean = rank_pool(frames, num_frames, **good)
    for name, value in bad.items():
        good[name][1] = value
    u, info = rank_pool(frames, num_frames, return_info=True, **{name: tf.constant(good[name]) for name in good})
    assert np.isnan(u[1]).all()
    assert info.converged.numpy().tolist() == [True, False, True, True]
    np.testing.assert_array_equal(tf.gather(u, [0, 2, 3]), tf.gather(clean, [0, 2, 3]))


def test_a_scale_beyond_rounding_gives_nan_not_garbage() -> None:
    frames = np.stack([1e9 * frames_of("walk", 30, 3), frames_of("walk", 30, 3)])
    u, info = rank_pool(frames, c=1e6, return_info=True)
    assert info.converged.numpy().tolist() == [False, True]
    assert np.isnan(u[0]).all()
    assert np.isfinite(u[1]).all()


def test_a_nan_loss_does_not_reach_the_padding() -> None:
    frames, num_frames = batch_of_walks()
    upstream = np.ones((4, 5))
    upstream[1] = math.nan
    _, gradient = pooled(frames, num_frames, upstream=upstream)
    assert np.isnan(gradient[1, :7]).all()
    np.testing.assert_array_equal(gradient[1, 7:], 0)
    assert np.isfinite(gradient[0]).all()


@pytest.mark.parametrize("kind", ["zero", "duplicate", "collinear"])
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_degenerate_frames_are_finite(kind: str, epsilon: float) -> None:
    frames = {
        "zero": np.zeros((1, 6, 3)),
        "duplicate": np.ones((1, 6, 3)),
        "collinear": np.arange(6.0)[None, :, None] * np.ones(3),
    }[kind]
    u, gradient = pooled(frames, epsilon=epsilon, c=1e3)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(u[0], oracle.rank_pool(frames[0], np.arange(1.0, 7), 1e3, epsilon), atol=1e-12)


def test_a_zero_frame_has_a_gradient() -> None:
    # At v = 0: u = c (y - eps) v / (1 + c v^2), so du/dv = c (y - eps) = 0.9.
    gradient = pooled(tf.zeros([1, 1, 1], tf.float64), upstream=tf.ones([1, 1], tf.float64))[1]
    assert gradient.numpy().item() == pytest.approx(0.9, rel=1e-14)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"c": 0.0}, "c=0.0"),
        ({"c": -1}, "c=-1: expected a number above 0"),
        ({"epsilon": -1.0}, "epsilon=-1.0"),
        ({"gradient": "exakt"}, "Did you mean exact"),
        ({"internal_dtype": "float16"}, "internal_dtype"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        rank_pool(tf.zeros([1, 2, 3]), **arguments)


@pytest.mark.parametrize("frames", [np.zeros((2, 3)), np.zeros((1, 2, 3), np.uint8)])
def test_frames_of_another_kind_are_refused(frames: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"expected float \(B, T, D\)"):
        rank_pool(frames)


@pytest.mark.parametrize("gradient", ["exact", "diagonal", "sherman_morrison"])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_graph_of_unknown_sizes_gives_the_eager_result(gradient: str, jit_compile: bool) -> None:
    frames = tf.cast(batch_of_walks()[0], tf.float32) * tf.constant([1.0, 10.0, 1.0, 0.1])[:, None, None]

    def run(frames: tf.Tensor, num_frames: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return pooled(frames, num_frames, gradient=gradient)

    signature = [tf.TensorSpec([None, None, None]), tf.TensorSpec([None], tf.int32)]
    in_graph = tf.function(run, input_signature=signature, jit_compile=jit_compile)
    for size in ((4, 12), (0, 12), (4, 0)):
        some, lengths = frames[: size[0], : size[1]], tf.constant(LENGTHS)[: size[0]]
        for value, expected in zip(in_graph(some, lengths), run(some, lengths), strict=True):
            assert value.shape == expected.shape
            assert relative_error(value, expected.numpy()) <= 1e-5


def test_two_devices_give_the_result_of_one() -> None:
    strategy = build_strategy(2)
    frames = tf.cast(batch_of_walks()[0], tf.float32)
    lengths = tf.constant(LENGTHS)
    halves = strategy.experimental_distribute_values_from_function(
        lambda context: (frames, lengths)[0][2 * context.replica_id_in_sync_group :][:2]
    )
    half_lengths = strategy.experimental_distribute_values_from_function(
        lambda context: lengths[2 * context.replica_id_in_sync_group :][:2]
    )

    @tf.function
    def run() -> Any:
        return strategy.run(pooled, (halves, half_lengths))

    u, gradient = (tf.concat(strategy.experimental_local_results(value), 0) for value in run())
    for value, expected in zip((u, gradient), pooled(frames, lengths), strict=True):
        np.testing.assert_allclose(value, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("gradient", ["exact", "diagonal"])
def test_no_tensor_is_as_large_as_features_squared(gradient: str) -> None:
    """B = 2, T = 11 and D = 97 tell the axes apart in every static shape of the forward and backward graph."""
    graph = tf.function(lambda frames: pooled(frames, c=10.0, gradient=gradient)).get_concrete_function(
        tf.TensorSpec([2, 11, 97])
    )
    definition = graph.graph.as_graph_def(add_shapes=True)
    nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
    shapes = [[axis.size for axis in shape.dim] for node in nodes for shape in node.attr["_output_shapes"].list.shape]
    assert any(shape.count(11) == 2 for shape in shapes)
    assert not any(shape.count(97) >= 2 for shape in shapes)


def test_running_mean_is_the_mean_of_what_has_been_seen() -> None:
    frames, num_frames = batch_of_walks()
    means = running_mean(tf.where(tf.sequence_mask(LENGTHS, 12)[..., None], frames, math.nan), num_frames)
    for row, length in enumerate(LENGTHS):
        for t in range(length):
            np.testing.assert_allclose(means[row, t], np.mean(frames[row, : t + 1], axis=0), rtol=1e-12)
        np.testing.assert_array_equal(means[row, length:], 0)


def test_reversed_frames_keep_their_padding_at_the_end() -> None:
    frames = tf.constant([[[1.0], [2.0], [math.nan]], [[3.0], [4.0], [5.0]]])
    np.testing.assert_array_equal(reversed_frames(frames, tf.constant([2, 9]))[..., 0], [[2, 1, 0], [5, 4, 3]])
    np.testing.assert_array_equal(reversed_frames(frames)[1, :, 0], [5, 4, 3])


def test_forward_and_reverse_pools_twice() -> None:
    frames, num_frames = batch_of_walks()
    pooled_twice = forward_and_reverse(rank_pool, frames, num_frames)
    backwards = np.stack([np.concatenate([v[:n][::-1], v[n:]]) for v, n in zip(frames.numpy(), LENGTHS, strict=True)])
    expected = np.concatenate([rank_pool(frames, num_frames), rank_pool(backwards, num_frames)], axis=1)
    np.testing.assert_allclose(pooled_twice, expected, rtol=1e-12)


def test_signed_sqrt_and_its_safe_slope() -> None:
    # sqrt(4) = 2, slope 1 / (2 * 2) = 1/4; |-0.25| -> -0.5, slope 1 / (2 * 0.5) = 1; 1e-10 -> 1e-5, slope 1/(2 * 1e-3).
    x = tf.constant([4.0, -0.25, 0.0, 1e-10], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = signed_sqrt(x)
    np.testing.assert_allclose(y, [2, -0.5, 0, 1e-5], rtol=1e-12)
    np.testing.assert_allclose(tape.gradient(y, x), [0.25, 1, 0, 500], rtol=1e-12)


def test_unit_length_leaves_zero_frames_alone() -> None:
    x = tf.constant([[3.0, 4.0], [0.0, 0.0]])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = unit_length(x)
    np.testing.assert_allclose(y, [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)
    # d(x / |x|) = (I - x x^T) / |x|: for g = (1, 1) at (0.6, 0.8) / 5: ((1, 1) - 1.4 * (0.6, 0.8)) / 5 = (.032, -.024).
    np.testing.assert_allclose(tape.gradient(y, x), [[0.032, -0.024], [0.0, 0.0]], atol=1e-6)


def test_approximate_rank_pooling_by_hand() -> None:
    # N = 3: (2i - N - 1) / i = -2, 0, 2/3; summed from the end: alpha = -4/3, 2/3, 2/3. Without the mean: -2, 0, 2.
    frames = tf.constant([[[1.0], [10.0], [100.0], [math.nan]]])
    with_mean = approximate_rank_pool(frames, tf.constant([3]))
    assert with_mean.numpy().item() == pytest.approx(-4 / 3 + 20 / 3 + 200 / 3, rel=1e-6)
    without = approximate_rank_pool(frames, tf.constant([3]), includes_running_mean=False)
    assert without.numpy().item() == pytest.approx(198, rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(length=st.integers(2, 60))
def test_approximate_weights_are_the_harmonic_ones_and_contain_the_mean(length: int) -> None:
    harmonic = np.concatenate([[0], np.cumsum(1 / np.arange(1, length + 1))])
    t = np.arange(1, length + 1)
    weights = 2 * (length - t + 1) - (length + 1) * (harmonic[length] - harmonic[t - 1])
    frames = tf.constant(np.random.default_rng(length).standard_normal((1, length, 3)))
    pooled_frames = approximate_rank_pool(frames)
    np.testing.assert_allclose(pooled_frames, np.einsum("t,btd->bd", weights, frames), atol=1e-9)
    of_means = approximate_rank_pool(running_mean(frames), includes_running_mean=False)
    np.testing.assert_allclose(pooled_frames, of_means, atol=1e-9)


def test_approximate_rank_pooling_of_one_frame_is_the_frame() -> None:
    frames, _ = batch_of_walks()
    for includes_running_mean in (True, False):
        u = approximate_rank_pool(frames, tf.constant([1, 0, 1, 0]), includes_running_mean=includes_running_mean)
        np.testing.assert_array_equal(u, np.array([1, 0, 1, 0])[:, None] * frames[:, 0])


@pytest.mark.parametrize("settings_of_layer", [{}, {"takes_signed_sqrt": True}, {"takes_running_mean": False}])
def test_approximate_rank_pooling_of_a_still_sequence_is_exactly_0(settings_of_layer: dict[str, Any]) -> None:
    """Rounding errors would be large after the next normalisation, and others on each machine."""
    frame = np.random.default_rng(0).standard_normal((4, 1, 130)).astype(np.float32)
    frames, num_frames = tf.constant(np.repeat(frame, 70, axis=1)), tf.constant([0, 3, 10, 70])
    u = RankPooling(method="approximate", **settings_of_layer)(frames, num_frames)
    np.testing.assert_array_equal(u, np.zeros((4, 130)))
    u = approximate_rank_pool(frames, num_frames)
    np.testing.assert_array_equal(u, np.zeros((4, 130)))


LAYERS: list[dict[str, Any]] = [
    {},
    {"direction": "both", "learns_c": True, "c": 0.5},
    {"direction": "reverse", "method": "approximate"},
    {"takes_signed_sqrt": True, "takes_running_mean": False, "takes_unit_length": False, "relative_targets": True},
    {"gradient": "diagonal", "epsilon": 0.5, "internal_dtype": "float64"},
]


@pytest.mark.parametrize("options", LAYERS)
def test_layer_in_a_keras_graph_survives_saving(options: dict[str, Any], tmp_path: Path) -> None:
    frames = tf.cast(batch_of_walks()[0], tf.float32)
    lengths = tf.constant(LENGTHS)
    layer = RankPooling(**options)
    inputs = [keras.Input((None, 5)), keras.Input((), dtype="int32")]
    model = keras.Model(inputs, layer(*inputs))
    model.save(tmp_path / "model.keras")
    expected = layer(frames, lengths)
    assert model.output_shape == (None, 10 if options.get("direction") == "both" else 5)
    assert expected.shape == layer.compute_output_shape(frames.shape)
    np.testing.assert_allclose(model([frames, lengths]), expected, rtol=1e-5, atol=1e-5)
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(reloaded([frames, lengths]), model([frames, lengths]))
    assert RankPooling.from_config(layer.get_config()).get_config() == layer.get_config()


def test_layer_is_the_composition_it_says() -> None:
    frames, num_frames = batch_of_walks()
    layer = RankPooling(0.5, 0.3, takes_signed_sqrt=True, relative_targets=True, direction="both")
    ready = [
        unit_length(signed_sqrt(running_mean(v, num_frames))) for v in (frames, reversed_frames(frames, num_frames))
    ]
    times = np.arange(1.0, 13) / np.maximum(LENGTHS, 1)[:, None]
    expected = [rank_pool(v, num_frames, c=0.5, epsilon=0.3, targets=times) for v in ready]
    np.testing.assert_allclose(layer(frames, num_frames), tf.concat(expected, 1), rtol=1e-10)


def test_learned_c_learns() -> None:
    """c falls when descriptors are pulled to 0, and stays positive."""
    frames, num_frames = (
        tf.cast(value, dtype) for value, dtype in zip(batch_of_walks(), ("float32", "int32"), strict=True)
    )
    inputs = [keras.Input((None, 5)), keras.Input((), dtype="int32")]
    layer = RankPooling(learns_c=True)
    model = keras.Model(inputs, layer(*inputs))
    model.compile(keras.optimizers.SGD(0.5), "mse")
    assert model.jit_compile is False
    model.fit([frames, num_frames], np.zeros((4, 5)), epochs=3, verbose=0)
    assert len(layer.trainable_weights) == 1
    assert 0 < np.exp(layer.log_c.numpy()) < 1


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_layer_under_a_mixed_policy_keeps_float32(policy: str) -> None:
    frames, lengths = tf.cast(batch_of_walks()[0], tf.float32), tf.constant(LENGTHS)
    layer = RankPooling(direction="both", learns_c=True, dtype=policy)
    np.testing.assert_array_equal(layer(frames, lengths), RankPooling(direction="both")(frames, lengths))
    assert layer(tf.cast(frames, layer.compute_dtype), lengths).dtype == tf.float32


@pytest.mark.parametrize("bad", [{"direction": "up"}, {"method": "svm"}, {"c": 0.0}, {"gradient": "none"}])
def test_layer_refuses_bad_arguments_early(bad: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(bad))):
        RankPooling(**bad)
