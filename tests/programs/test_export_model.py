"""tools.export_model: what it writes predicts what inference.py does, and what it cannot write it refuses at once."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from programs import run
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from tools.export_model import check_inputs, graph_of
from yt8m.data.record_writing import frame_record, write_records
from yt8m.data.synthetic import write_frame_shards, write_video_shards
from yt8m.engine.serving import ServedModel
from yt8m.engine.weight_averages import load_weights
from yt8m.errors import UserError
from yt8m.output import exported
from yt8m.output.export import litert_file
from yt8m.output.submission import read_submission
from yt8m.registry import CLIP_MODELS
from yt8m.runs.directory import load_config, require_checkpoint
from yt8m.schema import DataSpec

import experiment
import readers

ROOT = Path(__file__).parents[2]
CLASSES = 4
TRAIN = ("--num_epochs=0", "--batch_size=10", "--max_steps=2", f"--num_classes={CLASSES}")
VIDEO = ("--feature_names=mean_rgb,mean_audio", "--feature_sizes=1024,128")
FRAMES = ("--frame_features", "--feature_names=rgb,audio", "--feature_sizes=1024,128")
# A video has up to 9 frames, of which 6 count.
DBOF = ("--model=DbofModel", "--max_frames=6", "--hparams=cluster_size=16", "--hparams=hidden_size=8")
LONGEST = 9
ALONE = """
import sys
import numpy as np
from yt8m.output.exported import FlexDelegateError, litert_runner
run = litert_runner(sys.argv[1])
try:
    run({"x": np.eye(2, dtype=np.float32)})
except FlexDelegateError as error:
    print(error)
"""
WITHOUT_TENSORFLOW = """
import sys
import numpy as np
from yt8m.output.exported import RUNNERS
folder = sys.argv[1]
batch = dict(np.load(f"{folder}/batch.npz"))
predictions = {name: RUNNERS[name](f"{folder}/{name}")(batch) for name in ("litert", "onnx")}
assert "tensorflow" not in sys.modules
np.savez(f"{folder}/predictions.npz", **predictions)
"""


def need_packages() -> None:
    for name in ("ai_edge_litert", "tf2onnx", "onnxruntime"):
        pytest.importorskip(name, reason="needs the packages of requirements-export.txt")


@pytest.fixture(scope="module", name="place")
def make_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of both kinds, and a run on each."""
    place = tmp_path_factory.mktemp("export")
    write_video_shards(place / "video", num_videos=30, num_shards=1, num_classes=CLASSES)
    write_frame_shards(place / "frame", num_videos=12, num_shards=1, num_classes=CLASSES, max_frames=LONGEST)
    train(place, "video", "logistic", *VIDEO)
    train(place, "frame", "dbof", *FRAMES, *DBOF)
    return place


def train(place: Path, data: str, name: str, *arguments: str) -> None:
    run("train", f"--train_data_pattern={place}/{data}/train*", f"--train_dir={place}/{name}", *arguments, *TRAIN)


def export(place: Path, name: str, output: Path, *arguments: str) -> None:
    run("tools.export_model", f"--train_dir={place}/{name}", f"--output={output}", *arguments)


def predictions_of(place: Path, data: str, name: str) -> dict[str, np.ndarray]:
    """What inference.py predicts, by id."""
    shards = f"--input_data_pattern={place}/{data}/train*"
    output = f"{place}/{name}.csv"
    run("inference", f"--train_dir={place}/{name}", shards, f"--output_file={output}", f"--top_k={CLASSES}")
    table = read_submission(output)
    rows = zip(table.classes.reshape(-1, CLASSES), table.scores.reshape(-1, CLASSES), strict=True)
    return {video: scores[np.argsort(classes)] for video, (classes, scores) in zip(table.ids, rows, strict=True)}


def records_of(place: Path, data: str) -> np.ndarray:
    return np.array(list(tf.data.TFRecordDataset(str(place / data / "train0000.tfrecord")).as_numpy_iterator()), object)


