"""Registered losses: one number per video, which the training loop averages over the global batch.

Here are the starter's; others are in `yt8m/losses/`, where a new file needs no other edit. A loss is a function
`(labels, outputs, label_weights) -> (B,)`; its keyword-only arguments are its hyper-parameters, as in
`--hparams=loss.margin=0.5`.
"""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from yt8m.losses.base import class_cross_entropies, sum_over_classes
from yt8m.registry import LOSSES


@LOSSES.register("CrossEntropyLoss")
def cross_entropy_loss(
    labels: tf.Tensor, outputs: Mapping[str, Any], label_weights: tf.Tensor | None = None
) -> tf.Tensor:
    """Binary cross entropy, summed over classes.

        loss[b] = - sum_c w[b, c] * (y[b, c] log p[b, c] + (1 - y[b, c]) log (1 - p[b, c]))

    Computed from logits if the model returns them, which is exact for every p; otherwise from predictions p clipped to
    [1e-7, 1 - 1e-7].

    Args:
        labels: `(B, C)` bool, y.
        outputs: the model's outputs: `logits` or `predictions`, `(B, C)` float.
        label_weights: `(B, C)` float, w; 1 if None.

    Returns:
        `(B,)` float32, in nats.

    Source: google/youtube-8m, CrossEntropyLoss, on the same scale but without the epsilon in its logarithms.
    """
    return sum_over_classes(class_cross_entropies(labels, outputs), label_weights)


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
