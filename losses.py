"""Registered losses: one number a video, which the training loop averages over the global batch."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from yt8m.registry import LOSSES

_TINY_PROBABILITY = 1e-7


@LOSSES.register("CrossEntropyLoss")
def cross_entropy_loss(
    labels: tf.Tensor, outputs: Mapping[str, Any], label_weights: tf.Tensor | None = None
) -> tf.Tensor:
    """Binary cross entropy, summed over classes.

        loss[b] = - sum_c w[b, c] * (y[b, c] log p[b, c] + (1 - y[b, c]) log (1 - p[b, c]))

    From logits where the model offers them: exact at any confidence. From predictions they are kept 1e-7 away from 0
    and 1.

    Args:
        labels: `(B, C)` bool, y.
        outputs: `logits` or `predictions` `(B, C)` float.
        label_weights: `(B, C)` float, w; 1 if None.

    Returns:
        `(B,)` float32, in nats.

    Source: google/youtube-8m, CrossEntropyLoss: the same scale, without its epsilon.
    """
    truth = tf.cast(labels, tf.float32)
    if "logits" in outputs:
        terms = tf.nn.sigmoid_cross_entropy_with_logits(labels=truth, logits=tf.cast(outputs["logits"], tf.float32))
    else:
        yes = tf.clip_by_value(tf.cast(outputs["predictions"], tf.float32), _TINY_PROBABILITY, 1.0 - _TINY_PROBABILITY)
        terms = -(truth * tf.math.log(yes) + (1.0 - truth) * tf.math.log1p(-yes))
    return _sum_over_classes(terms, label_weights)


@LOSSES.register("BranchCrossEntropyLoss")
def branch_cross_entropy_loss(
    labels: tf.Tensor, outputs: Mapping[str, Any], label_weights: tf.Tensor | None = None
) -> tf.Tensor:
    """Binary cross entropy of a model and of each of its branches.

        loss[b] = BCE(outputs)[b] + sum_m BCE(branch m)[b]

    A model without branches pays for itself alone.

    Args:
        labels: `(B, C)` bool.
        outputs: as for CrossEntropyLoss; `branch_logits` `(B, M, C)` float, if the model has branches.
        label_weights: `(B, C)` float; 1 if None.

    Returns:
        `(B,)` float32, in nats.

    Source: Lin, Xiao & Fan 2018, "NeXtVLAD": the mixture of three.
    """
    branches = tf.unstack(outputs["branch_logits"], axis=1) if "branch_logits" in outputs else []
    judged = [outputs, *({"logits": logits} for logits in branches)]
    return tf.add_n([cross_entropy_loss(labels, each, label_weights) for each in judged])


@LOSSES.register("HingeLoss")
def hinge_loss(
    labels: tf.Tensor, outputs: Mapping[str, Any], label_weights: tf.Tensor | None = None, margin: float = 1.0
) -> tf.Tensor:
    """Hinge loss of the predictions, summed over classes.

        loss[b] = sum_c w[b, c] * max(0, margin - s[b, c] * p[b, c]),   s = 1 for a label, else -1

    Args:
        labels: `(B, C)` bool.
        outputs: `predictions` `(B, C)` float, p.
        label_weights: `(B, C)` float, w; 1 if None.
        margin: the distance from 0 at which a prediction costs nothing.

    Returns:
        `(B,)` float32.

    Source: google/youtube-8m, HingeLoss: of the probabilities, so that a class that is not a label costs at least the
    margin.
    """
    sign = tf.where(labels, 1.0, -1.0)
    terms = tf.nn.relu(margin - sign * tf.cast(outputs["predictions"], tf.float32))
    return _sum_over_classes(terms, label_weights)


def _sum_over_classes(terms: tf.Tensor, label_weights: tf.Tensor | None) -> tf.Tensor:
    if label_weights is not None:
        terms *= tf.cast(label_weights, tf.float32)
    return tf.reduce_sum(terms, axis=1)
