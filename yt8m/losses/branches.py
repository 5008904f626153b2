"""Losses of models with several branches, each with its own predictions."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from yt8m.losses.base import Loss, cross_entropy
from yt8m.losses.softmax import softmax_loss
from yt8m.registry import LOSSES


@LOSSES.register("BranchCrossEntropyLoss")
def branch_cross_entropy_loss(
    labels: tf.Tensor, outputs: Mapping[str, Any], label_weights: tf.Tensor | None = None
) -> tf.Tensor:
    """Binary cross entropy of a model and of each of its branches.

        loss[b] = w[b, 0] BCE(outputs)[b] + sum_m w[b, m] BCE(branch m)[b],   m = 1, ..., M

    where BCE is CrossEntropyLoss. A branch is whatever has predictions of its own: a model of a mixture, a support
    prediction of a chain, a frame. For a model without branches the sum over m is empty.

    Args:
        labels: `(B, C)` bool.
        outputs: the model's outputs: `logits` or `predictions`, `(B, C)` float; `branch_logits` `(B, M, C)` float, if
            the model has M branches, and their `branch_weights` w, `(B, 1 + M)` or `(1, 1 + M)` float, 1 if missing.
        label_weights: `(B, C)` float, the weight of each term; 1 if None.

    Returns:
        `(B,)` float32, in nats.

    Source: Lin, Xiao & Fan 2018, "NeXtVLAD", for a mixture of M = 3 models; Wang, Zhang & Wu 2017 for chains; Ng et al.
    2015, "Beyond short snippets", for frames.
    """
    return _of_branches(cross_entropy, labels, outputs, label_weights)


@LOSSES.register("BranchSoftmaxLoss")
def branch_softmax_loss(
    labels: tf.Tensor, outputs: Mapping[str, Any], label_weights: tf.Tensor | None = None
) -> tf.Tensor:
    """Cross entropy of a softmax over classes, of a model and of each of its branches.

        loss[b] = w[b, 0] SoftmaxLoss(outputs)[b] + sum_m w[b, m] SoftmaxLoss(branch m)[b],   m = 1, ..., M

    For one label per video what BranchCrossEntropyLoss is for any number of them.

    Args:
        labels: `(B, C)` bool.
        outputs: as of BranchCrossEntropyLoss: `logits` or `predictions`, `(B, C)` float, and optionally `branch_logits`
            `(B, M, C)` float and `branch_weights`, w.
        label_weights: `(B, C)` float, the weight of each term; 1 if None.

    Returns:
        `(B,)` float32, in nats.

    Source: Ng et al. 2015, "Beyond short snippets": a softmax at every frame; Simonyan & Zisserman 2014, "Two-stream
    convolutional networks": a softmax per stream.
    """
    return _of_branches(softmax_loss, labels, outputs, label_weights)


def _of_branches(
    loss: Loss, labels: tf.Tensor, outputs: Mapping[str, Any], label_weights: tf.Tensor | None
) -> tf.Tensor:
    """Adds the losses of a model and of its branches, each with its weight."""
    own = loss(labels, outputs, label_weights)
    if "branch_logits" not in outputs:
        return own
    logits = outputs["branch_logits"]
    count, branches, classes = tf.unstack(tf.shape(logits))
    row_labels, row_weights = (
        None if each is None else tf.repeat(each, branches, axis=0) for each in (labels, label_weights)
    )
    rows = {"logits": tf.reshape(logits, (count * branches, classes))}
    losses = tf.reshape(loss(row_labels, rows, row_weights), (count, branches))
    losses = tf.concat([own[:, tf.newaxis], losses], axis=1)
    return tf.reduce_sum(losses * outputs.get("branch_weights", 1.0), axis=1)
