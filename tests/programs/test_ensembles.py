"""Ensembles end to end, in this process: score, averaged runs, averaged checkpoints, calibration."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from programs import run

from tools import score
from yt8m.data.synthetic import write_frame_shards, write_video_shards
from yt8m.data.video_labels import LABELS_HEADER
from yt8m.errors import UserError
from yt8m.output.submission import HEADER, Submission, read_submission

import readers

CLASSES = 4
SPEC = ("--feature_names=mean_rgb,mean_audio", "--feature_sizes=1024,128", f"--num_classes={CLASSES}")
TRAIN = ("--num_epochs=0", "--batch_size=20", "--export_model_steps=2", "--keep_checkpoints=9")


@pytest.fixture(scope="module", name="place")
def make_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, and two runs that were trained on them."""
    place = tmp_path_factory.mktemp("ensembles")
    write_video_shards(place, num_videos=60, num_shards=2, num_classes=CLASSES)
    for name, seed, model in (("a", 0, "LogisticModel"), ("b", 1, "MoeModel")):
        target = (f"--train_data_pattern={place}/train*.tfrecord", f"--train_dir={place}/{name}")
        run("train", *target, f"--model={model}", f"--seed={seed}", "--max_steps=6", *TRAIN, *SPEC)
    return place


def infer(place: Path, train_dir: str, output: Path, *arguments: str) -> Submission:
    shards = f"--input_data_pattern={place}/train*.tfrecord"
    run("inference", f"--train_dir={train_dir}", shards, f"--output_file={output}", f"--top_k={CLASSES}", *arguments)
    return read_submission(str(output))


def evaluate(place: Path, name: str, *arguments: str) -> dict[str, float]:
    pattern = f"--eval_data_pattern={place}/train*.tfrecord"
    run("eval", pattern, f"--train_dir={place}/{name}", "--run_once", *arguments)
    return json.loads((place / name / "eval" / "metrics.json").read_text())


def dense(submission: Submission) -> np.ndarray:
    matrix = np.full((len(submission.ids), CLASSES), np.nan)
    matrix[np.repeat(np.arange(len(submission.ids)), submission.num_pairs), submission.classes] = submission.scores
    return matrix


# ---- tools.score


def test_a_submission_scores_as_the_run_does(place: Path, tmp_path: Path) -> None:
    """The scores of this small run differ within their first six digits, so that rounding changes no order."""
    infer(place, f"{place}/a", tmp_path / "a.csv")
    expected = evaluate(place, "a", f"--top_k={CLASSES}")
    values = flags.FlagValues()
    score.define_flags(values)
    pattern = f"--eval_data_pattern={place}/train*.tfrecord"
    values(["score", f"--submission_file={tmp_path}/a.csv", pattern, f"--num_classes={CLASSES}"])
    result = score.score(values).result()
    assert result == {name: expected[name] for name in result}


