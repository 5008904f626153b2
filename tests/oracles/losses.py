"""Losses of several labels from their definitions: float64, one pair at a time, slow."""

import math

import numpy as np


def harmonic(rank: int) -> float:
    """L(r) = 1 + 1/2 + ... + 1/r."""
    return sum(1.0 / i for i in range(1, rank + 1))


def _parts(labels: np.ndarray, weights: np.ndarray) -> tuple[list[int], list[int]]:
    """Positives and negatives of one video, without the classes of weight 0."""
    counted = [c for c in range(len(labels)) if weights[c] > 0]
    return [c for c in counted if labels[c]], [c for c in counted if not labels[c]]


def pairwise(labels: np.ndarray, logits: np.ndarray, weights: np.ndarray, margin: float) -> list[float]:
    """Hinges of all pairs of a label and another class."""
    losses = []
    for y, f, w in zip(labels, logits.astype(np.float64), weights.astype(np.float64), strict=True):
        positives, negatives = _parts(y, w)
        losses.append(sum(w[j] * max(0.0, margin - f[j] + f[k]) for j in positives for k in negatives))
    return losses


def warp(labels: np.ndarray, logits: np.ndarray, weights: np.ndarray, margin: float) -> list[float]:
    """For each label L(r) / r times the hinges of its r violators."""
    losses = []
    for y, f, w in zip(labels, logits.astype(np.float64), weights.astype(np.float64), strict=True):
        positives, negatives = _parts(y, w)
        loss = 0.0
        for j in positives:
            rank = sum(f[k] > f[j] - margin for k in negatives)
            factor = harmonic(rank) / max(rank, 1)
            for k in negatives:
                loss += w[j] * factor * max(0.0, margin - f[j] + f[k])
        losses.append(loss)
    return losses


def multiclass_hinge(labels: np.ndarray, logits: np.ndarray, weights: np.ndarray, margin: float) -> list[float]:
    """The mean over labels of each one's hinge against the best of the other classes."""
    losses = []
    for y, f, w in zip(labels, logits.astype(np.float64), weights.astype(np.float64), strict=True):
        positives, negatives = _parts(y, w)
        hinges = [w[j] * max(0.0, margin - f[j] + max(f[k] for k in negatives)) for j in positives if negatives]
        losses.append(sum(hinges) / max(len(hinges), 1))
    return losses


def expected_rank_weight(num_violators: int, num_negatives: int, max_trials: int) -> float:
    """The expected L(floor(n / s)), s the trial that finds the first violator, 0 if none does."""
    q = num_violators / num_negatives
    return sum((1 - q) ** (s - 1) * q * harmonic(num_negatives // s) for s in range(1, max_trials + 1))


def sampled_warp_mean(
    labels: np.ndarray, logits: np.ndarray, weights: np.ndarray, margin: float, max_trials: int
) -> list[float]:
    """The expected loss of WARP by sampling."""
    losses = []
    for y, f, w in zip(labels, logits.astype(np.float64), weights.astype(np.float64), strict=True):
        positives, negatives = _parts(y, w)
        loss = 0.0
        for j in positives:
            hinges = [margin - f[j] + f[k] for k in negatives if f[k] > f[j] - margin]
            if hinges:
                factor = expected_rank_weight(len(hinges), len(negatives), max_trials)
                loss += w[j] * factor * sum(hinges) / len(hinges)
        losses.append(loss)
    return losses


def softmax(labels: np.ndarray, logits: np.ndarray, weights: np.ndarray) -> list[float]:
    """The mean over labels of minus log softmax, over the classes of a weight above 0."""
    losses = []
    for y, f, w in zip(labels, logits.astype(np.float64), weights.astype(np.float64), strict=True):
        positives, negatives = _parts(y, w)
        if not positives:
            losses.append(0.0)
            continue
        largest = max(f[c] for c in positives + negatives)
        log_total = largest + math.log(sum(math.exp(f[c] - largest) for c in positives + negatives))
        losses.append(sum(w[j] * (log_total - f[j]) for j in positives) / len(positives))
    return losses


def _log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


def focal(labels: np.ndarray, logits: np.ndarray, weights: np.ndarray, gamma: float, alpha: float) -> list[float]:
    """- a (1 - t)^gamma log t, t the probability of what is right."""
    losses = []
    for y, f, w in zip(labels, logits.astype(np.float64), weights.astype(np.float64), strict=True):
        loss = 0.0
        for c in range(len(f)):
            right = f[c] if y[c] else -f[c]
            factor = alpha if y[c] else 1 - alpha
            loss -= w[c] * factor * math.exp(gamma * _log_sigmoid(-right)) * _log_sigmoid(right)
        losses.append(loss)
    return losses


def soft_cross_entropy(targets: np.ndarray, logits: np.ndarray, factors: np.ndarray) -> list[float]:
    """Binary cross entropy with probabilities for labels, each class with a factor, summed."""
    losses = []
    for y, f, w in zip(targets, logits.astype(np.float64), factors, strict=True):
        terms = [y[c] * _log_sigmoid(f[c]) + (1 - y[c]) * _log_sigmoid(-f[c]) for c in range(len(f))]
        losses.append(-sum(float(w[c]) * terms[c] for c in range(len(f))))
    return losses


def distillation(
    labels: np.ndarray, logits: np.ndarray, weights: np.ndarray, teacher: np.ndarray, temperature: float, share: float
) -> list[float]:
    """The weighted mean of the cross entropies with the labels and, softened, with the teacher."""
    softened = np.zeros(teacher.shape)
    for place, q in np.ndenumerate(teacher.astype(np.float64)):
        if q in (0.0, 1.0):
            softened[place] = q
        else:
            softened[place] = math.exp(_log_sigmoid((math.log(q) - math.log1p(-q)) / temperature))
    of_labels = soft_cross_entropy(labels.astype(np.float64), logits, weights)
    of_teacher = soft_cross_entropy(softened, logits / temperature, weights)
    return [(1 - share) * a + share * temperature**2 * b for a, b in zip(of_labels, of_teacher, strict=True)]
