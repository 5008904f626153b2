"""The metrics against their definitions, hand-worked cases, and the properties they are trusted for."""

import itertools
import pickle
import tracemalloc

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from yt8m.errors import UserError
from yt8m.metrics import (
    EvaluationMetrics,
    GlobalAveragePrecision,
    MacroMetrics,
    MeanAveragePrecision,
    PrecisionRecallCurves,
    average_precision,
    batch_metrics,
    metrics_of_matrix,
    top_k_pairs,
    top_k_predictions,
)
from yt8m.metrics.growing_array import GrowingArray
from yt8m.metrics.macro import score_bins
from yt8m.registry import METRICS

from oracles import metrics as oracles

Problem = tuple[np.ndarray, np.ndarray, int]

# Few different scores, so that ties are common, or floats of any size that a sigmoid gives.
COARSE = st.sampled_from([0.0, 0.125, 0.25, 0.5, 1.0])
# TensorFlow's kernels take numbers below 2**-126 for 0.
FINE = st.floats(0, 1, width=32, allow_subnormal=False)


@st.composite
def problems(draw: st.DrawFn, scores: st.SearchStrategy[float] = COARSE | FINE, min_videos: int = 0) -> Problem:
    """Predictions (B, C), labels (B, C) and k."""
    num_videos, num_classes = draw(st.integers(min_videos, 9)), draw(st.integers(1, 7))
    size = num_videos * num_classes
    predictions = draw(st.lists(scores, min_size=size, max_size=size))
    labels = draw(st.lists(st.booleans(), min_size=size, max_size=size))
    shape = num_videos, num_classes
    return (
        np.reshape(np.array(predictions, np.float32), shape),
        np.reshape(np.array(labels, bool), shape),
        draw(st.integers(1, 9)),
    )


def pairs_of(predictions: np.ndarray, labels: np.ndarray, k: int) -> dict[str, np.ndarray]:
    pairs = top_k_pairs(tf.constant(predictions, tf.float32), tf.constant(labels), k)
    return {name: values.numpy() for name, values in pairs.items()}


def metrics_of(predictions: np.ndarray, labels: np.ndarray, k: int) -> EvaluationMetrics:
    metrics = EvaluationMetrics(predictions.shape[1], k)
    metrics.add(pairs_of(predictions, labels, k))
    return metrics


def same(one: EvaluationMetrics, other: EvaluationMetrics) -> bool:
    """Whether two results are equal bit for bit."""
    aps = one.per_class_ap(), other.per_class_ap()
    return one.result() == other.result() and np.array_equal(*aps, equal_nan=True)


# ---- numeric cases of the data set's official code

RANKED_LISTS = (
    ([0.98, 0.88, 0.77, 0.65, 0.64, 0.59, 0.45, 0.43, 0.20, 0.05], [1, 1, 0, 0, 0, 1, 1, 0, 0, 1]),
    ([0.878, 0.832, 0.759, 0.621, 0.458, 0.285, 0.134], [1, 0, 1, 0, 0, 1, 0]),
    ([0.98], [1]),
    ([0.56], [0]),
)


@pytest.mark.parametrize(
    ("top_n", "expected"),
    [
        # First list: hits at ranks 1, 2, 6, 7, 10: (1 + 1 + 3/6 + 4/7 + 5/10) / 5 = 0.714286.
        (None, (0.714286, 0.722222, 1, 0)),
        (20, (0.714286, 0.722222, 1, 0)),
        (10, (0.714286, 0.722222, 1, 0)),
        # Only ranks 1 to 5 count: (1 + 1) / min(5, 5).  Second list: (1 + 2/3) / min(3, 5).
        (5, (0.4, 0.555556, 1, 0)),
        (3, (0.666667, 0.555556, 1, 0)),
    ],
)
def test_average_precision_of_known_lists(top_n: int | None, expected: tuple[float, ...]) -> None:
    values = [average_precision(np.array(p), np.array(g), top_n=top_n) for p, g in RANKED_LISTS]
    assert values == pytest.approx(expected, abs=1e-6)


def test_average_precision_counts_positives_outside_the_list() -> None:
    scores, hits = map(np.array, RANKED_LISTS[0])
    assert average_precision(scores, hits, num_positives=10) == pytest.approx(0.357143, abs=1e-6)
    assert average_precision(scores, hits, num_positives=7, top_n=3) == pytest.approx(2 / 3)


