"""Readers: what is in a batch, each record once, an order that a seed, several workers and a restart reproduce."""

import gzip
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from yt8m.data.diagnosis import find_layout
from yt8m.data.formats.base import Layout
from yt8m.data.record_writing import frame_record, video_record, write_records
from yt8m.data.records import batch_parser, multi_hot
from yt8m.data.shards import Shard, open_shards
from yt8m.errors import UserError
from yt8m.randomness import keys_from_ids, keys_from_positions
from yt8m.sampling import FrameSampling, Method, sample_indices
from yt8m.schema import DataSpec

import readers
from oracles.records import read_batch
from readers import ReadOptions, class_counts, estimate_num_records, evaluation_batches, find_files

FRAMES = DataSpec(("rgb", "audio"), (6, 3), num_classes=5, record_format="frame", max_frames=4)
VIDEOS = DataSpec(("mean_rgb", "mean_audio"), (6, 3), num_classes=5)
BYTES = Layout(("rgb", "audio"), (False, False))
NUM_VIDEOS = 37


def training_batches(
    files: list[str], spec: DataSpec, batch_size: int, *, seed: int = 0, options: ReadOptions | None = None, **more: Any
) -> tf.data.Dataset:
    """Opens shards and reads them for training."""
    order = readers.training_order(files, spec, seed=seed, options=options)
    return readers.training_batches(order, spec, batch_size, **more)


def frames(rng: np.random.Generator, length: int, size: int) -> np.ndarray:
    """Frames without a 0, so that padding shows."""
    return rng.integers(1, 256, (length, size), dtype=np.uint8)


