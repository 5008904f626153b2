"""tools.make_video_records: from video files to records that are read again, and what it says of the bad ones."""

import io
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from made_videos import grey_levels, write_sound, write_video
from PIL import Image
from programs import run

from yt8m.errors import UserError
from yt8m.schema import DataSpec
from yt8m.video import packages
from yt8m.video.sound import mel_matrix

from readers import evaluation_batches

ROOT = Path(__file__).parents[2]
TOOL = "tools.make_video_records"


@pytest.fixture(name="folder")
def make_folder(tmp_path: Path) -> Path:
    """Five videos of 2 to 6 frames of 32 x 48 in two classes."""
    for label, lengths in {"jump": (2, 3, 4), "run": (5, 6)}.items():
        (tmp_path / "videos" / label).mkdir(parents=True)
        for length in lengths:
            write_video(tmp_path / "videos" / label / f"v{length}.mkv", grey_levels(length))
    return tmp_path / "videos"


def make(videos: Path, output: Path, *more: str) -> None:
    run(TOOL, f"--videos={videos}", f"--output={output}", "--num_processes=1", *more)


def records(*shards: Path) -> dict[str, tf.train.SequenceExample]:
    """All records of shards by id."""
    parsed = [tf.train.SequenceExample.FromString(x.numpy()) for x in tf.data.TFRecordDataset(list(map(str, shards)))]
    return {record.context.feature["id"].bytes_list.value[0].decode(): record for record in parsed}


def pictures(record: tf.train.SequenceExample, name: str = "rgb") -> np.ndarray:
    frames = record.feature_lists.feature_list[name].feature
    return np.stack([np.asarray(Image.open(io.BytesIO(frame.bytes_list.value[0]))) for frame in frames])


def test_a_folder_per_class(folder: Path, tmp_path: Path) -> None:
    make(folder, tmp_path / "out" / "train", "--videos_per_shard=2", "--quality=100", "--size=0")
    shards = sorted((tmp_path / "out").glob("train*.tfrecord"))
    assert [shard.name for shard in shards] == ["train0000.tfrecord", "train0001.tfrecord", "train0002.tfrecord"]
    found = records(*shards)
    assert sorted(found) == ["jump/v2", "jump/v3", "jump/v4", "run/v5", "run/v6"]
    for name, record in found.items():
        assert list(record.context.feature["labels"].int64_list.value) == [int(name.startswith("run"))]
        expected = grey_levels(int(name[-1]))
        # JPEG at quality 100: every pixel within a few bytes, but where the white corner meets the grey.
        assert np.median(np.abs(pictures(record).astype(int) - expected)) == 0
        np.testing.assert_allclose(pictures(record)[:, -8:, -8:], expected[:, -8:, -8:], atol=1)
    assert (tmp_path / "out" / "classes.csv").read_text() == "index,display_name\n0,jump\n1,run\n"


def test_records_are_read_as_clips(folder: Path, tmp_path: Path) -> None:
    make(folder, tmp_path / "x", "--fps=5", "--flow=dis", "--size=16")
    spec = DataSpec(("rgb", "flow"), (3, 2), 2, "clip", max_frames=4, clip_size=8)
    (batch,) = evaluation_batches([str(tmp_path / "x0000.tfrecord")], spec, 8, labels_required=True)
    counts = dict(zip(batch["id"].numpy().tolist(), batch["num_frames"].numpy().tolist(), strict=True))
    assert counts == {b"jump/v2": 1, b"jump/v3": 2, b"jump/v4": 2, b"run/v5": 3, b"run/v6": 3}
    (record, *_) = records(tmp_path / "x0000.tfrecord").values()
    assert pictures(record).shape[1:] == (16, 24, 3)
    assert pictures(record, "flow").shape[1:] == (32, 24)


