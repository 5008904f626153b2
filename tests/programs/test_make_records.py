"""tools.make_records and tools.read_records: there and back, bit for bit, and what is said of input that is wrong."""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import run

from yt8m.data.record_writing import frame_record, video_record, write_records
from yt8m.data.stored_videos import StoredVideo
from yt8m.data.video_files.kinds import reader_of, writer_of
from yt8m.errors import UserError
from yt8m.packages import pyarrow
from yt8m.schema import DataSpec

from readers import evaluation_batches

needs_pyarrow = pytest.mark.skipif(
    importlib.util.find_spec("pyarrow") is None, reason="needs the packages of requirements-parquet.txt"
)
FRAMES = ("--frame_features", "--feature_names=rgb,audio", "--feature_sizes=3,2", "--num_classes=10")
VECTORS = ("--feature_names=mean_rgb,mean_audio", "--feature_sizes=3,2", "--num_classes=10")
FORMATS = ("npz", "csv", "jsonl", pytest.param("parquet", marks=needs_pyarrow))


def make(source: Path | str, output: Path, *more: str) -> None:
    run("tools.make_records", f"--input={source}", f"--output={output}", *more)


def read(source: Path | str, output: Path, *more: str) -> None:
    run("tools.read_records", f"--data_pattern={source}", f"--output={output}", *more)


def stored(pattern: Path) -> list[bytes]:
    files = sorted(map(str, pattern.parent.glob(pattern.name)))
    return [record.numpy() for record in tf.data.TFRecordDataset(files)]


def features_of(serialized: bytes, name: str = "rgb") -> np.ndarray:
    """The frames of a record, read from its protocol buffer: an oracle."""
    frames = tf.train.SequenceExample.FromString(serialized).feature_lists.feature_list[name].feature
    return np.array([list(frame.bytes_list.value[0]) if frame.bytes_list.value else [] for frame in frames])


# Float32 numbers that text gets wrong easily: subnormal, nearly 1, of either zero, beyond 2**24.
HARD = np.array([1e-45, -0.0, 0.1, 16777215.0, 3.4028235e38, np.nextafter(np.float32(1), np.float32(2))], np.float32)


def frame_records(num_videos: int) -> list[bytes]:
    rng = np.random.default_rng(0)
    labels: list[list[int]] = [[3, 1], [], [9, 9]]
    return [
        frame_record(
            f"v{i}",
            labels[i % 3],
            {"rgb": rng.integers(0, 256, (i % 4, 3), np.uint8), "audio": rng.integers(0, 256, (i % 4, 2), np.uint8)},
        )
        for i in range(num_videos)
    ]


def video_records(num_videos: int) -> list[bytes]:
    return [
        video_record(f"v{i}", [i % 10], {"mean_rgb": HARD[[i % 6, (i + 1) % 6, 2]], "mean_audio": HARD[[i % 5, 3]]})
        for i in range(num_videos)
    ]


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize(
    ("records", "flags"), [(frame_records(7), FRAMES), (video_records(7), VECTORS)], ids=["frame", "video"]
)
def test_records_to_files_to_records_are_the_same_bytes(
    tmp_path: Path, file_format: str, records: list[bytes], flags: tuple[str, ...]
) -> None:
    shards = [write_records(tmp_path / "a0.tfrecord", records[:4]), write_records(tmp_path / "a1", records[4:], "GZIP")]
    read(",".join(shards), tmp_path / "out" / "x", f"--format={file_format}", "--videos_per_file=3", *flags)
    files = sorted((tmp_path / "out").glob(f"x*.{file_format}"))
    assert [file.stem for file in files] == ["x0000", "x0001", "x0002"]
    make(
        tmp_path / "out" / f"x*.{file_format}",
        tmp_path / "new" / "y",
        "--videos_per_shard=5",
        "--numbers=bytes",
        *flags,
    )
    assert stored(tmp_path / "new" / "y*.tfrecord") == records
    assert len(stored(tmp_path / "new" / "y0000.tfrecord")) == 5


