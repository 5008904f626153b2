"""The metrics of every evaluation, from the k best predictions of each video, and those of one training batch."""

from collections.abc import Iterator, Mapping
from typing import ClassVar, Self

import numpy as np

from yt8m.metrics.accumulator import Accumulator, BatchResults
from yt8m.metrics.average_precision import average_precision
from yt8m.metrics.mean_average_precision import MeanAveragePrecision
from yt8m.metrics.top_k import top_k_pairs
from yt8m.registry import METRICS
from yt8m.scores import VideoIds, check_finite


class EvaluationMetrics:
    """GAP, Hit@1, PERR and MAP over all videos added, exact and streaming.

        hit_at_one = share of videos whose best class is a label
        perr = mean over videos of (labels among the n best predictions that are above 0) / n,  n = number of labels;
               0 for a video without labels

    Memory: 6 bytes per pair, which is 120 bytes per video at k = 20. Results are the same, bit for bit, for every batch
    size, order and split over devices and workers.

    Args:
        num_classes: the number of classes, C.
        top_k: the number k of predictions per video that count for GAP and MAP.

    Source: google/youtube-8m, eval_util; see `GlobalAveragePrecision` and `MeanAveragePrecision`.
    """

    def __init__(self, num_classes: int, top_k: int = 20):
        self.num_classes = num_classes
        self.top_k = top_k
        self._ranked = MeanAveragePrecision(num_classes)
        self._num_examples = 0
        self._num_hits_at_one = 0
        # PERR is a sum of fractions: whole numbers by denominator make it exact in any order.
        self._equal_recall_hits = np.zeros(num_classes + 1, np.int64)

    def add(self, pairs: Mapping[str, np.ndarray], ids: VideoIds | None = None) -> None:
        """Adds the videos of a batch, or of several batches concatenated.

        Args:
            pairs: the results of `top_k_pairs` with at least `top_k` pairs per video, as numpy arrays.
            ids: `(B,)`, the videos' ids, for error messages only.

        Raises:
            UserError: if a prediction is not finite; then no video of the batch is added.
            ValueError: if there are fewer than min(`top_k`, C) pairs per video.
        """
        scores, classes, hits = (pairs[name][:, : self.top_k] for name in ("scores", "classes", "hits"))
        if scores.shape[1] < min(self.top_k, self.num_classes):
            raise ValueError(f"There are {scores.shape[1]} pairs per video, too few for top_k={self.top_k}.")
        check_finite(scores, ids)
        self._ranked.add(scores, classes, hits, pairs["class_positives"])
        self._num_examples += len(scores)
        self._num_hits_at_one += int(np.count_nonzero(hits[:, 0]))
        np.add.at(self._equal_recall_hits, pairs["num_labels"], pairs["equal_recall_hits"])

    def merge(self, other: Self) -> None:
        """Adds the videos of another instance, such as that of another worker.

        Raises:
            ValueError: if its `num_classes` or `top_k` differs.
        """
        if other.top_k != self.top_k:
            raise ValueError(f"Cannot merge metrics of top_k={other.top_k} into top_k={self.top_k}.")
        self._ranked.merge(other._ranked)
        self._num_examples += other._num_examples
        self._num_hits_at_one += other._num_hits_at_one
        self._equal_recall_hits += other._equal_recall_hits

    def result(self) -> dict[str, float | int]:
        """Returns the metrics by name.

        `gap`, `hit_at_one`, `perr`, `map` and `map_all_classes` are in [0, 1], 0 without videos or labels;
        `num_examples` is the number of videos.
        """
        num_examples = max(self._num_examples, 1)
        return {
            "gap": self._ranked.gap(),
            "hit_at_one": self._num_hits_at_one / num_examples,
            "perr": _sum_by_denominator(self._equal_recall_hits) / num_examples,
            **self._ranked.result(),
            "num_examples": self._num_examples,
        }

    def per_class_ap(self) -> np.ndarray:
        """Returns the average precision of each class, `(C,)` float64, NaN for classes without positives."""
        return self._ranked.per_class_ap()

    def positives(self) -> np.ndarray:
        """Returns `(C,)` int64, the number of videos with each label."""
        return self._ranked.positives()

    def precision_recall_curves(
        self, num_curves: int = 10, num_thresholds: int = 127
    ) -> dict[int, dict[str, np.ndarray]]:
        """Returns the precision-recall curves of the most frequent classes, in descending order of their positives.

        Predictions outside a video's k best count as 0, so a curve reaches only the recall of those k.

        Args:
            num_curves: the largest number of classes.
            num_thresholds: the number of thresholds, N, equally spaced in [0, 1].

        Returns:
            By class index a dict of arrays `(N,)`, the arguments of `tensorboard.plugins.pr_curve.summary.raw_data_pb`.
        """
        positives = self.positives()
        commonest = np.argsort(-positives, kind="stable")[: min(num_curves, np.count_nonzero(positives))]
        curves = self._ranked.precision_recall_curves(num_thresholds)
        return {int(c): curves.curve(c, int(positives[c]), self._num_examples) for c in commonest}


