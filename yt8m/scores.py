"""Metrics of predictions that are no numbers are no numbers: they are refused."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yt8m.errors import UserError

VideoIds = Sequence[bytes] | Sequence[str] | NDArray[Any]


def check_finite(scores: NDArray[Any], ids: VideoIds | None = None) -> None:
    """Checks that no score is NaN or infinite.

    Args:
        scores: any shape with videos along the first axis.
        ids: `(B,)` bytes or str, names for the message.

    Raises:
        UserError: names the first video with a non-finite score, by its place where there are no ids.
    """
    is_finite = np.isfinite(scores)
    if is_finite.all():
        return
    row = int(np.argmin(is_finite.reshape(len(is_finite), -1).all(axis=1)))
    video = f"number {row} of the batch" if ids is None else name_of(ids[row])
    raise UserError(
        f"A prediction for video {video} is NaN or infinite; expected finite numbers. "
        "Use an earlier checkpoint, and look for NaN in the training log."
    )


def name_of(video_id: bytes | str) -> str:
    """Returns a video's id as text, whatever bytes a record put there."""
    return video_id.decode(errors="backslashreplace") if isinstance(video_id, bytes) else str(video_id)
