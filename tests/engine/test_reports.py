"""What an evaluation shows: log lines, TensorBoard's tags and curves, the table of classes."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import keras
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from small_run import CONFIG
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.plugins.projector import ProjectorConfig
from tensorflow.core.util.event_pb2 import Event

from yt8m.data.synthetic import write_frame_shards
from yt8m.engine.clusters import ClusterView, VideoShares
from yt8m.engine.evaluation import Evaluation
from yt8m.engine.loop import LoopSettings
from yt8m.engine.profiling import Profile
from yt8m.engine.projector import class_weights, write_projector
from yt8m.engine.reports import EvaluationReport, EventWriter, TrainingReport, class_table
from yt8m.errors import UserError
from yt8m.metrics import Accumulator, BatchResults, top_k_pairs
from yt8m.registry import FRAME_LEVEL_MODELS, METRICS, VIDEO_LEVEL_MODELS
from yt8m.schema import DataSpec

import readers

NUM_CLASSES, TOP_K, STEP = 4, 2, 70

# The names that dashboards have known since the starter's code.
OLD_TAGS = {
    "Epoch/Eval_Avg_Hit@1": "hit_at_one",
    "Epoch/Eval_Avg_Perr": "perr",
    "Epoch/Eval_Avg_Loss": "loss",
    "Epoch/Eval_MAP": "map",
    "Epoch/Eval_GAP": "gap",
    "Epoch/Eval_Macro_AP": "macro_ap",
    "Epoch/Eval_Macro_AUC": "macro_auc",
}


class Mine(Accumulator):
    """A group that names nothing but its values."""

    values: ClassVar[Mapping[str, str]] = {"mine": "half a video each", "counted": "videos"}

    def __init__(self, num_classes: int, top_k: int):
        self._num_videos = 0

    def add_batch(self, results: BatchResults) -> None:
        self._num_videos += len(results["ids"])

    def result(self) -> Iterator[tuple[str, float | int]]:
        yield "mine", self._num_videos / 2
        yield "counted", self._num_videos

    def per_class(self) -> Mapping[str, np.ndarray]:
        return {"mine": np.array([0.5, np.nan, 1.0, 0.0])}


def evaluation(groups: Sequence[type[Accumulator]]) -> Evaluation:
    """Three videos whose metrics are worked out in docs/metrics.md."""
    predictions = np.array([[0.9, 0.5, 0.1, 0.2], [0.3, 0.8, 0.6, 0.1], [0.2, 0.1, 0.7, 0.4]], np.float32)
    labels = np.array([[1, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]], bool)
    pairs = top_k_pairs(tf.constant(predictions), tf.constant(labels), TOP_K)
    batch = {name: value.numpy() for name, value in pairs.items()} | {"predictions": predictions, "labels": labels}
    batch |= {"ids": np.array([b"a", b"b", b"c"]), "losses": np.array([1.0, 2.0, 6.0], np.float32)}
    metrics = [group(NUM_CLASSES, TOP_K) for group in groups]
    for accumulator in metrics:
        accumulator.add_batch(batch)
    return Evaluation(metrics)


def events(directory: Path) -> list[Event]:
    (path,) = directory.glob("events.*")
    return [Event.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(path))]


def scalars(directory: Path) -> dict[str, float]:
    """Every number that TensorBoard would show, by tag."""
    found = {}
    for event in events(directory):
        for value in event.summary.value:
            assert event.step == STEP
            found[value.tag] = float(tf.make_ndarray(value.tensor))
    return found


def test_every_value_is_shown_under_its_old_tag_or_its_own_name(tmp_path: Path) -> None:
    found = evaluation([*(METRICS[name] for name in METRICS.names()), Mine])
    report = EvaluationReport(EventWriter(str(tmp_path)))
    report(STEP, found, NUM_CLASSES)
    shown = scalars(tmp_path)
    assert len(shown) == len(found.summary)
    for tag, name in OLD_TAGS.items():
        assert shown[tag] == pytest.approx(found.summary[name])
    assert shown["Epoch/Eval_mine"] == 1.5
    assert shown["Epoch/Eval_map_at_n"] == pytest.approx(found.summary["map_at_n"])


def test_the_starters_line_comes_first_and_further_groups_have_a_line_each(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="yt8m")
    EvaluationReport(EventWriter(str(tmp_path / "1")))(STEP, evaluation([METRICS["default"]]), NUM_CLASSES)
    starter = (
        "epoch/eval number 70 | Avg_Hit@1: 0.3333 | Avg_PERR: 0.1667 | MAP: 0.5000 | GAP: 0.5000 | Avg_Loss: 3.0000 | "
        "num_classes: 4"
    )
    assert caplog.messages == [starter]
    caplog.clear()
    found = evaluation([METRICS["default"], METRICS["precision_recall"], Mine])
    EvaluationReport(EventWriter(str(tmp_path / "2")))(STEP, found, NUM_CLASSES)
    # Six predictions, two hits, three positives; class 0: 1/1 and 1/1, class 2: 1/2 and 1/1, class 3: 0/1 and 0/1.
    assert caplog.messages == [
        starter,
        "evaluation at step 70 | overall_precision: 0.3333 | overall_recall: 0.6667 | class_precision: 0.5000 | "
        "class_recall: 0.6667",
        "evaluation at step 70 | mine: 1.5000 | counted: 3",
    ]


def test_curves_are_those_that_some_group_offers(tmp_path: Path) -> None:
    report = EvaluationReport(EventWriter(str(tmp_path)))
    report.write_curves(STEP, evaluation([Mine, METRICS["default"]]).curves, {2: "Games"})
    tags = [value.tag for event in events(tmp_path) for value in event.summary.value]
    assert tags == ["class/0/pr_curves", "class/2 Games/pr_curves", "class/3/pr_curves"]
    assert evaluation([Mine]).curves == {}


def test_the_table_of_classes_has_the_columns_of_every_group() -> None:
    columns = evaluation([METRICS["default"], Mine]).per_class
    assert class_table(columns, {0: "Games", 2: 'Food, "fast"'}).splitlines() == [
        "class,name,num_positives,average_precision,mine",
        "0,Games,1,1.0,0.5",
        "1,,0,,",
        '2,"Food, ""fast""",1,0.5,1.0',
        "3,,1,0.0,0.0",
    ]
    assert class_table(columns, {}).startswith("class,num_positives,average_precision,mine\n0,1,1.0,0.5\n")


