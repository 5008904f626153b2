"""inference.py in this process, and as a process that is asked to end: what is read stays, what is half goes."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from absl import flags
from programs import run

from tools import score
from yt8m.data.synthetic import write_video_shards
from yt8m.errors import UserError

ROOT = Path(__file__).parents[2]
SPEC = ("--feature_names=mean_rgb,mean_audio", "--feature_sizes=1024,128", "--num_classes=4")


@pytest.fixture(scope="module", name="place")
def make_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, and a run that was trained on them."""
    place = tmp_path_factory.mktemp("inference")
    write_video_shards(place, num_videos=60, num_shards=2, num_classes=4)
    training = ("--num_epochs=0", "--max_steps=2", "--batch_size=20", *SPEC)
    run("train", f"--train_data_pattern={place}/train*.tfrecord", f"--train_dir={place}/run", *training)
    return place


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def infer(place: Path, *arguments: str) -> None:
    run("inference", f"--train_dir={place}/run", f"--input_data_pattern={place}/train*.tfrecord", *arguments)


def test_a_submission_has_a_row_per_video(place: Path, tmp_path: Path) -> None:
    infer(place, f"--output_file={tmp_path}/a.csv", f"--output_model_tgz={tmp_path}/a.tgz", "--top_k=3")
    table = pd.read_csv(tmp_path / "a.csv")
    assert sorted(table["VideoId"]) == [f"train{number:05d}" for number in range(60)]
    assert set(table["LabelConfidencePairs"].str.split().str.len()) == {6}
    from_archive = (
        "--train_dir=",
        f"--input_model_tgz={tmp_path}/a.tgz",
        f"--output_file={tmp_path}/b.csv",
        "--top_k=3",
    )
    infer(place, *from_archive)
    assert (tmp_path / "b.csv").read_bytes() == (tmp_path / "a.csv").read_bytes()


def test_a_submission_as_parquet(place: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the packages of requirements-parquet.txt")
    for suffix in ("csv", "parquet"):
        infer(place, f"--output_file={tmp_path}/a.{suffix}", "--top_k=3", "--batch_size=25")
    file = parquet.ParquetFile(tmp_path / "a.parquet")
    assert [str(field.type) for field in file.schema_arrow] == [
        "string",
        "fixed_size_list<element: int16>[3]",
        "fixed_size_list<element: float>[3]",
    ]
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [25, 25, 10]
    table = file.read().to_pydict()
    rows = zip(table["id"], table["classes"], table["scores"], strict=True)
    pairs = [f"{name}," + " ".join(f"{c} {s:g}" for c, s in zip(*lists, strict=True)) for name, *lists in rows]
    assert pairs == (tmp_path / "a.csv").read_text().splitlines()[1:]
    lines = [run_score(place, tmp_path / f"a.{suffix}") for suffix in ("csv", "parquet")]
    assert lines[0] == lines[1]
    with pytest.raises(UserError, match=r"^--output_file=x\.parquet: a blend is written as CSV"):
        run("tools.blend", f"--input_files={tmp_path}/a.csv", "--output_file=x.parquet")


def run_score(place: Path, submission: Path) -> dict[str, object]:
    values = flags.FlagValues()
    score.define_flags(values)
    labels = (f"--eval_data_pattern={place}/train*.tfrecord", "--num_classes=4")
    values(["score", f"--submission_file={submission}", *labels])
    result = score.score(values).result()
    return {name: round(result[name], 4) for name in ("gap", "map", "hit_at_one", "perr")}


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (["--output_file=PLACE/train0000.tfrecord"], "--output_file=.*train0000.tfrecord is .*, which is read"),
        (["--output_file=PLACE/run/config.json"], r"--output_file=.*config\.json is .*, which is read"),
        (["--output_file=PLACE/run/ckpt-2.index"], r"--output_file=.*ckpt-2\.index is .*, which is read"),
        (["--output_file=PLACE/a", "--output_model_tgz=PLACE/a"], "--output_file=.* and --output_model_tgz=.* are one"),
        (
            ["--output_file=PLACE/b", "--output_model_tgz=PLACE/train0001.tfrecord"],
            "--output_model_tgz=.* which is read",
        ),
        (["--output_file=PLACE/link"], "--output_file=.*/link is .*train0000.tfrecord, which is read"),
    ],
)
def test_what_is_read_is_not_written_over(place: Path, outputs: list[str], message: str) -> None:
    (place / "link").unlink(missing_ok=True)
    (place / "link").symlink_to(place / "train0000.tfrecord")
    before = contents(place)
    with pytest.raises(UserError, match=message):
        infer(place, *(argument.replace("PLACE", str(place)) for argument in outputs))
    assert contents(place) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_inference_in_silence_and_leaves_nothing(place: Path, tmp_path: Path, number: int) -> None:
    many = ",".join([str(place / "train0000.tfrecord"), str(place / "train0001.tfrecord")])
    slow = ("--batch_size=1", "--output_file=" + str(tmp_path / "a.csv"))
    command = ["inference.py", f"--train_dir={place}/run", f"--input_data_pattern={many}", *slow]
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.iterdir()) and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(number)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 128 + number, shown
    assert "Traceback" not in shown
    assert not list(tmp_path.iterdir())