names = st.text(st.characters(exclude_characters=',"\r\n\0', exclude_categories=["Cs"]), min_size=1, max_size=5)
labels = st.none() | st.lists(st.integers(0, 3861), max_size=3)
floats = st.floats(allow_nan=False, allow_infinity=False, width=32)


@st.composite
def videos(draw: st.DrawFn) -> tuple[DataSpec, list[StoredVideo]]:
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=2))
    level, kind = draw(st.sampled_from([("video", np.float32), ("frame", np.uint8), ("frame", np.float32)]))
    spec = DataSpec(("a", "b")[: len(sizes)], tuple(sizes), record_format=level)
    numbers = floats if kind == np.float32 else st.integers(0, 255)
    drawn = []
    for name in draw(st.lists(names, min_size=1, max_size=4, unique=True)):
        shapes = [(draw(st.integers(0, 3)), size) if level == "frame" else (size,) for size in sizes]
        arrays = [
            np.array(draw(st.lists(numbers, min_size=int(np.prod(shape)), max_size=int(np.prod(shape)))), kind)
            for shape in shapes
        ]
        features = {f: x.reshape(shape) for f, x, shape in zip(spec.feature_names, arrays, shapes, strict=True)}
        drawn.append(StoredVideo(name, draw(labels), features))
    return spec, drawn


@pytest.mark.parametrize("file_format", FORMATS)
@given(videos())
@settings(max_examples=30, deadline=None)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, file_format: str, drawn: tuple[DataSpec, list[StoredVideo]]
) -> None:
    spec, written = drawn
    if file_format == "csv":  # no field tells an absent list of labels from an empty one
        written = [video._replace(labels=video.labels or []) for video in written]
    path = str(tmp_path_factory.mktemp("x") / f"x.{file_format}")
    with writer_of(file_format)(path, spec.feature_names) as writer:
        for video in written:
            writer.add(video)
    are_bytes = all(array.dtype == np.uint8 for array in written[0].features.values())
    found = [video for _, video in reader_of(path)(spec, are_bytes).read(path)]
    assert [(video.id, video.labels) for video in found] == [(video.id, video.labels) for video in written]
    for video, expected in zip(found, written, strict=True):
        for name, array in expected.features.items():
            assert video.features[name].dtype == array.dtype
            # Frames that are not there have no width in a text.
            assert video.features[name].shape[0] == array.shape[0]
            assert video.features[name].tobytes() == array.tobytes()


def test_floats_are_quantised_as_the_data_set_is(tmp_path: Path) -> None:
    # q = round((x + 2 - 4/512) * 255/4) is -0.498 for -2, 127.002 for 0, 128.0 for 0.0156556 and 254.502 for 2.
    rgb = np.array([[-2.0, 0.0, 0.0156556], [2.0, 9.0, -9.0]], np.float64)
    np.savez(tmp_path / "video7.npz", rgb=rgb, audio=np.array([[0, 255], [7, 8]], np.uint8))
    make(tmp_path / "*.npz", tmp_path / "x", *FRAMES)
    (record,) = stored(tmp_path / "x*.tfrecord")
    assert features_of(record).tolist() == [[0, 127, 128], [255, 255, 0]]
    assert features_of(record, "audio").tolist() == [[0, 255], [7, 8]]
    (batch,) = evaluation_batches(
        [f"{tmp_path}/x0000.tfrecord"], DataSpec(("rgb", "audio"), (3, 2), 10, "frame"), 8, labels_required=False
    )
    assert batch["id"].numpy().tolist() == [b"video7"]
    make(tmp_path / "*.npz", tmp_path / "floats", "--noquantise", *FRAMES)
    stored_floats = tf.train.SequenceExample.FromString(stored(tmp_path / "floats*.tfrecord")[0])
    assert list(stored_floats.feature_lists.feature_list["rgb"].feature[1].float_list.value) == [2.0, 9.0, -9.0]


def test_what_bytes_cut_off_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    np.savez(tmp_path / "a.npz", rgb=np.full((4, 3), 5.0), audio=np.zeros((4, 2)))
    make(tmp_path / "a.npz", tmp_path / "x", *FRAMES)
    assert [line for line in caplog.messages if "outside" in line] == [
        "100% of the numbers of 'rgb' are outside [-2, 2], which bytes reach, and were cut off there. Whiten the "
        "features first, or pass --noquantise."
    ]


