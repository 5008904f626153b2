"""Mixtures of logistic experts, evaluated in log space."""

import tensorflow as tf


def mixture_logits(gates: tf.Tensor, experts: tf.Tensor) -> tf.Tensor:
    """Blends expert probabilities with a softmax gate, class by class, and returns the logits of the blend.

        p[b, c] = sum_m softmax_m(gates[b, :, c])[m] * sigmoid(experts[b, m, c]),   logit = log p - log(1 - p)

    The gates have one mixture more than the experts, the last one: a dummy expert that always says 0, so that a class
    can be switched off whatever the experts say. Without the softmax's denominator, which both sides share,

        log p + const       = logsumexp_m (gate_m + log sigmoid(expert_m))
        log (1 - p) + const = logsumexp({gate_m + log sigmoid(-expert_m)}_m, gate_dummy)

    so nothing underflows, no epsilon is needed, and a loss can be taken of the logits.

    Args:
        gates: `(B, M + 1, C)` float32, unnormalised.
        experts: `(B, M, C)` float32, unnormalised.

    Returns:
        `(B, C)` float32; its sigmoid is the probability of the mixture.

    Raises:
        ValueError: if the gates do not have exactly one mixture more than the experts.

    Source: Jordan & Jacobs 1994; the dummy expert follows google/youtube-8m, MoeModel.
    """
    if gates.shape[1] != experts.shape[1] + 1:
        raise ValueError(f"{experts.shape[1]} experts need one gate each and one more, not {gates.shape[1]} gates.")
    log_yes = tf.math.log_sigmoid(experts)
    yes = gates[:, :-1] + log_yes
    no = tf.concat([yes - experts, gates[:, -1:]], axis=1)  # log sigmoid(-x) = log sigmoid(x) - x
    return tf.reduce_logsumexp(yes, axis=1) - tf.reduce_logsumexp(no, axis=1)
