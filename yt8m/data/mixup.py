"""Mixup: training on videos that are mixed of two, so that a model learns to be linear between its examples."""

from collections.abc import Sequence

import tensorflow as tf

from yt8m.batch import KEY, LABEL_WEIGHTS, LABELS, MIXUP_SHARE, NUM_FRAMES, PARTNER_LABEL_WEIGHTS, PARTNER_LABELS, Batch
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

    Frames are mixed one by one, and the shorter of two videos starts again at its end, so that each has its share of
    all frames of the mixture: x[b, t] = s[b] x[b, t mod T] + (1 - s[b]) x'[b, t mod T'], t < max(T, T'). Where one of
    them has no frames, the mixture has those of the other. Mixtures of bytes are rounded to bytes.

    Labels are not mixed: both videos' are in the batch with the share s, and so the loss can be mixed,
    s loss(labels) + (1 - s) loss(partner_labels), whatever loss it is. Cross entropy is the same of mixed labels.

    Args:
        batch: features, `(B, size)` float32 or `(B, T, size)` uint8 or float32, labels and keys.
        others: the same of the partners, whose T may be another.
        feature_names: the features that are mixed.
        alpha: above 0.

    Source: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization"; a share per video in place of one per batch.
    """
    shares = symmetric_beta(batch[KEY], alpha, "mixup share")
    if NUM_FRAMES in batch:
        features = _mixed_frames(batch, others, feature_names, shares)
    else:
        of_each = shares[:, tf.newaxis]
        features = {name: of_each * batch[name] + (1.0 - of_each) * others[name] for name in feature_names}
    of_partners = {partners: others[name] for name, partners in _OF_THE_PARTNER.items() if name in others}
    return {**batch, **features, **of_partners, MIXUP_SHARE: shares}


def _mixed_frames(batch: Batch, others: Batch, feature_names: Sequence[str], shares: tf.Tensor) -> Batch:
    """Returns the mixed frames `(B, T, size)` by name, and how many there are."""
    own, partners_own = batch[NUM_FRAMES], others[NUM_FRAMES]
    longest = tf.maximum(own, partners_own)
    numbers = tf.range(tf.reduce_max(longest))
    is_frame = tf.sequence_mask(longest)[:, :, tf.newaxis]
    shares = tf.where(own == 0, 0.0, tf.where(partners_own == 0, 1.0, shares))[:, tf.newaxis, tf.newaxis]
    mixtures = {NUM_FRAMES: longest}
    for name in feature_names:
        dtype = batch[name].dtype
        of_both = (_repeated(videos[name], videos[NUM_FRAMES], numbers) for videos in (batch, others))
        first, second = (tf.cast(frames, tf.float32) for frames in of_both)
        mixture = shares * first + (1.0 - shares) * second
        mixture = tf.cast(tf.round(mixture), dtype) if dtype == tf.uint8 else mixture
        mixtures[name] = tf.where(is_frame, mixture, tf.zeros([], dtype))
    return mixtures


def _repeated(frames: tf.Tensor, num_frames: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
    """Returns frame t mod T of each video for the `numbers` t; of a video without frames, padding."""
    frames = tf.pad(frames, [[0, 0], [0, 1], [0, 0]])  # a batch of videos without frames has no padding of its own
    return tf.gather(frames, numbers % tf.maximum(num_frames, 1)[:, tf.newaxis], batch_dims=1)
