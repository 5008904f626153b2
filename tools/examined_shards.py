"""What workers of tools.beam_statistics do: they examine shards, and add up what they found."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from threading import Lock

from yt8m.data.examination import DatasetContents, ShardContents, examine_shard
from yt8m.data.formats.base import Layout
from yt8m.schema import DataSpec
from yt8m.shard_cache import shard_cache
from yt8m.storage import enable_records

_one_shard_at_a_time = Lock()  # of a worker's threads: TensorFlow parses with all cores


@dataclass(frozen=True)
class ShardReader:
    """Reads a shard in full, given its number and its path.

    Attributes:
        spec: what records should hold.
        layout: how they store it.
        labels_required: whether a record without a labels feature is damage.
        cache_dir: for copies of remote shards, on each worker.
        cache_max_gb: what they may take.
    """

    spec: DataSpec
    layout: Layout
    labels_required: bool
    cache_dir: str
    cache_max_gb: float

    def __call__(self, shard: tuple[int, str]) -> tuple[int, ShardContents]:
        """Returns the number of a shard, and what is in it."""
        number, file = shard
        with _one_shard_at_a_time, shard_cache(self.cache_dir, self.cache_max_gb):
            enable_records(file)
            return number, examine_shard(file, self.spec, self.layout, self.labels_required)


def contents_of(examined: tuple[int, ShardContents], nothing: DatasetContents) -> DatasetContents:
    """Returns what is in a shard, as that of a data set of one shard.

    Args:
        examined: the number of the shard, and what is in it.
        nothing: what is in a data set without shards.
    """
    contents = _copied(nothing)
    contents.add(examined[1])
    return contents


def merged(parts: Iterable[DatasetContents], nothing: DatasetContents) -> DatasetContents:
    """Returns what is in all parts of a data set together; the order of shards and damages is that of the parts.

    Args:
        parts: of the data set.
        nothing: what is in a data set without shards.
    """
    whole = _copied(nothing)
    for part in parts:
        whole.merge(part)
    return whole


def _copied(nothing: DatasetContents) -> DatasetContents:
    return DatasetContents(nothing.spec, nothing.layout, nothing.class_counts)


def places_of_ids(examined: tuple[int, ShardContents]) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yields for every sound record the hash of its id, and its place: shard and record.

    Args:
        examined: the number of the shard, and what is in it.
    """
    shard, contents = examined
    for id_hash, number in zip(contents.hashes, contents.numbers, strict=True):
        yield id_hash, (shard, number)
