"""Parquet files, written whole or not at all, row group by row group. Their package is optional."""

import io
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import tensorflow as tf

from yt8m.errors import UserError, first_line
from yt8m.files import AtomicFile
from yt8m.packages import pyarrow


class ParquetWriter:
    """Context manager that writes tables to a temporary file, which gets its name when it is whole.

    Args:
        path: the target, any path that `tf.io.gfile` writes to.
        flag: the flag that holds the path, for error messages, if one does.

    Raises:
        UserError: if pyarrow is not installed; on entry, if the target cannot be written.
    """

    def __init__(self, path: str, flag: str = ""):
        self._pyarrow = pyarrow()
        self._file = AtomicFile(path, b"", flag)
        self._writer: Any = None

    def __enter__(self) -> Self:
        self._file.__enter__()
        return self

    def write(self, table: Any) -> None:
        """Writes a `pyarrow.Table` as a row group; the first one decides the schema.

        Raises:
            UserError: if it cannot be written, as on a full disk.
        """
        if self._writer is None:
            stream = self._pyarrow.PythonFile(self._file.stream(), mode="w")
            self._writer = self._pyarrow.parquet.ParquetWriter(stream, table.schema, compression="zstd")
        self._writer.write_table(table, row_group_size=max(table.num_rows, 1))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None and self._writer is not None:
            try:
                self._writer.close()
            except UserError as fault:
                self._file.__exit__(type(fault), fault, None)
                raise
        self._file.__exit__(kind, error, traceback)


class _Readable(io.RawIOBase):
    """A file that `tf.io.gfile` opened, as Python's own files are read."""

    def __init__(self, file: Any):
        self._source = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._source.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._source.seek(offset, whence)
        return self.tell()

    def tell(self) -> int:
        return int(self._source.tell())


def read_batches(path: str, rows: int, columns: Sequence[str] | None = None) -> Iterator[Any]:
    """Reads a Parquet file in `pyarrow.RecordBatch`es; a row group is in memory at a time.

    Args:
        path: any path that `tf.io.gfile` reads.
        rows: of a batch, at most.
        columns: those that are read; those of them that the file lacks are left out. None for all.

    Raises:
        UserError: if pyarrow is not installed or the file cannot be read.
    """
    arrow = pyarrow()
    try:
        with tf.io.gfile.GFile(path, "rb") as stream:
            file = arrow.parquet.ParquetFile(arrow.PythonFile(_Readable(stream), mode="r"))
            names = file.schema_arrow.names
            wanted = names if columns is None else [name for name in columns if name in names]
            yield from file.iter_batches(batch_size=rows, columns=wanted)
    except (arrow.ArrowException, tf.errors.OpError, OSError) as error:
        raise UserError(f"{path} cannot be read as Parquet ({first_line(error)}).") from error
