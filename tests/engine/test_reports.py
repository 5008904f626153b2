"""What an evaluation shows: log lines, TensorBoard's tags and curves, the table of classes."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.util.event_pb2 import Event

from yt8m.engine.evaluation import Evaluation
from yt8m.engine.reports import EvaluationReport, class_table
from yt8m.metrics import Accumulator, BatchResults, top_k_pairs
from yt8m.registry import METRICS

NUM_CLASSES, TOP_K, STEP = 4, 2, 70

# The names that dashboards have known since the starter's code.
OLD_TAGS = {
    "Epoch/Eval_Avg_Hit@1": "hit_at_one",
    "Epoch/Eval_Avg_Perr": "perr",
    "Epoch/Eval_Avg_Loss": "loss",
    "Epoch/Eval_MAP": "map",
    "Epoch/Eval_GAP": "gap",
    "Epoch/Eval_Macro_AP": "macro_ap",
    "Epoch/Eval_Macro_AUC": "macro_auc",
}


class Mine(Accumulator):
    """A group that names nothing but its values."""

    values: ClassVar[Mapping[str, str]] = {"mine": "half a video each", "counted": "videos"}

    def __init__(self, num_classes: int, top_k: int):
        self._num_videos = 0

    def add_batch(self, results: BatchResults) -> None:
        self._num_videos += len(results["ids"])

    def result(self) -> Iterator[tuple[str, float | int]]:
        yield "mine", self._num_videos / 2
        yield "counted", self._num_videos

    def per_class(self) -> Mapping[str, np.ndarray]:
        return {"mine": np.array([0.5, np.nan, 1.0, 0.0])}


def evaluation(groups: Sequence[type[Accumulator]]) -> Evaluation:
    """Three videos whose metrics are worked out in docs/metrics.md."""
    predictions = np.array([[0.9, 0.5, 0.1, 0.2], [0.3, 0.8, 0.6, 0.1], [0.2, 0.1, 0.7, 0.4]], np.float32)
    labels = np.array([[1, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]], bool)
    pairs = top_k_pairs(tf.constant(predictions), tf.constant(labels), TOP_K)
    batch = {name: value.numpy() for name, value in pairs.items()} | {"predictions": predictions, "labels": labels}
    batch |= {"ids": np.array([b"a", b"b", b"c"]), "losses": np.array([1.0, 2.0, 6.0], np.float32)}
    metrics = [group(NUM_CLASSES, TOP_K) for group in groups]
    for accumulator in metrics:
        accumulator.add_batch(batch)
    return Evaluation(metrics)


def events(directory: Path) -> list[Event]:
    (path,) = directory.glob("events.*")
    return [Event.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(path))]


def scalars(directory: Path) -> dict[str, float]:
    """Every number that TensorBoard would show, by tag."""
    found = {}
    for event in events(directory):
        for value in event.summary.value:
            assert event.step == STEP
            found[value.tag] = float(tf.make_ndarray(value.tensor))
    return found


def test_every_value_is_shown_under_its_old_tag_or_its_own_name(tmp_path: Path) -> None:
    found = evaluation([*(METRICS[name] for name in METRICS.names()), Mine])
    report = EvaluationReport(str(tmp_path))
    report(STEP, found, NUM_CLASSES)
    shown = scalars(tmp_path)
    assert len(shown) == len(found.summary)
    for tag, name in OLD_TAGS.items():
        assert shown[tag] == pytest.approx(found.summary[name])
    assert shown["Epoch/Eval_mine"] == 1.5
    assert shown["Epoch/Eval_map_at_n"] == pytest.approx(found.summary["map_at_n"])


def test_the_starters_line_comes_first_and_further_groups_have_a_line_each(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="yt8m")
    EvaluationReport(str(tmp_path / "1"))(STEP, evaluation([METRICS["default"]]), NUM_CLASSES)
    starter = (
        "epoch/eval number 70 | Avg_Hit@1: 0.3333 | Avg_PERR: 0.1667 | MAP: 0.5000 | GAP: 0.5000 | Avg_Loss: 3.0000 | "
        "num_classes: 4"
    )
    assert caplog.messages == [starter]
    caplog.clear()
    found = evaluation([METRICS["default"], METRICS["precision_recall"], Mine])
    EvaluationReport(str(tmp_path / "2"))(STEP, found, NUM_CLASSES)
    # Six predictions, two hits, three positives; class 0: 1/1 and 1/1, class 2: 1/2 and 1/1, class 3: 0/1 and 0/1.
    assert caplog.messages == [
        starter,
        "evaluation at step 70 | overall_precision: 0.3333 | overall_recall: 0.6667 | class_precision: 0.5000 | "
        "class_recall: 0.6667",
        "evaluation at step 70 | mine: 1.5000 | counted: 3",
    ]


def test_curves_are_those_that_some_group_offers(tmp_path: Path) -> None:
    report = EvaluationReport(str(tmp_path))
    report.write_curves(STEP, evaluation([Mine, METRICS["default"]]).curves, {2: "Games"})
    tags = [value.tag for event in events(tmp_path) for value in event.summary.value]
    assert tags == ["class/0/pr_curves", "class/2 Games/pr_curves", "class/3/pr_curves"]
    assert evaluation([Mine]).curves == {}


def test_the_table_of_classes_has_the_columns_of_every_group() -> None:
    columns = evaluation([METRICS["default"], Mine]).per_class
    assert class_table(columns, {0: "Games", 2: 'Food, "fast"'}).splitlines() == [
        "class,name,num_positives,average_precision,mine",
        "0,Games,1,1.0,0.5",
        "1,,0,,",
        '2,"Food, ""fast""",1,0.5,1.0',
        "3,,1,0.0,0.0",
    ]
    assert class_table(columns, {}).startswith("class,num_positives,average_precision,mine\n0,1,1.0,0.5\n")
