"""A run's directory: what is refused, what is kept, what can be handed on."""

import io
import json
import re
import shutil
import tarfile
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from small_run import CONFIG, State, make_model

from yt8m.config import ModelConfig, OptimizationConfig, RunConfig, TrainingConfig
from yt8m.engine.weight_averages import load_weights
from yt8m.errors import UserError
from yt8m.files import one_at_a_time, partial_path, write_text
from yt8m.output.archive import pack_run, unpack_run
from yt8m.positions import Position
from yt8m.runs import checkpoints, lifecycle
from yt8m.runs.directory import (
    checkpoint_step,
    has_run,
    load_config,
    newest_checkpoint,
    require_checkpoint,
    save_config,
)


def save_run(directory: Path, steps: tuple[int, ...] = (10,)) -> None:
    """A run with checkpoints; the weights of checkpoint s are all s."""
    save_config(str(directory), CONFIG)
    model = make_model()
    for step in steps:
        model.set_weights([np.full((2, 3), step)])
        tf.train.Checkpoint(model=model).write(f"{directory}/ckpt-{step}")


def test_a_run_is_resumed_whatever_its_schedule(tmp_path: Path) -> None:
    save_run(tmp_path)
    longer = RunConfig(model=CONFIG.model, training=TrainingConfig(max_steps=99))
    assert lifecycle.open_run(str(tmp_path), longer, start_new_model=False) == CONFIG
    assert lifecycle.open_run(str(tmp_path), longer, start_new_model=True) is None


def test_a_run_is_found_without_the_file_that_names_its_checkpoints(tmp_path: Path) -> None:
    save_run(tmp_path, steps=(9, 10))
    assert newest_checkpoint(str(tmp_path)) == f"{tmp_path}/ckpt-10"
    assert lifecycle.open_run(str(tmp_path), CONFIG, start_new_model=False) == CONFIG


