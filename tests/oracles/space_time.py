"""Convolution and pooling over time and places from their definitions: one window at a time, slow."""

from collections.abc import Callable

import numpy as np

Sizes = tuple[int, int, int]


def windows(clip: np.ndarray, kernel: Sizes, strides: Sizes, border: float) -> dict[tuple[int, ...], np.ndarray]:
    """Every window of one clip `(T, h, w, D)` without padding, by its place in the result.

    Beyond its ends the clip goes on with its first and last frame, beyond the borders of frames with `border`.
    """
    counts = [-(-size // stride) for size, stride in zip(clip.shape, strides, strict=False)]
    before = [(kernel[0] - strides[0]) // 2]
    for axis in (1, 2):
        before.append(max((counts[axis] - 1) * strides[axis] + kernel[axis] - clip.shape[axis], 0) // 2)
    found = {}
    for place in np.ndindex(*counts):
        window = np.full((*kernel, clip.shape[3]), border, np.float64)
        for offset in np.ndindex(*kernel):
            t, y, x = (p * s - b + o for p, s, b, o in zip(place, strides, before, offset, strict=True))
            if 0 <= y < clip.shape[1] and 0 <= x < clip.shape[2]:
                window[offset] = clip[min(max(t, 0), len(clip) - 1), y, x]
        found[place] = window
    return found


def over_windows(
    clip: np.ndarray, kernel: Sizes, strides: Sizes, border: float, apply: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Applies a function `(kt, kh, kw, D) -> (E,)` to every window: `(T', h', w', E)`."""
    values = {place: apply(window) for place, window in windows(clip, kernel, strides, border).items()}
    shape = tuple(1 + max(place[axis] for place in values) for axis in range(3))
    result = np.empty((*shape, len(values[0, 0, 0])))
    for place, value in values.items():
        result[place] = value
    return result
