"""The fused update is Keras' own: the same weights after many steps, the same variables in a checkpoint."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from yt8m.config import OptimizationConfig
from yt8m.distribution import build_strategy
from yt8m.engine.optimization import build_optimizer, clip_each, squared_norms
from yt8m.engine.penalties import Penalties

RATE, NUM_STEPS = 0.05, 50


class Constant(keras.optimizers.schedules.LearningRateSchedule):
    """Like the schedule of a run, it has no variable in the optimizer."""

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        return tf.constant(RATE)


KERAS: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    "AdamOptimizer": lambda: keras.optimizers.Adam(Constant(), epsilon=1e-8),
    "AdamWOptimizer": lambda: keras.optimizers.AdamW(Constant(), epsilon=1e-8),
    "MomentumOptimizer": lambda: keras.optimizers.SGD(Constant(), momentum=0.9),
    "GradientDescentOptimizer": lambda: keras.optimizers.SGD(Constant()),
}
every_optimizer = pytest.mark.parametrize("name", KERAS)


def fused(name: str) -> keras.optimizers.Optimizer:
    seen = tf.Variable(0, dtype=tf.int64)
    return build_optimizer(OptimizationConfig(optimizer=name, base_learning_rate=RATE), seen, 1000)


def make_model() -> keras.Model:
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(7), keras.layers.BatchNormalization(), keras.layers.Dense(2)]
    )


def gradients_of_step(step: int, variables: list[Any]) -> list[tf.Tensor]:
    rng = np.random.default_rng(step)
    return [tf.constant(rng.normal(size=variable.shape), tf.float32) for variable in variables]


def apply(optimizer: keras.optimizers.Optimizer, model: keras.Model, first: int, end: int) -> None:
    """Makes the updates `first` to `end - 1`, of random gradients."""
    for step in range(first, end):
        optimizer.apply(gradients_of_step(step, model.trainable_variables), model.trainable_variables)


def after_steps(optimizer: keras.optimizers.Optimizer, num_steps: int = NUM_STEPS) -> keras.Model:
    model = make_model()
    optimizer.build(model.trainable_variables)
    apply(optimizer, model, 0, num_steps)
    return model


def assert_equal_after(num_steps: int, ours: keras.Model, theirs: keras.Model) -> None:
    """An update moves a weight by about the rate at most, and Keras' rounding of 1 - b2 changes 6.5e-6 of that."""
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=num_steps * RATE * 6.5e-6)


@every_optimizer
def test_fifty_steps_reach_the_weights_of_keras(name: str) -> None:
    assert_equal_after(NUM_STEPS, after_steps(fused(name)), after_steps(KERAS[name]()))


@pytest.mark.parametrize("name", ["AdamOptimizer", "AdamWOptimizer"])
def test_fifty_steps_of_adam_by_definition(name: str) -> None:
    """In float64, with the b1 and b2 that float32 has: a difference of float32's rounding in each of the updates."""
    ours, start = after_steps(fused(name)), make_model()
    b1, b2 = (float(np.float32(b)) for b in (0.9, 0.999))
    decay = 0.004 if name == "AdamWOptimizer" else 0.0
    for index, found in enumerate(ours.trainable_variables):
        w = start.trainable_variables[index].numpy().astype(np.float64)
        m, v = np.zeros_like(w), np.zeros_like(w)
        for step in range(NUM_STEPS):
            g = gradients_of_step(step, start.trainable_variables)[index].numpy().astype(np.float64)
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            corrected_rate = RATE * np.sqrt(1 - b2 ** (step + 1)) / (1 - b1 ** (step + 1))
            w = w * (1 - RATE * decay) - corrected_rate * m / (np.sqrt(v) + 1e-8)
        np.testing.assert_allclose(found.numpy(), w, rtol=1e-6, atol=NUM_STEPS * RATE * 1e-6)


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        # The first update of Adam is the rate, whatever the gradient; then m = .9 * .1 * 2 - .1 * 1 = .08 and
        # v = .999 * .001 * 4 + .001 = .004996, so 2 - .05 - .05 * (.08 / .19) / sqrt(.004996 / .001999).
        ("AdamOptimizer", 1.9366828),
        # Weights decay by .05 * .004 = .0002 before each: (2 * .9998 - .05) * .9998 - .0133172.
        ("AdamWOptimizer", 1.9358929),
        # m = -.05 * 2 = -.1, then .9 * -.1 + .05 * 1 = -.04: 2 - .1 - .04.
        ("MomentumOptimizer", 1.86),
        ("GradientDescentOptimizer", 1.95),
    ],
)
def test_two_updates_by_hand(name: str, by_hand: float) -> None:
    """The weight 2 has the gradients 2 and then -1."""
    optimizer, weight = fused(name), keras.Variable([2.0])
    optimizer.build([weight])
    for gradient in (2.0, -1.0):
        optimizer.apply([tf.constant([gradient])], [weight])
    assert float(weight[0]) == pytest.approx(by_hand, abs=2e-6)


