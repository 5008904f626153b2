"""Where a record begins in its shard, found without reading the records before it."""

import gzip
from functools import partial
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest

from yt8m.data.formats.base import Layout
from yt8m.data.record_writing import video_record, write_records
from yt8m.data.shards import Extent, measure_records, require_shards
from yt8m.data.source import Source
from yt8m.positions import Position
from yt8m.schema import DataSpec

import readers

SIZES = (0, 5, 1, 300, 70)  # bytes of the records
LAYOUT = Layout(("mean_rgb",), (True,))


@pytest.fixture(name="shard")
def make_shard(tmp_path: Path) -> Path:
    return Path(write_records(tmp_path / "x.tfrecord", [bytes([i]) * size for i, size in enumerate(SIZES)]))


def test_a_record_begins_after_those_before_it(shard: Path) -> None:
    # Each record has its length in 8 bytes and two checksums of 4.
    begins = [0, *accumulate(size + 16 for size in SIZES)]
    source = Source(require_shards([str(shard)]), LAYOUT)
    for number, begin in enumerate(begins):
        extent = measure_records(str(shard), number)
        assert extent == Extent(len(SIZES), begin, len(SIZES) - number, begins[-1], is_whole=True)
        records = source.files().flat_map(partial(source.records, start=number))
        assert list(records.as_numpy_iterator()) == [bytes([i]) * size for i, size in enumerate(SIZES) if i >= number]
    assert measure_records(str(shard), 99) == Extent(len(SIZES), begins[-1], 0, begins[-1], is_whole=True)


def test_a_record_that_is_cut_does_not_fit(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-1])
    end = sum(SIZES[:-1]) + 16 * 4
    assert measure_records(str(shard), 99) == Extent(4, end, 0, end + SIZES[-1] + 15, is_whole=False)


def test_records_of_a_compressed_shard_are_skipped(shard: Path) -> None:
    shard.write_bytes(gzip.compress(shard.read_bytes()))
    source = Source(require_shards([str(shard)]), LAYOUT)
    records = source.files().flat_map(partial(source.records, start=3))
    assert list(records.as_numpy_iterator()) == [bytes([3]) * 300, bytes([4]) * 70]


def bytes_read() -> int:
    """How many bytes this process has read from files."""
    (line,) = [line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("rchar")]
    return int(line.split()[1])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="only Linux counts the bytes that a process reads")
def test_what_lies_before_a_position_is_not_read(tmp_path: Path) -> None:
    vector = np.zeros(50_000, np.float32)  # 200 KB per record: shorter than the buffer that skipping would fill
    file = write_records(tmp_path / "x", (video_record(f"v{i}", [0], {"mean_rgb": vector}) for i in range(60)))
    spec = DataSpec(("mean_rgb",), (len(vector),), 1)
    order = readers.training_order([file], spec, options=readers.ReadOptions(num_readers=1, shuffle_window=2))
    before = bytes_read()
    start = Position(round=58, window=29)
    batches = list(readers.training_batches(order, spec, 1, num_epochs=1, start=start).as_numpy_iterator())
    assert sorted(batch["id"].item() for batch in batches) == [b"v58", b"v59"]
    assert bytes_read() - before < 3_000_000  # the whole shard has 12 million
