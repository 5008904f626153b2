"""The hinge loss of a choice of one class among all."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from yt8m.arguments import check_at_least
from yt8m.losses.base import logits_of
from yt8m.registry import LOSSES


@LOSSES.register("MulticlassHingeLoss")
def multiclass_hinge_loss(
    labels: tf.Tensor, outputs: Mapping[str, Any], label_weights: tf.Tensor | None = None, *, margin: float = 1.0
) -> tf.Tensor:
    """Hinge loss of a label against the best of the classes that are none, for one label per video.

        loss[b] = 1 / |P| * sum_{j in P} w[b, j] * max(0, margin - f[b, j] + max_{k not in P} f[b, k])

    P are the labels; there may be several, which do not compete with each other. A class of weight 0 is left out. A
    video without labels costs 0, and so does one without other classes. Like SoftmaxLoss it orders the classes of a
    video, and does not make scores comparable between videos.

    Args:
        labels: `(B, C)` bool.
        outputs: `logits` or `predictions` `(B, C)` float, f; logits of predictions are log p - log (1 - p).
        label_weights: `(B, C)` float, w; 1 if None.
        margin: by how much a label is to be above all other classes.

    Returns:
        `(B,)` float32.

    Raises:
        ArgumentError: if the margin is negative.

    Source: Crammer & Singer 2001, "On the algorithmic implementation of multiclass kernel-based vector machines".
    """
    check_at_least(0, margin=margin)
    logits = logits_of(outputs)
    weights = tf.ones_like(logits) if label_weights is None else tf.cast(label_weights, tf.float32)
    is_positive, is_negative = labels & (weights > 0), ~labels & (weights > 0)
    rival = tf.reduce_max(tf.where(is_negative, logits, tf.float32.min), axis=1, keepdims=True)
    has_rival = tf.reduce_any(is_negative, axis=1, keepdims=True)
    terms = weights * tf.nn.relu(margin - logits + tf.where(has_rival, rival, 0.0))
    num_labels = tf.math.count_nonzero(is_positive, axis=1, dtype=tf.float32)
    return tf.reduce_sum(tf.where(is_positive & has_rival, terms, 0.0), axis=1) / tf.maximum(num_labels, 1.0)
