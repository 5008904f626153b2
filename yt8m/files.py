"""Files that programs write: written whole or not at all, and never over a file that is read."""

import contextlib
import fcntl
import io
import json
import os
import re
import shutil
import stat
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import tensorflow as tf

from yt8m.errors import UserError, first_line
from yt8m.processes import host, start_of

# What a kill may leave of a file that is written whole: the writer's machine, its process and when that started.
PARTIAL = r"\.[0-9a-f]{8}(-\d+-\d*)?\.partial"


class AtomicFile:
    """Writes a file under another name in the target's folder and renames it when it is whole.

        with AtomicFile(path, header, "output_file") as file:
            file.write(rows)

    The file is opened on entry, so a target that cannot be written is found before any work is done. If the block ends
    with an exception, nothing is left and an existing target is as it was. What killed processes of this machine left
    of the target goes. A link is followed. A device or a pipe cannot be renamed: it is written to as it is, as by a
    shell's `>`.

    Args:
        path: the target, any path that `tf.io.gfile` writes to.
        header: what the file begins with.
        flag: the flag that holds the path, for error messages, if one does.

    Raises:
        UserError: if the target cannot be written.
    """

    def __init__(self, path: str, header: str | bytes, flag: str = ""):
        self._where = f"--{flag}={path}" if flag else path
        self._header = header
        self._is_renamed = _is_file(path)
        self._path = os.path.realpath(path) if self._is_renamed and Path(path).is_symlink() else path
        # In the target's own folder: only there is a rename atomic.
        self._written_path = partial_path(self._path) if self._is_renamed else path

    def __enter__(self) -> Self:
        if tf.io.gfile.isdir(self._path):
            raise UserError(f"{self._where} is a folder; expected the name of a file to write. Add a file name to it.")
        if self._is_renamed:
            delete_abandoned(self._path)
        with self._naming_the_target():
            self._file = self._open()
        with self._discarding(), self._naming_the_target():
            self._file.write(self._header)
            self._file.flush()
        return self

    def _open(self) -> Any:
        if self._is_renamed:
            return tf.io.gfile.GFile(self._written_path, "w")
        mode = "wb" if isinstance(self._header, bytes) else "w"
        return open(self._path, mode)  # noqa: PTH123  the object is a context itself

    def write(self, content: str | bytes) -> None:
        """Appends text or bytes.

        Raises:
            UserError: if it cannot be written, as on a full disk.
        """
        with self._naming_the_target():
            self._file.write(content)

    def stream(self) -> io.RawIOBase:
        """Returns what a library may write bytes to, in place of a path; closing it leaves the file open."""
        return _Stream(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._discard()
            return
        with self._discarding(), self._naming_the_target():
            self._file.close()
            if self._is_renamed:
                tf.io.gfile.rename(self._written_path, self._path, overwrite=True)

    @contextlib.contextmanager
    def _naming_the_target(self) -> Iterator[None]:
        try:
            yield
        except (tf.errors.OpError, OSError) as error:
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
        # A file that could not be written may fail to close too; it is about to be removed.
        with contextlib.suppress(tf.errors.OpError, OSError):
            self._file.close()
        if self._is_renamed:
            with contextlib.suppress(tf.errors.OpError):
                tf.io.gfile.remove(self._written_path)


class _Stream(io.RawIOBase):
    """The bytes of an `AtomicFile`, as Python's own files take them; there is no way back in it."""

    def __init__(self, file: AtomicFile):
        self._target, self._num_bytes = file, 0

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self._target.write(bytes(content))
        self._num_bytes += len(content)
        return len(content)

    def tell(self) -> int:
        return self._num_bytes


def partial_path(path: str) -> str:
    """Returns the name under which this process writes a file or folder that is renamed when it is whole.

    The name tells who writes it, so that it can be told later whether somebody still does.
    """
    process = os.getpid()
    return f"{path}.{_host_number()}-{process}-{start_of(process)}.partial"


def is_abandoned(partial: str) -> bool | None:
    """Tells whether nobody writes what has a name of `partial_path`; None if another machine's process may."""
    match = re.search(r"\.([0-9a-f]{8})-(\d+)-(\d*)\.partial", partial)
    if match is None or match[1] != _host_number():
        return None
    return start_of(int(match[2])) != match[3]


def delete_abandoned(path: str) -> None:
    """Deletes what killed processes of this machine left of a local file or folder that is renamed when it is whole."""
    folder, name = os.path.split(path)
    pattern = re.compile(f"{re.escape(name)}({PARTIAL})+")
    with contextlib.suppress(OSError):  # a folder that cannot be listed is not tidied
        for left in Path(folder or ".").iterdir():
            if pattern.fullmatch(left.name) and is_abandoned(left.name):
                if left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    left.unlink(missing_ok=True)


def _host_number() -> str:
    return f"{zlib.crc32(host().encode()):08x}"


def _is_file(path: str) -> bool:
    """Whether a path is, or will be, one of a file with content of its own: not a device, a pipe or a socket."""
    try:
        mode = Path(path).stat().st_mode  # follows links
    except OSError:
        return True  # nothing is there yet, or it is not a local path
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def write_text(path: str, text: str | bytes) -> None:
    """Writes a file, so that no reader meets half of it.

    Raises:
        UserError: if it cannot be written.
    """
    with AtomicFile(path, text):
        pass


@contextlib.contextmanager
def one_at_a_time(folder: str) -> Iterator[None]:
    """Lets one process of this machine at a time into the block, of all that name the same local folder.

    The system ends the lock with the process that holds it, and nothing is left of it. In remote storage, and where a
    file system has no locks, every process is let in.
    """
    if "://" in folder:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def open_text(path: str) -> Any:
    """Opens a text that is read line by line, as a context.

    Raises:
        OpError: of TensorFlow, if it is not there. Otherwise a missing object of s3:// would be a text without lines.
    """
    tf.io.gfile.stat(path)
    return tf.io.gfile.GFile(path, "r")


def read_bytes(path: str) -> bytes:
    """Reads a small file of ours.

    Raises:
        ValueError: if it cannot be read, as where a folder has its place.
    """
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            return bytes(file.read())
    except tf.errors.OpError as error:
        raise ValueError(first_line(error)) from error


def parse_json(text: str | bytes) -> Any:
    """Reads JSON.

    Raises:
        ValueError: if it is no JSON in UTF-8, or nested so deeply that nobody can have meant it.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("its brackets are nested too deeply") from error


def check_outputs(outputs: Mapping[str, str], inputs: Iterable[str]) -> None:
    """Checks that a program is not about to write over what it reads, or twice to one place.

    Args:
        outputs: by flag, the paths that will be written; empty ones are left out.
        inputs: paths of files that are read.

    Raises:
        UserError: names the flag and the file.
    """
    given = {flag: _identity(path) for flag, path in outputs.items() if path and _is_file(path)}
    read = {_identity(path): path for path in inputs if path}
    for flag, identity in given.items():
        if identity in read:
            raise UserError(
                f"--{flag}={outputs[flag]} is {read[identity]}, which is read: it would be overwritten. "
                "Choose another name."
            )
        twins = [other for other in given if other != flag and given[other] == identity]
        if twins:
            raise UserError(f"--{flag}={outputs[flag]} and --{twins[0]}={outputs[twins[0]]} are one file: choose two.")


def _identity(path: str) -> str | tuple[int, int]:
    """What two names of one file have in common: device and number if it is there, else the path without links."""
    if "://" in path:
        return path
    try:
        status = Path(path).stat()
    except OSError:
        return os.path.realpath(path)
    return status.st_dev, status.st_ino
