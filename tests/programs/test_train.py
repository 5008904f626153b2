"""train.py in this process: a command line that is refused costs nothing, and a new run follows an old one."""

import json
from pathlib import Path

import numpy as np
import pytest
from absl import flags

from yt8m.cli.program import start
from yt8m.data.record_writing import video_record, write_records
from yt8m.data.synthetic import write_video_shards
from yt8m.errors import UserError
from yt8m.runs.directory import checkpoint_step, newest_checkpoint

import train


@pytest.fixture(scope="module", name="shards")
def make_shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The pattern of small shards with a vector for each video."""
    place = tmp_path_factory.mktemp("shards")
    write_video_shards(place, num_videos=60, num_shards=2, num_classes=4)
    return f"{place}/train*.tfrecord"


def run_train(shards: str, run: Path, *arguments: str) -> int:
    """Runs train.py; later arguments win."""
    values = flags.FlagValues()
    train.define_flags(values)
    line = [f"--train_data_pattern={shards}", f"--train_dir={run}", "--num_classes=4", "--batch_size=20"]
    values(["train.py", *line, "--num_epochs=0", "--max_steps=2", *arguments])
    return start(train.main, values) or 0


@pytest.fixture(scope="module", name="old_run")
def make_old_run(shards: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    run = tmp_path_factory.mktemp("runs") / "old"
    assert run_train(shards, run) == 0
    return run


def contents(directory: Path) -> dict[Path, bytes]:
    """Every file in a directory and below."""
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("new", ["--start_new_model", "--nostart_new_model"])
@pytest.mark.parametrize(
    "wrong",
    [
        "--eval_data_pattern=/nowhere/x*",
        "--log_steps=0",
        "--export_model_steps=0",
        "--keep_checkpoints=0",
        "--num_gpu=99",
        "--optimizer=Adamm",
    ],
)
def test_a_command_line_that_is_refused_leaves_the_old_run_as_it_was(
    old_run: Path, shards: str, wrong: str, new: str
) -> None:
    before = contents(old_run)
    with pytest.raises(UserError, match=wrong.split("=")[0].strip("-")):
        run_train(shards, old_run, "--max_steps=4", new, wrong)
    assert contents(old_run) == before


def test_a_new_run_takes_the_place_of_an_old_one(old_run: Path, shards: str) -> None:
    assert run_train(shards, old_run, "--max_steps=1", "--start_new_model", f"--eval_data_pattern={shards}") == 0
    assert checkpoint_step(newest_checkpoint(str(old_run)) or "none-0") == 1
    assert sorted(path.name for path in old_run.glob("ckpt-*.index")) == ["ckpt-1.index"]
    assert json.loads((old_run / "config.json").read_text())["training"]["max_steps"] == 1


def test_a_weighted_sum_of_losses_is_trained_on_and_kept_with_its_settings(
    shards: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    line = ("--label_loss=CrossEntropyLoss+0.5*HingeLoss", "--log_steps=1", "--class_prior_examples=0")
    with caplog.at_level("INFO", logger="yt8m"):
        assert run_train(shards, tmp_path / "run", *line, "--hparams=loss.margin=3", "--max_steps=1") == 0
        assert run_train(shards, tmp_path / "run", *line, "--hparams=loss.HingeLoss.margin=2") == 0
    # Every p starts at 1/2, of 4 classes: 4 log 2 = 2.7726 and a hinge loss of 4 * 3 - (labels - others) / 2 >= 10.
    first = next(message for message in caplog.messages if message.startswith("training step 1 "))
    assert float(first.split("Loss: ")[1].split()[0]) > 2.7 + 0.5 * 10
    assert "Resuming with loss.HingeLoss.margin=2.0; it was 3.0." in caplog.messages
    terms = json.loads((tmp_path / "run" / "config.json").read_text())["loss"]["terms"]
    plain = {"label_smoothing": 0.0, "positive_weight": 1.0, "negative_weight": 1.0}
    assert terms == [
        {"name": "CrossEntropyLoss", "weight": 1.0, "hparams": plain},
        {"name": "HingeLoss", "weight": 0.5, "hparams": {"margin": 2}},
    ]


def test_data_without_labels_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    vectors = {"mean_rgb": np.zeros(1024, np.float32), "mean_audio": np.zeros(128, np.float32)}
    file = write_records(tmp_path / "x", [video_record(f"v{number}", [], vectors) for number in range(40)])
    assert run_train(file, tmp_path / "run", "--feature_names=mean_rgb,mean_audio", "--feature_sizes=1024,128") == 0
    warning = "None of the first 40 records has a label: there is nothing to learn. Are these the training shards?"
    assert warning in caplog.messages
