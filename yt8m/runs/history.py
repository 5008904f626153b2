"""The course of a run, as its directory keeps it: the numbers of training, and every evaluation."""

import csv
import io
import logging
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.core.util.event_pb2 import Event

from yt8m.files import parse_json, read_bytes
from yt8m.runs.directory import CLASS_TABLE, EVENTS, HISTORY

LOG = logging.getLogger("yt8m.history")


class Curve(NamedTuple):
    """A number over the steps of a run.

    Attributes:
        steps: `(N,)` int64, ascending.
        values: `(N,)` float64.
    """

    steps: NDArray[np.int64]
    values: NDArray[np.float64]


def training_curves(train_dir: str) -> dict[str, Curve]:
    """Reads the scalars that training wrote for TensorBoard, by tag; empty if there are none.

    A run that was killed and resumed has steps twice: what was written last counts. Events that a kill cut short end
    their file.
    """
    points: dict[str, dict[int, float]] = {}
    for path in EVENTS.find(train_dir):  # in the order of time, which is in their names
        of_file: dict[str, dict[int, float]] = {}
        for event in _events(path):
            for value in event.summary.value:
                number = _scalar(value)
                if number is not None:
                    of_file.setdefault(value.tag, {})[event.step] = number
        for tag, numbers in of_file.items():
            before = points.get(tag, {})
            points[tag] = {step: number for step, number in before.items() if step < min(numbers)} | numbers
    return {tag: _curve(numbers) for tag, numbers in points.items()}


def evaluation_curves(train_dir: str) -> dict[str, Curve]:
    """Reads the metrics of `eval/history.jsonl`, by name; of several evaluations of a step the last one counts."""
    points: dict[str, dict[int, float]] = {}
    path = HISTORY.path(train_dir)
    for line in _lines(path):
        try:
            evaluation = parse_json(line)
            step = int(evaluation["global_step"])
            numbers = {name: float(value) for name, value in evaluation.items() if type(value) in (int, float)}
        except (ValueError, TypeError, KeyError, AttributeError):
            LOG.warning("%s: a line that is no evaluation is left out.", path)
            continue
        for name, number in numbers.items():
            points.setdefault(name, {})[step] = number
    return {name: _curve(numbers) for name, numbers in points.items() if name != "global_step"}


def class_table(train_dir: str) -> dict[str, NDArray[np.float64]]:
    """Reads the columns of numbers of `eval/per_class_ap.csv`, `(C,)` float64 by name, NaN where a cell is empty.

    Without that file, which only eval.py writes, or where it is damaged, there are none.
    """
    path = CLASS_TABLE.path(train_dir)
    rows = list(csv.DictReader(io.StringIO("\n".join(_lines(path)))))
    try:
        return {
            name: np.array([float(row[name]) if row[name] else np.nan for row in rows])
            for name in (rows[0] if rows else {})
            if name not in ("class", "name")
        }
    except (ValueError, TypeError, KeyError):
        LOG.warning("%s is damaged and left out; eval.py writes it again.", path)
        return {}


def _events(path: str) -> Iterator[Event]:
    try:
        for record in tf.data.TFRecordDataset(path):
            yield Event.FromString(record.numpy())
    except tf.errors.OpError:
        return


def _scalar(value: Any) -> float | None:
    if value.metadata.plugin_data.plugin_name not in ("", "scalars") or not value.HasField("tensor"):
        return None
    array = tf.make_ndarray(value.tensor)
    return float(array) if array.ndim == 0 and np.issubdtype(array.dtype, np.number) else None


def _lines(path: str) -> list[str]:
    try:
        return read_bytes(path).decode().splitlines() if tf.io.gfile.exists(path) else []
    except ValueError:
        LOG.warning("%s cannot be read and is left out.", path)
        return []


def _curve(points: Mapping[int, float]) -> Curve:
    steps = sorted(points)
    return Curve(np.array(steps, np.int64), np.array([points[step] for step in steps]))
