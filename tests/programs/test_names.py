"""Directories of any name that the file system takes: they work, or are refused before anything is done."""

from pathlib import Path

import pytest
from programs import run

from yt8m.data.synthetic import write_video_shards
from yt8m.errors import UserError

FLAGS = ("--num_classes=3", "--batch_size=20", "--num_epochs=0", "--export_model_steps=1", "--keep_checkpoints=2")


@pytest.fixture(name="shards")
def make_shards(tmp_path: Path) -> str:
    """The pattern of some shards."""
    write_video_shards(tmp_path, num_videos=40, num_shards=2, num_classes=3)
    return f"{tmp_path}/train*.tfrecord"


def steps(train_dir: Path) -> list[str]:
    """The checkpoints of a run."""
    return sorted(path.stem for path in train_dir.glob("ckpt-*.index"))


def test_a_strange_name_works(tmp_path: Path, shards: str) -> None:
    train_dir = tmp_path / "-a,b {x,y}]\n%41 %s ~ $HOME 'q' \"ü\" lr=0.1: "
    train = (f"--train_data_pattern={shards}", f"--train_dir={train_dir}", *FLAGS)
    run("train", *train, "--max_steps=3", f"--eval_data_pattern={shards}")
    assert steps(train_dir) == ["ckpt-2", "ckpt-3"]
    run("train", *train, "--max_steps=4")
    assert steps(train_dir) == ["ckpt-3", "ckpt-4"]
    run("eval", f"--train_dir={train_dir}", f"--eval_data_pattern={shards}", "--run_once")
    outputs = (f"--output_file={train_dir}/a.csv", f"--output_model_tgz={train_dir}/a.tgz")
    run("inference", f"--train_dir={train_dir}", f"--input_data_pattern={shards}", *outputs)
    unpacked = (f"--input_model_tgz={train_dir}/a.tgz", f"--untar_model_dir={train_dir}/model")
    run("inference", *unpacked, f"--input_data_pattern={shards}", f"--output_file={train_dir}/b.csv")
    assert (train_dir / "a.csv").read_bytes() == (train_dir / "b.csv").read_bytes()
    run("train", *train, "--max_steps=1", "--start_new_model")
    assert steps(train_dir) == ["ckpt-1"]


@pytest.mark.parametrize("name", ["lr=[0.01]", "run?", "run*", "a\\\\b"])
def test_a_name_that_tensorflow_takes_for_a_pattern_is_refused(tmp_path: Path, shards: str, name: str) -> None:
    before = sorted(tmp_path.iterdir())
    message = "which TensorFlow takes for a pattern of files: .* Choose another name"
    with pytest.raises(UserError, match=message):
        run("train", f"--train_data_pattern={shards}", f"--train_dir={tmp_path}/{name}", *FLAGS, "--max_steps=1")
    assert sorted(tmp_path.iterdir()) == before
    for program, flag in (("eval", f"--eval_data_pattern={shards}"), ("inference", f"--output_file={tmp_path}/a.csv")):
        with pytest.raises(UserError, match=message):
            run(program, f"--train_dir={tmp_path}/{name}", flag, "--run_once")
