"""Sound as log mel patches, against a spectrogram that is computed line by line."""

import cmath
import math
from pathlib import Path

import numpy as np
import pytest
from made_videos import av, grey_levels, write_sound, write_video

from yt8m.schema import SOUND_CEILING, SOUND_FLOOR, SOUND_STEP
from yt8m.video.sound import SAMPLE_RATE, decoded_sound, log_mel_patches, mel_matrix, sound_bytes


def tone(seconds: float, frequency: float, rate: int = SAMPLE_RATE) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def oracle(samples: np.ndarray, window: int) -> list[float]:
    """The 64 bands of window number `window`, by the definition of each of them."""
    part = [float(x) for x in samples[160 * window : 160 * window + 400]]
    part = [x * (0.5 - 0.5 * math.cos(2 * math.pi * n / 400)) for n, x in enumerate(part)]
    lines = [abs(sum(x * cmath.exp(-2j * math.pi * k * n / 512) for n, x in enumerate(part))) for k in range(257)]
    mel = [1127 * math.log(1 + k * 16000 / 512 / 700) for k in range(257)]
    low, high = (1127 * math.log(1 + f / 700) for f in (125, 7500))
    edge = [low + (high - low) * i / 65 for i in range(66)]
    bands = []
    for band in range(64):
        total = 0.0
        for k in range(1, 257):
            rise = (mel[k] - edge[band]) / (edge[band + 1] - edge[band])
            fall = (edge[band + 2] - mel[k]) / (edge[band + 2] - edge[band + 1])
            total += max(0.0, min(rise, fall)) * lines[k]
        bands.append(math.log(total + 0.01))
    return bands


def test_patches_are_those_of_the_definition() -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, 3 * SAMPLE_RATE).astype(np.float32)
    patches = log_mel_patches(samples, 3, 2.0)
    assert patches.shape == (3, 96, 64)
    assert patches.dtype == np.float32
    np.testing.assert_allclose(patches[0, 0], oracle(samples, 0), atol=1e-4)
    np.testing.assert_allclose(patches[1, 7], oracle(samples, 57), atol=1e-4)  # it begins after 0.5 s
    np.testing.assert_allclose(patches[2, 95], oracle(samples, 195), atol=1e-4)


def test_after_the_end_there_is_silence() -> None:
    patches = log_mel_patches(tone(0.5, 440.0), 3, 1.0)
    np.testing.assert_allclose(patches[1:], math.log(0.01), atol=1e-6)
    np.testing.assert_allclose(patches[0, 60:], math.log(0.01), atol=1e-6)
    assert patches[0, :45].max() > 1.0
    assert log_mel_patches(np.zeros(0, np.float32), 0, 1.0).shape == (0, 96, 64)


@pytest.mark.parametrize("frequency", [200.0, 1000.0, 4000.0])
def test_a_tone_is_in_its_band(frequency: float) -> None:
    (patch,) = log_mel_patches(tone(1.0, frequency), 1, 1.0)
    band = int(patch.mean(0).argmax())
    weights = mel_matrix()[:, band]
    lines = np.flatnonzero(weights) * SAMPLE_RATE / 512
    assert lines.min() - 32 <= frequency <= lines.max() + 32


def test_sound_is_decoded_at_another_rate(tmp_path: Path) -> None:
    samples = decoded_sound(write_sound(tmp_path / "x.wav", 0.5, rate=48000))
    assert samples.dtype == np.float32
    assert len(samples) == pytest.approx(0.5 * SAMPLE_RATE, abs=20)
    expected = 10000 / 32768 * np.sin(2 * np.pi * 440 * np.arange(len(samples)) / SAMPLE_RATE)
    np.testing.assert_allclose(samples[200:-200], expected[200:-200], atol=0.01)


def test_a_film_without_sound_has_none(tmp_path: Path) -> None:
    assert decoded_sound(write_video(tmp_path / "x.mkv", grey_levels(3))).shape == (0,)


@pytest.mark.parametrize("late", [0.0, 0.25])
def test_sound_is_counted_from_the_first_picture(tmp_path: Path, late: float) -> None:
    with av.open(str(tmp_path / "x.mkv"), "w") as container:
        pictures = container.add_stream("ffv1", rate=10)
        pictures.width, pictures.height, pictures.pix_fmt = 48, 32, "bgr0"
        sound = container.add_stream("pcm_s16le", rate=SAMPLE_RATE, layout="mono")
        for frame in grey_levels(10):
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(pictures.encode())
        block = av.AudioFrame.from_ndarray(np.full((1, 8000), 16384, np.int16), format="s16", layout="mono")
        block.sample_rate, block.pts = SAMPLE_RATE, int(late * SAMPLE_RATE)
        container.mux(sound.encode(block))
        container.mux(sound.encode())
    samples = decoded_sound(str(tmp_path / "x.mkv"))
    start = int(np.argmax(samples > 0.25))
    assert start == pytest.approx(late * SAMPLE_RATE, abs=20)


def test_bytes_of_sound_are_the_nearest_and_nothing_is_cut_off() -> None:
    # (6.2 - log 0.01) / 255 = (6.2 + 4.60517) / 255 = 0.0423732; 1 is (1 + 4.60517) / 0.0423732 = 132.28 steps above.
    assert sound_bytes(np.array([math.log(0.01), 1.0, 6.2], np.float32)).tolist() == [0, 132, 255]
    loud = np.sign(np.random.default_rng(0).normal(size=2 * SAMPLE_RATE)).astype(np.float32)
    patches = log_mel_patches(np.concatenate([loud, 0.001 * loud]), 4, 1.0)
    np.testing.assert_allclose(SOUND_FLOOR + SOUND_STEP * sound_bytes(patches), patches, atol=SOUND_STEP / 2 + 1e-5)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    # Parseval: the 512 lines of a real window have 512 times its energy, and each line of a band has a twin.
    spectrum = math.sqrt(512 * (hann**2).sum() / 2)
    assert not mel_matrix()[256].any()
    assert np.log(np.linalg.norm(mel_matrix(), axis=0) * spectrum + 0.01).max() < SOUND_CEILING
