"""What all kinds of files have in common: how they are read and written, and what may be wrong with a row."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np

from yt8m.data.stored_videos import StoredVideo
from yt8m.errors import UserError
from yt8m.schema import DataSpec

ID_COLUMN, LABELS_COLUMN = "id", "labels"
_LARGEST_CLASS = 2**31


# A video and where it is, for messages: `x.csv, row 3`. The first row is row 1; the header of a CSV is none.
Row = tuple[str, StoredVideo]


class VideoFileReader(ABC):
    """Reads the videos of files of one kind.

    Args:
        spec: what records of the videos will hold: a vector per feature, or in the format `frame` one per frame.
        are_bytes: whether frames that are written as text are bytes, not features.
    """

    def __init__(self, spec: DataSpec, are_bytes: bool):
        self.spec, self.features, self.has_frames = spec, spec.feature_names, spec.record_format == "frame"
        self.dtype = np.uint8 if self.has_frames and are_bytes else np.float32  # of numbers that are written as text

    @abstractmethod
    def read(self, path: str) -> Iterator[Row]:
        """Yields the videos of a file, in order.

        Raises:
            UserError: if the file or a row cannot be understood; the message names both.
        """

    def array(self, where: str, name: str, numbers: Any) -> np.ndarray:
        """Returns the numbers of a feature as an array, `(D,)` or `(T, D)`, uint8 or float32.

        Args:
            where: the row, for messages.
            name: of the feature.
            numbers: a list of them, or one per frame.

        Raises:
            UserError: if frames have different widths, or bytes are none.
            ValueError, TypeError, OverflowError: if they are no numbers.
        """
        frames = numbers if self.has_frames else [numbers]
        widths = list(map(len, frames))
        check_widths(where, name, widths)
        with np.errstate(over="ignore"):  # what becomes infinite is refused as such
            exact = np.array(frames, np.float64)
            if widths and exact.ndim != 2:
                raise ValueError("lists in lists")
            exact = exact.reshape(len(widths), -1 if exact.size else 0)
            array = exact.astype(np.float32)
        if self.dtype == np.uint8:
            array = exact.astype(np.uint8)
            if not np.array_equal(array, exact):
                wrong = exact[array != exact][0]
                raise UserError(f"{where}: '{name}' holds {wrong:g}, expected whole numbers from 0 to 255: bytes.")
        return array if self.has_frames else array[0]


class VideoFileWriter(ABC):
    """Context manager that writes videos to one file, which gets its name when it is whole.

    Args:
        path: of the file.
        features: the names of the features.
    """

    def __init__(self, path: str, features: Sequence[str]):
        self.path, self.features = path, features

    @abstractmethod
    def __enter__(self) -> Self:
        """Opens the file."""

    @abstractmethod
    def add(self, video: StoredVideo) -> None:
        """Writes a video.

        Raises:
            UserError: if the file cannot be written, or its kind cannot hold the video.
        """

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Names the file, or leaves nothing of it."""


def check_widths(where: str, name: str, widths: Sequence[int]) -> None:
    """Checks that all frames of a feature have one width.

    Raises:
        UserError: names the first frame that has another width than frame 0.
    """
    odd = [t for t, width in enumerate(widths) if width != widths[0]]
    if odd:
        raise UserError(
            f"{where}: '{name}' holds {widths[odd[0]]} numbers at frame {odd[0]} and {widths[0]} at frame 0; expected "
            "one width."
        )


def class_indices(where: str, labels: Iterable[Any]) -> list[int]:
    """Returns the labels of a row as whole numbers.

    Raises:
        UserError: if one is none; which classes there are is not checked.
    """
    listed = list(labels)
    wrong = [label for label in listed if not _is_class(label)]
    if wrong:
        raise UserError(f"{where}: the label is '{wrong[0]}'; expected class indices from 0.")
    return [int(label) for label in listed]


def _is_class(label: Any) -> bool:
    if isinstance(label, str):
        return label.isascii() and label.isdecimal() and len(label) < 10
    return isinstance(label, int | np.integer) and not isinstance(label, bool) and 0 <= int(label) < _LARGEST_CLASS


def check_columns(where: str, features: Sequence[str], found: Iterable[str]) -> None:
    """Checks that a row or a table has an id and all features.

    Raises:
        UserError: names what is missing and what there is.
    """
    names = list(found)
    missing = [name for name in (ID_COLUMN, *features) if name not in names]
    if missing:
        raise UserError(
            f"{where}: it has no '{missing[0]}', only {', '.join(names) or 'nothing'}. Expected {ID_COLUMN}, perhaps "
            f"{LABELS_COLUMN}, and each of --feature_names."
        )
