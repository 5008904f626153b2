"""Optical flow between the frames of a video, as bytes."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from yt8m.schema import FLOW_BOUND, FLOW_STEP, FLOW_ZERO
from yt8m.video.decoding import VideoFaultError
from yt8m.video.packages import optional_package

FLOW_METHODS = ("none", "dis", "tvl1")


def flow_of(images: Sequence[np.ndarray], method: str) -> list[np.ndarray]:
    """Computes the motion from each frame to the next.

    Args:
        images: `(H, W, 3)` uint8 each, red, green and blue.
        method: `dis` (dense inverse search, its fast preset) or `tvl1`.

    Returns:
        `(H, W, 2)` uint8 each, as `flow_bytes` makes them, x and y. The last frame has the flow of the one before; a
        single frame has none.

    Raises:
        VideoFaultError: if the frames are too small.

    Source: Kroeger, Timofte, Dai & Van Gool 2016 (dis); Zach, Pock & Bischof 2007 (tvl1).
    """
    cv2 = optional_package("cv2")
    estimator = _estimator(cv2, method)
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]
    try:
        flows = [flow_bytes(estimator.calc(before, after, None)) for before, after in pairwise(grey)]
    except cv2.error as error:
        height, width = grey[0].shape
        raise VideoFaultError(f"its frames of {width} x {height} are too small for optical flow.") from error
    still = np.full((*grey[0].shape, 2), FLOW_ZERO, np.uint8)
    return [*flows, flows[-1] if flows else still]


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
