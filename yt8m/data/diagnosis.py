"""What is wrong with files of records: found slowly, record by record, after the fast path has failed.

Record 0 is the first of a file.
"""

import itertools
import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from yt8m.data.formats.base import Layout
from yt8m.data.record_faults import columns_of, fault_of, ratings_fault_of
from yt8m.data.records import batch_parser
from yt8m.errors import UserError
from yt8m.schema import DataSpec

_RECORDS_AT_ONCE = 64  # a padded batch of 64 videos of 300 frames takes 22 MB
_RECORDS_OF_A_LOOK = 1000  # a layout is settled by the first record that has a frame
_OPENED_AT_ONCE = 16
_LEADING_BYTES = 60  # enough of a file that is not one of records to recognise it by
_FRAMING_BYTES = 16  # a record's length and two checksums
_GZIP_MAGIC = b"\x1f\x8b\x08"
_LONGEST_RECORD = 1 << 40  # bytes; the first 8 of a file of records are a length, those of a text are a larger number
_FETCH_AGAIN = "Fetch the file again, or pass --on_bad_record=skip."


@dataclass(frozen=True)
class Damage:
    """A record, or a whole file, that cannot be read.

    Attributes:
        file: where it is.
        record: its number in the file, the first is 0; None for the whole file.
        fault: what is wrong, what was expected, what to do.
        rest_lost: whether nothing behind it in the file can be read either.
    """

    file: str
    record: int | None
    fault: str
    rest_lost: bool = False

    def __str__(self) -> str:
        place = self.file if self.record is None else f"{self.file}, record {self.record}"
        return f"{place}: {self.fault}"


@dataclass(frozen=True)
class Shard:
    """A file of records.

    Attributes:
        file: its path.
        compression: `GZIP` or an empty string, by what the file holds, not by its name.
    """

    file: str
    compression: str

    def records(self, start: int | tf.Tensor = 0) -> tf.data.Dataset:
        """Returns the serialized records from number `start` on."""
        return tf.data.TFRecordDataset(self.file, compression_type=self.compression).skip(start)


@dataclass(frozen=True)
class Record:
    """A serialized record, the file that holds it, and its number there."""

    file: str
    number: int
    serialized: bytes


def open_shards(files: Sequence[str]) -> list[Shard | Damage]:
    """Looks at the first bytes of files: which are files of records, and how are they compressed?"""
    with ThreadPoolExecutor(_OPENED_AT_ONCE) as pool:
        return list(pool.map(_open, files))


def _open(file: str) -> Shard | Damage:
    try:
        with tf.io.gfile.GFile(file, "rb") as stream:
            leading = stream.read(_LEADING_BYTES)
    except tf.errors.OpError as error:
        return Damage(file, None, f"it cannot be read: {_reason(error)}.", rest_lost=True)
    if not leading:
        return Damage(file, None, f"it is empty. {_FETCH_AGAIN}", rest_lost=True)
    if leading.startswith(_GZIP_MAGIC) and not _is_readable(Shard(file, "")):
        return Shard(file, "GZIP")
    if int.from_bytes(leading[:8], "little") > _LONGEST_RECORD:
        fault = f"it is no file of TFRecords: it starts with {_readable(leading)}. {_FETCH_AGAIN}"
        return Damage(file, None, fault, rest_lost=True)
    return Shard(file, "")


def _readable(leading: bytes) -> str:
    """The first bytes of a file as text on one line."""
    return repr(leading[:_LEADING_BYTES].decode("utf-8", "replace").split("\n")[0].strip())


def _is_readable(shard: Shard) -> bool:
    """Whether the first record can be read. An uncompressed one of 559903 bytes (0x088b1f) starts like gzip."""
    try:
        next(iter(shard.records()), None)
    except tf.errors.OpError:
        return False
    return True


def _reason(error: Exception) -> str:
    """The first line of TensorFlow's message, without the name of the operation."""
    text = str(error).strip().split("\n")[0]
    return re.sub(r"\s*(\[Op:.*\]|\{\{.*\}\})\s*", " ", text).strip().rstrip(".") or type(error).__name__


