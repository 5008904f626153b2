"""Whitened principal components and the bytes of YouTube-8M, against scikit-learn and the reader's own decoding."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from yt8m.data.whitening import Moments, Whitening, WhiteningFile, quantise
from yt8m.errors import UserError
from yt8m.layers.frames import dequantise

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(200, 6)) @ RNG.normal(size=(6, 6)) + 3.0


def fitted(size: int = 4) -> Whitening:
    moments = Moments()
    for block in np.array_split(FEATURES, 7):
        moments.add(block)
    return moments.whitening(size)


def test_every_byte_comes_back() -> None:
    every_byte = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(quantise(dequantise(every_byte).numpy()), every_byte)


@given(st.floats(-2.0, 2.0))
def test_a_number_comes_back_to_within_half_a_step(x: float) -> None:
    assert abs(float(dequantise(quantise(np.array([x])))[0]) - x) <= 2 / 255 + 1e-6


def test_bytes_by_hand() -> None:
    """(x + 2 - 4/512) * 255/4: 0 -> 127.002, 1 -> 190.752; beyond 2 there is nothing."""
    assert quantise(np.array([0.0, 1.0, 2.0, 9.0, -2.0, -9.0])).tolist() == [127, 191, 255, 255, 0, 0]


def test_components_are_those_of_scikit_learn() -> None:
    whitening, oracle = fitted(), PCA(4).fit(FEATURES)
    np.testing.assert_allclose(whitening.mean, FEATURES.mean(0), rtol=1e-5)
    np.testing.assert_allclose(whitening.variances, oracle.explained_variance_ * 199 / 200, rtol=1e-4)
    agreement = np.sum(whitening.components * oracle.components_, axis=1)
    np.testing.assert_allclose(np.abs(agreement), 1.0, atol=1e-4)
    assert (whitening.components[np.arange(4), np.abs(whitening.components).argmax(1)] > 0).all()


def test_what_is_whitened_has_the_covariance_of_noise() -> None:
    whitened = fitted()(FEATURES)
    assert whitened.dtype == np.float32
    np.testing.assert_allclose(whitened.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(whitened.T, bias=True), np.eye(4), atol=2e-3)


def test_a_feature_that_never_changes_is_not_blown_up() -> None:
    moments = Moments()
    moments.add(np.repeat([[1.0, 5.0, 2.0]], 50, axis=0))
    whitened = moments.whitening(3)(np.array([[1.0, 5.0, 2.0], [1.0, 5.0, 2.01]]))
    np.testing.assert_allclose(whitened[0], 0, atol=1e-4)
    assert np.abs(whitened[1]).max() <= 1.01  # 0.01 / sqrt(1e-4)


def test_too_few_frames() -> None:
    moments = Moments()
    moments.add(FEATURES[:4])
    with pytest.raises(UserError, match=r"^--pca_size=4: the videos have 4 frames, and 4 components need more"):
        moments.whitening(4)
    assert moments.whitening(3).components.shape == (3, 6)
    assert fitted(100).components.shape == (6, 6)


def test_a_file_is_read_again_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / "pca.npz")
    WhiteningFile({"rgb": fitted()}).write(path)
    found = WhiteningFile.read(path, {"rgb": 6}).whitenings["rgb"]
    np.testing.assert_array_equal(found(FEATURES), fitted()(FEATURES))
    with pytest.raises(UserError, match=r"it is for rgb of 6 numbers, the network gives 7"):
        WhiteningFile.read(path, {"rgb": 7})
    with pytest.raises(UserError, match=r"^--pca=.*cannot be read .*audio"):
        WhiteningFile.read(path, {"audio": 6})
    Path(path).write_bytes(Path(path).read_bytes()[:200])
    with pytest.raises(UserError, match=r"^--pca=.*cannot be read"):
        WhiteningFile.read(path, {"rgb": 6})
    with pytest.raises(UserError, match=r"^--pca=.*cannot be read"):
        WhiteningFile.read(f"{path}x", {"rgb": 6})