def test_a_hand_worked_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The pool: 0.9 hit, 0.8 miss, 0.5 hit, 0.4 hit; 4 labels. GAP = (1/1 + 2/3 + 3/4) / 4 = 0.604167.
    (tmp_path / "a.csv").write_text(HEADER + "a,2 0.4 1 0.9\nb,3 0.5 0 0.8\nc,\n")
    (tmp_path / "labels.csv").write_text(LABELS_HEADER + "c,1\nb,3\na,1 2\n")
    run("tools.score", f"--submission_file={tmp_path}/a.csv", f"--labels_file={tmp_path}/labels.csv")
    # Hit@1: a yes, b no, c no. PERR: a 2 of 2, b 0 of 1, c 0 of 1. MAP: classes 1 (1/2), 2 and 3 (1 each).
    assert "GAP: 0.604167 | MAP: 0.833333 | Hit@1: 0.333333 | PERR: 0.333333 | videos: 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a,1 0.5\n", r"a.csv lacks 1 video \(b\) of .*labels.csv"),
        ("a,1 0.5\nb,1 0.5\nc,1 0.5\n", r"has 1 video \(c\) that .*labels.csv lacks"),
        ("a,1 0.5\nb,1 0.5\na,1 0.5\n", "video a has two rows"),
        ("a,1 0.5\nb,1 0.5 3862 0.4\n", "Video b has class 3862; expected 0 to 3861"),
    ],
)
def test_submissions_that_cannot_be_scored(tmp_path: Path, rows: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(HEADER + rows)
    (tmp_path / "labels.csv").write_text(LABELS_HEADER + "a,1\nb,\n")
    with pytest.raises(UserError, match=message):
        run("tools.score", f"--submission_file={tmp_path}/a.csv", f"--labels_file={tmp_path}/labels.csv")


def test_labels_of_either_kind_of_record(place: Path, tmp_path: Path) -> None:
    write_frame_shards(tmp_path, num_videos=6, num_shards=1, num_classes=CLASSES)
    assert len(readers.video_labels(f"{tmp_path}/train*.tfrecord", CLASSES)) == 6
    labels = readers.video_labels(f"{place}/train*.tfrecord", CLASSES)
    assert len(labels) == 60
    assert labels.of(list(labels.ids))[0].sum() > 0


def test_damaged_labels_are_explained(place: Path, tmp_path: Path) -> None:
    content = (place / "train0000.tfrecord").read_bytes()
    (tmp_path / "cut.tfrecord").write_bytes(content[:-20])
    with pytest.raises(UserError, match=r"--eval_data_pattern=.*cut.tfrecord.*record 29"):
        readers.video_labels(f"{tmp_path}/cut.tfrecord", CLASSES)
    with pytest.raises(UserError, match=r"has the label .*; expected 0 to 0"):
        readers.video_labels(f"{place}/train*.tfrecord", 1)


# ---- inference with several runs


def test_averaged_runs_are_blended_predictions(place: Path, tmp_path: Path) -> None:
    a, b = (infer(place, f"{place}/{name}", tmp_path / f"{name}.csv") for name in "ab")
    both = infer(place, f"{place}/a,{place}/b", tmp_path / "both.csv", "--ensemble_weights=3,1")
    assert both.ids == a.ids
    # Six digits of numbers below 1: each rounding is at most 5e-7 off. Two of them here, a third one in the blend.
    np.testing.assert_allclose(dense(both), 0.75 * dense(a) + 0.25 * dense(b), rtol=0, atol=2 * 5.1e-7)
    files = f"--input_files={tmp_path}/a.csv,{tmp_path}/b.csv"
    run("tools.blend", files, f"--output_file={tmp_path}/blend.csv", "--weights=3,1")
    np.testing.assert_allclose(dense(read_submission(f"{tmp_path}/blend.csv")), dense(both), rtol=0, atol=3 * 5.1e-7)


def test_a_directory_with_a_comma_in_its_name_is_one_run(place: Path, tmp_path: Path) -> None:
    (tmp_path / "a,b").symlink_to(place / "a")
    infer(place, f"{tmp_path}/a,b", tmp_path / "one.csv")
    infer(place, f"{place}/a", tmp_path / "a.csv")
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "a.csv").read_bytes()


@pytest.mark.parametrize(
    ("train_dir", "arguments", "message"),
    [
        ("PLACE/a,PLACE/a", [], "names .*/a twice"),
        ("PLACE/a,", [], "a run without a name"),
        ("PLACE/a,PLACE/none", [], "train_dir=.*/none holds no run"),
        ("PLACE/a,PLACE/b", ["--ensemble_weights=1"], "--ensemble_weights=1: expected 2 numbers"),
        ("PLACE/a,PLACE/b", ["--output_model_tgz=PLACE/x.tgz"], "packs one run"),
        ("PLACE/a,PLACE/narrow", [], "feature_names of .*/a is .*, of .*/narrow"),
    ],
)
def test_runs_that_cannot_be_averaged(
    place: Path, tmp_path: Path, train_dir: str, arguments: list[str], message: str
) -> None:
    if "narrow" in train_dir:
        spec = ("--feature_names=mean_rgb", "--feature_sizes=1024", f"--num_classes={CLASSES}")
        shards = f"--train_data_pattern={place}/train*.tfrecord"
        run("train", shards, f"--train_dir={place}/narrow", "--max_steps=1", *TRAIN, *spec)
    arguments = [argument.replace("PLACE", str(place)) for argument in arguments]
    with pytest.raises(UserError, match=message):
        infer(place, train_dir.replace("PLACE", str(place)), tmp_path / "x.csv", *arguments)
    assert not (tmp_path / "x.csv").exists()


