"""The squared hinge loss of support vector machines."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from yt8m.losses.base import logits_of, sum_over_classes
from yt8m.registry import LOSSES


@LOSSES.register("SquaredHingeLoss")
def squared_hinge_loss(
    labels: tf.Tensor, outputs: Mapping[str, Any], label_weights: tf.Tensor | None = None
) -> tf.Tensor:
    """Squared hinge loss of the logits, summed over classes.

        loss[b] = sum_c w[b, c] * max(0, 1 - s[b, c] * f[b, c])^2,   s = 1 for a label, else -1

    With SvmModel f is the decision value, and this is the loss of a support vector machine. HingeLoss is of
    probabilities.

    Args:
        labels: `(B, C)` bool, from which s is computed.
        outputs: the model's outputs: `logits` `(B, C)` float, f; without them those of its `predictions`.
        label_weights: `(B, C)` float, w; 1 if None.

    Returns:
        `(B,)` float32.

    Source: Chang & Lin 2008, "Coordinate descent method for large-scale L2-loss linear support vector machines".
    """
    sign = tf.where(labels, 1.0, -1.0)
    return sum_over_classes(tf.square(tf.nn.relu(1.0 - sign * logits_of(outputs))), label_weights)
