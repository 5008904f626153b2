"""A video file as what feature networks read: square frames, and patches of sound."""

import sys
from dataclasses import dataclass

import numpy as np

from yt8m.video.decoding import VideoFaultError, decoded_frames
from yt8m.video.packages import optional_package
from yt8m.video.sound import decoded_sound, log_mel_patches

_NO_END = sys.maxsize
_KEPT_PER_FRAME = 16  # frames of a film that are kept while it is decoded, per frame that is returned


@dataclass(frozen=True)
class InputOptions:
    """What is taken of a video.

    Attributes:
        fps: frames and patches of sound per second.
        size: height and width of the frames.
        crop: the side of the square that is cut out of the middle, as a share of the short side; 0 squeezes all of it.
        max_frames: frames after this one are cut off.
        sound: whether patches of sound are wanted.
    """

    fps: float
    size: int
    crop: float
    max_frames: int
    sound: bool


def network_inputs(path: str, options: InputOptions) -> dict[str, np.ndarray] | str:
    """Reads a video file. It is called in other processes, and so returns what is wrong instead of raising it.

    Args:
        path: the video file.
        options: what is taken of it.

    Returns:
        `rgb` `(T, size, size, 3)` uint8, and `audio` `(T, 96, 64)` float32 if it is wanted; of a video without sound
        it is silence. Or what is wrong with the file.
    """
    try:
        frames = [_square(image, options) for image in decoded_frames(path, options.fps, options.max_frames)]
        inputs = {"rgb": np.stack(frames)}
        if options.sound:
            inputs["audio"] = log_mel_patches(decoded_sound(path), len(frames), options.fps)
    except VideoFaultError as fault:
        return str(fault)
    return inputs


def spread_frames(path: str, count: int, long_side: int) -> np.ndarray | str:
    """Reads frames that are spread evenly over a video file, in their own shape.

    Of `count` equal parts of the video the frame in the middle of each; of a video with fewer frames some are read
    several times.

    Args:
        path: the video file.
        count: the number of frames, T.
        long_side: the pixels of the longer side of the frames that are returned, whatever the file's are.

    Returns:
        `(T, H, W, 3)` uint8, or what is wrong with the file.
    """
    kept: list[np.ndarray] = []
    step = 1  # every step-th frame is kept, so that a long film fits into memory
    try:
        for number, image in enumerate(decoded_frames(path, 0, _NO_END)):
            if number % step == 0:
                kept.append(_resized(image, _sides(image, long_side)))
            if len(kept) == _KEPT_PER_FRAME * count:
                kept, step = kept[::2], 2 * step
    except VideoFaultError as fault:
        return str(fault)
    return np.stack([kept[(2 * part + 1) * len(kept) // (2 * count)] for part in range(count)])


def _sides(image: np.ndarray, long_side: int) -> tuple[int, int]:
    height, width = image.shape[:2]
    factor = long_side / max(height, width)
    return max(round(height * factor), 1), max(round(width * factor), 1)


def _square(image: np.ndarray, options: InputOptions) -> np.ndarray:
    """Cuts and scales `(H, W, 3)` uint8 to `(size, size, 3)`."""
    height, width = image.shape[:2]
    if options.crop:
        side = max(round(options.crop * min(height, width)), 1)
        top, left = (height - side) // 2, (width - side) // 2
        image = image[top : top + side, left : left + side]
    return _resized(image, (options.size, options.size))


def _resized(image: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
    """Scales `(H, W, 3)` uint8 to `sides`, the height and the width: averaged if both become smaller, else bilinear."""
    cv2 = optional_package("cv2")
    how = cv2.INTER_AREA if image.shape[0] >= sides[0] and image.shape[1] >= sides[1] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, sides[::-1], interpolation=how))
