"""A run of format 1, written by the code of before there were numbers, still opens: evaluated, predicted from, resumed.

`format_1/` holds what that code wrote, as text: `config.json`, the checkpoint's tensors and object graph, and what its
programs printed of it; and the hyper-parameters that its models had by default. The run is of mean frames and a mixture
of experts, trained on six videos, all in each batch, so that their order decides nothing.
"""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from programs import run
from tensorflow.core.protobuf import trackable_object_graph_pb2

from yt8m.config import LossConfig, LossTerm, RunConfig
from yt8m.data.record_writing import frame_record
from yt8m.errors import UserError
from yt8m.output.archive import pack_run
from yt8m.runs.directory import load_config

STORED = Path(__file__).parent / "format_1"
COMMAND_LINE = (
    "--frame_features",
    "--model=AveragePoolModel",
    "--feature_names=rgb,audio",
    "--feature_sizes=4,3",
    "--num_classes=3",
    "--hparams=classifier=MoeModel",
    "--hparams=classifier.num_mixtures=2",
    "--label_loss=HingeLoss",
    "--weights_halflife=2",
    "--batch_size=6",
    "--num_epochs=0",
    "--base_learning_rate=0.05",
)


def write_videos(path: Path) -> None:
    """Video v has v + 1 frames, and labels, made by arithmetic alone."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for video in range(6):
            frames = [(np.arange(7) * 29 + 41 * video + 17 * t).astype(np.uint8) for t in range(video + 1)]
            features = {"rgb": [frame[:4] for frame in frames], "audio": [frame[4:] for frame in frames]}
            writer.write(frame_record(f"v{video:03}", {video % 3, (video // 2) % 3}, features))


def write_checkpoint(prefix: Path) -> None:
    """Writes the stored tensors and the graph of the objects that they belong to, without our code or Keras."""
    stored = json.loads((STORED / "tensors.json").read_text())
    tensors = {
        name: tf.constant(np.array(one["values"], one["dtype"]).reshape(one["shape"])) for name, one in stored.items()
    }
    graph = trackable_object_graph_pb2.TrackableObjectGraph()
    text_format.Parse((STORED / "object_graph.textproto").read_text(), graph)
    tensors["_CHECKPOINTABLE_OBJECT_GRAPH"] = tf.constant(graph.SerializeToString())
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=[*tensors.values()],
    )


@pytest.fixture(name="old")
def make_old_run(tmp_path: Path) -> Path:
    """The run in a folder of its own, with its data beside it."""
    write_videos(tmp_path / "videos.tfrecord")
    (tmp_path / "run" / "data" / "worker-0" / "5").mkdir(parents=True)
    for name in ("config.json", "checkpoint"):
        shutil.copy(STORED / name, tmp_path / "run")
    shutil.copy(STORED / "order.txt", tmp_path / "run" / "data" / "worker-0" / "5")
    write_checkpoint(tmp_path / "run" / "ckpt-5")
    return tmp_path / "run"


def predictions(path: Path) -> dict[tuple[str, int], float]:
    """(video, class) -> prediction, of a submission."""
    with path.open() as file:
        rows = {row["VideoId"]: row["LabelConfidencePairs"].split() for row in csv.DictReader(file)}
    return {(video, int(words[i])): float(words[i + 1]) for video, words in rows.items() for i in range(0, 6, 2)}


def infer(*arguments: str, folder: Path) -> dict[tuple[str, int], float]:
    """What inference.py predicts of the videos."""
    output = folder / "predictions.csv"
    data = f"--input_data_pattern={folder}/videos.tfrecord"
    run("inference", data, f"--output_file={output}", "--top_k=3", *arguments)
    return predictions(output)


def test_it_predicts_what_it_predicted(old: Path) -> None:
    expected = pytest.approx(predictions(STORED / "predictions_of_step_5.csv"), abs=2e-6)
    assert infer(f"--train_dir={old}", folder=old.parent) == expected
    pack_run(str(old), str(old.parent / "old.tgz"))
    assert infer(f"--input_model_tgz={old.parent}/old.tgz", folder=old.parent) == expected


def test_it_has_the_metrics_that_it_had(old: Path) -> None:
    pattern = f"--eval_data_pattern={old.parent}/videos.tfrecord"
    run("eval", f"--train_dir={old}", pattern, "--run_once", *COMMAND_LINE)
    metrics, stored = (json.loads(path.read_text()) for path in (old / "eval/metrics.json", STORED / "metrics.json"))
    assert {name: metrics[name] for name in stored} == pytest.approx(stored, rel=1e-6)


def test_resumed_it_goes_on_from_its_weights_with_the_epoch_from_its_start(
    old: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pattern = f"--train_data_pattern={old.parent}/videos.tfrecord"
    with caplog.at_level("INFO"):
        run("train", f"--train_dir={old}", pattern, "--max_steps=8", *COMMAND_LINE)
    assert "the data are read from the start of epoch" in caplog.text
    assert infer(f"--train_dir={old}", folder=old.parent) != predictions(STORED / "predictions_of_step_5.csv")
    assert sorted(path.name for path in old.glob("ckpt-*.index")) == ["ckpt-5.index", "ckpt-8.index"]
    assert json.loads((old / "config.json").read_text())["format"] == 8


def test_it_may_be_overwritten(old: Path) -> None:
    pattern = f"--train_data_pattern={old.parent}/videos.tfrecord"
    run("train", f"--train_dir={old}", pattern, "--max_steps=1", "--start_new_model", *COMMAND_LINE)
    assert sorted(path.name for path in old.glob("ckpt-*.index")) == ["ckpt-1.index"]
    assert sorted(path.name for path in (old / "data").iterdir()) == ["1.json", "shards.txt"]


def stored_config() -> dict[str, Any]:
    """The content of the run's `config.json`."""
    return json.loads((STORED / "config.json").read_text())


