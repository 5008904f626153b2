"""A search of settings: what is refused, trials that are killed and resumed, and a recipe that repeats its score."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from absl import flags

from tools import tune
from tools.search_space import Choice, Range, SearchSpace
from yt8m.data.synthetic import write_video_shards
from yt8m.errors import UserError
from yt8m.runs.history import evaluation_curves

optuna = pytest.importorskip("optuna", reason="requirements-tune.txt is not installed")

ROOT = Path(__file__).parents[2]
CLASSES = 5
SPACE = """
[flags.base_learning_rate]
low = 0.01
high = 0.1
log = true

[hparams.dropout]
choices = [0.0, 0.25]
"""
TRAIN = ["--feature_names=mean_rgb,mean_audio", "--feature_sizes=1024,128", f"--num_classes={CLASSES}"]
TRAIN += ["--batch_size=20", "--num_epochs=2", "--export_model_steps=2", "--hparams=dropout=0.5"]


@pytest.fixture(scope="module", name="place")
def make_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tune")
    write_video_shards(place, num_videos=60, num_shards=3, num_classes=CLASSES)
    (place / "space.toml").write_text(SPACE)
    return place


def shards(place: Path) -> list[str]:
    first, second, third = sorted(place.glob("train*.tfrecord"))
    return [f"--train_data_pattern={first},{second}", f"--eval_data_pattern={third}"]


def tuned(study: Path, space: Path, train_flags: Sequence[str], num_trials: int = 2) -> None:
    values = flags.FlagValues()
    tune.define_flags(values)
    values(["tune", f"--study={study}", f"--space={space}", f"--num_trials={num_trials}"])
    tune.main(values, train_flags)


# ---- the space


def test_a_space_by_hand(tmp_path: Path) -> None:
    file = tmp_path / "space.toml"
    file.write_text(
        SPACE + "[hparams.classifier.num_mixtures]\nlow = 2\nhigh = 8\nstep = 2\n[flags.gating]\nchoices=[true]"
    )
    space = SearchSpace.read(str(file))
    assert space.settings == {
        "flags.base_learning_rate": Range(0.01, 0.1, log=True),
        "flags.gating": Choice((True,)),
        "hparams.dropout": Choice((0.0, 0.25)),
        "hparams.classifier.num_mixtures": Range(2, 8, step=2),
    }
    values = {"flags.base_learning_rate": 0.0123456, "flags.gating": True}
    values |= {"hparams.dropout": 0.25, "hparams.classifier.num_mixtures": 4}
    expected = ["--base_learning_rate=0.01235", "--gating=True", "--hparams=dropout=0.25"]
    assert space.arguments(values) == [*expected, "--hparams=classifier.num_mixtures=4"]
    assert json.loads(json.dumps(space.to_data()))["flags.gating"] == {"values": [True], "kind": "Choice"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "searches nothing"),
        ("[flags.x", "Expected TOML"),
        ("[flag.x]\nlow = 1\nhigh = 2", "'flag' is not expected"),
        ("[flags.x]\nlow = 1", "expected low"),
        ("[flags.x]\nlow = 2\nhigh = 1", "low below high"),
        ("[flags.x]\nlow = 0\nhigh = 1\nlog = true", "a low above 0"),
        ("[flags.x]\nlow = 0\nhihg = 1", "no 'hihg'. Did you mean high"),
        ("[flags.x]\nchoices = []", "choices alone"),
        ("[flags]\nx = 1", "expected a table"),
    ],
)
def test_a_space_that_cannot_be(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "space.toml"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        SearchSpace.read(str(file))


@pytest.mark.parametrize(
    ("space", "arguments", "message"),
    [
        (SPACE, [0], "validation shards are missing"),
        (SPACE, [0, "--eval_data_pattern={place}/train*"], "is a training and a validation shard"),
        (SPACE, [0, 1, "--train_dir=x"], "--train_dir is chosen for each trial"),
        (SPACE, [0, 1, "--no_such_flag=1"], "no_such_flag"),
        (SPACE, [0, 1, "word"], "'word' is no flag"),
        ("[flags.base_learning_rat]\nlow=1\nhigh=2", [0, 1], "Did you mean base_learning_rate"),
        ("[flags.train_dir]\nchoices=['a']", [0, 1], "no flag to search"),
        ("[hparams.drop]\nlow=0.0\nhigh=0.5", [0, 1], "no hyper-parameter 'drop'"),
        ("[flags.base_learning_rate]\nlow=-1.0\nhigh=0.5", [0, 1], "base_learning_rate=-1"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_made(
    place: Path, tmp_path: Path, space: str, arguments: list[int | str], message: str
) -> None:
    file = tmp_path / "space.toml"
    file.write_text(space)
    given = [shards(place)[it] if isinstance(it, int) else it.format(place=place) for it in arguments]
    with pytest.raises(UserError, match=message):
        tuned(tmp_path / "study.db", file, [*TRAIN, *given])
    assert [path.name for path in tmp_path.iterdir()] == ["space.toml"]


# ---- trials


@pytest.mark.slow
def test_a_killed_trial_is_gone_on_with_and_the_recipe_repeats_the_best_score(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study, command = tmp_path / "study.db", [*TRAIN, *shards(place)]
    own = [f"--study={study}", f"--space={place}/space.toml", "--num_trials=2"]
    process = subprocess.Popen([sys.executable, "-m", "tools.tune", *own, "--", *command], cwd=ROOT, text=True)

    # 1. Killed as nobody can be asked to stop, while its trial trains.
    run = tmp_path / "study-trials" / "trial-0000"
    deadline = time.monotonic() + 200
    while not (run / "config.json").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (run / "config.json").exists()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    storage = f"sqlite:///{study}"
    (trial,) = optuna.load_study(study_name="tune", storage=storage).trials
    assert trial.state == optuna.trial.TrialState.RUNNING

    # 2. The same command, which does not wait a minute here until the trial is known to be left.
    monkeypatch.setattr(tune, "GRACE_SECONDS", 5)
    time.sleep(6)
    tuned(study, place / "space.toml", command)
    trials = optuna.load_study(study_name="tune", storage=storage).trials
    states = [trial.state.name for trial in trials]
    assert states == ["FAIL", "COMPLETE", "COMPLETE"]
    assert trials[1].params == trials[0].params
    assert sorted(path.name for path in (tmp_path / "study-trials").glob("trial-*[0-9]")) == [
        "trial-0000",
        "trial-0002",
    ]
    table = capsys.readouterr().out.splitlines()
    assert table[0] == "| trial | GAP | flags.base_learning_rate | hparams.dropout |"
    assert len(table) == 4

    # 3. The recipe is whole: with it and the shards alone the score comes again.
    recipe = study.with_suffix(".flags")
    assert "dropout=0.5" not in recipe.read_text()
    assert "data_pattern=" not in recipe.read_text()
    assert study.with_suffix(".svg").read_text().startswith("<svg")
    again = tmp_path / "again"
    done = subprocess.run(
        [sys.executable, "train.py", f"--flagfile={recipe}", *shards(place), f"--train_dir={again}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert evaluation_curves(str(again))["gap"].values[-1] == max(trial.value for trial in trials if trial.value)

    # 4. A study with enough trials only tells of them; one of another search is refused.
    tuned(study, place / "space.toml", command)
    assert capsys.readouterr().out.splitlines() == table
    with pytest.raises(UserError, match="was made with the flags"):
        tuned(study, place / "space.toml", [*command, "--seed=1"])


def test_what_is_no_study_is_refused(place: Path, tmp_path: Path) -> None:
    study = tmp_path / "study.db"
    study.write_text("a text of mine, which is long enough to be no data base at all" * 20)
    before = study.read_bytes()
    with pytest.raises(UserError, match="cannot be used"):
        tuned(study, place / "space.toml", [*TRAIN, *shards(place)])
    assert study.read_bytes() == before
