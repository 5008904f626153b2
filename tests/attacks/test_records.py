"""Readers under attack, in short; benchmarks/attack_records.py plays 20,000."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from attacks.damaged_records import FRAMES, LEVELS, VIDEOS, Arena, draw, frame_bytes, framed, vectors
from yt8m.data.record_writing import video_record, write_records
from yt8m.data.shards import READING_ERRORS, measure_records
from yt8m.errors import UserError
from yt8m.schema import DataSpec

import readers
from readers import ReadOptions, evaluation_batches, explain_failure


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Arena:
    return Arena(tmp_path_factory.mktemp("arena"))


@pytest.mark.parametrize("seed", range(6))
def test_damaged_records_are_named_and_nothing_wrong_is_read(arena: Arena, seed: int) -> None:
    assert arena.play(draw(seed, num_records=40)) == "skipped"


@pytest.mark.parametrize("seed", range(12))
def test_damaged_files_are_named_and_nothing_wrong_is_read(arena: Arena, seed: int) -> None:
    assert arena.play(draw(seed, of_file=True)) in ("sound", "skipped", "refused")


@pytest.fixture
def sound() -> list[bytes]:
    rng = np.random.default_rng(0)
    return [vectors(rng, f"v{number}") for number in range(4)]


def refusal(file: Path, labels_required: bool = True) -> str:
    try:
        for _ in evaluation_batches([str(file)], VIDEOS, 3, labels_required=labels_required):
            pass
    except READING_ERRORS as error:
        return str(explain_failure(error, [str(file)], VIDEOS, labels_required))
    except UserError as error:
        return str(error)
    return "none"


@pytest.mark.parametrize("length", [2**36, 2**62, 2**63, 2**64 - 1])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_length_beyond_the_file_under_a_sound_checksum(
    tmp_path: Path, sound: list[bytes], length: int, compressed: bool
) -> None:
    """TensorFlow takes the memory before it reads, and crashes."""
    content = b"".join([framed(sound[0]), framed(sound[1]), framed(sound[2], length), framed(sound[3])])
    file = tmp_path / "x"
    file.write_bytes(gzip.compress(content) if compressed else content)
    assert refusal(file).startswith(f"{file}, record 2: ")
    assert readers.estimate_num_records([str(file)]) >= 2
    options = ReadOptions(on_bad_record="skip")
    batches = evaluation_batches([str(file)], VIDEOS, 3, options=options, labels_required=True)
    assert sum(len(batch["id"]) for batch in batches) == 2
    assert options.skipped.damages[0].record == 2
    assert options.skipped.damages[-1].rest_lost


def test_a_damaged_part_of_a_record_is_found_though_another_part_follows(tmp_path: Path, sound: list[bytes]) -> None:
    """Protobuf merges parts of the same number: here two of `features`, the first with a name that is not UTF-8."""
    record = sound[1].replace(b"mean_audio", b"\xffean_audio") + sound[1]
    file = Path(write_records(tmp_path / "x", [sound[0], record]))
    assert refusal(file).startswith(f"{file}, record 1: it is neither a tf.train.Example nor")


def test_labels_that_protobuf_refuses_are_refused(tmp_path: Path, sound: list[bytes]) -> None:
    """Their list ends before its last class does: TensorFlow reads the classes before it, and says nothing."""
    record = sound[1]
    start = record.index(b"labels") + len(b"labels")
    assert record[start] == 0x12
    assert record[start + 2] == 0x1A
    cut = record[: start + 3] + bytes([record[start + 3] - 1]) + record[start + 4 :]
    file = Path(write_records(tmp_path / "x", [sound[0], cut, sound[2]]))
    assert refusal(file).startswith(f"{file}, record 1: it is neither a tf.train.Example nor")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("level", ["video", "floats"])
def test_a_number_that_is_not_finite_is_damage(tmp_path: Path, value: float, level: str) -> None:
    spec, make = LEVELS[level]
    records = [make(np.random.default_rng(number), f"v{number}") for number in range(3)]
    record = tf.train.SequenceExample.FromString(records[1])
    if level == "video":
        record.context.feature["mean_audio"].float_list.value[2] = value
    else:
        record.feature_lists.feature_list["audio"].feature[0].float_list.value[2] = value
    file = write_records(tmp_path / "x", [records[0], record.SerializeToString(), records[2]])
    options = ReadOptions(on_bad_record="skip")
    batches = evaluation_batches([file], spec, 3, options=options, labels_required=True)
    assert sum(len(batch["id"]) for batch in batches) == 2
    (damage,) = options.skipped.damages
    assert damage.record == 1
    assert f"holds {value}" in damage.fault


@pytest.mark.parametrize("video_id", ["a,b", 'a"b', "a\nb", "a\0b"])
def test_an_id_that_no_csv_can_hold_is_damage(tmp_path: Path, sound: list[bytes], video_id: str) -> None:
    file = Path(write_records(tmp_path / "x", [sound[0], vectors(np.random.default_rng(1), video_id)]))
    assert refusal(file, labels_required=False).startswith(f"{file}, record 1: its id {video_id!r} has a comma")


def test_a_line_end_in_a_name_does_not_break_the_message(tmp_path: Path, sound: list[bytes]) -> None:
    record = sound[1].replace(b"mean_rgb", b"mean\nrgb")
    message = refusal(Path(write_records(tmp_path / "x", [sound[0], record])))
    assert "record 1: it has no feature 'mean_rgb'" in message
    assert r"mean\nrgb (8)" in message


# Shards that change while they are read


@pytest.mark.parametrize("change", ["gone", "emptied", "cut"])
@pytest.mark.parametrize("on_bad_record", ["error", "skip"])
def test_shards_that_are_lost_while_training_has_no_end(
    tmp_path: Path, sound: list[bytes], change: str, on_bad_record: str
) -> None:
    files = [write_records(tmp_path / name, sound) for name in ("a", "b")]
    options = ReadOptions(on_bad_record=on_bad_record)  # type: ignore[arg-type]  # both are literals
    order = readers.training_order(files, VIDEOS, options=options)
    batches = iter(readers.training_batches(order, VIDEOS, 4))
    next(batches)
    for file in map(Path, files):
        if change == "gone":
            file.unlink()
        else:
            file.write_bytes(b"" if change == "emptied" else file.read_bytes()[:30])
    with pytest.raises(READING_ERRORS) as caught:  # noqa: PT012  # what was read ahead comes first
        for _ in range(50):
            next(batches)
    known = options.skipped.damages if on_bad_record == "skip" else None
    explanation = str(explain_failure(caught.value, files, VIDEOS, True, known))
    assert str(tmp_path) in explanation
    assert "\n" not in explanation
    if on_bad_record == "skip":
        assert "--on_bad_record=skip" not in explanation


def test_one_shard_that_is_lost_is_left_out_and_reported(tmp_path: Path, sound: list[bytes]) -> None:
    files = [write_records(tmp_path / name, sound) for name in ("a", "b")]
    options = ReadOptions(on_bad_record="skip")
    batches = evaluation_batches(files, VIDEOS, 4, options=options, labels_required=True)
    assert sum(len(batch["id"]) for batch in batches) == 8
    Path(files[1]).unlink()
    assert sum(len(batch["id"]) for batch in batches) == 4
    assert "b: it cannot be read: " in options.skipped.report()[0]


@pytest.mark.parametrize("on_bad_record", ["error", "skip"])
def test_a_shard_that_is_cut_between_two_records_while_it_is_read(tmp_path: Path, on_bad_record: str) -> None:
    """TensorFlow takes the cut for the end of the shard."""
    wide = DataSpec(("mean_rgb",), (50_000,), 4)  # 200 KB per record, so that little of the shard is read ahead
    vector = np.zeros(50_000, np.float32)
    file = write_records(tmp_path / "x", [video_record(f"v{i}", [0], {"mean_rgb": vector}) for i in range(60)])
    options = ReadOptions(on_bad_record=on_bad_record)  # type: ignore[arg-type]  # both are literals
    batches = iter(evaluation_batches([file], wide, 1, options=options, labels_required=True))
    next(batches)
    with Path(file).open("r+b") as shard:
        shard.truncate(measure_records(file, 40).offset)
    with pytest.raises(READING_ERRORS) as caught:
        list(batches)
    known = options.skipped.damages if on_bad_record == "skip" else None
    assert str(explain_failure(caught.value, [file], wide, True, known)) == (
        f"{file}: it became shorter while it was read. Leave shards alone while a program runs."
    )


# What other programs write


def test_what_mediapipe_extracts_is_read_as_it_is(tmp_path: Path) -> None:
    """Names: google-ai-edge/mediapipe, mediapipe/util/sequence/media_sequence.h."""
    record = tf.train.SequenceExample()
    record.context.feature["clip/data_path"].bytes_list.value.append(b"/tmp/video.mp4")
    record.context.feature["clip/start/timestamp"].int64_list.value.append(0)
    record.context.feature["clip/label/index"].int64_list.value.extend([3, 5])
    for key, size in (("RGB/feature/floats", 8), ("AUDIO/feature/floats", 4)):
        for second in range(3):
            frame = np.full(size, second, np.float32)
            record.feature_lists.feature_list[key].feature.add().float_list.value.extend(frame)
            record.feature_lists.feature_list[key.replace("floats", "timestamp")].feature.add().int64_list.value.append(
                1
            )
    unlabelled = tf.train.SequenceExample.FromString(record.SerializeToString())
    unlabelled.context.feature.pop("clip/label/index")
    unlabelled.context.feature["clip/media_id"].bytes_list.value.append(b"the video")
    file = write_records(tmp_path / "x", [record.SerializeToString(), unlabelled.SerializeToString()])
    (batch,) = evaluation_batches([file], FRAMES, 2, labels_required=False)
    assert batch["id"].numpy().tolist() == [b"/tmp/video.mp4", b"the video"]
    assert np.flatnonzero(batch["labels"][0]).tolist() == [3, 5]
    assert not batch["labels"][1].numpy().any()
    assert batch["audio"].numpy()[0].tolist() == [[0.0] * 4, [1.0] * 4, [2.0] * 4]
    with pytest.raises(READING_ERRORS) as caught:
        list(evaluation_batches([file], FRAMES, 2, labels_required=True))
    message = str(explain_failure(caught.value, [file], FRAMES, True))
    assert message.startswith(f"{file}, record 1: it has no feature 'clip/label/index'")
    counts, _ = readers.class_counts([write_records(tmp_path / "y", [record.SerializeToString()])], FRAMES, 9)
    assert np.flatnonzero(counts).tolist() == [3, 5]


def test_one_bare_record_is_recognised(tmp_path: Path) -> None:
    file = tmp_path / "features.pb"
    file.write_bytes(frame_bytes(np.random.default_rng(0), "a long name"))
    with pytest.raises(UserError, match=r"features\.pb: it is a single serialized record, .* Wrap it: with tf\.io\."):
        evaluation_batches([str(file)], FRAMES, 2, labels_required=True)


def test_a_record_with_frames_and_means_is_read_at_either_level(tmp_path: Path) -> None:
    record = tf.train.SequenceExample.FromString(frame_bytes(np.random.default_rng(0), "v"))
    record.context.feature["mean_rgb"].float_list.value.extend(range(8))
    record.context.feature["mean_audio"].float_list.value.extend(range(4))
    file = write_records(tmp_path / "x", [record.SerializeToString()])
    (batch,) = evaluation_batches([file], VIDEOS, 2, labels_required=True)
    assert batch["mean_rgb"].numpy().tolist() == [[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]]
    (batch,) = evaluation_batches([file], FRAMES, 2, labels_required=True)
    assert batch["num_frames"].numpy().tolist() == [len(record.feature_lists.feature_list["rgb"].feature)]
