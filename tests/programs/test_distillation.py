"""A run learns from the predictions of another one: from its directory, its CSV, or records that carry them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from programs import run

from yt8m.data.record_writing import frame_record, video_record, write_records
from yt8m.data.synthetic import write_frame_shards, write_video_shards
from yt8m.errors import UserError
from yt8m.schema import TaughtDataSpec

import readers

DISTILLING = ("--label_loss=DistillationLoss", "--hparams=loss.teacher_share=0.9", "--hparams=loss.temperature=2")


@pytest.fixture(scope="module", name="place")
def make_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, a trained teacher and its predictions of all classes of the training videos."""
    place = tmp_path_factory.mktemp("distillation")
    write_video_shards(place, num_videos=60, num_shards=2, num_classes=4)
    train(place, "teacher", "--max_steps=6")
    shards = f"--input_data_pattern={place}/train*.tfrecord"
    run("inference", f"--train_dir={place}/teacher", shards, f"--output_file={place}/teacher.csv", "--top_k=4")
    return place


def train(place: Path, name: str, *arguments: str, shards: str = "train*.tfrecord") -> dict[str, np.ndarray]:
    """Trains a run and returns its weights."""
    line = [f"--train_data_pattern={place}/{shards}", f"--train_dir={place}/{name}", "--num_classes=4"]
    run("train", *line, "--batch_size=20", "--num_epochs=0", "--max_steps=3", "--class_prior_examples=0", *arguments)
    checkpoint = tf.train.load_checkpoint(str(place / name))
    names = [name for name in checkpoint.get_variable_to_shape_map() if "_trainable_variables" in name]
    return {name: checkpoint.get_tensor(name) for name in names}


def test_a_run_its_csv_and_two_devices_teach_the_same(place: Path) -> None:
    from_run = train(place, "from_run", *DISTILLING, f"--teacher={place}/teacher")
    from_csv = train(place, "from_csv", *DISTILLING, f"--teacher={place}/teacher.csv")
    on_two = train(place, "on_two", *DISTILLING, f"--teacher={place}/teacher.csv", "--num_gpu=2")
    alone = train(place, "alone")
    assert len(from_run) == 2  # a kernel and a bias
    for name, weights in from_run.items():
        # The CSV has six significant digits.
        np.testing.assert_allclose(from_csv[name], weights, atol=2e-4)
        np.testing.assert_allclose(on_two[name], from_csv[name], atol=1e-5)
    assert any(np.abs(alone[name] - weights).max() > 1e-3 for name, weights in from_run.items())


def test_a_distilled_run_is_evaluated_without_its_teacher(place: Path) -> None:
    train(place, "evaluated", *DISTILLING, f"--teacher={place}/teacher.csv")
    shards = f"--eval_data_pattern={place}/train*.tfrecord"
    run("eval", f"--train_dir={place}/evaluated", shards, "--run_once")
    assert (place / "evaluated/eval/metrics.json").exists()


