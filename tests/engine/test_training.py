"""The training loop: one device, two devices and a resumed run reach the same weights; every end is a clean one."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from yt8m.classifiers.base import Outputs, outputs_from_logits
from yt8m.config import OptimizationConfig
from yt8m.data.example_weights import with_example_weights
from yt8m.distribution import Workers, build_strategy
from yt8m.engine.loop import LoopSettings, _check_finite, train
from yt8m.engine.optimization import LearningRate
from yt8m.engine.profiling import Profile
from yt8m.engine.step import Measures, TrainState, TrainStep, explained_compilation
from yt8m.engine.weight_averages import load_weights, measure_moments
from yt8m.errors import UserError
from yt8m.layers.normalisation import MaskedBatchNormalization
from yt8m.positions import Position
from yt8m.runs.checkpoints import Checkpoints
from yt8m.runs.directory import require_checkpoint

from losses import cross_entropy_loss

NUM_CLASSES, SIZE, NUM_VIDEOS = 5, 6, 50
AVERAGED = {"weights_halflife": 3.0}


class NormalisedLogistic(keras.Model):
    """A small model with statistics over the batch, so that a wrong sum over devices shows."""

    def __init__(self) -> None:
        super().__init__()
        self.normalise = MaskedBatchNormalization()
        self.output_layer = keras.layers.Dense(NUM_CLASSES, kernel_regularizer=keras.regularizers.L2(1e-3))

    def call(self, batch: dict[str, tf.Tensor], training: bool = False) -> Outputs:
        x = self.normalise(batch["mean_rgb"], training=training)
        return outputs_from_logits(self.output_layer(x))


class Logistic(NormalisedLogistic):
    """The same without statistics over the batch."""

    def call(self, batch: dict[str, tf.Tensor], training: bool = False) -> Outputs:
        return outputs_from_logits(self.output_layer(self.normalise(batch["mean_rgb"], training=False)))


def make_batches(
    batch_size: int = 8, num_epochs: int | None = None, poison_at: int = -1, bagging_seed: int = 0
) -> tf.data.Dataset:
    """Shuffled batches of learnable videos, with drawn weights if there is a seed; that at `poison_at` holds a NaN."""
    rng = np.random.default_rng(3)
    features = rng.normal(size=(NUM_VIDEOS, SIZE)).astype(np.float32)
    labels = features @ rng.normal(size=(SIZE, NUM_CLASSES)) > 1
    videos = {"mean_rgb": features, "labels": labels, "key": np.arange(NUM_VIDEOS)}
    dataset = tf.data.Dataset.from_tensor_slices(videos).shuffle(20, seed=5).repeat(num_epochs).batch(batch_size)

    def poison(index: tf.Tensor, batch: dict) -> dict:
        factor = tf.where(index == poison_at, np.nan, 1.0)
        position = tf.concat([tf.zeros([5], tf.int64), [index + 1, 0]], axis=0)
        return batch | {"mean_rgb": batch["mean_rgb"] * tf.cast(factor, tf.float32), "position": position}

    batches = dataset.enumerate().map(poison)
    if not bagging_seed:
        return batches
    batches = batches.map(lambda batch: batch | {"id": tf.strings.as_string(batch["key"])})
    return batches.map(with_example_weights(None, bagging_seed))


class StringLogistic(NormalisedLogistic):
    """A model with an operation that XLA does not know."""

    def call(self, batch: dict[str, tf.Tensor], training: bool = False) -> Outputs:
        numbers = tf.strings.to_number(tf.strings.as_string(batch["mean_rgb"]))
        return super().call({"mean_rgb": tf.ensure_shape(numbers, (None, SIZE))}, training=training)


class Run:
    """A run of the small model in one directory."""

    def __init__(
        self,
        directory: Path,
        num_devices: int = 1,
        order: str = "a",
        decay_examples: int = 10**6,
        accumulate_steps: int = 1,
        optimization: dict[str, Any] | None = None,
        model_class: type[keras.Model] = NormalisedLogistic,
        jit_compile: bool = False,
        **data: Any,
    ):
        self.strategy = build_strategy(num_devices)
        self.workers = Workers(self.strategy)
        keras.utils.set_random_seed(1)
        config = OptimizationConfig(
            base_learning_rate=0.05,
            learning_rate_decay=0.5,
            learning_rate_decay_examples=decay_examples,
            **optimization or {},
        )
        with self.strategy.scope():
            model = model_class()
            model({"mean_rgb": tf.zeros([1, SIZE])})
            self.state = TrainState(model, config, run_examples=1000)
        batches = make_batches(**data)
        self.checkpoints = Checkpoints(str(directory), self.state, 3, order)
        self.start = self.checkpoints.restore(examples_per_epoch=NUM_VIDEOS)
        self.iterator = iter(batches.skip(self.start.record))
        self.step = TrainStep(
            self.strategy,
            self.state,
            cross_entropy_loss,
            regularization_penalty=1.0,
            clip_gradient_norm=config.clip_gradient_norm,
            clip_gradient_scope=config.clip_gradient_scope,
            accumulate_steps=accumulate_steps,
            top_k=3,
            batch_spec=batches.element_spec,
            jit_compile=jit_compile,
        )
        self.reports: list[tuple[int, int, Measures]] = []

    def train(
        self,
        max_steps: int = 0,
        on_report: Callable[[int], None] = lambda step: None,
        evaluate: Callable[[int], None] | None = None,
        evaluated_at: int | None = None,
        **settings: Any,
    ) -> int:
        """Trains; every argument has the meaning of its flag."""

        def report(step: int, examples_seen: int, measures: Measures) -> None:
            self.reports.append((step, examples_seen, measures))
            on_report(step)

        loop = LoopSettings(
            max_steps, **({"log_steps": 4, "export_model_steps": 1000} | settings), save_checkpoint_seconds=0
        )
        return train(
            self.step,
            self.state,
            self.iterator,
            self.checkpoints,
            loop,
            workers=self.workers,
            report=report,
            profile=Profile("", None),
            evaluate=evaluate,
            evaluated_at=evaluated_at,
        )

    def weights(self) -> list[np.ndarray]:
        """All weights of the model, statistics included."""
        return [variable.numpy() for variable in self.state.model.variables]


def test_two_devices_reach_the_weights_of_one(tmp_path: Path) -> None:
    one, two = Run(tmp_path / "one"), Run(tmp_path / "two", num_devices=2)
    one.train(30)
    two.train(30)
    for a, b in zip(one.weights(), two.weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)
    for (_, seen_1, measures_1), (_, seen_2, measures_2) in zip(one.reports, two.reports, strict=True):
        assert seen_1 == seen_2
        assert measures_1.scalars == pytest.approx(measures_2.scalars, rel=1e-3)
        assert measures_1.metrics == pytest.approx(measures_2.metrics)


def test_ten_steps_are_five_and_five(tmp_path: Path) -> None:
    whole = Run(tmp_path / "whole")
    whole.train(10)
    Run(tmp_path / "parts").train(5)
    resumed = Run(tmp_path / "parts")
    assert resumed.start == Position(record=5)
    resumed.train(10)
    for a, b in zip(whole.weights(), resumed.weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert whole.reports[-1] == resumed.reports[-1]


def test_which_steps_are_reported_changes_no_bit_of_the_weights(tmp_path: Path) -> None:
    often, seldom = Run(tmp_path / "often"), Run(tmp_path / "seldom")
    often.train(10, log_steps=1)
    seldom.train(10, log_steps=10)
    for a, b in zip(often.weights(), seldom.weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_compiled_steps_are_those_that_are_not_compiled(tmp_path: Path) -> None:
    plain, compiled = Run(tmp_path / "plain", num_epochs=1), Run(tmp_path / "compiled", num_epochs=1, jit_compile=True)
    # Six batches of 8 videos and one of 2, for which XLA compiles once more.
    plain.train(log_steps=3)
    compiled.train(log_steps=3)
    assert int(compiled.state.global_step.numpy()) == 7
    for a, b in zip(plain.weights(), compiled.weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    for (*_, ours), (*_, theirs) in zip(plain.reports, compiled.reports, strict=True):
        assert ours.scalars == pytest.approx(theirs.scalars, rel=1e-5)


def test_compiled_steps_need_one_device(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--jit_compile: it works on one device, and there are 2"):
        Run(tmp_path, num_devices=2, jit_compile=True)


@pytest.mark.parametrize("way", [{"num_devices": 2}, {"jit_compile": True}])
def test_weights_of_examples_mean_the_same_on_two_devices_and_compiled(tmp_path: Path, way: dict[str, Any]) -> None:
    runs = [
        Run(tmp_path / "all alike"),
        Run(tmp_path / "drawn", bagging_seed=1),
        Run(tmp_path / "in another way", bagging_seed=1, **way),
    ]
    for run in runs:
        run.train(10)
    alike, drawn, in_another_way = (run.weights() for run in runs)
    assert not np.allclose(alike[-1], drawn[-1], atol=1e-2)
    for a, b in zip(drawn, in_another_way, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def test_what_xla_cannot_compile_is_named(tmp_path: Path) -> None:
    run = Run(tmp_path, model_class=StringLogistic, jit_compile=True)
    message = "--jit_compile: XLA cannot compile the training step of StringLogistic.* Leave the flag out."
    with pytest.raises(UserError, match=message), explained_compilation("StringLogistic"):
        run.train(2, log_steps=1)


def test_fifty_steps_are_those_of_keras_and_differentiation(tmp_path: Path) -> None:
    """The objective differentiated as a whole, each gradient clipped by TensorFlow, the update by Keras' own Adam.

    Keras' rounding of 1 - b2 changes 6.5e-6 of each update, the rate of 0.05; other sums are in another order.
    """
    run = Run(tmp_path)
    model, optimizer = NormalisedLogistic(), keras.optimizers.Adam(0.05, epsilon=1e-8)
    model({"mean_rgb": tf.zeros([1, SIZE])})
    for variable, value in zip(model.variables, run.weights(), strict=True):
        variable.assign(value)
    for batch in make_batches().take(50):
        with tf.GradientTape() as tape:
            logits = model({"mean_rgb": batch["mean_rgb"]}, training=True)["logits"]
            y = tf.cast(batch["labels"], tf.float32)
            terms = tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=logits)
            label_loss, reg_loss = tf.reduce_mean(tf.reduce_sum(terms, axis=1)), tf.add_n(model.losses)
            objective = label_loss + reg_loss
        gradients = tape.gradient(objective, model.trainable_variables)
        clipped = [tf.clip_by_norm(gradient, 1.0) for gradient in gradients]
        optimizer.apply(clipped, model.trainable_variables)
    run.train(50, log_steps=10)
    for ours, theirs in zip(run.weights(), model.variables, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=50 * 0.05 * 6.5e-6)
    scalars = run.reports[-1][2].scalars
    assert scalars["label_loss"] == pytest.approx(float(label_loss), rel=1e-4)
    assert scalars["reg_loss"] == pytest.approx(float(reg_loss), rel=1e-4)
    assert scalars["gradient_norm"] == pytest.approx(float(tf.linalg.global_norm(gradients)), rel=1e-3)


def averages_by_hand(values: list[np.ndarray], halflife: float) -> np.ndarray:
    """From the definition: each step's values, oldest first."""
    average = np.zeros_like(values[0], dtype=np.float64)
    for step, value in enumerate(values):
        rate = max(1 - 0.5 ** (1 / halflife), 10 / (10 + step))
        average += rate * (value - average)
    return average


