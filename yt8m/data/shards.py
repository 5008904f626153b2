"""Files of records: which are, how they are compressed, and what is stored in them, record by record."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError

from yt8m.errors import UserError
from yt8m.shard_cache import local_path
from yt8m.storage import read_range, scheme, version_of

_OPENED_AT_ONCE = 16
_LEADING_BYTES = 60  # enough of a file that is not one of records to recognise it by
_TRAILING_BYTES = 16  # hold the checksum of the last record, or of all that gzip compressed
# A record is its length (8 bytes), the checksum of that (4), what is stored, and the checksum of that (4).
_LENGTH_BYTES, _HEADER_BYTES, FRAMING_BYTES = 8, 12, 16
_CRC32C = 0x82F63B78  # Castagnoli's polynomial, reflected
_CHECKSUM_MASK = 0xA282EAD8  # added to a checksum that was rotated by 15 bits. Source: tensorflow, lib/hash/crc32c.h
_GZIP_MAGIC = b"\x1f\x8b\x08"
_LONGEST_RECORD = 1 << 40  # bytes; the first 8 of a file of records are a length, those of a text are a larger number
_LARGEST_BARE_RECORD = 1 << 26  # bytes; one video of MediaPipe has 1.5 MB
FETCH_AGAIN = "Fetch the file again, or pass --on_bad_record=skip."

# What reading records may raise. Where TensorFlow's message quotes a record that is not UTF-8, Python cannot decode it.
READING_ERRORS = (tf.errors.OpError, UnicodeDecodeError)

_BARE_RECORD = (
    "it is a single serialized record, as MediaPipe writes features.pb, and no file of TFRecords. Wrap it: "
    "with tf.io.TFRecordWriter('features.tfrecord') as writer: writer.write(open('features.pb', 'rb').read())"
)
_CUT = "the file ends in the middle of this record"
_LENGTH_DAMAGED = "its length or its checksum is damaged, so the rest of the file cannot be read either"
_PLACES_IN_A_GRAPH = ("Graph execution error", "Detected at node", "<stack traces unavailable>", "File ", "[[")


@dataclass(frozen=True)
class Damage:
    """A record, or a whole file, that cannot be read.

    Attributes:
        file: the path of the damaged file.
        record: its number in the file, the first is 0; None for the whole file.
        fault: what is wrong, what was expected, what to do.
        rest_lost: whether nothing after it in the file can be read either.
    """

    file: str
    record: int | None
    fault: str
    rest_lost: bool = False

    def __str__(self) -> str:
        place = self.file if self.record is None else f"{self.file}, record {self.record}"
        return f"{place}: {self.fault}"


def without_advice(damage: Damage) -> str:
    """Returns what is wrong, where damage is left out already: without the advice to do so."""
    return str(damage).removesuffix(FETCH_AGAIN).rstrip()


@dataclass(frozen=True)
class Shard:
    """A file of records.

    Attributes:
        file: its path.
        compression: `GZIP` or an empty string, by what the file holds, not by its name.
        num_bytes: its size.
        ends: its first bytes and its last.
    """

    file: str
    compression: str
    num_bytes: int = 0
    ends: bytes = b""

    def records(self, start: int, end: int | None = None) -> tf.data.Dataset:
        """Returns the serialized records from number `start` on, those before `end` if one is given."""
        records = tf.data.TFRecordDataset(local_path(self.file), compression_type=self.compression).skip(start)
        return records if end is None else records.take(end - start)


@dataclass(frozen=True)
class Record:
    """A serialized record and its place.

    Attributes:
        file: the path of the file that holds the record.
        number: the index of the record in the file, from 0.
        serialized: the bytes of the protocol buffer.
    """

    file: str
    number: int
    serialized: bytes


def open_shards(files: Sequence[str]) -> list[Shard | Damage]:
    """Looks at the first bytes of files: which are files of records, and how are they compressed?"""
    with ThreadPoolExecutor(_OPENED_AT_ONCE) as pool:
        return list(pool.map(open_shard, files))


def require_shards(files: Sequence[str]) -> list[Shard]:
    """Opens files all of which have to be shards.

    Raises:
        UserError: names the first that is none, and says why.
    """
    opened = open_shards(files)
    damages = [damage for damage in opened if isinstance(damage, Damage)]
    if damages:
        raise UserError(str(damages[0]))
    return [shard for shard in opened if isinstance(shard, Shard)]


def open_shard(file: str) -> Shard | Damage:
    """Looks at the first bytes of a file: is it one of records, and how is it compressed?"""
    try:
        num_bytes, leading, trailing = _ends(file)
    except UserError as error:
        return Damage(file, None, str(error).removeprefix(file).strip(), rest_lost=True)
    except tf.errors.OpError as error:
        return Damage(file, None, f"it cannot be read: {reason_of(error)}.", rest_lost=True)
    if not leading:
        return Damage(file, None, f"it is empty. {FETCH_AGAIN}", rest_lost=True)
    if leading.startswith(_GZIP_MAGIC) and not _is_readable(Shard(file, "")):
        return Shard(file, "GZIP", num_bytes, leading + trailing)
    if int.from_bytes(leading[:8], "little") > _LONGEST_RECORD:
        if _is_bare_record(file, num_bytes):
            return Damage(file, None, _BARE_RECORD, rest_lost=True)
        fault = f"it is no file of TFRecords: it starts with {_readable(leading)}. {FETCH_AGAIN}"
        return Damage(file, None, fault, rest_lost=True)
    return Shard(file, "", num_bytes, leading + trailing)


def _ends(file: str) -> tuple[int, bytes, bytes]:
    """The size of a file, its first bytes and its last. A remote one is copied only if its server has whole files."""
    if scheme(file):
        num_bytes = version_of(file)[1]
        leading = read_range(file, 0, min(_LEADING_BYTES, num_bytes)) if num_bytes else b""
        if leading is not None:
            return num_bytes, leading, read_range(file, max(num_bytes - _TRAILING_BYTES, 0), num_bytes) or b""
    with tf.io.gfile.GFile(local_path(file), "rb") as stream:
        leading, num_bytes = stream.read(_LEADING_BYTES), stream.size()
        stream.seek(max(num_bytes - _TRAILING_BYTES, 0))
        return num_bytes, leading, stream.read(_TRAILING_BYTES)


def _readable(leading: bytes) -> str:
    """The first bytes of a file as text on one line."""
    return repr(leading[:_LEADING_BYTES].decode("utf-8", "replace").split("\n")[0].strip())


def _is_bare_record(file: str, num_bytes: int) -> bool:
    """Whether a file is a single serialized record without the framing of TFRecords, as MediaPipe writes one."""
    if num_bytes > _LARGEST_BARE_RECORD:
        return False
    with tf.io.gfile.GFile(local_path(file), "rb") as stream:
        try:
            record = tf.train.SequenceExample.FromString(stream.read())
        except DecodeError:
            return False
    return bool(record.context.feature or record.feature_lists.feature_list)


def _is_readable(shard: Shard) -> bool:
    """Whether the first record can be read. An uncompressed one of 559903 bytes (0x088b1f) starts like gzip."""
    return isinstance(next(stored_records(shard), None), Record)


def reason_of(error: Exception) -> str:
    """Returns the line of TensorFlow's message that says why, without where in a graph that was."""
    if not isinstance(error, tf.errors.OpError):
        return "TensorFlow cannot parse it"
    lines = [re.sub(r"\s*(\[Op:.*\]|\{\{.*?\}\})\s*", " ", line).strip() for line in str(error).split("\n")]
    reasons = [line for line in lines if line and not line.startswith(_PLACES_IN_A_GRAPH)]
    return reasons[0].rstrip(".") if reasons else type(error).__name__