HAND_PREDICTIONS = np.array([[0.9, 0.5, 0.1, 0.2], [0.3, 0.8, 0.6, 0.1], [0.2, 0.1, 0.7, 0.4]], np.float32)
HAND_LABELS = np.array([[1, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]], bool)


def test_hand_worked_metrics() -> None:
    # k = 2 pool: .9 hit, .8 miss, .7 miss, .6 hit, .5 miss, .4 miss; 3 labels: (1/1 + 2/4) / 3 = 0.5.
    # PERR: the first video's two best hold one of its two labels, the second's best none: (1/2 + 0 + 0) / 3 = 1/6.
    # Classes: 0: .9 hit: 1.  2: .7 miss, .6 hit: 1/2.  3: its label is outside the two best: 0.  1: no positive.
    metrics = metrics_of(HAND_PREDICTIONS, HAND_LABELS, 2)
    expected = {"hit_at_one": 1 / 3, "perr": 1 / 6, "gap": 0.5, "map": 0.5, "map_all_classes": 0.375, "num_examples": 3}
    assert metrics.result() == pytest.approx(expected)
    assert metrics.per_class_ap() == pytest.approx([1, np.nan, 0.5, 0], nan_ok=True)
    assert metrics.positives().tolist() == [1, 0, 1, 1]


def test_misses_precede_hits_of_equal_score() -> None:
    # k = 20 adds, at the end, .3 .2(hit) .2 .1 .1 .1: the hit is after the other .2, at rank 9: (1 + 2/4 + 3/9) / 3.
    assert metrics_of(HAND_PREDICTIONS, HAND_LABELS, 20).result()["gap"] == pytest.approx(0.611111, abs=1e-6)


def test_seeded_case_of_the_official_code() -> None:
    generator = np.random.default_rng(7)
    predictions = generator.random((5, 30))
    labels = generator.random((5, 30)) < 0.12
    result = metrics_of(predictions, labels, 20).result()
    assert (result["hit_at_one"], result["perr"]) == (0, 0)
    assert result["gap"] == pytest.approx(0.058071964938689186, abs=1e-12)
    assert metrics_of(predictions, labels, 5).result()["gap"] == 0


# ---- definitions


@given(problems())
@settings(deadline=None)
def test_equals_the_definitions(problem: Problem) -> None:
    predictions, labels, k = problem
    num_classes = predictions.shape[1]
    metrics = metrics_of(*problem)
    rows = predictions.tolist(), labels.tolist()
    aps = oracles.class_aps(*rows, k, num_classes)
    defined = [ap for ap in aps if ap is not None]
    assert metrics.result() == pytest.approx(
        {
            "gap": oracles.gap(*rows, k),
            "hit_at_one": oracles.hit_at_one(*rows),
            "perr": oracles.perr(*rows),
            "map": sum(defined) / max(len(defined), 1),
            "map_all_classes": sum(defined) / num_classes,
            "num_examples": len(predictions),
        },
        abs=1e-9,
    )
    expected = [np.nan if ap is None else ap for ap in aps]
    assert metrics.per_class_ap() == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert batch_metrics(pairs_of(*problem)) == pytest.approx(
        {name: metrics.result()[name] for name in ("gap", "hit_at_one", "perr")}, abs=1e-12
    )


@given(problems(), st.integers(1, 12))
@settings(deadline=None, max_examples=50)
def test_average_precision_equals_the_definition(problem: Problem, top_n: int) -> None:
    scores, hits = problem[0].ravel(), problem[1].ravel()
    pairs = list(zip(scores.tolist(), hits.tolist(), strict=True))
    for n in (None, top_n):
        expected = oracles.list_ap(pairs, int(hits.sum()), n)
        assert average_precision(scores, hits, top_n=n) == pytest.approx(expected, abs=1e-9)


