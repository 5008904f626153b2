"""Records of videos cut into records of segments: which, with which frames, and for which classes."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from yt8m.data.record_writing import Rating, frame_record, write_records
from yt8m.errors import UserError
from yt8m.schema import DataSpec, EverySegmentDataSpec

from readers import (
    ReadOptions,
    class_counts,
    estimate_num_examples,
    evaluation_batches,
    explain_failure,
    training_batches,
    training_order,
)

SPEC = DataSpec(("rgb", "audio"), (2, 1), 4, "segment")


def record(
    name: str, num_frames: int, ratings: Sequence[Rating] | None, num_audio: int | None = None, **more: Any
) -> bytes:
    """A video whose frame t is full of t + 1."""
    lengths = {"rgb": num_frames, "audio": num_frames if num_audio is None else num_audio}
    sizes = {"rgb": 2, "audio": 1}
    features = {
        x: np.repeat(np.arange(1, n + 1, dtype=np.uint8)[:, np.newaxis], sizes[x], 1) for x, n in lengths.items()
    }
    return frame_record(name, [0], features, ratings=ratings, **more)


def read(file: str, spec: DataSpec = SPEC, **more: Any) -> dict[str, list]:
    """All segments of a file; of the features the frames that are real, as the numbers that fill them."""
    read: dict[str, list] = {}
    batches = evaluation_batches([file], spec, 2, labels_required=not spec.has_every_segment, **more)
    for batch in batches.as_numpy_iterator():
        for name in ("id", "labels", "label_weights"):
            read.setdefault(name, []).extend(batch[name].tolist())
        for feature in spec.feature_names:
            frames = zip(batch[feature], batch["num_frames"], strict=True)
            read.setdefault(feature, []).extend(x[:n, 0].tolist() for x, n in frames)
            assert all(not x[n:].any() for x, n in zip(batch[feature], batch["num_frames"], strict=True))
    return read


def every_segment(spec: DataSpec) -> DataSpec:
    return EverySegmentDataSpec(**vars(spec))


def test_a_rated_segment_is_an_example_with_its_own_frames_labels_and_weights(tmp_path: Path) -> None:
    # Ratings in any order, one of them given twice, one segment that ends with the video, one that begins after it.
    ratings = [(10, 2, 0.0), (0, 1, 1.0), (0, 3, 0.0), (10, 2, 1.0), (0, 3, 0.0), (20, 0, 0.0)]
    file = write_records(
        tmp_path / "x", [record("a", 12, ratings), record("b", 9, None), record("c", 9, [(5, 1, 0.5)])]
    )
    segments = read(file)
    assert segments["id"] == [b"a:0", b"a:10", b"a:20", b"c:5"]
    assert segments["rgb"] == segments["audio"] == [[1, 2, 3, 4, 5], [11, 12], [], [6, 7, 8, 9]]
    assert [np.flatnonzero(row).tolist() for row in segments["labels"]] == [[1], [2], [], [1]]
    assert [np.flatnonzero(row).tolist() for row in segments["label_weights"]] == [[1, 3], [2], [0], [1]]


@pytest.mark.parametrize("num_frames", [0, 1, 4, 5, 6, 11])
@pytest.mark.parametrize("context", [0, 1, 7])
def test_every_segment_of_a_video_with_what_is_around_it(tmp_path: Path, num_frames: int, context: int) -> None:
    spec = every_segment(DataSpec(SPEC.feature_names, SPEC.feature_sizes, 4, "segment", segment_context=context))
    file = write_records(tmp_path / "x", [record("a", num_frames, None), record("b", 1, [(0, 1, 1.0)])])
    segments = read(file, spec)
    numbers = list(range(1, num_frames + 1))
    expected = [[t for t in numbers if start - context < t <= start + 5 + context] for start in range(0, num_frames, 5)]
    assert segments["rgb"] == [*expected, [1]]
    assert segments["id"] == [f"a:{5 * n}".encode() for n in range(len(expected))] + [b"b:0"]
    assert not np.any(segments["labels"])
    assert not np.any(segments["label_weights"])


def test_frames_that_a_feature_lacks_or_that_are_cut_off_are_in_no_segment(tmp_path: Path) -> None:
    file = write_records(tmp_path / "x", [record("a", 12, [(5, 1, 1.0), (10, 1, 1.0)], num_audio=8)])
    assert read(file)["rgb"] == [[6, 7, 8], []]
    assert read(file, every_segment(SPEC))["rgb"] == [[1, 2, 3, 4, 5], [6, 7, 8]]
    short = DataSpec(SPEC.feature_names, SPEC.feature_sizes, 4, "segment", max_frames=6, segment_context=3)
    assert read(file, short)["rgb"] == [[3, 4, 5, 6], []]


def test_lists_of_floats_and_gzip(tmp_path: Path) -> None:
    frames = {"rgb": np.arange(12, dtype=np.float32).reshape(6, 2), "audio": np.ones((6, 1), np.float32)}
    file = write_records(tmp_path / "x", [frame_record("a", None, frames, ratings=[(5, 2, 1.0)])], "GZIP")
    (batch,) = evaluation_batches([file], SPEC, 4, labels_required=True)
    np.testing.assert_array_equal(batch["rgb"], [[[10, 11]]])


def test_counts_are_of_segments_and_of_those_that_were_rated(tmp_path: Path) -> None:
    files = [
        write_records(tmp_path / "x", [record("a", 9, [(0, 1, 1.0), (0, 2, 0.0), (5, 1, 0.0)]), record("b", 9, None)]),
        write_records(tmp_path / "y", [record("c", 9, [(5, 1, 1.0)])]),
    ]
    counts, num_examples = class_counts(files, SPEC, 100)
    assert (counts.tolist(), num_examples.tolist()) == ([0, 2, 0, 0], [0, 3, 1, 0])
    assert estimate_num_examples(files, SPEC) == 3
    assert estimate_num_examples(files, DataSpec(SPEC.feature_names, SPEC.feature_sizes, 4, "frame")) == 3


def test_training_sees_every_segment_once_per_epoch_and_none_beside_its_video(tmp_path: Path) -> None:
    names = [f"v{n}" for n in range(30)]
    file = write_records(tmp_path / "x", [record(name, 20, [(5 * i, 1, 1.0) for i in range(4)]) for name in names])
    order = training_order([file], SPEC, options=ReadOptions(num_readers=1))
    ids = [x for batch in training_batches(order, SPEC, 7, num_epochs=1).as_numpy_iterator() for x in batch["id"]]
    assert sorted(ids) == sorted(f"{name}:{5 * i}".encode() for name in names for i in range(4))
    neighbours = sum(a.split(b":")[0] == b.split(b":")[0] for a, b in itertools.pairwise(ids))
    assert neighbours < 20  # 90 of them if the segments of a video stayed together, about 3 of shuffled ones


# ---- damage


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (record("a", 9, [(0, 4, 1.0)]), "'segment_labels' holds 4, expected integers in [0, 3]."),
        (record("a", 9, [(0, 1, 7.0)]), "'segment_scores' holds 7.0, expected floats in [0, 1]."),
        (record("a:b", 9, [(0, 1, 1.0)]), "its segments have no name. Video 'a:b' cannot be part of a submission"),
        (record("a", 9, [(0, 1, 1.0)], num_audio=0), "'audio' holds no frames, 'rgb' holds 9."),
        (
            frame_record(
                "a", [0], {"rgb": np.ones((3, 5), np.uint8), "audio": np.ones((3, 1), np.uint8)}, ratings=[(0, 1, 1.0)]
            ),
            "'rgb' holds 5 bytes a frame (frame 0), expected 2.",
        ),
        (b"no record", "it is neither a tf.train.Example nor a tf.train.SequenceExample."),
    ],
)
def test_damage_is_named_or_left_out(tmp_path: Path, bad: bytes, message: str) -> None:
    file = write_records(tmp_path / "x", [record("good", 9, [(0, 1, 1.0)]), bad, record("fine", 3, [(0, 2, 0.0)])])
    with pytest.raises((tf.errors.OpError, UserError)) as caught:
        read(file)
    explanation = (
        explain_failure(caught.value, [file], SPEC, labels_required=True)
        if isinstance(caught.value, tf.errors.OpError)
        else caught.value
    )
    assert str(explanation).startswith(f"{file}, record 1: {message}")
    options = ReadOptions(on_bad_record="skip")
    assert read(file, options=options)["id"] == [b"good:0", b"fine:0"]
    assert options.skipped.report()[0].startswith(f"{file}, record 1: {message}")


def test_shards_without_ratings_are_refused_for_training_and_evaluation_and_not_for_prediction(tmp_path: Path) -> None:
    file = write_records(tmp_path / "x", [record("a", 9, None), record("b", 9, [])])
    for start in (
        lambda: training_order([file], SPEC),
        lambda: evaluation_batches([file], SPEC, 2, labels_required=True),
    ):
        with pytest.raises(UserError, match=rf"^No record of {file} .* holds ratings of segments \('segment_labels'\)"):
            start()
    assert len(read(file, every_segment(SPEC))["id"]) == 4
