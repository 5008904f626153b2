"""A video file as JPEGs: what a record of the format `clip` is made of."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from yt8m.video.decoding import VideoFaultError, decoded_frames
from yt8m.video.flow import flow_of
from yt8m.video.packages import optional_package


@dataclass(frozen=True)
class ClipOptions:
    """What is taken of a video.

    Attributes:
        fps: frames per second; 0 takes every frame.
        size: the short side of the stored frames in pixels; 0 leaves them, and smaller frames stay as they are.
        max_frames: frames after this one are cut off.
        flow: `none`, or a method of `flow_of`.
        quality: of the JPEGs, 1 to 100.
    """

    fps: float
    size: int
    max_frames: int
    flow: str
    quality: int


def clip_jpegs(path: str, options: ClipOptions) -> dict[str, list[bytes]] | str:
    """Reads a video file as JPEGs. It is called in other processes, and so returns what is wrong instead of raising it.

    Args:
        path: the video file.
        options: what is taken of it.

    Returns:
        The JPEG of every frame, by the name of the feature: `rgb`, and `flow` if it is asked for, of which the x
        component is above the y component. Or what is wrong with the file.
    """
    jpegs: dict[str, list[bytes]] = {"rgb": []}

    def images() -> Iterator[np.ndarray]:
        """The frames one by one, each stored in passing: a film of large frames does not fit into memory."""
        for image in decoded_frames(path, options.fps, options.max_frames):
            small = scaled(image, options.size)
            jpegs["rgb"].append(_jpeg(small[:, :, ::-1], options.quality))
            yield small

    try:
        if options.flow == "none":
            deque(images(), maxlen=0)
        else:
            flows = flow_of(images(), options.flow)
            jpegs["flow"] = [_jpeg(np.concatenate([x[:, :, 0], x[:, :, 1]]), options.quality) for x in flows]
    except VideoFaultError as fault:
        return str(fault)
    return jpegs


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