@given(problems())
@settings(deadline=None, max_examples=50)
def test_streams_of_their_own_equal_the_whole(problem: Problem) -> None:
    pairs = pairs_of(*problem)
    gap, ranked = GlobalAveragePrecision(), MeanAveragePrecision(problem[0].shape[1])
    gap.add(pairs["scores"], pairs["hits"], pairs["num_labels"])
    ranked.add(pairs["scores"], pairs["classes"], pairs["hits"], pairs["class_positives"])
    expected = metrics_of(*problem).result()
    assert gap.result() == expected["gap"]
    assert ranked.result() == {name: expected[name] for name in ("map", "map_all_classes")}


@given(problems())
@settings(deadline=None, max_examples=50)
def test_precision_recall_at_k_equals_the_definition(problem: Problem) -> None:
    predictions, labels, k = problem
    pairs = pairs_of(*problem)
    metrics = METRICS["precision_recall"](predictions.shape[1], k)
    metrics.add_batch(pairs)
    expected = oracles.precision_recall_at_k(predictions.tolist(), labels.tolist(), k, predictions.shape[1])
    assert [value for _, value in metrics.result()] == pytest.approx(expected, abs=1e-9)


def test_scores_below_zero_rank_like_others() -> None:
    """As when logits are given: integer keys must keep the order of negative floats, and -0 is 0."""
    scores = np.array([[-1.5], [2.0], [-0.0], [0.0], [-3.0], [1e-30]], np.float32)
    hits = np.array([[1], [0], [1], [0], [1], [1]], bool)
    ranked = MeanAveragePrecision(1)
    ranked.add(scores, np.zeros((6, 1), int), hits, np.array([4]))
    assert ranked.result()["map"] == pytest.approx(oracles.list_ap(list(zip(scores[:, 0], hits[:, 0], strict=True)), 4))


# ---- properties


@given(problems())
@settings(deadline=None, max_examples=50)
def test_lies_between_0_and_1(problem: Problem) -> None:
    result = metrics_of(*problem).result()
    assert all(0 <= result[name] <= 1 for name in ("gap", "hit_at_one", "perr", "map", "map_all_classes"))


@given(problems(min_videos=1), st.randoms(use_true_random=False), st.data())
@settings(deadline=None, max_examples=50)
def test_order_batches_and_workers_change_no_bit(
    problem: Problem, random: "np.random.Generator", data: st.DataObject
) -> None:
    predictions, labels, k = problem
    whole = metrics_of(*problem)
    order = data.draw(st.permutations(range(len(predictions))))
    cut = data.draw(st.integers(0, len(predictions)))
    workers = [EvaluationMetrics(predictions.shape[1], k) for _ in range(2)]
    for worker, part in zip(workers, (order[:cut], order[cut:]), strict=True):
        for row in part:
            worker.add(pairs_of(predictions[[row]], labels[[row]], k))
        worker.add(pairs_of(predictions[:0], labels[:0], k))
    workers[0].merge(pickle.loads(pickle.dumps(workers[1])))
    assert same(workers[0], whole)


@given(problems(), st.integers(1, 4))
@settings(deadline=None, max_examples=25)
def test_concatenated_devices_equal_one(problem: Problem, num_devices: int) -> None:
    predictions, labels, k = problem
    shards = [pairs_of(predictions[i::num_devices], labels[i::num_devices], k) for i in range(num_devices)]
    metrics = EvaluationMetrics(predictions.shape[1], k)
    metrics.add({name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]})
    assert same(metrics, metrics_of(*problem))
    assert same(metrics_of_matrix(predictions, labels, k, batch_size=num_devices), metrics)


@given(problems(st.integers(0, 64).map(lambda i: i / 64)))
@settings(deadline=None, max_examples=50)
def test_only_the_order_of_scores_counts(problem: Problem) -> None:
    """The square is exact in float32 for these scores, keeps their order, and keeps 0 at 0, which PERR needs."""
    predictions, labels, k = problem
    assert same(metrics_of(predictions**2, labels, k), metrics_of(*problem))


@given(problems(min_videos=1))
@settings(deadline=None, max_examples=25)
def test_perfect_predictions_reach_1(problem: Problem) -> None:
    labels = problem[1] | (np.arange(problem[1].shape[1]) == 0)  # at least one label per video
    result = metrics_of(labels.astype(np.float32), labels, labels.shape[1]).result()
    assert (result["gap"], result["hit_at_one"], result["perr"], result["map"]) == (1, 1, 1, 1)


