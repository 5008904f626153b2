"""Video files made by PyAV, to be read again. Whoever imports this module is skipped where PyAV is not installed."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from yt8m.layers.backbones import networks

av: Any = pytest.importorskip("av", reason="requirements-video.txt is not installed")
pytest.importorskip("cv2", reason="requirements-video.txt is not installed")


def grey_levels(count: int, height: int = 32, width: int = 48, step: int = 10) -> np.ndarray:
    """Frames of one grey each, the darkest first, with a white corner at the top left: `(T, H, W, 3)` uint8."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[:] = step * np.arange(count, dtype=np.uint8)[:, np.newaxis, np.newaxis, np.newaxis]
    frames[:, : height // 4, : width // 4] = 255
    return frames


def write_video(
    path: Path,
    frames: np.ndarray,
    *,
    rate: int = 10,
    milliseconds: Sequence[int] | None = None,
    rotation: int = 0,
    codec: str = "ffv1",
    pix_fmt: str = "bgr0",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    samples: np.ndarray | None = None,
) -> str:
    """Writes frames `(T, H, W, 3)` uint8, without loss unless another codec is given.

    `milliseconds` are the times of the frames; without them they come at the `rate`. `rotation` is how many degrees a
    player is told to turn them, counter-clockwise. `samples` `(N,)` int16 are their sound, 16,000 per second.
    """
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pix_fmt
        if milliseconds is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        if samples is not None:
            track = container.add_stream("pcm_s16le", rate=16000, layout="mono")
            sound = av.AudioFrame.from_ndarray(samples[np.newaxis], format="s16", layout="mono")
            sound.sample_rate, sound.pts = 16000, 0
            container.mux(track.encode(sound))
            container.mux(track.encode())
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            if milliseconds is not None:
                picture.pts, picture.time_base = milliseconds[number], Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return str(path)


def write_sound(
    path: Path, seconds: float = 0.5, rate: int = 16000, frequency: float = 440.0, cover: bool = False
) -> str:
    """Writes a file with a tone and no pictures, but perhaps the cover of an album."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=rate, layout="mono")
        if cover:
            picture = container.add_stream("mjpeg", rate=1)
            picture.width, picture.height, picture.pix_fmt = 48, 32, "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
            container.mux(picture.encode(av.VideoFrame.from_ndarray(grey_levels(1)[0], format="rgb24")))
            container.mux(picture.encode())
        time = np.arange(int(seconds * rate)) / rate
        tone = (10000 * np.sin(2 * np.pi * frequency * time)).astype(np.int16)[np.newaxis]
        sound = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
        sound.sample_rate, sound.pts = rate, 0
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    return str(path)


def write_weights(folder: Path, size: int) -> str:
    """Writes weights of a small network for pictures of `size` pixels, which nobody trained."""
    path = str(folder / "small.weights.h5")
    networks()["SmallCnn"].build(size, 1.0).save_weights(path)
    return path
