"""What a data set holds, counted shard by shard: records, classes, lengths, ids that occur twice, and damage.

Memory grows with the records by 16 bytes each while shards are read, and by 32 when ids are compared at the end: 0.13
GB for the 3.9 million training videos of 2018. It does not grow with their size.
"""

import dataclasses
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import NamedTuple

import numpy as np

from yt8m.arguments import LARGEST_SIZE
from yt8m.batch import KEY, LABELS, NUM_FRAMES
from yt8m.data.diagnosis import Examiner, find_layout
from yt8m.data.formats.base import Layout
from yt8m.data.record_faults import id_of
from yt8m.data.shards import Damage, Record, Shard, open_shard, open_shards, stored_records, without_advice
from yt8m.errors import UserError
from yt8m.schema import DataSpec
from yt8m.side_by_side import in_order
from yt8m.storage import scheme

NAMED_IDS = 20  # of those that occur twice
# To start a process takes as long as to examine so much.
_BYTES_PER_PROCESS = 1 << 30


@dataclass
class ShardContents:
    """What is in a shard.

    Attributes:
        file: its path.
        num_bytes: its size.
        num_records: its sound records.
        class_counts: `(C,)` int64, the sound records that have each class as a label.
        labels_per_video: how many records have how many labels.
        frames_per_video: how many records have how many frames; empty if they have vectors of the whole video.
        damages: what is not sound.
        hashes: an int64 hash per id of a sound record.
        numbers: the number of each of these records.
    """

    file: str
    num_bytes: int
    class_counts: np.ndarray
    num_records: int = 0
    labels_per_video: Counter[int] = field(default_factory=Counter)
    frames_per_video: Counter[int] = field(default_factory=Counter)
    damages: list[Damage] = field(default_factory=list)
    hashes: "array[int]" = field(default_factory=lambda: array("q"))
    numbers: "array[int]" = field(default_factory=lambda: array("i"))


def examine_shard(file: str, spec: DataSpec, layout: Layout, labels_required: bool) -> ShardContents:
    """Reads and parses a shard in full.

    Args:
        file: its path.
        spec: what its records should hold.
        layout: how they store it.
        labels_required: whether a record without a labels feature is damage.
    """
    shard = open_shard(file)
    contents = ShardContents(file, 0, np.zeros(spec.num_classes, np.int64))
    if isinstance(shard, Damage):
        contents.damages.append(shard)
        return contents
    contents.num_bytes = shard.num_bytes
    for item in _examiner(spec, layout, labels_required).examined_batches(shard):
        if isinstance(item, Damage):
            contents.damages.append(item)
            continue
        labels = item.batch[LABELS].numpy()
        contents.num_records += len(item.numbers)
        contents.class_counts += labels.sum(axis=0)
        contents.labels_per_video.update(labels.sum(axis=1).tolist())
        if NUM_FRAMES in item.batch:
            contents.frames_per_video.update(item.batch[NUM_FRAMES].numpy().tolist())
        contents.hashes.extend(item.batch[KEY].numpy().tolist())
        contents.numbers.extend(item.numbers)
    return contents


@cache
def _examiner(spec: DataSpec, layout: Layout, labels_required: bool) -> Examiner:
    """The same for all shards of a process: it makes a graph. Frames after `max_frames` are counted too."""
    if spec.record_format == "frame":
        spec = dataclasses.replace(spec, max_frames=LARGEST_SIZE)
    return Examiner(spec, layout, labels_required)


class Duplicate(NamedTuple):
    """An id that several records have.

    Attributes:
        id: of the video.
        places: `(file, record)` of each of them, in the order of the shards.
    """

    id: str
    places: list[tuple[str, int]]


