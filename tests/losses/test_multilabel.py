"""Losses over the labels of a video: definitions, gradients, cases worked by hand, and what leaves them as they are."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from yt8m.arguments import ArgumentError
from yt8m.registry import LOSSES

from oracles import losses as oracles

RANKING = ("PairwiseRankingLoss", "WarpLoss", "SampledWarpLoss", "SoftmaxLoss", "MulticlassHingeLoss")
EXACT: dict[str, Callable[..., list[float]]] = {
    "SoftmaxLoss": oracles.softmax,
    "PairwiseRankingLoss": partial(oracles.pairwise, margin=1.0),
    "WarpLoss": partial(oracles.warp, margin=1.0),
    "MulticlassHingeLoss": partial(oracles.multiclass_hinge, margin=1.0),
    "FocalLoss": partial(oracles.focal, gamma=2.0, alpha=0.25),
}
every_exact = pytest.mark.parametrize("name", EXACT)
every_ranking = pytest.mark.parametrize("name", RANKING)


def make_case(seed: int, num_videos: int = 6, num_classes: int = 9) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, logits and weights; one video without labels, one with all, and a quarter of the weights 0."""
    rng = np.random.default_rng(seed)
    labels = rng.random((num_videos, num_classes)) < 0.3
    labels[0], labels[1] = False, True
    logits = rng.normal(scale=2.0, size=labels.shape).astype(np.float32)
    weights = (rng.random(labels.shape) * (rng.random(labels.shape) < 0.75)).astype(np.float32)
    return labels, logits, weights


def loss_of(
    name: str,
    labels: np.ndarray,
    logits: np.ndarray,
    weights: np.ndarray | None = None,
    keys: np.ndarray | None = None,
    **hparams: Any,
) -> np.ndarray:
    keys = np.arange(len(labels)) if keys is None else keys
    outputs = {"logits": tf.constant(logits, tf.float32), "key": tf.constant(keys, tf.int64)}
    return LOSSES[name](tf.constant(labels), outputs, weights, **hparams).numpy()


