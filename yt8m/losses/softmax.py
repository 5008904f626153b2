"""Softmax over the classes of a video, for any number of labels."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from yt8m.losses.base import logits_of
from yt8m.registry import LOSSES


@LOSSES.register("SoftmaxLoss")
def softmax_loss(labels: tf.Tensor, outputs: Mapping[str, Any], label_weights: tf.Tensor | None = None) -> tf.Tensor:
    """Cross entropy of a softmax over classes with the uniform distribution over the labels.

        loss[b] = - 1 / |P| * sum_{j in P} w[b, j] * log q[b, j],   q[b] = softmax of the logits of b

    P are the labels. A class of weight 0 is left out of P and of the softmax. A video without labels costs 0. The same
    number added to all logits of a video changes nothing: scores are not comparable between videos.

    Args:
        labels: `(B, C)` bool.
        outputs: `logits` or `predictions` `(B, C)` float; logits of predictions are log p - log (1 - p).
        label_weights: `(B, C)` float, w; 1 if None.

    Returns:
        `(B,)` float32, in nats.

    Source: Gong et al. 2013, "Deep Convolutional Ranking for Multilabel Image Annotation".
    """
    logits = logits_of(outputs)
    weights = tf.ones_like(logits) if label_weights is None else tf.cast(label_weights, tf.float32)
    is_counted = weights > 0
    is_positive = labels & is_counted
    log_shares = tf.nn.log_softmax(tf.where(is_counted, logits, tf.float32.min), axis=1)
    terms = tf.where(is_positive, -weights * log_shares, 0.0)
    num_labels = tf.math.count_nonzero(is_positive, axis=1, dtype=tf.float32)
    return tf.reduce_sum(terms, axis=1) / tf.maximum(num_labels, 1.0)
