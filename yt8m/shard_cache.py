"""Remote files of records are copied to a local folder before they are read, each as a whole.

So they are read like local ones: records at any place, in any order, and lengths that are checked before memory is
taken for them. A copy is made once for each version of its file, written under another name and renamed, and kept for
other epochs, runs and programs. The copies that were not used for longest go when the folder is full.
"""

import os
import re
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Lock

from yt8m import storage
from yt8m.errors import UserError
from yt8m.files import delete_abandoned

DEFAULT_FOLDER = "~/.cache/yt8m"
DEFAULT_MAX_GB = 100.0

_NAME = re.compile(r".+\.[0-9a-f]{8}")  # of a copy: that of its file, and a checksum of its version
_COPIED_AT_ONCE = 8
_COPIED_AHEAD = 4  # files after one that is opened


class ShardCache:
    """Local copies of remote files.

    Args:
        folder: where they are; made when it is needed. Several programs may share one.
        max_gb: how much they may take, a GB is 10^9 bytes. It should hold twice as many shards as are read side by
            side: a copy goes when it is the one that was not used for longest, and is then made again.
    """

    def __init__(self, folder: str = DEFAULT_FOLDER, max_gb: float = DEFAULT_MAX_GB):
        self._folder = Path(folder).expanduser()
        self._num_bytes = int(max_gb * 1e9)
        self._pool = ThreadPoolExecutor(_COPIED_AT_ONCE)
        self._copies: dict[str, Future[Path]] = {}
        self._following: dict[str, Sequence[str]] = {}
        self._arriving: dict[Path, int] = {}
        self._lock = Lock()
        self._room = Lock()
        self._ended = Event()

    def local_path(self, file: str) -> str:
        """Returns the path of a local copy of a file, and has those copied that come next; a local file is returned.

        Whether a copy is that of today's file is looked up once per program.

        Raises:
            UserError: if the file cannot be read, or its copy not be written.
        """
        if not storage.scheme(file):
            return file
        copy = self._start(file)
        for following in self._following.get(file, ()):
            self._start(following)
        path = copy.result()
        with suppress(OSError):
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))  # used last; not changed
        return str(path)

    def announce(self, files: Sequence[str]) -> None:
        """Says in which order files will be opened, so that some are copied before they are."""
        for number, file in enumerate(files):
            self._following[file] = files[number + 1 : number + 1 + _COPIED_AHEAD]

    def close(self) -> None:
        """Gives up the copies that are not finished."""
        self._ended.set()
        self._pool.shutdown(cancel_futures=True)

    def _start(self, file: str) -> Future[Path]:
        """The copying of a file: as it is going on, as it has ended, or, if the copy is gone, a new one."""
        with self._lock:
            copy = self._copies.get(file)
            if copy is None or (copy.done() and (copy.exception() or not copy.result().exists())):
                copy = self._copies[file] = self._pool.submit(self._copy, file)
            return copy

    def _copy(self, file: str) -> Path:
        version, num_bytes = storage.version_of(file)
        kind, _, rest = file.partition("?")[0].partition("://")
        path = self._folder / kind.lower() / f"{rest}.{zlib.crc32(f'{file} {version}'.encode()):08x}"
        if path.exists():
            return path
        if num_bytes > self._num_bytes:
            raise UserError(
                f"--cache_max_gb={self._num_bytes / 1e9:g}: {file} alone has {num_bytes / 1e9:.3g} GB. Allow more."
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--cache_dir={self._folder}: {path.parent} cannot be made ({error.strerror}). Choose another folder."
            ) from error
        delete_abandoned(str(path))
        with self._making_room(path, num_bytes):
            storage.copy(file, str(path), num_bytes, lambda: not self._ended.is_set())
        return path

    @contextmanager
    def _making_room(self, arriving: Path, num_bytes: int) -> Iterator[None]:
        """Deletes the copies that were not used for longest; whoever has opened one can read it to its end."""
        with self._room:
            self._arriving[arriving] = num_bytes
            copies = self._existing()
            total = sum(self._arriving.values()) + sum(status.st_size for status in copies.values())
            for path in sorted(copies, key=lambda path: copies[path].st_atime_ns):
                if total > self._num_bytes:
                    path.unlink(missing_ok=True)
                    total -= copies[path].st_size
        try:
            yield
        finally:
            with self._room:  # another thread may be adding up what arrives
                del self._arriving[arriving]

    def _existing(self) -> dict[Path, os.stat_result]:
        """The copies that there are; other files of the folder are not ours."""
        found = {}
        for kind in (*storage.OBSTORE_SCHEMES, *storage.TENSORFLOW_IO_SCHEMES):
            for path in (self._folder / kind).rglob("*"):
                with suppress(FileNotFoundError):  # another program may delete copies too
                    if _NAME.fullmatch(path.name) and path.is_file():
                        found[path] = path.stat()
        return found


_cache = ShardCache()


@contextmanager
def shard_cache(folder: str, max_gb: float) -> Iterator[None]:
    """Decides where the copies are for as long as this lasts; otherwise they are in the default folder."""
    global _cache
    before, _cache = _cache, ShardCache(folder, max_gb)
    try:
        yield
    finally:
        _cache.close()
        _cache = before


def local_path(file: str) -> str:
    """Returns the path under which a file of records can be read: its own, or that of a copy if it is remote.

    Raises:
        UserError: if the file cannot be read, or its copy not be written.
    """
    return _cache.local_path(file)


def announce(files: Sequence[str]) -> None:
    """Says in which order files will be opened, so that remote ones are copied before they are."""
    _cache.announce(files)
