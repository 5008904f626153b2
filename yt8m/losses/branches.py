"""Losses of models with several branches, each with its own predictions."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from yt8m.losses.base import cross_entropy
from yt8m.registry import LOSSES


@LOSSES.register("BranchCrossEntropyLoss")
def branch_cross_entropy_loss(
    labels: tf.Tensor, outputs: Mapping[str, Any], label_weights: tf.Tensor | None = None
) -> tf.Tensor:
    """Binary cross entropy of a model and of each of its branches.

        loss[b] = BCE(outputs)[b] + sum_m BCE(branch m)[b]

    where BCE is CrossEntropyLoss. For a model without branches the sum over m is empty.

    Args:
        labels: `(B, C)` bool.
        outputs: the model's outputs: `logits` or `predictions`, `(B, C)` float; `branch_logits` `(B, M, C)` float, if
            the model has M branches.
        label_weights: `(B, C)` float, the weight of each term; 1 if None.

    Returns:
        `(B,)` float32, in nats.

    Source: Lin, Xiao & Fan 2018, "NeXtVLAD", for a mixture of M = 3 models.
    """
    branches = tf.unstack(outputs["branch_logits"], axis=1) if "branch_logits" in outputs else []
    classified = [outputs, *({"logits": logits} for logits in branches)]
    return tf.add_n([cross_entropy(labels, each, label_weights) for each in classified])
