"""From a configuration to a model: whatever cannot be built is answered with the name that was typed."""

from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from yt8m.cli.metric_flags import resolve_metrics
from yt8m.cli.model_flags import resolve_model
from yt8m.config import RunConfig
from yt8m.data.synthetic import write_video_shards
from yt8m.distribution import one_device_strategy
from yt8m.errors import UserError
from yt8m.schema import DataSpec

import experiment
import readers

FRAMES = DataSpec(("rgb", "audio"), (6, 4), 3, record_format="frame")
VIDEOS = DataSpec(("mean_rgb",), (6,), 3)


@pytest.mark.parametrize(
    ("data", "model", "assignment", "expected"),
    [
        (FRAMES, "NetVLADModelLF", "input_dropout=1.5", "expected a share in [0, 1)."),
        (FRAMES, "NetVLADModelLF", "cluster_size=0", "expected at least 1."),
        (FRAMES, "NetVLADModelLF", "classifier.num_mixtures=0", "expected at least 1."),
        (FRAMES, "NetVLADModelLF", "classifier.dropout=1.0", "expected a share in [0, 1)."),
        (FRAMES, "LstmModel", "lstm_layers=0", "expected at least 1."),
        (FRAMES, "NeXtVLADModel", "groups=5", "expected a divisor of 12, the width of 6 features widened 2 times."),
        (FRAMES, "TransformerModel", "feedforward_size=-1", "expected at least 0."),
        (FRAMES, "RankPoolModel", "c=0.0", "expected a number above 0."),
        (VIDEOS, "MoeModel", "l2_penalty=-1.0", "expected at least 0."),
    ],
)
def test_a_hyper_parameter_out_of_range(data: DataSpec, model: str, assignment: str, expected: str) -> None:
    config = RunConfig(data=data, model=resolve_model(model, data, {}, [assignment], "float32"))
    with pytest.raises(UserError) as raised:
        experiment.build_model(config)
    assert str(raised.value) == f"{assignment}: {expected}"


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ("ap_at_n:n=0", "expected at least 1."),
        ("precision_recall:k=6", "expected at most the 5 classes per video that are kept, or 0 for all."),
    ],
)
def test_a_setting_of_metrics_out_of_range(group: str, expected: str) -> None:
    config = RunConfig(data=VIDEOS, model=resolve_model("LogisticModel", VIDEOS, {}, [], "float32"))
    batches = tf.data.Dataset.from_tensors({"labels": [True]})
    data = experiment.Data(batches, VIDEOS, [], labels_required=True, options=readers.ReadOptions())
    arguments = config, one_device_strategy(), experiment.build_model(config), data
    with pytest.raises(UserError) as raised:
        experiment.build_evaluator(*arguments, resolve_metrics(group, macro=False), top_k=5)
    assert str(raised.value) == f"--metrics={group}: {expected}"


@pytest.mark.parametrize(("decided_by", "ending"), [("", "order of --feature_names?"), ("runs/a", "trained on.")])
def test_a_run_is_not_advised_to_change_its_data(tmp_path: Path, decided_by: str, ending: str) -> None:
    write_video_shards(tmp_path, num_videos=4, num_shards=1, num_classes=3)
    spec = DataSpec(("mean_rgb",), (1000,), 3)
    config = RunConfig(data=spec, model=resolve_model("LogisticModel", spec, {}, [], "float32"))
    with pytest.raises(UserError, match=r"'mean_rgb' holds 1024 floats, expected 1000\.") as raised:
        experiment.evaluation_data(
            config,
            experiment.build_model(config),
            f"{tmp_path}/train*",
            "input_data_pattern",
            batch_size=2,
            on_bad_record="error",
            labels_required=False,
            decided_by=decided_by,
        )
    assert str(raised.value).endswith(ending)
    assert ("The run in runs/a was trained on other data" in str(raised.value)) == bool(decided_by)


def test_a_model_that_does_not_fit_into_memory() -> None:
    data = DataSpec(("mean_rgb",), (2**20,), 2**20)  # 4 TiB of weights
    config = RunConfig(data=data, model=resolve_model("LogisticModel", data, {}, [], "float32"))
    with pytest.raises(UserError, match=r"^LogisticModel of these sizes does not fit into memory \(.*OOM") as raised:
        experiment.build_model(config)
    assert "\n" not in str(raised.value)


def test_a_model_that_can_be_built() -> None:
    hparams: dict[str, Any] = {
        "data": FRAMES,
        "model": resolve_model("LstmModel", FRAMES, {}, ["lstm_cells=3"], "float32"),
    }
    assert experiment.build_model(RunConfig(**hparams)).built
