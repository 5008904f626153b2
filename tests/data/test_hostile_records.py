"""Input that no reader should meet: each ends in one line that names file, record and field, or is skipped.

docs/data.md lists the same messages.
"""

import gc
import gzip
import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import run

from yt8m.data.record_writing import frame_record, video_record, write_records
from yt8m.data.shards import Damage, Record, Shard, stored_records
from yt8m.errors import UserError
from yt8m.schema import DataSpec

import readers
from readers import ReadOptions, class_counts, evaluation_batches, explain_failure

FRAMES = DataSpec(("rgb", "audio"), (8, 4), num_classes=10, record_format="frame")
VIDEOS = DataSpec(("mean_rgb", "mean_audio"), (8, 4), num_classes=10)
FETCH = "Fetch the file again, or pass --on_bad_record=skip."
CLASSES = "Does --num_classes fit this data?"
SIZES = "Is --feature_sizes in the order of --feature_names?"


RNG = np.random.default_rng(0)


def frames(length: int, size: int) -> np.ndarray:
    """Frames that do not compress, as real ones do not."""
    return RNG.integers(1, 256, (length, size), dtype=np.uint8)


def record(name: str = "v", labels: Sequence[int] | None = (1,), rgb: int = 3, audio: int = 3, **how: Any) -> bytes:
    return frame_record(name, labels, {"rgb": frames(rgb, 8), "audio": frames(audio, 4)}, **how)


def changed(change: str) -> bytes:
    """A record of which one thing was changed by a line of Python that calls its parts `context` and `rgb`."""
    parsed = tf.train.SequenceExample.FromString(record())
    exec(change, {"context": parsed.context.feature, "rgb": parsed.feature_lists.feature_list["rgb"].feature})
    return parsed.SerializeToString()


def vectors(rgb: int = 8, audio: int = 4, names: tuple[str, ...] = VIDEOS.feature_names) -> bytes:
    return video_record("v", [1], {names[0]: np.ones(rgb), names[1]: np.ones(audio)})


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    """Frees the graphs of each test: hundreds of them at once take the collector half a minute."""
    yield
    gc.collect()


GOOD = [record(f"v{i}") for i in range(4)]


def read(files: list[str], spec: DataSpec, options: ReadOptions | None = None, labels_required: bool = True) -> int:
    """Reads files as a program does: returns how many records, or raises what the user gets to see."""
    try:
        batches = evaluation_batches(files, spec, 3, options=options, labels_required=labels_required)
        return sum(len(batch["id"]) for batch in batches)
    except tf.errors.OpError as error:
        raise explain_failure(error, files, spec, labels_required) or error from None


def refusal(files: list[str], spec: DataSpec = FRAMES) -> str:
    with pytest.raises(UserError) as caught:
        read(files, spec)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(Path(files[-1]).parent) + "/", "")


def skipped(files: list[str], spec: DataSpec = FRAMES) -> tuple[int, list[str]]:
    """How many records are read nonetheless, and what is reported."""
    options = ReadOptions(on_bad_record="skip")
    num_records = read(files, spec, options)
    folder = str(Path(files[-1]).parent) + "/"
    return num_records, [line.replace(folder, "") for line in options.skipped.report()]


# Records: the third of four is the bad one.