def test_no_videos_and_no_labels_give_0() -> None:
    nothing = {"gap": 0, "hit_at_one": 0, "perr": 0, "map": 0, "map_all_classes": 0}
    assert EvaluationMetrics(4).result() == {**nothing, "num_examples": 0}
    unlabelled = metrics_of(HAND_PREDICTIONS, np.zeros_like(HAND_LABELS), 2)
    assert unlabelled.result() == {**nothing, "num_examples": 3}
    assert np.isnan(unlabelled.per_class_ap()).all()


# ---- the step on the device


def test_top_k_pairs_in_a_graph_with_any_batch_size() -> None:
    signature = [tf.TensorSpec((None, 4), tf.float32), tf.TensorSpec((None, 4), tf.bool)]
    step = tf.function(lambda p, y: top_k_pairs(p, y, 2), input_signature=signature)
    for size in (3, 1, 0):
        eager = pairs_of(HAND_PREDICTIONS[:size], HAND_LABELS[:size], 2)
        graph = step(HAND_PREDICTIONS[:size], HAND_LABELS[:size])
        assert {name: (values.shape, values.dtype) for name, values in eager.items()} == {
            "scores": ((size, 2), np.float32),
            "classes": ((size, 2), np.int32),
            "hits": ((size, 2), np.bool_),
            "num_labels": ((size,), np.int32),
            "equal_recall_hits": ((size,), np.int32),
            "class_positives": ((1, 4), np.int32),
        }
        for name, values in eager.items():
            np.testing.assert_array_equal(values, graph[name])


def test_equal_recall_looks_beyond_k() -> None:
    # Three labels, k = 1: of the three best (.9, .8, .7) two are labels; the third label, at 0, is not even predicted.
    pairs = pairs_of(np.array([[0.9, 0.8, 0.7, 0.0]]), np.array([[1, 0, 1, 1]], bool), 1)
    assert pairs["equal_recall_hits"].tolist() == [2]
    assert pairs["classes"].tolist() == [[0]]
    # All labels, all predictions 0: nothing is predicted, so nothing is found.
    assert pairs_of(np.zeros((1, 4)), np.ones((1, 4), bool), 1)["equal_recall_hits"].tolist() == [0]


def test_the_lower_class_comes_first_among_equals() -> None:
    pairs = pairs_of(np.array([[0.5, 0.7, 0.5, 0.7, 0.5]]), np.zeros((1, 5), bool), 4)
    assert pairs["classes"].tolist() == [[1, 3, 0, 2]]


@given(problems())
@settings(deadline=None, max_examples=25)
def test_top_k_predictions_are_the_best_classes(problem: Problem) -> None:
    predictions, _, k = problem
    scores, classes = top_k_predictions(tf.constant(predictions), k)
    assert classes.numpy().tolist() == [oracles.best_classes(row, k) for row in predictions.tolist()]
    np.testing.assert_array_equal(scores, np.take_along_axis(predictions, classes.numpy(), axis=1))


@pytest.mark.parametrize("k", [1, 20, 33, 100])
@pytest.mark.parametrize("levels", [3, 50, 1 << 24])
def test_top_k_predictions_of_many_classes(k: int, levels: int) -> None:
    """More classes than a group holds, with ties within groups and across them."""
    generator = np.random.default_rng(6)
    predictions = (generator.integers(0, levels, (5, 100)) / levels).astype(np.float32)
    predictions[0, 40] = np.inf
    scores, classes = top_k_predictions(tf.constant(predictions), k)
    assert classes.numpy()[1:].tolist() == [oracles.best_classes(row, k) for row in predictions.tolist()[1:]]
    assert np.isnan(scores[0]).all()
    assert (classes.numpy() < 100).all()