def test_a_run_of_another_architecture_is_refused_and_left_alone(tmp_path: Path) -> None:
    save_run(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    other = RunConfig(model=ModelConfig("LogisticModel", CONFIG.model.hparams | {"l2_penalty": 0.5}))
    with pytest.raises(
        UserError, match=r"holds a run with l2_penalty=1e-08; you asked for 0\.5\. Resume .*--start_new"
    ):
        lifecycle.open_run(str(tmp_path), other, start_new_model=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_run_is_resumed_with_its_own_optimizer_alone(tmp_path: Path) -> None:
    save_run(tmp_path)
    same, other = (
        RunConfig(model=CONFIG.model, optimization=OptimizationConfig(optimizer=name)) for name in ("Adam", "Ftrl")
    )
    assert lifecycle.open_run(str(tmp_path), same, start_new_model=False) == CONFIG
    with pytest.raises(UserError, match=r"holds a run with optimizer=AdamOptimizer; you asked for Ftrl\. Resume"):
        lifecycle.open_run(str(tmp_path), other, start_new_model=False)


def add_files(directory: Path, *names: str) -> list[Path]:
    """Files of the user, each with its own name as content."""
    paths = [directory / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    return paths


def files_in(directory: Path) -> list[Path]:
    """All files in a directory and below."""
    return sorted(path for path in directory.rglob("*") if path.is_file())


THE_USERS = (
    "notes.txt",
    "ckpt-notes.txt",
    "data/train0000.tfrecord",
    "data/worker-0/why.txt",
    "best/mine",
    "eval/x.csv",
)


def test_deleting_a_run_leaves_other_files(tmp_path: Path) -> None:
    save_run(tmp_path)
    checkpoints.save_best(str(tmp_path), CONFIG, make_model(), {"global_step": 10, "gap": 0.5})
    checkpoints.save_evaluation(str(tmp_path), {"global_step": 10, "gap": 0.5}, "train.py")
    add_files(tmp_path, "data/worker-1/10/order.txt", "eval/events.out.tfevents.1", "config.json.0123abcd.partial")
    theirs = add_files(tmp_path, *THE_USERS)
    lifecycle.delete_run(str(tmp_path))
    assert files_in(tmp_path) == sorted(theirs)
    assert not (tmp_path / "data/worker-1").exists()
    for path in theirs:
        path.unlink()
    save_run(tmp_path)
    checkpoints.save_evaluation(str(tmp_path), {"global_step": 10, "gap": 0.5}, "train.py")
    (tmp_path / "notes.txt").touch()
    lifecycle.delete_run(str(tmp_path))
    assert not (tmp_path / "eval").exists()
    assert files_in(tmp_path) == [tmp_path / "notes.txt"]


def test_without_a_run_nothing_is_deleted(tmp_path: Path) -> None:
    theirs = add_files(tmp_path, "checkpoint", "ckpt-7.index", "events.out.tfevents.1", "eval/metrics.json")
    lifecycle.delete_run(str(tmp_path))
    assert files_in(tmp_path) == sorted(theirs)
    theirs += add_files(tmp_path, "config.json")
    with pytest.raises(UserError, match=r"config\.json is not the configuration of a run"):
        lifecycle.delete_run(str(tmp_path))
    assert files_in(tmp_path) == sorted(theirs)


def test_a_pattern_in_the_name_of_a_directory_is_a_plain_name(tmp_path: Path) -> None:
    save_run(tmp_path / "run1")
    save_run(tmp_path / "run[1]")
    lifecycle.delete_run(str(tmp_path / "run[1]"))
    assert has_run(str(tmp_path / "run1"))
    assert not files_in(tmp_path / "run[1]")


@pytest.mark.parametrize("start_new_model", [False, True])
def test_a_new_run_starts_beside_other_files(tmp_path: Path, start_new_model: bool) -> None:
    theirs = add_files(tmp_path, *THE_USERS)
    assert lifecycle.open_run(str(tmp_path), CONFIG, start_new_model) is None
    with lifecycle.new_run(str(tmp_path), CONFIG):
        assert load_config(str(tmp_path)) == CONFIG
    assert files_in(tmp_path) == sorted([*theirs, tmp_path / "config.json"])


@pytest.mark.parametrize("start_new_model", [False, True])
@pytest.mark.parametrize(
    "name",
    ["checkpoint", "ckpt-7.index", "events.out.tfevents.1", "data/worker-0/7/x", "best/ckpt-7.index", "eval", "data"],
)
def test_files_that_no_run_of_ours_wrote_are_in_the_way(tmp_path: Path, name: str, start_new_model: bool) -> None:
    theirs = add_files(tmp_path, name)
    with pytest.raises(UserError, match=r"holds no run, .* would write to .*Choose another --train_dir, or move it"):
        lifecycle.open_run(str(tmp_path), CONFIG, start_new_model)
    assert files_in(tmp_path) == theirs


def test_a_run_needs_a_directory(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--train_dir is empty"):
        lifecycle.open_run("", CONFIG, start_new_model=False)
    (tmp_path / "file").touch()
    for directory in (tmp_path / "file", tmp_path / "file" / "run"):
        assert lifecycle.open_run(str(directory), CONFIG, start_new_model=True) is None
        with pytest.raises(UserError, match="cannot be made"), lifecycle.new_run(str(directory), CONFIG):
            pass


@pytest.mark.parametrize("content", [b"{}", b"", b"\xff\xfe", b'{"name": "my web page"}'])
def test_another_programs_config_is_never_overwritten(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    for start_new_model in (False, True):
        with pytest.raises(UserError, match=r"config\.json is not the configuration of a run"):
            lifecycle.open_run(str(tmp_path), CONFIG, start_new_model)
    assert (tmp_path / "config.json").read_bytes() == content


def fail_in_new_run(directory: Path, steps: tuple[int, ...] = ()) -> None:
    """A new run that writes what runs write, and ends with an error the user can put right."""

    def run() -> None:
        with lifecycle.new_run(str(directory), CONFIG):
            add_files(directory, "events.out.tfevents.1", "data/worker-0/10/order.txt")
            if steps:
                save_run(directory, steps)
            raise UserError("Loss became nan")

    with pytest.raises(UserError, match="nan"):
        run()


def test_a_new_run_that_fails_before_its_first_checkpoint_leaves_nothing(tmp_path: Path) -> None:
    fail_in_new_run(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    theirs = add_files(tmp_path / "run", *THE_USERS)
    fail_in_new_run(tmp_path / "run")
    assert files_in(tmp_path) == sorted(theirs)
    (tmp_path / "empty").mkdir()
    fail_in_new_run(tmp_path / "empty")
    assert (tmp_path / "empty").exists()
    fail_in_new_run(tmp_path / "run", steps=(10,))
    assert has_run(str(tmp_path / "run"))


def test_missing_and_broken_descriptions_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no run: it has no config\.json"):
        load_config(str(tmp_path))
    (tmp_path / "config.json").write_text('{"data": {}}')
    with pytest.raises(UserError, match=r"config\.json is not the configuration of a run"):
        load_config(str(tmp_path))


def test_weights_of_another_shape_are_a_user_error(tmp_path: Path) -> None:
    save_run(tmp_path)
    path = require_checkpoint(str(tmp_path))
    model = make_model()
    load_weights(model, path)
    np.testing.assert_array_equal(model.get_weights()[0], 10)
    with pytest.raises(UserError, match="does not hold the weights of Sequential"):
        load_weights(make_model(units=4), path)


def damage(run: Path, what: str) -> None:
    """Damages checkpoint 10 as disks, copies and kills do."""
    index, data = run / "ckpt-10.index", run / "ckpt-10.data-00000-of-00001"
    content = data.read_bytes()
    if what == "no data":
        data.unlink()
    elif what == "a flipped byte":
        first = content.index(np.float32(10).tobytes())  # the weights
        data.write_bytes(content[:first] + bytes([content[first] ^ 1]) + content[first + 1 :])
    else:
        path = index if what == "an empty index" else data
        path.write_bytes(b"" if "empty" in what else content[: len(content) // 2])


@pytest.mark.parametrize("what", ["no data", "an empty index", "empty data", "half the data", "a flipped byte"])
def test_a_damaged_checkpoint_is_a_user_error(tmp_path: Path, what: str) -> None:
    save_run(tmp_path)
    damage(tmp_path, what)
    with pytest.raises(UserError, match=r"ckpt-10 cannot be read \(.*\)\. Expected whole files .*ckpt-10\.\*\."):
        load_weights(make_model(), str(tmp_path / "ckpt-10"))
    state = State(model=make_model())
    with pytest.raises(UserError, match="ckpt-10 cannot be read"):
        checkpoints.Checkpoints(str(tmp_path), state, 3, "order").restore(10)


def saved(directory: Path, steps: int, order: str = "order", shards: str = "", keep: int = 3) -> Position:
    """Saves a checkpoint at every step, each at a position of its own; returns the last one."""
    save_config(str(directory), CONFIG)
    written = checkpoints.Checkpoints(str(directory), State(model=make_model()), keep, order, shards)
    for step in range(1, steps + 1):
        written.save(step, Position(epoch=2, record=step, examples=100 + step))
    return Position(epoch=2, record=steps, examples=100 + steps)


def restored(directory: Path, order: str = "order", shards: str = "") -> Position:
    return checkpoints.Checkpoints(str(directory), State(model=make_model()), 3, order, shards).restore(10)


def test_every_checkpoint_that_is_kept_has_its_position(tmp_path: Path) -> None:
    expected = saved(tmp_path, 5)
    assert sorted(path.name for path in (tmp_path / "data").glob("*.json")) == ["3.json", "4.json", "5.json"]
    assert restored(tmp_path) == expected
    for path in tmp_path.glob("ckpt-5.*"):
        path.unlink()
    (tmp_path / "checkpoint").unlink()
    assert restored(tmp_path) == Position(epoch=2, record=4, examples=104)


def test_what_a_kill_kept_from_being_deleted_goes_when_the_run_is_resumed(tmp_path: Path) -> None:
    expected = saved(tmp_path, 5, keep=9)
    checkpoints.Checkpoints(str(tmp_path), State(model=make_model()), 3, "order", worker=1).restore(10)
    assert len(list(tmp_path.glob("ckpt-*.index"))) == 5  # worker 0 alone deletes
    assert restored(tmp_path) == expected
    assert sorted(path.name for path in tmp_path.glob("ckpt-*.index")) == [f"ckpt-{step}.index" for step in (3, 4, 5)]
    assert sorted(path.name for path in (tmp_path / "data").glob("*.json")) == ["3.json", "4.json", "5.json"]


def test_a_checkpoint_that_cannot_be_read_gives_way_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved(tmp_path, 3)
    (data,) = tmp_path.glob("ckpt-3.data*")
    data.write_bytes(data.read_bytes()[:10])
    with caplog.at_level("WARNING"):
        assert restored(tmp_path) == Position(epoch=2, record=2, examples=102)
    assert "ckpt-3 cannot be read" in caplog.text
    assert "ckpt-2: 1 steps are lost" in caplog.text
    for path in tmp_path.glob("ckpt-*.data*"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="ckpt-1 cannot be read"):
        restored(tmp_path)


def test_a_run_that_went_on_from_an_older_checkpoint_may_be_interrupted_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved(tmp_path, 4)
    (data,) = tmp_path.glob("ckpt-4.data*")
    data.write_bytes(data.read_bytes()[:10])
    written = checkpoints.Checkpoints(str(tmp_path), State(model=make_model()), 3, "order")
    assert written.restore(10).record == 3
    written.save(3, Position(epoch=2, record=33, examples=133))  # by the clock, before step 4 comes again
    caplog.clear()
    with caplog.at_level("WARNING"):
        assert restored(tmp_path) == Position(epoch=2, record=33, examples=133)
    assert not caplog.text
    assert sorted(path.name for path in tmp_path.glob("ckpt-*.index")) == ["ckpt-2.index", "ckpt-3.index"]
    assert sorted(path.name for path in (tmp_path / "data").glob("*.json")) == ["2.json", "3.json"]


def test_a_checkpoint_has_its_name_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow writes an index in place: a kill left half of it, and a run killed in its first save was lost."""
    whole_rename = tf.io.gfile.rename

    def killed(source: str, target: str, overwrite: bool = False) -> None:
        if target.endswith(".index"):
            raise KeyboardInterrupt
        whole_rename(source, target, overwrite)

    with monkeypatch.context() as patch:
        patch.setattr(tf.io.gfile, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            saved(tmp_path, 1)
    assert newest_checkpoint(str(tmp_path)) is None
    saved(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(tf.io.gfile, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.Checkpoints(str(tmp_path), State(model=make_model()), 3, "order").save(2, Position())
    assert newest_checkpoint(str(tmp_path)) == f"{tmp_path}/ckpt-1"
    lifecycle.delete_leftovers(
        str(tmp_path)
    )  # of a process that still lives, so only what has a checkpoint's name goes
    assert sorted(path.name for path in tmp_path.glob("ckpt-?.*") if "partial" not in path.name) == [
        "ckpt-1.data-00000-of-00001",
        "ckpt-1.index",
    ]


def test_another_order_starts_the_epoch_again_and_says_what_changed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved(tmp_path, 2, shards="a 10 00\nb 20 00\n")
    with caplog.at_level("INFO"):
        assert restored(tmp_path, "other", "a 10 00\nb 21 00\n") == Position(epoch=2, examples=102)
        assert restored(tmp_path, "other", "a 10 00\nb 20 00\n") == Position(epoch=2, examples=102)
    assert "(b is one): the data are read from the start of epoch 2." in caplog.text
    assert "by another seed, number of readers or service: the data" in caplog.text


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"order": 3}', '{"order": "a", "epoch": -1}', '{"epoch": 1.5}'])
def test_a_damaged_position_is_a_user_error(tmp_path: Path, text: str) -> None:
    saved(tmp_path, 2)
    (tmp_path / "data" / "2.json").write_text(text)
    with pytest.raises(UserError, match=r"data/2\.json is damaged: .* Restore it from a copy, or delete it"):
        restored(tmp_path)


def test_without_a_position_the_epochs_that_are_done_still_count(tmp_path: Path) -> None:
    saved(tmp_path, 2)
    (tmp_path / "data" / "2.json").unlink()
    state = State(model=make_model())
    state.examples_seen.assign(37)
    state.write(str(tmp_path / "ckpt-9"))
    assert restored(tmp_path) == Position(epoch=3, examples=37)


def test_another_worker_writes_nothing(tmp_path: Path) -> None:
    save_config(str(tmp_path), CONFIG)
    other = checkpoints.Checkpoints(str(tmp_path), State(model=make_model()), 3, "order", worker=1)
    other.save(1, Position())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json"]


def test_a_run_without_checkpoint_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no checkpoint yet"):
        require_checkpoint(str(tmp_path))


def test_best_is_a_run_of_its_own(tmp_path: Path) -> None:
    assert checkpoints.best_gap(str(tmp_path)) == -np.inf
    checkpoints.save_best(str(tmp_path), CONFIG, make_model(value=7), {"global_step": 12, "gap": 0.5})
    assert checkpoints.best_gap(str(tmp_path)) == 0.5
    assert load_config(str(tmp_path / "best")) == CONFIG
    newest = require_checkpoint(str(tmp_path / "best"))
    assert checkpoint_step(newest) == 12
    model = make_model()
    load_weights(model, newest)
    np.testing.assert_array_equal(model.get_weights()[0], 7)


def test_a_kill_between_the_best_weights_and_their_evaluation_loses_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = partial(checkpoints.save_best, str(tmp_path), CONFIG)
    save(make_model(value=7), {"global_step": 12, "gap": 0.5})

    for after_the_weights, expected in ((False, 0.5), (True, 0.672)):

        def killed(*arguments: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            if after_the_weights:
                patch.setattr(checkpoints, "tidy_best", killed)
            else:
                patch.setattr(tf.train.Checkpoint, "write", killed)
            with pytest.raises(KeyboardInterrupt):
                save(make_model(value=8), {"global_step": 24, "gap": 0.672})
        assert checkpoints.best_gap(str(tmp_path)) == expected
    checkpoints.tidy_best(str(tmp_path))  # as the next start does
    assert json.loads((tmp_path / "best/metrics.json").read_text())["gap"] == 0.672
    save(make_model(value=9), {"global_step": 36, "gap": 0.7})
    assert sorted(path.name for path in (tmp_path / "best").glob("metrics*")) == ["metrics-36.json", "metrics.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"gap": "x"}'])
def test_a_damaged_evaluation_of_the_best_weights_is_a_user_error(tmp_path: Path, text: str) -> None:
    checkpoints.save_best(str(tmp_path), CONFIG, make_model(), {"global_step": 12, "gap": 0.5})
    (tmp_path / "best" / "metrics-12.json").write_text(text)
    with pytest.raises(UserError, match=r"best/metrics-12\.json is damaged: .* Restore it, or delete the folder"):
        checkpoints.best_gap(str(tmp_path))


def test_a_history_that_was_cut_short_is_mended(tmp_path: Path) -> None:
    assert checkpoints.last_evaluated_step(str(tmp_path), "train.py") is None
    checkpoints.save_evaluation(str(tmp_path), {"global_step": 1, "gap": 0.1}, "train.py")
    with (tmp_path / "eval/history.jsonl").open("a") as file:
        file.write('{"global_step": 2, "ga')
    assert checkpoints.last_evaluated_step(str(tmp_path), "train.py") == 1
    checkpoints.save_evaluation(str(tmp_path), {"global_step": 3, "gap": 0.3}, "train.py")
    lines = (tmp_path / "eval/history.jsonl").read_text().splitlines()
    assert [json.loads(line)["global_step"] for line in lines] == [1, 3]
    assert checkpoints.last_evaluated_step(str(tmp_path), "train.py") == 3


def test_an_evaluation_by_another_program_is_not_the_one_that_training_owes(tmp_path: Path) -> None:
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval/history.jsonl").write_text('{"global_step": 4, "gap": 0.4}\n')  # by an older version
    checkpoints.save_evaluation(str(tmp_path), {"global_step": 8, "gap": 0.8}, "eval.py")
    assert checkpoints.last_evaluated_step(str(tmp_path), "train.py") == 4
    checkpoints.save_evaluation(str(tmp_path), {"global_step": 8, "gap": 0.8}, "train.py")
    checkpoints.save_evaluation(str(tmp_path), {"global_step": 6, "gap": 0.6}, "eval.py")
    assert checkpoints.last_evaluated_step(str(tmp_path), "train.py") == 8


def test_a_line_that_another_program_adds_meanwhile_is_not_lost(tmp_path: Path) -> None:
    checkpoints.save_evaluation(str(tmp_path), {"global_step": 1, "gap": 0.1}, "train.py")
    ours = threading.Thread(
        target=checkpoints.save_evaluation, args=(str(tmp_path), {"global_step": 3, "gap": 0.3}, "train.py")
    )
    with one_at_a_time(str(tmp_path / "eval")):
        ours.start()
        ours.join(timeout=0.3)
        assert ours.is_alive()
        with (tmp_path / "eval/history.jsonl").open("a") as file:
            file.write('{"global_step": 2, "gap": 0.2}\n')
    ours.join()
    lines = (tmp_path / "eval/history.jsonl").read_text().splitlines()
    assert [json.loads(line)["global_step"] for line in lines] == [1, 2, 3]


def test_evaluations_are_kept_newest_and_all(tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoints.save_evaluation(str(tmp_path), {"global_step": step, "gap": step / 10}, "train.py")
    assert json.loads((tmp_path / "eval/metrics.json").read_text()) == {"global_step": 2, "gap": 0.2}
    lines = (tmp_path / "eval/history.jsonl").read_text().splitlines()
    assert [json.loads(line)["global_step"] for line in lines] == [1, 2]


def test_unwritable_places_are_user_errors(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be made: .* Choose a place that you may write to\."):
        save_config(str(tmp_path / "file" / "run"), CONFIG)
    with pytest.raises(UserError, match=r"nowhere/.*metrics\.json cannot be written \(.*\)\. Expected"):
        write_text(str(tmp_path / "nowhere" / "metrics.json"), "{}")


def test_only_the_newest_checkpoint_is_handed_on(tmp_path: Path) -> None:
    save_run(tmp_path / "run", steps=(10, 20))
    pack_run(str(tmp_path / "run"), str(tmp_path / "model.tgz"))
    unpack_run(str(tmp_path / "model.tgz"), str(tmp_path / "copy"))
    assert load_config(str(tmp_path / "copy")) == CONFIG
    newest = require_checkpoint(str(tmp_path / "copy"))
    assert newest == str(tmp_path / "copy" / "ckpt-20")
    assert not list((tmp_path / "copy").glob("ckpt-10*"))


def test_an_archive_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    save_run(tmp_path / "run")
    archive = tmp_path / "model.tgz"
    archive.write_text("the old one")
    (tmp_path / "run" / "ckpt-10.index").unlink()
    (tmp_path / "run" / "ckpt-10.index").mkdir()
    with pytest.raises(UserError, match=r"ckpt-10\.index cannot be read"):
        pack_run(str(tmp_path / "run"), str(archive))
    with pytest.raises(UserError, match=r"--output_model_tgz=.*nowhere/model\.tgz cannot be written"):
        pack_run(str(tmp_path / "run"), str(tmp_path / "nowhere" / "model.tgz"))
    assert archive.read_text() == "the old one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.tgz", "run"]


def make_archive(folder: Path, value: int = 10) -> str:
    """A run in an archive, alone in its folder."""
    save_run(folder / "run", steps=(value,))
    pack_run(str(folder / "run"), str(folder / "model.tgz"))
    shutil.rmtree(folder / "run")
    return str(folder / "model.tgz")


def test_a_damaged_archive_gives_the_same_files_or_none(tmp_path: Path) -> None:
    archive, out = Path(make_archive(tmp_path)), tmp_path / "some" / "where" / "out"
    content = archive.read_bytes()
    unpack_run(str(archive), str(out))
    whole = {path.name: path.read_bytes() for path in out.iterdir()}
    shutil.rmtree(tmp_path / "some")
    flipped = [content[:i] + bytes([content[i] ^ 16]) + content[i + 1 :] for i in range(20, len(content), 29)]
    last_byte = content[:-1] + bytes([content[-1] ^ 1])
    messages = []
    for broken in (*flipped, last_byte, content[:-1], content[:-9], content[: len(content) // 2]):
        archive.write_bytes(broken)
        try:
            unpack_run(str(archive), str(out))
        except UserError as error:
            messages.append(str(error))
        else:  # not every bit of a compressed stream is used
            assert {path.name: path.read_bytes() for path in out.iterdir()} == whole
            shutil.rmtree(tmp_path / "some")
        assert list(tmp_path.iterdir()) == [archive]
    assert len(messages) > 0.8 * len(flipped)
    assert all(re.search(r"--input_model_tgz=.*(cannot be unpacked|holds)", message) for message in messages)


def test_what_a_killed_unpacking_left_goes(tmp_path: Path) -> None:
    save_run(tmp_path / "run")
    pack_run(str(tmp_path / "run"), str(tmp_path / "run.tgz"))
    left = Path(re.sub(r"-\d+-\d*", "-1-2", partial_path(str(tmp_path / "unpacked"))))
    left.mkdir()  # from when the folder `made` was not there yet
    (left / "config.json").touch()
    (tmp_path / "made").mkdir()
    unpack_run(str(tmp_path / "run.tgz"), str(tmp_path / "made" / "unpacked"))
    assert has_run(str(tmp_path / "made" / "unpacked"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "run", "run.tgz"]


def test_an_archive_without_a_run_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(CONFIG.to_json())
    with tarfile.open(tmp_path / "model.tgz", "w:gz") as tar:
        tar.add(tmp_path / "config.json", "config.json")
    with pytest.raises(UserError, match=r"holds no run: expected config\.json and a checkpoint"):
        unpack_run(str(tmp_path / "model.tgz"), str(tmp_path / "out"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.tgz"]


def test_an_archive_is_unpacked_beside_other_files_and_twice_but_over_no_other_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    theirs = add_files(out, "notes.txt")[0]
    archive = make_archive(tmp_path)
    unpack_run(archive, str(out))
    unpack_run(archive, str(out))
    assert has_run(str(out))
    before = files_in(out)
    with pytest.raises(UserError, match=r"--untar_model_dir=.*out holds another run: its c.* Choose a new directory"):
        unpack_run(make_archive(tmp_path, 20), str(out))
    assert files_in(out) == before
    assert theirs.read_text() == "notes.txt"
    with pytest.raises(UserError, match=r"--untar_model_dir=.*notes\.txt cannot be written"):
        unpack_run(archive, str(theirs))


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


def test_an_archive_that_swells_is_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    save_run(tmp_path / "run")
    with tarfile.open(tmp_path / "model.tgz", "w:gz") as tar:
        for path in sorted((tmp_path / "run").iterdir()):
            tar.add(path, path.name)
        zeros = tarfile.TarInfo("zeros")
        zeros.size = 3_000_000
        tar.addfile(zeros, io.BytesIO(bytes(zeros.size)))
    archive = str(tmp_path / "model.tgz")
    with pytest.raises(
        UserError, match=r"its 'zeros' of 3,000,000 bytes goes beyond the limit\. Nothing was unpacked\."
    ):
        unpack_run(archive, str(tmp_path / "out"), max_gigabytes=0.002)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.tgz", "run"]
    unpack_run(archive, str(tmp_path / "out"), max_gigabytes=0.004)
    assert (tmp_path / "out" / "zeros").stat().st_size == zeros.size


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
