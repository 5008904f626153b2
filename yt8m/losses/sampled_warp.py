"""WARP as it was published: a label's rank is estimated by drawing classes until one violates the margin."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from yt8m.arguments import check_at_least, check_positive
from yt8m.batch import KEY
from yt8m.losses.ranking import Ranked, rank_weights, ranked_classes
from yt8m.randomness import uniform
from yt8m.registry import LOSSES


@LOSSES.register("SampledWarpLoss")
def sampled_warp_loss(
    labels: tf.Tensor,
    outputs: Mapping[str, Any],
    label_weights: tf.Tensor | None = None,
    *,
    margin: float = 1.0,
    max_trials: int = 128,
) -> tf.Tensor:
    """WARP by sampling: per label one violator instead of all, their number estimated from the trial that found it.

        loss[b] = sum_{j in P} w[b, j] * L(floor(n / s)) * max(0, margin - f[b, j] + f[b, k])

    For each label j, classes are drawn from the n others, uniformly and with replacement; k is the first of them that
    violates the margin, and s the number of its trial, from 1. Without one in `max_trials` the term is 0. The draws are
    a function of the video's random key, so a run is reproducible and no other video of the batch matters.

    With r violators and q = r / n the expected term is that of WarpLoss with, in place of L(r),

        E = sum_{s=1}^{max_trials} (1 - q)^(s - 1) * q * L(floor(n / s))

    The estimate is biased: docs/losses.md compares E with L(r). A label in the middle of the ranking weighs somewhat
    more than in WarpLoss, one that is nearly at the top much less, since its violators are rarely found.

    Args:
        labels: `(B, C)` bool.
        outputs: `logits` or `predictions` `(B, C)` float; logits of predictions are log p - log (1 - p). `key` `(B,)`
            int64, the videos' random keys.
        label_weights: `(B, C)` float, w; 1 if None. See yt8m/losses/ranking.py.
        margin: how far the logit of a label should be above that of another class.
        max_trials: classes drawn per label. The papers draw up to C - 1; memory is B x labels x trials.

    Returns:
        `(B,)` float32.

    Raises:
        ArgumentError: if the margin is not above 0 or there is no trial.

    Source: Weston, Bengio & Usunier 2011, "WSABIE", algorithm 1. n is C - 1 there: of one label, it is that here too.
    """
    check_positive(margin=margin)
    check_at_least(1, max_trials=max_trials)
    ranked = ranked_classes(labels, outputs, label_weights)
    drawn, num_negatives = _draw_negatives(ranked, outputs[KEY], max_trials)
    logits = tf.gather(ranked.logits, drawn, batch_dims=1)
    violates = (logits > ranked.positives[:, :, tf.newaxis] - margin) & (num_negatives > 0)[:, tf.newaxis, tf.newaxis]
    trial = 1 + tf.reduce_min(tf.where(violates, tf.range(max_trials), max_trials), axis=2)
    is_found = trial <= max_trials
    # Only the violator gets a gradient.
    violator = tf.gather(drawn, tf.minimum(trial, max_trials) - 1, batch_dims=2)
    hinges = margin - ranked.positives + tf.gather(ranked.logits, violator, batch_dims=1)
    factors = rank_weights(num_negatives[:, tf.newaxis] // trial, tf.shape(labels)[1])
    return tf.reduce_sum(ranked.weights * tf.where(is_found, factors * hinges, 0.0), axis=1)


def _draw_negatives(ranked: Ranked, keys: tf.Tensor, num_draws: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws negatives for each positive: `(B, P, num_draws)` int32 classes, and how many there are, `(B,)` int32.

    A video without negatives gets the last class.
    """
    num_videos, num_positives = tf.unstack(tf.shape(ranked.positives))
    places = tf.cumsum(tf.cast(ranked.is_negative, tf.int32), axis=1)  # the n-th negative is where n first occurs
    num_negatives = tf.math.count_nonzero(ranked.is_negative, axis=1, dtype=tf.int32)
    shares = uniform(keys, num_positives * num_draws, "sampled_warp")
    numbers = 1 + tf.cast(shares * tf.cast(num_negatives[:, tf.newaxis], tf.float32), tf.int32)
    numbers = tf.minimum(numbers, tf.maximum(num_negatives, 1)[:, tf.newaxis])  # a product may be rounded up to n
    classes = tf.minimum(tf.searchsorted(places, numbers, side="left"), tf.shape(places)[1] - 1)
    return tf.reshape(classes, [num_videos, num_positives, num_draws]), num_negatives