@contextmanager
def _reader(file: str) -> Iterator[Callable[[int, int], bytes]]:
    """Opens a file for a function that returns so many bytes from an offset on, fewer at the end of the file."""
    # Tens of thousands of headers per second: a system call each, and nothing else.
    descriptor = os.open(local_path(file), os.O_RDONLY)
    try:
        yield lambda count, offset: os.pread(descriptor, count, offset)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Extent:
    """What the lengths of the records in a file say, as `measure_records` follows them.

    Attributes:
        count: how many records fit into the file.
        offset: the byte at which the record begins that was asked for; if there is none, at which the last one ends.
        num_after: how many records begin there or later.
        num_bytes: how many bytes the file has.
        is_whole: whether the last record ends where the file does.
    """

    count: int
    offset: int
    num_after: int
    num_bytes: int
    is_whole: bool


def measure_records(file: str, number: int = 0) -> Extent:
    """Follows the lengths of the records in an uncompressed file; neither what is stored nor a checksum is looked at.

    TensorFlow takes the memory for a record before it reads it, and crashes if a damaged length asks for too much. So
    it gets to read only records that were measured here.

    Args:
        file: its path.
        number: a record whose offset is wanted.

    Raises:
        OSError: if it cannot be read.
        UserError: if it is remote and cannot be copied.
    """
    num_bytes = Path(local_path(file)).stat().st_size
    count = end = offset = 0
    with _reader(file) as read:
        while end + FRAMING_BYTES <= num_bytes:
            next_end = end + int.from_bytes(read(_LENGTH_BYTES, end), "little") + FRAMING_BYTES
            if next_end > num_bytes:
                break
            end = next_end
            count += 1
            if count == number:
                offset = end
    if count < number:
        offset = end
    return Extent(count, offset, max(count - number, 0), num_bytes, is_whole=end == num_bytes)