def whole_videos(place: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    """All videos with all of their frames, more than the run reads."""
    spec = DataSpec(("rgb", "audio"), (1024, 128), CLASSES, record_format="frame")
    files = [str(place / "frame" / "train0000.tfrecord")]
    batch = next(iter(readers.evaluation_batches(files, spec, 99, labels_required=True)))
    assert batch["rgb"].shape[1] == LONGEST
    ids = [name.decode() for name in batch["id"].numpy()]
    return ids, {name: batch[name].numpy() for name in ("rgb", "audio", "num_frames")}


# Six digits of numbers below 1 in the CSV.
def close(seen: np.ndarray, expected: dict[str, np.ndarray], ids: list[str], atol: float = 1e-6) -> None:
    np.testing.assert_allclose(seen, [expected[video] for video in ids], rtol=0, atol=atol)


# ---- SavedModels


@pytest.mark.parametrize(("data", "name"), [("video", "logistic"), ("frame", "dbof")])
def test_a_saved_model_takes_records_of_any_number(place: Path, tmp_path: Path, data: str, name: str) -> None:
    export(place, name, tmp_path / "saved")
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    records, expected = records_of(place, data), predictions_of(place, data, name)
    for part in (records, records[:1]):
        outputs = loaded.signatures["serialized"](examples=tf.constant(part))
        ids = [video.decode() for video in outputs["id"].numpy()]
        assert len(ids) == len(part)
        close(outputs["predictions"].numpy(), expected, ids)
        np.testing.assert_allclose(tf.sigmoid(outputs["logits"]), outputs["predictions"], atol=1e-6)


def test_a_saved_model_has_no_functions_of_this_process(place: Path, tmp_path: Path) -> None:
    export(place, "dbof", tmp_path / "saved")
    saved = SavedModel.FromString((tmp_path / "saved" / "saved_model.pb").read_bytes())
    operations = {node.op for part in saved.meta_graphs[0].graph_def.library.function for node in part.node_def}
    assert "ParseSequenceExampleV2" in operations
    assert not {operation for operation in operations if "PyFunc" in operation}


def test_a_saved_model_takes_whole_videos(place: Path, tmp_path: Path) -> None:
    export(place, "dbof", tmp_path / "saved", f"--eval_data_pattern={place}/frame/train*")
    run_saved = exported.saved_model_runner(str(tmp_path / "saved"))
    ids, videos = whole_videos(place)
    close(run_saved(videos), predictions_of(place, "frame", "dbof"), ids)


def test_gap_of_what_was_written(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(place, "dbof", tmp_path / "saved", f"--eval_data_pattern={place}/frame/train*")
    run("tools.score", f"--submission_file={place}/dbof.csv", f"--eval_data_pattern={place}/frame/train*",
        f"--num_classes={CLASSES}")  # fmt: skip
    printed = capsys.readouterr().out
    gap = printed.rpartition("GAP: ")[2].split(" ")[0]
    assert (
        f"GAP of the run: {gap} | of {tmp_path}/saved: {gap} | largest difference of a prediction: 0.0e+00" in printed
    )
    assert "MB, " in printed


def test_media_pipe_feeds_floats_side_by_side(place: Path, tmp_path: Path) -> None:
    """The names and shapes are those of google/youtube-8m, export_model_mediapipe.py, and of MediaPipe's graph."""
    export(place, "dbof", tmp_path / "saved", "--format=mediapipe")
    serve = tf.saved_model.load(str(tmp_path / "saved")).signatures["serving_default"]
    shapes = {name: spec.shape.as_list() for name, spec in serve.structured_input_signature[1].items()}
    assert shapes == {"rgb_and_audio": [None, None, 1152], "num_frames": [None, 1]}
    ids, videos = whole_videos(place)
    stored = np.concatenate([videos["rgb"], videos["audio"]], axis=2).astype(np.float32)
    frames = stored * (4 / 255) + (4 / 512 - 2)  # utils.Dequantize of the starter code
    outputs = serve(rgb_and_audio=tf.constant(frames), num_frames=tf.constant(videos["num_frames"][:, np.newaxis]))
    assert list(outputs) == ["predictions"]
    close(outputs["predictions"].numpy(), predictions_of(place, "frame", "dbof"), ids)


@pytest.mark.parametrize("file_format", ["saved_model", "litert", "onnx"])
def test_segments_whose_frames_are_floats(place: Path, tmp_path: Path, file_format: str) -> None:
    """All segments of the first 6 frames of videos; the last may be shorter."""
    if file_format != "saved_model":
        need_packages()
    shard, generator = place / "floats" / "train0.tfrecord", np.random.default_rng(0)
    if not shard.exists():
        shard.parent.mkdir()
        frames = [{"rgb": (t, 1024), "audio": (t, 128)} for t in (3, 5, 8, 11)]
        videos = [{name: generator.normal(size=x).astype(np.float32) for name, x in video.items()} for video in frames]
        ratings = [(0, 1, 1.0), (0, 2, 0.0)]
        write_records(shard, [frame_record(f"v{i}", [i], x, ratings=ratings) for i, x in enumerate(videos)])
        train(place, "floats", "segments", *FRAMES, *DBOF, "--segment_labels", "--num_readers=1")
    config, run_dir = load_config(str(place / "segments")), str(place / "segments")
    model = experiment.trained_model(config, run_dir, require_checkpoint(run_dir))
    data = experiment.evaluation_data(
        config, model, str(shard), "shards", batch_size=9, on_bad_record="error", labels_required=False, decided_by=""
    )
    (batch,) = data.batches
    assert sorted(batch["num_frames"].numpy()) == [1, 1, 3, 5, 5, 5]
    export(place, "segments", tmp_path / "file", f"--format={file_format}", "--float_features")
    run_file = exported.RUNNERS[file_format](str(tmp_path / "file"))
    seen = run_file({name: batch[name].numpy() for name in ("rgb", "audio", "num_frames")})
    np.testing.assert_allclose(seen, model(batch, training=False)["predictions"], rtol=0, atol=1e-6)


# ---- LiteRT and ONNX


def run_alone(program: str, *arguments: Path) -> str:
    """What a program prints that runs in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True).stdout


def test_other_runtimes_need_no_tensorflow(place: Path, tmp_path: Path) -> None:
    need_packages()
    for name in ("litert", "onnx"):
        export(place, "dbof", tmp_path / name, f"--format={name}")
    ids, videos = whole_videos(place)
    np.savez(tmp_path / "batch.npz", **videos)
    run_alone(WITHOUT_TENSORFLOW, tmp_path)
    for name, seen in np.load(tmp_path / "predictions.npz").items():
        close(seen, predictions_of(place, "frame", "dbof"), ids)
        run_file = exported.RUNNERS[name](str(tmp_path / name))
        num_frames = videos["num_frames"][3:4]
        one = {feature: videos[feature][3:4, : num_frames[0]] for feature in ("rgb", "audio")} | {
            "num_frames": num_frames
        }
        np.testing.assert_allclose(run_file(one), seen[3:4], atol=1e-6)


@pytest.mark.parametrize(("storage", "num_bytes"), [("float16", 2), ("int8", 1)])
@pytest.mark.parametrize("name", ["onnx", "litert"])
def test_weights_in_fewer_bits(place: Path, tmp_path: Path, name: str, storage: str, num_bytes: int) -> None:
    """Logistic regression, whose weights can be rounded here."""
    need_packages()
    export(place, "logistic", tmp_path / "whole", f"--format={name}")
    export(place, "logistic", tmp_path / "small", f"--format={name}", f"--storage={storage}")
    saved = (tmp_path / "whole").stat().st_size - (tmp_path / "small").stat().st_size
    assert saved > 0.9 * 1152 * CLASSES * (4 - num_bytes)
    served = served_model(place, "logistic")
    generator = np.random.default_rng(0)
    batch = {"mean_rgb": generator.normal(size=(5, 1024)), "mean_audio": generator.normal(size=(5, 128))}
    batch = {feature: values.astype(np.float32) for feature, values in batch.items()}
    seen = exported.RUNNERS[name](str(tmp_path / "small"))(batch)
    x = np.concatenate([batch["mean_rgb"], batch["mean_audio"]], axis=1).astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    kernel, bias = (weight.numpy().astype(np.float64) for weight in served.model.classifier.weights)
    exact = 1 / (1 + np.exp(-(x @ kernel + bias)))
    if storage == "float16":
        if name == "litert":  # it rounds biases too
            bias = bias.astype(np.float16).astype(np.float64)
        expected = 1 / (1 + np.exp(-(x @ kernel.astype(np.float16) + bias)))
        np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-6)
    else:
        # A weight is off by half a step at most, and a probability by a quarter of the logit.
        step = np.abs(kernel).max() / 127
        off = np.abs(x).sum(axis=1).max() * step / 2
        if name == "litert":  # it rounds the input of a product too, to 1 / 127 of its largest number
            off += np.abs(x).max() / 254 * np.abs(kernel).sum(axis=0).max()
        np.testing.assert_allclose(seen, exact, rtol=0, atol=off / 4)
    assert np.abs(seen - exact).max() > 2e-6


def test_a_litert_without_tensorflows_operations_says_so(tmp_path: Path) -> None:
    need_packages()
    factor = graph_of(lambda x: {"predictions": tf.linalg.cholesky(x)}, tf.TensorSpec([2, 2], tf.float32, "x"))
    (tmp_path / "file").write_bytes(litert_file(factor.get_concrete_function(), "float32", allow_select_tf_ops=True))
    assert run_alone(ALONE, tmp_path / "file").startswith("The file for LiteRT has operations of TensorFlow's, and")


def test_what_this_litert_cannot_run_is_written_untried(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether the LiteRT of a process with TensorFlow has the Flex delegate depends on TensorFlow's version."""
    need_packages()

    def run_nothing(batch: object) -> np.ndarray:
        raise exported.FlexDelegateError("no Flex delegate")

    monkeypatch.setitem(exported.RUNNERS, "litert", lambda file: run_nothing)
    arguments = ("--format=litert", "--allow_select_tf_ops")
    with pytest.raises(UserError, match="no Flex delegate"):
        export(place, "dbof", tmp_path / "output", *arguments, f"--eval_data_pattern={place}/frame/train*")
    assert not list(tmp_path.iterdir())
    export(place, "dbof", tmp_path / "output", *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["output"]
    assert "so it was not tried" in caplog.text


def served_model(place: Path, name: str) -> ServedModel:
    config = load_config(str(place / name))
    model = experiment.build_model(config)
    load_weights(model, require_checkpoint(str(place / name)))
    return ServedModel(model)


# ---- frames that a model chooses


@pytest.mark.parametrize("hparam", ["evaluation_sampling=uniform", "random_sequence=true"])
def test_frames_are_chosen_as_the_reader_does(place: Path, hparam: str) -> None:
    name = hparam.partition("=")[0]
    of_dbof, of_gru = ["--model=DbofModel", "--iterations=4"], ["--model=GruModel", "--hparams=gru_cells=4"]
    arguments = of_gru if "random" in hparam else of_dbof
    train(place, "frame", name, *FRAMES, *arguments, "--max_frames=6", f"--hparams={hparam}")
    served = served_model(place, name)
    assert served.needs_ids == ("random" in hparam)
    ids, videos = whole_videos(place)
    batch = {feature: tf.constant(values) for feature, values in videos.items()}
    batch |= {"id": tf.constant(ids)} if served.needs_ids else {}
    outputs = graph_of(served.outputs, served.signature())(batch)
    close(outputs["predictions"].numpy(), predictions_of(place, "frame", name), ids)


# ---- refusals

REFUSED = {
    "rankpool": ["--model=RankPoolModel"],
    "shuffled": ["--model=GruModel", "--hparams=gru_cells=4", "--hparams=random_sequence=true"],
}


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("dbof", ["--output="], "--output is missing"),
        ("dbof", ["--storage=int8"], "--storage=int8: the weights of a SavedModel are float32"),
        ("dbof", ["--allow_select_tf_ops"], "--allow_select_tf_ops is for --format=litert alone"),
        ("dbof", ["--format=mediapipe", "--eval_data_pattern=x"], "records do not hold what MediaPipe feeds"),
        ("dbof", ["--format=mediapipe", "--float_features"], "--float_features: MediaPipe feeds floats"),
        ("dbof", ["--output=PLACE/dbof/config.json", "--format=onnx"], "is .*config.json, which is read"),
        ("dbof", ["--output=PLACE/frame"], "--output=.*/frame is there already"),
        ("dbof", ["--output=PLACE/dbof/config.json/saved"], "--output=.*/saved cannot be written"),
        ("dbof", ["--float_features", "--eval_data_pattern=PLACE/frame/train*"], "records hold rgb as uint8"),
        ("logistic", ["--format=mediapipe"], "feeds rgb and audio of every frame; this run reads mean_rgb,mean_audio"),
        ("logistic", ["--float_features"], "--float_features is for runs that read features of frames"),
        ("none", [], "train_dir=.*/none holds no run"),
        ("shuffled", ["--format=litert"], "follows from the id of a video, and LiteRT is given no ids"),
        (
            "rankpool",
            ["--format=litert"],
            "LiteRT lacks the operation Cholesky.* exact solver; .*--allow_select_tf_ops",
        ),
    ],
)
def test_what_cannot_be_written(place: Path, tmp_path: Path, name: str, arguments: list[str], message: str) -> None:
    if "--format=litert" in arguments or "--format=onnx" in arguments:
        need_packages()
    if name in REFUSED:
        train(place, "frame", name, *FRAMES, *REFUSED[name])
    arguments = [argument.replace("PLACE", str(place)) for argument in arguments]
    before = sorted(path for path in place.rglob("*"))
    with pytest.raises(UserError, match=message):
        export(place, name, tmp_path / "output", *arguments)
    assert not list(tmp_path.glob("output.*"))
    assert sorted(path for path in place.rglob("*")) == before


def test_pixels_are_for_saved_models() -> None:
    spec = DataSpec(("rgb",), (3,), CLASSES, record_format="clip", max_frames=2, clip_size=8)
    served = ServedModel(CLIP_MODELS["C3dModel"](spec, width=1 / 16, hidden_size=4))
    assert served.signature()["rgb"].shape.as_list() == [None, None, 8, 8, 3]
    with pytest.raises(UserError, match=r"--format=onnx: models over clips, .* are exported as SavedModels alone"):
        check_inputs("onnx", served)


def test_a_missing_package_is_one_line(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"'onnx' cannot be imported. .* pip install -r requirements-export.txt"):
        export(place, "dbof", tmp_path / "output", "--format=onnx")
    assert not list(tmp_path.iterdir())
