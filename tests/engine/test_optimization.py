"""The fused update is Keras' own: the same weights after many steps, the same variables in a checkpoint."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from yt8m.config import OptimizationConfig
from yt8m.distribution import build_strategy
from yt8m.engine.optimization import build_optimizer, clip, loss_scale, squared_norms
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
    "SGD": lambda: keras.optimizers.SGD(Constant()),
    "Lion": lambda: keras.optimizers.Lion(Constant(), weight_decay=0.004),
}
every_optimizer = pytest.mark.parametrize("name", KERAS)


def fused(
    name: str, weights: Sequence[keras.Variable], *, scales_loss: bool = False, **settings: Any
) -> keras.optimizers.Optimizer:
    """Every weight decays, as in Keras, if the settings do not say otherwise."""
    every: dict[str, Any] = {"weight_decay_of": "all"}
    config = OptimizationConfig(optimizer=name, base_learning_rate=RATE, **every | settings)
    return build_optimizer(config, tf.Variable(0, dtype=tf.int64), 1000, weights, scales_loss=scales_loss)


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


def after_steps(
    build: Callable[[Sequence[keras.Variable]], keras.optimizers.Optimizer], num_steps: int = NUM_STEPS
) -> keras.Model:
    model = make_model()
    apply(build(model.trainable_variables), model, 0, num_steps)
    return model


def by_keras(name: str) -> Callable[[Sequence[keras.Variable]], keras.optimizers.Optimizer]:
    """Builds the optimizer that Keras has by that name."""

    def build(weights: Sequence[keras.Variable]) -> keras.optimizers.Optimizer:
        optimizer = KERAS[name]()
        optimizer.build(weights)
        return optimizer

    return build


def assert_equal_after(num_steps: int, ours: keras.Model, theirs: keras.Model) -> None:
    """An update moves a weight by about the rate at most, and Keras' rounding of 1 - b2 changes 6.5e-6 of that."""
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=num_steps * RATE * 6.5e-6)


@every_optimizer
def test_fifty_steps_reach_the_weights_of_keras(name: str) -> None:
    assert_equal_after(NUM_STEPS, after_steps(partial(fused, name)), after_steps(by_keras(name)))


@pytest.mark.parametrize("name", ["AdamOptimizer", "AdamWOptimizer"])
def test_fifty_steps_of_adam_by_definition(name: str) -> None:
    """In float64, with the b1 and b2 that float32 has: a difference of float32's rounding in each of the updates."""
    ours, start = after_steps(partial(fused, name)), make_model()
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
    weight = keras.Variable([2.0])
    optimizer = fused(name, [weight])
    for gradient in (2.0, -1.0):
        optimizer.apply([tf.constant([gradient])], [weight])
    assert float(weight[0]) == pytest.approx(by_hand, abs=2e-6)


@every_optimizer
def test_two_devices_reach_the_weights_of_one(name: str) -> None:
    one = after_steps(partial(fused, name))
    strategy = build_strategy(2)
    with strategy.scope():
        model = make_model()
        optimizer = fused(name, model.trainable_variables)

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
    model = make_model()
    theirs = by_keras(name)(model.trainable_variables)
    apply(theirs, model, 0, 10)
    path = tf.train.Checkpoint(model=model, optimizer=theirs).write(str(tmp_path / "ckpt"))
    resumed = make_model()
    ours = fused(name, resumed.trainable_variables)
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
    exact = [float(np.sum(gradient.numpy().astype(np.float64) ** 2)) for gradient in gradients]
    assert [float(square) for square in squares] == pytest.approx(exact, rel=1e-5)
    of_all = np.sqrt(sum(exact))
    for gradient, square, clipped in zip(gradients, exact, clip(gradients, squares, 1.0, "variable"), strict=True):
        np.testing.assert_allclose(clipped, gradient / max(1.0, np.sqrt(square)), rtol=1e-5)
    for gradient, clipped in zip(gradients, clip(gradients, squares, 1.0, "global"), strict=True):
        np.testing.assert_allclose(clipped, gradient / of_all, rtol=1e-5)
    for gradient, clipped in zip(gradients, clip(gradients, squares, 2 * of_all, "global"), strict=True):
        np.testing.assert_array_equal(clipped, gradient)


@pytest.mark.parametrize("size", [3, 300 * 300])
def test_a_gradient_of_zeros_stays_zero(size: int) -> None:
    zeros = [tf.zeros([size])]
    for scope in ("variable", "global"):
        assert not np.any(clip(zeros, squared_norms(zeros), 1.0, scope)[0])


@pytest.mark.parametrize("name", ["AdamW", "Lion"])
def test_kernels_decay_and_biases_norms_and_centres_do_not(name: str) -> None:
    """Without gradients a weight is multiplied by 1 - .05 * .1 in each update, or stays."""
    model = make_model()
    centres = keras.Variable(np.ones((4, 3), np.float32), name="centres")
    weights = [*model.trainable_variables, centres]
    for weight in weights:
        weight.assign(np.ones(weight.shape))
    optimizer = fused(name, weights, weight_decay=0.1, weight_decay_of="kernels")
    optimizer.apply([tf.zeros(weight.shape) for weight in weights], weights)
    found = {weight.path: float(np.ravel(weight.numpy())[0]) for weight in weights}
    assert found == {path: pytest.approx(0.995 if path.endswith("kernel") else 1.0) for path in found}
    assert sum(value < 1 for value in found.values()) == 2


@pytest.mark.parametrize("num_devices", [1, 2])
def test_an_update_that_overflows_is_left_out_and_the_scale_falls(num_devices: int) -> None:
    """The weight 2 has the gradients 2, infinity and -1, scaled; without the second it is the case by hand of Adam."""
    strategy = build_strategy(num_devices)
    with strategy.scope():
        weight = keras.Variable([2.0])
        optimizer = fused("AdamOptimizer", [weight], scales_loss=True)

    @tf.function(autograph=False)
    def step(gradient: tf.Tensor) -> None:
        strategy.run(lambda: optimizer.apply([gradient * loss_scale(optimizer)], [weight]))

    scales = []
    for gradient in (2.0, np.inf, -1.0):
        step(tf.constant([gradient], tf.float32))
        scales.append(float(optimizer.dynamic_scale.value.numpy()))
    assert scales == [2.0**15, 2.0**14, 2.0**14]
    assert float(weight[0]) == pytest.approx(1.9366828, abs=2e-6)
    assert loss_scale(fused("AdamOptimizer", [keras.Variable([2.0])])) == 1.0


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
    scaled = penalties.add_l2_gradients([8.0 * gradient for gradient in gradients], tf.constant(8.0))
    for found, wanted in zip(scaled, expected_gradients, strict=True):
        np.testing.assert_allclose(found, 8.0 * wanted, rtol=1e-5, atol=1e-6)