def mediapipe(path: Path, video: str, frames: int) -> np.ndarray:
    """Writes a file as MediaPipe's extraction does, timestamps included."""
    rgb = np.random.default_rng(frames).normal(size=(frames, 3)).astype(np.float32)
    record = tf.train.SequenceExample()
    record.context.feature["clip/data_path"].bytes_list.value.append(video.encode())
    record.context.feature["clip/start/timestamp"].int64_list.value.append(0)
    for t, vector in enumerate(rgb):
        lists = record.feature_lists.feature_list
        lists["RGB/feature/floats"].feature.add().float_list.value.extend(vector)
        lists["RGB/feature/timestamp"].feature.add().int64_list.value.append(t * 1_000_000)
        lists["AUDIO/feature/floats"].feature.add().float_list.value.extend(vector[:2])
        lists["AUDIO/feature/timestamp"].feature.add().int64_list.value.append(t * 1_000_000)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(record.SerializeToString())
    return rgb


def test_features_of_mediapipe_with_a_csv_of_labels(tmp_path: Path) -> None:
    rgb = {
        name: mediapipe(tmp_path / name / "features.pb", f"/videos/{name}.mp4", t)
        for name, t in {"a": 4, "b": 2}.items()
    }
    (tmp_path / "labels.csv").write_text("VideoId,Labels\n/videos/b.mp4,\n/videos/c.mp4,1\n/videos/a.mp4,7 2\n")
    make(tmp_path / "*" / "features.pb", tmp_path / "x", f"--labels_file={tmp_path}/labels.csv", *FRAMES)
    records = stored(tmp_path / "x*.tfrecord")
    contexts = [tf.train.SequenceExample.FromString(record).context.feature for record in records]
    assert [context["id"].bytes_list.value[0] for context in contexts] == [b"/videos/a.mp4", b"/videos/b.mp4"]
    assert [list(context["labels"].int64_list.value) for context in contexts] == [[2, 7], []]
    for record, expected in zip(records, rgb.values(), strict=True):
        dequantised = features_of(record) * 4 / 255 + 4 / 512 - 2
        inside = np.abs(expected) < 2
        assert np.abs(dequantised - expected)[inside].max() <= 2 / 255 + 1e-6


def test_arrays_as_people_have_them(tmp_path: Path) -> None:
    np.save(tmp_path / "clip.npy", np.array([0.5, 1.5, 2.5]))
    make(tmp_path / "clip.npy", tmp_path / "one", "--feature_names=mean_rgb", "--feature_sizes=3")
    assert stored(tmp_path / "one*.tfrecord") == [video_record("clip", None, {"mean_rgb": np.array([0.5, 1.5, 2.5])})]
    hot = np.zeros((2, 10), bool)
    hot[0, [1, 8]] = True
    np.savez(
        tmp_path / "many.npz", id=np.array(["a", "b"]), labels=hot, mean_rgb=np.ones((2, 3)), mean_audio=np.ones((2, 2))
    )
    make(tmp_path / "many.npz", tmp_path / "many", *VECTORS)
    ones = {"mean_rgb": np.ones(3), "mean_audio": np.ones(2)}
    assert stored(tmp_path / "many*.tfrecord") == [video_record("a", [1, 8], ones), video_record("b", [], ones)]
    rows = [
        {"id": "a", "labels": [1, 8], "mean_rgb": [1, 1, 1], "mean_audio": [1, 1.0]},
        {"id": "b", "mean_rgb": [1] * 3, "mean_audio": [1] * 2},
    ]
    (tmp_path / "list.json").write_text(json.dumps(rows))
    make(tmp_path / "list.json", tmp_path / "json", *VECTORS)
    assert stored(tmp_path / "json*.tfrecord") == [video_record("a", [1, 8], ones), video_record("b", None, ones)]


