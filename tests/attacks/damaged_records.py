"""Files of records with every kind of damage, drawn by a seed, and the judge of what readers make of them.

A round writes one file, reads it as a program does, with and without `--on_bad_record=skip`, and compares what comes
out with a reading by protobuf, zlib and plain Python. It raises an AssertionError if a value differs, a record is lost
without a word, or a message does not say file and reason on one line.
"""

import functools
import gzip
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from yt8m.data.diagnosis import Examiner
from yt8m.data.record_writing import frame_record, video_record
from yt8m.data.shards import READING_ERRORS
from yt8m.errors import UserError
from yt8m.schema import DataSpec

from oracles.records import read_one
from readers import ReadOptions, evaluation_batches, explain_failure

NUM_CLASSES = 10
FRAMES = DataSpec(("rgb", "audio"), (8, 4), NUM_CLASSES, record_format="frame")
VIDEOS = DataSpec(("mean_rgb", "mean_audio"), (8, 4), NUM_CLASSES)
RECORDS_PER_FILE = 16
_LENGTHS = [0, 1, 2**20, 2**31 - 1, 2**32, 2**36, 2**39, 2**62, 2**63, 2**64 - 17, 2**64 - 5, 2**64 - 1]
# Records


def frame_bytes(rng: np.random.Generator, name: str) -> bytes:
    length = int(rng.integers(1, 4))
    frames = {key: rng.integers(1, 256, (length, size), np.uint8) for key, size in (("rgb", 8), ("audio", 4))}
    return frame_record(name, _labels(rng), frames)


def frame_floats(rng: np.random.Generator, name: str) -> bytes:
    length = int(rng.integers(1, 4))
    frames = {key: rng.normal(size=(length, size)).astype(np.float32) for key, size in (("rgb", 8), ("audio", 4))}
    return frame_record(name, _labels(rng), frames)


def vectors(rng: np.random.Generator, name: str) -> bytes:
    return video_record(name, _labels(rng), {"mean_rgb": rng.normal(size=8), "mean_audio": rng.normal(size=4)})


def _labels(rng: np.random.Generator) -> list[int]:
    return rng.choice(NUM_CLASSES, int(rng.integers(1, 4)), replace=False).tolist()


LEVELS: dict[str, tuple[DataSpec, Callable[[np.random.Generator, str], bytes]]] = {
    "video": (VIDEOS, vectors),
    "frame": (FRAMES, frame_bytes),
    "floats": (FRAMES, frame_floats),
}


# Damage inside a record; its checksum is right


