"""Attention from its definitions: float64, frame by frame and head by head, slow."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from oracles.vlad import affine, softmax

Row = Callable[[np.ndarray], np.ndarray]


def attend(queries: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Blends the values of one head, `(T, W)` each, for every query."""
    blends = []
    for q in queries:
        weights = softmax(np.array([sum(a * b for a, b in zip(q, k, strict=True)) for k in keys]))
        blends.append(sum(weight * v for weight, v in zip(weights, values, strict=True)))
    return np.array(blends).reshape(values.shape)


def self_attention(
    frames: np.ndarray, projection: np.ndarray, scales: np.ndarray, middle: Row, last: Row
) -> np.ndarray:
    """Attends with a head for every scale of logits; `middle` and `last` are applied to each frame's blends."""
    size, width = frames.shape[1], frames.shape[1] // len(scales)
    mapped = np.array([affine(x, projection) for x in frames]).reshape(-1, 3 * size)
    heads = []
    for head, scale in enumerate(scales):
        q, k, v = (mapped[:, part * size + head * width :][:, :width] for part in range(3))
        heads.append(attend(scale * q, k, v))
    return np.array([last(middle(row)) for row in np.concatenate(heads, axis=1)]).reshape(frames.shape)


def pair_moments(videos: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[float, int]:
    """The variance of q . k over all pairs of frames of the same video, `(queries, keys)` each, and their number."""
    logits = [sum(a * b for a, b in zip(q, k, strict=True)) for queries, keys in videos for q in queries for k in keys]
    mean = math.fsum(logits) / len(logits)
    return math.fsum((z - mean) ** 2 for z in logits) / len(logits), len(logits)


def layer_norm(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, epsilon: float = 1e-6) -> np.ndarray:
    mean = math.fsum(x) / len(x)
    variance = math.fsum((v - mean) ** 2 for v in x) / len(x)
    return np.array([(v - mean) / math.sqrt(variance + epsilon) for v in x]) * gamma + beta


def gelu(x: np.ndarray) -> np.ndarray:
    """x times the probability that a normal number is below it."""
    return np.array([v * 0.5 * (1.0 + math.erf(v / math.sqrt(2.0))) for v in x])


def sinusoid(position: int, size: int) -> np.ndarray:
    half = math.ceil(size / 2)
    angles = [position / 10000 ** (i / half) for i in range(half)]
    return np.array([math.sin(a) for a in angles] + [math.cos(a) for a in angles])[:size]
