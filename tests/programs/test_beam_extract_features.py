"""tools.beam_extract_features, against tools.extract_features."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from made_videos import write_sound, write_video, write_weights
from programs import run

from tools import extracted_shards
from tools.beam_pipeline import spread
from tools.extracted_shards import ShardWriter
from tools.video_features import Extraction
from yt8m.errors import UserError
from yt8m.layers.backbones import Backbone
from yt8m.video.inputs import InputOptions
from yt8m.video.listing import Video

ROOT = Path(__file__).parents[2]
SIZE = 32
SKIP = "--on_bad_video=skip"


@pytest.fixture(scope="module", name="weights")
def make_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_weights(tmp_path_factory.mktemp("weights"), SIZE)


@pytest.fixture(scope="module", name="videos")
def make_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five videos of 12 to 40 frames in two classes, and a sixth file that holds no pictures."""
    folder = tmp_path_factory.mktemp("videos")
    for name, length in (("jump/a", 12), ("jump/b", 20), ("run/c", 25), ("run/d", 35), ("run/e", 40)):
        (folder / name).parent.mkdir(exist_ok=True)
        noise = np.random.default_rng(length).integers(0, 256, (length, SIZE, SIZE, 3), np.uint8)
        write_video(folder / f"{name}.mkv", noise)
    write_sound(folder / "jump" / "sound.wav")
    return folder


def flags_of(videos: Path, weights: str, output: Path) -> list[str]:
    network = ["--backbone=SmallCnn", f"--backbone_weights={weights}", f"--size={SIZE}"]
    return [f"--videos={videos}", f"--output={output}", "--videos_per_shard=2", "--fps=10", *network]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


needs_beam = pytest.mark.skipif(
    find_spec("apache_beam") is None, reason="needs requirements-beam.txt, in an environment of its own"
)


@needs_beam
@pytest.mark.slow
def test_two_workers_write_the_shards_of_one_process(videos: Path, weights: str, tmp_path: Path) -> None:
    fit = [flag for flag in flags_of(videos, weights, tmp_path) if not flag.startswith("--output")]
    run("tools.extract_features", *fit, SKIP, f"--fit_pca={tmp_path}/pca.npz", "--pca_size=5", "--num_processes=1")
    pca = f"--pca={tmp_path}/pca.npz"
    one = [*flags_of(videos, weights, tmp_path / "one" / "x"), SKIP, pca]
    run("tools.extract_features", *one, "--num_processes=1")
    command = ["-m", "tools.beam_extract_features", *flags_of(videos, weights, tmp_path / "two" / "x"), SKIP, pca]
    workers = ["--", "--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    done = subprocess.run(
        [sys.executable, *command, *workers], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = contents(tmp_path / "one")
    assert sorted(expected) == [
        "classes.csv",
        "x0000.tfrecord",
        "x0001.tfrecord",
        "x0002.tfrecord",
        "x_settings.json",
    ]
    assert contents(tmp_path / "two") == expected
    assert "sound.wav: it holds no stream of pictures, only audio. It is skipped." in done.stderr
    assert "5 videos written, 1 skipped." in done.stderr
    # Either program goes on where the other was.
    (tmp_path / "two" / "x0001.tfrecord").unlink()
    (tmp_path / "one" / "x0002.tfrecord").unlink()
    run("tools.extract_features", *command[2:], "--num_processes=1")
    for _ in range(2):  # the second time there is nothing to do
        run("tools.beam_extract_features", *one)
    assert contents(tmp_path / "two") == contents(tmp_path / "one") == expected


@needs_beam
def test_a_worker_loads_the_networks_once_and_counts(
    videos: Path, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import apache_beam as beam

    loads: list[str] = []
    load = Backbone.load

    def counted_load(backbone: Backbone, path: str) -> None:
        loads.append(path)
        load(backbone, path)

    monkeypatch.setattr(Backbone, "load", counted_load)
    extracted_shards._loaded.cache_clear()
    extraction = Extraction(InputOptions(10, SIZE, 0, 30, False), "SmallCnn", weights, "", "")
    names = [("jump/a.mkv", "jump/sound.wav"), ("jump/b.mkv",), ("run/d.mkv", "run/c.mkv")]
    shards = [
        (f"{tmp_path}/{number}", [Video(f"{videos}/{name}", name, None) for name in shard])
        for number, shard in enumerate(names)
    ]
    pipeline = beam.Pipeline()
    pipeline | beam.Create(shards) | spread(ShardWriter(extraction, "skip"))
    result = pipeline.run()
    result.wait_until_finish()
    counts = {found.key.metric.name: found.committed for found in result.metrics().query()["counters"]}
    assert loads == [weights]
    assert counts == {"videos": 4, "frames": 12 + 20 + 30 + 25, "bad_videos": 1}


@needs_beam
def test_a_video_that_cannot_be_used(
    videos: Path, weights: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fault = f"{videos}/jump/sound.wav: it holds no stream of pictures, only audio."
    command = flags_of(videos, weights, tmp_path / "out" / "x")
    with pytest.raises(UserError) as caught:
        run("tools.beam_extract_features", *command)
    assert str(caught.value) == f"{fault} Repair it, leave it out, or pass --on_bad_video=skip."
    assert not list((tmp_path / "out").glob("*part*"))
    caplog.set_level("INFO", "yt8m")
    run("tools.beam_extract_features", *command, SKIP)
    assert caplog.messages.count(f"{fault} It is skipped.") == 1
    assert len(list((tmp_path / "out").glob("x*.tfrecord"))) == 3
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.mp4").write_text("no video")
    with pytest.raises(UserError, match=r"^None of the 1 videos can be used\. .*a\.mp4: it is no video file"):
        run("tools.beam_extract_features", *flags_of(tmp_path / "bad", weights, tmp_path / "none" / "x"), SKIP)
    assert sorted(contents(tmp_path / "none")) == ["x_settings.json"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--backbone_weights=", r"^--backbone_weights is missing: give the file of the weights of SmallCnn"),
        ("--backbone_weights=gone.weights.h5", r"^--backbone_weights=gone\.weights\.h5: there is no such file"),
        ("--pca=gone.npz", r"^--pca=gone\.npz cannot be read"),
        ("--output=", r"^--output is missing"),
        ("--videos_per_shard=0", r"^--videos_per_shard=0: expected a whole number"),
    ],
)
def test_what_is_wrong_is_said_before_a_worker_starts(
    videos: Path, weights: str, tmp_path: Path, more: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tools.beam_extract_features.load_beam", lambda: None)
    with pytest.raises(UserError, match=message):
        run("tools.beam_extract_features", *flags_of(videos, weights, tmp_path / "out" / "x"), more)
    assert not (tmp_path / "out").exists()


def test_without_beam_one_line_says_what_to_install(
    videos: Path, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UserError, match=r"needs the package apache-beam.*-r requirements-beam\.txt"):
        run("tools.beam_extract_features", *flags_of(videos, weights, tmp_path / "out" / "x"))
    assert not (tmp_path / "out").exists()
