"""Record formats: what every registered one has to keep, so that models see what they were built for."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from yt8m.batch import ID, KEY, LABEL_WEIGHTS, LABELS, NUM_FRAMES, POSITION, blank_batch, model_inputs
from yt8m.data.formats.base import Layout, format_of
from yt8m.data.record_faults import columns_of, fault_of
from yt8m.data.record_writing import clip_record, frame_record, video_record, write_records
from yt8m.registry import RECORD_FORMATS, models_that_read
from yt8m.schema import DataSpec

from readers import evaluation_batches

SIZES = {"a": 3, "b": 2}
FRAMES = {name: np.ones((4, size), np.uint8) for name, size in SIZES.items()}
RECORDS = {
    "frame": frame_record("v", [1], FRAMES),
    "segment": frame_record("v", [1], FRAMES, ratings=[(0, 1, 1.0)]),
    "video": video_record("v", [1], {name: np.ones(size) for name, size in SIZES.items()}),
    "clip": clip_record("v", [1], {name: np.full((4, 9, 12, size), 99, np.uint8) for name, size in SIZES.items()}),
}


def spec_of(record_format: str) -> DataSpec:
    return DataSpec(tuple(SIZES), tuple(SIZES.values()), 3, record_format, max_frames=1, clip_size=8)


@pytest.mark.parametrize("name", RECORD_FORMATS.names())
def test_a_blank_batch_looks_like_one_that_was_read(name: str, tmp_path: Path) -> None:
    spec = spec_of(name)
    file = write_records(tmp_path / "x", [RECORDS[name]])
    (batch,) = evaluation_batches([file], spec, 8, labels_required=True)
    read, blank = model_inputs(batch), blank_batch(spec)
    assert {key: (value.dtype, value.shape.rank) for key, value in blank.items()} == {
        key: (value.dtype, value.shape.rank) for key, value in read.items()
    }
    for feature, size in SIZES.items():
        assert blank[feature].shape[0] == 1
        assert blank[feature].shape[-1] == size
        assert not np.any(blank[feature])
    np.testing.assert_array_equal(blank.get(NUM_FRAMES, [1]), [1])


@pytest.mark.parametrize("name", RECORD_FORMATS.names())
def test_a_record_is_sound_in_its_own_format_and_in_no_other(name: str) -> None:
    as_stored = {"segment": "frame"}  # of the same records, with ratings or without
    for record_format, serialized in RECORDS.items():
        fault = fault_of(serialized, spec_of(name), None, labels_required=True)
        same = as_stored.get(record_format, record_format) == as_stored.get(name, name)
        assert (fault is None) == same, fault


@pytest.mark.parametrize("name", ["frame", "video", "segment"])
def test_the_largest_record_has_about_the_bytes_that_the_format_says(name: str) -> None:
    spec = DataSpec(("a", "b"), (300, 20), 3, name, max_frames=20)
    features = {"a": np.ones((20, 300), np.uint8), "b": np.ones((20, 20), np.uint8)}
    longest = {
        "frame": frame_record("v", [1], features),
        "segment": frame_record("v", [1], {feature: frames[:5] for feature, frames in features.items()}),
        "video": video_record("v", [1], {feature: np.ones(frames.shape[1]) for feature, frames in features.items()}),
    }
    assert format_of(spec).largest_record(spec) == pytest.approx(len(longest[name]), rel=0.1)


def test_the_largest_record_of_a_clip_is_a_guess_of_the_right_size() -> None:
    """Pictures of noise take more bytes than films do, those of one colour far fewer."""
    spec = DataSpec(("rgb",), (3,), 3, "clip", max_frames=4, clip_size=32)
    noise = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
    even = np.full_like(noise, 99)
    sizes = [len(clip_record("v", [1], {"rgb": frames}, quality=90)) for frames in (even, noise)]
    assert sizes[0] < format_of(spec).largest_record(spec) < sizes[1]


def test_models_over_frames_read_frames_alone() -> None:
    assert "LstmModel" in models_that_read("frame")
    assert "LstmModel" not in models_that_read("video")
    assert "MoeModel" in models_that_read("video")


def test_a_feature_that_no_frame_shows_is_taken_for_bytes() -> None:
    record = frame_record("v", [1], {"a": np.ones((2, 3), np.float32), "b": []})
    columns = columns_of(record, spec_of("frame"))
    assert columns == [("a", True), ("b", None)]
    assert Layout.of(columns) == Layout(("a", "b"), (True, False))


def test_a_model_sees_neither_ids_nor_labels() -> None:
    hidden = {name: tf.zeros([1]) for name in (ID, LABELS, LABEL_WEIGHTS, POSITION)}
    shown = {name: tf.zeros([1]) for name in ("rgb", NUM_FRAMES, KEY)}
    assert model_inputs(hidden | shown).keys() == shown.keys()
