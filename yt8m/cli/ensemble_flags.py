"""From the flags that name the members of an ensemble and their weights to what they mean."""

from collections.abc import Sequence

import numpy as np

from yt8m.arguments import LARGEST_FLOAT
from yt8m.errors import UserError


def weights_of_members(given: Sequence[str], count: int, flag: str, members: str) -> np.ndarray:
    """Returns the weights of the members of an ensemble, divided by their sum; equal ones if none are given.

    Args:
        given: the words that the user typed.
        count: M, the number of members.
        flag: the name of the flag that gave the words, for messages.
        members: what the members are, for messages.

    Returns:
        `(M,)` float64, with sum 1.

    Raises:
        UserError: if there are not M numbers of at least 0, or all are 0.
    """
    if not given:
        return np.full(count, 1.0 / count)
    try:
        weights = np.array([float(word) for word in given])
    except ValueError:
        weights = np.array([np.nan])
    if len(weights) != count or not ((weights >= 0) & (weights <= LARGEST_FLOAT)).all() or not weights.any():
        raise UserError(
            f"--{flag}={','.join(given)}: expected {count} number{'s' if count > 1 else ''} separated by commas, one "
            f"for each of {members}, none below 0 and not all 0."
        )
    return weights / weights.sum()
