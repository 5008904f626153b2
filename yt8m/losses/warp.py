"""WARP: pairs of a label and another class, weighted by the rank of the label, exactly."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from yt8m.arguments import check_positive
from yt8m.losses.ranking import margin_violations, rank_weights, ranked_classes
from yt8m.registry import LOSSES


@LOSSES.register("WarpLoss")
def warp_loss(
    labels: tf.Tensor, outputs: Mapping[str, Any], label_weights: tf.Tensor | None = None, *, margin: float = 1.0
) -> tf.Tensor:
    """Weighted approximate ranking: the mean hinge of a label's violators, times a weight of its rank.

        loss[b] = sum_{j in P} w[b, j] * L(r[b, j]) / r[b, j] * sum_{k in N} max(0, margin - f[b, j] + f[b, k])
        r[b, j] = #{k in N: f[b, k] > f[b, j] - margin},   L(r) = sum_{i=1}^{r} 1 / i

    P are the labels, N the other classes, f the logits; a class of weight 0 is in neither. Terms with r = 0 are 0. The
    gradient takes L(r) / r for constant, as the papers' does. Where one more class comes within the margin the loss
    jumps. O(C log |P|) per video: see `margin_violations`. The same number added to all logits of a video changes
    nothing: scores are not comparable between videos.

    Args:
        labels: `(B, C)` bool.
        outputs: `logits` or `predictions` `(B, C)` float; logits of predictions are log p - log (1 - p).
        label_weights: `(B, C)` float, w; 1 if None. See yt8m/losses/ranking.py.
        margin: how far the logit of a label should be above that of another class.

    Returns:
        `(B,)` float32.

    Raises:
        ArgumentError: if the margin is not above 0.

    Source: Weston, Bengio & Usunier 2011, "WSABIE"; Gong et al. 2013, "Deep Convolutional Ranking for Multilabel Image
    Annotation". The division by r is WSABIE's: Gong's formula lacks it, the sampling that both use implies it.
    """
    check_positive(margin=margin)
    ranked = ranked_classes(labels, outputs, label_weights)
    counts, hinges = margin_violations(ranked, margin)
    factors = rank_weights(counts, tf.shape(labels)[1]) / tf.cast(tf.maximum(counts, 1), tf.float32)
    return tf.reduce_sum(ranked.weights * factors * hinges, axis=1)
