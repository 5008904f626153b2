"""Records of clips: which frames, which part of them, which pixels, and what is wrong with a record."""

import dataclasses
import functools
import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from yt8m.arguments import ArgumentError
from yt8m.batch import NUM_FRAMES, blank_batch
from yt8m.data.formats.base import Layout
from yt8m.data.record_faults import fault_of
from yt8m.data.record_writing import clip_record, frame_record, video_record, write_records
from yt8m.data.records import batch_parser
from yt8m.data.synthetic import write_clip_shards
from yt8m.errors import UserError
from yt8m.sampling import FrameSampling
from yt8m.schema import PATCH_SIZE, DataSpec

import readers
from readers import ReadOptions, evaluation_batches, explain_failure

SPEC = DataSpec(("rgb", "flow"), (3, 2), 4, "clip", max_frames=4, clip_size=8, clip_crop=0.0, clip_flip=False)
RNG = np.random.default_rng(0)


def pictures(length: int, height: int = 8, width: int = 8) -> dict[str, np.ndarray]:
    """Frames of which each has one colour: its number, so that a JPEG keeps it."""
    numbers = np.arange(length, dtype=np.uint8)[:, np.newaxis, np.newaxis, np.newaxis]
    shape = (length, height, width)
    return {"rgb": np.broadcast_to(numbers, (*shape, 3)), "flow": np.broadcast_to(numbers, (*shape, 2))}


def record(length: int, name: str = "v", **size: int) -> bytes:
    return clip_record(name, [1], pictures(length, **size))


def parsed(
    records: Sequence[bytes],
    spec: DataSpec,
    training: bool = False,
    keys: Sequence[int] | None = None,
    sampling: FrameSampling | None = None,
) -> dict[str, np.ndarray]:
    keys = list(range(len(records))) if keys is None else keys
    batch = parser(spec, training, sampling)(tf.constant(records, tf.string), tf.constant(keys, tf.int64))
    return {name: value.numpy() for name, value in batch.items()}


@functools.cache
def parser(spec: DataSpec, training: bool, sampling: FrameSampling | None) -> Any:
    layout = Layout(spec.feature_names, (False,) * len(spec.feature_names))
    parse = batch_parser(spec, layout, True, sampling, "training" if training else "evaluation")
    signature = [tf.TensorSpec([None], tf.string), tf.TensorSpec([None], tf.int64)]
    return tf.function(parse, input_signature=signature, autograph=False)


def frame_numbers(batch: dict[str, np.ndarray], feature: str = "rgb") -> list[list[int]]:
    """The numbers of the real frames of each clip, of frames of one colour."""
    rows = batch[feature].reshape(-1, *batch[feature].shape[-4:])
    counts = batch[NUM_FRAMES].reshape(-1)
    for row, count in zip(rows, counts, strict=True):
        assert not row[count:].any()
        assert (row[:count] == row[:count, :1, :1, :1]).all()
    return [row[:count, 0, 0, 0].tolist() for row, count in zip(rows, counts, strict=True)]


# Which frames


@pytest.mark.parametrize(
    ("sampling", "length", "expected"),
    [
        ("consecutive", 4, [0, 1, 2, 3]),
        ("consecutive", 10, [3, 4, 5, 6]),  # 3 before, 3 after
        ("consecutive", 9, [3, 4, 5, 6]),  # floor(0.5 * 6) of the starts 0 to 5
        ("consecutive", 2, [0, 1]),
        ("consecutive", 0, []),
        ("spread", 4, [0, 1, 2, 3]),
        ("spread", 10, [1, 3, 6, 8]),  # floor((i + 1/2) * 10 / 4) = floor(1.25, 3.75, 6.25, 8.75)
        ("spread", 2, [0, 1]),
        ("spread", 0, []),
    ],
)
def test_the_frames_of_evaluation(sampling: Any, length: int, expected: list[int]) -> None:
    batch = parsed([record(length)], dataclasses.replace(SPEC, clip_sampling=sampling))
    assert batch["rgb"].shape == (1, 4, 8, 8, 3)
    assert batch["flow"].shape == (1, 4, 8, 8, 2)
    assert frame_numbers(batch) == frame_numbers(batch, "flow") == [expected]


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ("consecutive", [[1, 2, 3, 4], [4, 5, 6, 7], [7, 8, 9, 10]]),  # starts floor((2 n + 1) / 6 * 9)
        ("spread", [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]),  # floor((i + (2 n + 1) / 6) * 3)
    ],
)
def test_several_clips_of_a_video_at_evaluation(sampling: Any, expected: list[list[int]]) -> None:
    spec = dataclasses.replace(SPEC, clip_sampling=sampling, eval_clips=3)
    batch = parsed([record(12), record(2)], spec)
    assert batch["rgb"].shape == (2, 3, 4, 8, 8, 3)
    assert frame_numbers(batch) == [*expected, [0, 1], [0, 1], [0, 1]]
    assert parsed([record(12)], spec, training=True)["rgb"].shape == (1, 4, 8, 8, 3)


