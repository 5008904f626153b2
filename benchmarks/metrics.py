"""Hit@1, PERR, GAP and MAP of a score matrix, compared with older pipelines: heaps, loops and argpartition.

    PYTHONPATH=. python benchmarks/metrics.py [--videos 11678] [--classes 3862] [--rounds 5]

Both start from the same matrix, in batches of 1024; a third row starts from the k best pairs, as an evaluation does:
the device takes them right after the model. Programs take turns, round by round; times are medians.
"""

import argparse
import heapq
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from timing import interleaved, print_table

from yt8m.metrics import EvaluationMetrics, MacroMetrics, top_k_pairs

TOP_K, BATCH_SIZE = 20, 1024
Batch = tuple[np.ndarray, np.ndarray]
Pairs = dict[str, np.ndarray]


class HeapOfPairs:
    """Pairs of one list, kept in a heap one pair at a time and ranked by popping them all: how older code does it."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, bool]] = []
        self.num_positives = 0

    def add(self, scores: list[float], hits: list[bool], num_positives: int) -> None:
        self.num_positives += num_positives
        for score, hit in zip(scores, hits, strict=True):
            heapq.heappush(self._heap, (-score, hit))

    def average_precision(self) -> float:
        heap = self._heap.copy()
        found = total = 0.0
        for rank in range(1, len(heap) + 1):
            if heapq.heappop(heap)[1]:
                found += 1
                total += found / rank
        return total / self.num_positives if self.num_positives else 0.0


def old_perr(scores: np.ndarray, labels: np.ndarray) -> float:
    """One video's share of hits among its n best, by a partial sort for each video."""
    n = int(labels.sum())
    if not n:
        return 0.0
    best = np.argpartition(scores, -n)[-n:]
    return sum(bool(labels[c]) for c in best if scores[c] > 0) / n


def old_best(scores: np.ndarray) -> list[int]:
    """One video's k best classes, best first."""
    best = np.argpartition(scores, -TOP_K)[-TOP_K:]
    return sorted(best, key=lambda c: -scores[c])


def old_way(batches: list[Batch]) -> dict[str, float]:
    """All four metrics with a heap for the pool and one for each class, video by video, pair by pair."""
    num_classes = batches[0][0].shape[1]
    pool, class_pools = HeapOfPairs(), [HeapOfPairs() for _ in range(num_classes)]
    num_videos, at_one, recalls = 0, 0.0, 0.0
    for predictions, labels in batches:
        num_videos += len(predictions)
        at_one += labels[np.arange(len(labels)), predictions.argmax(axis=1)].sum()
        positives = labels.sum(axis=0)
        lists: list[tuple[list[float], list[bool]]] = [([], []) for _ in range(num_classes)]
        for scores, positive in zip(predictions, labels, strict=True):
            recalls += old_perr(scores, positive)
            best = old_best(scores)
            pool.add([scores[c] for c in best], [positive[c] for c in best], int(positive.sum()))
            for c in best:
                lists[c][0].append(scores[c])
                lists[c][1].append(positive[c])
        for class_pool, pairs, count in zip(class_pools, lists, positives, strict=True):
            class_pool.add(*pairs, int(count))
    num_present = sum(class_pool.num_positives > 0 for class_pool in class_pools)
    total = sum(class_pool.average_precision() for class_pool in class_pools)
    return {
        "gap": pool.average_precision(),
        "hit_at_one": at_one / num_videos,
        "perr": recalls / num_videos,
        "map": total / num_present,
    }


def take_pairs(step: Callable[..., dict[str, tf.Tensor]], batches: list[Batch]) -> list[Pairs]:
    return [{name: values.numpy() for name, values in step(*batch).items()} for batch in batches]


def from_pairs(pairs: list[Pairs], num_classes: int) -> dict[str, float]:
    metrics = EvaluationMetrics(num_classes, TOP_K)
    for batch in pairs:
        metrics.add(batch)
    return metrics.result()


def macro(batches: list[Batch], max_bytes: int) -> dict[str, float]:
    metrics = MacroMetrics(batches[0][0].shape[1], max_bytes)
    for batch in batches:
        metrics.add(*batch)
    return metrics.result()


def synthetic_batches(num_videos: int, num_classes: int) -> list[Batch]:
    """Three labels per video, the commoner classes more often; scores low, those of labels higher."""
    generator = np.random.default_rng(0)
    labels = np.zeros((num_videos, num_classes), bool)
    drawn = (generator.random((num_videos, 3)) ** 3 * num_classes).astype(int)
    np.put_along_axis(labels, drawn, True, axis=1)
    logits = generator.normal(-8, 2, labels.shape).astype(np.float32)
    logits += labels * np.float32(7)
    predictions = 1 / (1 + np.exp(-logits))
    return [(predictions[i : i + BATCH_SIZE], labels[i : i + BATCH_SIZE]) for i in range(0, num_videos, BATCH_SIZE)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--videos", type=int, default=11_678)
    parser.add_argument("--classes", type=int, default=3862)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    batches = synthetic_batches(arguments.videos, arguments.classes)
    step = tf.function(lambda p, y: top_k_pairs(p, y, TOP_K), reduce_retracing=True)
    pairs = take_pairs(step, batches)
    new, old = from_pairs(pairs, arguments.classes), old_way(batches)
    worst = max(abs(new[name] - old[name]) for name in old)
    print(f"{arguments.videos} videos, {arguments.classes} classes, k = {TOP_K}; the ways differ by {worst:.1e}\n")
    seconds = interleaved(
        {
            "old way, from the matrix": lambda: old_way(batches),
            "EvaluationMetrics, from the matrix": lambda: from_pairs(take_pairs(step, batches), arguments.classes),
            "EvaluationMetrics, from the k best pairs": lambda: from_pairs(pairs, arguments.classes),
        },
        arguments.rounds,
    )
    print_table(seconds, arguments.videos)
    for name, max_bytes in (("exact", 1 << 40), ("binned", 0)):
        start = time.perf_counter()
        result = macro(batches, max_bytes)
        print(f"\nmacro AP and AUC, {name}: {time.perf_counter() - start:.2f} s, {result}")


if __name__ == "__main__":
    main()
