"""A video file as JPEGs and bytes of sound: what a record of the format `clip` is made of."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from yt8m.video.decoding import VideoFaultError, decoded_frames
from yt8m.video.flow import flow_of
from yt8m.video.packages import optional_package
from yt8m.video.sound import decoded_sound, log_mel_patches, sound_bytes


@dataclass(frozen=True)
class ClipOptions:
    """What is taken of a video.

    Attributes:
        fps: frames per second; 0 takes every frame.
        size: the short side of the stored frames in pixels; 0 leaves them, and smaller frames stay as they are.
        max_frames: frames after this one are cut off.
        flow: `none`, or a method of `flow_of`.
        quality: of the JPEGs, 1 to 100.
        audio: whether the sound is taken too, which needs `fps`.
    """

    fps: float
    size: int
    max_frames: int
    flow: str
    quality: int
    audio: bool = False


def clip_frames(path: str, options: ClipOptions) -> dict[str, list[bytes]] | str:
    """Reads a video file as what is stored of it. In other processes; so it returns what is wrong, and raises nothing.

    Args:
        path: the video file.
        options: what is taken of it.

    Returns:
        Per frame, by the name of the feature, a JPEG in `rgb`; if it is asked for, a JPEG in `flow`, the x component
        above the y component; and in `audio` the bytes of the patch of sound that begins when the frame is shown, of a
        silent film silence. Or what is wrong with the file.
    """
    stored: dict[str, list[bytes]] = {"rgb": []}

    def images() -> Iterator[np.ndarray]:
        """The frames one by one, each stored in passing: a film of large frames does not fit into memory."""
        for image in decoded_frames(path, options.fps, options.max_frames):
            small = scaled(image, options.size)
            stored["rgb"].append(_jpeg(small[:, :, ::-1], options.quality))
            yield small

    try:
        if options.flow == "none":
            deque(images(), maxlen=0)
        else:
            flows = flow_of(images(), options.flow)
            stored["flow"] = [_jpeg(np.concatenate([x[:, :, 0], x[:, :, 1]]), options.quality) for x in flows]
        if options.audio:
            patches = log_mel_patches(decoded_sound(path), len(stored["rgb"]), options.fps)
            stored["audio"] = [patch.tobytes() for patch in sound_bytes(patches)]
    except VideoFaultError as fault:
        return str(fault)
    return stored


def scaled(image: np.ndarray, size: int) -> np.ndarray:
    """Scales `image` `(H, W, 3)` uint8 so that its short side has `size` pixels, if it has more: `(h, w, 3)` uint8."""
    height, width = image.shape[:2]
    short = min(height, width)
    if not 0 < size < short:
        return image
    cv2 = optional_package("cv2")
    new = [max(round(side * size / short), 1) for side in (width, height)]
    return np.asarray(cv2.resize(image, new, interpolation=cv2.INTER_AREA))


def _jpeg(image: np.ndarray, quality: int) -> bytes:
    cv2 = optional_package("cv2")
    written, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not written:
        raise VideoFaultError("one of its frames cannot be written as a JPEG.")
    return bytes(jpeg.tobytes())
