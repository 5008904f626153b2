"""Every file of a run, damaged in every way: mended where that is safe, or one line that names the file; never more.

What programs do with a run is done with a small model: resumed and saved, evaluated, predicted from, overwritten.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_run import CONFIG, State, make_model

from yt8m.engine.calibration import save_calibration, temperature_of
from yt8m.engine.weight_averages import load_weights
from yt8m.errors import UserError
from yt8m.output.archive import pack_run
from yt8m.positions import Position
from yt8m.runs import checkpoints, directory, lifecycle, lock

ORDER, SHARDS = "an order", "a.tfrecord 10 ab\n"
SUMMARY: dict[str, Any] = {"global_step": 10, "gap": 0.25, "loss": 1.5}


def put_numbers(number: bytes) -> Callable[[bytes], bytes]:
    """Puts another number in the place of each one in a JSON text."""
    return lambda content: re.sub(rb"(?<=[ \[:])-?\d[\d.e-]*", number, content)


Damage = Callable[[bytes], bytes | None]  # takes the content of a file, returns another, None for a folder

OF_ANY_FILE: dict[str, Damage] = {
    "empty": lambda content: b"",
    "binary": lambda content: bytes(range(128, 256)) + b"\n\x00\n",
    "half": lambda content: content[: len(content) // 2],
    "a folder": lambda content: None,
}
OF_JSON: dict[str, Damage] = {
    "a list": lambda content: b"[]\n",
    "a number": lambda content: b"3\n",
    "null": lambda content: b"null\n",
    "a word": lambda content: b'"word"\n',
    "deep lists": lambda content: b"[" * 100_000 + b"\n",
    "deep objects": lambda content: b'{"a": ' * 100_000 + b"\n",
    "nan": put_numbers(b"NaN"),
    "infinity": put_numbers(b"Infinity"),
    "2^63": put_numbers(b"9223372036854775808"),
    "10^400": put_numbers(b"1" + b"0" * 400),
    "negative": put_numbers(b"-1"),
    "words for numbers": put_numbers(b'"x"'),
    "truth for numbers": put_numbers(b"true"),
    "lists for numbers": put_numbers(b"[1]"),
}


@pytest.fixture(scope="module", name="run")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one file of every row of the table."""
    train_dir = tmp_path_factory.mktemp("whole") / "run"
    directory.save_config(str(train_dir), CONFIG)
    resume(str(train_dir), step=9)
    resume(str(train_dir), step=10)
    evaluate(str(train_dir))
    for place in (train_dir, train_dir / "best"):
        save_calibration(str(place), directory.require_checkpoint(str(place)), {"temperature": 1.5})
    (train_dir / "data" / "worker-0").mkdir()
    (train_dir / "data" / "worker-0" / "5").touch()
    (train_dir / "plugins" / "profile" / "now").mkdir(parents=True)
    for name in (
        "events.out.tfevents.1",
        "plugins/profile/now/host.xplane.pb",
        *(f"eval/{name}" for name in ("events.out.tfevents.1", "reliability.svg", "class_weights.tsv", "classes.tsv")),
        "eval/projector_config.pbtxt",
        "best/metrics.json",
    ):
        (train_dir / name).touch()
    shutil.copytree(train_dir / "eval", train_dir / "best" / "eval")
    shutil.copy(train_dir / "best" / "metrics-10.json", train_dir / "best" / "metrics.json")
    lock._write(str(train_dir), beat=0)
    return train_dir


def resume(train_dir: str, step: int = 11) -> None:
    """What train.py does with a run, from its look at the directory to its last evaluation."""
    lock.check_unlocked(train_dir)
    resumed = lifecycle.open_run(train_dir, CONFIG, start_new_model=False)
    model = make_model()
    state = State(model)
    kept = checkpoints.Checkpoints(train_dir, state, keep=2, order=ORDER, shards=SHARDS)
    if resumed:
        kept.restore(examples_per_epoch=10)
        checkpoints.last_evaluated_step(train_dir, "train.py")
    with lock.locked(train_dir):
        directory.save_config(train_dir, CONFIG)
        model.set_weights([np.full((2, 3), step)])
        kept.save(step, Position(examples=step))
        summary = SUMMARY | {"global_step": step, "gap": step / 100}
        checkpoints.save_evaluation(train_dir, summary, "train.py")
        if summary["gap"] > checkpoints.best_gap(train_dir):
            checkpoints.save_best(train_dir, CONFIG, model, summary)


def evaluate(train_dir: str) -> None:
    """What eval.py does."""
    directory.load_config(train_dir)
    load_weights(make_model(), directory.require_checkpoint(train_dir))
    temperature_of(train_dir, directory.require_checkpoint(train_dir))
    checkpoints.save_evaluation(train_dir, SUMMARY, "eval.py")
    checkpoints.save_class_table(train_dir, "class,ap\n")


def predict(train_dir: str) -> None:
    """What inference.py does, with the run and with its best weights."""
    for place in (train_dir, f"{train_dir}/best"):
        directory.load_config(place)
        load_weights(make_model(), directory.require_checkpoint(place))
        temperature_of(place, directory.require_checkpoint(place))
        pack_run(place, f"{train_dir}.tgz")


def overwrite(train_dir: str) -> None:
    """What train.py does with --start_new_model."""
    lock.check_unlocked(train_dir)
    lifecycle.open_run(train_dir, CONFIG, start_new_model=True)
    with lifecycle.new_run(train_dir, CONFIG), lock.locked(train_dir):
        pass


def complaint(use: Callable[[str], None], train_dir: Path) -> str:
    """The line with which a use of a run ends, empty if it does what it should."""
    try:
        use(str(train_dir))
    except UserError as error:
        return str(error)
    return ""


CASES = [
    pytest.param(item, damage, id=f"{item.folder}/{item.name or item.holds}, {name}")
    for item in directory.TABLE
    for name, damage in (OF_ANY_FILE | (OF_JSON if "json" in item.pattern else {})).items()
]


@pytest.mark.parametrize("use", [resume, evaluate, predict, overwrite])
@pytest.mark.parametrize(("item", "damage"), CASES)
def test_damage_is_mended_or_named(
    run: Path, tmp_path: Path, item: directory.Item, damage: Damage, use: Callable[[str], None]
) -> None:
    train_dir = shutil.copytree(run, tmp_path / "run")
    found = [Path(path) for path in item.find(str(train_dir))]
    assert found
    for path in found:
        content = damage(path.read_bytes() if path.is_file() else b"")
        path.unlink() if path.is_file() else path.rmdir()
        path.mkdir() if content is None else path.write_bytes(content)
    message = complaint(use, train_dir)
    if message:
        assert "\n" not in message
        assert len(message) < 1000
        assert any(str(path.with_suffix("")) in message for path in found)
    else:
        assert not complaint(use, train_dir)  # what was mended stays so
