"""The k best predictions of each video, computed on the device: the input of most metrics and of a submission."""

import tensorflow as tf

# Classes are searched in groups of neighbours: 2.5 times as fast as one search, on the CPU, for 3862 classes.
_GROUP_SIZE = 32


def top_k_predictions(predictions: tf.Tensor, k: int | tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the k best classes of each video, best first; among equal scores the lower class index comes first.

    Args:
        predictions: `(B, C)` float.
        k: the number of classes per video, an int or a scalar int32 tensor; more than C means C.

    Returns:
        scores: `(B, min(k, C))` float32; all NaN for a video with any NaN or infinite prediction.
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
    """Splits predictions `(B, C)` into groups of neighbouring classes, `(B, G, 32)`, padded with minus infinity."""
    num_classes = _num_classes(predictions)
    padded = tf.pad(predictions, [[0, 0], [0, -num_classes % _GROUP_SIZE]], constant_values=float("-inf"))
    num_groups = (num_classes + _GROUP_SIZE - 1) // _GROUP_SIZE
    return tf.reshape(padded, [-1, num_groups, _GROUP_SIZE])


def _candidates(groups: tf.Tensor, num_best: tf.Tensor, is_sound: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the scores and classes of the `num_best` groups with the largest maxima, in the order of classes.

    All of the `num_best` best classes are in these groups: for a class outside, each of the groups has a class with a
    higher score, or with an equal score and a lower index.
    """
    # Sorting is undefined where a comparison with NaN takes part; with all scores 0, the first classes are taken.
    maxima = tf.where(is_sound, tf.reduce_max(groups, axis=2), 0.0)
    best_groups = tf.math.top_k(maxima, tf.minimum(num_best, tf.shape(groups)[1])).indices
    best_groups = tf.sort(best_groups, axis=1)
    classes = best_groups[:, :, tf.newaxis] * _GROUP_SIZE + tf.range(_GROUP_SIZE)
    flat = [-1, tf.shape(best_groups)[1] * _GROUP_SIZE]
    return tf.reshape(tf.gather(groups, best_groups, batch_dims=1), flat), tf.reshape(classes, flat)


def top_k_pairs(predictions: tf.Tensor, labels: tf.Tensor, k: int) -> dict[str, tf.Tensor]:
    """Reduces predictions and labels to the k best pairs (score, hit) and counts, the input of accumulators.

        equal_recall_hits[b] = |{the n best predictions of video b that are above 0} & {its labels}|,  n = num_labels[b]

    Works eagerly and in a `tf.function`, for any batch size, 0 included, but not under XLA: the number of predictions
    that are sorted depends on the video with the most labels, which is a dynamic shape.

    Args:
        predictions: `(B, C)` float, usually probabilities.
        labels: `(B, C)` bool, multi-hot.
        k: the number of pairs to keep per video; K below is min(k, C).

    Returns:
        A dict of tensors, which may be concatenated along the first axis over batches and devices:
            scores: `(B, K)` float32, best first; all NaN for a video with a non-finite prediction.
            classes: `(B, K)` int32.
            hits: `(B, K)` bool, whether the class is a label of the video.
            num_labels: `(B,)` int32.
            equal_recall_hits: `(B,)` int32.
            class_positives: `(1, C)` int32, the number of videos of the batch with each label.
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


def rated_predictions(predictions: tf.Tensor, label_weights: tf.Tensor | None) -> tf.Tensor:
    """Returns predictions `(B, C)` float32 with -1, which is below any other, for classes whose weight is 0.

    So whatever a model says of a class that was not rated, it is a miss that ranks last.

    Args:
        predictions: `(B, C)` float in [0, 1].
        label_weights: `(B, C)` float; None leaves predictions as they are.
    """
    return predictions if label_weights is None else tf.where(label_weights > 0, predictions, -1.0)


def _num_classes(predictions: tf.Tensor) -> int | tf.Tensor:
    static = predictions.shape[1]
    return tf.shape(predictions)[1] if static is None else static
