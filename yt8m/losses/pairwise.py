"""Hinge loss of all pairs of a label and another class."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from yt8m.arguments import check_positive
from yt8m.losses.ranking import margin_violations, ranked_classes
from yt8m.registry import LOSSES


@LOSSES.register("PairwiseRankingLoss")
def pairwise_ranking_loss(
    labels: tf.Tensor, outputs: Mapping[str, Any], label_weights: tf.Tensor | None = None, *, margin: float = 1.0
) -> tf.Tensor:
    """Hinge loss of the logits, summed over pairs of a label and another class.

        loss[b] = sum_{j in P} w[b, j] * sum_{k in N} max(0, margin - f[b, j] + f[b, k])

    P are the labels, N the other classes, f the logits; a class of weight 0 is in neither. A video without labels, or
    with nothing else, costs 0. O(C log |P|) per video: see `margin_violations`. The same number added to all logits of
    a video changes nothing: scores are not comparable between videos.

    Args:
        labels: `(B, C)` bool.
        outputs: `logits` or `predictions` `(B, C)` float; logits of predictions are log p - log (1 - p).
        label_weights: `(B, C)` float, w; 1 if None. See yt8m/losses/ranking.py.
        margin: how far the logit of a label should be above that of another class.

    Returns:
        `(B,)` float32.

    Raises:
        ArgumentError: if the margin is not above 0.

    Source: Gong et al. 2013, "Deep Convolutional Ranking for Multilabel Image Annotation", pairwise ranking.
    """
    check_positive(margin=margin)
    ranked = ranked_classes(labels, outputs, label_weights)
    _, hinges = margin_violations(ranked, margin)
    return tf.reduce_sum(ranked.weights * hinges, axis=1)