@dataclass
class DatasetContents:
    """What is in all shards together.

    Attributes:
        spec: what records should hold.
        layout: how they store it.
        shards: per shard its path, its size, its sound records and the number of damages.
        class_counts: `(C,)` int64, the sound records that have each class as a label.
        labels_per_video: how many records have how many labels.
        frames_per_video: how many records have how many frames; empty if they have vectors of the whole video.
        damages: what is not sound, shard by shard.
        num_repeated: the records whose id an earlier one has; ids are compared by a hash of 63 bits.
        duplicates: the first 20 ids of several records, by the place of their first record.
    """

    spec: DataSpec
    layout: Layout
    class_counts: np.ndarray
    shards: list[tuple[str, int, int, int]] = field(default_factory=list)
    labels_per_video: Counter[int] = field(default_factory=Counter)
    frames_per_video: Counter[int] = field(default_factory=Counter)
    damages: list[Damage] = field(default_factory=list)
    num_repeated: int = 0
    duplicates: list[Duplicate] = field(default_factory=list)

    def add(self, contents: ShardContents) -> None:
        """Counts a shard in, apart from ids that occur twice."""
        self.shards.append((contents.file, contents.num_bytes, contents.num_records, len(contents.damages)))
        self.class_counts = self.class_counts + contents.class_counts
        self.labels_per_video.update(contents.labels_per_video)
        self.frames_per_video.update(contents.frames_per_video)
        self.damages += contents.damages

    def merge(self, part: "DatasetContents") -> None:
        """Counts another part of the data set in, apart from ids that occur twice; its shards come after those here."""
        self.shards += part.shards
        self.class_counts = self.class_counts + part.class_counts
        self.labels_per_video.update(part.labels_per_video)
        self.frames_per_video.update(part.frames_per_video)
        self.damages += part.damages

    @property
    def num_records(self) -> int:
        """All sound records."""
        return sum(num_records for _, _, num_records, _ in self.shards)

    @property
    def num_unlabelled(self) -> int:
        """Sound records without a label."""
        return self.labels_per_video[0]


def examine_dataset(
    files: Sequence[str],
    spec: DataSpec,
    labels_required: bool,
    num_processes: int,
    advance: Callable[[], None] = lambda: None,
) -> DatasetContents:
    """Reads and parses shards in full, and counts what is in them.

    Args:
        files: the shards.
        spec: what their records should hold.
        labels_required: whether a record without a labels feature is damage.
        num_processes: how many work side by side, at most; one per GB is started. Remote shards are read by one.
        advance: is called after each shard.

    Raises:
        UserError: if no file or no record can be read, or a process dies.
    """
    # 1. How the first records store what the spec names.
    shards = readable_shards(files)
    layout = find_layout(shards, spec, labels_required, skip=True)

    # 2. Shard by shard.
    worth_starting = 1 + sum(shard.num_bytes for shard in shards) // _BYTES_PER_PROCESS
    if any(scheme(file) for file in files):
        worth_starting = 1  # they are copied to a cache, which belongs to this process
    examine = partial(examine_shard, spec=spec, layout=layout, labels_required=labels_required)
    found = DatasetContents(spec, layout, np.zeros(spec.num_classes, np.int64))
    hashes, shard_numbers, numbers = array("q"), array("i"), array("i")
    for contents in in_order(examine, files, min(num_processes, worth_starting, len(files))):
        shard_numbers.extend([len(found.shards)] * contents.num_records)
        hashes.extend(contents.hashes)
        numbers.extend(contents.numbers)
        found.add(contents)
        advance()

    # 3. Which ids occur twice; the names of some of them are read again.
    order = np.argsort(np.frombuffer(hashes, np.int64), kind="stable")
    ordered = np.frombuffer(hashes, np.int64)[order]
    is_repeated = np.append(False, ordered[1:] == ordered[:-1]) if len(ordered) else np.zeros(0, bool)
    found.num_repeated = int(is_repeated.sum())
    firsts = np.flatnonzero(np.append(is_repeated[1:], False) & ~is_repeated)
    for first in firsts[np.argsort(order[firsts])][:NAMED_IDS]:
        end = first + 1
        while end < len(order) and is_repeated[end]:
            end += 1
        found.duplicates.append(
            duplicate_at([(files[shard_numbers[i]], numbers[i]) for i in order[first:end].tolist()])
        )
    return found


def readable_shards(files: Sequence[str]) -> list[Shard]:
    """Opens files, and returns those that are shards.

    Raises:
        UserError: if none is.
    """
    opened = open_shards(files)
    shards = [shard for shard in opened if isinstance(shard, Shard)]
    if not shards:
        damages = [damage for damage in opened if isinstance(damage, Damage)]
        raise UserError(f"None of the {len(files)} files can be read. {without_advice(damages[0])}")
    return shards


def duplicate_at(places: list[tuple[str, int]]) -> Duplicate:
    """Returns the records at `places`, `(file, record)` in the order of the shards, with the id that they all have.

    Raises:
        UserError: if the first of them is not there any more.
    """
    return Duplicate(_id_at(*places[0]), places)


def _id_at(file: str, number: int) -> str:
    """The id of a record that was sound when it was read."""
    shard = open_shard(file)
    records = stored_records(shard) if isinstance(shard, Shard) else iter(())
    record = next((item for item in records if isinstance(item, Record) and item.number == number), None)
    if record is None:
        raise UserError(f"{file}: it changed while it was read. Leave shards alone while a program runs.")
    return id_of(record.serialized)
