"""From a configuration to a model: whatever cannot be built is answered with the name that was typed."""

from typing import Any

import pytest

from yt8m.cli.model_flags import resolve_model
from yt8m.config import RunConfig
from yt8m.errors import UserError
from yt8m.schema import DataSpec

import experiment

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
    assert str(raised.value) == f"--hparams={assignment}: {expected}"


def test_a_model_that_can_be_built() -> None:
    hparams: dict[str, Any] = {
        "data": FRAMES,
        "model": resolve_model("LstmModel", FRAMES, {}, ["lstm_cells=3"], "float32"),
    }
    assert experiment.build_model(RunConfig(**hparams)).built
