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
        ("marco", r"--metrics=marco: there is no such group of metrics\. Did you mean macro\? Known: ap_at_n, default"),
        ("ap_at_n:m=3", r"--metrics: ap_at_n has no hyper-parameter 'm'.* It has: n\."),
        ("ap_at_n:n=few", r"--metrics: n='few' of ap_at_n: expected a value of type int"),
        ("ap_at_n:3", r"^--metrics=ap_at_n:3: expected name=value, as in --metrics=ap_at_n:n=20\.$"),
        ("macro:3", r"^--metrics=macro:3: expected name=value"),
        ("ap_at_n:n=3,macro,ap_at_n", r"^--metrics=ap_at_n:n=3,macro,ap_at_n names ap_at_n twice"),
    ],
)
def test_wrong_groups_are_answered_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        resolve_metrics(text, macro=False)
    assert not re.search("\n", str(error.value))