@needs_pyarrow
def test_parquet_as_people_have_it(tmp_path: Path) -> None:
    parquet, arrow = pyarrow().parquet, pyarrow()
    frames = arrow.table(
        {"id": ["a"], "rgb": [[b"\x01\x02\x03", b"\xff\x00\x07"]], "audio": [[[1.0, 2.0], [0.0, -2.0]]]}
    )
    parquet.write_table(frames, tmp_path / "frames.parquet")
    make(tmp_path / "frames.parquet", tmp_path / "frames", *FRAMES)
    (record,) = stored(tmp_path / "frames*.tfrecord")
    assert features_of(record).tolist() == [[1, 2, 3], [255, 0, 7]]
    assert features_of(record, "audio").tolist() == [[191, 255], [127, 0]]
    (tmp_path / "x.parquet").write_text("PAR1")
    with pytest.raises(UserError, match=r"x\.parquet cannot be read as Parquet \("):
        make(tmp_path / "x.parquet", tmp_path / "y", *VECTORS)


def rows_of_csv(*rows: str) -> Callable[[Path], object]:
    return lambda path: path.with_suffix(".csv").write_text("\n".join(("id,labels,mean_rgb,mean_audio", *rows)) + "\n")


def text(suffix: str, content: str | bytes) -> Callable[[Path], object]:
    return lambda path: path.with_suffix(suffix).write_bytes(content.encode() if isinstance(content, str) else content)


def arrays(**content: np.ndarray) -> Callable[[Path], object]:
    return lambda path: np.savez(path.with_suffix(".npz"), **content)


