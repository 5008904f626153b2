"""CSV and JSON: numbers as text.

A CSV has the columns `id`, perhaps `labels` (classes separated by spaces), and one per feature: numbers separated by
spaces, frames by semicolons. A line of JSON is an object with the same names: `labels` is a list or null, a feature a
list of numbers, or a list of one per frame. A file `.json` is a list of such objects.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np
import tensorflow as tf

from yt8m.data.stored_videos import StoredVideo
from yt8m.data.video_files.base import (
    ID_COLUMN,
    LABELS_COLUMN,
    Row,
    VideoFileReader,
    VideoFileWriter,
    check_columns,
    class_indices,
)
from yt8m.errors import UserError, first_line
from yt8m.files import AtomicFile

_LARGEST_FIELD = 2**31 - 1  # of a CSV, in characters: 300 frames of 1152 numbers are 4 million
_BYTES = [str(byte) for byte in range(256)]


class CsvReader(VideoFileReader):
    """Reads `.csv`."""

    def read(self, path: str) -> Iterator[Row]:
        """Yields the videos of a file.

        Raises:
            UserError: if the file or a row cannot be understood; the message names both.
        """
        csv.field_size_limit(_LARGEST_FIELD)
        table = csv.DictReader(_lines(path), strict=True)
        rows = _rows(path, table)
        first = next(rows, None)
        check_columns(path, self.features, table.fieldnames or [])
        if first is not None:
            yield self._row(*first)
        for where, row in rows:
            yield self._row(where, row)

    def _row(self, where: str, row: Mapping[str | Any, str | Any]) -> Row:
        if None in row or None in row.values():
            raise UserError(f"{where}: it has more or fewer fields than the header. Is a text with commas in quotes?")
        labels = class_indices(where, row[LABELS_COLUMN].split()) if LABELS_COLUMN in row else None
        features = {}
        for name in self.features:
            text = row[name]
            numbers = [frame.split() for frame in text.split(";")] if self.has_frames and text else text.split()
            try:
                features[name] = self.array(where, name, numbers)
            except ValueError as error:
                raise UserError(f"{where}: '{name}' holds something else than numbers ({error}).") from error
        return where, StoredVideo(row[ID_COLUMN], labels, features)


class JsonLinesReader(VideoFileReader):
    """Reads `.jsonl`, a line at a time."""

    def read(self, path: str) -> Iterator[Row]:
        """Yields the videos of a file.

        Raises:
            UserError: if the file or a row cannot be understood; the message names both.
        """
        for number, line in enumerate(_lines(path), start=1):
            if line.strip():
                where = f"{path}, row {number}"
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise UserError(f"{where}: it is no JSON ({error}). Expected an object per line.") from error
                yield self._row(where, row)

    def _row(self, where: str, row: Any) -> Row:
        if not isinstance(row, dict):
            raise UserError(f"{where}: it is no object. Expected one with {ID_COLUMN} and each of --feature_names.")
        check_columns(where, self.features, row)
        if not isinstance(row[ID_COLUMN], str):
            raise UserError(f"{where}: the id is {row[ID_COLUMN]!r:.60}; expected text in quotes.")
        labels = row.get(LABELS_COLUMN)
        if labels is not None and not isinstance(labels, list):
            raise UserError(f"{where}: the labels are {labels!r:.60}; expected a list of class indices, or null.")
        features = {}
        for name in self.features:
            try:
                features[name] = self.array(where, name, row[name])
            except (ValueError, TypeError, OverflowError) as error:
                expected = "lists of numbers, one per frame" if self.has_frames else "a list of numbers"
                raise UserError(f"{where}: '{name}' holds something else than {expected} ({error}).") from error
        return where, StoredVideo(row[ID_COLUMN], None if labels is None else class_indices(where, labels), features)


class JsonReader(JsonLinesReader):
    """Reads `.json`, a list of objects; all of it is in memory."""

    def read(self, path: str) -> Iterator[Row]:
        """Yields the videos of a file.

        Raises:
            UserError: if the file or a row cannot be understood; the message names both.
        """
        try:
            rows = json.loads("".join(_lines(path)))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: it is no JSON ({error}). Expected a list of objects.") from error
        if not isinstance(rows, list):
            raise UserError(f"{path}: it is no list. Expected a list of objects; one per line is .jsonl.")
        for number, row in enumerate(rows, start=1):
            yield self._row(f"{path}, row {number}", row)


class CsvWriter(VideoFileWriter):
    """Writes `.csv`. Floats have nine digits, from which each float32 is read again."""

    def __enter__(self) -> Self:
        self._file = AtomicFile(self.path, "")
        self._file.__enter__()
        self._has_labels: bool | None = None
        return self

    def add(self, video: StoredVideo) -> None:
        """Writes a row.

        Raises:
            UserError: if it has labels and the first one had none, or the reverse: no field tells that from an empty
                list.
        """
        has_labels = video.labels is not None
        if self._has_labels is None:
            self._has_labels = has_labels
            self._file.write(_csv_line([ID_COLUMN, *[LABELS_COLUMN] * has_labels, *self.features]))
        if has_labels != self._has_labels:
            raise UserError(
                f"Video {video.id} has {'a' if has_labels else 'no'} list of labels, unlike the first video of "
                f"{self.path}, and a CSV cannot tell none from an empty one. Choose another --format."
            )
        labels = [" ".join(map(str, video.labels))] if video.labels is not None else []
        self._file.write(_csv_line([video.id, *labels, *(_text(video.features[name]) for name in self.features)]))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.__exit__(kind, error, traceback)


class JsonLinesWriter(VideoFileWriter):
    """Writes `.jsonl`."""

    def __enter__(self) -> Self:
        self._file = AtomicFile(self.path, "")
        self._file.__enter__()
        return self

    def add(self, video: StoredVideo) -> None:
        """Writes a line."""
        labels = {} if video.labels is None else {LABELS_COLUMN: list(video.labels)}
        features = {name: video.features[name].tolist() for name in self.features}
        self._file.write(json.dumps({ID_COLUMN: video.id, **labels, **features}, separators=(",", ":")) + "\n")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.__exit__(kind, error, traceback)


def _lines(path: str) -> Iterator[str]:
    try:
        with tf.io.gfile.GFile(path, "r") as file:
            for number, line in enumerate(file):
                yield line if number else line.removeprefix("\ufeff")  # with which spreadsheets begin a CSV
    except tf.errors.OpError as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}).") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8. Is it compressed, or of another kind than its name says?") from (
            error
        )


def _rows(path: str, table: Iterable[dict[str | Any, str | Any]]) -> Iterator[tuple[str, dict[str | Any, str | Any]]]:
    """Numbers the rows of a CSV."""
    number, rows = 0, iter(table)
    while True:
        number += 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(f"{path}, row {number}: it cannot be read as a CSV ({error}).") from error
        yield f"{path}, row {number}", row


def _csv_line(fields: list[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(fields)
    return line.getvalue()


def _text(array: np.ndarray) -> str:
    """The numbers of a feature as a field of a CSV."""
    return ";".join(map(_numbers, array)) if array.ndim == 2 else _numbers(array)


def _numbers(vector: np.ndarray) -> str:
    if vector.dtype == np.uint8:
        return " ".join([_BYTES[byte] for byte in vector.tobytes()])
    return " ".join(["%.9g"] * len(vector)) % tuple(vector.tolist())
