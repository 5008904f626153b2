"""Losses: their scale, their definition, and what they do at the ends of the range."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import tensorflow as tf

from yt8m.config import LossConfig, LossTerm, RunConfig
from yt8m.losses.base import class_cross_entropies, sum_over_classes
from yt8m.registry import LOSSES

from experiment import build_loss
from losses import cross_entropy_loss, hinge_loss
from oracles import models as oracles


def make_case(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.random((4, 7)) < 0.3
    return labels, generator.normal(size=(4, 7)).astype(np.float32), generator.random((4, 7)).astype(np.float32)


def outputs_of(logits: np.ndarray) -> dict[str, tf.Tensor]:
    key = tf.range(len(logits), dtype=tf.int64)
    return {"predictions": tf.sigmoid(logits), "logits": tf.constant(logits), "key": key}


def test_a_fresh_logistic_model_has_the_loss_of_the_starter() -> None:
    # p = 1/2 everywhere: 3862 classes * log 2 = 2676.934; the starter prints 2676.92.
    labels = tf.zeros((2, 3862), tf.bool)
    loss = cross_entropy_loss(labels, outputs_of(np.zeros((2, 3862), np.float32)))
    np.testing.assert_allclose(loss, [3862 * np.log(2.0)] * 2, rtol=2e-6)


def test_cross_entropy_by_hand() -> None:
    # One label with p = 0.8 and one other class with p = 0.25: -log 0.8 - log 0.75 = 0.223144 + 0.287682
    loss = cross_entropy_loss(tf.constant([[True, False]]), {"predictions": tf.constant([[0.8, 0.25]])})
    np.testing.assert_allclose(loss, [0.510826], atol=1e-6)


def test_hinge_by_hand() -> None:
    # A label with p = 0.8 misses the margin by 0.2, another class with p = 0.25 by 1.25.
    loss = hinge_loss(tf.constant([[True, False]]), {"predictions": tf.constant([[0.8, 0.25]])})
    np.testing.assert_allclose(loss, [1.45], atol=1e-6)


@pytest.mark.parametrize("with_logits", [True, False])
def test_cross_entropy_follows_its_definition(with_logits: bool) -> None:
    labels, logits, weights = make_case(0)
    outputs = outputs_of(logits)
    if not with_logits:
        del outputs["logits"]
    expected = oracles.cross_entropy(labels, np.vectorize(oracles.sigmoid)(logits), weights)
    np.testing.assert_allclose(cross_entropy_loss(labels, outputs, tf.constant(weights)), expected, rtol=1e-5)


def gradient_of(loss: Callable[[tf.Tensor], tf.Tensor], logits: tf.Tensor, upstream: tf.Tensor) -> np.ndarray:
    """d (sum_b upstream[b] loss[b]) / d logits."""
    with tf.GradientTape() as tape:
        tape.watch(logits)
        losses = loss(logits)
    return tape.gradient(losses, logits, output_gradients=upstream).numpy()


def test_the_gradient_of_cross_entropy_by_hand() -> None:
    # p = 4 / 5 for the label, 1 / 4 for the other class: 10 * 2 * (0.8 - 1) and 10 * 3 * 0.25.
    logits, weights = tf.constant([[np.log(4.0), np.log(1 / 3)]], tf.float32), tf.constant([[2.0, 3.0]])
    loss = partial(cross_entropy_loss, tf.constant([[True, False]]), label_weights=weights)
    gradient = gradient_of(lambda x: loss({"logits": x}), logits, tf.constant([10.0]))
    np.testing.assert_allclose(gradient, [[-4.0, 7.5]], rtol=1e-6)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("size", [1.0, 100.0])
def test_the_gradient_of_cross_entropy_is_that_of_differentiation(size: float, weighted: bool) -> None:
    labels, logits, weights = make_case(4)
    scaled, label_weights = tf.constant(size * logits), tf.constant(weights) if weighted else None
    upstream = tf.constant([1.0, -2.0, 0.0, 0.5])

    def differentiated(x: tf.Tensor) -> tf.Tensor:
        return sum_over_classes(class_cross_entropies(tf.constant(labels), {"logits": x}), label_weights)

    gradient = gradient_of(
        lambda x: cross_entropy_loss(tf.constant(labels), {"logits": x}, label_weights), scaled, upstream
    )
    np.testing.assert_allclose(gradient, gradient_of(differentiated, scaled, upstream), rtol=1e-5, atol=2e-7)


@pytest.mark.parametrize("margin", [1.0, 0.5])
def test_hinge_follows_its_definition(margin: float) -> None:
    labels, logits, weights = make_case(1)
    expected = oracles.hinge(labels, np.vectorize(oracles.sigmoid)(logits), weights, margin)
    loss = hinge_loss(tf.constant(labels), outputs_of(logits), tf.constant(weights), margin=margin)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_logits_keep_what_probabilities_lose() -> None:
    # sigmoid(-50) is 2e-22; of a label it costs 50 nats. The prediction alone says less than 1e-7: log 1e7 = 16.1 nats.
    outputs = outputs_of(np.array([[-50.0]], np.float32))
    label = tf.constant([[True]])
    np.testing.assert_allclose(cross_entropy_loss(label, outputs), [50.0], rtol=1e-6)
    np.testing.assert_allclose(cross_entropy_loss(label, {"predictions": outputs["predictions"]}), [16.118], rtol=1e-4)


def test_a_sum_of_losses_is_the_weighted_sum_of_their_values() -> None:
    labels, logits, weights = make_case(3)
    run = RunConfig(loss=LossConfig((LossTerm("CrossEntropyLoss", 0.5), LossTerm("HingeLoss", 2.0, {"margin": 0.5}))))
    predictions = np.vectorize(oracles.sigmoid)(logits)
    cross_entropies = oracles.cross_entropy(labels, predictions, weights)
    hinges = oracles.hinge(labels, predictions, weights, 0.5)
    by_hand = [0.5 * cross_entropy + 2.0 * hinge for cross_entropy, hinge in zip(cross_entropies, hinges, strict=True)]
    loss = build_loss(run)(tf.constant(labels), outputs_of(logits), tf.constant(weights))
    np.testing.assert_allclose(loss, by_hand, rtol=1e-5)


def test_one_loss_alone_is_not_changed_by_a_bit() -> None:
    labels, logits, weights = make_case(4)
    arguments = tf.constant(labels), outputs_of(logits), tf.constant(weights)
    np.testing.assert_array_equal(build_loss(RunConfig())(*arguments), cross_entropy_loss(*arguments))


@pytest.mark.parametrize("name", LOSSES.names())
class TestEveryLoss:
    """What every registered loss keeps."""

    def test_one_finite_number_per_video(self, name: str) -> None:
        for values in ([0.0, 1.0], [1.0, 0.0], [0.5, 0.5]):
            predictions = tf.Variable([values])
            with tf.GradientTape() as tape:
                outputs = {"predictions": predictions, "key": tf.constant([1], tf.int64)}
                loss = LOSSES[name](tf.constant([[True, False]]), outputs)
            assert loss.shape == (1,)
            assert loss.dtype == tf.float32
            assert np.all(np.isfinite(loss))
            assert np.all(np.isfinite(tape.gradient(loss, predictions)))

    def test_an_empty_batch(self, name: str) -> None:
        loss = LOSSES[name](tf.zeros((0, 3), tf.bool), outputs_of(np.zeros((0, 3), np.float32)))
        assert loss.shape == (0,)

    def test_weights_of_one_change_nothing_and_zeros_silence(self, name: str) -> None:
        labels, logits, _ = make_case(2)
        plain = LOSSES[name](tf.constant(labels), outputs_of(logits))
        np.testing.assert_allclose(LOSSES[name](labels, outputs_of(logits), tf.ones((4, 7))), plain)
        np.testing.assert_array_equal(LOSSES[name](labels, outputs_of(logits), tf.zeros((4, 7))), np.zeros(4))

    def test_what_is_said_of_a_class_without_weight_changes_nothing(self, name: str) -> None:
        labels, logits, _ = make_case(2)
        is_rated = np.random.default_rng(9).random(labels.shape) < 0.6
        branches, teacher = np.stack([logits, 2 * logits], 1), np.random.default_rng(8).random(labels.shape)

        def loss_and_gradients(wrong: float) -> list[np.ndarray]:
            said = tf.Variable(np.where(is_rated, logits, wrong).astype(np.float32))
            of_branches = tf.Variable(np.where(is_rated[:, np.newaxis], branches, wrong).astype(np.float32))
            with tf.GradientTape() as tape:
                outputs = outputs_of(logits) | {"predictions": tf.sigmoid(said), "logits": tf.identity(said)}
                outputs |= {"branch_logits": of_branches, "teacher_predictions": tf.constant(teacher, tf.float32)}
                loss = LOSSES[name](tf.constant(labels), outputs, tf.constant(is_rated, tf.float32))
            gradients = tape.gradient(loss, [said, of_branches], unconnected_gradients="zero")
            return [loss.numpy(), *(gradient.numpy() for gradient in gradients)]

        right = loss_and_gradients(0.0)
        assert not np.any(right[1][~is_rated])
        assert not np.any(right[2][np.repeat(~is_rated[:, np.newaxis], 2, 1)])
        assert np.any(right[1][is_rated])
        for wrong in (-50.0, 50.0):
            for before, after in zip(right, loss_and_gradients(wrong), strict=True):
                np.testing.assert_array_equal(after, before)

    def test_it_falls_when_a_label_rises(self, name: str) -> None:
        label = tf.constant([[True, False]])
        low, high = (LOSSES[name](label, outputs_of(np.array([[x, 0.0]], np.float32))) for x in (-1.0, 1.0))
        assert high < low

    def test_it_names_its_source(self, name: str) -> None:
        assert "Source:" in (LOSSES[name].__doc__ or "")