BAD_RECORDS = {
    "class too large": (record(labels=[1, 10]), f"'labels' holds class 10, expected 0 to 9. {CLASSES}"),
    "class below 0": (record(labels=[-1]), f"'labels' holds class -1, expected 0 to 9. {CLASSES}"),
    "no labels": (
        record(labels=None),
        "it has no feature 'labels', so it can be used for inference only. Is this a test shard? Pass labelled shards.",
    ),
    "labels of another kind": (
        changed("context['labels'].float_list.value.append(1)"),
        "'labels' holds floats, expected integers in [0, 10).",
    ),
    "no id": (
        changed("context.pop('id')"),
        "it has no id. Expected a string named 'id' or 'video_id' or 'clip/media_id' or 'clip/data_path'.",
    ),
    "two ids": (changed("context['id'].bytes_list.value.append(b'x')"), "'id' holds 2 bytes, expected one string."),
    "too narrow": (
        frame_record("v", [1], {"rgb": frames(3, 7), "audio": frames(3, 4)}),
        f"'rgb' holds 7 bytes a frame (frame 0), expected 8. {SIZES}",
    ),
    "too wide": (
        frame_record("v", [1], {"rgb": frames(3, 8), "audio": frames(3, 5)}),
        f"'audio' holds 5 bytes a frame (frame 0), expected 4. {SIZES}",
    ),
    "one frame too wide": (
        changed("rgb[1].bytes_list.value[0] += b'x'"),
        f"'rgb' holds 9 bytes a frame (frame 1), expected 8. {SIZES}",
    ),
    "two strings": (
        changed("rgb[1].bytes_list.value.append(b'x' * 8)"),
        "'rgb' holds 2 strings at frame 1, expected one of 8 bytes.",
    ),
    "a frame without a value": (
        changed("rgb[1].Clear()"),
        "'rgb' holds nothing at frame 1, expected 8 bytes as in the first record.",
    ),
    "floats among bytes": (
        frame_record("v", [1], {"rgb": frames(3, 8).astype(np.float32), "audio": frames(3, 4)}),
        "'rgb' holds floats at frame 0, expected 8 bytes as in the first record.",
    ),
    "audio missing": (
        frame_record("v", [1], {"rgb": frames(3, 8)}),
        "it has no feature 'audio'. Choose with --feature_names and --feature_sizes from: rgb (8).",
    ),
    "audio empty": (
        record(audio=0),
        "'audio' holds no frames, 'rgb' holds 3. Leave 'audio' out of --feature_names, or the record out of the data.",
    ),
    "not a record": (
        b"hello, world",
        "it is neither a tf.train.Example nor a tf.train.SequenceExample. Is this a file of YouTube-8M records?",
    ),
    "a video-level record": (
        vectors(),
        "it holds no features of frames, only mean_audio (4), mean_rgb (8), and --frame_features or "
        "--record_format=frame was given. Leave it out, or pass frame-level shards.",
    ),
    "other names": (
        frame_record("v", [1], {"RGB/feature/floats": np.ones((1, 8)), "AUDIO/feature/floats": np.ones((1, 4))}),
        "its features are named RGB/feature/floats, AUDIO/feature/floats, those of the first record rgb, audio. "
        "Read shards of one kind at a time.",
    ),
}


@pytest.mark.parametrize("case", BAD_RECORDS)
def test_a_bad_record_is_named_or_skipped(tmp_path: Path, case: str) -> None:
    bad, fault = BAD_RECORDS[case]
    files = [write_records(tmp_path / "a", GOOD[:1]), write_records(tmp_path / "b", [*GOOD[:2], bad, GOOD[3]])]
    assert refusal(files) == f"b, record 2: {fault}"
    expected = [f"b, record 2: {fault} Skipped; reading goes on with record 3.", "Skipped in total: 1 x record."]
    assert skipped(files) == (4, expected)


HARMLESS_RECORDS = {
    "no frames": record(rgb=0, audio=0),
    "one frame": record(rgb=1, audio=1),
    "more than 300 frames": record(rgb=301, audio=301),
    "audio shorter than rgb": record(rgb=3, audio=2),
    "a label twice": record(labels=[1, 1]),
    "an empty list of labels": record(labels=[]),
    "the other id key": record(id_key="video_id"),
    "the id of another record": GOOD[0],
}


@pytest.mark.parametrize("case", HARMLESS_RECORDS)
def test_a_harmless_record_is_read(tmp_path: Path, case: str) -> None:
    file = write_records(tmp_path / "x", [*GOOD, HARMLESS_RECORDS[case]])
    assert read([file], FRAMES) == 5
    assert skipped([file]) == (5, [])


# Files


def damaged(place: Path, change: str) -> tuple[list[str], int]:
    """A sound file and one that was damaged, and the length of a record in it with its framing."""
    good = write_records(place / "good", GOOD)
    content = Path(good).read_bytes()
    length = len(content) // 4
    changes = {
        "empty": b"",
        "csv": b"VideoId,LabelConfidencePairs\nabc,1 0.5\n",
        "html": b"<!DOCTYPE html>\n<html><body>Not found</body></html>\n",
        "truncated": content[: 2 * length + 30],
        "truncated between": content[: 2 * length + 5],
        "flipped payload": flipped(content, 2 * length + 40),
        "flipped length": flipped(content, 2 * length),
        "gzip truncated": gzip.compress(content)[:-30],
        "gzip flipped": flipped(gzip.compress(content), 60),
    }
    bad = place / "bad"
    bad.write_bytes(changes[change])
    return [good, str(bad)], length


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]


WHOLE_FILES = {
    "empty": "it is empty.",
    "csv": "it is no file of TFRecords: it starts with 'VideoId,LabelConfidencePairs'.",
    "html": "it is no file of TFRecords: it starts with '<!DOCTYPE html>'.",
}


@pytest.mark.parametrize("case", WHOLE_FILES)
def test_a_file_that_holds_no_records(tmp_path: Path, case: str) -> None:
    files, _ = damaged(tmp_path, case)
    assert refusal(files) == f"bad: {WHOLE_FILES[case]} {FETCH}"
    expected = [f"bad: {WHOLE_FILES[case]} The file is skipped.", "Skipped in total: 1 x whole file."]
    assert skipped(files) == (4, expected)


