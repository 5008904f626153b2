"""The sound of a video file, as patches of a log mel spectrogram: what VGGish reads."""

import numpy as np

from yt8m.schema import MEL_BANDS, PATCH_FRAMES, SOUND_FLOOR, SOUND_STEP
from yt8m.video.decoding import VideoFaultError
from yt8m.video.packages import optional_package

# Source: Hershey et al. 2017, "CNN architectures for large-scale audio classification"; the numbers are those of
# tensorflow/models, research/audioset/vggish, vggish_params.py and mel_features.py.
SAMPLE_RATE = 16_000  # per second
_WINDOW, _HOP, _FFT = 400, 160, 512  # samples: 25 ms, 10 ms
_LOWEST, _HIGHEST = 125.0, 7500.0  # hertz
_LOG_OFFSET = 0.01


def decoded_sound(path: str) -> np.ndarray:
    """Decodes the first stream of sound, mixed to one channel, from the moment at which the pictures begin.

    Args:
        path: a file that can be decoded.

    Returns:
        `(N,)` float32 in [-1, 1], `SAMPLE_RATE` per second; N is 0 without sound.

    Raises:
        VideoFaultError: if the sound cannot be decoded.
    """
    av = optional_package("av")
    try:
        with av.open(path) as container:
            if not container.streams.audio:
                return np.zeros(0, np.float32)
            stream = container.streams.audio[0]
            resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
            blocks = [block for frame in container.decode(stream) for block in resampler.resample(frame)]
            blocks += resampler.resample(None)
            late = _start(stream) - (_start(container.streams.video[0]) if container.streams.video else 0.0)
    except av.FFmpegError as error:
        raise VideoFaultError(f"its sound cannot be decoded ({error.strerror or type(error).__name__}).") from error
    samples = np.concatenate([np.zeros(0, np.float32), *(block.to_ndarray()[0] for block in blocks)])
    offset = round(late * SAMPLE_RATE)
    return np.pad(samples, (offset, 0)) if offset > 0 else samples[-offset:]


def _start(stream: object) -> float:
    start, base = getattr(stream, "start_time", None), getattr(stream, "time_base", None)
    return float(start * base) if start and base else 0.0


def log_mel_patches(samples: np.ndarray, count: int, fps: float) -> np.ndarray:
    """Computes a patch per frame of a video: patch t is the 0.96 seconds of sound that begin at t / fps seconds.

        log(mel bands of |short-time Fourier transform| + 0.01)

    Args:
        samples: `(N,)` float32, `SAMPLE_RATE` per second; after them comes silence.
        count: the number of patches.
        fps: patches per second.

    Returns:
        `(count, 96, 64)` float32.
    """
    starts = np.round(np.arange(count) / fps * SAMPLE_RATE / _HOP).astype(int)  # in hops
    num_windows = (starts[-1] if count else 0) + PATCH_FRAMES
    needed = (num_windows - 1) * _HOP + _WINDOW
    samples = np.pad(samples[:needed], (0, max(needed - len(samples), 0)))
    windows = np.lib.stride_tricks.sliding_window_view(samples, _WINDOW)[::_HOP]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_WINDOW) / _WINDOW)
    magnitudes = np.abs(np.fft.rfft(windows * hann, _FFT))
    bands = np.log(magnitudes @ mel_matrix() + _LOG_OFFSET).astype(np.float32)
    return bands[starts[:, np.newaxis] + np.arange(PATCH_FRAMES)]


def sound_bytes(patches: np.ndarray) -> np.ndarray:
    """Quantises `patches` `(...)` float32 of `log_mel_patches`, of any shape, to uint8 as yt8m/schema.py defines it.

    An error is at most half a step, 0.021: 2 % of a magnitude, 0.2 decibels.
    """
    return np.clip(np.round((patches - SOUND_FLOOR) / SOUND_STEP), 0, 255).astype(np.uint8)


def mel_matrix() -> np.ndarray:
    """Returns the weights of the spectrum's lines in each mel band, `(257, 64)` float64: triangles that overlap.

    mel(f) = 1127 log(1 + f / 700). The edges of the bands are equally spaced in mel; the constant line counts nowhere.
    """
    lines = _mel(np.arange(_FFT // 2 + 1) * SAMPLE_RATE / _FFT)[:, np.newaxis]
    edges = np.linspace(_mel(np.array(_LOWEST)), _mel(np.array(_HIGHEST)), MEL_BANDS + 2)
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    weights = np.maximum(0.0, np.minimum((lines - lower) / (centre - lower), (upper - lines) / (upper - centre)))
    weights[0] = 0.0
    return weights


def _mel(hertz: np.ndarray) -> np.ndarray:
    return 1127.0 * np.log1p(hertz / 700.0)
