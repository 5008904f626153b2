"""Temperature scaling: one number per checkpoint that turns its predictions into frequencies.

    p' = sigmoid(z / T),   z = logit(p)

T above 1 makes predictions less sure of themselves. The order of all predictions of a run stays as it was, so GAP and
every other metric of ranks stay too; cross entropy, calibration error and blends with other runs change.

Source: Guo, Pleiss, Sun & Weinberger 2017, "On Calibration of Modern Neural Networks", with a sigmoid per class for
the softmax.
"""

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from yt8m.batch import LABEL_WEIGHTS, LABELS, model_inputs, videos_in
from yt8m.errors import UserError, first_line
from yt8m.files import parse_json, read_bytes, write_text
from yt8m.progress import with_progress
from yt8m.runs.directory import CALIBRATION, checkpoint_step
from yt8m.scores import check_finite

LOG = logging.getLogger("yt8m.calibration")

# Logits z are pooled in bins that are equally wide on the scale sign(z) log(1 + |z|), about (1 + |z|) / 9500 in z. In a
# bin softplus is replaced by its value at the bin's mean, which is off by the square of the width at most.
_NUM_BINS = 1 << 18
_LARGEST_LOGIT = 1e6  # beyond it softplus is linear at every temperature, so that one bin may hold all the rest
_BINS_PER_UNIT = _NUM_BINS / 2 / np.log1p(_LARGEST_LOGIT)

_LARGEST_TEMPERATURE = 100.0
_MOST_STEPS = 100
_PRECISION = 1e-12  # of the temperature, relative

_SMALLEST_PROBABILITY = 1e-7  # of a model that returns no logits

# (batch, training) -> outputs; a Keras model is one.
Model = Callable[..., dict[str, Any]]


def logits_of(outputs: Mapping[str, Any]) -> tf.Tensor:
    """Returns `(B, C)` float32 logits: the model's own, or those of `predictions` clipped to [1e-7, 1 - 1e-7]."""
    if "logits" in outputs:
        return tf.cast(outputs["logits"], tf.float32)
    p = tf.clip_by_value(tf.cast(outputs["predictions"], tf.float32), _SMALLEST_PROBABILITY, 1 - _SMALLEST_PROBABILITY)
    return tf.math.log(p) - tf.math.log1p(-p)


class CalibratedModel:
    """A model whose logits are divided by a temperature; at 1, as it is at first, its outputs are the model's own.

    Args:
        model: maps a batch to `predictions` and perhaps `logits`, `(B, C)` float, and other outputs.
    """

    def __init__(self, model: Model):
        self._model = model
        self._temperature = tf.Variable(1.0, trainable=False)

    def set_temperature(self, temperature: float) -> None:
        """Sets T, by which logits are divided from now on."""
        self._temperature.assign(temperature)

    def __call__(self, batch: Mapping[str, tf.Tensor], training: bool = False) -> dict[str, Any]:
        """Returns the outputs for a `batch` as yt8m/batch.py defines it, with other `predictions` and `logits`."""
        outputs = self._model(batch, training=training)
        scaled = logits_of(outputs) / self._temperature
        predictions = tf.where(self._temperature == 1.0, outputs["predictions"], tf.math.sigmoid(scaled))
        logits = {"logits": scaled} if "logits" in outputs else {}
        return {**outputs, "predictions": predictions, **logits}


class Reliability(NamedTuple):
    """How often predictions come true, in K bins of equal width over [0, 1].

    Attributes:
        num_predictions: `(K,)` int64, the number of predictions in each bin.
        mean_predictions: `(K,)` float64, their mean; NaN in an empty bin.
        frequencies: `(K,)` float64, the share of them whose class is a label; NaN in an empty bin.
    """

    num_predictions: np.ndarray
    mean_predictions: np.ndarray
    frequencies: np.ndarray

    @property
    def calibration_error(self) -> float:
        """The expected calibration error: sum over bins of (share of predictions) * |frequency - mean prediction|."""
        gaps = np.nan_to_num(np.abs(self.frequencies - self.mean_predictions))
        return float(gaps @ self.num_predictions / max(self.num_predictions.sum(), 1))


