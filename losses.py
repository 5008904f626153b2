"""Registered losses: one number per video, which the training loop averages over the global batch.

Here are the starter's; others are in `yt8m/losses/`, where a new file needs no other edit. A loss is a function
`(labels, outputs, label_weights) -> (B,)`; its keyword-only arguments are its hyper-parameters, as in
`--hparams=loss.margin=0.5`.
"""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from yt8m.arguments import check_at_least, check_share
from yt8m.losses.base import cross_entropy, sum_over_classes
from yt8m.registry import LOSSES


@LOSSES.register("CrossEntropyLoss")
def cross_entropy_loss(
    labels: tf.Tensor,
    outputs: Mapping[str, Any],
    label_weights: tf.Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
    positive_weight: float = 1.0,
    negative_weight: float = 1.0,
) -> tf.Tensor:
    """Binary cross entropy, summed over classes.

        loss[b] = - sum_c w[b, c] * v[b, c] * (y[b, c] log p[b, c] + (1 - y[b, c]) log (1 - p[b, c]))
        y = 1 - label_smoothing / 2, v = positive_weight   of a label
        y = label_smoothing / 2,     v = negative_weight   of another class

    Computed from logits if the model returns them, which is exact for every p; otherwise from predictions p clipped to
    [1e-7, 1 - 1e-7].

    Args:
        labels: `(B, C)` bool.
        outputs: the model's outputs: `logits` or `predictions`, `(B, C)` float.
        label_weights: `(B, C)` float, w; 1 if None.
        label_smoothing: the part of the target that is shared between label and not.
        positive_weight: what a label counts. WILLOW's alpha is a positive weight of 2 alpha and a negative weight of
            2 (1 - alpha).
        negative_weight: what another class counts.

    Returns:
        `(B,)` float32, in nats.

    Raises:
        ArgumentError: if a weight is negative or the smoothing outside [0, 1).

    Source: google/youtube-8m, CrossEntropyLoss, on the same scale but without the epsilon in its logarithms. Smoothing:
    Szegedy et al. 2016, "Rethinking the Inception Architecture", of two outcomes per class. Weights:
    antoine77340/Youtube-8M-WILLOW.
    """
    check_share(label_smoothing=label_smoothing)
    check_at_least(0, positive_weight=positive_weight, negative_weight=negative_weight)
    targets = tf.where(labels, 1.0 - label_smoothing / 2, label_smoothing / 2) if label_smoothing else labels
    weights = label_weights
    if (positive_weight, negative_weight) != (1.0, 1.0):
        of_outcomes = tf.where(labels, positive_weight, negative_weight)
        weights = of_outcomes if label_weights is None else of_outcomes * tf.cast(label_weights, tf.float32)
    return cross_entropy(targets, outputs, weights)


@LOSSES.register("HingeLoss")
def hinge_loss(
    labels: tf.Tensor, outputs: Mapping[str, Any], label_weights: tf.Tensor | None = None, *, margin: float = 1.0
) -> tf.Tensor:
    """Hinge loss of the predictions, summed over classes.

        loss[b] = sum_c w[b, c] * max(0, margin - s[b, c] * p[b, c]),   s = 1 for a label, else -1

    p is a probability, not a logit, so a class that is not a label costs at least the margin.

    Args:
        labels: `(B, C)` bool, from which s is computed.
        outputs: the model's outputs: `predictions` `(B, C)` float, p.
        label_weights: `(B, C)` float, w; 1 if None.
        margin: the value of s * p from which on the loss of a class is 0.

    Returns:
        `(B,)` float32.

    Source: google/youtube-8m, HingeLoss.
    """
    sign = tf.where(labels, 1.0, -1.0)
    terms = tf.nn.relu(margin - sign * tf.cast(outputs["predictions"], tf.float32))
    return sum_over_classes(terms, label_weights)