def frame_records(lengths: list[int], seed: int = 0) -> list[bytes]:
    rng = np.random.default_rng(seed)
    return [
        frame_record(
            f"v{i}",
            [] if i % 4 == 3 else [i % 5, (i + 1) % 5],
            {"rgb": frames(rng, length, 6), "audio": frames(rng, length, 3)},
            id_key="id" if i % 3 else "video_id",
        )
        for i, length in enumerate(lengths)
    ]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Four frame-level shards of different lengths; the third is compressed, and not by its name."""
    folder = tmp_path_factory.mktemp("shards")
    records = frame_records([1 + i % 6 for i in range(NUM_VIDEOS)])
    parts = [records[:3], records[3:20], records[20:29], records[29:]]
    return [write_records(folder / f"{i}.tfrecord", part, "GZIP" if i == 2 else "") for i, part in enumerate(parts)]


def all_of(batches: tf.data.Dataset, name: str) -> list:
    return [value for batch in batches.as_numpy_iterator() for value in batch[name].tolist()]


def assert_equal_batches(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


# What is in a batch


def eager(parse: Callable, records: list[bytes]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in parse(tf.constant(records, tf.string)).items()}


def inside_map(parse: Callable, records: list[bytes]) -> dict[str, np.ndarray]:
    dataset = tf.data.Dataset.from_tensors(tf.constant(records, tf.string)).map(parse)
    return next(dataset.as_numpy_iterator())


@pytest.mark.parametrize("call", [eager, inside_map])
@pytest.mark.parametrize("lengths", [[3, 1, 4], [0, 2], [0, 0], [], [9, 4, 5]], ids=str)
def test_frame_level_batch_is_what_the_layout_says(call: Callable, lengths: list[int]) -> None:
    records = frame_records(lengths)
    batch = call(batch_parser(FRAMES, BYTES, labels_required=True), records)
    np.testing.assert_array_equal(batch.pop("key"), keys_from_ids(batch["id"].tolist() or tf.zeros([0], tf.string)))
    assert_equal_batches(batch, read_batch(records, FRAMES))
    assert {name: value.dtype.name for name, value in batch.items()} == {
        "id": "object",
        "labels": "bool",
        "num_frames": "int32",
        "rgb": "uint8",
        "audio": "uint8",
    }


@pytest.mark.parametrize("call", [eager, inside_map])
def test_video_level_batch_is_what_the_layout_says(call: Callable) -> None:
    rng = np.random.default_rng(0)
    records = [
        video_record(f"v{i}", [i], {"mean_rgb": rng.random(6), "mean_audio": rng.random(3)}, id_key)
        for i, id_key in enumerate(["id", "video_id", "id"])
    ]
    batch = call(batch_parser(VIDEOS, Layout(VIDEOS.feature_names, (True, True)), labels_required=True), records)
    batch.pop("key")
    assert_equal_batches(batch, read_batch(records, VIDEOS))
    assert batch["mean_rgb"].dtype == np.float32


def test_the_shorter_feature_says_how_many_frames_there_are() -> None:
    rng = np.random.default_rng(0)
    records = [
        frame_record("a", [1], {"rgb": frames(rng, 3, 6), "audio": frames(rng, 2, 3)}),
        frame_record("b", [1], {"rgb": frames(rng, 1, 6), "audio": frames(rng, 3, 3)}),
    ]
    batch = eager(batch_parser(FRAMES, BYTES, labels_required=True), records)
    assert batch["num_frames"].tolist() == [2, 1]
    assert_equal_batches({k: v for k, v in batch.items() if k != "key"}, read_batch(records, FRAMES))


@pytest.mark.parametrize("names", [("rgb", "audio"), ("RGB/feature/floats", "AUDIO/feature/floats")])
def test_lists_of_floats_stay_floats(names: tuple[str, str], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rgb, audio = (rng.random((6, size), np.float32) for size in (6, 3))
    records = [frame_record(f"v{t}", [1], {names[0]: rgb[:t], names[1]: audio[:t]}) for t in (0, 2, 6)]
    file = write_records(tmp_path / "x", records)
    (batch,) = evaluation_batches([file], FRAMES, 8, labels_required=True).as_numpy_iterator()
    assert batch["num_frames"].tolist() == [0, 2, 4]
    assert batch["rgb"].dtype == batch["audio"].dtype == np.float32
    for row, length in enumerate([0, 2, 4]):
        np.testing.assert_array_equal(batch["rgb"][row, :length], rgb[:length])
        np.testing.assert_array_equal(batch["audio"][row, :length], audio[:length])
        assert not batch["rgb"][row, length:].any()


def test_audio_of_zeros_is_audio(tmp_path: Path) -> None:
    rgb, audio = np.ones((2, 6), np.uint8), np.zeros((2, 3), np.uint8)
    file = write_records(tmp_path / "x", [frame_record("a", [1], {"rgb": rgb, "audio": audio})])
    (batch,) = evaluation_batches([file], FRAMES, 8, labels_required=True).as_numpy_iterator()
    assert batch["num_frames"].tolist() == [2]
    assert not batch["audio"].any()


def test_multi_hot_counts_a_label_once_and_refuses_one_out_of_range() -> None:
    labels = multi_hot(tf.ragged.constant([[2, 0, 2], [], [1]], dtype=tf.int64), 3)
    assert labels.numpy().tolist() == [[True, False, True], [False] * 3, [False, True, False]]
    for label in (-1, 3):
        with pytest.raises(tf.errors.InvalidArgumentError):
            multi_hot(tf.ragged.constant([[0], [label]], dtype=tf.int64), 3)


@pytest.mark.parametrize("method", get_args(Method))
def test_sampled_frames_are_the_chosen_ones(method: Method) -> None:
    records = frame_records([5, 0, 1, 9, 3])
    sampling = FrameSampling(method, 3)
    whole = eager(batch_parser(FRAMES, BYTES, labels_required=True), records)
    sampled = eager(batch_parser(FRAMES, BYTES, labels_required=True, sampling=sampling), records)
    indices, counts = sample_indices(sampling, tf.constant(whole["num_frames"]), tf.constant(whole["key"]))
    np.testing.assert_array_equal(sampled["num_frames"], counts)
    assert sampled["rgb"].shape[1] == max(counts)
    for row, count in enumerate(counts.numpy()):
        for name in ("rgb", "audio"):
            np.testing.assert_array_equal(sampled[name][row, :count], whole[name][row][indices[row, :count]])
            assert not sampled[name][row, count:].any()


BOTH_OR_NEITHER = st.just((0, 0)) | st.tuples(st.integers(1, 6), st.integers(1, 6))


@settings(deadline=None, max_examples=20)
@given(lengths=st.lists(BOTH_OR_NEITHER, max_size=5), max_frames=st.integers(1, 7))
def test_any_lengths(lengths: list[tuple[int, int]], max_frames: int) -> None:
    rng = np.random.default_rng(len(lengths))
    spec = DataSpec(("rgb", "audio"), (6, 3), 5, record_format="frame", max_frames=max_frames)
    records = [
        frame_record(f"v{i}", [i], {"rgb": frames(rng, a, 6), "audio": frames(rng, b, 3)})
        for i, (a, b) in enumerate(lengths)
    ]
    batch = eager(batch_parser(spec, BYTES, labels_required=True), records)
    batch.pop("key")
    assert_equal_batches(batch, read_batch(records, spec))


# Evaluation


@pytest.mark.parametrize("batch_size", [1, 8, 37, 100])
def test_evaluation_yields_every_record_once_in_the_order_of_the_input(shards: list[str], batch_size: int) -> None:
    batches = evaluation_batches(shards, FRAMES, batch_size, labels_required=True)
    sizes = [len(batch["id"]) for batch in batches]
    assert all_of(batches, "id") == [f"v{i}".encode() for i in range(NUM_VIDEOS)]
    assert sizes[:-1] == [batch_size] * (len(sizes) - 1)
    assert sum(sizes) == NUM_VIDEOS


def test_evaluation_samples_the_same_frames_in_any_batch(shards: list[str]) -> None:
    sampling = FrameSampling("random", 2)
    read = [
        {
            video: row.tobytes()
            for batch in evaluation_batches(shards, FRAMES, size, sampling=sampling, labels_required=True)
            for video, row in zip(batch["id"].numpy(), batch["rgb"].numpy(), strict=True)
        }
        for size in (3, 20)
    ]
    assert read[0] == read[1]


def test_records_without_labels_can_be_read_where_none_are_required(tmp_path: Path) -> None:
    ones = np.ones((1, 6), np.uint8)
    records = [
        frame_record(f"v{i}", labels, {"rgb": ones, "audio": ones[:, :3]}) for i, labels in enumerate([None, [2]])
    ]
    file = write_records(tmp_path / "x", records)
    (batch,) = evaluation_batches([file], FRAMES, 8, labels_required=False).as_numpy_iterator()
    assert batch["labels"].tolist() == [[False] * 5, [False, False, True, False, False]]


# Training


def test_an_epoch_has_every_record_once_and_the_last_batch_is_smaller(shards: list[str]) -> None:
    batches = training_batches(shards, FRAMES, 8, seed=3, num_epochs=1)
    assert [len(batch["id"]) for batch in batches] == [8, 8, 8, 8, 5]
    assert sorted(all_of(batches, "id")) == sorted(f"v{i}".encode() for i in range(NUM_VIDEOS))


def test_epochs_follow_each_other_in_orders_of_their_own(shards: list[str]) -> None:
    batches = training_batches(shards, FRAMES, 8, seed=3, num_epochs=3)
    assert [len(batch["id"]) for batch in batches] == [8] * 13 + [7]  # 111 = 13 * 8 + 7
    ids = all_of(batches, "id")
    epochs = [ids[i : i + NUM_VIDEOS] for i in range(0, len(ids), NUM_VIDEOS)]
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)


def test_the_order_is_a_function_of_the_seed(shards: list[str]) -> None:
    orders = [all_of(training_batches(shards, FRAMES, 8, seed=seed, num_epochs=1), "id") for seed in (3, 3, 4)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


def test_without_num_epochs_there_is_no_end(shards: list[str]) -> None:
    assert sum(1 for _ in training_batches(shards, FRAMES, 32).take(20)) == 20


def test_records_are_shuffled_within_and_across_shards(shards: list[str]) -> None:
    options = ReadOptions(num_readers=2, shuffle_window=16)
    ids = [int(i[1:]) for i in all_of(training_batches(shards, FRAMES, 8, num_epochs=1, options=options), "id")]
    neighbours = sum(b == a + 1 for a, b in pairwise(ids))
    assert neighbours < 8  # 36 in the order of the input, 1 on average in a random order
    assert sorted(ids) == list(range(NUM_VIDEOS))


def test_keys_come_from_positions_in_the_global_stream(shards: list[str]) -> None:
    batches = training_batches(shards, FRAMES, 8, seed=3, num_epochs=2)
    expected = keys_from_positions(3, tf.range(2 * NUM_VIDEOS, dtype=tf.int64))
    assert all_of(batches, "key") == expected.numpy().tolist()


@pytest.mark.parametrize(("batch_size", "num_workers"), [(8, 2), (2, 3)])  # 2 videos for 3 workers: one gets none
def test_shares_of_workers_put_together_are_the_batches_of_one(
    shards: list[str], batch_size: int, num_workers: int
) -> None:
    common: dict[str, Any] = {"seed": 5, "num_epochs": 1, "sampling": FrameSampling("random", 2)}
    alone = training_batches(shards, FRAMES, batch_size, **common).as_numpy_iterator()
    shares = [
        list(
            training_batches(
                shards, FRAMES, batch_size, worker=w, num_workers=num_workers, **common
            ).as_numpy_iterator()
        )
        for w in range(num_workers)
    ]
    assert len({len(share) for share in shares}) == 1
    for whole, *parts in zip(alone, *shares, strict=True):
        sizes = [len(part["id"]) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        positions = [part.pop("position").tolist() for part in parts]
        assert positions == [whole.pop("position").tolist()] * num_workers
        together = {name: np.concatenate([part[name] for part in parts if len(part["id"])]) for name in whole}
        assert_equal_batches(together, whole)


# Files and counts


def test_find_files_takes_lists_of_patterns(tmp_path: Path) -> None:
    for name in ("b1.tfrecord", "a1.tfrecord", "a2.tfrecord", "c.txt"):
        (tmp_path / name).touch()
    (tmp_path / "a9.tfrecord").mkdir()
    found = find_files(f" {tmp_path}/b*.tfrecord,{tmp_path}/a*.tfrecord,,{tmp_path}/a1*", "train_data_pattern")
    assert [Path(path).name for path in found] == ["a1.tfrecord", "a2.tfrecord", "b1.tfrecord"]


def test_find_files_names_the_flag_and_the_pattern_that_matches_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(UserError, match=r"^--eval_data_pattern: no file matches '.*/x\*'\. Check .* quote"):
        find_files(f"{tmp_path}/a,{tmp_path}/x*", "eval_data_pattern")
    with pytest.raises(UserError, match=r"It is a folder: try '.*/\*\.tfrecord'"):
        find_files(str(tmp_path), "eval_data_pattern")
    with pytest.raises(UserError, match="--eval_data_pattern is empty"):
        find_files(" , ", "eval_data_pattern")


def test_class_counts(shards: list[str]) -> None:
    counts, num_examples = class_counts(shards, FRAMES, limit=1000)
    labels = np.array(all_of(evaluation_batches(shards, FRAMES, 8, labels_required=True), "labels"))
    assert num_examples.tolist() == [NUM_VIDEOS] * 5
    np.testing.assert_array_equal(counts, labels.sum(axis=0))


def test_class_counts_of_the_first_records_look_into_every_shard(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    features = {"rgb": frames(rng, 1, 6), "audio": frames(rng, 1, 3)}
    files = [write_records(tmp_path / f"{c}", [frame_record("v", [c], features)] * 10) for c in range(5)]
    counts, num_examples = class_counts(files, FRAMES, limit=15)
    assert counts.tolist() == [3] * 5
    assert num_examples.tolist() == [15] * 5


def test_num_records_of_small_shards_is_exact(shards: list[str]) -> None:
    assert estimate_num_records(shards) == NUM_VIDEOS


def test_num_records_of_large_shards_is_estimated_from_their_sizes(tmp_path: Path) -> None:
    # Records of 100 bytes, then of 200: the estimate sees 256 of the first kind alone, 116 bytes each.
    # 1000 * 116 + 500 * 216 = 224,000 bytes; / 116 = 1931.03
    file = write_records(tmp_path / "large", [b"x" * 100] * 1000 + [b"x" * 200] * 500)
    assert estimate_num_records([file]) == 1931


def test_files_that_are_no_shards_hold_no_records(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert estimate_num_records([str(tmp_path / "empty"), str(tmp_path / "gone")]) == 0


def test_compression_is_found_by_content(tmp_path: Path) -> None:
    plain = write_records(tmp_path / "plain.tfrecord.gz", [b"x"])
    compressed = tmp_path / "compressed.tfrecord"
    compressed.write_bytes(gzip.compress(Path(plain).read_bytes()))
    # A record of 559903 = 0x088b1f bytes: its length begins with the three bytes that gzip files begin with.
    like_gzip = write_records(tmp_path / "like_gzip", [b"x" * 559903])
    shards = open_shards([plain, str(compressed), like_gzip])
    assert [shard.compression for shard in shards if isinstance(shard, Shard)] == ["", "GZIP", ""]


# Real records


def test_real_audioset(real_data: Path) -> None:
    spec = DataSpec(("audio_embedding",), (128,), 527, record_format="frame")
    files = find_files(f"{real_data}/audioset/eval-00000*", "x")
    (batch,) = evaluation_batches(files, spec, 200, labels_required=True).take(1).as_numpy_iterator()
    batch.pop("key")
    records = [record.numpy() for record in tf.data.TFRecordDataset(files).take(200)]
    assert_equal_batches(batch, read_batch(records, spec))


@pytest.mark.parametrize(
    ("pattern", "num_classes"),
    [("yt8m-2018-video/validate0000.tfrecord", 3862), ("yt8m-2017-video/*.tfrecord", 4716)],
)
def test_real_videos(real_data: Path, pattern: str, num_classes: int) -> None:
    spec = DataSpec(("mean_rgb", "mean_audio"), (1024, 128), num_classes)
    files = find_files(f"{real_data}/{pattern}", "x")
    (batch,) = evaluation_batches(files, spec, 200, labels_required=False).take(1).as_numpy_iterator()
    batch.pop("key")
    records = [record.numpy() for record in tf.data.TFRecordDataset(files).take(200)]
    assert_equal_batches(batch, read_batch(records, spec))


def test_real_test_shard_has_no_labels(real_data: Path) -> None:
    spec = DataSpec(("mean_rgb",), (1024,), 4716)
    files = find_files(f"{real_data}/yt8m-2017-video/testa0.tfrecord", "x")
    with pytest.raises(UserError, match=r"testa0.tfrecord, record 0: it has no feature 'labels'"):
        evaluation_batches(files, spec, 8, labels_required=True)


def test_real_frames(real_data: Path) -> None:
    spec = DataSpec(("rgb", "audio"), (1024, 128), record_format="frame")
    files = find_files(f"{real_data}/yt8m-frame/*.tfrecord", "x")
    (batch,) = training_batches(files, spec, 8, num_epochs=1).as_numpy_iterator()
    assert (batch["id"].tolist(), batch["num_frames"].tolist()) == ([b"SjJ3"], [170])
    assert np.flatnonzero(batch["labels"][0]).tolist() == [11]
    assert batch["rgb"].shape == (1, 170, 1024)


def test_real_layouts_are_found(real_data: Path) -> None:
    spec = DataSpec(("rgb", "audio"), (1024, 128), record_format="frame")
    opened = open_shards(find_files(f"{real_data}/yt8m-frame/*.tfrecord", "x"))
    shards = [shard for shard in opened if isinstance(shard, Shard)]
    assert find_layout(shards, spec, labels_required=True, skip=False) == BYTES
