"""Teachers: a table of predictions by id."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from yt8m.engine.teacher import PredictionTable, explained_teacher
from yt8m.errors import UserError
from yt8m.output.submission import read_submission


def table(directory: Path, *rows: str, num_classes: int = 4) -> PredictionTable:
    path = directory / "teacher.csv"
    path.write_text("\n".join(["VideoId,LabelConfidencePairs", *rows]) + "\n")
    return PredictionTable(*read_submission(str(path)), num_classes=num_classes, source=str(path))


@pytest.mark.parametrize("as_function", [False, True])
def test_videos_are_looked_up_in_the_order_of_the_batch(tmp_path: Path, as_function: bool) -> None:
    teacher = table(tmp_path, "b,3 0.5 0 0.25", "none,", "a,1 1")
    look_up = tf.function(teacher.predictions) if as_function else teacher.predictions
    predictions = look_up({"id": tf.constant(["a", "none", "b", "a"])})
    expected = [[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.25, 0.0, 0.0, 0.5], [0.0, 1.0, 0.0, 0.0]]
    np.testing.assert_array_equal(predictions, expected)
    assert look_up({"id": tf.constant([], tf.string)}).shape == (0, 4)


@pytest.mark.parametrize("video", ["-ab c]", "x"])
def test_a_video_without_a_row_is_named(tmp_path: Path, video: str) -> None:
    step = tf.function(table(tmp_path, "a,1 1").predictions)
    with pytest.raises(UserError, match=r"^--teacher: it has no row for video") as raised, explained_teacher():
        step({"id": tf.constant(["a", video, "y"])})
    assert f"for video {video}, which" in str(raised.value)


def test_another_failure_of_a_step_is_left_alone() -> None:
    with pytest.raises(tf.errors.InvalidArgumentError), explained_teacher():
        tf.debugging.Assert(False, ["something else"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (("a,1 1", "a,2 1"), r"teacher\.csv: video a has two rows"),
        (("a,1 1", "b,0 1 4 0.5"), r"teacher\.csv: video b has class 4; expected 0 to 3\."),
        (("a,-1 1",), r"teacher\.csv, line 2: video a has class -1"),
        (("a,1 0.5", "b,1 1.5"), r"teacher\.csv: video b has the score 1\.5; expected a probability"),
        (("a,1 nan",), r"teacher\.csv, line 2: video a has the score nan"),
        (("a,1 0.5", "b,2 0.5 2 0.4"), r"teacher\.csv, line 3: video b has class 2 twice"),
    ],
)
def test_rows_that_are_no_probabilities_are_refused(tmp_path: Path, rows: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        table(tmp_path, *rows)