def test_a_truncated_file(tmp_path: Path) -> None:
    files, length = damaged(tmp_path, "truncated")
    message = f"bad, record 2: the file ends in the middle of this record (byte {2 * length})."
    assert refusal(files) == f"{message} {FETCH}"
    num_records, (line, total) = skipped(files)
    assert num_records == 4 + 2
    assert line == f"{message} Skipped with the rest of the file; reading goes on with the next file."
    assert total == "Skipped in total: 1 x record, 1 x rest of a file."


def test_a_flipped_byte_costs_one_record(tmp_path: Path) -> None:
    files, length = damaged(tmp_path, "flipped payload")
    message = f"bad, record 2: its checksum does not fit what is stored (byte {2 * length + 12})."
    assert refusal(files) == f"{message} {FETCH}"
    num_records, report = skipped(files)
    assert num_records == 4 + 3
    assert report == [f"{message} Skipped; reading goes on with record 3.", "Skipped in total: 1 x record."]


def test_a_flipped_byte_in_a_length_costs_the_rest_of_the_file(tmp_path: Path) -> None:
    files, length = damaged(tmp_path, "flipped length")
    fault = f"its length or its checksum is damaged, so the rest of the file cannot be read either (byte {2 * length})."
    assert refusal(files) == f"bad, record 2: {fault} {FETCH}"
    assert skipped(files)[0] == 4 + 2


@pytest.mark.parametrize("case", ["gzip truncated", "gzip flipped"])
def test_a_damaged_gzip_file_is_named(tmp_path: Path, case: str) -> None:
    files, _ = damaged(tmp_path, case)
    assert refusal(files).startswith("bad, record ")
    num_records, report = skipped(files)
    assert 4 <= num_records < 8
    assert report[-1] == "Skipped in total: 1 x record, 1 x rest of a file."