def opened(content: dict[str, Any], tmp_path: Path) -> RunConfig:
    """The run that this content of a `config.json` describes."""
    (tmp_path / "config.json").write_text(json.dumps(content))
    return load_config(str(tmp_path))


def test_its_loss_has_the_settings_of_its_time(tmp_path: Path) -> None:
    assert opened(stored_config(), tmp_path).loss == LossConfig((LossTerm("HingeLoss", 1.0, {"margin": 1.0}),))
    content = stored_config()
    content["optimization"]["label_loss"] = "BranchCrossEntropyLoss"
    assert opened(content, tmp_path).loss == LossConfig((LossTerm("BranchCrossEntropyLoss"),))


def test_what_was_added_in_its_time_has_the_value_of_that_time(tmp_path: Path) -> None:
    content = stored_config()
    content["optimization"]["weights_halflife"] = 0.0
    whole = opened(content, tmp_path)
    for name in ("weights_halflife", "learning_rate_schedule", "learning_rate_warmup"):
        del content["optimization"][name]
    for name in ("unit_frames", "input_dropout"):
        del content["model"]["hparams"][name]
    for name in ("dropout", "low_rank_gates", "prob_gating", "prob_gating_input", "prob_gating_remove_diag"):
        del content["model"]["hparams"]["classifier_hparams"][name]
    assert opened(content, tmp_path) == whole
    content["model"] |= {"name": "LstmModel", "hparams": {"lstm_cells": 1, "lstm_layers": 1, "classifier": None}}
    added = {"unit_frames": True, "input_batch_norm": False, "input_dropout": 0.0, "dropout": 0.0}
    migrated = RunConfig.from_json(json.dumps(content), "config.json").model.hparams
    assert migrated == content["model"]["hparams"] | added


MODELS = json.loads((STORED / "hyper_parameters.json").read_text())


@pytest.mark.parametrize("name", MODELS)
def test_the_hyper_parameters_of_every_model_of_its_time_are_known(tmp_path: Path, name: str) -> None:
    content = stored_config()
    content["model"] |= {"name": name, "hparams": MODELS[name]}
    hparams = opened(content, tmp_path).model.hparams
    assert sorted(map(str, hparams.values())) == sorted(map(str, MODELS[name].values()))


@pytest.mark.parametrize(
    ("part", "field"),
    [("data", "max_frames"), ("model", "precision"), ("optimization", "optimizer"), ("training", "seed")],
)
def test_a_missing_field_is_an_error(tmp_path: Path, part: str, field: str) -> None:
    content = stored_config()
    del content[part][field]
    with pytest.raises(UserError, match=rf"config\.json is not the configuration of a run: '{part}' lacks {field}\."):
        opened(content, tmp_path)
