"""Frames of video files, and what is said of files that have none. docs/video.md lists the same messages."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_videos import av, grey_levels, write_sound, write_video

from yt8m.video.decoding import VideoFaultError, decoded_frames
from yt8m.video.flow import flow_bytes, flow_of
from yt8m.video.pictures import ClipOptions, clip_frames, scaled


def frames_of(path: str, fps: float = 0.0, max_frames: int = 1000) -> np.ndarray:
    return np.stack(list(decoded_frames(path, fps, max_frames)))


def numbers_of(path: str, fps: float = 0.0, max_frames: int = 1000) -> list[int]:
    """The numbers of the frames, which `grey_levels` shows as their grey."""
    return [int(frame[-1, -1, 0]) // 10 for frame in decoded_frames(path, fps, max_frames)]


def fault_of(path: str) -> str:
    with pytest.raises(VideoFaultError) as caught:
        list(decoded_frames(path, 0, 1000))
    return str(caught.value)


def test_every_pixel_of_every_frame(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (4, 17, 33, 3), np.uint8)  # sides are odd
    np.testing.assert_array_equal(frames_of(write_video(tmp_path / "x.mkv", frames)), frames)


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (0, [0, 1, 2, 3, 4, 5, 6]),
        (10, [0, 1, 2, 3, 4, 5, 6]),
        (5, [0, 2, 4, 6]),
        (4, [0, 2, 5]),  # 0, 0.25, 0.5 s; the film ends after 0.7 s
        (1, [0]),
        (20, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]),
    ],
)
def test_the_frame_that_is_shown_at_a_time(tmp_path: Path, fps: float, expected: list[int]) -> None:
    assert numbers_of(write_video(tmp_path / "x.mkv", grey_levels(7)), fps) == expected


def test_a_variable_rate(tmp_path: Path) -> None:
    """Frames at 0, 0.1, 0.15, 0.7 and 1.5 s."""
    file = write_video(tmp_path / "x.mkv", grey_levels(5), milliseconds=[0, 100, 150, 700, 1500])
    assert numbers_of(file) == [0, 1, 2, 3, 4]
    assert numbers_of(file, 10)[:16] == [0, 1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 4]
    assert numbers_of(file, 2)[:4] == [0, 2, 3, 4]


def test_a_first_frame_that_is_not_at_0(tmp_path: Path) -> None:
    file = write_video(tmp_path / "x.mkv", grey_levels(3), milliseconds=[5000, 5100, 5200])
    assert numbers_of(file, 10) == [0, 1, 2]


def test_only_as_many_frames_as_are_wanted(tmp_path: Path) -> None:
    file = write_video(tmp_path / "x.mkv", grey_levels(7))
    assert numbers_of(file, max_frames=3) == [0, 1, 2]
    assert numbers_of(file, 20, max_frames=3) == [0, 0, 1]


@pytest.mark.parametrize(
    ("rotation", "corner", "shape"), [(90, (-1, 0), (48, 32)), (-90, (0, -1), (48, 32)), (180, (-1, -1), (32, 48))]
)
def test_frames_are_turned_as_the_file_says(
    tmp_path: Path, rotation: int, corner: tuple[int, int], shape: tuple[int, int]
) -> None:
    file = write_video(tmp_path / "x.mp4", grey_levels(2), codec="mpeg4", pix_fmt="yuv420p", rotation=rotation)
    frames = frames_of(file)
    assert frames.shape[1:3] == shape
    corners = {(y, x): int(frames[1, y, x, 0]) for y in (0, -1) for x in (0, -1)}
    assert max(corners, key=lambda place: corners[place]) == corner


def test_one_frame_is_a_video(tmp_path: Path) -> None:
    file = write_video(tmp_path / "x.mkv", grey_levels(1))
    assert numbers_of(file) == numbers_of(file, 1) == numbers_of(file, 0.01) == [0]


def test_an_extension_says_nothing(tmp_path: Path) -> None:
    file = Path(write_video(tmp_path / "x.mkv", grey_levels(2)))
    assert numbers_of(str(file.rename(tmp_path / "x.txt"))) == [0, 1]


def mp4(path: Path, **options: str) -> str:
    """A file of 30 frames that do not compress, as large as a real one's header is small."""
    noise = np.random.default_rng(0).integers(0, 256, (30, 32, 48, 3), np.uint8)
    return write_video(path, noise, codec="mpeg4", pix_fmt="yuv420p", container_options=options)


def cut(path: str, share: float) -> str:
    file = Path(path)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    return path


def empty(place: Path) -> str:
    (place / "x.mp4").touch()
    return str(place / "x.mp4")


def text(place: Path) -> str:
    (place / "x.mp4").write_text("path,labels\nx.mp4,1\n" * 20)
    return str(place / "x.mp4")