def stored_records(shard: Shard) -> Iterator[Record | Damage]:
    """Yields what is stored in a file, record by record, and damage in its place.

    Behind a record whose checksum is wrong reading goes on. Behind one whose length is wrong it cannot: there is no
    telling where the next one starts.
    """
    number, num_bytes, is_sound = 0, 0, True
    while True:
        records = iter(shard.records(number))
        try:
            for record in records:
                serialized = record.numpy()
                num_bytes += len(serialized) + _FRAMING_BYTES
                yield Record(shard.file, number, serialized)
                number += 1
        except tf.errors.OpError as error:
            is_sound = False
            damage = _damage_at(shard, number, error)
            yield damage
            if damage.rest_lost:
                return
            number += 1
        else:
            if is_sound:
                yield from _check_end(shard, number, num_bytes)
            return


def _damage_at(shard: Shard, number: int, error: tf.errors.OpError) -> Damage:
    """Says what the failure to read a record means: behind it the file may go on, be unreadable, or have ended."""
    if not isinstance(error, tf.errors.DataLossError):
        return Damage(shard.file, number, f"it cannot be read: {_reason(error)}.", rest_lost=True)
    rest_lost = True
    if "truncated" in str(error):
        fault = "the file ends in the middle of this record"
    elif _next_failure(shard, number) == _reason(error):
        fault = "its length or its checksum is damaged, so the rest of the file cannot be read either"
    else:
        fault, rest_lost = "its checksum does not fit what is stored", False
    return Damage(shard.file, number, f"{fault}{_place(error)}. {_FETCH_AGAIN}", rest_lost)


def _next_failure(shard: Shard, number: int) -> str | None:
    """Why the record behind this one cannot be read: the same reason as before if it cannot even be found."""
    try:
        next(iter(shard.records(number + 1)), None)
    except tf.errors.OpError as error:
        return _reason(error)
    return None


def _place(error: tf.errors.OpError) -> str:
    """Where in the file, uncompressed, a record starts that TensorFlow could not read."""
    offset = re.search(r"record at (\d+)", str(error))
    return f" (byte {offset[1]})" if offset else " (in the gzip stream)"


def _check_end(shard: Shard, number: int, num_bytes: int) -> Iterator[Damage]:
    """Finds a file cut inside the 12 bytes in front of a record: TensorFlow takes that for the end of the file."""
    if shard.compression or tf.io.gfile.stat(shard.file).length <= num_bytes:
        return
    fault = f"the file ends in the middle of this record (byte {num_bytes}). {_FETCH_AGAIN}"
    yield Damage(shard.file, number, fault, rest_lost=True)


def find_layout(shards: Sequence[Shard], spec: DataSpec, labels_required: bool, skip: bool) -> Layout:
    """Finds out from the first records how features are stored.

    Raises:
        UserError: if a record that is looked at is not what `spec` says; with `skip`, only if no record is.
    """
    damages: list[Damage] = []
    columns: list[tuple[str, bool | None]] = []
    items = itertools.chain.from_iterable(map(stored_records, shards))
    for item in itertools.islice(items, _RECORDS_OF_A_LOOK):
        damage = item if isinstance(item, Damage) else _damage_of(item, spec, None, labels_required)
        if damage is not None:
            damages.append(damage)
            if not skip:
                break
        elif isinstance(item, Record):
            columns = columns_of(item.serialized, spec)
            if all(as_floats is not None for _, as_floats in columns):
                break
    if damages and not (skip and columns):
        raise UserError(str(damages[0]))
    if not columns:
        raise UserError(f"{shards[0].file}: it holds no record. Pass shards that hold some.")
    return Layout(tuple(name for name, _ in columns), tuple(bool(as_floats) for _, as_floats in columns))


def _damage_of(record: Record, spec: DataSpec, layout: Layout | None, labels_required: bool) -> Damage | None:
    fault = fault_of(record.serialized, spec, layout, labels_required)
    return None if fault is None else Damage(record.file, record.number, fault)


