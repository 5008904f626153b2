"""An array that grows by small pieces without a cost per piece."""

import numpy as np
from numpy.typing import DTypeLike

# An array object weighs as much as 30 float32 values: small ones are joined before they are many.
_PIECE_SIZE = 1 << 14
_MAX_RECENT = 1 << 10


class GrowingArray:
    """A one-dimensional array to append to."""

    def __init__(self, dtype: DTypeLike):
        self._dtype = np.dtype(dtype)
        self._pieces: list[np.ndarray] = []
        self._recent: list[np.ndarray] = []
        self._recent_size = 0

    def extend(self, values: np.ndarray) -> None:
        """Appends a copy of one-dimensional `values`."""
        self._recent.append(np.array(values, self._dtype))
        self._recent_size += values.size
        if self._recent_size >= _PIECE_SIZE or len(self._recent) >= _MAX_RECENT:
            self._join_recent()

    def values(self) -> np.ndarray:
        """Returns all values so far, in order. The array is not to be written to."""
        self._join_recent()
        if len(self._pieces) > 1:
            self._pieces = [np.concatenate(self._pieces)]
        return self._pieces[0]

    def sorted(self) -> np.ndarray:
        """Returns all values so far in ascending order, which they keep from then on. Not to be written to."""
        values = self.values()
        values.sort()  # in place: a copy would double the memory
        return values

    def _join_recent(self) -> None:
        self._pieces.append(np.concatenate([np.empty(0, self._dtype), *self._recent]))
        self._recent, self._recent_size = [], 0