def test_a_teacher_that_lacks_a_video_is_named_and_leaves_no_run(place: Path) -> None:
    rows = (place / "teacher.csv").read_text().splitlines()
    (place / "short.csv").write_text("\n".join(rows[:-1]) + "\n")
    missing = rows[-1].split(",")[0]
    with pytest.raises(UserError, match=rf"^--teacher: it has no row for video {missing}, "):
        train(place, "short", *DISTILLING, f"--teacher={place}/short.csv")
    assert not (place / "short").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--teacher=/nowhere/x.csv",), r"^/nowhere/x\.csv cannot be read"),
        (("--teacher={place}",), "holds no run"),
        (("--teacher={place}/teacher", "--num_classes=5"), r"trained with --num_classes=4, this run has 5\."),
        (
            ("--teacher={place}/teacher", "--feature_names=mean_audio", "--feature_sizes=128"),
            r"its model reads the feature mean_rgb of size 1024, which is not among --feature_names=mean_audio\.",
        ),
        (
            ("--teacher={place}/teacher", "--hparams=loss.temperature=-1"),
            r"^--hparams=loss\.DistillationLoss\.temperature=-1\.0: expected a number above 0\.",
        ),
    ],
)
def test_a_teacher_that_cannot_teach_is_refused(place: Path, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(place, "refused", DISTILLING[0], *(argument.format(place=place) for argument in arguments))
    assert not (place / "refused").exists()


# ---- records that carry predictions


def add_predictions(place: Path, output: str, *, shards: str = "train*.tfrecord", csv: str = "teacher.csv") -> None:
    line = [f"--input_data_pattern={place}/{shards}", f"--submission_file={place}/{csv}"]
    run("tools.add_predictions", *line, f"--output_dir={place}/{output}")


def test_records_teach_what_the_csv_in_them_teaches(place: Path) -> None:
    rows = (place / "teacher.csv").read_text().splitlines()
    # Lists of 3, 2, 1 and 0 of the 4 classes, by turns.
    cut = [" ".join(row.split(" ")[: 6 - 2 * (i % 4)]) for i, row in enumerate(rows[1:])]
    cut = [row or rows[1 + i].split(",")[0] + "," for i, row in enumerate(cut)]
    (place / "cut.csv").write_text("\n".join([rows[0], *cut]) + "\n")
    add_predictions(place, "taught", csv="cut.csv")
    from_csv = train(place, "from_cut_csv", *DISTILLING, f"--teacher={place}/cut.csv")
    from_records = train(place, "from_records", *DISTILLING, "--teacher=records", shards="taught/train*.tfrecord")
    for name, weights in from_csv.items():
        np.testing.assert_array_equal(from_records[name], weights)
    shards = f"--eval_data_pattern={place}/train*.tfrecord"
    run("eval", f"--train_dir={place}/from_records", shards, "--run_once")  # its own records need no teacher


@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_copies_of_frame_level_shards_carry_the_predictions_and_nothing_else_changes(
    tmp_path: Path, compression: str
) -> None:
    (written,) = write_frame_shards(tmp_path, prefix="plain", num_videos=6, num_shards=1, num_classes=4)
    records = list(tf.data.TFRecordDataset(written).as_numpy_iterator())
    write_records(tmp_path / "train.tfrecord", records, compression)
    spec = TaughtDataSpec(("rgb", "audio"), (1024, 128), 4, record_format="frame")
    names = [tf.train.SequenceExample.FromString(r).context.feature["id"].bytes_list.value[0].decode() for r in records]
    rows = [f"{name},{i % 4} 0.{i}25 {(i + 1) % 4} 0.0625" for i, name in enumerate(names)]
    (tmp_path / "teacher.csv").write_text("VideoId,LabelConfidencePairs\n" + "\n".join(reversed(rows)) + "\n")
    add_predictions(tmp_path, "taught")
    (batch,) = readers.evaluation_batches([f"{tmp_path}/taught/train.tfrecord"], spec, 9, labels_required=True)
    expected = np.zeros((6, 4))
    for i in range(6):
        expected[i, [i % 4, (i + 1) % 4]] = [float(f"0.{i}25"), 0.0625]
    np.testing.assert_allclose(batch["teacher_predictions"], expected, rtol=1e-7)
    copies = tf.data.TFRecordDataset(f"{tmp_path}/taught/train.tfrecord", compression).as_numpy_iterator()
    for record, copy in zip(records, copies, strict=True):
        taught = tf.train.SequenceExample.FromString(copy)
        for key in ("teacher_classes", "teacher_scores"):
            del taught.context.feature[key]
        assert taught == tf.train.SequenceExample.FromString(record)


def test_nothing_is_overwritten_and_nothing_half_is_left(place: Path, tmp_path: Path) -> None:
    before = {file.name: file.read_bytes() for file in place.glob("train*.tfrecord")}
    with pytest.raises(UserError, match=r"train0000\.tfrecord is there already"):
        add_predictions(place, ".")
    assert {file.name: file.read_bytes() for file in place.glob("train*.tfrecord")} == before
    rows = (place / "teacher.csv").read_text().splitlines()
    (place / "lacking.csv").write_text("\n".join(rows[:-1]) + "\n")
    missing = rows[-1].split(",")[0]
    with pytest.raises(UserError, match=rf"lacking\.csv: there is no row for video {missing} of --input_data_pattern"):
        add_predictions(place, "lacking", csv="lacking.csv")
    assert not list((place / "lacking").iterdir())
    (place / "twice.csv").write_text("\n".join([*rows, rows[-1]]) + "\n")
    with pytest.raises(UserError, match=rf"twice\.csv: video {missing} has two rows"):
        add_predictions(place, "twice", csv="twice.csv")


Change = Callable[[Any], None]


def without(key: str) -> Change:
    return lambda feature: feature.pop(key)


def put(key: str, kind: str, values: Sequence[float]) -> Change:
    def change(feature: Any) -> None:
        feature[key].Clear()
        getattr(feature[key], kind).value.extend(values)

    return change


@pytest.mark.parametrize("level", ["video", "frame"])
@pytest.mark.parametrize("number", [0, 2])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("teacher_classes"), "it has no feature 'teacher_classes', in which --teacher=records looks"),
        (without("teacher_scores"), "it has no feature 'teacher_scores'"),
        (put("teacher_classes", "float_list", [1, 2]), "'teacher_classes' holds floats and 'teacher_scores' floats"),
        (put("teacher_classes", "int64_list", [1]), "holds 1 different classes of 1, 'teacher_scores' 2 scores"),
        (put("teacher_classes", "int64_list", [1, 1]), "holds 1 different classes of 2"),
        (put("teacher_classes", "int64_list", [1, 4]), r"'teacher_classes' holds class 4, expected 0 to 3\."),
        (put("teacher_classes", "int64_list", [-1, 1]), "'teacher_classes' holds class -1"),
        (put("teacher_scores", "float_list", [0.5, 1.5]), "'teacher_scores' holds 1.5, expected probabilities"),
        (put("teacher_scores", "float_list", [0.5, np.nan]), "'teacher_scores' holds nan"),
    ],
)
def test_a_record_whose_teacher_cannot_be_read_is_named_or_skipped(
    tmp_path: Path, level: str, number: int, change: Change, message: str
) -> None:
    records = []
    for i in range(4):
        values = np.zeros([3, 2] if level == "frame" else [2], np.uint8 if level == "frame" else np.float32)
        write = frame_record if level == "frame" else video_record
        record = tf.train.SequenceExample.FromString(write(f"v{i}", [1], {"x": values}))
        put("teacher_classes", "int64_list", [1, 2])(record.context.feature)
        put("teacher_scores", "float_list", [0.5, 0.25])(record.context.feature)
        if i == number:
            change(record.context.feature)
        records.append(record.SerializeToString())
    file, spec = write_records(tmp_path / "train", records), TaughtDataSpec(("x",), (2,), 4, record_format=level)
    with pytest.raises(UserError, match=f"record {number}: .*{message}"):
        read(file, spec, readers.ReadOptions())
    assert read(file, spec, readers.ReadOptions(on_bad_record="skip")) == 3


def read(file: str, spec: TaughtDataSpec, options: readers.ReadOptions) -> int:
    """Reads a shard as a program does, and returns the number of its videos."""
    try:
        batches = readers.evaluation_batches([file], spec, 3, options=options, labels_required=True)
        return sum(len(batch["id"]) for batch in batches)
    except readers.READING_ERRORS as error:
        raise readers.explain_failure(error, [file], spec, True) or error from None
