"""Learnable pooling from its definitions: float64, frame by frame and cluster by cluster, slow."""

import math
from decimal import Decimal, localcontext

import numpy as np


def unit(v: np.ndarray) -> np.ndarray:
    """A vector divided by its length; zeros stay."""
    length = math.sqrt(sum(float(x) ** 2 for x in v.ravel()))
    return v / length if length > 0.0 else v


def softmax(logits: np.ndarray) -> np.ndarray:
    parts = [math.exp(float(z) - float(max(logits))) for z in logits]
    return np.array([part / sum(parts) for part in parts])


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.array([1.0 / (1.0 + math.exp(-float(z))) for z in np.ravel(x)]).reshape(np.shape(x))


def affine(row: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """x W, one number at a time."""
    return np.array([sum(float(x) * float(w) for x, w in zip(row, column, strict=True)) for column in kernel.T])


def vlad(frames: np.ndarray, shares: np.ndarray, centres: np.ndarray, gates: np.ndarray | None = None) -> np.ndarray:
    """Sums residuals to every centre; each cluster `(K, D)` of unit length."""
    clusters = []
    for k, centre in enumerate(centres):
        total = np.zeros(centre.shape)
        for x, share in zip(frames, shares, strict=True):
            total += share[k] * (x - centre)
        clusters.append(unit(total if gates is None else gates[k] * total))
    return np.array(clusters)


def fisher(frames: np.ndarray, shares: np.ndarray, centres: np.ndarray, spreads: np.ndarray) -> np.ndarray:
    """First and second order, each of unit length, every cluster of each of equal length."""
    parts = []
    for order in (1, 2):
        clusters = []
        for k, (centre, spread) in enumerate(zip(centres, spreads, strict=True)):
            total = np.zeros(centre.shape)
            for x, share in zip(frames, shares, strict=True):
                distance = (x - centre) / spread
                total += share[k] * (distance if order == 1 else distance**2 - 1.0)
            clusters.append(unit(total))
        parts.append(unit(np.concatenate(clusters)))
    return np.concatenate(parts)


def mixture_gradient(shares: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """How much more or less than its weight each cluster got."""
    terms = [sum(float(share[k]) - w for share in shares) / math.sqrt(w) for k, w in enumerate(weights)]
    return unit(np.array(terms))


def nextvlad(
    frames: np.ndarray, attentions: np.ndarray, shares: np.ndarray, groups: np.ndarray, centres: np.ndarray
) -> np.ndarray:
    """Sums residuals of groups `(T, G, D)` by attention `(T, G)` and share `(T, G, K)`; clusters of unit length."""
    clusters = []
    for k, centre in enumerate(centres):
        total = np.zeros(centre.shape)
        for t in range(len(frames)):
            for g in range(groups.shape[1]):
                total += attentions[t, g] * shares[t, g, k] * (groups[t, g] - centre)
        clusters.append(unit(total))
    return np.concatenate(clusters)


def gate_logits(x: np.ndarray, kernel: np.ndarray, remove_diagonal: bool) -> np.ndarray:
    """x W, with or without what a feature says to itself."""
    return np.array(
        [
            sum(float(x[i]) * float(kernel[i, j]) for i in range(len(x)) if not (remove_diagonal and i == j))
            for j in range(kernel.shape[1])
        ]
    )


def product_logit(logit: float, gate: float) -> float:
    """log p' - log(1 - p') of p' = sigmoid(logit) * sigmoid(gate), with 60 digits."""
    with localcontext() as context:
        context.prec = 60
        p = 1 / (1 + (-Decimal(logit)).exp()) / (1 + (-Decimal(gate)).exp())
        return float(p.ln() - (1 - p).ln())


def divergence(teacher: np.ndarray, student: np.ndarray, temperature: float) -> float:
    """KL(softmax(teacher / tau) || softmax(student / tau))."""
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
