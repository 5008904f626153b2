"""Frames of a video file at a steady rate, upright, whatever the file's own rate and orientation."""

import math
import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from yt8m.video.packages import optional_package

_LARGEST_LOSS = 0.1  # of a file's frames: headers are off by some, truncated files by more


class VideoFaultError(Exception):
    """Says what is wrong with a video file; the caller knows which one it is."""


def decoded_frames(path: str, fps: float, max_frames: int) -> Iterator[np.ndarray]:
    """Decodes a video file.

    Frame k is what a player shows k / fps seconds after the first frame, by the frames' own times: of a variable rate,
    a frame may be yielded several times or never. Frames are turned as the file says.

    Args:
        path: the file; what it holds counts, not its extension.
        fps: frames per second; 0 yields every frame of the file once.
        max_frames: the most frames to yield.

    Yields:
        `(H, W, 3)` uint8, red, green and blue.

    Raises:
        VideoFaultError: if it is no video file, holds no frames, its frames change their size, or it ends or fails
            before its end.
    """
    _check_file(path)
    av = optional_package("av")
    frames = _Frames()
    try:
        with av.open(path) as container:
            stream = _picture_stream(container)
            stream.codec_context.thread_count = 1  # videos are decoded side by side
            decoded = frames.of(container, stream)
            shown = _shown_at(decoded, Fraction(fps).limit_denominator(10**6)) if fps else decoded
            num_yielded, shape = 0, None
            for _, _, frame in islice(shown, max_frames):
                image = _upright(frame)
                shape = shape or image.shape
                if image.shape != shape:
                    sizes = " to ".join(f"{width} x {height}" for height, width, _ in (shape, image.shape))
                    raise VideoFaultError(f"the size of its frames changes from {sizes} after frame {num_yielded}.")
                yield image
                num_yielded += 1
            if num_yielded < max_frames:
                frames.check_end(container, stream)
    except av.FFmpegError as error:
        reason = error.strerror or type(error).__name__
        if frames.count:
            raise VideoFaultError(f"it cannot be decoded after frame {frames.count} ({reason}).") from error
        raise VideoFaultError(f"it is no video file that can be decoded ({reason}).") from error


def _check_file(path: str) -> None:
    file = Path(path)
    try:
        if not file.is_file():
            raise VideoFaultError("there is no such file." if not file.exists() else "it is not a file.")
        if not file.stat().st_size:
            raise VideoFaultError("it is empty.")
    except OSError as error:
        raise VideoFaultError(f"it cannot be read ({error.strerror}).") from error


def _picture_stream(container: Any) -> Any:
    """The first stream of pictures; the cover of an album is none."""
    cover = optional_package("av").stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise VideoFaultError(f"it holds no stream of pictures, only {kinds}.")
    return streams[0]


class _Frames:
    """Decodes the frames of a stream, each with its time and its duration in seconds, and counts them."""

    def __init__(self) -> None:
        self.count = 0
        self._start = self._end = Fraction(0)

    def of(self, container: Any, stream: Any) -> Iterator[tuple[Fraction, Fraction, Any]]:
        usual = 1 / (stream.average_rate or Fraction(25))
        for frame in container.decode(stream):
            time = self._start + self._end if frame.pts is None else frame.pts * frame.time_base
            self._start = self._start if self.count else time
            duration = Fraction(frame.duration or 0) * (frame.time_base or 0)
            duration = duration if duration > 0 else usual
            self.count += 1
            self._end = max(self._end, time - self._start + duration)
            yield time - self._start, duration, frame

    def check_end(self, container: Any, stream: Any) -> None:
        """Compares what was decoded with what the file's header promises."""
        if not self.count:
            raise VideoFaultError("it holds no frame that can be decoded.")
        if self.count < (1 - _LARGEST_LOSS) * stream.frames:
            raise VideoFaultError(f"it ends after {self.count} of {stream.frames} frames: it is truncated or damaged.")
        promised = _promised_seconds(stream, self._start)
        if not stream.frames and self._end < (1 - _LARGEST_LOSS) * promised:
            raise VideoFaultError(
                f"it ends after {float(self._end):.1f} of {promised:.1f} seconds: it is truncated or damaged."
            )


def _promised_seconds(stream: Any, start: Fraction) -> float:
    """How long a stream is from its `start` on by the file's header; 0 if that does not say."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    clock = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if clock is None:
        return 0.0
    hours, minutes, seconds = map(float, clock.groups())
    return 3600 * hours + 60 * minutes + seconds - float(start)  # Matroska's counts from 0


def _shown_at(
    decoded: Iterator[tuple[Fraction, Fraction, Any]], fps: Fraction
) -> Iterator[tuple[Fraction, Fraction, Any]]:
    """Yields the frame that is shown at 0, 1 / fps, 2 / fps, ... seconds, until the last frame has been shown."""
    number, shown = 0, None
    for item in decoded:
        while shown is not None and number < item[0] * fps:
            yield shown
            number += 1
        shown = item
    if shown is None:
        return
    end = max(math.ceil((shown[0] + shown[1]) * fps), 1)
    yield from (shown for _ in range(number, end))


def _upright(frame: Any) -> np.ndarray:
    image = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(image, frame.rotation // 90 % 4)) if frame.rotation % 360 else image
