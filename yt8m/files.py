"""A file that is there whole or not at all."""

import contextlib
import uuid
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import tensorflow as tf

from yt8m.errors import UserError


class WholeFile:
    """Writes a file beside its target and renames it when it is whole.

        with WholeFile(path, header, "output_file") as file:
            file.write(rows)

    The file is opened on entry, so a target that cannot be written is found before any work is done. If the block ends
    with an exception, nothing is left behind and an existing target is as it was.

    Args:
        path: the target, any path that `tf.io.gfile` writes to.
        header: what the file begins with.
        flag: the flag that holds the path, for error messages, if one does.

    Raises:
        UserError: if the target cannot be written.
    """

    def __init__(self, path: str, header: str | bytes, flag: str = ""):
        self._path = path
        self._where = f"--{flag}={path}" if flag else path
        self._header = header
        # In the target's own folder: only there is a rename atomic.
        self._partial_path = f"{path}.{uuid.uuid4().hex[:8]}.partial"

    def __enter__(self) -> Self:
        if tf.io.gfile.isdir(self._path):
            raise UserError(f"{self._where} is a folder; expected the name of a file to write. Add a file name to it.")
        self._file = tf.io.gfile.GFile(self._partial_path, "w")
        with self._discarding(), self._naming_the_target():
            self._file.write(self._header)
            self._file.flush()
        return self

    def write(self, content: str | bytes) -> None:
        """Appends text or bytes.

        Raises:
            UserError: if it cannot be written, as on a full disk.
        """
        with self._naming_the_target():
            self._file.write(content)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._discard()
            return
        with self._discarding(), self._naming_the_target():
            self._file.close()
            tf.io.gfile.rename(self._partial_path, self._path, overwrite=True)

    @contextlib.contextmanager
    def _naming_the_target(self) -> Iterator[None]:
        try:
            yield
        except tf.errors.OpError as error:
            raise UserError(
                f"{self._where} cannot be written ({first_line(error)}). Expected a file name in an existing folder "
                "with permission and room to write. Choose another one."
            ) from error

    @contextlib.contextmanager
    def _discarding(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._discard()
            raise

    def _discard(self) -> None:
        # What could not be written cannot be closed in peace either; it is about to be removed.
        with contextlib.suppress(tf.errors.OpError):
            self._file.close()
        with contextlib.suppress(tf.errors.OpError):
            tf.io.gfile.remove(self._partial_path)


def write_text(path: str, text: str) -> None:
    """Writes a file, so that no reader meets half of it.

    Raises:
        UserError: if it cannot be written.
    """
    with WholeFile(path, text):
        pass


def first_line(error: tf.errors.OpError) -> str:
    """The first line of TensorFlow's message."""
    return str(error.message).partition("\n")[0]
