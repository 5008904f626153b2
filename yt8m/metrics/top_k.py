"""The k best predictions of each video, taken on the device: all that most metrics and a submission need."""

import tensorflow as tf

# Classes are searched in groups of neighbours: 2.5 times as fast as one search, on the CPU, for 3862 classes.
_GROUP_SIZE = 32


def top_k_predictions(predictions: tf.Tensor, k: int | tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Takes the k best classes of each video, best first, the lower class index first among equal scores.

    Args:
        predictions: `(B, C)` float.
        k: how many; all C where there are fewer.

    Returns:
        scores: `(B, min(k, C))` float32. All NaN for a video with a NaN or infinite prediction anywhere, so that
            whoever receives the scores sees it.
        classes: `(B, min(k, C))` int32.
    """
    predictions = tf.cast(predictions, tf.float32)
    num_best = tf.minimum(k, _num_classes(predictions))
    # A sum is finite only if every term is; it costs a third of looking at each term.
    is_sound = tf.math.is_finite(tf.reduce_sum(predictions, axis=1, keepdims=True))
    groups = _in_groups(predictions)
    candidates, classes = _candidates(groups, num_best, is_sound)
    scores, places = tf.math.top_k(tf.where(is_sound, candidates, 0.0), num_best)
    return tf.where(is_sound, scores, float("nan")), tf.gather(classes, places, batch_dims=1)


def _in_groups(predictions: tf.Tensor) -> tf.Tensor:
    """Returns `(B, G, 32)`, the last group filled up with minus infinity."""
    num_classes = _num_classes(predictions)
    padded = tf.pad(predictions, [[0, 0], [0, -num_classes % _GROUP_SIZE]], constant_values=float("-inf"))
    num_groups = (num_classes + _GROUP_SIZE - 1) // _GROUP_SIZE
    return tf.reshape(padded, [-1, num_groups, _GROUP_SIZE])


def _candidates(groups: tf.Tensor, num_best: tf.Tensor, is_sound: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns scores and classes of the groups with the best maxima, in the order of classes.

    No class outside these groups is among the best: each of the `num_best` groups has one before it, of a higher score
    or of an equal score and a lower index.
    """
    # Sorting is undefined where a comparison with NaN takes part; with all scores 0, the first classes are taken.
    maxima = tf.where(is_sound, tf.reduce_max(groups, axis=2), 0.0)
    best_groups = tf.math.top_k(maxima, tf.minimum(num_best, tf.shape(groups)[1])).indices
    best_groups = tf.sort(best_groups, axis=1)
    classes = best_groups[:, :, tf.newaxis] * _GROUP_SIZE + tf.range(_GROUP_SIZE)
    flat = [-1, tf.shape(best_groups)[1] * _GROUP_SIZE]
    return tf.reshape(tf.gather(groups, best_groups, batch_dims=1), flat), tf.reshape(classes, flat)


def top_k_pairs(predictions: tf.Tensor, labels: tf.Tensor, k: int) -> dict[str, tf.Tensor]:
    """Reduces a batch of predictions and labels to what accumulators and `batch_metrics` take.

        equal_recall_hits[b] = |{the n best predictions of video b that are above 0} & {its labels}|,  n = num_labels[b]

    Runs eagerly and in a `tf.function`, for any batch size, 0 included. The number of predictions looked at follows
    the video with the most labels, a dynamic shape, so XLA cannot compile it.

    Args:
        predictions: `(B, C)` float, usually probabilities.
        labels: `(B, C)` bool, multi-hot.
        k: how many pairs of (score, hit) to keep per video; K below is `min(k, C)`.

    Returns:
        A dict of tensors that can be concatenated along the first axis over batches and devices:
            scores: `(B, K)` float32, best first; all NaN for a video with a non-finite prediction.
            classes: `(B, K)` int32.
            hits: `(B, K)` bool, whether the class is a label of the video.
            num_labels: `(B,)` int32.
            equal_recall_hits: `(B,)` int32.
            class_positives: `(1, C)` int32, the batch's videos with each label.
    """
    labels = tf.cast(labels, tf.bool)
    ones = tf.cast(labels, tf.int32)
    num_labels = tf.reduce_sum(ones, axis=1)
    kept = tf.minimum(k, _num_classes(predictions))
    scores, classes = top_k_predictions(predictions, tf.maximum(k, tf.reduce_max(num_labels)))
    hits = tf.gather(labels, classes, batch_dims=1)
    is_counted = (tf.range(tf.shape(scores)[1]) < num_labels[:, tf.newaxis]) & (scores > 0)
    return {
        "scores": scores[:, :kept],
        "classes": classes[:, :kept],
        "hits": hits[:, :kept],
        "num_labels": num_labels,
        "equal_recall_hits": tf.math.count_nonzero(hits & is_counted, axis=1, dtype=tf.int32),
        "class_positives": tf.reduce_sum(ones, axis=0, keepdims=True),
    }


def _num_classes(predictions: tf.Tensor) -> int | tf.Tensor:
    static = predictions.shape[1]
    return tf.shape(predictions)[1] if static is None else static
