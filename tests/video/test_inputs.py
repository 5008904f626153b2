"""Frames that are spread over a video file."""

from pathlib import Path

import numpy as np
import pytest
from made_videos import grey_levels, write_video

from yt8m.video.inputs import spread_frames


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (12, [1, 4, 7, 10]),  # the middles of 0..2, 3..5, 6..8, 9..11
        (4, [0, 1, 2, 3]),
        (2, [0, 0, 1, 1]),
        (1, [0, 0, 0, 0]),
    ],
)
def test_frames_in_the_middle_of_equal_parts(tmp_path: Path, length: int, expected: list[int]) -> None:
    path = write_video(tmp_path / "a.mkv", grey_levels(length, 16, 24))
    frames = spread_frames(path, 4, 24)
    assert not isinstance(frames, str)
    assert (frames[:, -1, -1, 0] // 10).tolist() == expected


def test_a_long_film_is_thinned_out_while_it_is_read(tmp_path: Path) -> None:
    """Of 150 frames at most 32 are kept at a time: at the end every eighth."""
    frames = np.repeat(np.arange(150, dtype=np.uint8), 16 * 16 * 3).reshape(150, 16, 16, 3)
    found = spread_frames(write_video(tmp_path / "a.mkv", frames), 2, 16)
    assert not isinstance(found, str)
    assert found[:, 0, 0, 0].tolist() == [32, 112]  # 4 and 14 of the 19 multiples of 8


@pytest.mark.parametrize(("height", "width", "expected"), [(16, 24, (32, 48)), (96, 48, (48, 24)), (60, 2, (48, 2))])
def test_the_long_side_is_as_given_and_the_aspect_kept(
    tmp_path: Path, height: int, width: int, expected: tuple[int, int]
) -> None:
    found = spread_frames(write_video(tmp_path / "a.mkv", grey_levels(2, height, width)), 2, 48)
    assert not isinstance(found, str)
    assert found.shape[1:3] == expected


def test_what_is_wrong_is_returned(tmp_path: Path) -> None:
    assert spread_frames(str(tmp_path / "gone.avi"), 2, 16) == "there is no such file."
