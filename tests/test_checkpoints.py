"""A run's directory: what is refused, what is kept, what can be handed on."""

import io
import json
import tarfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from yt8m import checkpoints
from yt8m.archive import pack_run, unpack_run
from yt8m.config import ModelConfig, RunConfig, TrainingConfig
from yt8m.errors import UserError

CONFIG = RunConfig(model=ModelConfig("LogisticModel", {"l2_penalty": 1e-8}))


def make_model(units: int = 3, value: float = 1.0) -> keras.Model:
    """A model of one weight matrix that holds one value."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(units, use_bias=False)])
    model.set_weights([np.full((2, units), value)])
    return model


def save_run(directory: Path, steps: tuple[int, ...] = (10,)) -> None:
    """A run with checkpoints; the weights of checkpoint s are all s."""
    checkpoints.save_config(str(directory), CONFIG)
    model = make_model()
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(model=model), str(directory), 3, checkpoint_name="ckpt")
    for step in steps:
        model.set_weights([np.full((2, 3), step)])
        manager.save(checkpoint_number=step)


def test_a_run_is_resumed_whatever_its_schedule(tmp_path: Path) -> None:
    save_run(tmp_path)
    longer = RunConfig(model=CONFIG.model, training=TrainingConfig(max_steps=99))
    assert checkpoints.open_run(str(tmp_path), longer, start_new_model=False) == CONFIG
    assert checkpoints.open_run(str(tmp_path), longer, start_new_model=True) is None


def test_a_run_of_another_architecture_is_refused_and_left_alone(tmp_path: Path) -> None:
    save_run(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    other = RunConfig(model=ModelConfig("LogisticModel", {"l2_penalty": 0.5}))
    with pytest.raises(
        UserError, match=r"holds a run with l2_penalty=1e-08; you asked for 0\.5\. Resume .*--start_new"
    ):
        checkpoints.open_run(str(tmp_path), other, start_new_model=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_deleting_a_run_leaves_other_files(tmp_path: Path) -> None:
    save_run(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    checkpoints.save_best(str(tmp_path), CONFIG, make_model(), {"global_step": 10, "gap": 0.5})
    checkpoints.save_evaluation(str(tmp_path), {"global_step": 10, "gap": 0.5})
    checkpoints.delete_run(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_run_without_checkpoint_leaves_no_directory(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    checkpoints.save_config(str(directory), CONFIG)
    checkpoints.delete_run_without_checkpoint(str(directory))
    assert not directory.exists()
    save_run(directory)
    checkpoints.delete_run_without_checkpoint(str(directory))
    assert checkpoints.has_run(str(directory))


def test_missing_and_broken_descriptions_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no run: it has no config\.json"):
        checkpoints.load_config(str(tmp_path))
    (tmp_path / "config.json").write_text('{"data": {}}')
    with pytest.raises(UserError, match=r"config\.json is not the configuration of a run"):
        checkpoints.load_config(str(tmp_path))


def test_weights_of_another_shape_are_a_user_error(tmp_path: Path) -> None:
    save_run(tmp_path)
    path = checkpoints.require_checkpoint(str(tmp_path))
    model = make_model()
    checkpoints.load_weights(model, path)
    np.testing.assert_array_equal(model.get_weights()[0], 10)
    with pytest.raises(UserError, match="does not hold the weights of Sequential"):
        checkpoints.load_weights(make_model(units=4), path)


def test_a_run_without_checkpoint_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no checkpoint yet"):
        checkpoints.require_checkpoint(str(tmp_path))


def test_best_is_a_run_of_its_own(tmp_path: Path) -> None:
    assert checkpoints.best_gap(str(tmp_path)) == -np.inf
    checkpoints.save_best(str(tmp_path), CONFIG, make_model(value=7), {"global_step": 12, "gap": 0.5})
    assert checkpoints.best_gap(str(tmp_path)) == 0.5
    assert checkpoints.load_config(str(tmp_path / "best")) == CONFIG
    newest = checkpoints.require_checkpoint(str(tmp_path / "best"))
    assert checkpoints.checkpoint_step(newest) == 12
    model = make_model()
    checkpoints.load_weights(model, newest)
    np.testing.assert_array_equal(model.get_weights()[0], 7)


def test_evaluations_are_kept_newest_and_all(tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoints.save_evaluation(str(tmp_path), {"global_step": step, "gap": step / 10})
    assert json.loads((tmp_path / "eval/metrics.json").read_text()) == {"global_step": 2, "gap": 0.2}
    lines = (tmp_path / "eval/history.jsonl").read_text().splitlines()
    assert [json.loads(line)["global_step"] for line in lines] == [1, 2]


def test_unwritable_places_are_user_errors(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be made: .* Choose a place that you may write to\."):
        checkpoints.save_config(str(tmp_path / "file" / "run"), CONFIG)
    with pytest.raises(UserError, match=r"nowhere/.*metrics\.json cannot be written \(.*\)\. Expected"):
        checkpoints.write_text(str(tmp_path / "nowhere" / "metrics.json"), "{}")


def test_only_the_newest_checkpoint_is_handed_on(tmp_path: Path) -> None:
    save_run(tmp_path / "run", steps=(10, 20))
    pack_run(str(tmp_path / "run"), str(tmp_path / "model.tgz"))
    unpack_run(str(tmp_path / "model.tgz"), str(tmp_path / "copy"))
    assert checkpoints.load_config(str(tmp_path / "copy")) == CONFIG
    newest = checkpoints.require_checkpoint(str(tmp_path / "copy"))
    assert newest == str(tmp_path / "copy" / "ckpt-20")
    assert not list((tmp_path / "copy").glob("ckpt-10*"))


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/b", ".hidden", "..\\evil"])
def test_archives_with_paths_are_refused_whole(tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "model.tgz", "w:gz") as tar:
        for member in ("config.json", name):
            info = tarfile.TarInfo(member)
            info.size = 2
            tar.addfile(info, io.BytesIO(b"{}"))
    with pytest.raises(UserError, match=r"is no plain file of a run\. Nothing was unpacked\."):
        unpack_run(str(tmp_path / "model.tgz"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "evil").exists()


def test_archives_with_links_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "model.tgz", "w:gz") as tar:
        link = tarfile.TarInfo("config.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(UserError, match="is no plain file of a run"):
        unpack_run(str(tmp_path / "model.tgz"), str(tmp_path / "out"))


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x1f\x8b\x08\x00broken"])
def test_what_is_no_archive_is_a_user_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.tgz").write_bytes(content)
    with pytest.raises(UserError, match="cannot be unpacked"):
        unpack_run(str(tmp_path / "model.tgz"), str(tmp_path / "out"))
    with pytest.raises(UserError, match="cannot be unpacked"):
        unpack_run(str(tmp_path / "missing.tgz"), str(tmp_path / "out"))
