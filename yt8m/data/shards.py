"""Files of records: which are, how they are compressed, and what is stored in them, record by record."""

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import tensorflow as tf

from yt8m.errors import UserError

_OPENED_AT_ONCE = 16
_LEADING_BYTES = 60  # enough of a file that is not one of records to recognise it by
_FRAMING_BYTES = 16  # a record's length and two checksums
_GZIP_MAGIC = b"\x1f\x8b\x08"
_LONGEST_RECORD = 1 << 40  # bytes; the first 8 of a file of records are a length, those of a text are a larger number
FETCH_AGAIN = "Fetch the file again, or pass --on_bad_record=skip."


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


@dataclass(frozen=True)
class Shard:
    """A file of records.

    Attributes:
        file: its path.
        compression: `GZIP` or an empty string, by what the file holds, not by its name.
        num_bytes: its size.
        leading: its first bytes.
    """

    file: str
    compression: str
    num_bytes: int = 0
    leading: bytes = b""

    def records(self, start: int | tf.Tensor = 0) -> tf.data.Dataset:
        """Returns the serialized records from number `start` on."""
        return tf.data.TFRecordDataset(self.file, compression_type=self.compression).skip(start)


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
        return list(pool.map(_open, files))


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


def _open(file: str) -> Shard | Damage:
    try:
        with tf.io.gfile.GFile(file, "rb") as stream:
            leading, num_bytes = stream.read(_LEADING_BYTES), stream.size()
    except tf.errors.OpError as error:
        return Damage(file, None, f"it cannot be read: {reason_of(error)}.", rest_lost=True)
    if not leading:
        return Damage(file, None, f"it is empty. {FETCH_AGAIN}", rest_lost=True)
    if leading.startswith(_GZIP_MAGIC) and not _is_readable(Shard(file, "")):
        return Shard(file, "GZIP", num_bytes, leading)
    if int.from_bytes(leading[:8], "little") > _LONGEST_RECORD:
        fault = f"it is no file of TFRecords: it starts with {_readable(leading)}. {FETCH_AGAIN}"
        return Damage(file, None, fault, rest_lost=True)
    return Shard(file, "", num_bytes, leading)


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


def reason_of(error: Exception) -> str:
    """Returns the first line of TensorFlow's message, without the name of the operation."""
    text = str(error).strip().split("\n")[0]
    return re.sub(r"\s*(\[Op:.*\]|\{\{.*\}\})\s*", " ", text).strip().rstrip(".") or type(error).__name__


def stored_records(shard: Shard) -> Iterator[Record | Damage]:
    """Yields what is stored in a file, record by record, and damage in its place.

    After a record whose checksum is wrong reading goes on. After one whose length is wrong it cannot: there is no
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
    """Says what the failure to read a record means: after it the file may go on, be unreadable, or have ended."""
    if not isinstance(error, tf.errors.DataLossError):
        return Damage(shard.file, number, f"it cannot be read: {reason_of(error)}.", rest_lost=True)
    rest_lost = True
    if "truncated" in str(error):
        fault = "the file ends in the middle of this record"
    elif _next_failure(shard, number) == reason_of(error):
        fault = "its length or its checksum is damaged, so the rest of the file cannot be read either"
    else:
        fault, rest_lost = "its checksum does not fit what is stored", False
    return Damage(shard.file, number, f"{fault}{_place(error)}. {FETCH_AGAIN}", rest_lost)


def _next_failure(shard: Shard, number: int) -> str | None:
    """Why the record after this one cannot be read: the same reason as before if it cannot even be found."""
    try:
        next(iter(shard.records(number + 1)), None)
    except tf.errors.OpError as error:
        return reason_of(error)
    return None


def _place(error: tf.errors.OpError) -> str:
    """Where in the file, uncompressed, a record starts that TensorFlow could not read."""
    offset = re.search(r"record at (\d+)", str(error))
    return f" (byte {offset[1]})" if offset else " (in the gzip stream)"


def _check_end(shard: Shard, number: int, num_bytes: int) -> Iterator[Damage]:
    """Finds a file cut inside the 12 bytes before a record: TensorFlow takes that for the end of the file."""
    if shard.compression or tf.io.gfile.stat(shard.file).length <= num_bytes:
        return
    fault = f"the file ends in the middle of this record (byte {num_bytes}). {FETCH_AGAIN}"
    yield Damage(shard.file, number, fault, rest_lost=True)
