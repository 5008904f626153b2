"""A video file as what feature networks read: square frames, and patches of sound."""

from dataclasses import dataclass

import numpy as np

from yt8m.video.decoding import VideoFaultError, decoded_frames
from yt8m.video.packages import optional_package
from yt8m.video.sound import decoded_sound, log_mel_patches


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


def _square(image: np.ndarray, options: InputOptions) -> np.ndarray:
    """Cuts and scales `(H, W, 3)` uint8 to `(size, size, 3)`: averaged where it becomes smaller, else bilinear."""
    cv2 = optional_package("cv2")
    height, width = image.shape[:2]
    if options.crop:
        side = max(round(options.crop * min(height, width)), 1)
        top, left = (height - side) // 2, (width - side) // 2
        image = image[top : top + side, left : left + side]
    how = cv2.INTER_AREA if min(image.shape[:2]) >= options.size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (options.size, options.size), interpolation=how))