class LogitHistogram:
    """Logits and labels of any number of videos, pooled in 262,144 bins: all that a temperature needs, in 6 MB."""

    def __init__(self) -> None:
        self._counts = np.zeros(_NUM_BINS, np.int64)
        self._positives = np.zeros(_NUM_BINS, np.int64)
        self._sums = np.zeros(_NUM_BINS)
        self._sum_of_positives = 0.0
        self.num_videos = 0

    def add(self, logits: np.ndarray, labels: np.ndarray, is_counted: np.ndarray | None = None) -> None:
        """Adds videos.

        Args:
            logits: `(B, C)` float.
            labels: `(B, C)` bool.
            is_counted: `(B, C)` bool, the classes that count; None for all.

        Raises:
            UserError: if a logit is not finite.
        """
        check_finite(logits)
        self.num_videos += len(logits)
        if is_counted is not None:
            logits, labels = logits[is_counted], labels[is_counted]
        logits = logits.astype(np.float64)
        scaled = np.copysign(np.log1p(np.minimum(np.abs(logits), _LARGEST_LOGIT)), logits) * _BINS_PER_UNIT
        places = np.minimum(np.floor(scaled).astype(np.int64) + _NUM_BINS // 2, _NUM_BINS - 1)
        self._counts += np.bincount(places.ravel(), minlength=_NUM_BINS)
        self._sums += np.bincount(places.ravel(), logits.ravel(), minlength=_NUM_BINS)
        self._positives += np.bincount(places[labels], minlength=_NUM_BINS)
        self._sum_of_positives += float(logits[labels].sum())

    @property
    def _means(self) -> np.ndarray:
        return self._sums / np.maximum(self._counts, 1)

    def cross_entropy(self, temperature: float) -> float:
        """Returns the binary cross entropy at a temperature, summed over classes, mean over videos, in nats."""
        total = self._counts @ np.logaddexp(0.0, self._means / temperature) - self._sum_of_positives / temperature
        return float(total / max(self.num_videos, 1))

    def temperature(self) -> float:
        """Returns the temperature of least cross entropy, by Newton's method with bisection.

            F(b) = sum over videos and classes of softplus(b z) - y b z,   b = 1 / T,   convex in b
            F'(b) = sum of z (sigmoid(b z) - y),   F''(b) = sum of z^2 sigmoid(b z) (1 - sigmoid(b z))

        Raises:
            UserError: if it is not between 0.01 and 100.
        """
        means, counts = self._means, self._counts
        low: float = 1 / _LARGEST_TEMPERATURE
        high: float = _LARGEST_TEMPERATURE
        if not self._slope(low) < 0 < self._slope(high):
            raise UserError(
                f"No temperature from {1 / _LARGEST_TEMPERATURE:g} to {_LARGEST_TEMPERATURE:g} has the least cross "
                f"entropy on these {self.num_videos} videos. Expected predictions that are neither always right nor "
                "without relation to the labels: give more videos, or another checkpoint."
            )
        b: float = 1.0
        for _ in range(_MOST_STEPS):
            slope = self._slope(b)
            low, high = (b, high) if slope < 0 else (low, b)
            p = _sigmoid(b * means)
            curvature = float(counts @ (means**2 * p * (1 - p)))
            step = -slope / curvature if curvature else 0.0
            previous = b
            b = b + step if low < b + step < high else (low + high) / 2
            if abs(b - previous) <= _PRECISION * b:
                break
        return 1.0 / b

    def _slope(self, b: float) -> float:
        means = self._means
        return float(self._counts @ (means * _sigmoid(b * means)) - self._sum_of_positives)

    def precision_recall(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns precision and recall of all pairs (video, class) as one pool, `(N,)` float64 each.

            precision = labels among the pairs of logit >= z / number of these pairs
            recall = labels among them / all labels

        One point per bin that has pairs, z the bin's lower end, from the largest z down. Without labels recall is 0.
        """
        known = np.flatnonzero(self._counts)[::-1]
        hits, pairs = np.cumsum(self._positives[known]), np.cumsum(self._counts[known])
        return hits / pairs, hits / max(int(self._positives.sum()), 1)

    def reliability(self, temperature: float, num_bins: int = 10) -> Reliability:
        """Returns how often predictions at a temperature come true, in `num_bins` bins of equal width."""
        p = _sigmoid(self._means / temperature)
        places = np.minimum((p * num_bins).astype(int), num_bins - 1)
        counts = np.bincount(places, self._counts, num_bins)
        with np.errstate(invalid="ignore"):
            means = np.bincount(places, self._counts * p, num_bins) / counts
            frequencies = np.bincount(places, self._positives, num_bins) / counts
        return Reliability(counts.astype(np.int64), means, frequencies)


def collect_logits(model: Model, batches: tf.data.Dataset, num_videos: int = 0) -> LogitHistogram:
    """Returns the logits and labels of a finite pass over the data.

    Args:
        model: maps a batch to `predictions` and perhaps `logits`, `(B, C)` float.
        batches: one pass over the data.
        num_videos: how many videos that is, about, for those who watch a bar; 0 if it is not known.

    Raises:
        UserError: if a logit is not finite.
    """

    @tf.function(input_signature=[batches.element_spec], autograph=False)
    def step(batch: dict[str, tf.Tensor]) -> tf.Tensor:
        return logits_of(model(model_inputs(batch), training=False))

    histogram = LogitHistogram()
    for batch in with_progress(batches, "reading logits", num_videos, videos_in):
        is_rated = batch[LABEL_WEIGHTS].numpy() > 0 if LABEL_WEIGHTS in batch else None
        histogram.add(step(batch).numpy(), batch[LABELS].numpy(), is_rated)
    return histogram


def save_calibration(train_dir: str, checkpoint: str, calibration: Mapping[str, float | int]) -> None:
    """Keeps the temperature of a checkpoint with its run.

    Args:
        train_dir: the run's directory.
        checkpoint: the path of the checkpoint.
        calibration: `temperature`, and whatever else tells how it was found.

    Raises:
        UserError: if the file cannot be written.
    """
    content = {"global_step": checkpoint_step(checkpoint), **calibration}
    write_text(CALIBRATION.path(train_dir), json.dumps(content, indent=2) + "\n")


def temperature_of(train_dir: str, checkpoint: str) -> float:
    """Returns the temperature of a checkpoint, 1 where there is none: a calibration is that of one checkpoint alone.

    Raises:
        UserError: if the run's calibration is damaged.
    """
    path = CALIBRATION.path(train_dir)
    if not tf.io.gfile.exists(path):
        return 1.0
    try:
        content = parse_json(read_bytes(path))
        step, temperature = content["global_step"], float(content["temperature"])
        if type(step) is not int or not 1 / _LARGEST_TEMPERATURE <= temperature <= _LARGEST_TEMPERATURE:
            raise ValueError(f"its temperature is {temperature} at step {step}")
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise UserError(
            f"{path} is damaged: {first_line(error)}. Expected what tools.calibrate writes. Run it again, delete the "
            "file, or pass --nocalibrated."
        ) from error
    if step != checkpoint_step(checkpoint):
        LOG.warning("%s is of step %d and not used for %s. Run tools.calibrate again.", path, step, checkpoint)
        return 1.0
    LOG.info("Logits are divided by the temperature %.4f of %s; --nocalibrated leaves them.", temperature, path)
    return temperature


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -logits))
