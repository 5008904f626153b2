"""From a configuration to a model: whatever cannot be built is answered with the name that was typed."""

from typing import Any

import pytest
import tensorflow as tf

from yt8m.cli.metric_flags import resolve_metrics
from yt8m.cli.model_flags import resolve_model
from yt8m.config import RunConfig
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


def test_a_model_that_can_be_built() -> None:
    hparams: dict[str, Any] = {
        "data": FRAMES,
        "model": resolve_model("LstmModel", FRAMES, {}, ["lstm_cells=3"], "float32"),
    }
    assert experiment.build_model(RunConfig(**hparams)).built
