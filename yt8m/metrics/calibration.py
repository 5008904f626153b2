"""Expected calibration error: how far probabilities are from the shares that they stand for."""

from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np

from yt8m.arguments import check_at_least
from yt8m.metrics.accumulator import Accumulator, BatchResults
from yt8m.registry import METRICS

# Probabilities are added as whole multiples of this, so that no order of the videos matters. 2^33 of 1 fit into int64.
_UNIT = 2.0**-30


@METRICS.register("calibration")
class CalibrationError(Accumulator):
    """Expected calibration error of all probabilities, each taken for a yes or no of its own.

        ece = sum over bins of (n / N) * |confidence - accuracy|

    The N = B * C probabilities are put into bins of equal width over [0, 1]; 1 is in the last. n is how many are in a
    bin, confidence their mean, accuracy the share of them whose class is a label. It is 0 where, of all the classes
    that were given 0.3, three in ten are right. Probabilities are rounded to multiples of 2^-30, so that the sums are
    exact.

    With thousands of classes nearly all probabilities are close to 0 and so is the error: it compares models on the
    same data, not data sets.

    Args:
        num_classes: C.
        top_k: of no effect: all predictions count.
        bins: the number of intervals into which [0, 1] is cut.

    Raises:
        ArgumentError: if there is no bin.

    Source: Naeini, Cooper & Hauskrecht 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning", of
    binary predictions; 15 bins are Guo et al.'s, 2017, "On Calibration of Modern Neural Networks", who bin the best
    class's confidence alone.
    """

    values: ClassVar[Mapping[str, str]] = {
        "ece": "expected calibration error over all predictions of all classes in `bins` (15) bins of equal width: "
        "sum of (predictions in the bin / all predictions) * distance of their mean from the share that are labels"
    }
    needs_all_predictions: ClassVar[bool] = True

    def __init__(self, num_classes: int, top_k: int, *, bins: int = 15):
        del num_classes, top_k
        check_at_least(1, bins=bins)
        self._counts, self._hits, self._units = np.zeros((3, bins), np.int64)

    def add_batch(self, results: BatchResults) -> None:
        """Adds the videos of a batch: `predictions` `(B, C)` float in [0, 1], `labels` `(B, C)`."""
        num_bins = len(self._counts)
        predictions = results["predictions"].ravel().astype(np.float64)
        places = np.minimum((predictions * num_bins).astype(np.int64), num_bins - 1)
        self._counts += np.bincount(places, minlength=num_bins)
        self._hits += np.bincount(places[results["labels"].ravel()], minlength=num_bins)
        np.add.at(self._units, places, np.rint(predictions / _UNIT).astype(np.int64))

    def result(self) -> Iterator[tuple[str, float]]:
        """Yields what `values` lists."""
        differences = np.abs(self._units * _UNIT - self._hits)
        yield "ece", float(differences.sum() / max(self._counts.sum(), 1))
