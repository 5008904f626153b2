"""The order of training: interrupted anywhere, as often as you like, the stream is the unbroken one."""

import gzip
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import tensorflow as tf

from yt8m.data.order import Order
from yt8m.data.record_writing import clip_record, frame_record, video_record, write_records
from yt8m.positions import Position, format_position, parse_position
from yt8m.registry import RECORD_FORMATS
from yt8m.schema import DataSpec

import readers

FRAMES = DataSpec(("rgb",), (3,), 5, record_format="frame", max_frames=4)
VIDEOS = DataSpec(("mean_rgb",), (3,), 5)
SEGMENTS = DataSpec(("rgb",), (3,), 5, record_format="segment", max_frames=20, segment_context=1)
CLIPS = DataSpec(("rgb",), (3,), 5, record_format="clip", max_frames=3, clip_size=4, clip_zoom=1.5)
SIZES = (9, 2, 1, 14, 6)  # records per shard
NUM_EPOCHS = 3
BATCH_SIZE = 7

Batches = list[dict[str, np.ndarray]]


def write_shards(folder: Path, kind: str) -> list[str]:
    """Shards of unequal sizes; of `damaged` frames every fifth record is no record."""
    folder.mkdir()
    files, number = [], 0
    for shard, size in enumerate(SIZES):
        records: list[bytes] = []
        for _ in range(size):
            vector = np.full(3, number, np.float32)
            frames = np.full((1 + number % 4, 3), number, np.uint8)
            if kind in ("videos", "gzip"):
                record = video_record(f"v{number}", [number % 5], {"mean_rgb": vector})
            elif kind == "clips":
                pictures = np.broadcast_to(frames[:, np.newaxis, np.newaxis], (len(frames), 8, 8, 3))
                record = clip_record(f"v{number}", [number % 5], {"rgb": pictures})
            elif kind == "segments":
                # None of a shard's first record, up to three of the others.
                ratings = [(5 * i, (number + i) % 5, 1.0) for i in range(len(records) % 4)]
                record = frame_record(f"v{number}", None, {"rgb": np.full((13, 3), number, np.uint8)}, ratings=ratings)
            else:
                record = frame_record(f"v{number}", [number % 5], {"rgb": frames})
            records.append(b"no record" if kind == "damaged" and number % 5 == 4 else record)
            number += 1
        path = Path(write_records(folder / f"s{shard}.tfrecord", records))
        if kind == "gzip" and shard % 2:
            path.write_bytes(gzip.compress(path.read_bytes()))
        files.append(str(path))
    return files


KINDS = ("videos", "gzip", "frames", "damaged", "clips", "segments")
SPECS = {"videos": VIDEOS, "gzip": VIDEOS, "clips": CLIPS, "segments": SEGMENTS}