# ---- refusals


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", [0, 3])
def test_a_non_finite_prediction_is_refused_wherever_it_is(bad: float, column: int) -> None:
    predictions = HAND_PREDICTIONS.copy()
    predictions[1, column] = bad
    pairs = pairs_of(predictions, HAND_LABELS, 2)
    assert np.isnan(pairs["scores"]).all(axis=1).tolist() == [False, True, False]
    metrics = EvaluationMetrics(4, 2)
    with pytest.raises(UserError, match="video number 1 of the batch is NaN or infinite"):
        metrics.add(pairs)
    with pytest.raises(UserError, match="video xyz1"):
        metrics.add(pairs, ids=[b"xyz0", b"xyz1", b"xyz2"])
    assert metrics.result()["num_examples"] == 0
    with pytest.raises(UserError, match="number 1 of the batch"):
        GlobalAveragePrecision().add(pairs["scores"], pairs["hits"], pairs["num_labels"])
    with pytest.raises(UserError, match="number 1 of the batch"):
        MacroMetrics(4).add(predictions, HAND_LABELS)
    assert all(np.isnan(value) for value in batch_metrics(pairs).values())


def test_metrics_of_other_sizes_do_not_mix() -> None:
    with pytest.raises(ValueError, match="5 classes into 4"):
        EvaluationMetrics(4).merge(EvaluationMetrics(5))
    with pytest.raises(ValueError, match="top_k=3 into top_k=2"):
        EvaluationMetrics(4, 2).merge(EvaluationMetrics(4, 3))
    with pytest.raises(ValueError, match="5 classes into 4"):
        MacroMetrics(4).merge(MacroMetrics(5))
    with pytest.raises(ValueError, match="2 pairs per video"):
        EvaluationMetrics(4, 3).add(pairs_of(HAND_PREDICTIONS, HAND_LABELS, 2))


# ---- memory


