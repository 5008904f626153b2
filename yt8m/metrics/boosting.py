"""Boosting: weights that make the next model look at the videos that the last one got wrong."""

import numpy as np

from yt8m.errors import UserError


def boosted_weights(weights: np.ndarray, errors: np.ndarray, largest: float) -> np.ndarray:
    """Returns the weights of the next round.

        w'[v] ~ w[v] exp(rho error[v]),   rho = log((1 - e) / e),   e = sum w error / sum w

    scaled to mean 1 and cut at `largest`, so that no video that nobody gets right takes over; what is cut is spread
    over the others in proportion to their weights.

    Args:
        weights: `(N,)` float, w, of this round; at least 0.
        errors: `(N,)` float in [0, 1], such as 1 - PERR of a video.
        largest: the largest weight, above 1.

    Returns:
        `(N,)` float64, mean 1.

    Raises:
        UserError: if the mean error e is 0, or 1/2 or more: then there is nothing to boost.

    Source: Wang, Zhang & Wu 2017, "Monkeytyping Solution to the YouTube-8M Video Understanding Challenge", after
    Freund & Schapire 1997; the paper spreads at random what it cuts.
    """
    mean_error = float(weights @ errors / weights.sum())
    if not 0 < mean_error < 0.5:
        raise UserError(
            f"The mean error of the videos is {mean_error:.4f}; boosting needs one above 0 and below 0.5. Are the "
            "predictions and the labels of the same videos and classes?"
        )
    boosted = weights * ((1 - mean_error) / mean_error) ** errors
    is_cut = np.zeros(len(boosted), bool)
    while True:
        # Those that are not cut share what is left of the sum N.
        rest = len(boosted) - largest * is_cut.sum()
        scaled = np.where(is_cut, largest, boosted * max(rest, 0.0) / max(boosted[~is_cut].sum(), np.finfo(float).tiny))
        beyond = scaled > largest
        if not (beyond & ~is_cut).any():
            return scaled
        is_cut |= beyond
