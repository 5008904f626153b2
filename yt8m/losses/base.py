"""Parts of losses: logits, the cross entropy per class, sums over classes, and the weighted sum of several losses."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

# (labels (B, C), outputs of the model, label_weights (B, C) or None) -> (B,)
Loss = Callable[[tf.Tensor, Mapping[str, Any], tf.Tensor | None], tf.Tensor]
Gradient = Callable[[tf.Tensor], tf.Tensor]

_SMALLEST_PROBABILITY = 1e-7


def logits_of(outputs: Mapping[str, Any]) -> tf.Tensor:
    """Returns the logits of a model as `(B, C)` float32.

        f[b, c] = log p[b, c] - log (1 - p[b, c])

    A model's own where it offers them: exact at any confidence. Those of predictions are of probabilities kept 1e-7
    away from 0 and 1.

    Args:
        outputs: `logits` or `predictions` `(B, C)` float.
    """
    if "logits" in outputs:
        return tf.cast(outputs["logits"], tf.float32)
    p = tf.cast(outputs["predictions"], tf.float32)
    p = tf.clip_by_value(p, _SMALLEST_PROBABILITY, 1.0 - _SMALLEST_PROBABILITY)
    return tf.math.log(p) - tf.math.log1p(-p)


def class_cross_entropies(targets: tf.Tensor, outputs: Mapping[str, Any]) -> tf.Tensor:
    """Binary cross entropy of every class.

        h[b, c] = - y[b, c] log p[b, c] - (1 - y[b, c]) log (1 - p[b, c])

    Args:
        targets: `(B, C)`, y: labels as bool, or probabilities as float32.
        outputs: as for `logits_of`, which says how exact p is.

    Returns:
        `(B, C)` float32, in nats.
    """
    return tf.nn.sigmoid_cross_entropy_with_logits(labels=tf.cast(targets, tf.float32), logits=logits_of(outputs))


def sum_over_classes(terms: tf.Tensor, label_weights: tf.Tensor | None) -> tf.Tensor:
    """Returns sum_c label_weights[b, c] * terms[b, c], `(B,)` float32.

    Args:
        terms: `(B, C)` float32.
        label_weights: `(B, C)` float; 1 if None.
    """
    if label_weights is not None:
        terms *= tf.cast(label_weights, tf.float32)
    return tf.reduce_sum(terms, axis=1)


def cross_entropy(targets: tf.Tensor, outputs: Mapping[str, Any], weights: tf.Tensor | None = None) -> tf.Tensor:
    """Sums `class_cross_entropies`, each multiplied by its weight if there are any, over the classes.

        loss[b] = sum_c w[b, c] h[b, c],   d loss[b] / d logits[b, c] = w[b, c] (sigmoid(logits[b, c]) - y[b, c])

    The gradient is written out because it needs nothing of the loss, which a step that nobody reports then never
    computes; differentiation would go over a dozen tensors of this size. Targets and weights are given, not learnt:
    they have no gradient.

    Args:
        targets: `(B, C)`, y: labels as bool, or probabilities as float32.
        outputs: as for `logits_of`, which says how exact p is.
        weights: `(B, C)` float, w; 1 if None.

    Returns:
        `(B,)` float32, in nats.
    """

    @tf.custom_gradient
    def of_logits(logits: tf.Tensor) -> tuple[tf.Tensor, Gradient]:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            # Without the snapshot TensorFlow merges the sigmoid into the product before it where nothing else reads the
            # logits, and weights would depend, in their last bits, on which steps are reported.
            differences = tf.sigmoid(tf.raw_ops.Snapshot(input=logits)) - tf.cast(targets, tf.float32)
            if weights is not None:
                differences *= tf.cast(weights, tf.float32)
            return differences * upstream[:, tf.newaxis]

        return sum_over_classes(class_cross_entropies(targets, {"logits": logits}), weights), gradient

    return of_logits(logits_of(outputs))


def weighted_sum(losses: Sequence[tuple[float, Loss]]) -> Loss:
    """Returns the loss function `(labels, outputs, label_weights) -> (B,)`, the sum of weight * loss over all pairs.

    Args:
        losses: the pairs (weight, loss function).
    """

    def total(labels: tf.Tensor, outputs: Mapping[str, Any], label_weights: tf.Tensor | None = None) -> tf.Tensor:
        # A product with 1 would be computed for the shape that its gradient asks for.
        values = [(weight, loss(labels, outputs, label_weights)) for weight, loss in losses]
        return tf.add_n([value if weight == 1.0 else weight * value for weight, value in values])

    return total