def test_averages_of_all_weights_are_evaluated_and_training_goes_on_without_them(tmp_path: Path) -> None:
    run, plain = Run(tmp_path / "averaged", optimization=AVERAGED), Run(tmp_path / "plain")
    history: list[list[np.ndarray]] = []
    run.train(12, log_steps=1, on_report=lambda step: history.append(run.weights()))
    plain.train(12)
    expected = [averages_by_hand(list(values), 3.0) for values in zip(*history, strict=True)]
    with run.state.evaluated_weights():
        for weight, average in zip(run.weights(), expected, strict=True):
            np.testing.assert_allclose(weight, average, rtol=1e-5, atol=1e-6)
    other = NormalisedLogistic()
    other({"mean_rgb": tf.zeros([1, SIZE])})
    load_weights(other, require_checkpoint(str(tmp_path / "averaged")))
    for weight, average in zip(other.get_weights(), expected, strict=True):
        np.testing.assert_allclose(weight, average, rtol=1e-5, atol=1e-6)
    for a, b in zip(run.weights(), plain.weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_averages_on_two_devices_and_in_two_parts_are_the_same(tmp_path: Path) -> None:
    whole, two = (
        Run(tmp_path / "whole", optimization=AVERAGED),
        Run(tmp_path / "two", num_devices=2, optimization=AVERAGED),
    )
    Run(tmp_path / "parts", optimization=AVERAGED).train(5)
    parts = Run(tmp_path / "parts", optimization=AVERAGED)
    for run in (whole, two, parts):
        run.train(10)
    with whole.state.evaluated_weights(), two.state.evaluated_weights(), parts.state.evaluated_weights():
        for a, b, c in zip(whole.weights(), two.weights(), parts.weights(), strict=True):
            np.testing.assert_array_equal(a, c)
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def test_averages_may_begin_when_a_run_is_resumed(tmp_path: Path) -> None:
    Run(tmp_path).train(5)
    resumed = Run(tmp_path, optimization=AVERAGED)
    own = resumed.weights()
    with resumed.state.evaluated_weights():
        for a, b in zip(own, resumed.weights(), strict=True):
            np.testing.assert_array_equal(a, b)
    resumed.train(6)
    assert resumed.state.averages is not None
    assert int(resumed.state.averages.num_updates.numpy()) == 1


def test_moments_are_measured_as_means_over_batches(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.train(5)
    batches = list(make_batches().take(3))
    weights = run.state.model.trainable_variables
    before = [weight.numpy() for weight in weights]
    assert measure_moments(run.state.model, batches) == 3
    layer = run.state.model.normalise
    moments = [tf.nn.moments(batch["mean_rgb"], axes=[0]) for batch in batches]
    for found, of_batches in zip((layer.moving_mean, layer.moving_variance), zip(*moments, strict=True), strict=True):
        np.testing.assert_allclose(found, np.mean(of_batches, axis=0), rtol=1e-5, atol=1e-6)
    for weight, value in zip(weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_changed_data_start_from_the_front(tmp_path: Path) -> None:
    Run(tmp_path).train(5)
    assert Run(tmp_path, order="b").start == Position()


def test_loss_falls(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.train(60)
    losses = [measures.scalars["label_loss"] for _, _, measures in run.reports]
    assert losses[-1] < 0.5 * losses[0]


def test_learning_rate_counts_examples(tmp_path: Path) -> None:
    """Steps of 8 examples, halved every 40: the rate is 0.05 up to step 5, 0.025 from step 6 (40 seen) to step 10."""
    run = Run(tmp_path, decay_examples=40)
    run.train(11, log_steps=1)
    rates = [measures.scalars["learning_rate"] for _, _, measures in run.reports]
    assert rates == pytest.approx([0.05] * 5 + [0.025] * 5 + [0.0125])


def test_a_batch_in_parts_reaches_the_weights_of_the_whole(tmp_path: Path) -> None:
    """Three parts of 8 videos, or of the 4 of each of two devices, of a model without batch moments."""
    whole = Run(tmp_path / "whole", model_class=Logistic)
    parts = Run(tmp_path / "parts", model_class=Logistic, accumulate_steps=3)
    on_two = Run(tmp_path / "on two", model_class=Logistic, accumulate_steps=3, num_devices=2)
    for run in (whole, parts, on_two):
        run.train(20)
    for a, b, c in zip(whole.weights(), parts.weights(), on_two.weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(a, c, rtol=1e-5, atol=1e-6)
    for (*_, ours), (*_, theirs) in zip(whole.reports, parts.reports, strict=True):
        assert ours.scalars == pytest.approx(theirs.scalars, rel=1e-5)
        assert ours.metrics == pytest.approx(theirs.metrics)


def test_a_part_may_be_empty_and_has_batch_moments_of_its_own(tmp_path: Path) -> None:
    """Two videos in three parts: the moving moments follow those of the two parts with a video."""
    run = Run(tmp_path, accumulate_steps=3, batch_size=2)
    run.train(1)
    assert float(run.state.model.normalise.num_updates) == 2.0
    assert all(np.all(np.isfinite(values)) for values in run.weights())


def test_float16_reaches_the_weights_of_float32_within_its_digits(tmp_path: Path) -> None:
    exact = Run(tmp_path / "exact", optimization={"clip_gradient_scope": "global"})
    keras.config.set_dtype_policy("mixed_float16")
    try:
        half = Run(tmp_path / "half", optimization={"clip_gradient_scope": "global"})
        half.train(20)
        resumed = Run(tmp_path / "half", optimization={"clip_gradient_scope": "global"})
    finally:
        keras.config.set_dtype_policy("float32")
    exact.train(20)
    for a, b, c in zip(exact.weights(), half.weights(), resumed.weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0.05, atol=0.02)
        np.testing.assert_array_equal(b, c)
    scalars = half.reports[-1][2].scalars
    assert scalars["loss_scale"] == 2.0**15
    assert scalars["gradient_norm"] == pytest.approx(exact.reports[-1][2].scalars["gradient_norm"], rel=0.05)


def test_gradients_that_overflow_at_every_scale_stop_the_run(tmp_path: Path) -> None:
    """A scale that has fallen to 1 cannot be the reason; before, an update is left out and the run goes on."""
    keras.config.set_dtype_policy("mixed_float16")
    try:
        run = Run(tmp_path, poison_at=5)
    finally:
        keras.config.set_dtype_policy("float32")
    scalars = {"label_loss": 1.0, "reg_loss": 0.0, "gradient_norm": float("inf"), "num_examples": 8.0}
    for scale in (2.0**15, 2.0):
        _check_finite(Measures(scalars | {"loss_scale": scale}, {}, Position()), 1, 2, 0)
    with pytest.raises(UserError, match="Gradient became inf between steps 1 and 2"):
        _check_finite(Measures(scalars | {"loss_scale": 1.0}, {}, Position()), 1, 2, 0)
    with pytest.raises(UserError, match="Loss became nan"):
        run.train(8, log_steps=1)


def test_polynomial_by_hand() -> None:
    """A fifth of 500 examples to climb, then (1 - share) ** 2."""
    seen = tf.Variable(0, dtype=tf.int64)
    config = OptimizationConfig(
        base_learning_rate=0.1,
        learning_rate_schedule="polynomial",
        learning_rate_power=2.0,
        learning_rate_warmup=0.2,
    )
    rate = LearningRate(config, seen, run_examples=500)
    by_hand = {0: 0.0, 50: 0.1 * 0.5 * 0.81, 100: 0.1 * 0.64, 250: 0.1 * 0.25, 500: 0.0, 900: 0.0}
    for examples, expected in by_hand.items():
        seen.assign(examples)
        assert float(rate(tf.constant(0))) == pytest.approx(expected, abs=1e-8)


def test_cosine_with_warmup_by_hand() -> None:
    seen = tf.Variable(0, dtype=tf.int64)
    config = OptimizationConfig(base_learning_rate=0.1, learning_rate_schedule="cosine", learning_rate_warmup=0.5)
    rate = LearningRate(config, seen, run_examples=900)
    # Half of 900 examples to climb. cos(pi / 3) = 1/2 at 300, 0 at 450, -1/2 at 600, -1 at the end and behind it.
    by_hand = {0: 0.0, 300: 0.1 * (300 / 450) * 0.75, 450: 0.1 * 0.5, 600: 0.1 * 0.25, 900: 0.0, 5000: 0.0}
    for examples, expected in by_hand.items():
        seen.assign(examples)
        assert float(rate(tf.constant(0))) == pytest.approx(expected, abs=1e-8)


def test_an_evaluation_that_was_due_and_did_not_come_is_caught_up_on(tmp_path: Path) -> None:
    Run(tmp_path).train(6, export_model_steps=3)  # killed between checkpoint 6 and its evaluation
    evaluated: list[int] = []
    Run(tmp_path).train(8, export_model_steps=3, evaluate=evaluated.append, evaluated_at=3)
    assert evaluated == [6, 8]
    evaluated.clear()
    Run(tmp_path).train(8, export_model_steps=3, evaluate=evaluated.append, evaluated_at=6)
    Run(tmp_path).train(8, export_model_steps=3, evaluate=evaluated.append, evaluated_at=8)
    assert evaluated == [8]


def test_checkpoints_are_evaluated_on_schedule_and_at_the_end(tmp_path: Path) -> None:
    evaluated: list[int] = []
    Run(tmp_path).train(7, export_model_steps=3, evaluate=evaluated.append)
    assert evaluated == [3, 6, 7]


def test_what_one_worker_is_asked_for_all_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path)
    monkeypatch.setattr(run.workers, "any_worker", lambda flags: [True, False])  # another one got a signal
    run.train(20)
    assert require_checkpoint(str(tmp_path)).endswith("ckpt-4")


def test_end_of_data_ends_the_run_with_every_example_seen(tmp_path: Path) -> None:
    """50 videos twice in batches of 8: 100 = 12 * 8 + 4, so 13 steps, the last of 4 videos."""
    run = Run(tmp_path, num_epochs=2)
    assert run.train() == 0
    assert int(run.state.global_step.numpy()) == 13
    assert int(run.state.examples_seen.numpy()) == 2 * NUM_VIDEOS
    assert require_checkpoint(str(tmp_path)).endswith("ckpt-13")
    assert [(step, measures.scalars["num_examples"]) for step, _, measures in run.reports[-2:]] == [(12, 8), (13, 4)]


def test_data_that_end_before_the_first_report_are_reported(tmp_path: Path) -> None:
    """50 videos once in batches of 8 are 7 steps; the reports are 10 steps apart."""
    run, step_by_step = Run(tmp_path / "a", num_epochs=1), Run(tmp_path / "b", num_epochs=1)
    run.train(log_steps=10)
    step_by_step.train(log_steps=1)
    assert run.reports == step_by_step.reports[-1:]
    for a, b in zip(run.weights(), step_by_step.weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_and_stops(tmp_path: Path, number: int) -> None:
    run = Run(tmp_path)
    stopped_by = run.train(100, on_report=lambda step: os.kill(os.getpid(), number) if step == 8 else None)
    assert stopped_by == number
    assert require_checkpoint(str(tmp_path)).endswith("ckpt-8")


def test_nan_names_the_steps_and_keeps_the_sound_checkpoint(tmp_path: Path) -> None:
    run = Run(tmp_path, poison_at=9)
    with pytest.raises(UserError, match=r"Loss became nan between steps 8 and 12\. Checkpoint 8 is sound\."):
        run.train(100, export_model_steps=4)
    assert require_checkpoint(str(tmp_path)).endswith("ckpt-8")


def test_weights_that_stop_being_numbers_at_the_end_of_the_data_are_not_saved(tmp_path: Path) -> None:
    """50 videos once in batches of 8 are 7 steps; that of step 6 is poisoned, and no report is due behind step 4."""
    run = Run(tmp_path, poison_at=5, num_epochs=1)
    with pytest.raises(UserError, match=r"Loss became nan between steps 4 and 7\. Checkpoint 4 is sound\."):
        run.train(export_model_steps=4)
    assert require_checkpoint(str(tmp_path)).endswith("ckpt-4")
