"""What people watch: log lines, a bar on terminals, TensorBoard."""

import csv
import io
import logging
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams.summary_v2 import hparams_pb

from yt8m.config import RunConfig
from yt8m.engine.clusters import VideoShares
from yt8m.engine.evaluation import Evaluation
from yt8m.engine.step import Measures
from yt8m.errors import UserError, first_line
from yt8m.progress import progress

LOG = logging.getLogger("yt8m.summaries")

_IN_THE_STARTERS_LINE = ("hit_at_one", "perr", "map", "gap", "loss")


class EventWriter:
    """Writes TensorBoard events. The event file is created lazily, when the first event is written.

    Args:
        directory: the directory of the event file; it is made if need be.
        enabled: False makes every call do nothing: of several workers only the first one writes.
    """

    def __init__(self, directory: str, enabled: bool = True):
        self._directory = directory
        self._enabled = enabled

    @cached_property
    def _writer(self) -> tf.summary.SummaryWriter:
        return tf.summary.create_file_writer(self._directory)

    @contextmanager
    def of_step(self, step: int) -> Iterator[None]:
        """Makes what `tf.summary` writes inside of this block an event of `step`, and flushes it at the end.

        Raises:
            UserError: if it cannot be written.
        """
        if not self._enabled:
            yield
            return
        try:
            with self._writer.as_default(step):
                yield
            self._writer.flush()
        except tf.errors.OpError as error:
            raise UserError(
                f"{self._directory}: TensorBoard's events cannot be written ({first_line(error)}). Expected a folder "
                "with permission and room to write. Make room, or copy the run to such a place."
            ) from error

    def close(self) -> None:
        """Writes out what is still in memory."""
        if "_writer" in vars(self):
            self._writer.close()

    def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes numbers by tag.

        Raises:
            UserError: if they cannot be written.
        """
        with self.of_step(step):
            for tag, value in scalars.items():
                tf.summary.scalar(tag, value)


class TrainingReport:
    """Tells how training goes, under the names that people's dashboards and scripts know.

    Attributes:
        events: the run's events, to which evaluations on the way are added.

    Args:
        train_dir: where TensorBoard events go.
        config: is shown as text, and its settings in the table of runs, HPARAMS.
        examples_seen: how many examples the run saw before it was resumed.
        run_examples: how many it will see, more or less.
        log: whether this process logs; one of several workers does.
    """

    def __init__(self, train_dir: str, config: RunConfig, examples_seen: int, run_examples: int, log: bool = True):
        self.events = EventWriter(train_dir, enabled=log)
        self._log = log
        self._examples_seen = examples_seen
        self._moment = time.monotonic()
        self._shown = ExitStack()
        self._advance = self._shown.enter_context(progress("training", run_examples, examples_seen)) if log else None
        with self.events.of_step(0):
            tf.summary.text("config", f"```\n{config.to_json()}```")
            settings = hparams_pb(_settings_in_table(config), trial_id=_name_in_table(train_dir))
            tf.summary.experimental.write_raw_pb(settings.SerializeToString())

    def restart_clock(self) -> None:
        """Leaves out of the examples per second what was done since the last report: an evaluation."""
        self._moment = time.monotonic()

    def __call__(self, step: int, examples_seen: int, measures: Measures) -> None:
        """Reports one step: its log line, its scalars, and on a terminal the time left.

        Raises:
            UserError: if its scalars cannot be written.
        """
        now = time.monotonic()
        new_examples = examples_seen - self._examples_seen
        rate = new_examples / max(now - self._moment, 1e-9)
        self._examples_seen, self._moment = examples_seen, now
        if self._log:
            LOG.info("%s", training_line(step, rate, measures))
        if self._advance is not None:
            self._advance(new_examples)
        scalars = {
            name: measures.scalars[name] for name in ("learning_rate", "label_loss", "reg_loss", "gradient_norm")
        }
        scalars |= {
            "model/Training_Hit@1": measures.metrics["hit_at_one"],
            "model/Training_Perr": measures.metrics["perr"],
            "model/Training_GAP": measures.metrics["gap"],
            "global_step/Examples/Second": rate,
        }
        self.events.scalars(step, scalars)

    def close(self) -> None:
        """Writes out what is still in memory, and takes the bar away."""
        self._shown.close()
        self.events.close()


class EvaluationReport:
    """Tells how well a checkpoint does.

    Args:
        events: where TensorBoard events go. Of two writers in one folder TensorBoard would follow one only.
    """

    def __init__(self, events: EventWriter):
        self._events = events

    def __call__(self, step: int, evaluation: Evaluation, num_classes: int) -> None:
        """Reports one evaluation: its log line first, one more for each further group of metrics, then its scalars.

        Raises:
            UserError: if its scalars cannot be written.
        """
        summary = evaluation.summary
        LOG.info("%s", evaluation_line(step, summary, num_classes))
        for accumulator in evaluation.metrics:
            if not accumulator.values.keys() & _IN_THE_STARTERS_LINE:
                LOG.info("%s", group_line(step, {name: summary[name] for name in accumulator.values}))
        tags = {name: tag for accumulator in evaluation.metrics for name, tag in accumulator.tags.items()}
        self._events.scalars(step, {tags.get(name, f"Epoch/Eval_{name}"): value for name, value in summary.items()})

    def write_clusters(self, step: int, videos: Sequence[VideoShares]) -> None:
        """Writes a picture per pooling of the clusters of each frame: of a video per row, the darker the larger.

        Args:
            step: the step of the checkpoint.
            videos: all with as many poolings; if there are none, nothing is written.

        Raises:
            UserError: if they cannot be written.
        """
        if not videos:
            return
        with self._events.of_step(step):
            for number in range(len(videos[0].shares)):
                images = [cluster_image(video.shares[number]) for video in videos]
                tf.summary.image(f"clusters/pooling_{number}", _same_size(images), max_outputs=len(images))

    def write_curves(self, step: int, curves: Mapping[int, Mapping[str, Any]], names: Mapping[int, str]) -> None:
        """Writes precision-recall curves.

        Args:
            step: the step of the checkpoint.
            curves: by class, the arguments of TensorBoard's plugin.
            names: names of classes, where known. The index is part of every tag: names may be equal.

        Raises:
            UserError: if they cannot be written.
        """
        from tensorboard.plugins.pr_curve import summary  # it is slow to import, and only eval.py comes here

        with self._events.of_step(step):
            for index, curve in curves.items():
                proto = summary.raw_data_pb(f"class/{index} {names.get(index, '')}".strip(), **curve)
                tf.summary.experimental.write_raw_pb(proto.SerializeToString(), step=step)


def class_table(columns: Mapping[str, np.ndarray], names: Mapping[int, str]) -> str:
    """Returns as CSV what an evaluation found class by class.

    Args:
        columns: `(C,)` each, by name.
        names: names of classes, where known; without any there is no such column.

    Returns:
        A header and a row per class: its index, its name if known, its columns, empty where they are NaN.
    """
    num_classes = max(map(len, columns.values()), default=0)
    known_names = {"name": [names.get(index, "") for index in range(num_classes)]} if names else {}
    table = {"class": range(num_classes), **known_names, **{name: column.tolist() for name, column in columns.items()}}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    writer.writerows(["" if cell != cell else cell for cell in row] for row in zip(*table.values(), strict=True))
    return text.getvalue()


def training_line(step: int, examples_per_second: float, measures: Measures) -> str:
    """Returns the starter's line about a training step, which people's scripts look for."""
    m = measures.metrics
    return (
        f"training step {step} | Loss: {measures.scalars['label_loss']:.4f} Examples/sec: {examples_per_second:.2f} | "
        f"Hit@1: {m['hit_at_one']:.4f} PERR: {m['perr']:.4f} GAP: {m['gap']:.4f}"
    )


def evaluation_line(step: int, metrics: Mapping[str, Any], num_classes: int) -> str:
    """Returns the starter's line about an evaluation, which people's scripts look for."""
    return (
        f"epoch/eval number {step} | Avg_Hit@1: {metrics['hit_at_one']:.4f} | "
        f"Avg_PERR: {metrics['perr']:.4f} | MAP: {metrics['map']:.4f} | GAP: {metrics['gap']:.4f} | "
        f"Avg_Loss: {metrics['loss']:.4f} | num_classes: {num_classes}"
    )


def group_line(step: int, metrics: Mapping[str, float | int]) -> str:
    """Returns a line about a group of metrics that the starter's line does not show."""
    values = (
        f"{name}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}" for name, value in metrics.items()
    )
    return " | ".join([f"evaluation at step {step}", *values])


def cluster_image(shares: np.ndarray) -> np.ndarray:
    """Returns `shares` `(T, K)` float, of T frames in K clusters, as `(K, T, 1)` uint8 pixels: black is the largest."""
    largest = max(float(shares.max(initial=0.0)), 1e-9)
    return np.round(255 * (1 - shares.T[:, :, np.newaxis] / largest)).astype(np.uint8)


def _same_size(images: Sequence[np.ndarray]) -> np.ndarray:
    """Puts images `(K, T, 1)` of different lengths T into one array; what they lack is white."""
    longest = max(image.shape[1] for image in images)
    return np.stack([np.pad(x, ((0, 0), (0, longest - x.shape[1]), (0, 0)), constant_values=255) for x in images])


def _name_in_table(train_dir: str) -> str:
    """The name of a run in TensorBoard's table: short, and another one for a folder of the same name elsewhere."""
    path = train_dir.rstrip("/") if "://" in train_dir else str(Path(train_dir).absolute())
    return f"{path.rpartition('/')[2]} {zlib.crc32(path.encode()) & 0xFFFF:04x}"


def _settings_in_table(config: RunConfig) -> dict[str, bool | float | str]:
    """The settings of a run as TensorBoard's table takes them."""
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in config.settings.items()
    }
