"""Optical flow between the frames of a video, as bytes."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from yt8m.schema import FLOW_BOUND, FLOW_STEP, FLOW_ZERO
from yt8m.video.decoding import VideoFaultError
from yt8m.video.packages import optional_package

FLOW_METHODS = ("none", "dis", "tvl1")


def flow_of(images: Iterable[np.ndarray], method: str) -> Iterator[np.ndarray]:
    """Computes the motion from each frame to the next, while the frames come in.

    Args:
        images: `(H, W, 3)` uint8 each, red, green and blue.
        method: `dis` (dense inverse search, its fast preset) or `tvl1`.

    Yields:
        `(H, W, 2)` uint8 per frame, as `flow_bytes` makes them, x and y. The last frame has the flow of the one before;
        a single frame has none.

    Raises:
        VideoFaultError: if the frames are too small.

    Source: Kroeger, Timofte, Dai & Van Gool 2016 (dis); Zach, Pock & Bischof 2007 (tvl1).
    """
    cv2 = optional_package("cv2")
    estimator = _estimator(cv2, method)
    before = flow = None
    for image in images:
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        if before is None:
            flow = np.full((*grey.shape, 2), FLOW_ZERO, np.uint8)
        else:
            try:
                flow = flow_bytes(estimator.calc(before, grey, None))
            except cv2.error as error:
                height, width = grey.shape
                raise VideoFaultError(f"its frames of {width} x {height} are too small for optical flow.") from error
            yield flow
        before = grey
    if flow is not None:
        yield flow


def _estimator(cv2: Any, method: str) -> Any:
    if method == "dis":
        return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    return cv2.optflow.createOptFlow_DualTVL1()


def flow_bytes(flow: np.ndarray) -> np.ndarray:
    """Clips and quantises `flow` `(...)` float of any shape, in pixels per step, to uint8 of the same shape.

    q = round(clip(v, -20, 20) * 127 / 20) + 128

    Source: see FLOW_BOUND.
    """
    clipped = np.clip(np.nan_to_num(flow), -FLOW_BOUND, FLOW_BOUND)
    return (np.round(clipped / FLOW_STEP) + FLOW_ZERO).astype(np.uint8)