def test_a_cut_between_records_is_found_when_the_file_is_examined(tmp_path: Path) -> None:
    """TensorFlow takes fewer than 12 bytes after the last record for the end of the file."""
    files, length = damaged(tmp_path, "truncated between")
    num_records, report = skipped(files)
    assert num_records == 4 + 2
    assert report[0].startswith(f"bad, record 2: the file ends in the middle of this record (byte {2 * length}).")


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_whatever_byte_is_flipped_all_records_before_it_are_kept(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    place = tmp_path_factory.mktemp("flipped")
    content = Path(write_records(place / "good", GOOD)).read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    bad = place / "bad"
    bad.write_bytes(flipped(content, at))
    items = list(stored_records(Shard(str(bad), "")))
    number = at // (len(content) // 4)
    kept = [item.serialized for item in items if isinstance(item, Record)]
    assert [item.record for item in items if isinstance(item, Damage)] == [number]
    assert kept in (GOOD[:number], GOOD[:number] + GOOD[number + 1 :])


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    files = [write_records(tmp_path / "good", GOOD), str(tmp_path / "gone")]
    assert refusal(files).startswith("gone: it cannot be read: ")
    assert skipped(files)[0] == 4


def test_nothing_that_can_be_read_is_an_error_even_if_damage_is_skipped(tmp_path: Path) -> None:
    options = ReadOptions(on_bad_record="skip")
    (tmp_path / "empty").touch()
    with pytest.raises(UserError, match=r"^None of the 1 files can be read\. .*/empty: it is empty\."):
        read([str(tmp_path / "empty")], FRAMES, options)
    with pytest.raises(UserError, match="x, record 0: 'labels' holds class 11"):
        read([write_records(tmp_path / "x", [record(labels=[11])])], FRAMES, options)
    with pytest.raises(UserError, match="z: it holds no record"):
        read([write_records(tmp_path / "z", [], "GZIP")], FRAMES, options)


# Flags that do not fit the data


@pytest.mark.parametrize(
    ("spec", "first", "fault"),
    [
        (
            DataSpec(("rgb", "sound"), (8, 4), 10, record_format="frame"),
            record(),
            "it has no feature 'sound'. Choose with --feature_names and --feature_sizes from: audio (4), rgb (8).",
        ),
        (
            DataSpec(("rgb", "audio"), (4, 8), 10, record_format="frame"),
            record(),
            f"'rgb' holds 8 bytes a frame (frame 0), expected 4. {SIZES}",
        ),
        (
            VIDEOS,
            record(),
            "it holds features of every frame (audio (4), rgb (8)), and --frame_features was not given. "
            "Pass --frame_features, or video-level shards.",
        ),
        (VIDEOS, vectors(rgb=9), f"'mean_rgb' holds 9 floats, expected 8. {SIZES}"),
        (
            VIDEOS,
            vectors(names=("mean_rgb", "sound")),
            "it has no feature 'mean_audio'. Choose with --feature_names and --feature_sizes from: "
            "mean_rgb (8), sound (4).",
        ),
    ],
)
def test_flags_that_do_not_fit_are_refused_before_the_first_step(
    tmp_path: Path, spec: DataSpec, first: bytes, fault: str
) -> None:
    file = write_records(tmp_path / "x", [first])
    for open_files in (
        lambda: readers.training_order([file], spec),
        lambda: evaluation_batches([file], spec, 2, labels_required=True),
    ):
        with pytest.raises(UserError) as caught:
            open_files()
        assert str(caught.value) == f"{file}, record 0: {fault}"


# Explaining and counting


def test_sound_files_explain_nothing(tmp_path: Path) -> None:
    file = write_records(tmp_path / "x", GOOD)
    assert explain_failure(tf.errors.InvalidArgumentError(None, None, "a bug"), [file], FRAMES, True) is None
    assert explain_failure(ValueError("a bug"), ["gone"], FRAMES, True) is None


def test_what_training_skips_is_counted_once_for_all_epochs(tmp_path: Path) -> None:
    files = [
        write_records(tmp_path / "a", [GOOD[0], record(labels=[99]), *GOOD[1:]]),
        write_records(tmp_path / "b", GOOD),
    ]
    options = ReadOptions(on_bad_record="skip")
    order = readers.training_order(files, FRAMES, options=options)
    batches = readers.training_batches(order, FRAMES, 3, num_epochs=2)
    assert sum(len(batch["id"]) for batch in batches) == 2 * 8
    assert [(Path(damage.file).name, damage.record) for damage in options.skipped.damages] == [("a", 1)]


def test_class_counts_skip_too(tmp_path: Path) -> None:
    file = write_records(tmp_path / "a", [GOOD[0], record(labels=[99]), *GOOD[1:]])
    counts, num_examples = class_counts([file], FRAMES, 100, ReadOptions(on_bad_record="skip"))
    assert (counts[1], counts.sum(), set(num_examples)) == (4, 4, {4})


def cut_shard(path: Path) -> str:
    """Writes four video-level records, the last of them cut; returns how the report of it begins."""
    features = {"mean_rgb": np.ones(8), "mean_audio": np.ones(4)}
    write_records(path, [video_record(f"v{number}", [1], features) for number in range(4)])
    path.write_bytes(path.read_bytes()[:-3])
    return f"{path}, record 3: the file ends in the middle of this record"


def test_programs_go_on_after_damage_and_report_it_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "yt8m")
    files = {name: f"{tmp_path}/{name}" for name in ("trained", "evaluated", "predicted")}
    reports = {name: cut_shard(tmp_path / name) for name in files}

    def times_reported(name: str) -> int:
        return sum(message.startswith(reports[name]) for message in caplog.messages)

    options = [f"--train_dir={tmp_path}/run", "--batch_size=2", "--on_bad_record=skip"]
    sizes = ["--feature_names=mean_rgb,mean_audio", "--feature_sizes=8,4", "--num_classes=10"]
    data = [f"--train_data_pattern={files['trained']}", f"--eval_data_pattern={files['evaluated']}"]
    run("train", *sizes, *options, *data, "--num_epochs=2", "--export_model_steps=1")
    assert "Step 3 is saved" in caplog.text  # two passes of three sound records
    assert times_reported("trained") == times_reported("evaluated") == 1
    run("inference", *options, f"--input_data_pattern={files['predicted']}", f"--output_file={tmp_path}/out.csv")
    assert times_reported("predicted") == 1
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 1 + 3


def test_check_dataset_lists_the_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_records(tmp_path / "a", [GOOD[0], record(labels=[99]), *GOOD[1:]])
    check_dataset = importlib.import_module("tools.check_dataset")
    values = flags.FlagValues()
    check_dataset.define_flags(values)
    sizes = ["--frame_features", "--feature_names=rgb,audio", "--feature_sizes=8,4", "--num_classes=10"]
    values(["check_dataset", f"--data_pattern={tmp_path}/*", *sizes])
    with pytest.raises(UserError, match="damaged in 1 places"):
        check_dataset.main(values)
    first, second, *_, damage = capsys.readouterr().out.splitlines()
    assert first == "1 files, 4 sound records, 0 of them with no label"
    assert second == "4 labels of 1 of 10 classes"
    assert damage.startswith(f"{tmp_path}/a, record 1: 'labels' holds class 99")
