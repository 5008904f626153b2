"""Mixtures of logistic experts, evaluated in log space."""

from collections.abc import Callable

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
    log_weights = tf.expand_dims(tf.math.log(tf.stop_gradient(tf.cast(weights, logits.dtype))), 2)
    log_p = tf.reduce_logsumexp(log_weights + tf.math.log_sigmoid(logits), axis=1)
    log_q = tf.reduce_logsumexp(log_weights + tf.math.log_sigmoid(-logits), axis=1)
    return log_p - log_q


@tf.autograph.experimental.do_not_convert
@tf.custom_gradient
def _mixture_logits(gates: tf.Tensor, experts: tf.Tensor) -> tuple[tf.Tensor, Gradient]:
    """`mixture_logits` and its gradient, computed mixture by mixture on `(B, C)` tensors to save passes over memory.

    With alpha = softmax(p), beta = softmax(q) and s = sigmoid(expert), and since d log s / d expert = 1 - s:

        d logit / d gate_m   = alpha_m - beta_m,   d logit / d gate_dummy = -beta_dummy
        d logit / d expert_m = alpha_m (1 - s_m) + beta_m s_m = alpha_m - (alpha_m - beta_m) s_m
    """
    gate, expert = tf.unstack(gates, axis=1), tf.unstack(experts, axis=1)
    q = [g - tf.math.softplus(e) for g, e in zip(gate, expert, strict=False)]
    p = [log_q + e for log_q, e in zip(q, expert, strict=True)]  # log sigmoid(e) = log sigmoid(-e) + e
    log_p, p_leads = _log_sum(p)
    log_q, q_leads = _log_sum([*q, gate[-1]])

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        alphas, betas = _shares(upstream, p_leads), _shares(upstream, q_leads)
        differences = [a - b for a, b in zip(alphas, betas, strict=False)]
        to_experts = [a - _times_sigmoid(d, e) for a, d, e in zip(alphas, differences, expert, strict=True)]
        return tf.stack([*differences, -betas[-1]], axis=1), tf.stack(to_experts, axis=1)

    return log_p - log_q, gradient


def _log_sum(terms: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Returns log sum exp(terms), elementwise, and by how much each term but the first leads the sum before it.

    Term by term, log(e^a + e^b) = a + softplus(b - a): one softplus per term, where the usual way, relative to the
    largest, takes an exponential per term and a logarithm, and more passes over memory between them.
    """
    total, leads = terms[0], []
    for term in terms[1:]:
        leads.append(term - total)
        total += tf.math.softplus(leads[-1])
    return total, leads


def _shares(amount: tf.Tensor, leads: list[tf.Tensor]) -> list[tf.Tensor]:
    """Returns amount * softmax(terms), elementwise, by what `_log_sum` returns of the terms.

    The last term has the share sigmoid(lead) of all, the one before it such a share of the rest, and so on.
    """
    shares: list[tf.Tensor] = []
    for lead in reversed(leads):
        shares.insert(0, _times_sigmoid(amount, lead))
        amount -= shares[0]
    return [amount, *shares]


def _times_sigmoid(factor: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns factor * sigmoid(logits) in one pass."""
    return tf.raw_ops.SoftplusGrad(gradients=factor, features=logits)