@every_optimizer
def test_two_devices_reach_the_weights_of_one(name: str) -> None:
    one = after_steps(fused(name))
    strategy = build_strategy(2)
    with strategy.scope():
        optimizer, model = fused(name), make_model()
        optimizer.build(model.trainable_variables)

    @tf.function
    def step(gradients: list[tf.Tensor]) -> None:
        strategy.run(lambda: optimizer.apply(gradients, model.trainable_variables))

    for number in range(NUM_STEPS):
        step(gradients_of_step(number, model.trainable_variables))
    for weight, expected in zip(model.trainable_variables, one.trainable_variables, strict=True):
        for copy in strategy.experimental_local_results(weight.value):
            np.testing.assert_allclose(copy.numpy(), expected.numpy(), rtol=1e-6, atol=1e-6)


@every_optimizer
def test_a_checkpoint_of_keras_is_continued(name: str, tmp_path: Path) -> None:
    theirs = KERAS[name]()
    model = after_steps(theirs, 10)
    path = tf.train.Checkpoint(model=model, optimizer=theirs).write(str(tmp_path / "ckpt"))
    ours, resumed = fused(name), make_model()
    ours.build(resumed.trainable_variables)
    tf.train.Checkpoint(model=resumed, optimizer=ours).read(path).assert_consumed()
    for a, b in zip(ours.variables, theirs.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    apply(theirs, model, 10, 20)
    apply(ours, resumed, 10, 20)
    assert_equal_after(20, resumed, model)


def test_norms_and_clipping_by_definition() -> None:
    rng = np.random.default_rng(0)
    shapes_and_sizes = (((300, 300), 1), ((300, 300), 1e-3), ((4,), 0.1), ((4,), 9.0))
    gradients = [tf.constant(rng.normal(size=shape) * size, tf.float32) for shape, size in shapes_and_sizes]
    squares = squared_norms(gradients)
    for gradient, square, clipped in zip(gradients, squares, clip_each(gradients, squares, 1.0), strict=True):
        exact = float(np.sum(gradient.numpy().astype(np.float64) ** 2))
        assert float(square) == pytest.approx(exact, rel=1e-5)
        np.testing.assert_allclose(clipped, gradient / max(1.0, np.sqrt(exact)), rtol=1e-5)
    assert clip_each(gradients, squares, 0.0) == gradients


@pytest.mark.parametrize("size", [3, 300 * 300])
def test_a_gradient_of_zeros_stays_zero(size: int) -> None:
    zeros = [tf.zeros([size])]
    assert not np.any(clip_each(zeros, squared_norms(zeros), 1.0)[0])


class Penalised(keras.Model):
    """A model with penalties of every kind."""

    def __init__(self) -> None:
        super().__init__()
        l1 = keras.regularizers.L1(0.1)
        self.one = keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.01), bias_regularizer=l1)
        self.two = keras.layers.Dense(2, kernel_regularizer=keras.regularizers.L2(0.5))
        self.three = keras.layers.Dense(2, kernel_regularizer=keras.regularizers.L2(0.0))

    def call(self, x: tf.Tensor) -> tf.Tensor:
        y = self.one(x)
        self.add_loss(tf.reduce_mean(y) * 0.2)
        return self.three(self.two(y))


def test_penalties_and_their_gradients_are_those_of_differentiation() -> None:
    keras.utils.set_random_seed(1)
    model, x = Penalised(), tf.constant(np.random.default_rng(2).normal(size=(4, 5)), tf.float32)
    model(x)
    model.one.bias.assign([0.1, -0.2, 0.3])
    weights = [variable.value for variable in model.trainable_variables]

    def gradients_of(penalty: Callable[[], tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            model(x)
            value = penalty()
        gradients = tape.gradient(value, weights, unconnected_gradients="zero")
        return value, [tf.convert_to_tensor(gradient) for gradient in gradients]

    penalties = Penalties(model, 0.7)
    expected, expected_gradients = gradients_of(lambda: 0.7 * tf.add_n(model.losses))
    differentiated, gradients = gradients_of(penalties.differentiated)
    assert float(differentiated + penalties.l2()) == pytest.approx(float(expected), rel=1e-6)
    for found, wanted in zip(penalties.add_l2_gradients(gradients), expected_gradients, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)