GOOD = "a,1 2,1 2 3,4 5"
JSON = '{"id": "a", "labels": [1], "mean_rgb": [1, 2, 3], "mean_audio": [4, 5]}\n'
MANY = {"id": np.array(["a", "b"]), "mean_rgb": np.ones((2, 3)), "mean_audio": np.ones((2, 2))}
WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "wrong length": (
        rows_of_csv(GOOD, "b,1,1 2,4 5"),
        "x.csv, row 2: 'mean_rgb' holds 2 floats, expected 3. Is --feature",
    ),
    "NaN": (rows_of_csv(GOOD, "b,1,1 nan 3,4 5"), "x.csv, row 2: 'mean_rgb' holds nan, expected finite numbers."),
    "too large for float32": (rows_of_csv("b,1,1 1e39 3,4 5"), "x.csv, row 1: 'mean_rgb' holds inf, expected finite"),
    "no number": (
        rows_of_csv(GOOD, "b,1,1 x 3,4 5"),
        "x.csv, row 2: 'mean_rgb' holds something else than numbers (could",
    ),
    "duplicate id": (
        rows_of_csv(GOOD, "b,1,1 2 3,4 5", GOOD),
        "x.csv, row 3: its id 'a' is that of {folder}/x.csv, row 1 too",
    ),
    "unknown class": (
        rows_of_csv(GOOD, "b,10,1 2 3,4 5"),
        "x.csv, row 2: 'labels' holds class 10, expected 0 to 9. Does",
    ),
    "label that is no class": (
        rows_of_csv("b,dog,1 2 3,4 5"),
        "x.csv, row 1: the label is 'dog'; expected class indices",
    ),
    "no id": (rows_of_csv(",1,1 2 3,4 5"), "x.csv, row 1: it has no id. Expected a string named"),
    "id with a comma": (rows_of_csv('"a,b",1,1 2 3,4 5'), "x.csv, row 1: its id 'a,b' has a comma, a quote or a line"),
    "fields missing": (rows_of_csv(GOOD, "b,1,1 2 3"), "x.csv, row 2: it has more or fewer fields than the header."),
    "fields too many": (rows_of_csv(GOOD + ",6"), "x.csv, row 1: it has more or fewer fields than the header."),
    "open quote": (
        rows_of_csv(GOOD, '"b,1,1 2 3,4 5'),
        "x.csv, row 2: it cannot be read as a CSV (unexpected end of data)",
    ),
    "column missing": (
        text(".csv", "id,mean_rgb\na,1 2 3\n"),
        "x.csv: it has no 'mean_audio', only id, mean_rgb. Expected",
    ),
    "empty file": (text(".csv", ""), "x.csv: it is empty. Write it again, or leave it out of --input."),
    "no rows": (rows_of_csv(), "x.csv: it holds no videos. Write it again, or leave it out of --input."),
    "not UTF-8": (text(".csv", b"id,\xff\n"), "x.csv is not text in UTF-8."),
    "unknown kind": (text(".xlsx", "x"), "x.xlsx: it is of no known kind. Known by the ends of their names: .npy, "),
    "no JSON": (text(".jsonl", JSON + "{"), "x.jsonl, row 2: it is no JSON (Expecting property name"),
    "no object": (text(".jsonl", "[1]\n"), "x.jsonl, row 1: it is no object. Expected one with id"),
    "id that is no text": (
        text(".jsonl", JSON.replace('"a"', "5")),
        "x.jsonl, row 1: the id is 5; expected text in quotes.",
    ),
    "labels that are no list": (
        text(".jsonl", JSON.replace("[1]", "1")),
        "x.jsonl, row 1: the labels are 1; expected a",
    ),
    "half a class": (
        text(".jsonl", JSON.replace("[1]", "[1.5]")),
        "x.jsonl, row 1: the label is '1.5'; expected class",
    ),
    "words": (
        text(".jsonl", JSON.replace("[4, 5]", '["x", "y"]')),
        "x.jsonl, row 1: 'mean_audio' holds something else than",
    ),
    "lists in lists": (
        text(".jsonl", JSON.replace("[4, 5]", "[[4, 5]]")),
        "x.jsonl, row 1: 'mean_audio' holds something else than a list of numbers (lists in lists).",
    ),
    "beyond float64": (
        text(".jsonl", JSON.replace("4", "1" + "0" * 400)),
        "x.jsonl, row 1: 'mean_audio' holds something else than a list of numbers (int too large to convert to",
    ),
    "texts in an array": (
        arrays(mean_rgb=np.array(["1", "2", "3"]), mean_audio=np.ones(2)),
        "x.npz: 'mean_rgb' holds <U1, expected numbers.",
    ),
    "array without axes": (arrays(**MANY | {"mean_rgb": np.ones(())}), "x.npz: 'mean_rgb' holds 0 rows, expected 2"),
    "JSON with NaN": (
        text(".jsonl", JSON.replace("4", "NaN")),
        "x.jsonl, row 1: 'mean_audio' holds nan, expected finite",
    ),
    "key missing": (
        text(".jsonl", JSON.replace("mean_rgb", "rgb")),
        "x.jsonl, row 1: it has no 'mean_rgb', only id, labels,",
    ),
    "JSON that is no list": (text(".json", JSON), "x.json: it is no list. Expected a list of objects; one per line is"),
    "no array": (text(".npz", "PK\x03\x04"), "x.npz cannot be read as a file of NumPy ("),
    "array missing": (arrays(mean_rgb=np.ones(3)), "x.npz: it has no 'mean_audio', only id, mean_rgb. Expected id, "),
    "frames for vectors": (
        arrays(mean_rgb=np.ones((4, 3)), mean_audio=np.ones(2)),
        "x.npz: 'mean_rgb' has the shape (4, 3), expected (width,).",
    ),
    "rows missing": (
        arrays(**MANY | {"mean_rgb": np.ones((1, 3))}),
        "x.npz: 'mean_rgb' holds 1 rows, expected 2, those of all",
    ),
    "wrong width": (
        arrays(**MANY | {"mean_rgb": np.ones((2, 4))}),
        "x.npz, row 1: 'mean_rgb' holds 4 floats, expected 3.",
    ),
    "infinity": (
        arrays(**MANY | {"mean_audio": np.array([[1, 1], [1, np.inf]])}),
        "x.npz, row 2: 'mean_audio' holds inf, expected",
    ),
    "labels unlike videos": (
        arrays(**MANY, labels=np.array([1, 2]), num_labels=np.array([1, 2])),
        "x.npz: 'labels' holds 2 classes, expected 3",
    ),
    "one label per video": (
        arrays(**MANY, labels=np.array([1, 2])),
        "x.npz: 'labels' has the shape (2,) of int64; expected",
    ),
    "no MediaPipe": (text(".pb", "PAR1"), "x.pb: it is neither a tf.train.Example nor a tf.train.SequenceExample."),
}