@pytest.mark.parametrize("batch_size", [1, 500])
def test_gap_holds_less_than_200_bytes_per_video(batch_size: int) -> None:
    num_videos = 20_000
    scores = np.random.default_rng(0).random((batch_size, 20), np.float32)
    hits, num_labels = scores > 0.95, np.full(batch_size, 30)
    tracemalloc.start()
    try:
        metrics = GlobalAveragePrecision()
        for _ in range(num_videos // batch_size):
            metrics.add(scores, hits, num_labels)
        _, held = tracemalloc.get_traced_memory()
        assert 0 < metrics.result() < 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held / num_videos < 200
    assert peak / num_videos < 200  # while the result is computed


@given(st.lists(st.lists(st.integers(-5, 5), max_size=5), max_size=8), st.integers(0, 8))
def test_growing_array_is_a_list(pieces: list[list[int]], looks: int) -> None:
    array = GrowingArray(np.int32)
    for i, piece in enumerate(pieces):
        array.extend(np.array(piece, np.int64))
        if i < looks:
            assert array.values().tolist() == list(itertools.chain(*pieces[: i + 1]))
    assert array.values().tolist() == list(itertools.chain(*pieces))


# ---- over every prediction


def macro_of(predictions: np.ndarray, labels: np.ndarray, max_bytes: int = 1 << 30) -> MacroMetrics:
    metrics = MacroMetrics(predictions.shape[1], max_bytes)
    metrics.add(predictions, labels)
    return metrics


def macro_by_definition(predictions: np.ndarray, labels: np.ndarray) -> tuple[list[float], list[float]]:
    pairs = [oracles.macro_ap_and_auc(p.tolist(), y.tolist()) for p, y in zip(predictions.T, labels.T, strict=True)]
    aps, aucs = zip(*pairs, strict=True)
    return [np.nan if ap is None else ap for ap in aps], [np.nan if auc is None else auc for auc in aucs]


@given(problems())
@settings(deadline=None)
def test_macro_metrics_equal_the_definition(problem: Problem) -> None:
    predictions, labels, _ = problem
    aps, aucs = macro_by_definition(predictions, labels)
    metrics = macro_of(predictions, labels)
    assert metrics.per_class().ap == pytest.approx(aps, abs=1e-9, nan_ok=True)
    assert metrics.per_class().auc == pytest.approx(aucs, abs=1e-9, nan_ok=True)
    result = metrics.result()
    for name, values in (("macro_ap", aps), ("macro_auc", aucs)):
        defined = [value for value in values if not np.isnan(value)]
        assert result[name] == pytest.approx(np.mean(defined) if defined else 0, abs=1e-9)
    assert result["macro_ap_error"] == result["macro_auc_error"] == 0


@pytest.mark.parametrize("digits", [8, 1], ids=["few ties", "many ties"])
def test_macro_metrics_equal_scikit_learn(digits: int) -> None:
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(3)
    labels = generator.random((300, 70)) < 0.1  # more classes than are ranked at a time
    predictions = np.round(generator.random((300, 70)) * 0.5 + labels * generator.random((300, 70)) * 0.5, digits)
    predictions = predictions.astype(np.float32)
    result = macro_of(predictions, labels).result()
    ap = sklearn_metrics.average_precision_score(labels, predictions, average="macro")
    auc = sklearn_metrics.roc_auc_score(labels, predictions, average="macro")
    assert (result["macro_ap"], result["macro_auc"]) == pytest.approx((ap, auc), abs=1e-9)


@given(
    problems(
        st.floats(0.40625, 0.4375, width=32) | COARSE | st.floats(0, 2.0**-20, width=32, allow_subnormal=False),
        min_videos=1,
    )
)
@settings(deadline=None)
def test_binned_metrics_keep_their_error_bounds(problem: Problem) -> None:
    predictions, labels, _ = problem
    exact, binned = macro_of(predictions, labels).per_class(), macro_of(predictions, labels, max_bytes=0).per_class()
    for value, estimate, error in (
        (exact.ap, binned.ap, binned.ap_error),
        (exact.auc, binned.auc, binned.auc_error),
    ):
        assert np.array_equal(np.isnan(value), np.isnan(estimate))
        defined = ~np.isnan(value)
        assert (np.abs(value - estimate)[defined] <= error[defined] + 1e-9).all()


def test_bins_are_fine_and_their_bound_is_small() -> None:
    generator = np.random.default_rng(4)
    labels = generator.random((4000, 5)) < 0.05
    predictions = (1 / (1 + np.exp(6 - 2 * generator.normal(size=labels.shape) - 3 * labels))).astype(np.float32)
    exact, binned = macro_of(predictions, labels).result(), macro_of(predictions, labels, max_bytes=0).result()
    for name in ("macro_ap", "macro_auc"):
        assert 0 < binned[f"{name}_error"] < 0.01
        assert abs(exact[name] - binned[name]) < binned[f"{name}_error"]


@given(st.lists(FINE, min_size=2, max_size=50))
def test_bins_keep_the_order_of_scores(scores: list[float]) -> None:
    ordered = np.sort(np.array(scores, np.float32))
    bins = score_bins(ordered)
    assert (np.diff(bins) >= 0).all()
    assert bins.min() >= 0
    assert bins.max() <= 5888


def test_bins_at_their_edges() -> None:
    below = np.nextafter(np.float32(0.5), np.float32(0))
    scores = np.array([0, 2.0**-24, 2.0**-23, below, 0.5, 1 - 2.0**-23, 1], np.float32)
    # 23 octaves of 128 bins on either side of 1/2.
    assert score_bins(scores).tolist() == [0, 0, 128, 2943, 2944, 5760, 5888]


@given(problems(min_videos=2), st.sampled_from([0, 60, 1 << 20]), st.data())
@settings(deadline=None, max_examples=50)
def test_macro_metrics_of_workers_change_no_bit(problem: Problem, max_bytes: int, data: st.DataObject) -> None:
    predictions, labels, _ = problem
    order = data.draw(st.permutations(range(len(predictions))))
    cut = data.draw(st.integers(0, len(predictions)))
    workers = [MacroMetrics(predictions.shape[1], max_bytes) for _ in range(2)]
    for worker, part in zip(workers, (order[:cut], order[cut:]), strict=True):
        for row in part:
            worker.add(predictions[[row]], labels[[row]])
    workers[0].merge(workers[1])
    whole = macro_of(predictions, labels, max_bytes)
    for one, other in zip(workers[0].per_class(), whole.per_class(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_macro_metrics_of_more_videos_are_computed_again() -> None:
    grown = MacroMetrics(4)
    for rows in (slice(0, 1), slice(1, 3)):
        grown.add(HAND_PREDICTIONS[rows], HAND_LABELS[rows])
        part = macro_of(HAND_PREDICTIONS[: rows.stop], HAND_LABELS[: rows.stop])
        assert grown.result() == part.result()
    other = macro_of(1 - HAND_PREDICTIONS, HAND_LABELS)
    other.result()
    other.merge(grown)
    both = np.concatenate([1 - HAND_PREDICTIONS, HAND_PREDICTIONS]), np.concatenate([HAND_LABELS] * 2)
    assert other.result() == macro_of(*both).result()


def test_macro_ap_is_map_when_every_prediction_counts() -> None:
    generator = np.random.default_rng(5)
    predictions, labels = generator.random((40, 6), np.float32), generator.random((40, 6)) < 0.3
    assert macro_of(predictions, labels).result()["macro_ap"] == pytest.approx(
        metrics_of(predictions, labels, 6).result()["map"], abs=1e-12
    )


def test_macro_metrics_of_nothing_are_0() -> None:
    for max_bytes in (0, 1 << 20):
        metrics = MacroMetrics(3, max_bytes)
        metrics.add(np.zeros((0, 3), np.float32), np.zeros((0, 3), bool))
        assert set(metrics.result().values()) == {0.0}


# ---- precision-recall curves


def curve_by_definition(scores: list[float], labels: list[bool], num_thresholds: int) -> dict[str, list[float]]:
    """Counts at each threshold, video by video; a score is above threshold i if its whole steps are."""
    rows = []
    for i in range(num_thresholds):
        above = [int(score * (num_thresholds - 1)) >= i for score in scores]
        counts = [
            sum(a == p and y == t for a, y in zip(above, labels, strict=True))
            for p, t in ((1, 1), (1, 0), (0, 0), (0, 1))
        ]
        rows.append([*counts, counts[0] / max(counts[0] + counts[1], 1), counts[0] / max(counts[0] + counts[3], 1)])
    names = ("true_positive", "false_positive", "true_negative", "false_negative")
    keys = [*(f"{name}_counts" for name in names), "precision", "recall"]
    return {key: list(column) for key, column in zip(keys, zip(*rows, strict=True), strict=True)}


@given(problems(COARSE, min_videos=1))
@settings(deadline=None, max_examples=50)
def test_curves_equal_the_definition(problem: Problem) -> None:
    predictions, labels, k = problem
    kept = np.zeros_like(predictions)  # outside the k best a prediction counts as 0
    for row, p in zip(kept, predictions, strict=True):
        best = oracles.best_classes(p, k)
        row[best] = p[best]
    full = PrecisionRecallCurves(predictions.shape[1], 9)
    full.add(predictions, labels)
    positives = labels.sum(axis=0)
    for c, curve in metrics_of(*problem).precision_recall_curves(3, 9).items():
        for found, scores in ((curve, kept), (full.curve(c, positives[c], len(labels)), predictions)):
            expected = curve_by_definition(scores[:, c].tolist(), labels[:, c].tolist(), 9)
            assert {name: values.tolist() for name, values in found.items()} == expected


def test_curves_are_of_the_commonest_classes() -> None:
    labels = np.array([[0, 1, 1, 0, 1], [0, 1, 0, 0, 1], [0, 0, 0, 0, 1]], bool)
    metrics = metrics_of(np.full(labels.shape, 0.5), labels, 5)
    assert list(metrics.precision_recall_curves(2)) == [4, 1]
    assert list(metrics.precision_recall_curves(10)) == [4, 1, 2]  # classes without positives have no curve


def test_merged_curves_hold_both_parts() -> None:
    parts = [PrecisionRecallCurves(4, 5) for _ in range(3)]
    parts[0].add(HAND_PREDICTIONS[:1], HAND_LABELS[:1])
    parts[1].add(HAND_PREDICTIONS[1:], HAND_LABELS[1:])
    parts[2].add(HAND_PREDICTIONS, HAND_LABELS)
    parts[0].merge(parts[1])
    for name, values in parts[0].curve(2, 1, 3).items():
        np.testing.assert_array_equal(values, parts[2].curve(2, 1, 3)[name])


def test_tensorboard_takes_the_curves() -> None:
    plugin = pytest.importorskip("tensorboard.plugins.pr_curve.summary")
    (curve,) = metrics_of(HAND_PREDICTIONS, HAND_LABELS, 2).precision_recall_curves(1).values()
    summary = plugin.raw_data_pb("class_0", num_thresholds=127, **curve)
    assert tf.make_ndarray(summary.value[0].tensor).shape == (6, 127)
