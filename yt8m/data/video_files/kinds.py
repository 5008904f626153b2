"""The reader and the writer of a file of videos, chosen by the end of its name."""

from pathlib import PurePosixPath

from yt8m.arguments import choose
from yt8m.data.video_files.arrays import ArrayReader, ArrayWriter
from yt8m.data.video_files.base import VideoFileReader, VideoFileWriter
from yt8m.data.video_files.mediapipe import MediaPipeReader
from yt8m.data.video_files.parquet import ParquetReader, ParquetVideoWriter
from yt8m.data.video_files.text import CsvReader, CsvWriter, JsonLinesReader, JsonLinesWriter, JsonReader
from yt8m.errors import UserError

_READERS: dict[str, type[VideoFileReader]] = {
    ".npy": ArrayReader,
    ".npz": ArrayReader,
    ".csv": CsvReader,
    ".json": JsonReader,
    ".jsonl": JsonLinesReader,
    ".parquet": ParquetReader,
    ".pb": MediaPipeReader,
}
_WRITERS: dict[str, type[VideoFileWriter]] = {
    "npz": ArrayWriter,
    "csv": CsvWriter,
    "jsonl": JsonLinesWriter,
    "parquet": ParquetVideoWriter,
}


def reader_of(path: str) -> type[VideoFileReader]:
    """Returns what reads a file, by the end of its name.

    Raises:
        UserError: if there is no such kind.
    """
    suffix = PurePosixPath(path).suffix.lower()
    if suffix not in _READERS:
        raise UserError(f"{path}: it is of no known kind. Known by the ends of their names: {', '.join(_READERS)}.")
    return _READERS[suffix]


def writer_of(file_format: str) -> type[VideoFileWriter]:
    """Returns what writes files of a kind.

    Raises:
        ArgumentError: if there is no such kind.
    """
    return choose(_WRITERS, format=file_format)
