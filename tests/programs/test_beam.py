"""The programs on Apache Beam, against those that do the same in one process."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from programs import run

from tools.beam_inference import divided
from yt8m.data.synthetic import write_video_shards
from yt8m.errors import UserError
from yt8m.output.submission import Submission, read_submission

ROOT = Path(__file__).parents[2]
SPEC = ("--feature_names=mean_rgb,mean_audio", "--feature_sizes=1024,128", "--num_classes=20")
NUM_VIDEOS = 70


@pytest.fixture(scope="module", name="place")
def make_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, and a run that was trained on them."""
    pytest.importorskip("apache_beam", reason="needs requirements-beam.txt, in an environment of its own")
    place = tmp_path_factory.mktemp("beam")
    write_video_shards(place, num_videos=NUM_VIDEOS, num_shards=5, num_classes=20)
    training = ("--num_epochs=1", "--batch_size=20", *SPEC)
    run("train", f"--train_data_pattern={place}/train*.tfrecord", f"--train_dir={place}/run", *training)
    return place


def inference(place: Path, output: Path) -> list[str]:
    return [f"--train_dir={place}/run", f"--input_data_pattern={place}/train*.tfrecord", f"--output_file={output}"]


@pytest.mark.slow
def test_two_workers_predict_as_one_process(place: Path, tmp_path: Path) -> None:
    run("inference", *inference(place, tmp_path / "one.csv"))
    workers = ["--", "--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    command = ["-m", "tools.beam_inference", *inference(place, tmp_path / "two.csv"), "--num_parts=3", *workers]
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"{NUM_VIDEOS} videos of 5 shards, predicted in 3 parts" in done.stderr
    one, two = read_submission(str(tmp_path / "one.csv")), read_submission(str(tmp_path / "two.csv"))
    assert two.ids == one.ids
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.csv", "two.csv"]
    # Products of matrices of other batches may differ in the last bits, so two classes may change places.
    for first, second in zip(pairs(one), pairs(two), strict=True):
        np.testing.assert_allclose(sorted(first.values()), sorted(second.values()), rtol=2e-5)
        common = first.keys() & second.keys()
        assert len(common) >= 19
        np.testing.assert_allclose([first[c] for c in common], [second[c] for c in common], rtol=2e-5)


def pairs(submission: Submission) -> list[dict[int, float]]:
    ends = np.cumsum(submission.num_pairs)[:-1]
    columns = zip(np.split(submission.classes, ends), np.split(submission.scores, ends), strict=True)
    return [dict(zip(classes.tolist(), scores.tolist(), strict=True)) for classes, scores in columns]


def test_what_a_worker_says_is_one_line_and_leaves_nothing(place: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.tfrecord"
    damaged.write_bytes((place / "train0000.tfrecord").read_bytes()[:-5])
    command = [f"--train_dir={place}/run", f"--input_data_pattern={place}/train0001.tfrecord,{damaged}"]
    command.append(f"--output_file={tmp_path}/a.csv")
    with pytest.raises(UserError, match=r"^\S+/damaged\.tfrecord, record 13: the file ends in the middle of this"):
        run("tools.beam_inference", *command)
    assert [path.name for path in tmp_path.iterdir()] == ["damaged.tfrecord"]
    run("tools.beam_inference", *command, "--on_bad_record=skip")
    assert len(read_submission(f"{tmp_path}/a.csv").ids) == 14 + 13


def test_a_video_in_two_parts_is_named(place: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.tfrecord"
    copy.write_bytes((place / "train0003.tfrecord").read_bytes())
    pattern = f"--input_data_pattern={place}/train*.tfrecord,{copy}"
    with pytest.raises(UserError, match=r"Video train\d+ occurs twice in the input"):
        run("tools.beam_inference", f"--train_dir={place}/run", pattern, f"--output_file={tmp_path}/a.csv")


def test_without_beam_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UserError, match=r"needs the package apache-beam.*-r requirements-beam\.txt"):
        run("tools.beam_inference", *inference(tmp_path, tmp_path / "a.csv"))


def test_parts_are_of_consecutive_shards_and_as_equal_as_can_be() -> None:
    assert divided(["a", "b", "c", "d", "e"], 2) == [["a", "b", "c"], ["d", "e"]]
    assert divided(["a", "b"], 256) == [["a"], ["b"]]


def test_statistics_are_those_of_check_dataset(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Shards that share ids, a damaged one and one that is none, in two workers' order."""
    shutil.copy(place / "train0003.tfrecord", tmp_path / "copy.tfrecord")
    (tmp_path / "damaged.tfrecord").write_bytes((place / "train0000.tfrecord").read_bytes()[:-5])
    (tmp_path / "none.tfrecord").write_text("VideoId,LabelConfidencePairs\n")
    pattern = f"--data_pattern={place}/train*.tfrecord,{tmp_path}/*.tfrecord"
    said = []
    for name in ("check_dataset", "beam_statistics"):
        with pytest.raises(UserError, match="damaged in 2 places, listed above"):
            run(f"tools.{name}", pattern, f"--csv={tmp_path}/{name}.csv", *SPEC)
        said.append(capsys.readouterr().out)
    assert "27 records have the id of an earlier one" in said[0]  # 14 of the copy, 13 of the damaged one
    assert said[1] == said[0]
    assert (tmp_path / "beam_statistics.csv").read_bytes() == (tmp_path / "check_dataset.csv").read_bytes()
    assert not list(tmp_path.glob("*.partial"))