def test_sound_is_a_patch_per_frame(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Noise from second 1.0 to 1.2 of 2 seconds of silence, and a film without a track, against windows of NumPy."""
    samples = np.zeros(32000, np.int16)
    samples[16000:19200] = np.random.default_rng(0).integers(-20000, 20000, 3200)
    write_video(tmp_path / "noise.mkv", grey_levels(20), samples=samples)
    write_video(tmp_path / "silent.mkv", grey_levels(4))
    (tmp_path / "list.csv").write_text("path,labels\nnoise.mkv,1\nsilent.mkv,0\n")
    make(tmp_path / "list.csv", tmp_path / "x", "--audio", "--fps=4", "--size=0")
    found = records(tmp_path / "x0000.tfrecord")
    sound = {name: patches(record) for name, record in found.items()}
    assert {name: len(pictures(record)) for name, record in found.items()} == {"noise": 8, "silent": 2}
    assert sound["silent"].shape == (2, 6144)
    assert not sound["silent"].any()
    # Frame t is shown at t / 4 seconds; its window w begins 10 w ms later, and is 25 ms long. A byte is a step of
    # (6.2 - log 0.01) / 255 above log 0.01.
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    expected = np.zeros((8, 96, 64))
    padded = np.pad(samples, (0, 32000)) / 32768
    for t in range(8):
        for w in range(96):
            first = 4000 * t + 160 * w
            lines = np.abs(np.fft.rfft(padded[first : first + 400] * hann, 512))
            expected[t, w] = (np.log(lines @ mel_matrix() + 0.01) - np.log(0.01)) / ((6.2 - np.log(0.01)) / 255)
    np.testing.assert_allclose(sound["noise"].reshape(8, 96, 64), expected, atol=0.51)
    begins = [int(np.flatnonzero(patch.reshape(96, 64).any(1))[0]) for patch in sound["noise"][1:4]]
    assert begins == [73, 48, 23]  # 0.75, 0.5 and 0.25 s before the noise, less the length of a window
    assert not sound["noise"][[0, 5, 6, 7]][:, :64].any()
    spec = ["--record_format=clip", "--feature_names=rgb,audio", "--feature_sizes=3,6144", "--num_classes=2"]
    run("tools.check_dataset", f"--data_pattern={tmp_path}/x*.tfrecord", f"--csv={tmp_path}/report.csv", *spec)
    assert "rgb (a JPEG per frame, 3 channels), audio (a patch of sound per frame)" in capsys.readouterr().out


def patches(record: tf.train.SequenceExample) -> np.ndarray:
    frames = record.feature_lists.feature_list["audio"].feature
    return np.stack([np.frombuffer(frame.bytes_list.value[0], np.uint8) for frame in frames])


@pytest.mark.slow
def test_a_model_learns_from_sound_what_pictures_do_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Films of the same grey, with a low or a high tone; a small network takes the place of VGGish."""

    def small() -> keras.Model:
        sound = keras.Input((96, 64))
        return keras.Model(sound, keras.layers.Dense(128)(keras.layers.GlobalAveragePooling1D()(sound)))

    monkeypatch.setattr("yt8m.layers.vggish.vggish", small)
    time = np.arange(16000) / 16000
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 8)):
        (tmp_path / split).mkdir()
        for number in range(count):
            frequency = rng.uniform(200, 400) if number % 2 else rng.uniform(2000, 4000)
            tone = (8000 * np.sin(2 * np.pi * frequency * time)).astype(np.int16)
            write_video(tmp_path / split / f"{number}.mkv", grey_levels(10, step=0), samples=tone)
        rows = "".join(f"{number}.mkv,{number % 2}\n" for number in range(count))
        (tmp_path / split / "list.csv").write_text("path,labels\n" + rows)
        make(tmp_path / split / "list.csv", tmp_path / split / "x", "--audio", "--fps=4", "--size=16")
    spec = ["--record_format=clip", "--feature_names=rgb,audio", "--feature_sizes=3,6144", "--num_classes=2"]
    clips = ["--max_frames=2", "--clip_size=16", "--clip_sampling=spread", "--model=ClipModel"]
    hparams = ["--hparams=backbone_width=0.25", "--hparams=frame_model=AveragePoolModel"]
    training = ["--batch_size=6", "--num_epochs=30", "--base_learning_rate=0.01", f"--train_dir={tmp_path}/run"]
    shards = f"--train_data_pattern={tmp_path}/train/x*.tfrecord"
    run("train", shards, *spec, *clips, *hparams, *training)
    run("eval", f"--eval_data_pattern={tmp_path}/test/x*.tfrecord", f"--train_dir={tmp_path}/run", "--run_once")
    assert json.loads((tmp_path / "run" / "eval" / "metrics.json").read_text())["hit_at_one"] == 1.0


def test_sound_needs_a_rate(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^--audio=True: a frame's sound begins at its number / fps seconds\. Give --fps"
    ):
        make(folder, tmp_path / "out" / "x", "--audio")
    assert not (tmp_path / "out").exists()


def test_a_csv(tmp_path: Path) -> None:
    for name in ("a.mkv", "b.mkv", "c.mkv"):
        write_video(tmp_path / name, grey_levels(2))
    (tmp_path / "list.csv").write_text("path,labels,id\nb.mkv,3 0,\na.mkv,,first\nc.mkv,1,\n")
    make(tmp_path / "list.csv", tmp_path / "x")
    found = records(tmp_path / "x0000.tfrecord")
    labels = {name: list(record.context.feature["labels"].int64_list.value) for name, record in found.items()}
    assert list(labels.items()) == [("b", [3, 0]), ("first", []), ("c", [1])]
    (tmp_path / "unlabelled.csv").write_text("path\na.mkv\n")
    make(tmp_path / "unlabelled.csv", tmp_path / "y")
    assert "labels" not in records(tmp_path / "y0000.tfrecord")["a"].context.feature