def without_frames(place: Path) -> str:
    with av.open(str(place / "x.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        container.start_encoding()
    return str(place / "x.avi")


def of_two_sizes(place: Path) -> str:
    halves = [
        write_video(place / name, grey_levels(3, 32, width), codec="mpeg2video", pix_fmt="yuv420p")
        for name, width in (("a.m2v", 48), ("b.m2v", 64))
    ]
    (place / "x.m2v").write_bytes(b"".join(Path(half).read_bytes() for half in halves))
    return str(place / "x.m2v")


HOSTILE: dict[str, tuple[Callable[[Path], str], str]] = {
    "missing": (lambda place: str(place / "x.mp4"), r"there is no such file\."),
    "a folder": (str, r"it is not a file\."),
    "zero length": (empty, r"it is empty\."),
    "text with the extension of a video": (text, r"it is no video file that can be decoded \(Invalid data found.*\)\."),
    "audio only": (lambda place: write_sound(place / "x.wav"), r"it holds no stream of pictures, only audio\."),
    "audio with a cover": (
        lambda place: write_sound(place / "x.mp4", cover=True),
        r"it holds no stream of pictures, only audio, video\.",
    ),
    "no frames": (without_frames, r"it holds no frame that can be decoded\."),
    "truncated, its index at the end": (
        lambda place: cut(mp4(place / "x.mp4"), 0.6),
        r"it is no video file that can be decoded \(Invalid data found.*\)\.",
    ),
    "truncated, its index at the start": (
        lambda place: cut(mp4(place / "x.mp4", movflags="faststart"), 0.6),
        r"it ends after \d+ of 30 frames: it is truncated or damaged\.",
    ),
    "truncated AVI": (
        lambda place: cut(mp4(place / "x.avi"), 0.6),
        r"it ends after \d+ of 30 frames: it is truncated or damaged\.",
    ),
    "truncated Matroska": (
        lambda place: cut(mp4(place / "x.mkv"), 0.6),
        r"it ends after [12]\.\d of 3\.0 seconds: it is truncated or damaged\.",
    ),
    "frames of two sizes": (
        of_two_sizes,
        r"the size of its frames changes from 48 x 32 to 64 x 32 after frame \d\.",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_file_that_cannot_be_used(tmp_path: Path, case: str) -> None:
    make, fault = HOSTILE[case]
    message = fault_of(make(tmp_path))
    assert re.fullmatch(fault, message), message


def test_whatever_byte_is_changed_there_are_frames_or_a_fault(tmp_path: Path) -> None:
    faults = []
    content, rng = Path(mp4(tmp_path / "x.mp4")).read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        changed = bytearray(content)
        for place in rng.integers(0, len(content), 5):
            changed[place] = rng.integers(256)
        (tmp_path / "y.mp4").write_bytes(changed)
        try:
            assert all(frame.shape[2] == 3 for frame in decoded_frames(str(tmp_path / "y.mp4"), 0, 100))
        except VideoFaultError as fault:
            faults.append(str(fault))
    assert 0 < len(faults) < 60
    assert not any("\n" in fault for fault in faults)


# Scaling and flow


def test_the_short_side_is_scaled_and_nothing_becomes_larger() -> None:
    image = np.zeros((30, 41, 3), np.uint8)
    assert scaled(image, 15).shape == (15, 20, 3)  # 20.5 is rounded to even
    assert scaled(image.transpose(1, 0, 2), 15).shape == (20, 15, 3)
    assert scaled(image, 0).shape == scaled(image, 30).shape == scaled(image, 99).shape == (30, 41, 3)
    checks = np.indices((8, 8)).sum(0) % 2 * 200
    halved = scaled(np.repeat(checks[:, :, np.newaxis], 3, 2).astype(np.uint8), 4)
    assert (halved == 100).all()  # the mean of two black and two bright pixels


def test_flow_as_bytes() -> None:
    """127 bytes for 20 pixels: 1 pixel is 6.35, and 0.07 is less than half a byte."""
    flow = np.array([0.0, 0.07, 1.0, -1.0, 20.0, -20.0, 400.0, -400.0, np.inf, np.nan])
    assert flow_bytes(flow).tolist() == [128, 128, 134, 122, 255, 1, 255, 1, 255, 128]


@pytest.mark.parametrize(("method", "motion"), [("dis", (3, 1)), ("dis", (-2, 2)), ("tvl1", (1, 0))])
def test_flow_of_a_picture_that_moves(method: str, motion: tuple[int, int]) -> None:
    y, x = np.mgrid[0:48, 0:48]
    picture = 128 + 60 * np.sin(x / 3.0) + 60 * np.cos(y / 4.0)
    images = [np.roll(picture, (t * motion[1], t * motion[0]), (0, 1)) for t in range(3)]
    flows = list(flow_of([np.repeat(image[:, :, np.newaxis], 3, 2).astype(np.uint8) for image in images], method))
    assert len(flows) == 3
    np.testing.assert_array_equal(flows[2], flows[1])
    inside = flows[0][12:-12, 12:-12].reshape(-1, 2).astype(float)
    np.testing.assert_allclose(np.median(inside, 0), np.array(motion) * 6.35 + 128, atol=3)


def test_flow_of_one_frame_is_none() -> None:
    assert list(flow_of([], "dis")) == []
    (flow,) = flow_of([np.zeros((4, 6, 3), np.uint8)], "dis")
    assert flow.shape == (4, 6, 2)
    assert (flow == 128).all()


def test_frames_too_small_for_flow_are_a_fault(tmp_path: Path) -> None:
    file = write_video(tmp_path / "x.mkv", grey_levels(3, 4, 6))
    assert isinstance(clip_frames(file, ClipOptions(0, 0, 10, "none", 90)), dict)
    fault = clip_frames(file, ClipOptions(0, 0, 10, "dis", 90))
    assert fault == "its frames of 6 x 4 are too small for optical flow."
