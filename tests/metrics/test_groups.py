"""Every registered group of metrics: names, documentation, command line, and what batches may not change."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from yt8m.cli.metric_flags import resolve_metrics
from yt8m.errors import UserError
from yt8m.metrics import Accumulator, BatchResults, top_k_pairs
from yt8m.registry import METRICS

from oracles import metrics as oracles

NUM_CLASSES, NUM_VIDEOS, TOP_K = 7, 40, 4
every_group = pytest.mark.parametrize("name", METRICS.names())


def results(rows: slice = slice(None)) -> BatchResults:
    """What an evaluation says of some of the videos of a fixed set. Losses are whole numbers: their sums are exact."""
    rng = np.random.default_rng(3)
    predictions = rng.random((NUM_VIDEOS, NUM_CLASSES)).astype(np.float32)[rows]
    labels = (rng.random((NUM_VIDEOS, NUM_CLASSES)) < 0.3)[rows]
    pairs = top_k_pairs(tf.constant(predictions), tf.constant(labels), TOP_K)
    ids = np.array([f"v{number}".encode() for number in range(NUM_VIDEOS)])[rows]
    losses = rng.integers(0, 100, NUM_VIDEOS).astype(np.float32)[rows]
    others = {"ids": ids, "losses": losses, "predictions": predictions, "labels": labels}
    return {name: value.numpy() for name, value in pairs.items()} | others


def group(name: str, **settings: Any) -> Accumulator:
    return METRICS[name](NUM_CLASSES, TOP_K, **settings)


def add(accumulator: Accumulator, rows: slice = slice(None)) -> None:
    """Adds videos; predictions and labels are there only if the accumulator says that it needs them."""
    batch = dict(results(rows))
    if not accumulator.needs_all_predictions:
        del batch["predictions"], batch["labels"]
    accumulator.add_batch(batch)


@every_group
def test_names_are_those_that_are_listed(name: str) -> None:
    accumulator = group(name)
    add(accumulator)
    assert [value_name for value_name, _ in accumulator.result()] == list(accumulator.values)
    assert accumulator.tags.keys() <= accumulator.values.keys()
    assert all(column.shape == (NUM_CLASSES,) for column in accumulator.per_class().values())


def test_no_two_groups_share_a_name() -> None:
    names = [name for group_name in METRICS.names() for name in group(group_name).values]
    assert len(names) == len(set(names))
    accumulators = [group(name) for name in METRICS.names()]
    for accumulator in accumulators:
        add(accumulator)
    columns = [name for accumulator in accumulators for name in accumulator.per_class()]
    assert len(columns) == len(set(columns))
    # TensorBoard has a curve per class: were there two, one would be lost.
    assert sum(bool(accumulator.curves()) for accumulator in accumulators) == 1


@every_group
def test_batches_change_nothing(name: str) -> None:
    whole, parts = group(name), group(name)
    add(whole)
    for rows in (slice(20, 33), slice(0, 20), slice(33, None)):
        add(parts, rows)
    assert dict(parts.result()) == dict(whole.result())
    for column, values in whole.per_class().items():
        np.testing.assert_array_equal(parts.per_class()[column], values)


@every_group
def test_no_videos_are_no_error(name: str) -> None:
    accumulator = group(name)
    assert all(np.isfinite(value) for _, value in accumulator.result())
    add(accumulator, slice(0, 0))
    assert all(value == 0 for _, value in accumulator.result())


def test_the_table_in_the_documentation_is_that_of_the_groups() -> None:
    rows = [
        f"| `{name}` | `{value_name}` | {meaning} |"
        for name in ("default", *(name for name in METRICS.names() if name != "default"))
        for value_name, meaning in METRICS[name].values.items()
    ]
    document = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    assert "\n".join(rows) in document, "docs/metrics.md should have these rows:\n" + "\n".join(rows)


def ap_at_n(scores: np.ndarray, labels: np.ndarray, n: int) -> float:
    """From the definition: videos ranked by the score of one class."""
    order = sorted(range(len(scores)), key=lambda video: -scores[video])
    found, total = 0, 0.0
    for rank, video in enumerate(order[:n], start=1):
        if labels[video]:
            found += 1
            total += found / rank
    return total / min(int(labels.sum()), n)


@pytest.mark.parametrize("n", [1, 3, 100])
def test_map_at_n_is_that_of_the_definition(n: int) -> None:
    all_classes = METRICS["ap_at_n"](NUM_CLASSES, NUM_CLASSES, n=n)
    batch: Mapping[str, np.ndarray] = results()
    pairs = top_k_pairs(tf.constant(batch["predictions"]), tf.constant(batch["labels"]), NUM_CLASSES)
    all_classes.add_batch({name: value.numpy() for name, value in pairs.items()})
    expected = [ap_at_n(batch["predictions"][:, c], batch["labels"][:, c], n) for c in range(NUM_CLASSES)]
    np.testing.assert_allclose(all_classes.per_class()["ap_at_n"], expected, rtol=0, atol=1e-12)
    assert dict(all_classes.result())["map_at_n"] == pytest.approx(np.mean(expected))


def test_loss_and_gap_by_definition() -> None:
    accumulator, batch = group("default"), results()
    accumulator.add_batch(batch)
    values = dict(accumulator.result())
    assert values["loss"] == pytest.approx(batch["losses"].mean(), rel=1e-6)
    assert values["gap"] == pytest.approx(oracles.gap(batch["predictions"].tolist(), batch["labels"].tolist(), TOP_K))


def test_precision_and_recall_at_fewer_classes_than_are_kept() -> None:
    """Two videos, three classes, k = 1: the first is given class 0, a label; the second class 2, which is none."""
    predictions, labels = [[0.9, 0.5, 0.1], [0.2, 0.3, 0.8]], [[True, True, False], [False, True, False]]
    pairs = top_k_pairs(tf.constant(predictions), tf.constant(labels), 2)
    accumulator = METRICS["precision_recall"](3, 2, k=1)
    accumulator.add_batch({name: value.numpy() for name, value in pairs.items()})
    # One hit of two predictions and three positives; classes 0 and 1 have positives: precision 1 and 0, recall 1 and 0.
    expected = {"overall_precision": 1 / 2, "overall_recall": 1 / 3, "class_precision": 1 / 2, "class_recall": 1 / 2}
    assert dict(accumulator.result()) == pytest.approx(expected)


def of_matrix(name: str, predictions: np.ndarray, labels: np.ndarray, top_k: int, **settings: Any) -> dict[str, float]:
    """The values of a group for a matrix of predictions."""
    pairs = top_k_pairs(tf.constant(predictions, tf.float32), tf.constant(labels, tf.bool), top_k)
    accumulator = METRICS[name](predictions.shape[1], top_k, **settings)
    others = {"predictions": predictions.astype(np.float32), "labels": labels.astype(bool)}
    accumulator.add_batch({pair: value.numpy() for pair, value in pairs.items()} | others)
    return dict(accumulator.result())


HAND_PREDICTIONS = np.array([[0.9, 0.5, 0.1], [0.3, 0.8, 0.6], [0.2, 0.3, 0.7], [0.6, 0.1, 0.2]])
HAND_LABELS = np.array([[1, 0, 0], [0, 0, 1], [1, 1, 0], [1, 1, 1]])


def test_hits_by_hand() -> None:
    # The best class is a label of the first and the last video; the two best classes of each hold a label.
    assert of_matrix("hit_at_k", HAND_PREDICTIONS, HAND_LABELS, 2, k=1) == {"hit_at_k": 2 / 4}
    assert of_matrix("hit_at_k", HAND_PREDICTIONS, HAND_LABELS, 2) == {"hit_at_k": 4 / 4}
    # Class 0 has three videos, the first and the last found; class 1 two and class 2 two, none found.
    accuracy = of_matrix("class_accuracy", HAND_PREDICTIONS, HAND_LABELS, 2)
    assert accuracy == {"mean_class_accuracy": pytest.approx((2 / 3 + 0 + 0) / 3)}


def test_clip_hits_by_hand() -> None:
    # Two videos of two clips, labels {0} and {1, 2}. Best classes: 0; 1; 0 before 2; 2.
    clips = np.array([[[0.9, 0.1, 0.2], [0.3, 0.6, 0.1]], [[0.5, 0.1, 0.4], [0.1, 0.2, 0.7]]], np.float32)
    labels = np.array([[True, False, False], [False, True, True]])
    results = {"clip_predictions": clips, "predictions": clips.mean(axis=1), "labels": labels}
    hits = METRICS["clip_hits"](3, 20, k=2)
    hits.add_batch(results)
    assert dict(hits.result()) == {"clip_hit_at_one": 2 / 4, "clip_hit_at_k": 4 / 4}
    # One clip per video: the mean scores are (0.6, 0.35, 0.15) and (0.3, 0.15, 0.55).
    alone = METRICS["clip_hits"](3, 20, k=1)
    alone.add_batch({name: results[name] for name in ("predictions", "labels")})
    assert dict(alone.result()) == {"clip_hit_at_one": 1.0, "clip_hit_at_k": 1.0}


def test_the_upper_bound_by_hand() -> None:
    # k = 2 of 3 classes: the videos have 1, 1, 2 and 3 labels; 1 + 1 + 2 + 2 hits of 8 predictions and 7 labels.
    # The last video is given classes 1 and 2, of two positives each, not class 0, of three. So class 0 has 2 hits of 3
    # positives, the others all of theirs. The first video's miss is class 1 or 2, the second's 0 or 1: expected misses
    # 1/2, 1 and 1/2.
    bound = of_matrix("upper_bound", HAND_PREDICTIONS, HAND_LABELS, 2)
    assert bound == pytest.approx(
        {
            "bound_overall_precision": 6 / 8,
            "bound_overall_recall": 6 / 7,
            "bound_class_precision": (2 / 2.5 + 2 / 3 + 2 / 2.5) / 3,
            "bound_class_recall": (2 / 3 + 1 + 1) / 3,
        }
    )


@pytest.mark.parametrize("k", [1, 2, 4])
def test_nothing_is_above_the_upper_bound_and_perfect_predictions_reach_it(k: int) -> None:
    rng = np.random.default_rng(8)
    labels = rng.random((50, 6)) < 0.35
    bound = of_matrix("upper_bound", np.zeros((50, 6)), labels, k)
    for _ in range(20):
        values = of_matrix("precision_recall", rng.random((50, 6)) + labels * rng.random(), labels, k)
        for name in ("overall_precision", "overall_recall", "class_recall"):
            assert values[name] <= bound[f"bound_{name}"] + 1e-12
    rarest_first = labels * (2.0 - labels.sum(axis=0) / 50) + 0.1 * rng.random((50, 6))
    perfect = of_matrix("precision_recall", rarest_first, labels, k)
    for name in ("overall_precision", "overall_recall"):
        assert perfect[name] == pytest.approx(bound[f"bound_{name}"])
    rarest_first = labels * (2.0 - labels.sum(axis=0) / 50 - 1e-6 * np.arange(6))
    assert of_matrix("precision_recall", rarest_first, labels, k)["class_recall"] == pytest.approx(
        bound["bound_class_recall"]
    )


def calibration_error(predictions: np.ndarray, labels: np.ndarray, bins: int) -> float:
    """From the definition, one prediction at a time."""
    members: dict[int, list[tuple[float, bool]]] = {}
    for p, y in zip(predictions.ravel(), labels.ravel(), strict=True):
        members.setdefault(min(int(float(p) * bins), bins - 1), []).append((float(p), bool(y)))
    total = 0.0
    for pairs in members.values():
        confidence, accuracy = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
        total += len(pairs) / predictions.size * abs(confidence - accuracy)
    return total


@pytest.mark.parametrize("bins", [1, 2, 15])
def test_the_calibration_error_is_that_of_its_definition(bins: int) -> None:
    rng = np.random.default_rng(9)
    predictions = rng.random((30, 5)).astype(np.float32)
    predictions[0] = [0.0, 1.0, 0.5, 1.0, 0.0]
    labels = rng.random((30, 5)) < predictions**2
    expected = calibration_error(predictions, labels, bins)
    assert of_matrix("calibration", predictions, labels, 3, bins=bins)["ece"] == pytest.approx(expected, abs=1e-8)


def test_the_calibration_error_by_hand() -> None:
    # Two bins. Below 1/2: 0.2 and 0.4, one is a label: |0.3 - 0.5|. Above: 0.9 and 0.5, both labels: |0.7 - 1|.
    error = of_matrix("calibration", np.array([[0.2, 0.9], [0.4, 0.5]]), np.array([[1, 1], [0, 1]]), 2, bins=2)
    assert error["ece"] == pytest.approx(0.5 * 0.2 + 0.5 * 0.3)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("hit_at_k", {"k": -1}, r"k=-1: expected at most the 4 classes"),
        ("hit_at_k", {"k": 5}, r"k=5: expected at most the 4 classes"),
        ("upper_bound", {"k": 5}, r"k=5: expected at most the 4 classes"),
        ("clip_hits", {"k": 0}, r"k=0: expected at least 1"),
        ("calibration", {"bins": 0}, r"bins=0: expected at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(name: str, settings: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        group(name, **settings)


def test_groups_and_settings_on_the_command_line() -> None:
    assert resolve_metrics("default", macro=False) == {"default": {}}
    assert list(resolve_metrics("macro", macro=False)) == ["default", "macro"]
    assert list(resolve_metrics("default", macro=True)) == ["default", "macro"]
    assert list(resolve_metrics("", macro=False)) == ["default"]
    assert resolve_metrics("default, ap_at_n:n=100,macro", macro=True) == {
        "default": {},
        "ap_at_n": {"n": 100},
        "macro": {},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "marco",
            r"--metrics=marco: there is no such group of metrics\. Did you mean macro\? Known: ap_at_n, calibration, ",
        ),
        ("ap_at_n:m=3", r"--metrics: ap_at_n has no hyper-parameter 'm'.* It has: n\."),
        ("ap_at_n:n=few", r"--metrics=ap_at_n:n='few': expected a value of type int"),
        ("ap_at_n:3", r"^--metrics=ap_at_n:3: expected name=value, as in --metrics=ap_at_n:n=20\.$"),
        ("macro:3", r"^--metrics=macro:3: expected name=value"),
        ("ap_at_n:n=3,macro,ap_at_n", r"^--metrics=ap_at_n:n=3,macro,ap_at_n names ap_at_n twice"),
    ],
)
def test_wrong_groups_are_answered_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        resolve_metrics(text, macro=False)
    assert not re.search("\n", str(error.value))
