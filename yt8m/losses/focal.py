"""Focal loss: cross entropy that looks less at what is right already."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from yt8m.arguments import check_at_least, check_share
from yt8m.losses.base import logits_of, sum_over_classes
from yt8m.registry import LOSSES


@LOSSES.register("FocalLoss")
def focal_loss(
    labels: tf.Tensor,
    outputs: Mapping[str, Any],
    label_weights: tf.Tensor | None = None,
    *,
    gamma: float = 2.0,
    alpha: float = 0.25,
) -> tf.Tensor:
    """Binary cross entropy of every class, scaled down where the prediction is right, summed over classes.

        loss[b] = - sum_c w[b, c] * a[b, c] * (1 - t[b, c])^gamma * log t[b, c]
        t = p, a = alpha for a label, else t = 1 - p, a = 1 - alpha

    With gamma = 0 and alpha = 0.5 it is half of CrossEntropyLoss. Computed from logits where the model offers them, it
    is finite and exact at any confidence.

    Args:
        labels: `(B, C)` bool.
        outputs: `logits` or `predictions` `(B, C)` float.
        label_weights: `(B, C)` float, w; 1 if None.
        gamma: how fast the weight of a class falls with the probability of what is right.
        alpha: the weight of labels; other classes have 1 - alpha.

    Returns:
        `(B,)` float32, in nats.

    Raises:
        ArgumentError: if gamma is negative or alpha outside [0, 1).

    Source: Lin et al. 2017, "Focal Loss for Dense Object Detection", equation 5, and its defaults.
    """
    check_at_least(0, gamma=gamma)
    check_share(alpha=alpha)
    logits = logits_of(outputs)
    logits_of_right = tf.where(labels, logits, -logits)
    # log (1 - t) = -softplus(logit of t), and -log t = softplus(-logit of t).
    terms = tf.exp(-gamma * tf.math.softplus(logits_of_right)) * tf.math.softplus(-logits_of_right)
    return sum_over_classes(tf.where(labels, alpha, 1.0 - alpha) * terms, label_weights)