# ---- TensorBoard's table of runs, pictures of clusters, points of classes


def test_the_settings_of_a_run_are_in_the_table_of_runs(tmp_path: Path) -> None:
    TrainingReport(str(tmp_path), CONFIG, 0, 100).close()
    content = next(
        HParamsPluginData.FromString(value.metadata.plugin_data.content)
        for event in events(tmp_path)
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "hparams"
    )
    hparams = content.session_start_info.hparams
    assert re.fullmatch(rf"{re.escape(tmp_path.name)} [0-9a-f]{{4}}", content.session_start_info.group_name)
    assert hparams["model"].string_value == "LogisticModel"
    assert hparams["l2_penalty"].number_value == 1e-8
    assert hparams["base_learning_rate"].number_value == 0.01
    assert hparams["feature_sizes"].string_value == "(1024,)"
    assert hparams.keys() == CONFIG.settings.keys()


def test_clusters_are_pictures_of_equal_length(tmp_path: Path) -> None:
    # Two frames and three: white is 0, black the largest share, and what a video lacks is white.
    two = np.array([[1.0, 0.0], [0.5, 0.5]], np.float32)
    three = np.array([[0.0, 0.5], [0.5, 0.0], [0.25, 0.25]], np.float32)
    videos = [VideoShares("a", np.array([0]), [two]), VideoShares("b", np.array([1]), [three])]
    report = EvaluationReport(EventWriter(str(tmp_path)))
    report.write_clusters(STEP, videos)
    report.write_clusters(STEP, [])
    (value,) = [value for event in events(tmp_path) for value in event.summary.value]
    assert value.tag == "clusters/pooling_0"
    width, height, *images = tf.make_ndarray(value.tensor)
    assert (int(width), int(height)) == (3, 2)
    first, second = (tf.io.decode_png(image).numpy()[:, :, 0].tolist() for image in images)
    assert first == [[0, 128, 255], [255, 128, 255]]
    assert second == [[255, 0, 128], [0, 255, 128]]


