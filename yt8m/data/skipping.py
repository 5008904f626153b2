"""The book-keeping of `--on_bad_record=skip`: what was left out, and what of each file is sound."""

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from yt8m.data.diagnosis import Examiner
from yt8m.data.shards import Damage, Shard, open_shard, without_advice
from yt8m.errors import UserError
from yt8m.shard_cache import local_path


class SkippedRecords:
    """Counts what `--on_bad_record=skip` leaves out, each record once, however often its file is read.

    A file is read and parsed in full when it is opened for the first time in a process; what is sound is remembered for
    as long as the file does not change.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._damages: dict[str, list[Damage]] = {}
        self._stretches: dict[str, np.ndarray] = {}
        self._versions: dict[str, tuple[int, int]] = {}
        self._reported: set[Damage] = set()

    def add(self, damage: Damage) -> None:
        """Notes a file that is left out as a whole."""
        with self._lock:
            self._damages[damage.file] = [damage]

    def sound_stretches(self, shard: Shard, examiner: Examiner, files: Sequence[str]) -> tuple[np.ndarray, np.int64]:
        """Returns `(N, 2)` int64, first number and count of the N stretches of sound records of a file, and its bytes.

        A file that changed since it was examined is examined again; one that is gone has no stretches.

        Raises:
            UserError: if none of `files` holds a sound record any more: epochs without an end would pass over nothing.
        """
        try:
            status = Path(local_path(shard.file)).stat()
            version = status.st_size, status.st_mtime_ns
        except OSError:
            version = 0, 0
        if self._versions.get(shard.file) != version:
            opened = open_shard(shard.file)
            items = [opened] if isinstance(opened, Damage) else list(examiner.examine(shard))
            damages = [item for item in items if isinstance(item, Damage)]
            stretches = _stretches([item for item in items if isinstance(item, int)])
            with self._lock:
                self._versions[shard.file] = version
                self._stretches[shard.file] = stretches
                self._damages[shard.file] = damages
        stretches = self._stretches[shard.file]
        if not len(stretches) and all(not len(self._stretches.get(file, [None])) for file in files):
            raise UserError(
                f"None of the {len(files)} files holds a sound record any more. {without_advice(self.damages[0])}"
            )
        return stretches, np.int64(version[0])

    @property
    def damages(self) -> list[Damage]:
        """What was left out so far, by file and record."""
        with self._lock:
            return [damage for file in sorted(self._damages) for damage in self._damages[file]]

    def report(self) -> list[str]:
        """Returns a line for every damage that no report told yet, and one that counts all; nothing without news."""
        damages = self.damages
        news = [damage for damage in damages if damage not in self._reported]
        if not news:
            return []
        self._reported.update(news)
        whole_files = sum(damage.record is None for damage in damages)
        cut_short = sum(damage.rest_lost for damage in damages) - whole_files
        counts = {"record": len(damages) - whole_files, "whole file": whole_files, "rest of a file": cut_short}
        total = ", ".join(f"{count} x {what}" for what, count in counts.items() if count)
        return [*map(_skip_line, news), f"Skipped in total: {total}."]


def _skip_line(damage: Damage) -> str:
    fault = without_advice(damage)
    if damage.record is None:
        return f"{fault} The file is skipped."
    if damage.rest_lost:
        return f"{fault} Skipped with the rest of the file; reading goes on with the next file."
    return f"{fault} Skipped; reading goes on with record {damage.record + 1}."


def _stretches(numbers: list[int]) -> np.ndarray:
    """Runs of consecutive numbers, ascending, as rows of (first, how many)."""
    values = np.asarray(numbers, np.int64)
    starts = np.flatnonzero(np.diff(values, prepend=-2) != 1)
    counts = np.diff(np.append(starts, len(values)))
    return np.stack([values[starts], counts], axis=1)