@pytest.mark.parametrize(("write", "message"), WRONG.values(), ids=WRONG)
def test_wrong_input_has_one_message_and_leaves_nothing(
    tmp_path: Path, write: Callable[[Path], object], message: str
) -> None:
    write(tmp_path / "x")
    with pytest.raises(UserError) as caught:
        make(tmp_path / "x.*", tmp_path / "out" / "y", *VECTORS)
    assert str(caught.value).startswith(f"{tmp_path}/" + message.format(folder=tmp_path))
    assert not list(tmp_path.glob("out/*.tfrecord*"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"rgb": np.ones((2, 4))},
            "'rgb' holds 4 bytes a frame (frame 0), expected 3. Is --feature_sizes in the order",
        ),
        ({"rgb": np.full((2, 3), np.nan)}, "'rgb' holds nan at frame 0, expected finite numbers."),
        ({"rgb": np.ones((2, 3), np.int64)}, "'rgb' holds int64, expected floats, or bytes as uint8."),
        ({"rgb": np.ones((0, 3))}, "'rgb' holds no frames, 'audio' holds 2. Leave 'rgb' out of --feature_names, or"),
        ({"rgb": np.ones(3)}, "'rgb' has the shape (3,), expected (frames, width)."),
        ({"id": np.array(["a"]), "rgb": np.ones((2, 3))}, "it has no 'rgb.num_frames', the number of frames of each"),
    ],
)
def test_wrong_frames(tmp_path: Path, content: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "x.npz", **{"audio": np.ones((2, 2)), **content})
    with pytest.raises(UserError) as caught:
        make(tmp_path / "x.npz", tmp_path / "y", *FRAMES)
    assert str(caught.value).startswith(f"{tmp_path}/x.npz: {message}")


@pytest.mark.parametrize(
    ("rgb", "message"),
    [("1 2 3;4 5", "'rgb' holds 2 numbers at frame 1 and 3 at frame 0; expected one width."),
     ("1 2 256;4 5 6", "'rgb' holds 256, expected whole numbers from 0 to 255: bytes.")],
)  # fmt: skip
def test_wrong_frames_in_text(tmp_path: Path, rgb: str, message: str) -> None:
    (tmp_path / "x.csv").write_text(f"id,rgb,audio\na,{rgb},1 2;3 4\n")
    with pytest.raises(UserError) as caught:
        make(tmp_path / "x.csv", tmp_path / "y", "--numbers=bytes", *FRAMES)
    assert str(caught.value) == f"{tmp_path}/x.csv, row 1: {message}"


@pytest.mark.parametrize(
    ("labels_file", "message"),
    [
        ("b,1\n", "{x}, row 1: {labels} has no row for video 'a'. Add one, or leave it out."),
        ("a,10\n", "{labels}: video a has the label 10; expected 0 to 9. Is --num_classes that of these labels?"),
        ("a,1\na,2\n", "{labels}: video a occurs twice; expected the labels of a video once."),
        ("a,dog\n", "{labels}, line 2: found 'a,dog', expected <id>,<class> <class> ..."),
    ],
)
def test_wrong_labels(tmp_path: Path, labels_file: str, message: str) -> None:
    (tmp_path / "x.csv").write_text("id,mean_rgb,mean_audio\na,1 2 3,4 5\n")
    (tmp_path / "labels.csv").write_text("VideoId,Labels\n" + labels_file)
    with pytest.raises(UserError) as caught:
        make(tmp_path / "x.csv", tmp_path / "y", f"--labels_file={tmp_path}/labels.csv", *VECTORS)
    assert str(caught.value) == message.format(x=f"{tmp_path}/x.csv", labels=f"{tmp_path}/labels.csv")


