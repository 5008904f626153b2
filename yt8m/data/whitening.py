"""Principal components of features, whitened, and the bytes that YouTube-8M stores of them."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from yt8m.errors import UserError
from yt8m.files import read_bytes, write_text
from yt8m.schema import QUANTISATION_OFFSET, QUANTISATION_STEP, WHITENING_EPSILON


def quantise(features: np.ndarray) -> np.ndarray:
    """Quantises `features` `(...)` float of any shape to the bytes, uint8, whose dequantised value is nearest.

        q = round((x + 2 - 4 / 512) * 255 / 4), from 0 to 255

    So |dequantise(q) - x| is at most 4 / 510 where |x| <= 2, and larger x are clipped.
    """
    return np.clip(np.round((features - QUANTISATION_OFFSET) / QUANTISATION_STEP), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Whitening:
    """A projection on principal components that gives each of them the variance 1.

        y = components (x - mean) / sqrt(variances + 1e-4)

    Attributes:
        mean: `(D,)` float32 of the features.
        components: `(K, D)` float32, unit vectors, that of the largest variance first.
        variances: `(K,)` float32, of the components.

    Source: google/youtube-8m, feature_extractor.py.
    """

    mean: np.ndarray
    components: np.ndarray
    variances: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Projects `features` `(T, D)` float to `(T, K)` float32."""
        scale = np.sqrt(self.variances + WHITENING_EPSILON)
        return (((features - self.mean) @ self.components.T) / scale).astype(np.float32)


@dataclass
class Moments:
    """Sums over frames from which a whitening follows.

    Attributes:
        count: the frames so far.
        total: `(D,)` float64, their sum.
        products: `(D, D)` float64, the sum of their outer products.
    """

    count: int = 0
    total: np.ndarray = field(default_factory=lambda: np.zeros(()))
    products: np.ndarray = field(default_factory=lambda: np.zeros(()))

    def add(self, features: np.ndarray) -> None:
        """Adds the frames `features` `(T, D)` float."""
        values = features.astype(np.float64)
        self.count += len(values)
        self.total = self.total + values.sum(axis=0)
        self.products = self.products + values.T @ values

    def whitening(self, size: int) -> Whitening:
        """Returns the whitening to the first `size` components, or all if there are fewer.

        The sign of a component is that in which its largest entry is positive.

        Raises:
            UserError: if there are too few frames to tell so many components.
        """
        size = min(size, len(self.total))
        if self.count <= size:
            raise UserError(
                f"--pca_size={size}: the videos have {self.count} frames, and {size} components need more than that. "
                "Give more videos, or a smaller --pca_size."
            )
        mean = self.total / self.count
        variances, vectors = np.linalg.eigh(self.products / self.count - np.outer(mean, mean))
        components = vectors.T[::-1][:size]
        largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, np.newaxis], axis=1)
        kept = np.maximum(variances[::-1][:size], 0.0)
        return Whitening(*(x.astype(np.float32) for x in (mean, components * np.sign(largest), kept)))


@dataclass(frozen=True)
class WhiteningFile:
    """The whitenings of several features, as a file of arrays.

    Attributes:
        whitenings: by name of the feature.
    """

    whitenings: Mapping[str, Whitening]

    def write(self, path: str) -> None:
        """Writes the file, whole or not at all: arrays `rgb.mean`, `rgb.components`, `rgb.variances`, ...

        Raises:
            UserError: if it cannot be written.
        """
        content = io.BytesIO()
        arrays = {f"{name}.{part}": array for name, it in self.whitenings.items() for part, array in vars(it).items()}
        np.savez(content, **arrays)
        write_text(path, content.getvalue())

    @classmethod
    def read(cls, path: str, sizes: Mapping[str, int]) -> Self:
        """Reads a file.

        Args:
            path: of the file.
            sizes: the width D of each feature that is wanted, by name.

        Raises:
            UserError: if it is no such file, lacks a feature, or holds one of another width.
        """
        try:
            arrays = np.load(io.BytesIO(read_bytes(path)), allow_pickle=False)
            parts = Whitening.__dataclass_fields__
            whitenings = {name: Whitening(*(arrays[f"{name}.{part}"] for part in parts)) for name in sizes}
        except Exception as error:  # NumPy raises whatever a damaged file makes it raise
            raise UserError(f"--pca={path} cannot be read ({error}). It is written with --fit_pca.") from error
        for name, size in sizes.items():
            found = whitenings[name]
            if found.components.shape != (len(found.variances), size) or found.mean.shape != (size,):
                raise UserError(
                    f"--pca={path}: it is for {name} of {len(found.mean)} numbers, the network gives {size}. Fit "
                    "another one with --fit_pca and the same network."
                )
        return cls(whitenings)
