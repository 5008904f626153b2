"""Pairs (score, hit) from lists of classes, as a submission has them: what `top_k_pairs` makes of all predictions."""

import numpy as np

# The score of pairs that fill up a list: below any other, so that no hit ranks after them.
_LOWEST = np.finfo(np.float32).min


def hits_of_lists(
    rows: np.ndarray, classes: np.ndarray, num_labels: np.ndarray, label_classes: np.ndarray, num_classes: int
) -> np.ndarray:
    """Returns for each listed pair of a video and a class, `(P,)` bool, whether the class is a label of the video.

    Args:
        rows: `(P,)` int, the video of each pair, in [0, B).
        classes: `(P,)` int.
        num_labels: `(B,)` int, how many labels each video has.
        label_classes: `(sum of num_labels,)` int, the labels, video after video.
        num_classes: C, above every label.
    """
    width = max(num_classes, int(classes.max(initial=0)) + 1)
    labels = np.repeat(np.arange(len(num_labels)), num_labels) * width + label_classes
    return np.isin(rows.astype(np.int64) * width + classes, labels)


def listed_pairs(
    num_pairs: np.ndarray,
    classes: np.ndarray,
    scores: np.ndarray,
    num_labels: np.ndarray,
    label_classes: np.ndarray,
    num_classes: int,
    top_k: int,
) -> dict[str, np.ndarray]:
    """Returns what `top_k_pairs` returns, computed from lists of classes of B videos, which may be of any length.

    A list that is shorter than K = min(`top_k`, C) is filled up with misses of the lowest score, which change no
    metric.

    Args:
        num_pairs: `(B,)` int, the length of each list.
        classes: `(sum of num_pairs,)` int, the lists, video after video, each in any order.
        scores: `(sum of num_pairs,)` float32, the scores of the classes; the K best count, and among equal scores the
            lower class first.
        num_labels: `(B,)` int, how many labels each video has.
        label_classes: `(sum of num_labels,)` int, the labels, video after video.
        num_classes: C.
        top_k: the number of pairs per video that count.

    Returns:
        `scores` `(B, K)` float32, `classes` `(B, K)` int64, `hits` `(B, K)` bool, `num_labels` and `equal_recall_hits`
        `(B,)` int64 and `class_positives` `(1, C)` int64.
    """
    # 1. The lists, best first, and the place of each pair in its list.
    num_videos = len(num_pairs)
    rows = np.repeat(np.arange(num_videos), num_pairs)
    order = np.lexsort((classes, -scores, rows))
    classes, scores = classes[order], scores[order]
    ranks = np.arange(len(rows)) - np.repeat(np.cumsum(num_pairs) - num_pairs, num_pairs)

    # 2. Hits, and those among as many of the best as the video has labels.
    hits = hits_of_lists(rows, classes, num_labels, label_classes, num_classes)
    is_counted = hits & (ranks < num_labels[rows]) & (scores > 0)

    # 3. Rectangles of the best K.
    kept = ranks < min(top_k, num_classes)
    shape = (num_videos, min(top_k, num_classes))
    places = rows[kept], ranks[kept]
    result: dict[str, np.ndarray] = {
        "scores": np.full(shape, _LOWEST, np.float32),
        "classes": np.zeros(shape, np.int64),
        "hits": np.zeros(shape, bool),
    }
    for name, values in (("scores", scores), ("classes", classes), ("hits", hits)):
        result[name][places] = values[kept]
    return result | {
        "num_labels": num_labels,
        "equal_recall_hits": np.bincount(rows[is_counted], minlength=num_videos),
        "class_positives": np.bincount(label_classes, minlength=num_classes)[np.newaxis],
    }
