"""What people watch: log lines, a progress line on terminals, TensorBoard."""

import logging
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorboard.plugins.pr_curve import summary as pr_curve_summary

from yt8m.config import RunConfig
from yt8m.engine.step import Measures

LOG = logging.getLogger("yt8m.summaries")


class TrainingReport:
    """Tells how training goes, under the names that people's dashboards and scripts know.

    Args:
        train_dir: where TensorBoard events go.
        config: is shown as text.
        examples_seen: how many examples the run saw before it was resumed.
        run_examples: how many it will see, more or less.
        log: whether this process logs; one of several workers does.
    """

    def __init__(self, train_dir: str, config: RunConfig, examples_seen: int, run_examples: int, log: bool = True):
        self._writer = tf.summary.create_file_writer(train_dir) if log else tf.summary.create_noop_writer()
        self._log = log
        self._total_examples = run_examples
        self._seen = examples_seen
        self._moment = time.monotonic()
        with self._writer.as_default():
            tf.summary.text("config", f"```\n{config.to_json()}```", step=0)

    def restart_clock(self) -> None:
        """Leaves out of the examples per second what was done since the last report: an evaluation."""
        self._moment = time.monotonic()

    def __call__(self, step: int, examples_seen: int, measures: Measures) -> None:
        """Reports one step: its log line, its scalars, and on a terminal the time left."""
        now = time.monotonic()
        rate = (examples_seen - self._seen) / max(now - self._moment, 1e-9)
        self._seen, self._moment = examples_seen, now
        if self._log:
            LOG.info("%s", training_line(step, rate, measures))
            _show_progress(examples_seen, self._total_examples, rate)
        self._write(step, rate, measures)

    def _write(self, step: int, rate: float, measures: Measures) -> None:
        scalars = {
            "learning_rate": measures.sums["learning_rate"],
            "label_loss": measures.sums["label_loss"],
            "reg_loss": measures.sums["reg_loss"],
            "gradient_norm": measures.sums["gradient_norm"],
            "model/Training_Hit@1": measures.metrics["hit_at_one"],
            "model/Training_Perr": measures.metrics["perr"],
            "model/Training_GAP": measures.metrics["gap"],
            "global_step/Examples/Second": rate,
        }
        _write_scalars(self._writer, step, scalars)

    def close(self) -> None:
        """Writes out what is still in memory."""
        self._writer.close()


class EvaluationReport:
    """Tells how well a checkpoint does.

    Args:
        directory: where TensorBoard events go.
    """

    def __init__(self, directory: str):
        self._writer = tf.summary.create_file_writer(directory)

    def __call__(self, metrics: Mapping[str, Any], num_classes: int) -> None:
        """Reports one evaluation: its log line and its scalars."""
        LOG.info("%s", evaluation_line(metrics, num_classes))
        names = {
            "Epoch/Eval_Avg_Hit@1": "hit_at_one",
            "Epoch/Eval_Avg_Perr": "perr",
            "Epoch/Eval_Avg_Loss": "loss",
            "Epoch/Eval_MAP": "map",
            "Epoch/Eval_GAP": "gap",
            "Epoch/Eval_Macro_AP": "macro_ap",
            "Epoch/Eval_Macro_AUC": "macro_auc",
        }
        scalars = {tag: metrics[name] for tag, name in names.items() if name in metrics}
        _write_scalars(self._writer, metrics["global_step"], scalars)

    def write_curves(self, step: int, curves: Mapping[int, Mapping[str, np.ndarray]], names: Mapping[int, str]) -> None:
        """Writes precision-recall curves.

        Args:
            step: the step of the checkpoint.
            curves: by class, the arguments of TensorBoard's plugin.
            names: names of classes, where known.
        """
        with self._writer.as_default():
            for index, curve in curves.items():
                proto = pr_curve_summary.raw_data_pb(f"class/{names.get(index, index)}", **curve)
                tf.summary.experimental.write_raw_pb(proto.SerializeToString(), step=step)
        self._writer.flush()

    def close(self) -> None:
        """Writes out what is still in memory."""
        self._writer.close()


def training_line(step: int, examples_per_second: float, measures: Measures) -> str:
    """Returns the starter's line about a training step, which people's scripts look for."""
    m = measures.metrics
    return (
        f"training step {step} | Loss: {measures.sums['label_loss']:.4f} Examples/sec: {examples_per_second:.2f} | "
        f"Hit@1: {m['hit_at_one']:.4f} PERR: {m['perr']:.4f} GAP: {m['gap']:.4f}"
    )


def evaluation_line(metrics: Mapping[str, Any], num_classes: int) -> str:
    """Returns the starter's line about an evaluation, which people's scripts look for."""
    return (
        f"epoch/eval number {metrics['global_step']} | Avg_Hit@1: {metrics['hit_at_one']:.4f} | "
        f"Avg_PERR: {metrics['perr']:.4f} | MAP: {metrics['map']:.4f} | GAP: {metrics['gap']:.4f} | "
        f"Avg_Loss: {metrics['loss']:.4f} | num_classes: {num_classes}"
    )


def _write_scalars(writer: tf.summary.SummaryWriter, step: int, scalars: Mapping[str, float]) -> None:
    with writer.as_default():
        for tag, value in scalars.items():
            tf.summary.scalar(tag, value, step=step)
    writer.flush()


def _show_progress(examples_seen: int, total_examples: int, rate: float) -> None:
    """Rewrites one line of the terminal; writes nothing where nobody looks."""
    if not sys.stderr.isatty():
        return
    left = max(total_examples - examples_seen, 0)
    share = (
        f"{min(examples_seen / total_examples, 1):.0%} of about {total_examples:,} examples, " if total_examples else ""
    )
    time_left = f", {duration(left / rate)} left" if total_examples and rate else ""
    sys.stderr.write(f"\r\033[K{share}{rate:,.0f} examples/s{time_left}")
    sys.stderr.flush()


def duration(seconds: float) -> str:
    """Returns a time as people say it: 42 s, 12 min, 3 h 20 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
