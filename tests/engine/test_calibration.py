"""Temperature scaling: the temperature of all logits one by one, the outputs it gives, and reliability diagrams."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from yt8m.engine.calibration import CalibratedModel, LogitHistogram, collect_logits
from yt8m.engine.reliability import reliability_image, reliability_svg
from yt8m.errors import UserError

from video_level_models import Outputs, outputs_from_logits


def made_up(seed: int, factor: float, num_videos: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Logits of ten classes that are `factor` times too large for how often their labels are there."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(-1, 2, (num_videos, 10))
    labels = generator.random(logits.shape) < 1 / (1 + np.exp(-logits))
    return (factor * logits).astype(np.float32), labels


def histogram(logits: np.ndarray, labels: np.ndarray) -> LogitHistogram:
    pooled = LogitHistogram()
    for rows in (slice(0, 7), slice(7, None)):
        pooled.add(logits[rows], labels[rows])
    return pooled


def cross_entropy(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    z = logits.astype(float) / temperature
    return float((np.logaddexp(0, z) - labels * z).sum(axis=1).mean())


@given(st.integers(0, 1000), st.floats(0.2, 8))
@settings(max_examples=20, deadline=None)
def test_the_temperature_has_the_least_cross_entropy_of_all_logits(seed: int, factor: float) -> None:
    logits, labels = made_up(seed, factor)
    found = histogram(logits, labels).temperature()
    best = minimize_scalar(lambda b: cross_entropy(logits, labels, 1 / b), (0.1, 1.0), options={"xtol": 1e-10})
    np.testing.assert_allclose(found, 1 / best.x, rtol=1e-5)


def test_a_hand_worked_temperature() -> None:
    # Three of four predictions of logit 2 come true: sigmoid(2 / T) = 3 / 4, so 2 / T = log 3. Bins change nothing.
    labels = np.array([[True], [True], [False], [True]])
    found = histogram(np.full((4, 1), 2.0, np.float32), labels).temperature()
    np.testing.assert_allclose(found, 2 / np.log(3), rtol=1e-12)


def test_scaled_logits_scale_the_temperature() -> None:
    logits, labels = made_up(1, 1.0)
    ratio = histogram(4 * logits, labels).temperature() / histogram(logits, labels).temperature()
    np.testing.assert_allclose(ratio, 4, rtol=1e-6)


def test_cross_entropy_is_that_of_all_logits() -> None:
    logits, labels = made_up(2, 3.0)
    logits[0, 0] = 200  # beyond the bins
    for temperature in (0.5, 1.0, 3.0):
        found = histogram(logits, labels).cross_entropy(temperature)
        np.testing.assert_allclose(found, cross_entropy(logits, labels, temperature), rtol=1e-6)


@pytest.mark.parametrize("value", [1.0, -1.0])
def test_predictions_that_are_always_right_or_wrong_have_no_temperature(value: float) -> None:
    labels = np.random.default_rng(0).random((20, 3)) < 0.5
    with pytest.raises(UserError, match=r"No temperature from 0.01 to 100 .* on these 20 videos"):
        histogram(np.where(labels, value, -value), labels).temperature()


def test_no_videos_have_no_temperature() -> None:
    with pytest.raises(UserError, match="on these 0 videos"):
        LogitHistogram().temperature()


def test_logits_that_are_not_finite_are_refused() -> None:
    with pytest.raises(UserError, match="NaN or infinite"):
        LogitHistogram().add(np.array([[np.nan]]), np.array([[True]]))


# ---- the outputs


class Model:
    """Its features are its logits."""

    def __call__(self, batch: dict[str, tf.Tensor], training: bool = False) -> Outputs:
        return outputs_from_logits(batch["mean_rgb"]) | {"other": tf.constant(5)}


def test_outputs_are_divided_by_the_temperature() -> None:
    logits, _ = made_up(0, 1.0)
    batch = {"mean_rgb": tf.constant(logits)}
    calibrated = CalibratedModel(Model())
    own = Model()(batch)
    np.testing.assert_array_equal(calibrated(batch)["predictions"], own["predictions"])
    calibrated.set_temperature(4.0)
    outputs = calibrated(batch)
    np.testing.assert_allclose(outputs["logits"], logits / 4, rtol=1e-6)
    np.testing.assert_allclose(outputs["predictions"], 1 / (1 + np.exp(-logits / 4)), rtol=1e-5)
    assert outputs["other"] == 5


def test_a_model_without_logits_has_those_of_its_predictions() -> None:
    logits, _ = made_up(0, 1.0)
    calibrated = CalibratedModel(lambda batch, training: {"predictions": tf.math.sigmoid(batch["mean_rgb"])})
    calibrated.set_temperature(2.0)
    outputs = calibrated({"mean_rgb": tf.constant(logits)})
    np.testing.assert_allclose(outputs["predictions"], 1 / (1 + np.exp(-logits / 2)), rtol=1e-4)
    assert set(outputs) == {"predictions"}


def test_logits_are_collected_in_one_pass() -> None:
    logits, labels = made_up(3, 2.0)
    videos = {"id": [f"v{number}" for number in range(60)], "mean_rgb": logits, "labels": labels}
    batches = tf.data.Dataset.from_tensor_slices(videos).batch(16)
    found = collect_logits(Model(), batches)
    assert found.num_videos == 60
    np.testing.assert_allclose(found.temperature(), histogram(logits, labels).temperature(), rtol=1e-12)


# ---- reliability


def test_a_hand_worked_reliability(tmp_path: Path) -> None:
    # Predictions 0.25 (four, one comes true) and 0.75 (two, none comes true). Error: 4/6 * 0 + 2/6 * 0.75 = 0.25.
    p = np.array([[0.25, 0.25], [0.25, 0.25], [0.75, 0.75]])
    labels = np.array([[True, False], [False, False], [False, False]])
    found = histogram(np.log(p / (1 - p)), labels).reliability(1.0, num_bins=2)
    assert found.num_predictions.tolist() == [4, 2]
    np.testing.assert_allclose(found.mean_predictions, [0.25, 0.75])
    np.testing.assert_allclose(found.frequencies, [0.25, 0.0])
    np.testing.assert_allclose(found.calibration_error, 0.25)
    image = reliability_image(found)[0]
    assert image.shape == (200, 200, 3)
    assert [tuple(image[-1 - height, 20]) != (255, 255, 255) for height in (5, 45, 55, 150)] == [
        True,
        True,
        False,
        False,
    ]
    assert tuple(image[-5, 150]) == (255, 255, 255)


def test_an_empty_bin_is_no_point_and_no_error() -> None:
    found = histogram(np.zeros((10, 2)), np.zeros((10, 2), bool)).reliability(1.0)
    assert np.count_nonzero(found.num_predictions) == 1
    np.testing.assert_allclose(found.calibration_error, 0.5)
    picture = ElementTree.fromstring(reliability_svg({"before": found, "after": found}))
    assert len(picture.findall("{http://www.w3.org/2000/svg}circle")) == 2
