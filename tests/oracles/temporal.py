"""Temporal pooling, chains and fused predictions from their definitions: float64, one video at a time, slow."""

import itertools
import math

import numpy as np

from oracles.models import sigmoid


def largest(rows: np.ndarray) -> np.ndarray:
    """The maximum of each column; 0 of nothing."""
    return np.array([max((row[d] for row in rows), default=0.0) for d in range(rows.shape[1])])


def windows(num_frames: int, size: int, stride: int) -> list[range]:
    """The windows of a video: one after another until its last frame is in one; none of a video without frames."""
    found: list[range] = []
    while num_frames and (not found or found[-1].stop < num_frames):
        start = len(found) * stride
        found.append(range(start, min(start + size, num_frames)))
    return found


def parts(num_frames: int, count: int) -> list[list[int]]:
    """Frame t covers the time from t to t + 1; a part has the frames that cover any of its time."""
    edges = [num_frames * n / count for n in range(count + 1)]
    return [
        [t for t in range(num_frames) if t < end - 1e-9 and t + 1 > first + 1e-9]
        for first, end in itertools.pairwise(edges)
    ]


def hidden(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """A fully connected layer of rectified units."""
    return np.array([max(0.0, float(x @ kernel[:, j]) + bias[j]) for j in range(kernel.shape[1])])


def frame_cnn(frames: np.ndarray, kernels: list[np.ndarray]) -> np.ndarray:
    """Filter n = 1, 2, 3 over frame t and the n - 1 before it, newest first; zeros before the video."""
    rows = []
    for t in range(len(frames)):
        seen = [frames[t - back] if t >= back else np.zeros(frames.shape[1]) for back in range(len(kernels))]
        rows.append(np.concatenate([np.concatenate(seen[: n + 1]) @ kernel for n, kernel in enumerate(kernels)]))
    return np.array(rows)


def unit(x: np.ndarray) -> np.ndarray:
    length = math.sqrt(sum(float(v) ** 2 for v in x))
    return x / length if length > 1e-6 else x


def code(predictions: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return unit(hidden(predictions, kernel, bias))


def average_prediction(logits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The weighted mean of `(M, C)` predictions."""
    p = np.vectorize(sigmoid)(logits)
    return np.array([sum(w * row[c] for w, row in zip(weights, p, strict=True)) for c in range(p.shape[1])]) / sum(
        weights
    )


def cross_entropy(labels: np.ndarray, logits: np.ndarray) -> float:
    """Minus the log-probability of a video's labels."""
    return -sum(math.log(sigmoid(z) if y else sigmoid(-z)) for y, z in zip(labels, logits, strict=True))
