"""Which classes a ranking loss compares, and the violations of a margin, by sorting instead of looking at pairs.

A ranking loss compares each label of a video, a positive, with each other class, a negative. Label weights mean the
same in all of them: a class of weight 0 is left out, as a class that nobody rated; the weight of a positive multiplies
its terms; that of a negative has no other effect than being above 0. So a video whose weights are all w counts w times.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from yt8m.losses.base import logits_of


class Ranked(NamedTuple):
    """The classes of B videos that are compared; P is the number of positives of the video that has most, at least 1.

    Attributes:
        logits: `(B, C)` float32, shifted so that the largest of a video is 0, which changes no difference; 0 where left
            out.
        is_negative: `(B, C)` bool, not a label and not left out.
        columns: `(B, P)` int32, the positives, the largest weight first.
        positives: `(B, P)` float32, their logits.
        weights: `(B, P)` float32, their label weights, 0 in the padding of videos with fewer than P.
    """

    logits: tf.Tensor
    is_negative: tf.Tensor
    columns: tf.Tensor
    positives: tf.Tensor
    weights: tf.Tensor


def ranked_classes(labels: tf.Tensor, outputs: Mapping[str, Any], label_weights: tf.Tensor | None) -> Ranked:
    """Parts the classes of each video into positives and negatives.

    Args:
        labels: `(B, C)` bool.
        outputs: the model's outputs: `logits` or `predictions`, `(B, C)` float.
        label_weights: `(B, C)` float; 1 if None.
    """
    logits = logits_of(outputs)
    weights = tf.ones_like(logits) if label_weights is None else tf.cast(label_weights, tf.float32)
    is_counted = weights > 0
    # A class that is left out has no say in the shift: a large logit of its would cost the others their last bits.
    largest = tf.reduce_max(tf.where(is_counted, logits, tf.float32.min), axis=1, keepdims=True)
    logits = tf.where(is_counted, logits - tf.stop_gradient(largest), 0.0)
    is_positive = labels & is_counted
    # At least one column: binary search takes no empty sequences.
    most = tf.reduce_max(tf.concat([tf.math.count_nonzero(is_positive, axis=1, dtype=tf.int32), [1]], axis=0))
    positive_weights, columns = tf.math.top_k(tf.where(is_positive, weights, 0.0), most)
    positives = tf.gather(logits, columns, batch_dims=1)
    return Ranked(logits, ~labels & is_counted, columns, positives, positive_weights)


def margin_violations(ranked: Ranked, margin: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Counts and sums the violations of a margin by the negatives, for each positive.

        r[b, j]     = #{negatives k: f[b, k] > f[b, j] - margin}
        hinge[b, j] = sum_k max(0, margin - f[b, j] + f[b, k])
                    = r[b, j] * (margin - f[b, j]) + (sum of the r[b, j] largest negatives)

    A negative that violates the margin of a positive violates it for every lower one. So the positives are sorted, one
    binary search per negative tells how many it violates, and sums over the negatives of each such number, summed from
    the end, are what both lines need: O(C log P) time and O(B C) memory.

    Args:
        ranked: the classes.
        margin: how far a positive should be above a negative, in logits.

    Returns:
        counts: `(B, P)` int32, r.
        hinges: `(B, P)` float32; their gradient reaches positives and negatives.
    """
    thresholds = tf.where(ranked.weights > 0, ranked.positives - margin, tf.float32.max)  # nothing violates padding
    order = tf.argsort(thresholds, axis=1)
    num_violated = tf.searchsorted(tf.gather(thresholds, order, batch_dims=1), ranked.logits, side="left")
    places = tf.argsort(order, axis=1)

    def over_violators(terms: tf.Tensor) -> tf.Tensor:
        """Sums `terms` `(B, C)` over the violators of each positive, to `(B, P)`."""
        num_videos, num_positives = tf.unstack(tf.shape(thresholds))
        segments = num_violated + (num_positives + 1) * tf.range(num_videos)[:, tf.newaxis]
        terms = tf.where(ranked.is_negative, terms, tf.zeros_like(terms))
        sums = tf.math.unsorted_segment_sum(terms, segments, num_videos * (num_positives + 1))
        sums = tf.reshape(sums, [num_videos, num_positives + 1])
        return tf.gather(tf.cumsum(sums[:, 1:], axis=1, reverse=True), places, batch_dims=1)

    counts = over_violators(tf.ones_like(num_violated))
    return counts, tf.cast(counts, tf.float32) * (margin - ranked.positives) + over_violators(ranked.logits)


def rank_weights(counts: tf.Tensor, num_classes: int | tf.Tensor) -> tf.Tensor:
    """Weighs ranks by the harmonic numbers: L(r) = sum_{i=1}^{r} 1 / i, L(0) = 0.

    Args:
        counts: `(B, P)` int32, r, at most `num_classes`.
        num_classes: C.

    Returns:
        `(B, P)` float32, L(r).
    """
    harmonic = tf.cumsum(1.0 / tf.range(1, tf.cast(num_classes, tf.float32) + 1.0))
    return tf.gather(tf.pad(harmonic, [[1, 0]]), counts)