@METRICS.register("default", of_rated=True)
class DefaultMetrics(Accumulator):
    """The metrics that every evaluation reports: those of `EvaluationMetrics`, and the mean loss.

    Args:
        num_classes: the number of classes, C.
        top_k: the number k of predictions per video that count for GAP and MAP.
    """

    values: ClassVar[Mapping[str, str]] = {
        "gap": "all videos' k best pairs (score, hit) in one pool, ranked by score: sum over hits of the precision at "
        "the hit's rank / number of labels of all videos",
        "hit_at_one": "share of videos whose best class is a label",
        "perr": "precision at equal recall rate: per video with n labels, (labels among its n best predictions that "
        "are above 0) / n; mean over videos, 0 for a video without labels",
        "map": "AP of a class: as `gap`, over the pooled pairs of that class alone, / positives of the class; mean "
        "over the classes that have a positive",
        "map_all_classes": "sum of AP / C",
        "num_examples": "how many videos were evaluated",
        "loss": "mean over videos of the loss that the run minimises, without penalties",
    }
    tags: ClassVar[Mapping[str, str]] = {
        "gap": "Epoch/Eval_GAP",
        "hit_at_one": "Epoch/Eval_Avg_Hit@1",
        "perr": "Epoch/Eval_Avg_Perr",
        "map": "Epoch/Eval_MAP",
        "loss": "Epoch/Eval_Avg_Loss",
    }

    def __init__(self, num_classes: int, top_k: int):
        self._metrics = EvaluationMetrics(num_classes, top_k)
        self._loss_sum = 0.0

    def add_batch(self, results: BatchResults) -> None:
        """Adds the videos of a batch: the results of `top_k_pairs`, `ids` and `losses`, `(B,)` each."""
        self._metrics.add(results, results["ids"])
        self._loss_sum += float(results["losses"].sum(dtype=np.float64))

    def result(self) -> Iterator[tuple[str, float | int]]:
        """Yields the metrics that `values` defines, over all videos added."""
        result = self._metrics.result()
        yield from result.items()
        yield "loss", self._loss_sum / max(result["num_examples"], 1)

    def per_class(self) -> Mapping[str, np.ndarray]:
        """Returns `num_positives` `(C,)` int64 and `average_precision` `(C,)` float64, NaN without positives."""
        return {"num_positives": self._metrics.positives(), "average_precision": self._metrics.per_class_ap()}

    def curves(self) -> Mapping[int, Mapping[str, np.ndarray]]:
        """Returns the precision-recall curves of the 10 classes with the most positives."""
        return self._metrics.precision_recall_curves()


def metrics_of_matrix(
    predictions: np.ndarray, labels: np.ndarray, top_k: int = 20, batch_size: int = 1024
) -> EvaluationMetrics:
    """Returns the metrics of predictions and labels that are in memory as a whole.

    Args:
        predictions: `(N, C)` float.
        labels: `(N, C)` bool, multi-hot.
        top_k: the number k of predictions per video that count for GAP and MAP.
        batch_size: the number of videos that are added at a time; it has no influence on the result.

    Raises:
        UserError: if a prediction is not finite.
    """
    metrics = EvaluationMetrics(predictions.shape[1], top_k)
    for start in range(0, len(predictions), batch_size):
        rows = slice(start, start + batch_size)
        pairs = top_k_pairs(predictions[rows], labels[rows], top_k)
        metrics.add({name: values.numpy() for name, values in pairs.items()})
    return metrics


def batch_metrics(pairs: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Returns `hit_at_one`, `perr` and `gap` of one batch, as EvaluationMetrics defines them, for the training log.

    All are 0 for a batch without videos, and NaN if a prediction is not finite: the training loop decides whether to
    stop.

    Args:
        pairs: the results of `top_k_pairs`, as numpy arrays.
    """
    if not np.isfinite(pairs["scores"]).all():
        return dict.fromkeys(("hit_at_one", "perr", "gap"), float("nan"))
    num_examples = max(len(pairs["scores"]), 1)
    recalls = pairs["equal_recall_hits"] / np.maximum(pairs["num_labels"], 1)
    return {
        "hit_at_one": np.count_nonzero(pairs["hits"][:, 0]) / num_examples,
        "perr": float(recalls.sum() / num_examples),
        "gap": average_precision(pairs["scores"], pairs["hits"], int(pairs["num_labels"].sum())),
    }


def _sum_by_denominator(numerators: np.ndarray) -> float:
    """Returns the sum over n >= 1 of numerators[n] / n."""
    return float(np.sum(numerators[1:] / np.arange(1, len(numerators))))
