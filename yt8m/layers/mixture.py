"""Mixtures of logistic experts, evaluated in log space."""

from collections.abc import Callable
from functools import reduce

import tensorflow as tf

Gradient = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def mixture_logits(gates: tf.Tensor, experts: tf.Tensor) -> tf.Tensor:
    """Logits of a mixture of M experts per class, weighted by a softmax gate.

        p[b, c] = sum_m softmax(gates[b, :, c])[m] * sigmoid(experts[b, m, c]),   logit = log p - log(1 - p)

    The softmax is over M + 1 gates. The last one belongs to a dummy expert whose probability is 0, so that the gate
    alone can make a class improbable. The softmax's denominator cancels in the logit:

        p_m = gate_m + log sigmoid(expert_m),   q_m = gate_m + log sigmoid(-expert_m),   q_dummy = gate_dummy
        logit = logsumexp_m p_m - logsumexp_m q_m

    so nothing underflows, no epsilon is needed, and a loss can be taken of the logits.

    Args:
        gates: `(B, M + 1, C)` float, unnormalised.
        experts: `(B, M, C)` float, unnormalised.

    Returns:
        The logits, `(B, C)` of the same dtype; their sigmoid is p.

    Raises:
        ValueError: if the second axis of `gates` is not one longer than that of `experts`.

    Source: Jordan & Jacobs 1994; the dummy expert follows google/youtube-8m, MoeModel.
    """
    if gates.shape[1] != experts.shape[1] + 1:
        raise ValueError(f"{experts.shape[1]} experts need a gate each and one more, not {gates.shape[1]} gates.")
    return _mixture_logits(gates, experts)


def gated_logits(logits: tf.Tensor, gates: tf.Tensor) -> tf.Tensor:
    """Multiplies probabilities by gates in [0, 1] and returns the logits of the products.

        p' = sigmoid(logits) * sigmoid(gates)

    With p = e^l / (1 + e^l) and g = e^z / (1 + e^z) the common denominator of p' and 1 - p' = (1 - p) + p (1 - g)
    cancels:

        logit' = log p' - log(1 - p') = l + z - log(1 + e^l + e^z)

    Args:
        logits: `(B, C)` float, l.
        gates: `(B, C)` float, unnormalised, z.

    Returns:
        `(B, C)` of the same dtype, at most the smaller of l and z.
    """
    return logits + gates - tf.reduce_logsumexp(tf.stack([tf.zeros_like(logits), logits, gates]), axis=0)


def average_logits(logits: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Logits of a weighted average of M predictions.

        p[b, c] = sum_m w[b, m] sigmoid(logits[b, m, c]) / sum_m w[b, m],   logit = log p - log(1 - p)

    Computed from log sigmoid(z) and log sigmoid(-z), so nothing underflows.

    Args:
        logits: `(B, M, C)` float, z.
        weights: `(B, M)` float, w, at least 0 and not 0 for all m. They have no gradient.

    Returns:
        `(B, C)` of the dtype of `logits`; their sigmoid is p.
    """
    log_weights = tf.math.log(tf.stop_gradient(tf.cast(weights, logits.dtype)))[:, :, tf.newaxis]
    log_p = tf.reduce_logsumexp(log_weights + tf.math.log_sigmoid(logits), axis=1)
    log_q = tf.reduce_logsumexp(log_weights + tf.math.log_sigmoid(-logits), axis=1)
    return log_p - log_q


@tf.autograph.experimental.do_not_convert
@tf.custom_gradient
def _mixture_logits(gates: tf.Tensor, experts: tf.Tensor) -> tuple[tf.Tensor, Gradient]:
    """`mixture_logits` and its gradient, computed mixture by mixture on `(B, C)` tensors to save passes over memory.

    With alpha = softmax(p), beta = softmax(q) and s = sigmoid(expert), and since d log s / d expert = 1 - s:

        d logit / d gate_m   = alpha_m - beta_m,   d logit / d gate_dummy = -beta_dummy
        d logit / d expert_m = alpha_m (1 - s_m) + beta_m s_m
    """
    gate, expert = tf.unstack(gates, axis=1), tf.unstack(experts, axis=1)
    p = [g - tf.math.softplus(-e) for g, e in zip(gate, expert, strict=False)]
    q = [log_p - e for log_p, e in zip(p, expert, strict=True)] + gate[-1:]  # log sigmoid(-e) = log sigmoid(e) - e
    largest_p, p_parts, p_total = _exponentials(p)
    largest_q, q_parts, q_total = _exponentials(q)

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        alphas = [upstream / p_total * part for part in p_parts]
        betas = [upstream / q_total * part for part in q_parts]
        to_gates = [a - b for a, b in zip(alphas, betas, strict=False)] + [-betas[-1]]
        to_experts = [a + (b - a) * tf.sigmoid(e) for a, b, e in zip(alphas, betas, expert, strict=False)]
        return tf.stack(to_gates, axis=1), tf.stack(to_experts, axis=1)

    return largest_p - largest_q + tf.math.log(p_total / q_total), gradient


def _exponentials(terms: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor], tf.Tensor]:
    """Returns the elementwise maximum of `terms`, exp(term - maximum) of each, and the sum of these, at least 1."""
    largest = reduce(tf.maximum, terms)
    parts = [tf.exp(term - largest) for term in terms]
    return largest, parts, tf.add_n(parts)