def stored_records(shard: Shard) -> Iterator[Record | Damage]:
    """Yields what is stored in a file, record by record, and damage in its place.

    After a record whose checksum is wrong reading goes on. After one whose length is wrong it cannot: there is no
    telling where the next one starts.
    """
    try:
        yield from _stored_compressed(shard) if shard.compression else _stored(shard)
    except (tf.errors.OpError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else reason_of(error)
        yield Damage(shard.file, None, f"it cannot be read: {reason}.", rest_lost=True)


def record_sizes(file: str) -> Iterator[int]:
    """Yields how many bytes the records of an uncompressed file take, framing included. Damage ends it."""
    for _, length, fault in _headers(file):
        if fault is None:
            yield length + FRAMING_BYTES


def _headers(file: str) -> Iterator[tuple[int, int, str | None]]:
    """Yields offset and length of each record of an uncompressed file; a fault, or None, with each. A fault is last."""
    num_bytes = Path(local_path(file)).stat().st_size
    offset = 0
    with _reader(file) as read:
        while offset < num_bytes:
            header = read(_HEADER_BYTES, offset)
            length = int.from_bytes(header[:_LENGTH_BYTES], "little")
            fault = None
            if len(header) < _HEADER_BYTES:
                fault = _CUT
            elif int.from_bytes(header[_LENGTH_BYTES:], "little") != _masked_crc32c(header[:_LENGTH_BYTES]):
                fault = _LENGTH_DAMAGED
            elif offset + length + FRAMING_BYTES > num_bytes:
                fault = _CUT
            yield offset, length, fault
            if fault is not None:
                return
            offset += length + FRAMING_BYTES


def _masked_crc32c(content: bytes) -> int:
    """The checksum of TFRecords, bit by bit: for a few bytes."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (_CRC32C if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + _CHECKSUM_MASK) & 0xFFFFFFFF


def _stored(shard: Shard) -> Iterator[Record | Damage]:
    """What is stored in an uncompressed file: TensorFlow reads records that are known to fit into it."""
    records: Iterator[tf.Tensor] | None = None
    end = measure_records(shard.file).count  # tf.data reads ahead, up to there
    for number, (offset, _, fault) in enumerate(_headers(shard.file)):
        if fault is not None:
            yield Damage(shard.file, number, f"{fault} (byte {offset}). {FETCH_AGAIN}", rest_lost=True)
            return
        try:
            records = records or iter(shard.records(number, end))
            yield Record(shard.file, number, next(records).numpy())
        except (tf.errors.DataLossError, StopIteration):
            fault = f"its checksum does not fit what is stored (byte {offset + _HEADER_BYTES}). {FETCH_AGAIN}"
            yield Damage(shard.file, number, fault)
            records = None


def _stored_compressed(shard: Shard) -> Iterator[Record | Damage]:
    """What is stored in a gzip stream. TensorFlow unpacks a record piece by piece, and so finds its end in time."""
    number = 0
    while True:
        try:
            for record in shard.records(number):
                yield Record(shard.file, number, record.numpy())
                number += 1
        except tf.errors.OpError as error:
            damage = _damage_at(shard, number, error)
            yield damage
            if damage.rest_lost:
                return
            number += 1
        else:
            return


def _damage_at(shard: Shard, number: int, error: tf.errors.OpError) -> Damage:
    """Says what the failure to read a record means: after it the stream may go on, or have ended."""
    if not isinstance(error, tf.errors.DataLossError):
        return Damage(shard.file, number, f"it cannot be read: {reason_of(error)}.", rest_lost=True)
    rest_lost = True
    if "truncated" in str(error):
        fault = _CUT
    elif _next_failure(shard, number) == reason_of(error):
        fault = _LENGTH_DAMAGED
    else:
        fault, rest_lost = "its checksum does not fit what is stored", False
    return Damage(shard.file, number, f"{fault} (in the gzip stream). {FETCH_AGAIN}", rest_lost)


def _next_failure(shard: Shard, number: int) -> str | None:
    """Why the record after this one cannot be read: the same reason as before if it cannot even be found."""
    try:
        next(iter(shard.records(number + 1)), None)
    except tf.errors.OpError as error:
        return reason_of(error)
    return None
