"""Mixup: training on videos that are mixed of two, so that a model learns to be linear between its examples."""

from collections.abc import Sequence

import tensorflow as tf

from yt8m.batch import KEY, LABEL_WEIGHTS, LABELS, MIXUP_SHARE, PARTNER_LABEL_WEIGHTS, PARTNER_LABELS, Batch
from yt8m.randomness import keys_from_positions, permutation, symmetric_beta

_OF_THE_PARTNER = {LABELS: PARTNER_LABELS, LABEL_WEIGHTS: PARTNER_LABEL_WEIGHTS}


def partners(seed: int, num_examples: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Draws with which other video of a global batch each is mixed, as a function of the batch's place in the data.

    Whoever has a share of the batch draws the same, so mixtures do not depend on the number of devices and workers.

    Args:
        seed: of the run's order.
        num_examples: `()` int64, how many examples the run has seen after the batch.
        count: `()` int, the videos of the global batch, B.

    Returns:
        A permutation of 0 ... B - 1, `(B,)` int32. A video may be its own partner.
    """
    return permutation(keys_from_positions(seed, num_examples), count, "mixup partners")


def mixed(batch: Batch, others: Batch, feature_names: Sequence[str], alpha: float) -> Batch:
    """Mixes the features of videos with those of their partners.

        x[b] = s[b] x[b] + (1 - s[b]) x'[b],   s[b] from Beta(alpha, alpha) by the video's random key

    Labels are not mixed: both videos' are in the batch with the share s, and so the loss can be mixed,
    s loss(labels) + (1 - s) loss(partner_labels), whatever loss it is. Cross entropy is the same of mixed labels.

    Args:
        batch: features `(B, size)` float32, labels and keys.
        others: the same of the partners.
        feature_names: the features that are mixed.
        alpha: above 0.

    Source: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization"; a share per video in place of one per batch.
    """
    shares = symmetric_beta(batch[KEY], alpha, "mixup share")
    of_each = shares[:, tf.newaxis]
    features = {name: of_each * batch[name] + (1.0 - of_each) * others[name] for name in feature_names}
    of_partners = {partners: others[name] for name, partners in _OF_THE_PARTNER.items() if name in others}
    return {**batch, **features, **of_partners, MIXUP_SHARE: shares}