class Examiner:
    """Reads and parses whole files, and tells sound records from damage.

    Args:
        spec: what the records should hold.
        layout: how they store it.
        labels_required: whether a record without a labels feature is damage.
    """

    def __init__(self, spec: DataSpec, layout: Layout, labels_required: bool):
        self._spec, self._layout, self._labels_required = spec, layout, labels_required
        parse = tf.function(batch_parser(spec, layout, labels_required))
        self._parse = parse.get_concrete_function(tf.TensorSpec([None], tf.string))

    def examine(self, shard: Shard) -> Iterator[int | Damage]:
        """Yields the numbers of a file's sound records in their order, and damage in its place."""
        waiting: list[Record] = []
        for item in stored_records(shard):
            if isinstance(item, Record):
                waiting.append(item)
            if isinstance(item, Damage) or len(waiting) == _RECORDS_AT_ONCE:
                yield from self._judge(waiting)
                waiting = []
            if isinstance(item, Damage):
                yield item
        yield from self._judge(waiting)

    def _judge(self, records: list[Record]) -> Iterator[int | Damage]:
        """Parses records at once and, only if that fails, one by one."""
        if self._failure(records) is None:
            yield from (record.number for record in records)
            return
        for record in records:
            failure = self._failure([record])
            yield record.number if failure is None else self._damage(record, failure)

    def _failure(self, records: list[Record]) -> str | None:
        try:
            self._parse(tf.constant([record.serialized for record in records], tf.string))
        except tf.errors.OpError as error:
            return _reason(error)
        return None

    def _damage(self, record: Record, failure: str) -> Damage:
        damage = _damage_of(record, self._spec, self._layout, self._labels_required)
        return damage or Damage(record.file, record.number, f"it cannot be parsed: {failure}.")


def explain_failure(error: Exception, files: Sequence[str], spec: DataSpec, labels_required: bool) -> UserError | None:
    """Finds out which record made a pipeline fail, by reading the files again, slowly, until it is met.

    Args:
        error: what was raised.
        files: what the pipeline reads.
        spec: what the records should hold.
        labels_required: whether a record without a labels feature is an error.

    Returns:
        A message that names the file, the record and the field, or None if all files are sound: then the failure has
        another cause.
    """
    if not isinstance(error, tf.errors.OpError):
        return None
    opened = open_shards(files)
    for damage in (shard for shard in opened if isinstance(shard, Damage)):
        return UserError(str(damage))
    shards = [shard for shard in opened if isinstance(shard, Shard)]
    try:
        layout = find_layout(shards, spec, labels_required, skip=False)
    except UserError as explanation:
        return explanation
    examiner = Examiner(spec, layout, labels_required)
    for shard in shards:
        for item in examiner.examine(shard):
            if isinstance(item, Damage):
                return UserError(str(item))
    return None


def explain_ratings_failure(shards: Sequence[Shard]) -> UserError | None:
    """Finds out in which record ratings of segments cannot be read, as `explain_failure` does for what models read."""
    for item in itertools.chain.from_iterable(map(stored_records, shards)):
        if isinstance(item, Damage):
            return UserError(str(item))
        fault = ratings_fault_of(item.serialized)
        if fault is not None:
            return UserError(str(Damage(item.file, item.number, fault)))
    return None


class SkippedRecords:
    """Counts what `--on_bad_record=skip` leaves out, each record once, however often its file is read.

    A file is read and parsed in full when it is opened for the first time in a process; what is sound is remembered.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._damages: dict[str, list[Damage]] = {}
        self._stretches: dict[str, np.ndarray] = {}
        self._reported: set[Damage] = set()

    def add(self, damage: Damage) -> None:
        """Notes a file that is left out as a whole."""
        with self._lock:
            self._damages[damage.file] = [damage]

    def sound_stretches(self, shard: Shard, examiner: Examiner) -> np.ndarray:
        """Returns `(N, 2)` int64: first number, and count, of the N stretches of sound records of a file."""
        if shard.file not in self._stretches:
            items = list(examiner.examine(shard))
            damages = [item for item in items if isinstance(item, Damage)]
            stretches = _stretches([item for item in items if not isinstance(item, Damage)])
            with self._lock:
                self._stretches[shard.file] = stretches
                if damages:
                    self._damages[shard.file] = damages
        return self._stretches[shard.file]

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
    fault = str(damage).removesuffix(_FETCH_AGAIN).rstrip()
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
