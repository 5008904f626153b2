"""Second-order pooling, attention clusters and non-local VLAD from their definitions.

All in float64, one frame and cluster at a time, every residual written down.
"""

import math
from collections.abc import Callable

import numpy as np

from oracles.vlad import softmax, unit

Whiten = Callable[[int, np.ndarray], np.ndarray]


def direction(x: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """From a centre to a frame, at unit length."""
    return unit(x - centre)


def direction_moments(videos: list[np.ndarray], centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the directions from a centre to all frames of all videos."""
    directions = [direction(x, centre) for frames in videos for x in frames]
    mean = sum(directions, np.zeros(len(centre))) / len(directions)
    products = [np.outer(r - mean, r - mean) for r in directions]
    return mean, sum(products, np.zeros((len(centre), len(centre)))) / len(directions)


def t_embedding(frames: np.ndarray, shares: np.ndarray, centres: np.ndarray, whiten: Whiten) -> np.ndarray:
    """Every direction is whitened on its own before it is summed; clusters of unit length."""
    clusters = []
    for k, centre in enumerate(centres):
        total = np.zeros(len(centre))
        for x, share in zip(frames, shares, strict=True):
            total += share[k] * whiten(k, direction(x, centre))
        clusters.append(unit(total))
    return np.concatenate(clusters)


def product_mean(videos: list[np.ndarray], centre: np.ndarray) -> np.ndarray:
    """The mean over all frames of all videos of a direction times itself."""
    products = [np.outer(direction(x, centre), direction(x, centre)) for frames in videos for x in frames]
    return sum(products, np.zeros((len(centre), len(centre)))) / len(products)


def product_sums(frames: np.ndarray, shares: np.ndarray, centres: np.ndarray, means: list[np.ndarray]) -> np.ndarray:
    """The numbers on and above the diagonal of every cluster's sum, `(K, P (P + 1) / 2)`, before any normalisation."""
    rows = []
    for k, centre in enumerate(centres):
        total = np.zeros((len(centre), len(centre)))
        for x, share in zip(frames, shares, strict=True):
            u = direction(x, centre)
            total += share[k] * (np.outer(u, u) - means[k])
        pairs = [(i, j) for i in range(len(centre)) for j in range(i, len(centre))]
        rows.append([total[i, j] * (1.0 if i == j else math.sqrt(2.0)) for i, j in pairs])
    return np.array(rows)


def approximation_error(frames: np.ndarray, shares: np.ndarray, centres: np.ndarray, cubic: float) -> float:
    """Half the squared distance of a frame from the blend of its centres, and cubes of the distances to each."""
    terms = []
    for x, share in zip(frames, shares, strict=True):
        rest = x - sum(share[k] * centre for k, centre in enumerate(centres))
        cubes = [share[k] * math.sqrt(sum((x - centre) ** 2)) ** 3 for k, centre in enumerate(centres)]
        terms.append(0.5 * sum(rest**2) + cubic * sum(cubes))
    return sum(terms) / max(len(terms), 1)


def attention_means(frames: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """For every column of scores `(T, K)` the mean of the frames, weighted by the column's softmax."""
    means = []
    for column in scores.T:
        weights = softmax(column) if len(column) else column
        means.append(sum((w * x for w, x in zip(weights, frames, strict=True)), np.zeros(frames.shape[1])))
    return np.array(means)


def shifted(means: np.ndarray, alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """Every mean is stretched and moved, and has length 1 / sqrt(K) then."""
    rows = [unit(a * mean + b) / math.sqrt(len(means)) for mean, a, b in zip(means, alpha, beta, strict=True)]
    return np.concatenate(rows)


def non_local(tokens: np.ndarray, maps: list[np.ndarray], scale: float) -> np.ndarray:
    """Each token gets a blend of what all tokens say, by how alike their queries and keys are."""
    query, key, value, out = maps
    rows = []
    for token in tokens:
        shares = softmax(np.array([scale * sum((token @ query) * (other @ key)) for other in tokens]))
        blend = sum((share * (other @ value) for share, other in zip(shares, tokens, strict=True)), np.zeros(len(out)))
        rows.append(token + blend @ out)
    return np.array(rows)