def test_the_frames_of_training_are_drawn_by_the_key() -> None:
    videos, keys = [record(9)] * 300, range(300)
    drawn = frame_numbers(parsed(videos, SPEC, training=True, keys=keys))
    assert {tuple(frames) for frames in drawn} == {tuple(range(start, start + 4)) for start in range(6)}
    spread = dataclasses.replace(SPEC, clip_sampling="spread")
    drawn = frame_numbers(parsed(videos, spread, training=True, keys=keys))
    # Part i of 4 reaches from 2.25 i to 2.25 (i + 1).
    assert [{frames[i] for frames in drawn} for i in range(4)] == [{0, 1, 2}, {2, 3, 4}, {4, 5, 6}, {6, 7, 8}]
    alone = [frame_numbers(parsed(videos[:1], spread, training=True, keys=[key]))[0] for key in (7, 11)]
    assert alone == [drawn[7], drawn[11]]


def test_a_model_may_choose_the_frames() -> None:
    videos = [record(12), record(3)]
    uniform = parsed(videos, SPEC, sampling=FrameSampling("uniform", 6))
    assert frame_numbers(uniform) == [[0, 2, 4, 6, 8, 10], [0, 0, 1, 1, 2, 2]]
    shuffled = parsed(videos, SPEC, sampling=FrameSampling("shuffled"))
    assert shuffled["rgb"].shape[1] == 4
    (first, second) = frame_numbers(shuffled)
    assert len(set(first)) == 4
    assert sorted(second) == [0, 1, 2]


# Which part of a frame, and which pixels


