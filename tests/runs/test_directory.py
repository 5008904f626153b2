"""The table of names is what the programs write; `config.json` is read in its own format, or refused in one line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from programs import run

from yt8m.config import LossConfig, LossTerm, ModelConfig, RunConfig
from yt8m.data.synthetic import write_video_shards
from yt8m.errors import UserError
from yt8m.files import partial_path
from yt8m.registry import FRAME_LEVEL_MODELS, VIDEO_LEVEL_MODELS
from yt8m.runs import directory, lifecycle

CONFIG = RunConfig(
    model=ModelConfig("LogisticModel", {"l2_penalty": 1e-8, "dropout": 0.0}),
    loss=LossConfig((LossTerm("SoftmaxLoss"), LossTerm("HingeLoss", 0.5, {"margin": 2.0}))),
)


@pytest.fixture(scope="module", name="train_dir")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was evaluated while it was trained, and afterwards, as were its best weights; both are calibrated."""
    place = tmp_path_factory.mktemp("place")
    write_video_shards(place, num_videos=40, num_shards=2, num_classes=3)
    train_dir = place / "run"
    shards = f"{place}/train*.tfrecord"
    flags = (f"--train_data_pattern={shards}", "--batch_size=20", "--num_classes=3", "--max_steps=2")
    run("train", *flags, f"--train_dir={train_dir}", f"--eval_data_pattern={shards}", "--profile_steps=2,2")
    for evaluated in (train_dir, train_dir / "best"):
        run("eval", f"--train_dir={evaluated}", f"--eval_data_pattern={shards}", "--run_once", "--projector")
        run("tools.calibrate", f"--train_dir={evaluated}", f"--eval_data_pattern={shards}")
    return train_dir


# Iterators are of runs of format 1; a lock goes with its process.
WRITTEN = [item for item in directory.TABLE if item not in (directory.ITERATORS, directory.LOCK)]


@pytest.mark.parametrize("item", WRITTEN, ids=lambda item: f"{item.folder}/{item.name or item.holds}")
def test_every_row_of_the_table_is_written(train_dir: Path, item: directory.Item) -> None:
    found = item.find(str(train_dir))
    assert found
    if item.name:
        assert found == [item.path(str(train_dir))]


def test_all_that_is_written_is_in_the_table(train_dir: Path) -> None:
    listed = [Path(path) for path in directory.paths_of_run(str(train_dir))]
    files = [path for path in train_dir.rglob("*") if path.is_file()]
    assert [path for path in files if not {path, *path.parents} & set(listed)] == []
    assert listed[-1] == train_dir / "config.json"


