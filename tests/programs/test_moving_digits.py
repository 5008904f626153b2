"""tools.moving_digits: videos whose classes differ in the order of frames alone, and what is measured on them."""

import importlib
from typing import Any

import numpy as np
import pandas as pd
import pytest
from absl import flags

from yt8m.cli.run_flags import config_from_flags, define_program_flags, define_run_flags
from yt8m.registry import CLIP_MODELS, LOSSES

pytest.importorskip("cv2", reason="requirements-video.txt is not installed")
tool: Any = importlib.import_module("tools.moving_digits")
DIGITS = np.ones((1, 8, 8))


def video(label: int, seed: int) -> np.ndarray:
    return tool.moving_digits(DIGITS, label, np.random.default_rng(seed))


@pytest.mark.parametrize("label", range(0, 6, 2))
@pytest.mark.parametrize("seed", range(3))
def test_of_two_classes_one_is_the_other_backwards(label: int, seed: int) -> None:
    frames = video(label, seed)
    assert tool.SHORTEST <= len(frames) <= tool.LONGEST
    assert frames.shape[1:] == (tool.SIZE, tool.SIZE, 3)
    np.testing.assert_array_equal(video(label + 1, seed), frames[::-1])


@pytest.mark.parametrize(("label", "axis"), [(0, 2), (2, 1)])
def test_digits_go_where_their_class_says(label: int, axis: int) -> None:
    """To the right, and down: on average over videos, by the centre of what is bright."""
    ways = []
    for seed in range(30):
        light = video(label, seed).sum(-1).astype(float)
        centres = (light * np.arange(tool.SIZE).reshape((-1, 1) if axis == 1 else (1, -1))).sum((1, 2)) / light.sum(
            (1, 2)
        )
        ways.append(centres[-1] - centres[0])
    assert np.mean(ways) > 2


def test_digits_appear() -> None:
    assert np.mean([video(4, seed)[-1].mean() / video(4, seed)[0].mean() for seed in range(30)]) > 1.2


@pytest.mark.parametrize("name", tool.ROWS)
def test_a_row_is_a_run(name: str) -> None:
    values = flags.FlagValues()
    define_run_flags(values)
    define_program_flags(values, batch_size=1024)
    values(["train.py", *tool._DATA, *tool._TRAINING, *tool.ROWS[name]])
    run = config_from_flags(values)
    assert all(term.name in LOSSES for term in run.loss.terms)
    CLIP_MODELS[run.model.name](run.data, **run.model.hparams)


def test_all_rows_are_shown_beside_the_papers_numbers() -> None:
    assert [name for table in tool.TABLES for _, name, _ in table.rows] == list(tool.ROWS)
    runs = {"max": pd.DataFrame({"accuracy": [0.4, 0.5], "train_seconds": [10, 20]})}
    table = tool.Table("Title", "Source", (("First", "max", "71"), ("Second", "rank", "")))
    assert tool.table_rows(table, runs)[-2:] == [
        "| First | 71 | 0.4500 ± 0.0707 | 15 | 2 |",
        "| Second | not given |  |  |  |",
    ]
