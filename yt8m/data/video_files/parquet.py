"""Parquet: columns `id` (string), `labels` (list of integers, or null) and one per feature.

A feature is a list of floats, or a list of frames, each a list of numbers or a binary of bytes. Numbers of type uint8
are bytes.
"""

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import numpy as np

from yt8m.data.stored_videos import StoredVideo
from yt8m.data.video_files.base import (
    ID_COLUMN,
    LABELS_COLUMN,
    Row,
    VideoFileReader,
    VideoFileWriter,
    check_columns,
    check_widths,
    class_indices,
)
from yt8m.errors import UserError
from yt8m.packages import pyarrow
from yt8m.parquet import ParquetWriter, read_batches

_ROWS_AT_ONCE = 64
_BYTES_OF_A_ROW_GROUP = 16 << 20  # of features, in memory


class ParquetReader(VideoFileReader):
    """Reads `.parquet`, a row group at a time."""

    def read(self, path: str) -> Iterator[Row]:
        """Yields the videos of a file.

        Raises:
            UserError: if the file or a row cannot be understood; the message names both.
        """
        number = 0
        for batch in read_batches(path, _ROWS_AT_ONCE, [ID_COLUMN, LABELS_COLUMN, *self.features]):
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            check_columns(path, self.features, columns)
            for i in range(batch.num_rows):
                number += 1
                where = f"{path}, row {number}"
                name = columns[ID_COLUMN][i].as_py()
                if not isinstance(name, str):
                    raise UserError(f"{where}: the id is {name!r:.60}; expected a string.")
                found = columns[LABELS_COLUMN][i].as_py() if LABELS_COLUMN in columns else None
                if found is not None and not isinstance(found, list):
                    raise UserError(f"{where}: the labels are {found!r:.60}; expected a list of class indices.")
                labels = None if found is None else class_indices(where, found)
                features = {feature: self._cell(where, feature, columns[feature][i]) for feature in self.features}
                yield where, StoredVideo(name, labels, features)

    def _cell(self, where: str, name: str, cell: Any) -> np.ndarray:
        """The numbers of a cell, which keep their type."""
        arrow, types = pyarrow(), pyarrow().types
        expected = "lists of numbers or bytes, one per frame" if self.has_frames else "a list of numbers"
        values = getattr(cell, "values", None)
        if values is None:
            raise UserError(f"{where}: '{name}' is {cell.type}; expected {expected}.")
        if not self.has_frames:
            return _numbers(where, name, values, expected)
        if any(
            is_kind(values.type) for is_kind in (types.is_binary, types.is_large_binary, types.is_fixed_size_binary)
        ):
            frames = values.to_pylist()
            return self._frames(where, name, list(map(len, frames)), np.frombuffer(b"".join(frames), np.uint8))
        lists = types.is_list, types.is_large_list, types.is_fixed_size_list
        if not any(is_kind(values.type) for is_kind in lists):
            raise UserError(f"{where}: '{name}' is a list of {values.type}; expected {expected}.")
        widths = arrow.compute.list_value_length(values).fill_null(0).to_pylist()
        return self._frames(where, name, widths, _numbers(where, name, values.flatten(), expected))

    def _frames(self, where: str, name: str, widths: list[int], numbers: np.ndarray) -> np.ndarray:
        check_widths(where, name, widths)
        return numbers.reshape(len(widths), -1 if numbers.size else 0)


def _numbers(where: str, name: str, values: Any, expected: str) -> np.ndarray:
    numbers = values.to_numpy(zero_copy_only=False)
    if not np.issubdtype(numbers.dtype, np.number):
        raise UserError(f"{where}: '{name}' holds {values.type}; expected {expected}.")
    return numbers


class ParquetVideoWriter(VideoFileWriter):
    """Writes `.parquet`: frames as lists of D uint8, or of D float32."""

    def __enter__(self) -> Self:
        self._file = ParquetWriter(self.path)
        self._file.__enter__()
        self._videos: list[StoredVideo] = []
        self._num_bytes = 0
        return self

    def add(self, video: StoredVideo) -> None:
        """Keeps a video until there are enough for a row group."""
        self._videos.append(video)
        self._num_bytes += sum(array.nbytes for array in video.features.values())
        if self._num_bytes >= _BYTES_OF_A_ROW_GROUP:
            self._write()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None and self._videos:
                self._write()
        except BaseException as fault:
            self._file.__exit__(type(fault), fault, None)
            raise
        self._file.__exit__(kind, error, traceback)

    def _write(self) -> None:
        arrow, videos = pyarrow(), self._videos
        columns = {
            ID_COLUMN: arrow.array([video.id for video in videos], arrow.string()),
            LABELS_COLUMN: arrow.array([video.labels for video in videos], arrow.list_(arrow.int64())),
            **{name: _column([video.features[name] for video in videos]) for name in self.features},
        }
        self._file.write(arrow.table(columns))
        self._videos, self._num_bytes = [], 0


def _column(arrays: list[np.ndarray]) -> Any:
    """A cell per video, of its vector or of its frames."""
    arrow = pyarrow()
    values = arrow.array(np.concatenate(arrays).ravel())
    if arrays[0].ndim == 2:
        values = arrow.FixedSizeListArray.from_arrays(values, arrays[0].shape[1])
    ends = np.cumsum([0, *map(len, arrays)])
    return arrow.ListArray.from_arrays(arrow.array(ends, arrow.int32()), values)
