"""Layers, models and losses from their definitions: float64, one number at a time, slow."""

import math
from decimal import Decimal, localcontext

import numpy as np


def dequantise(byte: int) -> float:
    """The centre of bin `byte` of 256 over [-2, 2], as the data set defines it."""
    return byte * (2.0 - -2.0) / 255.0 + (2.0 - -2.0) / 512.0 - 2.0


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x > 0 else math.exp(x) / (1.0 + math.exp(x))


def unit_frames(bytes_by_feature: list[np.ndarray], num_frames: int) -> list[list[float]]:
    """Dequantises the first frames of one video, features side by side, each frame divided by its length."""
    frames = []
    for t in range(num_frames):
        frame = [dequantise(int(byte)) for feature in bytes_by_feature for byte in feature[t]]
        length = math.sqrt(sum(x * x for x in frame))
        frames.append([x / length for x in frame])
    return frames


def mixture_logit(gates: list[float], experts: list[float]) -> float:
    """log p - log(1 - p) of a mixture in its probability form, with 60 digits and no limit to the exponent."""
    with localcontext() as context:
        context.prec = 60
        weights = [Decimal(g).exp() for g in gates]
        yes = Decimal(0) + sum(w / (1 + (-Decimal(e)).exp()) for w, e in zip(weights, experts, strict=False))
        no = weights[-1] + sum(w / (1 + Decimal(e).exp()) for w, e in zip(weights, experts, strict=False))
        total = sum(weights)
        return float((yes / total).ln() - (no / total).ln())


def moments(rows: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each column over the valid rows."""
    chosen = [row for row, is_valid in zip(rows, valid, strict=True) if is_valid]
    means = [sum(float(row[f]) for row in chosen) / len(chosen) for f in range(rows.shape[1])]
    variances = [sum((float(row[f]) - means[f]) ** 2 for row in chosen) / len(chosen) for f in range(rows.shape[1])]
    return np.array(means), np.array(variances)


def normalise(rows: np.ndarray, mean: np.ndarray, variance: np.ndarray, epsilon: float = 1e-3) -> np.ndarray:
    """Batch normalisation without scale and offset."""
    return (rows - mean) / np.sqrt(variance + epsilon)


def lstm(frames: np.ndarray, kernel: np.ndarray, recurrent: np.ndarray, bias: np.ndarray) -> tuple[list, np.ndarray]:
    """Walks over `(T, D)`; returns the outputs of all steps and the last cell. Columns: input, forget, cell, output."""
    h = c = np.zeros(recurrent.shape[0])
    outputs = []
    for x in frames:
        i, f, g, o = np.split(x @ kernel + h @ recurrent + bias, 4)
        squash = np.vectorize(sigmoid)
        c = squash(f) * c + squash(i) * np.tanh(g)
        h = squash(o) * np.tanh(c)
        outputs.append(h)
    return outputs, c


def gru(frames: np.ndarray, kernel: np.ndarray, recurrent: np.ndarray, bias: np.ndarray) -> list:
    """Walks over `(T, D)`; returns the outputs of all steps. Columns: update, reset, candidate; `bias` `(2, 3H)`."""
    h = np.zeros(recurrent.shape[0])
    outputs = []
    squash = np.vectorize(sigmoid)
    for x in frames:
        xz, xr, xh = np.split(x @ kernel + bias[0], 3)
        hz, hr, hh = np.split(h @ recurrent + bias[1], 3)
        update, reset = squash(xz + hz), squash(xr + hr)
        h = update * h + (1.0 - update) * np.tanh(xh + reset * hh)
        outputs.append(h)
    return outputs


def cross_entropy(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> list[float]:
    """Minus the log-probability of the labels, class by class, summed for each video."""
    losses = []
    for truth, predicted, weight in zip(labels, probabilities, weights, strict=True):
        terms = [
            w * (math.log(p) if y else math.log(1.0 - p)) for y, p, w in zip(truth, predicted, weight, strict=True)
        ]
        losses.append(-sum(terms))
    return losses


def hinge(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, margin: float) -> list[float]:
    """What is missing to the margin on the right side of 0, summed for each video."""
    losses = []
    for truth, predicted, weight in zip(labels, probabilities, weights, strict=True):
        terms = [w * max(0.0, margin - (p if y else -p)) for y, p, w in zip(truth, predicted, weight, strict=True)]
        losses.append(sum(terms))
    return losses