def _flip(rng: np.random.Generator, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        changed[rng.integers(len(changed))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _cut(rng: np.random.Generator, content: bytes) -> bytes:
    return content[: rng.integers(len(content))]


def _set_byte(rng: np.random.Generator, content: bytes) -> bytes:
    """Most bytes of a record that are not floats or frames are lengths and tags."""
    at = int(rng.integers(len(content)))
    return content[:at] + bytes([int(rng.integers(256))]) + content[at + 1 :]


def _insert(rng: np.random.Generator, content: bytes) -> bytes:
    at = int(rng.integers(len(content)))
    return content[:at] + rng.bytes(int(rng.integers(1, 5))) + content[at:]


def _remove(rng: np.random.Generator, content: bytes) -> bytes:
    at = int(rng.integers(len(content)))
    return content[:at] + content[at + int(rng.integers(1, 5)) :]


def _huge_varint(rng: np.random.Generator, content: bytes) -> bytes:
    at = int(rng.integers(len(content)))
    return content[:at] + b"\xff" * int(rng.integers(4, 12)) + b"\x01" + content[at + 1 :]


def _twice(rng: np.random.Generator, content: bytes) -> bytes:
    """Fields that were written twice: merged by protobuf, the last of a map's entries counts."""
    other = content if rng.integers(2) else _flip(rng, content)
    return (content + other, other + content, content + other[: rng.integers(len(other))])[rng.integers(3)]


def _unknown_field(rng: np.random.Generator, content: bytes) -> bytes:
    fields = [b"\x7a\x03abc", b"\x78\x05", b"\x7d\x00\x00\x00\x00", b"\x79" + bytes(8), b"\x00", b"\x0b", b"\x0c"]
    return content + fields[rng.integers(len(fields))]


def _edit(rng: np.random.Generator, content: bytes) -> bytes:
    """Changes a feature to what no reader expects: another kind, other values, bytes that are not UTF-8, NaN."""
    record = tf.train.SequenceExample.FromString(content)
    features = list(record.context.feature.values())
    for frames in record.feature_lists.feature_list.values():
        features += frames.feature
    feature = features[rng.integers(len(features))]
    edits: list[Callable[[], Any]] = [
        lambda: feature.bytes_list.value.append(rng.bytes(5)),
        lambda: feature.float_list.value.append(1.5),
        lambda: feature.int64_list.value.append(int(rng.integers(-3, 15))),
        lambda: feature.int64_list.value.append([2**63 - 1, -(2**63), 2**31, 2**32 + 1][rng.integers(4)]),
        feature.Clear,
        lambda: feature.bytes_list.SetInParent(),
        lambda: feature.int64_list.SetInParent(),
        lambda: record.context.feature["labels"].int64_list.value.append(-1),
        lambda: record.context.feature["id"].bytes_list.value.__setitem__(0, b"\xff\xfe\x80"),
        lambda: record.context.feature["id"].bytes_list.value.__setitem__(
            0, [b"a,b", b'"', b"a\nb", b""][rng.integers(4)]
        ),
        lambda: record.context.feature["other"].bytes_list.value.append(b"\xff"),
    ]
    floats = [feature for feature in features if feature.WhichOneof("kind") == "float_list"]
    if floats:
        chosen = floats[rng.integers(len(floats))].float_list.value
        special = [np.nan, np.inf, -np.inf, 3.4e38][rng.integers(4)]
        edits += [lambda: chosen.__setitem__(int(rng.integers(len(chosen))), special)] * 4
    edits[rng.integers(len(edits))]()
    return record.SerializeToString()


def _not_utf8_key(rng: np.random.Generator, content: bytes) -> bytes:
    keys = [b"labels", b"mean_rgb", b"rgb", b"audio", b"id"]
    key = keys[rng.integers(len(keys))]
    return content.replace(key, b"\xff" + key[1:])


RECORD_DAMAGE = [
    _flip, _flip, _flip, _set_byte, _set_byte, _cut, _insert, _remove, _huge_varint, _twice, _unknown_field, _edit,
    _edit, _edit, _not_utf8_key, lambda rng, content: b"", lambda rng, content: rng.bytes(int(rng.integers(1, 60))),
]  # fmt: skip


# Files


def _table() -> Iterator[int]:
    for crc in range(256):
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        yield crc


_TABLE = list(_table())


def checksum(content: bytes) -> bytes:
    """The masked CRC-32C of TFRecords."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _TABLE[(crc ^ byte) & 255] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def framed(record: bytes, length: int | None = None) -> bytes:
    """A record as a file holds it; with a length that is not its own, under a sound checksum, if one is given."""
    header = struct.pack("<Q", len(record) if length is None else length)
    return header + checksum(header) + record + checksum(record)


@dataclass(frozen=True)
class Attack:
    """A damaged file.

    Attributes:
        level: a key of `LEVELS`.
        content: the file.
        sound: the records as they were before the damage, by number.
        num_damaged: how many records were damaged, or 1 for a file.
    """

    level: str
    content: bytes
    sound: list[bytes]
    num_damaged: int


def draw(seed: int, num_records: int = RECORDS_PER_FILE, of_file: bool = False) -> Attack:
    """Draws a file in which all records but the first and the last are damaged, or that is damaged as a file."""
    rng = np.random.default_rng(seed)
    level = list(LEVELS)[rng.integers(len(LEVELS))]
    make = LEVELS[level][1]
    sound = [make(rng, f"v{number}") for number in range(num_records)]
    compressed = bool(rng.integers(4) == 0)
    if not of_file:
        records = [sound[0]]
        records += [RECORD_DAMAGE[rng.integers(len(RECORD_DAMAGE))](rng, record) for record in sound[1:-1]]
        content = b"".join(map(framed, [*records, sound[-1]]))
        return Attack(level, gzip.compress(content, 1) if compressed else content, sound, num_records - 2)
    return Attack(level, _damaged_file(rng, sound, compressed), sound, 1)


def _damaged_file(rng: np.random.Generator, sound: list[bytes], compressed: bool) -> bytes:
    whole = b"".join(map(framed, sound))
    pieces = list(map(framed, sound))
    at = int(rng.integers(len(pieces)))
    match int(rng.integers(7)):
        case 0:  # a length that is wrong under a sound checksum
            length = _LENGTHS[rng.integers(len(_LENGTHS))] if rng.integers(2) else int(rng.integers(2 * len(whole)))
            pieces[at] = framed(sound[at], length)
        case 1:
            pieces[at] = _flip(rng, pieces[at])
        case 2:
            pieces = [whole[: rng.integers(len(whole))]]
        case 3:
            pieces = [
                [b"", whole + rng.bytes(int(rng.integers(1, 20))), sound[0], b"VideoId,x\n", bytes(40)][rng.integers(5)]
            ]
        case 4:
            pieces[at] = _set_byte(rng, pieces[at])
        case 5:  # between two records
            pieces[at] += rng.bytes(int(rng.integers(1, 30)))
        case 6:
            packed = gzip.compress(whole, 1)
            changes = [_flip(rng, packed), _cut(rng, packed), packed + b"rest", packed + packed, gzip.compress(packed)]
            return changes[rng.integers(len(changes))]
    content = b"".join(pieces)
    return gzip.compress(content, 1) if compressed else content


# The judge


def stored_in(content: bytes) -> list[bytes | None]:
    """The records of a file, read with zlib and plain Python; None where a checksum is wrong."""
    if content.startswith(b"\x1f\x8b\x08"):
        unpacker = zlib.decompressobj(31)
        unpacked = b""
        try:
            for start in range(len(content)):
                unpacked += unpacker.decompress(content[start : start + 1])
                if unpacker.eof:
                    rest = content[start + 1 :]
                    return stored_in_framing(
                        unpacked + (gzip.decompress(rest) if rest.startswith(b"\x1f\x8b") else b"")
                    )
        except zlib.error:
            pass
        content = unpacked
    return stored_in_framing(content)


def stored_in_framing(content: bytes) -> list[bytes | None]:
    records: list[bytes | None] = []
    offset = 0
    while len(content) >= offset + 16 and checksum(content[offset : offset + 8]) == content[offset + 8 : offset + 12]:
        end = offset + 12 + int.from_bytes(content[offset : offset + 8], "little")
        if end + 4 > len(content):
            break
        record = content[offset + 12 : end]
        records.append(record if checksum(record) == content[end : end + 4] else None)
        offset = end + 4
    return records


class Readers:
    """What reads a file of a level and compression both ways, again whenever its content has changed.

    Graphs are traced once: that takes longer than to read a file of 16 records.

    Args:
        folder: where to write files.
        level: a key of `LEVELS`.
        compressed: whether files are gzip streams.
    """

    def __init__(self, folder: Path, level: str, compressed: bool):
        self.file = folder / f"{level}{'.gz' * compressed}"
        self.spec, make = LEVELS[level]
        content = framed(make(np.random.default_rng(0), "v"))
        self.file.write_bytes(gzip.compress(content) if compressed else content)
        self._explained = functools.cache(Examiner)
        self._batches = {}
        for on_bad_record in ("error", "skip"):
            options = ReadOptions(on_bad_record=on_bad_record)
            batches = evaluation_batches([str(self.file)], self.spec, 5, options=options, labels_required=True)
            self._batches[on_bad_record] = batches, options

    def read(self, on_bad_record: str) -> tuple[list[dict[str, Any]], ReadOptions]:
        """Reads the file as a program does: returns its videos, or raises what the user gets to see."""
        batches, options = self._batches[on_bad_record]
        rows = []
        try:
            for batch in batches.as_numpy_iterator():
                rows += [{name: values[i] for name, values in batch.items()} for i in range(len(batch["id"]))]
        except READING_ERRORS as error:
            known = None if options.damage is None else options.damage.damages
            with mock.patch("yt8m.data.diagnosis.Examiner", self._explained):
                explanation = explain_failure(error, [str(self.file)], self.spec, True, known)
            raise explanation or AssertionError(f"no explanation: {error}") from None
        return rows, options

    def refusal(self, on_bad_record: str) -> str | None:
        """Reads the file and returns what the user gets to see instead of videos, or None."""
        try:
            self.read(on_bad_record)
        except UserError as error:
            return str(error)
        return None


class Arena:
    """Plays attacks in a folder."""

    def __init__(self, folder: Path):
        self._readers = functools.cache(functools.partial(Readers, folder))

    def play(self, attack: Attack) -> str:
        """Writes the file, reads it both ways, and judges; returns `sound`, `skipped` or `refused`."""
        return play(attack, self._readers(attack.level, attack.content.startswith(b"\x1f\x8b\x08")))


def play(attack: Attack, readers: Readers) -> str:
    """Writes the file, reads it both ways, and judges; returns `sound`, `skipped` or `refused`."""
    file = readers.file
    file.write_bytes(attack.content)
    spec, stored = LEVELS[attack.level][0], stored_in(attack.content)
    is_compressed = attack.content.startswith(b"\x1f\x8b\x08")
    refusal = readers.refusal("error")
    skip_refusal = readers.refusal("skip")
    if refusal is not None:
        _check_message(refusal, file)
    if skip_refusal is not None:
        _check_message(skip_refusal, file)
        # A shard without a record is no damage. With `skip` it is refused here, where it is the only one.
        assert refusal is not None or not stored, "skip refuses what is sound"
        # TensorFlow unpacks 256 KB at a time, and damage to gzip costs all that it has not passed on yet.
        sound = [] if is_compressed else [record for record in stored if record in attack.sound]
        assert not sound, f"sound records are lost: {skip_refusal}"
        return "refused"
    rows, options = readers.read("skip")
    damages = options.skipped.damages
    assert (refusal is None) == (not damages), (refusal, damages)
    for line in options.skipped.report()[:-1]:
        _check_message(line, file)
    bad = {damage.record for damage in damages}
    lost_from = min((damage.record or 0 for damage in damages if damage.rest_lost), default=len(stored))
    numbers = [number for number in range(lost_from) if number not in bad]
    assert len(rows) == len(numbers), (len(rows), numbers, bad, lost_from)
    for number, row in zip(numbers, rows, strict=True):
        record = stored[number]
        assert record is not None, f"record {number} was read, and its checksum is wrong"
        _compare(row, record, spec)
    wrongly_refused = (
        [] if is_compressed else [n for n in bad if n is not None and stored[n : n + 1] and stored[n] in attack.sound]
    )
    assert not wrongly_refused, (wrongly_refused, damages)
    return "skipped" if damages else "sound"


def _check_message(message: str, file: Path) -> None:
    assert str(file) in message, message
    assert "\n" not in message, message
    assert "Graph execution" not in message, message
    place, _, fault = message.partition(f"{file}")[2].partition(": ")
    assert fault.strip(), message
    whole_file = ("it is ", "it holds no record", "it cannot be read")
    assert place.startswith(", record ") or fault.startswith(whole_file), message


def _compare(row: dict[str, Any], record: bytes, spec: DataSpec) -> None:
    """What was read is what protobuf reads."""
    try:
        expected = read_one(record, spec)
    except DecodeError:
        _compare_leniently(row, record, spec)
        return
    assert row["id"] == expected["id"], (row["id"], expected["id"])
    assert set(np.flatnonzero(row["labels"])) == expected["labels"], (row["labels"], expected["labels"])
    for name in spec.feature_names:
        assert np.isfinite(row[name]).all(), name
        found = row[name][: row["num_frames"]] if "num_frames" in row else row[name]
        wanted = np.array(expected[name][: row["num_frames"]] if "num_frames" in row else expected[name])
        np.testing.assert_array_equal(found, wanted.reshape(found.shape))
    if "num_frames" in row:
        assert row["num_frames"] == expected["num_frames"]


def _compare_leniently(row: dict[str, Any], record: bytes, spec: DataSpec) -> None:
    """Of a record whose lists of frames protobuf refuses, id and labels are as written, and so is each frame."""
    assert spec.record_format == "frame", "protobuf refuses the record"
    context = tf.train.Features.FromString(b"".join(_contexts(record))).feature
    ids = [context[key].bytes_list.value[0] for key in ("id", "video_id") if key in context]
    assert row["id"] == ids[0]
    assert set(np.flatnonzero(row["labels"])) == set(context["labels"].int64_list.value)
    for name in spec.feature_names:
        assert np.isfinite(row[name]).all(), name
        offset = 0
        for frame in row[name][: row["num_frames"]]:
            offset = record.index(frame.tobytes(), offset) + frame.nbytes


def _contexts(record: bytes) -> Iterator[bytes]:
    """The parts of a record under field 1, up to a part that cannot be read."""
    offset = 0
    while offset < len(record) and record[offset] in (0x0A, 0x12):
        tag, length, shift = record[offset], 0, 0
        offset += 1
        while offset < len(record):
            byte = record[offset]
            length, shift, offset = length | (byte & 127) << shift, shift + 7, offset + 1
            if byte < 128:
                break
        if tag == 0x0A:
            yield record[offset : offset + length]
        offset += length