def test_the_clusters_of_a_model_are_those_of_its_pooling(tmp_path: Path) -> None:
    """Rows sum to 1 over the clusters, padding is cut off, and other models are not even given a batch."""
    write_frame_shards(tmp_path, num_videos=6, num_shards=1, num_classes=NUM_CLASSES)
    spec = DataSpec(("rgb", "audio"), (1024, 128), NUM_CLASSES, record_format="frame")
    (file,) = map(str, tmp_path.glob("*.tfrecord"))
    batches = readers.evaluation_batches([file], spec, 5, labels_required=True)
    batch = next(iter(batches))
    for name, hparams, sizes in (
        ("NetVLADModelLF", {"cluster_size": 6, "hidden_size": 8}, [6, 3]),
        ("NeXtVLADModel", {"cluster_size": 4, "hidden_size": 8, "groups": 4}, [4, 2]),
    ):
        model = FRAME_LEVEL_MODELS[name](spec, **hparams)
        model.build()
        videos = ClusterView(model, batches, num_videos=2)()
        assert [video.video_id for video in videos] == [video_id.decode() for video_id in batch["id"].numpy()[:2]]
        for v, video in enumerate(videos):
            assert video.labels.tolist() == np.flatnonzero(batch["labels"][v]).tolist()
            num_frames = int(batch["num_frames"][v])
            assert len(video.shares) == 2
            for shares, size in zip(video.shares, sizes, strict=True):
                assert shares.shape[0] == num_frames
                assert shares.shape[1] <= size
                total = shares.sum(axis=1)
                expected = np.ones(num_frames) if name == "NetVLADModelLF" else total
                np.testing.assert_allclose(total, expected, rtol=1e-5)
                assert (total > 0).all()
                assert (total < 1 + 1e-5).all()
    other = FRAME_LEVEL_MODELS["FrameLevelLogisticModel"](spec)
    other.build()
    assert ClusterView(other, tf.data.Dataset.from_generator(_never, output_types=tf.int32))() == []


def _never() -> Iterator[int]:
    raise AssertionError("a batch is read")
    yield 0


def test_the_points_of_classes_are_the_columns_of_the_last_layer(tmp_path: Path) -> None:
    mixture = keras.Sequential([])
    mixture.classifier = VIDEO_LEVEL_MODELS["MoeModel"](2, num_mixtures=3)
    mixture.classifier.build((None, 2))
    kernel = np.arange(12.0).reshape(2, 6)  # inputs by (mixture, class)
    mixture.classifier.experts.kernel.assign(kernel)
    weights = class_weights(mixture, 2)
    assert weights.tolist() == [[0, 6, 2, 8, 4, 10], [1, 7, 3, 9, 5, 11]]
    (tmp_path / "eval").mkdir()
    write_projector(str(tmp_path), weights, {"average_precision": np.array([0.5, np.nan])}, {0: "tab\there"})
    assert (tmp_path / "eval" / "class_weights.tsv").read_text() == "0\t6\t2\t8\t4\t10\n1\t7\t3\t9\t5\t11\n"
    table = "class\tname\taverage_precision\n0\ttab here\t0.5\n1\tclass 1\t\n"
    assert (tmp_path / "eval" / "classes.tsv").read_text() == table
    config = text_format.Parse((tmp_path / "eval" / "projector_config.pbtxt").read_text(), ProjectorConfig())
    assert config.embeddings[0].tensor_path == "class_weights.tsv"
    assert config.embeddings[0].metadata_path == "classes.tsv"
    chain = keras.Sequential([])
    chain.classifier = VIDEO_LEVEL_MODELS["ChainModel"](2)
    with pytest.raises(UserError, match="--projector: ChainModel has no layer"):
        class_weights(chain, 2)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ([0, 2, 2, 5, 5], [(2, "start"), (5, "stop")]),
        ([3, 4, 9], []),  # resumed after the first step to record
        ([0, 2, 2, 4], [(2, "start"), (None, "stop")]),  # the data ended before the last one
    ],
)
def test_steps_are_profiled_once(
    monkeypatch: pytest.MonkeyPatch, told: list[int], expected: list[tuple[int | None, str]]
) -> None:
    now: list[int | None] = [None]
    calls: list[tuple[int | None, str]] = []
    monkeypatch.setattr(tf.profiler.experimental, "start", lambda folder: calls.append((now[0], "start")))
    monkeypatch.setattr(tf.profiler.experimental, "stop", lambda: calls.append((now[0], "stop")))
    with Profile("run", (3, 5)) as profile:
        for step in told:
            now[0] = step
            profile.after_step(step)
        now[0] = None
    assert calls == expected


def test_the_loop_pauses_where_a_profile_starts_and_ends() -> None:
    settings = LoopSettings(100, 10, 1000, 0, profile_steps=(13, 17))
    assert [settings.steps_until_pause(step) for step in (0, 10, 12, 17, 95)] == [10, 2, 5, 3, 5]