def test_what_is_finished_is_kept(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "train"
    make(folder, output, "--videos_per_shard=2")
    shards = sorted((tmp_path / "out").glob("*.tfrecord"))
    written = {shard: shard.read_bytes() for shard in shards}
    shards[1].unlink()
    times = {shard: shard.stat().st_mtime_ns for shard in (shards[0], shards[2])}
    make(folder, output, "--videos_per_shard=2")
    assert {shard: shard.read_bytes() for shard in shards} == written
    assert {shard: shard.stat().st_mtime_ns for shard in times} == times
    with pytest.raises(UserError, match=r"^--fps=3\.0: the shards .*train\*\.tfrecord were made with 0\.0\. Choose"):
        make(folder, output, "--videos_per_shard=2", "--fps=3")
    write_video(folder / "run" / "new.mkv", grey_levels(2))
    with pytest.raises(UserError, match=r"^--videos=.* were made with "):
        make(folder, output, "--videos_per_shard=2")


def test_a_video_that_cannot_be_used(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_sound(folder / "run" / "sound.wav")
    (folder / "jump" / "empty.mp4").touch()
    faults = [
        f"{folder}/run/sound.wav: it holds no stream of pictures, only audio.",
        f"{folder}/jump/empty.mp4: it is empty.",
    ]
    with pytest.raises(UserError) as caught:
        make(folder, tmp_path / "out" / "x")
    assert str(caught.value) in [f"{fault} Repair it, leave it out, or pass --on_bad_video=skip." for fault in faults]
    assert [path.name for path in (tmp_path / "out").iterdir() if path.suffix == ".tfrecord"] == []
    caplog.set_level("INFO", "yt8m")
    make(folder, tmp_path / "out" / "x", "--on_bad_video=skip")
    assert {f"{fault} It is skipped." for fault in faults} <= set(caplog.messages)
    assert "5 videos written, 2 skipped." in caplog.messages
    assert len(records(tmp_path / "out" / "x0000.tfrecord")) == 5


def test_no_video_that_can_be_used(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_text("no video")
    with pytest.raises(UserError, match=r"^None of the 1 videos can be used\. .*a\.mp4: it is no video file"):
        make(tmp_path / "videos", tmp_path / "out" / "x", "--on_bad_video=skip")
    assert not list((tmp_path / "out").glob("*.tfrecord"))


@pytest.mark.parametrize(
    ("csv", "message"),
    [
        ("", "has the columns none; expected path,labels."),
        ("file,labels\na,1\n", "has the columns file, labels; expected path,labels."),
        ("path,labels\n", "it names no videos."),
        ("path,labels\n,1\n", "row 1 after the header: it has no path."),
        ("path,labels\na.mp4,1\nb.mp4,one\n", "row 2 after the header: the label is 'one'; expected class indices"),
        ("path,labels\na.mp4,-1\n", "row 1 after the header: the label is '-1'; expected class indices"),
        ("path,labels\na.mp4,1\na.avi,1\n", "two videos have the id 'a'. Give them ids of their own"),
        ('path,labels\n"a,b.mp4",1\n', "the id 'a,b' has a comma, a quote or a line end in it"),
    ],
)
def test_a_csv_that_cannot_be_understood(tmp_path: Path, csv: str, message: str) -> None:
    (tmp_path / "x.csv").write_text(csv)
    with pytest.raises(UserError) as caught:
        make(tmp_path / "x.csv", tmp_path / "out" / "x")
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"--videos={tmp_path}/x.csv")
    assert not (tmp_path / "out").exists()


def test_folders_of_other_classes_do_not_share_an_output(folder: Path, tmp_path: Path) -> None:
    make(folder, tmp_path / "out" / "train")
    (folder / "jump").rename(folder / "swim")
    with pytest.raises(UserError, match=r"classes\.csv names other classes than the 2 folders of --videos"):
        make(folder, tmp_path / "out" / "validate")


@pytest.mark.parametrize(
    "flag",
    [
        "--fps=-1",
        "--size=-1",
        "--max_frames=0",
        "--quality=0",
        "--quality=101",
        "--flow=farneback",
        "--videos_per_shard=0",
        "--num_processes=0",
        "--on_bad_video=stop",
        "--videos=",
        "--output=",
    ],
)
def test_a_flag_that_makes_no_sense(folder: Path, tmp_path: Path, flag: str) -> None:
    with pytest.raises(UserError, match=f"^{flag.partition('=')[0]}"):
        make(folder, tmp_path / "out" / "x", flag)
    assert not (tmp_path / "out").exists()


def test_without_the_packages_one_line_asks_for_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(
        UserError, match=r"'av' cannot be imported. Install them: pip install -r requirements-video.txt"
    ):
        make(folder, tmp_path / "out" / "x")
    assert packages.optional_package("cv2")


@pytest.mark.slow
def test_several_processes_write_what_one_writes(folder: Path, tmp_path: Path) -> None:
    make(folder, tmp_path / "one" / "x", "--flow=dis")
    command = [sys.executable, "-m", TOOL, f"--videos={folder}", f"--output={tmp_path}/two/x", "--flow=dis"]
    ended = subprocess.run(
        [*command, "--num_processes=2"], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.splitlines()[-1].endswith("5 videos written, 0 skipped.")
    assert (tmp_path / "two" / "x0000.tfrecord").read_bytes() == (tmp_path / "one" / "x0000.tfrecord").read_bytes()
    settings = json.loads((tmp_path / "two" / "x_settings.json").read_text())
    assert settings["flow"] == "dis"
    assert "audio" not in settings  # nor did it have one before there was sound