@pytest.fixture(scope="module", name="shards")
def make_shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Shards of every kind."""
    folder = tmp_path_factory.mktemp("order")
    return {kind: write_shards(folder / kind, kind) for kind in KINDS}


def open_order(shards: dict[str, list[str]], kind: str, seed: int = 1) -> tuple[Order, DataSpec]:
    spec = SPECS.get(kind, FRAMES)
    on_bad_record: Literal["error", "skip"] = "skip" if kind == "damaged" else "error"
    options = readers.ReadOptions(num_readers=2, shuffle_window=8, on_bad_record=on_bad_record)
    return readers.training_order(shards[kind], spec, seed=seed, options=options), spec


def read(order: Order, spec: DataSpec, start: Position | None = None, count: int = 10**6, **more: Any) -> Batches:
    batches = readers.training_batches(order, spec, BATCH_SIZE, start=start, **({"num_epochs": NUM_EPOCHS} | more))
    return list(batches.take(count).as_numpy_iterator())


def assert_equal(found: Batches, expected: Batches) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            np.testing.assert_array_equal(value, other[name], err_msg=name)


@pytest.fixture(scope="module", name="unbroken")
def make_unbroken(shards: dict[str, list[str]]) -> dict[str, Batches]:
    """The whole stream of every kind."""
    return {kind: read(*open_order(shards, kind)) for kind in KINDS}


def test_kinds_cover_every_record_format(shards: dict[str, list[str]]) -> None:
    assert {open_order(shards, kind)[1].record_format for kind in KINDS} == set(RECORD_FORMATS.names())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_workers", [1, 2])
def test_any_interruptions_give_the_unbroken_stream(
    shards: dict[str, list[str]], unbroken: dict[str, Batches], kind: str, num_workers: int
) -> None:
    lengths = np.random.default_rng([KINDS.index(kind), num_workers]).integers(0, 7, 4).tolist()
    assert_interruptions_change_nothing(shards, unbroken, kind, num_workers, lengths)


def test_interruptions_after_every_batch_give_the_unbroken_stream(
    shards: dict[str, list[str]], unbroken: dict[str, Batches]
) -> None:
    assert_interruptions_change_nothing(shards, unbroken, "gzip", 1, [1] * len(unbroken["gzip"]))


def assert_interruptions_change_nothing(
    shards: dict[str, list[str]], unbroken: dict[str, Batches], kind: str, num_workers: int, lengths: list[int]
) -> None:
    """Reads the stream of every worker in parts of so many batches, and the rest."""
    for worker in range(num_workers):
        share: dict[str, Any] = {"worker": worker, "num_workers": num_workers}
        order, spec = open_order(shards, kind)
        expected = unbroken[kind] if num_workers == 1 else read(order, spec, **share)
        found: Batches = []
        for length in [*lengths, 10**6]:  # each part is a process of its own, as far as the data know
            order, spec = open_order(shards, kind)
            text = format_position(Position.from_row(found[-1]["position"]) if found else Position(), "order")
            found += read(order, spec, parse_position(text)[0], length, **share)
        assert_equal(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_every_position_is_a_place_to_start(
    shards: dict[str, list[str]], unbroken: dict[str, Batches], kind: str
) -> None:
    order, spec = open_order(shards, kind)
    whole = unbroken[kind]
    for index in range(0, len(whole), 3):
        assert_equal(read(order, spec, Position.from_row(whole[index]["position"])), whole[index + 1 :])


@pytest.mark.parametrize(
    "beyond",
    [
        Position(round=50, window=3, record=2, examples=9),
        Position(epoch=2, group=2, round=50, window=3, record=2, examples=9),
        Position(record=200, examples=9),
        Position(epoch=2, group=7, window=3, examples=9),
    ],
)
def test_a_position_beyond_the_data_is_an_error_that_names_the_shards(
    shards: dict[str, list[str]], beyond: Position
) -> None:
    order, spec = open_order(shards, "videos")
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        read(order, spec, beyond)
    message = str(readers.explain_failure(caught.value, shards["videos"], spec, labels_required=True))
    assert re.match(r"(.*/s\d\.tfrecord(, .*)?|the shards): here are other records than when", message), message
    assert "delete data/STEP.json" in message


def test_beyond_the_last_epoch_there_is_nothing(shards: dict[str, list[str]]) -> None:
    order, spec = open_order(shards, "videos")
    assert not read(order, spec, Position(epoch=NUM_EPOCHS, group=1, window=2, examples=96))


def test_an_epoch_is_every_record_once_in_an_order_of_its_own(unbroken: dict[str, Batches]) -> None:
    for kind, batches in unbroken.items():
        ids = [video for batch in batches for video in batch["id"].tolist()]
        size = len(ids) // NUM_EPOCHS
        epochs = [ids[start : start + size] for start in range(0, len(ids), size)]
        # 6 of 32 are damaged: 4, 9, ... 29. Of 32 videos 39 segments were rated.
        assert size == {"damaged": 26, "segments": 39}.get(kind, 32)
        assert all(sorted(epoch) == sorted(set(epochs[0])) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) == NUM_EPOCHS


def test_a_run_of_one_epoch_goes_on_with_the_second(shards: dict[str, list[str]], unbroken: dict[str, Batches]) -> None:
    order, spec = open_order(shards, "videos")
    first = read(order, spec, num_epochs=1)
    rest = read(order, spec, Position.from_row(first[-1]["position"]), num_epochs=2)
    two = read(order, spec, num_epochs=2)
    for name in ("id", "key"):
        parts = [value for batch in [*first, *rest] for value in batch[name].tolist()]
        assert parts == [value for batch in two for value in batch[name].tolist()]
    assert not read(order, spec, Position.from_row(two[-1]["position"]), num_epochs=2)


def test_examples_are_counted_and_keys_come_from_the_count(unbroken: dict[str, Batches]) -> None:
    seen = 0
    for batch in unbroken["frames"]:
        seen += len(batch["id"])
        assert batch["position"][-1] == seen
    keys = [key for batch in unbroken["frames"] for key in batch["key"].tolist()]
    assert len(set(keys)) == len(keys) == seen


def test_a_position_by_hand(tmp_path: Path) -> None:
    """Two shards of 4 and 2 records, read side by side in blocks of 1, in windows of 4 blocks: 4 records, then 2.

    Rounds: a0 b0, a1 b1, a2, a3. The first window is rounds 0 and 1, the second one begins in round 2.
    """
    files = [
        write_records(
            tmp_path / name, [video_record(f"{name}{i}", [0], {"mean_rgb": np.zeros(3)}) for i in range(size)]
        )
        for name, size in (("a", 4), ("b", 2))
    ]
    options = readers.ReadOptions(num_readers=2, shuffle_window=4)
    order = readers.training_order(files, VIDEOS, options=options)
    batches = list(readers.training_batches(order, VIDEOS, 3, num_epochs=1).as_numpy_iterator())
    assert set(batches[0]["id"].tolist()) < {b"a0", b"b0", b"a1", b"b1"}
    assert Position.from_row(batches[0]["position"]) == Position(record=3, examples=3)
    assert Position.from_row(batches[1]["position"]) == Position(round=2, window=1, record=2, examples=6)


def test_shards_may_move_but_not_change(shards: dict[str, list[str]], tmp_path: Path) -> None:
    moved = write_shards(tmp_path / "moved", "videos")
    here, _ = open_order(shards, "videos")
    assert open_order({"videos": moved}, "videos")[0].fingerprint() == here.fingerprint()
    assert open_order(shards, "videos", seed=2)[0].fingerprint() != here.fingerprint()
    other = write_records(moved[1], [video_record("x1", [1], {"mean_rgb": np.ones(3)})] * SIZES[1])
    changed, _ = open_order({"videos": moved}, "videos")
    assert changed.fingerprint() != here.fingerprint()  # of the same size, with other videos
    ids = [f"v{number}" for number in range(9, 11)]
    first, last = (
        video_record(name, [number % 5], {"mean_rgb": np.full(3, number)}) for number, name in enumerate(ids, 9)
    )
    assert Path(write_records(moved[1], [first, last])).stat().st_size == Path(shards["videos"][1]).stat().st_size
    assert open_order({"videos": moved}, "videos")[0].fingerprint() == here.fingerprint()
    other_last = video_record(ids[1], [10 % 5], {"mean_rgb": np.full(3, 99)})
    write_records(moved[1], [first, other_last])
    assert open_order({"videos": moved}, "videos")[0].fingerprint() != here.fingerprint()  # the last record alone
    write_records(moved[1], [video_record("x1", [1], {"mean_rgb": np.ones(3)})] * SIZES[1])
    different = set(changed.shards().splitlines()) - set(here.shards().splitlines())
    assert [line.split(" ")[0] for line in different] == [Path(other).name]


def test_blocks_of_wide_records_are_small(shards: dict[str, list[str]]) -> None:
    order, _ = open_order(shards, "videos")
    assert order.block == 2  # 8 records, 2 readers: two blocks of each
    assert Order(order.source, 0, num_readers=8, window=16384).block == 128
    assert Order(order.source, 0, num_readers=100, window=16).block == 1


@pytest.mark.parametrize("text", ["", "3", "[]", '{"order": "a", "epoch": true}', '{"order": "a", "speed": 3}'])
def test_other_texts_are_no_positions(text: str) -> None:
    with pytest.raises(ValueError, match=r"it holds no position|Expecting value"):
        parse_position(text)


def test_the_reader_needs_no_graph_of_its_own(shards: dict[str, list[str]]) -> None:
    order, spec = open_order(shards, "videos")
    batches = readers.training_batches(order, spec, BATCH_SIZE, num_epochs=1)

    @tf.function
    def count() -> tf.Tensor:
        return batches.reduce(np.int64(0), lambda total, batch: total + tf.size(batch["id"], tf.int64))

    assert int(count()) == sum(SIZES)
