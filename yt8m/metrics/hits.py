"""Hits among the k best classes of each video or clip: as a share of videos, and class by class."""

from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np

from yt8m.arguments import ArgumentError, check_at_least
from yt8m.metrics.accumulator import Accumulator, BatchResults
from yt8m.registry import METRICS


@METRICS.register("hit_at_k", of_rated=True)
class HitAtK(Accumulator):
    """Hit@k: how many videos have a label among their k best classes.

        hit_at_k = #{videos with a label among the k best} / #{videos}

    Args:
        num_classes: C.
        top_k: the number of pairs per video that batches carry.
        k: how many classes of each video are looked at; 0 for `top_k`.

    Raises:
        ArgumentError: if k is negative or above `top_k`.

    Source: Karpathy et al. 2014, "Large-scale Video Classification with Convolutional Neural Networks": Hit@5.
    """

    values: ClassVar[Mapping[str, str]] = {"hit_at_k": "share of videos with a label among their k best classes"}

    def __init__(self, num_classes: int, top_k: int, *, k: int = 0):
        if not 0 <= k <= top_k:
            raise ArgumentError(f"k={k}: expected at most the {top_k} classes per video that are kept, or 0 for all.")
        del num_classes
        self._k = k or top_k
        self._num_examples = self._num_hits = 0

    def add_batch(self, results: BatchResults) -> None:
        """Adds the videos of a batch: `hits` `(B, top_k)`."""
        hits = results["hits"][:, : self._k]
        self._num_examples += len(hits)
        self._num_hits += int(np.count_nonzero(hits.any(axis=1)))

    def result(self) -> Iterator[tuple[str, float]]:
        """Yields what `values` lists."""
        yield "hit_at_k", self._num_hits / max(self._num_examples, 1)


@METRICS.register("clip_hits")
class ClipHits(Accumulator):
    """Hit@1 and Hit@k of single clips: how many clips have a label of their video among their k best classes.

        clip_hit_at_k = #{clips with a label among the k best} / #{clips}

    For `--eval_clips` N > 1, beside the metrics of the videos, which average the scores of their clips; else a video is
    one clip. Among equal scores the lower class index comes first.

    Args:
        num_classes: C.
        top_k: the number of pairs per video that batches carry; of clips all predictions are looked at.
        k: how many classes of each clip are looked at.

    Raises:
        ArgumentError: if k is below 1.

    Source: Karpathy et al. 2014, "Large-scale Video Classification with Convolutional Neural Networks": clip Hit@1,
    video Hit@1 and video Hit@5.
    """

    values: ClassVar[Mapping[str, str]] = {
        "clip_hit_at_one": "share of clips whose best class is a label of their video",
        "clip_hit_at_k": "share of clips with a label of their video among their k best classes",
    }
    needs_all_predictions: ClassVar[bool] = True

    def __init__(self, num_classes: int, top_k: int, *, k: int = 5):
        check_at_least(1, k=k)
        del top_k
        self._k = min(k, num_classes)
        self._num_clips, self._num_hits_at_one, self._num_hits = 0, 0, 0

    def add_batch(self, results: BatchResults) -> None:
        """Adds the clips of a batch: `clip_predictions` `(B, N, C)`, else `predictions` `(B, C)`; `labels` `(B, C)`."""
        predictions, labels = results["predictions"], results["labels"]
        scores = results.get("clip_predictions", predictions[:, np.newaxis])
        best = np.argsort(-scores, axis=2, kind="stable")[:, :, : self._k]
        hits = np.take_along_axis(np.broadcast_to(labels[:, np.newaxis], scores.shape), best, axis=2)
        self._num_clips += hits.shape[0] * hits.shape[1]
        self._num_hits_at_one += int(np.count_nonzero(hits[:, :, 0]))
        self._num_hits += int(np.count_nonzero(hits.any(axis=2)))

    def result(self) -> Iterator[tuple[str, float]]:
        """Yields what `values` lists."""
        count = max(self._num_clips, 1)
        yield "clip_hit_at_one", self._num_hits_at_one / count
        yield "clip_hit_at_k", self._num_hits / count


@METRICS.register("class_accuracy", of_rated=True)
class MeanClassAccuracy(Accumulator):
    """Mean per-class accuracy: of each class's videos, how many have it as their best class.

        accuracy[c] = #{videos with label c whose best class is c} / #{videos with label c}
        mean_class_accuracy = mean of accuracy[c] over the classes that have a video

    Made for one label per video, where rare classes count as much as common ones. A video of several labels is right
    for one of them at most.

    Args:
        num_classes: C.
        top_k: the number of pairs per video that batches carry.

    Source: Rodriguez, Ahmed & Shah 2008, "Action MACH", the protocol of UCF-Sports.
    """

    values: ClassVar[Mapping[str, str]] = {
        "mean_class_accuracy": "share of a class's videos whose best class it is; mean over the classes that have a "
        "positive"
    }

    def __init__(self, num_classes: int, top_k: int):
        del top_k
        self._positives, self._found = np.zeros((2, num_classes), np.int64)

    def add_batch(self, results: BatchResults) -> None:
        """Adds the videos of a batch: `classes` and `hits` `(B, top_k)`, `class_positives` `(..., C)`."""
        num_classes = len(self._positives)
        self._positives += results["class_positives"].reshape(-1, num_classes).sum(axis=0)
        best, is_hit = results["classes"][:, :1], results["hits"][:, :1]
        self._found += np.bincount(best[is_hit], minlength=num_classes)

    def result(self) -> Iterator[tuple[str, float]]:
        """Yields what `values` lists."""
        is_present = self._positives > 0
        num_present = max(int(is_present.sum()), 1)
        yield "mean_class_accuracy", float(self.per_class()["accuracy"][is_present].sum() / num_present)

    def per_class(self) -> Mapping[str, np.ndarray]:
        """Returns `accuracy` of every class, 0 without positives."""
        return {"accuracy": self._found / np.maximum(self._positives, 1)}