def test_labels_in_two_places(tmp_path: Path) -> None:
    rows_of_csv(GOOD)(tmp_path / "x")
    (tmp_path / "labels.csv").write_text("VideoId,Labels\na,1\n")
    with pytest.raises(UserError, match=r"x\.csv, row 1: it has labels of its own, and --labels_file was given"):
        make(tmp_path / "x.csv", tmp_path / "y", f"--labels_file={tmp_path}/labels.csv", *VECTORS)


def test_what_is_finished_is_kept_and_other_settings_are_refused(tmp_path: Path) -> None:
    rows_of_csv(*(f"v{i},1,1 2 3,4 5" for i in range(5)), "w,1,nan 2 3,4 5")(tmp_path / "x")
    output, source = tmp_path / "out" / "y", tmp_path / "x.csv"
    with pytest.raises(UserError, match="row 6"):
        make(source, output, "--videos_per_shard=2", *VECTORS)
    first = tmp_path / "out" / "y0000.tfrecord"
    written = first.stat().st_mtime_ns
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tfrecord")) == ["y0000.tfrecord", "y0001.tfrecord"]
    with pytest.raises(UserError, match=r"^--videos_per_shard=3: the shards .*y\*\.tfrecord were made with 2\. Choose"):
        make(source, output, "--videos_per_shard=3", *VECTORS)
    rows_of_csv(*(f"v{i},1,1 2 3,4 5" for i in range(5)), "w,1,1 2 3,4 5")(tmp_path / "x")
    with pytest.raises(UserError, match=r"^--input=\w+: the shards .* were made with"):
        make(source, output, "--videos_per_shard=2", *VECTORS)
    assert first.stat().st_mtime_ns == written
    make(source, tmp_path / "new" / "y", "--videos_per_shard=2", *VECTORS)
    (tmp_path / "new" / "y0001.tfrecord").unlink()
    make(source, tmp_path / "new" / "y", "--videos_per_shard=2", *VECTORS)
    assert len(stored(tmp_path / "new" / "y*.tfrecord")) == 6
    (tmp_path / "new" / "y_settings.json").unlink()
    with pytest.raises(UserError, match=r"no .*y_settings\.json says how they were made"):
        make(source, tmp_path / "new" / "y", "--videos_per_shard=2", *VECTORS)


def test_settings_of_a_run_that_wrote_nothing_bind_nobody(tmp_path: Path) -> None:
    rows_of_csv("w,1,nan 2 3,4 5")(tmp_path / "x")
    with pytest.raises(UserError, match="nan"):
        make(tmp_path / "x.csv", tmp_path / "y", *VECTORS)
    rows_of_csv("w,1,1 2 3,4 5")(tmp_path / "x")
    make(tmp_path / "x.csv", tmp_path / "y", *VECTORS)
    assert len(stored(tmp_path / "y*.tfrecord")) == 1


def test_a_csv_holds_labels_of_all_videos_or_of_none(tmp_path: Path) -> None:
    ones = {"mean_rgb": np.ones(3), "mean_audio": np.ones(2)}
    file = write_records(tmp_path / "a", [video_record("a", [1], ones), video_record("b", None, ones)])
    with pytest.raises(
        UserError, match=r"^Video b has no list of labels, unlike the first video of .* another --format"
    ):
        read(file, tmp_path / "x", "--format=csv", *VECTORS)
    assert not list(tmp_path.glob("x*.csv*"))


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    file = write_records(tmp_path / "a", [*frame_records(2), frame_record("v", [10], {"rgb": [], "audio": []})])
    with pytest.raises(UserError, match=r"a, record 2: 'labels' holds class 10, expected 0 to 9"):
        read(file, tmp_path / "x", *FRAMES)
    with pytest.raises(UserError, match="--record_format=clip: expected video or frame"):
        read(file, tmp_path / "x", "--record_format=clip")


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(
        UserError, match=r"^Parquet files are read and written with .*, and 'pyarrow.parquet' cannot be imported"
    ):
        make(tmp_path / "x.parquet", tmp_path / "y", *VECTORS)
    with pytest.raises(UserError, match=r"pip install -r requirements-parquet\.txt$"):
        read(tmp_path / "x", tmp_path / "y", "--format=parquet", *VECTORS)