def gradient_of(name: str, labels: np.ndarray, logits: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    x = tf.constant(logits, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = LOSSES[name](tf.constant(labels), {"logits": x, "key": tf.range(len(labels), dtype=tf.int64)}, weights)
    gradient = tape.gradient(loss, x, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return tf.convert_to_tensor(gradient).numpy()


@every_exact
@pytest.mark.parametrize("seed", range(4))
def test_a_loss_is_that_of_its_definition(name: str, seed: int) -> None:
    labels, logits, weights = make_case(seed)
    np.testing.assert_allclose(
        loss_of(name, labels, logits, weights), EXACT[name](labels, logits, weights), rtol=2e-6, atol=2e-6
    )
    ones = np.ones_like(weights)
    np.testing.assert_allclose(loss_of(name, labels, logits), EXACT[name](labels, logits, ones), rtol=2e-6, atol=2e-6)


@every_exact
def test_a_loss_of_thousands_of_classes_is_that_of_its_definition(name: str) -> None:
    labels, logits, weights = make_case(7, num_videos=3, num_classes=3862)
    labels[1] = False
    labels[1:, 5:50:7] = True
    logits -= 6.0
    np.testing.assert_allclose(
        loss_of(name, labels, logits, weights), EXACT[name](labels, logits, weights), rtol=2e-5, atol=1e-5
    )


@every_exact
def test_a_gradient_is_that_of_finite_differences(name: str) -> None:
    labels, logits, weights = make_case(11)
    # In float64 the step can be so small that no class crosses the margin of another, where WARP jumps.
    step, expected = 1e-7, np.zeros(logits.shape)
    for place in np.ndindex(*logits.shape):
        ends = []
        for sign in (1, -1):
            moved = logits.astype(np.float64)
            moved[place] += sign * step
            ends.append(sum(EXACT[name](labels, moved, weights)))
        expected[place] = (ends[0] - ends[1]) / (2 * step)
    np.testing.assert_allclose(gradient_of(name, labels, logits, weights), expected, rtol=1e-5, atol=1e-5)


def test_ranking_losses_by_hand() -> None:
    # Labels at 2 and 0, others at 1.5, 0.5 and -3. Margin 1: the label at 2 is violated by 1.5 (hinge 0.5), the one
    # at 0 by 1.5 (2.5) and 0.5 (1.5).
    labels = np.array([[True, False, False, True, False]])
    logits = np.array([[2.0, 1.5, 0.5, 0.0, -3.0]], np.float32)
    np.testing.assert_allclose(loss_of("PairwiseRankingLoss", labels, logits), [0.5 + 2.5 + 1.5], rtol=1e-6)
    # WARP: L(1) / 1 * 0.5 + L(2) / 2 * (2.5 + 1.5) = 0.5 + 0.75 * 4
    np.testing.assert_allclose(loss_of("WarpLoss", labels, logits), [3.5], rtol=1e-6)
    # A margin of 2: hinges 1.5 and 0.5 of the first label, 3.5 and 2.5 of the second.
    np.testing.assert_allclose(loss_of("PairwiseRankingLoss", labels, logits, margin=2.0), [8.0], rtol=1e-6)
    np.testing.assert_allclose(loss_of("WarpLoss", labels, logits, margin=2.0), [0.75 * 2 + 0.75 * 6], rtol=1e-6)
    # Without the class at 1.5, and the second label counted half: 0 + 0.5 * (L(1) * 1.5).
    weights = np.array([[1.0, 0.0, 1.0, 0.5, 1.0]], np.float32)
    np.testing.assert_allclose(loss_of("WarpLoss", labels, logits, weights), [0.75], rtol=1e-6)


def test_multiclass_hinge_by_hand() -> None:
    # The best of the others is at 1.5: hinges 0.5 of the label at 2 and 2.5 of the label at 0; their mean.
    labels = np.array([[True, False, False, True], [True, False, False, False]])
    logits = np.array([[2.0, 1.5, 0.5, 0.0]] * 2, np.float32)
    np.testing.assert_allclose(loss_of("MulticlassHingeLoss", labels, logits), [1.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(loss_of("MulticlassHingeLoss", labels, logits, margin=2.0), [2.5, 1.5], rtol=1e-6)
    # Without the class at 1.5 the best is at 0.5.
    weights = np.array([[1.0, 0.0, 1.0, 1.0]] * 2, np.float32)
    np.testing.assert_allclose(loss_of("MulticlassHingeLoss", labels, logits, weights), [0.75, 0.0], rtol=1e-6)
    with pytest.raises(ArgumentError, match=r"^margin=-1\.0: expected at least 0"):
        loss_of("MulticlassHingeLoss", labels, logits, margin=-1.0)


def test_a_softmax_of_branches_is_the_weighted_sum_of_their_losses() -> None:
    labels, logits, weights = make_case(4)
    branches = np.random.default_rng(5).normal(size=(6, 3, 9)).astype(np.float32)
    shares = np.random.default_rng(6).random((6, 4)).astype(np.float32)
    outputs = {"logits": tf.constant(logits), "branch_logits": tf.constant(branches), "branch_weights": shares}
    expected = shares[:, 0] * loss_of("SoftmaxLoss", labels, logits, weights)
    for m in range(3):
        expected += shares[:, m + 1] * loss_of("SoftmaxLoss", labels, branches[:, m], weights)
    seen = LOSSES["BranchSoftmaxLoss"](tf.constant(labels), outputs, weights)
    np.testing.assert_allclose(seen, expected, rtol=1e-5)
    own = loss_of("SoftmaxLoss", labels, logits, weights)
    np.testing.assert_array_equal(loss_of("BranchSoftmaxLoss", labels, logits, weights), own)


def test_softmax_and_focal_by_hand() -> None:
    # Two labels and another class, all equal: - (log 1/3 + log 1/3) / 2 = log 3.
    np.testing.assert_allclose(loss_of("SoftmaxLoss", np.array([[True, True, False]]), np.zeros((1, 3))), [np.log(3)])
    # t = 1/2 for both: (0.25 + 0.75) * (1/2)^2 * log 2.
    np.testing.assert_allclose(
        loss_of("FocalLoss", np.array([[True, False]]), np.zeros((1, 2))), [0.25 * np.log(2)], rtol=1e-6
    )


def test_cross_entropy_with_smoothing_and_weights() -> None:
    labels, logits, weights = make_case(5)
    given: dict[str, Any] = {"label_smoothing": 0.2, "positive_weight": 3.0, "negative_weight": 0.5}
    expected = oracles.soft_cross_entropy(np.where(labels, 0.9, 0.1), logits, weights * np.where(labels, 3.0, 0.5))
    np.testing.assert_allclose(loss_of("CrossEntropyLoss", labels, logits, weights, **given), expected, rtol=1e-5)


def test_focal_without_focus_is_half_of_cross_entropy() -> None:
    labels, logits, weights = make_case(6)
    np.testing.assert_allclose(
        loss_of("FocalLoss", labels, logits, weights, gamma=0.0, alpha=0.5),
        loss_of("CrossEntropyLoss", labels, logits, weights) / 2,
        rtol=1e-5,
    )


@every_ranking
@given(seed=st.integers(0, 10**6), shift=st.floats(-50, 50))
@settings(max_examples=20, deadline=None)
def test_the_same_number_added_to_all_logits_changes_nothing(name: str, seed: int, shift: float) -> None:
    labels, logits, weights = make_case(seed)
    shifted = logits + np.float32(shift)
    # The logits themselves are rounded by the shift, and those that are rounded over the margin make WARP jump.
    near = np.abs(logits[:, :, None] - logits[:, None, :] - 1.0).min() < 1e-4
    if not near:
        np.testing.assert_allclose(
            loss_of(name, labels, shifted, weights), loss_of(name, labels, logits, weights), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("name", [*EXACT, "CrossEntropyLoss"])
@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_the_order_of_classes_changes_nothing(name: str, seed: int) -> None:
    case = make_case(seed)
    order = np.random.default_rng(seed).permutation(case[0].shape[1])
    np.testing.assert_allclose(
        loss_of(name, *(part[:, order] for part in case)), loss_of(name, *case), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", [*EXACT, "SampledWarpLoss", "DistillationLoss"])
def test_a_video_has_the_same_loss_in_any_batch(name: str) -> None:
    labels, logits, weights = make_case(8)
    together = loss_of(name, labels, logits, weights)
    for b in range(len(labels)):
        rows = slice(b, b + 1)
        alone = loss_of(name, labels[rows], logits[rows], weights[rows], keys=np.array([b]))
        np.testing.assert_allclose(alone, together[rows], rtol=1e-5, atol=1e-6)


@every_ranking
def test_without_labels_or_without_others_there_is_nothing_to_rank(name: str) -> None:
    labels = np.array([[False, False, False], [True, True, True], [True, False, False]])
    logits = np.array([[3.0, -1.0, 2.0]] * 3, np.float32)
    losses = loss_of(name, labels, logits, np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0]], np.float32))
    assert losses[0] == losses[2] == 0
    if name != "SoftmaxLoss":
        assert losses[1] == 0


@every_ranking
def test_a_video_of_weight_w_counts_w_times(name: str) -> None:
    labels, logits, _ = make_case(9)
    halves = np.full(labels.shape, 0.5, np.float32)
    np.testing.assert_allclose(loss_of(name, labels, logits, halves), loss_of(name, labels, logits) / 2, rtol=1e-6)


@pytest.mark.parametrize("name", [*EXACT, "SampledWarpLoss", "CrossEntropyLoss", "DistillationLoss"])
@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_extreme_and_equal_logits_have_finite_losses_and_gradients(name: str, dtype: tf.DType) -> None:
    labels = tf.constant([[True, False, False, True]] * 4 + [[True] * 4, [False] * 4])
    rows = [[1e4, -1e4, 0, -1e4], [-1e4, 1e4, 1e4, -1e4], [1e4] * 4, [0.0] * 4, [-1e4, 1e4, 0, 0], [1e4, -1e4, 0, 0]]
    x = tf.constant(rows, dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = LOSSES[name](labels, {"logits": x, "key": tf.range(6, dtype=tf.int64)}, None)
    gradient = tf.convert_to_tensor(tape.gradient(loss, x))
    assert loss.dtype == tf.float32
    assert np.isfinite(loss).all()
    assert np.isfinite(tf.cast(gradient, tf.float32)).all()
    if name in EXACT:
        logits = tf.cast(x, tf.float32).numpy()
        np.testing.assert_allclose(loss, EXACT[name](labels.numpy(), logits, np.ones((6, 4))), rtol=1e-5, atol=1e-5)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_ties_are_violations(seed: int) -> None:
    labels, logits, weights = make_case(seed)
    logits = np.round(logits)  # whole numbers, many of them equal; a margin of 0.5 is met exactly by none
    for name, oracle in (("PairwiseRankingLoss", oracles.pairwise), ("WarpLoss", oracles.warp)):
        np.testing.assert_allclose(
            loss_of(name, labels, logits, weights, margin=0.5),
            oracle(labels, logits, weights, 0.5),
            rtol=1e-5,
            atol=1e-6,
        )


class TestSampledWarp:
    """WARP by sampling: its mean, its bias, and that it is reproducible."""

    @pytest.mark.parametrize("max_trials", [1, 4, 64])
    def test_its_mean_is_its_expectation(self, max_trials: int) -> None:
        labels, logits, weights = make_case(21, num_videos=4, num_classes=12)
        draws = 20_000
        for b in range(4):
            copies = [np.repeat(part[b : b + 1], draws, axis=0) for part in (labels, logits, weights)]
            losses = loss_of("SampledWarpLoss", *copies, max_trials=max_trials)
            y, f, w = (part[b : b + 1] for part in (labels, logits, weights))
            (expected,) = oracles.sampled_warp_mean(y, f, w, 1.0, max_trials)
            error = losses.std() / np.sqrt(draws)
            assert abs(losses.mean() - expected) <= 4.5 * error + 1e-6

    def test_the_documented_bias_is_that_of_the_definition(self) -> None:
        document = (Path(__file__).parents[2] / "docs" / "losses.md").read_text()
        for rank in (1, 10, 100, 1000, 3861):
            exact = oracles.harmonic(rank)
            cells = [oracles.expected_rank_weight(rank, 3861, trials) for trials in (128, 3861)]
            row = f"| {rank} | {exact:.2f} | {cells[0]:.2f} | {cells[1]:.2f} |"
            assert row in document, f"docs/losses.md should have the row {row}"

    def test_the_same_key_draws_the_same(self) -> None:
        case = make_case(22)
        first, again = (loss_of("SampledWarpLoss", *case, max_trials=3) for _ in range(2))
        other = loss_of("SampledWarpLoss", *case, keys=np.arange(6) + 100, max_trials=3)
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)

    def test_only_a_label_and_its_violator_move(self) -> None:
        labels = np.array([[True, False, False, False]])
        gradient = gradient_of("SampledWarpLoss", labels, np.array([[0.0, 0.5, 0.5, 0.5]], np.float32))
        # The first draw violates: n = 3, s = 1, L(3) = 11/6.
        assert sorted(gradient[0]) == pytest.approx([-11 / 6, 0, 0, 11 / 6])


class TestDistillation:
    """What a teacher adds to the labels."""

    @pytest.mark.parametrize(("temperature", "share"), [(1.0, 0.5), (2.0, 0.3), (3.0, 1.0)])
    def test_it_is_that_of_its_definition(self, temperature: float, share: float) -> None:
        labels, logits, weights = make_case(31)
        teacher = np.random.default_rng(1).random(labels.shape).astype(np.float32)
        teacher[:, :3] = [0.0, 1.0, 0.0]
        outputs = {"logits": tf.constant(logits), "teacher_predictions": tf.constant(teacher)}
        given = {"temperature": temperature, "teacher_share": share}
        loss = LOSSES["DistillationLoss"](tf.constant(labels), outputs, weights, **given)
        expected = oracles.distillation(labels, logits, weights, teacher, temperature, share)
        np.testing.assert_allclose(loss, expected, rtol=2e-5)

    def test_by_hand(self) -> None:
        # The teacher says 0.8, the logit is 0, T = 2: q_T = 2 / 3, since 0.8 : 0.2 = 4 and its root is 2. At p = 1/2
        # both cross entropies are log 2, whatever the target: 0.5 log 2 + 0.5 * 4 log 2.
        outputs = {"logits": tf.zeros((1, 1)), "teacher_predictions": tf.constant([[0.8]])}
        loss = LOSSES["DistillationLoss"](tf.constant([[True]]), outputs, None, temperature=2.0)
        np.testing.assert_allclose(loss, [2.5 * np.log(2)], rtol=1e-6)
        # With T = 1 and the teacher alone its gradient is p - q.
        x = tf.zeros((1, 1))
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = LOSSES["DistillationLoss"](tf.constant([[True]]), outputs | {"logits": x}, None, teacher_share=1.0)
        np.testing.assert_allclose(tape.gradient(loss, x), [[0.5 - 0.8]], rtol=1e-6)

    def test_a_teacher_that_keeps_labels_never_speaks_against_one(self) -> None:
        labels, logits, weights = make_case(33)
        teacher = np.random.default_rng(2).random(labels.shape).astype(np.float32)
        outputs = {"logits": tf.constant(logits), "teacher_predictions": tf.constant(teacher)}
        loss = LOSSES["DistillationLoss"](tf.constant(labels), outputs, weights, teacher_share=0.7, keep_labels=True)
        expected = oracles.distillation(labels, logits, weights, np.where(labels, 1.0, teacher), 1.0, 0.7)
        np.testing.assert_allclose(loss, expected, rtol=2e-5)

    def test_without_a_teacher_it_is_cross_entropy(self) -> None:
        case = make_case(32)
        np.testing.assert_array_equal(loss_of("DistillationLoss", *case), loss_of("CrossEntropyLoss", *case))


@pytest.mark.parametrize(
    ("name", "hparams", "message"),
    [
        ("WarpLoss", {"margin": 0.0}, "margin=0.0: expected a number above 0"),
        ("PairwiseRankingLoss", {"margin": -1.0}, "margin=-1.0: expected a number above 0"),
        ("SampledWarpLoss", {"max_trials": 0}, "max_trials=0: expected at least 1"),
        ("FocalLoss", {"gamma": -1.0}, "gamma=-1.0: expected at least 0"),
        ("FocalLoss", {"alpha": 1.5}, "alpha=1.5: expected a share"),
        ("DistillationLoss", {"temperature": 0.0}, "temperature=0.0: expected a number above 0"),
        ("DistillationLoss", {"teacher_share": 1.1}, r"teacher_share=1.1: expected a number in \[0, 1\]"),
        ("CrossEntropyLoss", {"label_smoothing": 1.0}, "label_smoothing=1.0: expected a share"),
        ("CrossEntropyLoss", {"positive_weight": -1.0}, "positive_weight=-1.0: expected at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(name: str, hparams: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        loss_of(name, *make_case(0), **hparams)
