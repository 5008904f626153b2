"""A run learns from the predictions of another one: from its directory, or from its CSV."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from programs import run

from yt8m.data.synthetic import write_video_shards
from yt8m.errors import UserError

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


def train(place: Path, name: str, *arguments: str) -> dict[str, np.ndarray]:
    """Trains a run and returns its weights."""
    line = [f"--train_data_pattern={place}/train*.tfrecord", f"--train_dir={place}/{name}", "--num_classes=4"]
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
