"""Precision and recall: at the k best classes of each video, and as curves over the score's threshold."""

from collections.abc import Iterator, Mapping
from typing import ClassVar, Self

import numpy as np

from yt8m.arguments import ArgumentError
from yt8m.metrics.accumulator import Accumulator, BatchResults
from yt8m.registry import METRICS
from yt8m.scores import check_finite


@METRICS.register("precision_recall")
class PrecisionRecallAtK(Accumulator):
    """Precision and recall when each video's prediction is the set of its k best classes.

        overall:    P = sum_c hits[c] / sum_c predictions[c],  R = sum_c hits[c] / sum_c positives[c]
        per class:  P = mean_c hits[c] / predictions[c],       R = mean_c hits[c] / positives[c]

    The means are over classes with a positive; a class that is never predicted has precision 0. All are in [0, 1], and
    0 / 0 is 0.

    Args:
        num_classes: the number of classes, C.
        top_k: the number of pairs per video that a batch has at least.
        k: the number of classes that are predicted per video; 0 for `top_k`.

    Raises:
        UserError: if `k` is negative or above `top_k`.

    Source: Gong et al. 2013, Deep Convolutional Ranking for Multilabel Image Annotation, the evaluation protocol.
    """

    values: ClassVar[Mapping[str, str]] = {
        "overall_precision": "each video is given its k best classes: hits / predictions, counted over all classes",
        "overall_recall": "hits / positives, counted over all classes",
        "class_precision": "hits of a class / predictions of the class; mean over classes that have a positive",
        "class_recall": "hits of a class / positives of the class; mean over classes that have a positive",
    }

    def __init__(self, num_classes: int, top_k: int, *, k: int = 0):
        if not 0 <= k <= top_k:
            raise ArgumentError(f"k={k}: expected at most the {top_k} classes per video that are kept, or 0 for all.")
        self._k = k or top_k
        self._positives, self._predicted, self._found = np.zeros((3, num_classes), np.int64)

    def add_batch(self, results: BatchResults) -> None:
        """Adds the videos of a batch: `classes` and `hits` `(B, top_k)`, `class_positives` `(..., C)`."""
        num_classes = len(self._positives)
        classes, hits = results["classes"][:, : self._k], results["hits"][:, : self._k]
        self._positives += results["class_positives"].reshape(-1, num_classes).sum(axis=0)
        self._predicted += np.bincount(classes.ravel(), minlength=num_classes)
        self._found += np.bincount(classes[hits], minlength=num_classes)

    def result(self) -> Iterator[tuple[str, float]]:
        """Yields the metrics that `values` defines, over all videos added."""
        is_present = self._positives > 0
        num_present = max(int(is_present.sum()), 1)
        precision, recall = self.per_class().values()
        yield "overall_precision", float(self._found.sum() / max(self._predicted.sum(), 1))
        yield "overall_recall", float(self._found.sum() / max(self._positives.sum(), 1))
        yield "class_precision", float(precision[is_present].sum() / num_present)
        yield "class_recall", float(recall[is_present].sum() / num_present)

    def per_class(self) -> Mapping[str, np.ndarray]:
        """Returns `precision` and `recall` of each class, `(C,)` float64 each; 0 / 0 is 0."""
        found = self._found
        return {
            "precision": found / np.maximum(self._predicted, 1),
            "recall": found / np.maximum(self._positives, 1),
        }


class PrecisionRecallCurves:
    """Precision and recall of each class at the thresholds i / (N - 1), i = 0 ... N - 1, for TensorBoard's plugin.

    A prediction counts as positive at threshold i if floor(score * (N - 1)) >= i. A prediction that was not added
    counts as 0. Memory: 16 bytes per class and threshold, whatever the number of videos.

    Args:
        num_classes: the number of classes, C.
        num_thresholds: the number of thresholds, N, at least 2.
    """

    def __init__(self, num_classes: int, num_thresholds: int = 127):
        self._num_thresholds = num_thresholds
        self._hits = np.zeros((num_classes, num_thresholds), np.int64)
        self._misses = np.zeros((num_classes, num_thresholds), np.int64)

    def add_pairs(self, scores: np.ndarray, classes: np.ndarray, hits: np.ndarray) -> None:
        """Adds pairs of a video and a class.

        Args:
            scores: float of any shape, the predictions.
            classes: int of the shape of `scores`, the class indices.
            hits: bool of the shape of `scores`, whether the class is a label of the video.

        Raises:
            UserError: if a score is not finite.
        """
        check_finite(scores)
        steps = self._num_thresholds - 1
        places = classes.astype(np.int64) * self._num_thresholds
        places += (np.clip(scores, 0.0, 1.0) * np.float32(steps)).astype(np.int64)
        self._hits += self._count(places[hits])
        self._misses += self._count(places[~hits])

    def add(self, predictions: np.ndarray, labels: np.ndarray) -> None:
        """Adds all `predictions` `(B, C)` float of B videos with their `labels` `(B, C)` bool."""
        classes = np.broadcast_to(np.arange(len(self._hits)), predictions.shape)
        self.add_pairs(predictions, classes, labels)

    def merge(self, other: Self) -> None:
        """Adds the predictions of another instance with the same `num_classes` and `num_thresholds`."""
        self._hits += other._hits
        self._misses += other._misses

    def curve(self, class_index: int, num_positives: int, num_examples: int) -> dict[str, np.ndarray]:
        """Returns the precision-recall curve of one class.

        Args:
            class_index: the class, in [0, C).
            num_positives: the number of videos with the label.
            num_examples: the number of all videos.

        Returns:
            Arrays `(N,)` by name: the arguments of `tensorboard.plugins.pr_curve.summary.raw_data_pb`.
        """
        hits, misses = self._hits[class_index], self._misses[class_index]
        true_positives, false_positives = np.cumsum(hits[::-1])[::-1], np.cumsum(misses[::-1])[::-1]
        # At threshold 0 everything is predicted, also what was never added.
        true_positives[0], false_positives[0] = num_positives, num_examples - num_positives
        predicted = true_positives + false_positives
        return {
            "true_positive_counts": true_positives,
            "false_positive_counts": false_positives,
            "true_negative_counts": num_examples - num_positives - false_positives,
            "false_negative_counts": num_positives - true_positives,
            "precision": true_positives / np.maximum(predicted, 1),
            "recall": true_positives / max(num_positives, 1),
        }

    def _count(self, places: np.ndarray) -> np.ndarray:
        return np.bincount(places.ravel(), minlength=self._hits.size).reshape(self._hits.shape)