def test_runs_of_other_feature_weights_are_averaged(place: Path, tmp_path: Path) -> None:
    target = (f"--train_data_pattern={place}/train*.tfrecord", f"--train_dir={tmp_path}/weighted")
    run("train", *target, "--model=LogisticModel", "--feature_weights=1,0.2", "--max_steps=6", *TRAIN, *SPEC)
    one, other, both = (
        dense(infer(place, runs, tmp_path / f"{name}.csv"))
        for name, runs in (
            ("one", f"{place}/a"),
            ("other", f"{tmp_path}/weighted"),
            ("both", f"{place}/a,{tmp_path}/weighted"),
        )
    )
    np.testing.assert_allclose(both, (one + other) / 2, atol=2e-6)
    assert np.abs(one - other).max() > 1e-3


def test_runs_that_see_other_frames_are_not_averaged(tmp_path: Path) -> None:
    write_frame_shards(tmp_path, num_videos=6, num_shards=1, num_classes=CLASSES, max_frames=5)
    spec = ("--frame_features", "--feature_names=rgb,audio", "--feature_sizes=1024,128", f"--num_classes={CLASSES}")
    model = ("--model=DbofModel", "--iterations=3", "--max_steps=1", *TRAIN, *spec)
    for name in ("all", "uniform"):
        shards = (f"--train_data_pattern={tmp_path}/train*.tfrecord", f"--train_dir={tmp_path}/{name}")
        run("train", *shards, *model, f"--hparams=evaluation_sampling={name}")
    with pytest.raises(
        UserError, match=r"frames at evaluation of .*/all is all, of .*/uniform FrameSampling.*tools.blend"
    ):
        infer(tmp_path, f"{tmp_path}/all,{tmp_path}/uniform", tmp_path / "x.csv")


# ---- tools.average_checkpoints


def test_averaged_checkpoints_are_a_run(place: Path, tmp_path: Path) -> None:
    """Logits of logistic regression are linear in its weights, so those of the mean are the mean of logits."""
    for step in (2, 4, 6):
        average = ("tools.average_checkpoints", f"--train_dir={place}/a", f"--output_dir={tmp_path}/{step}")
        run(*average, f"--steps={step}")
    run("tools.average_checkpoints", f"--train_dir={place}/a", f"--output_dir={tmp_path}/all")
    chosen = ("--steps=2,6", "--weights=3,1")
    run("tools.average_checkpoints", f"--train_dir={place}/a", f"--output_dir={tmp_path}/two", *chosen)
    names = ("2", "4", "6", "all", "two")
    p = {name: dense(infer(place, f"{tmp_path}/{name}", tmp_path / f"{name}.csv")) for name in names}
    z = {name: np.log(values) - np.log1p(-values) for name, values in p.items()}
    np.testing.assert_allclose(z["all"], (z["2"] + z["4"] + z["6"]) / 3, atol=2e-5)
    np.testing.assert_allclose(z["two"], 0.75 * z["2"] + 0.25 * z["6"], atol=2e-5)
    assert np.abs(z["2"] - z["6"]).max() > 0.01