def film(length: int = 3, height: int = 48, width: int = 64) -> np.ndarray:
    """Smooth pictures, each pixel unlike its neighbours."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [3 * x + 20, 4 * y + 10, 2 * x + y]
    return np.stack([np.stack(planes, -1) + 5 * t for t in range(length)]).astype(np.uint8)


def read_jpegs(serialized: bytes, name: str = "rgb") -> np.ndarray:
    """The pictures of a record, decoded by Pillow."""
    frames = tf.train.SequenceExample.FromString(serialized).feature_lists.feature_list[name].feature
    return np.stack([np.asarray(Image.open(io.BytesIO(frame.bytes_list.value[0]))) for frame in frames])


def test_a_window_of_the_size_of_a_clip_is_not_scaled() -> None:
    serialized = clip_record("v", [1], {"rgb": film()})
    spec = DataSpec(("rgb",), (3,), 4, "clip", max_frames=3, clip_size=24, clip_crop=0.5)
    found = parsed([serialized], spec)["rgb"][0]
    # The middle 24 of 48 rows and of 64 columns. libjpeg's versions differ in the last bit of a colour.
    expected = read_jpegs(serialized)[:, 12:36, 20:44]
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("crop", "box"),
    [(0.0, (0, 0, 64, 48)), (1.0, (8, 0, 56, 48)), (0.75, (14, 6, 50, 42)), (0.25, (26, 18, 38, 30))],
)
def test_a_window_is_scaled_as_pillow_does_it(crop: float, box: tuple[int, int, int, int]) -> None:
    serialized = clip_record("v", [1], {"rgb": film()})
    spec = DataSpec(("rgb",), (3,), 4, "clip", max_frames=3, clip_size=16, clip_crop=crop)
    found = parsed([serialized], spec)["rgb"][0]
    for frame, picture in zip(found, read_jpegs(serialized), strict=True):
        expected = Image.fromarray(picture).crop(box).resize((16, 16), Image.Resampling.BILINEAR)
        assert np.abs(frame.astype(int) - np.asarray(expected)).max() <= 1


@settings(deadline=None, max_examples=20)
@given(key=st.integers(-(2**63), 2**63 - 1), window=st.sampled_from([(1.0, 0.5), (1.5, 1.0), (3.0, 0.0)]))
def test_training_shows_a_window_of_the_frames_and_flow_the_same_one(key: int, window: tuple[float, float]) -> None:
    """Red is the column, green the row: the corners tell which window it was."""
    zoom, crop = window
    y, x = np.mgrid[0:64, 0:64]
    place = np.stack([3 * x, 3 * y], -1)
    rgb = np.concatenate([place, np.zeros_like(place[..., :1])], -1)
    serialized = clip_record(
        "v", [1], {"rgb": np.stack([rgb] * 2).astype(np.uint8), "flow": np.stack([place + 1] * 2).astype(np.uint8)}, 100
    )
    spec = DataSpec(("rgb", "flow"), (3, 2), 4, "clip", 2, clip_size=32, clip_crop=crop, clip_zoom=zoom)
    batch = {name: value[0] for name, value in parsed([serialized], spec, True, [key]).items() if value.ndim == 5}
    np.testing.assert_array_equal(batch["rgb"][0], batch["rgb"][1])
    columns, rows = (batch["rgb"][0, :, :, i].astype(float) / 3 for i in (0, 1))
    mirrored = columns[0, 0] > columns[0, -1]
    side = np.abs(columns[0, -1] - columns[0, 0]) * 32 / 31
    assert (crop or 1) * 64 / zoom - 3 <= side <= (crop or 1) * 64 + 3
    assert np.abs(rows[-1, 0] - rows[0, 0]) * 32 / 31 == pytest.approx(side, abs=3)
    flow = batch["flow"][0].astype(int)
    shown = 256 - flow[:, :, 0] if mirrored else flow[:, :, 0]
    assert np.abs(shown - 1 - batch["rgb"][0, :, :, 0]).max() <= 5
    assert np.abs(flow[:, :, 1] - 1 - batch["rgb"][0, :, :, 1]).max() <= 5


def test_half_of_the_training_clips_are_mirrored_and_none_at_evaluation() -> None:
    serialized = clip_record("v", [1], {"rgb": film(1)})
    spec = DataSpec(("rgb",), (3,), 4, "clip", max_frames=1, clip_size=16, clip_crop=0.0)

    def share_of_mirrored(spec: DataSpec, training: bool) -> float:
        red = parsed([serialized] * 200, spec, training)["rgb"][:, 0, 0, :, 0].astype(int)
        return float((red[:, 0] > red[:, -1]).mean())

    assert 0.4 < share_of_mirrored(spec, True) < 0.6
    assert share_of_mirrored(dataclasses.replace(spec, clip_flip=False), True) == 0
    assert share_of_mirrored(spec, False) == 0


def test_flow_that_is_mirrored_changes_the_sign_of_x_alone() -> None:
    flow = np.zeros((1, 8, 8, 2), np.uint8)
    flow[..., 0], flow[..., 1] = 128 + 40, 128 + 7
    spec = DataSpec(("flow",), (2,), 4, "clip", max_frames=1, clip_size=8, clip_crop=0.0)
    found = parsed([clip_record("v", [1], {"flow": flow})] * 50, spec, training=True)["flow"]
    assert {tuple(pixel) for pixel in found.reshape(-1, 2).tolist()} == {(128 + 40, 128 + 7), (128 - 40, 128 + 7)}


def test_a_batch_of_nothing_and_a_blank_batch() -> None:
    batch = parsed([], SPEC)
    assert batch["rgb"].shape == (0, 4, 8, 8, 3)
    blank = blank_batch(SPEC)
    assert blank["flow"].shape == (1, 4, 8, 8, 2)
    assert blank[NUM_FRAMES].numpy().tolist() == [4]


def with_sound(length: int) -> bytes:
    """A record whose sound is, per frame, the number of the frame, after 100."""
    frames = pictures(length)
    sound = np.repeat(100 + np.arange(length, dtype=np.uint8)[:, np.newaxis], PATCH_SIZE, axis=1)
    jpegs = tf.train.SequenceExample.FromString(clip_record("v", [1], {"rgb": frames["rgb"]}))
    both = tf.train.SequenceExample.FromString(frame_record("v", [1], {"audio": sound}))
    both.MergeFrom(tf.train.SequenceExample(feature_lists=jpegs.feature_lists))
    return both.SerializeToString()


SOUND = dataclasses.replace(SPEC, feature_names=("rgb", "audio"), feature_sizes=(3, PATCH_SIZE), clip_flip=True)


@pytest.mark.parametrize("sampling", ["consecutive", "spread"])
@pytest.mark.parametrize("training", [False, True])
def test_sound_is_that_of_the_frames_and_is_not_mirrored(sampling: Any, training: bool) -> None:
    spec = dataclasses.replace(SOUND, clip_sampling=sampling)
    batch = parsed([with_sound(length) for length in (9, 2, 0)], spec, training=training)
    assert batch["audio"].shape == (3, 4, PATCH_SIZE)
    assert batch["audio"].dtype == np.uint8
    numbers = frame_numbers(batch)
    for sound, frames in zip(batch["audio"], numbers, strict=True):
        assert (sound == sound[:, :1]).all()
        assert sound[:, 0].tolist() == [100 + n for n in frames] + [0] * (4 - len(frames))
    alone = dataclasses.replace(spec, feature_names=("audio",), feature_sizes=(PATCH_SIZE,))
    only = parsed([with_sound(length) for length in (9, 2, 0)], alone, training=training)
    np.testing.assert_array_equal(only["audio"], batch["audio"])
    several = parsed([with_sound(9)], dataclasses.replace(spec, eval_clips=3))
    assert several["audio"].shape == (1, 3, 4, PATCH_SIZE)
    assert blank_batch(spec)["audio"].shape == (1, 4, PATCH_SIZE)


def test_sound_of_another_length_is_named(tmp_path: Path) -> None:
    damaged = tf.train.SequenceExample.FromString(with_sound(6))
    damaged.feature_lists.feature_list["audio"].feature[5].bytes_list.value[0] = b"abc"
    bad = damaged.SerializeToString()
    fault = (
        "'audio' holds 3 bytes a frame (frame 5), expected 6144. Is --feature_sizes in the order of --feature_names?"
    )
    assert fault_of(bad, SOUND, Layout(("rgb", "audio"), (False, False)), labels_required=True) == fault
    file = write_records(tmp_path / "x", [with_sound(6), bad])
    with pytest.raises(tf.errors.OpError) as caught:  # which three clips of four read, and skipping finds in any case
        list(evaluation_batches([file], dataclasses.replace(SOUND, eval_clips=3), 2, labels_required=True))
    assert str(explain_failure(caught.value, [file], SOUND, True)) == f"{file}, record 1: {fault}"
    options = ReadOptions(on_bad_record="skip")
    (batch,) = evaluation_batches([file], SOUND, 2, options=options, labels_required=True)
    assert len(batch["id"]) == 1
    assert options.skipped.report()[0].startswith(f"{file}, record 1: {fault}")


def test_channels_that_no_picture_has() -> None:
    with pytest.raises(ArgumentError, match=r"^feature_sizes=1024: expected for records of clips the channels"):
        blank_batch(DataSpec(("rgb",), (1024,), 4, "clip"))


def test_made_up_squares_move_as_their_class_says(tmp_path: Path) -> None:
    files = write_clip_shards(tmp_path, num_videos=4, num_shards=2, num_frames=5, size=32, flow=True)
    spec = DataSpec(("rgb", "flow"), (3, 2), 4, "clip", max_frames=5, clip_size=32, clip_crop=0.0)
    for batch in evaluation_batches(files, spec, 1, labels_required=True):
        label = int(np.argmax(batch["labels"]))
        motion = ((1, 0), (-1, 0), (0, 1), (0, -1))[label]
        square = batch["rgb"].numpy()[0].min(-1) > 110
        for before, after in itertools.pairwise(square):
            moved = np.roll(before, (motion[1], motion[0]), (0, 1))
            assert (moved != after).mean() < 0.02
        flow = batch["flow"].numpy()[0, square].astype(float).mean(0)
        np.testing.assert_allclose(flow, np.array(motion) * 6.35 + 128, atol=1.5)


# What is wrong with a record


def jpeg(picture: np.ndarray) -> np.ndarray:
    return np.frombuffer(tf.io.encode_jpeg(picture).numpy(), np.uint8)


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 1), 90, np.uint8)


def colour(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 90, np.uint8)


GOOD = frame_record("v", [1], {"rgb": [jpeg(colour(8, 10))] * 6, "flow": [jpeg(grey(16, 10))] * 6})
WHERE_FROM = "Such records are written by tools.make_video_records."
SIX = [jpeg(colour(8, 10))] * 6


def changed(name: str, number: int, value: np.ndarray) -> bytes:
    frames = {"rgb": list(SIX), "flow": [jpeg(grey(16, 10))] * 6}
    frames[name][number] = value
    return frame_record("v", [1], frames)


BAD_RECORDS = {
    "no JPEG": (
        changed("rgb", 5, np.frombuffer(b"hello", np.uint8)),
        f"'rgb' holds 5 bytes at frame 5 that cannot be decoded as a JPEG. {WHERE_FROM}",
    ),
    "a truncated JPEG": (
        changed("rgb", 0, SIX[0][:300]),
        f"'rgb' holds 300 bytes at frame 0 that cannot be decoded as a JPEG. {WHERE_FROM}",
    ),
    "a frame without bytes": (
        changed("flow", 3, SIX[0][:0]),
        f"'flow' holds 0 bytes at frame 3 that cannot be decoded as a JPEG. {WHERE_FROM}",
    ),
    "frames of two sizes": (
        changed("rgb", 4, jpeg(colour(8, 12))),
        "'rgb' holds a picture of 12 x 8 at frame 4 and of 10 x 8 at frame 0 (width x height); expected one size. "
        "Write the record again.",
    ),
    "flow of an odd height": (
        changed("flow", 2, jpeg(grey(15, 10))),
        "'flow' holds a picture of 10 x 15 (width x height) at frame 2, expected an even height: x above y. "
        f"{WHERE_FROM}",
    ),
    "flow of another size": (
        frame_record("v", [1], {"rgb": SIX, "flow": [jpeg(grey(20, 10))] * 6}),
        "'rgb' holds pictures of 10 x 8, 'flow' holds pictures of 10 x 10 (width x height); expected one size. "
        "Write the record again.",
    ),
    "no flow": (
        frame_record("v", [1], {"rgb": SIX, "flow": []}),
        "'flow' holds no frames, 'rgb' holds 6. Leave 'flow' out of --feature_names, or the record out of the data.",
    ),
    "another feature": (
        frame_record("v", [1], {"rgb": SIX}),
        f"it has no feature 'flow'. Choose with --feature_names and --feature_sizes from: rgb ({len(SIX[0])}).",
    ),
    "floats": (
        frame_record("v", [1], {"rgb": np.ones((6, 4), np.float32), "flow": [jpeg(grey(16, 10))] * 6}),
        f"'rgb' holds 4 floats at frame 0, expected a JPEG. {WHERE_FROM}",
    ),
    "a video-level record": (
        video_record("v", [1], {"mean_rgb": np.ones(4)}),
        f"it holds no frames, only mean_rgb (4), and --record_format=clip was given. {WHERE_FROM}",
    ),
}


@pytest.mark.parametrize("case", BAD_RECORDS)
def test_a_bad_record_is_named(case: str) -> None:
    bad, fault = BAD_RECORDS[case]
    layout = Layout(SPEC.feature_names, (False, False))
    assert fault_of(bad, SPEC, layout, labels_required=True) == fault
    assert fault_of(GOOD, SPEC, layout, labels_required=True) is None


def read(files: list[str], options: ReadOptions | None = None) -> int:
    try:
        batches = evaluation_batches(files, SPEC, 2, options=options, labels_required=True)
        return sum(len(batch["id"]) for batch in batches)
    except tf.errors.OpError as error:
        raise explain_failure(error, files, SPEC, True) or error from None


def test_damage_that_training_meets_is_named_although_evaluation_passes_it_by(tmp_path: Path) -> None:
    bad, fault = BAD_RECORDS["no JPEG"]  # at frame 5; evaluation reads 1 to 4
    file = write_records(tmp_path / "x", [GOOD, bad])
    assert read([file]) == 2
    order = readers.training_order([file], SPEC)
    with pytest.raises(tf.errors.OpError) as caught:
        for _ in readers.training_batches(order, SPEC, 2, num_epochs=50):  # until a clip with frame 5 is drawn
            pass
    assert str(explain_failure(caught.value, [file], SPEC, True)) == f"{file}, record 1: {fault}"


def test_all_that_is_damaged_is_skipped(tmp_path: Path) -> None:
    """Each of these records passes by a check less strict than the one that it is for."""
    bad = [record for record, _ in BAD_RECORDS.values()]
    file = write_records(tmp_path / "x", [GOOD, *bad, record(6)])
    options = ReadOptions(on_bad_record="skip")
    assert read([file], options) == 2
    expected = [f"{file}, record {n}: {fault}" for n, (_, fault) in enumerate(BAD_RECORDS.values(), start=1)]
    report = options.skipped.report()
    assert len(report) == len(expected) + 1
    assert all(line.startswith(fault) for line, fault in zip(report, expected, strict=False))


def test_any_length_is_legal(tmp_path: Path) -> None:
    file = write_records(tmp_path / "x", [record(length) for length in (6, 0, 1, 5, 40)])
    assert read([file]) == 5
    assert read([file], ReadOptions(on_bad_record="skip")) == 5


def test_the_first_record_shows_channels_that_do_not_fit(tmp_path: Path) -> None:
    file = write_records(tmp_path / "x", [GOOD])
    with pytest.raises(
        UserError, match="record 0: it is read with --feature_sizes=1024: expected for records of clips"
    ):
        readers.training_order([file], DataSpec(("rgb",), (1024,), 4, "clip"))