def test_a_run_is_deleted_to_its_last_folder(train_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(train_dir, tmp_path / "copy")
    (copy / "config.json.0123abcd.partial").touch()
    lifecycle.delete_run(str(copy))
    assert list(copy.iterdir()) == []


HERE, ELSEWHERE = partial_path("").split("-")[0].removeprefix("."), "00000000"
GONE = [
    "config.json.0123abcd.partial",  # of a version that did not say who writes
    f"data/7.json.{HERE}-1-2.partial",
    f"data/7.json.{ELSEWHERE}-1-2.partial",
    f"ckpt-7.{HERE}-1-2.partial.index",
    f"ckpt-7.{HERE}-1-2.partial.data-00000-of-00001",
    f"ckpt-7.{HERE}-1-2.partial_temp/part-00000-of-00001.index",
    "ckpt-8_temp/part-00000-of-00001.index",
    "ckpt-8.data-00000-of-00001",
    "checkpoint.tmp0123456789abcdef",
    f"best/metrics-7.json.{HERE}-1-2.partial",
    "best/ckpt-9.data-00000-of-00001",
    f"eval/history.jsonl.{HERE}-1-2.partial",
]
STAYING = [
    f"eval/metrics.json.{ELSEWHERE}-1-2.partial",  # an eval.py of another machine may be writing it
    f"{partial_path('eval/metrics.json')}",
    f"mine.{HERE}-1-2.partial",
    "ckpt-8.notes",
]


def test_what_kills_left_goes_unless_somebody_may_be_writing_it(train_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(train_dir, tmp_path / "copy")
    before = sorted(copy.rglob("*"))
    for name in (*GONE, *STAYING):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).touch()
    lifecycle.delete_leftovers(str(copy))
    assert sorted(copy.rglob("*")) == sorted([*before, *(copy / name for name in STAYING)])


def test_a_kill_in_the_first_write_is_not_in_the_way(tmp_path: Path) -> None:
    left = tmp_path / f"config.json.{HERE}-1-2.partial"
    left.touch()
    assert lifecycle.open_run(str(tmp_path), CONFIG, start_new_model=False) is None
    directory.save_config(str(tmp_path), CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def changed(**parts: Any) -> dict[str, Any]:
    """The content of a `config.json`, with other parts."""
    return json.loads(CONFIG.to_json()) | parts


def write(train_dir: Path, content: dict[str, Any]) -> str:
    """Makes a directory with that `config.json`, and returns its path."""
    (train_dir / "config.json").write_text(json.dumps(content))
    return str(train_dir)


def test_a_description_says_its_format_and_is_read_back(tmp_path: Path) -> None:
    train_dir = write(tmp_path, changed())
    assert changed()["format"] == 8
    assert directory.load_config(train_dir) == CONFIG


def test_a_run_of_format_2_has_plain_cross_entropy_and_no_teacher(tmp_path: Path) -> None:
    content = changed(format=2)
    del content["training"]["teacher"]
    content["loss"] = {"terms": [{"name": "CrossEntropyLoss", "weight": 0.5, "hparams": {}}]}
    run = directory.load_config(write(tmp_path, content))
    plain = {"label_smoothing": 0.0, "positive_weight": 1.0, "negative_weight": 1.0}
    assert run.loss == LossConfig((LossTerm("CrossEntropyLoss", 0.5, plain),))
    assert run.training.teacher == ""


def test_a_run_of_format_7_that_remembers_stays_what_it_was(tmp_path: Path) -> None:
    new = {"KernelRidgeModel": ("stacking", "leave_one_out"), "NearestNeighboursModel": ("leave_one_out",)}
    for name, added in new.items():
        hparams = {
            hparam: value for hparam, value in VIDEO_LEVEL_MODELS.entry(name).defaults.items() if hparam not in added
        }
        for model in (
            {"name": name, "hparams": hparams},
            {
                "name": "MomentsModel",
                "hparams": FRAME_LEVEL_MODELS.entry("MomentsModel").defaults
                | {"classifier": name, "classifier_hparams": hparams},
            },
        ):
            frames = "video" if model["name"] == name else "frame"
            content = changed(format=7, model={**model, "precision": "float32"})
            content["data"]["record_format"] = frames
            del content["data"]["feature_weights"]
            content["loss"]["terms"] = [
                {"name": "DistillationLoss", "weight": 1.0, "hparams": {"temperature": 1.0, "teacher_share": 0.5}}
            ]
            run = directory.load_config(write(tmp_path, content))
            found = run.model.hparams.get("classifier_hparams", run.model.hparams)
            assert {hparam: found[hparam] for hparam in added} == dict.fromkeys(added, 0)
            assert run.data.feature_weights == ()
            assert run.loss.terms[0].hparams["keep_labels"] is False


@pytest.mark.parametrize("start_new_model", [False, True])
def test_a_run_of_a_later_format_is_refused_in_one_line_and_never_overwritten(
    tmp_path: Path, start_new_model: bool
) -> None:
    train_dir = write(tmp_path, changed(format=9))
    message = r"config\.json is not .*: its format is 9, and this version knows those up to 8: open it with the version"
    with pytest.raises(UserError, match=message) as raised:
        directory.load_config(train_dir)
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match=message):
        lifecycle.open_run(train_dir, CONFIG, start_new_model)


@pytest.mark.parametrize("number", [0, -1, 1.0, "2", None, True])
def test_what_is_no_number_of_a_format_is_refused(tmp_path: Path, number: Any) -> None:
    with pytest.raises(UserError, match=r"config\.json is not the configuration of a run: its format is "):
        directory.load_config(write(tmp_path, changed(format=number)))


@pytest.mark.parametrize("part", ["data", "model", "loss", "optimization", "training"])
def test_fields_are_all_there_and_no_others(tmp_path: Path, part: str) -> None:
    fields = changed()[part]
    for name in fields:
        less = {other: value for other, value in fields.items() if other != name}
        with pytest.raises(UserError, match=r"config\.json is not the configuration of a run: .*" + name):
            directory.load_config(write(tmp_path, changed(**{part: less})))
    with pytest.raises(UserError, match=rf"'{part}' has the unknown field speed\. It is written by train\.py"):
        directory.load_config(write(tmp_path, changed(**{part: fields | {"speed": 1}})))


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        (
            "model",
            {"name": "LogisticModel", "hparams": {"l2_penalty": 1.0}, "precision": "float32"},
            r"LogisticModel has no value for its hyper-parameter 'dropout', which is newer than the run\. .* is 0\.0\.",
        ),
        (
            "model",
            {"name": "LogisticModel", "hparams": CONFIG.model.hparams | {"depth": 3}, "precision": "float32"},
            r"LogisticModel has no hyper-parameter 'depth' in this version\. It has: l2_penalty, dropout\.",
        ),
        (
            "loss",
            {"terms": [{"name": "HingeLoss", "weight": 1.0, "hparams": {}}]},
            r"HingeLoss has no value for its hyper-parameter 'margin'",
        ),
    ],
)
def test_hyper_parameters_never_get_the_default_of_today(tmp_path: Path, part: str, value: Any, message: str) -> None:
    train_dir = write(tmp_path, changed(**{part: value}))
    with pytest.raises(UserError, match=rf"^{tmp_path}/config\.json: {message}") as raised:
        directory.load_config(train_dir)
    assert "\n" not in str(raised.value)
    assert lifecycle.open_run(train_dir, CONFIG, start_new_model=True) is None  # overwritten it may be


def test_the_hyper_parameters_of_a_classifier_are_looked_at_too(tmp_path: Path) -> None:
    hparams = FRAME_LEVEL_MODELS.entry("LstmModel").defaults
    hparams |= {"classifier": "LogisticModel", "classifier_hparams": {}}
    with pytest.raises(UserError, match=r"^config\.json: LogisticModel has no value for its hyper-parameter"):
        RunConfig(model=ModelConfig("LstmModel", hparams)).check_hyper_parameters("config.json")
    with pytest.raises(UserError, match=r"^config\.json: --model=NoSuchModelAnyMore: there is no such"):
        RunConfig(model=ModelConfig("NoSuchModelAnyMore")).check_hyper_parameters("config.json")