def test_moments_of_averaged_weights_are_measured_on_training_shards(place: Path, tmp_path: Path) -> None:
    """LogisticModel has none, so its weights are those of the mean; the shards are read as far as they go."""
    average = ("tools.average_checkpoints", f"--train_dir={place}/a")
    run(*average, f"--output_dir={tmp_path}/plain")
    run(*average, f"--output_dir={tmp_path}/measured", f"--train_data_pattern={place}/train*.tfrecord")
    plain, measured = (
        dense(infer(place, f"{tmp_path}/{name}", tmp_path / f"{name}.csv")) for name in ("plain", "measured")
    )
    np.testing.assert_array_equal(plain, measured)
    with pytest.raises(UserError, match="--train_data_pattern: no file matches"):
        run(*average, f"--output_dir={tmp_path}/none", f"--train_data_pattern={place}/nothing*")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output_dir=PLACE/new", "--last=7"], "--last=7: .* has the checkpoints .*2, 4, 6"),
        (["--output_dir=PLACE/new", "--steps=3"], "--steps=3: .* has the checkpoints"),
        (["--output_dir=PLACE/new", "--steps=2", "--last=1"], "Give one of the two"),
        (["--output_dir=PLACE/new", "--last=-1"], "--last=-1: expected"),
        (["--output_dir=PLACE/b"], "--output_dir=.*/b holds .* of a run"),
        ([], "--output_dir is missing"),
    ],
)
def test_checkpoints_that_cannot_be_averaged(place: Path, arguments: list[str], message: str) -> None:
    arguments = [argument.replace("PLACE", str(place)) for argument in arguments]
    with pytest.raises(UserError, match=message):
        run("tools.average_checkpoints", f"--train_dir={place}/a", *arguments)
    assert not (place / "new").exists()


# ---- tools.calibrate


@pytest.fixture(name="calibrated")
def make_calibrated(place: Path) -> Iterator[dict[str, float]]:
    """The calibration of run a, which other tests do without."""
    run("tools.calibrate", f"--train_dir={place}/a", f"--eval_data_pattern={place}/train*.tfrecord")
    yield json.loads((place / "a" / "calibration.json").read_text())
    (place / "a" / "calibration.json").unlink()


def test_a_calibration_is_used_where_it_is(place: Path, tmp_path: Path, calibrated: dict[str, float]) -> None:
    plain, scaled = evaluate(place, "a", "--nocalibrated"), evaluate(place, "a")
    np.testing.assert_allclose(scaled["loss"], calibrated["cross_entropy"], rtol=1e-5)
    np.testing.assert_allclose(plain["loss"], calibrated["cross_entropy_before"], rtol=1e-5)
    assert scaled["loss"] < plain["loss"]
    assert scaled["gap"] == plain["gap"]
    without = dense(infer(place, f"{place}/a", tmp_path / "plain.csv", "--nocalibrated"))
    archive = f"--output_model_tgz={tmp_path}/a.tgz"
    p = dense(infer(place, f"{place}/a", tmp_path / "scaled.csv", archive))
    logits = np.log(without) - np.log1p(-without)
    np.testing.assert_allclose(p, 1 / (1 + np.exp(-logits / calibrated["temperature"])), rtol=1e-5)
    infer(place, "", tmp_path / "unpacked.csv", f"--input_model_tgz={tmp_path}/a.tgz")
    assert (tmp_path / "unpacked.csv").read_bytes() == (tmp_path / "scaled.csv").read_bytes()
    assert "<svg" in (place / "a" / "eval" / "reliability.svg").read_text()


def test_a_calibration_of_another_step_is_not_used(
    place: Path, calibrated: dict[str, float], caplog: pytest.LogCaptureFixture
) -> None:
    path = place / "a" / "calibration.json"
    path.write_text(json.dumps(calibrated | {"global_step": 4}))
    assert evaluate(place, "a") == evaluate(place, "a", "--nocalibrated")
    assert any(re.search(r"is of step 4 and not used for .*ckpt-6", record.getMessage()) for record in caplog.records)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"global_step": 6, "temperature": 0}', '{"temperature": "x"}'])
def test_a_damaged_calibration_is_named(place: Path, calibrated: dict[str, float], text: str) -> None:
    (place / "a" / "calibration.json").write_text(text)
    with pytest.raises(UserError, match=r"calibration.json is damaged: .* --nocalibrated"):
        evaluate(place, "a")
