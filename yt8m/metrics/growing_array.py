"""A one-dimensional array to which many small pieces are appended."""

import numpy as np
from numpy.typing import DTypeLike

# An array object takes as much memory as 30 float32 values, so many small arrays are concatenated.
_PIECE_SIZE = 1 << 14
_MAX_RECENT = 1 << 10


class GrowingArray:
    """A one-dimensional array to which values are appended.

    Args:
        dtype: the dtype of the values.
    """

    def __init__(self, dtype: DTypeLike):
        self._dtype = np.dtype(dtype)
        self._pieces: list[np.ndarray] = []
        self._recent: list[np.ndarray] = []
        self._recent_size = 0

    def extend(self, values: np.ndarray) -> None:
        """Appends a copy of `values` `(M,)`, cast to the dtype of the array."""
        self._recent.append(np.array(values, self._dtype))
        self._recent_size += values.size
        if self._recent_size >= _PIECE_SIZE or len(self._recent) >= _MAX_RECENT:
            self._join_recent()

    def values(self) -> np.ndarray:
        """Returns all N values so far, `(N,)`, in order. The caller must not change the array."""
        self._join_recent()
        if len(self._pieces) > 1:
            self._pieces = [np.concatenate(self._pieces)]
        return self._pieces[0]

    def sorted(self) -> np.ndarray:
        """Sorts all N values so far and returns them, `(N,)` ascending. The caller must not change the array."""
        values = self.values()
        values.sort()  # in place: a copy would double the memory
        return values

    def _join_recent(self) -> None:
        self._pieces.append(np.concatenate([np.empty(0, self._dtype), *self._recent]))
        self._recent, self._recent_size = [], 0
