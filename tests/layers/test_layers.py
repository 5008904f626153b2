"""Layers against their definitions, by hand, and at the edges: no frames, no videos, float16."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from yt8m.distribution import build_strategy
from yt8m.errors import UserError
from yt8m.layers.dbof import DeepBagOfFrames
from yt8m.layers.dense import NormalisedDense
from yt8m.layers.dropout import KeyedDropout
from yt8m.layers.frames import dequantise, read_frames, read_vectors, valid_frames
from yt8m.layers.mixture import mixture_logits
from yt8m.layers.normalisation import MaskedBatchNormalization, l2_normalise
from yt8m.layers.pooling import masked_max, masked_mean
from yt8m.layers.recurrent import RecurrentStack, reverse_frames
from yt8m.portability import portable_graphs
from yt8m.schema import DataSpec

from oracles import models as oracles

RNG = np.random.default_rng


class TestFrames:
    def test_bytes_become_the_centres_of_their_bins(self) -> None:
        # 0 -> 4/512 - 2 = -1.9921875; 255 -> 4 - 1.9921875 = 2.0078125; 51 -> 0.8 - 1.9921875 = -1.1921875
        numbers = dequantise(tf.constant([0, 255, 51], tf.uint8))
        np.testing.assert_allclose(numbers, [-1.9921875, 2.0078125, -1.1921875], rtol=1e-6)
        every = dequantise(tf.range(256, dtype=tf.int32).numpy().astype(np.uint8) + tf.zeros(1, tf.uint8))
        np.testing.assert_allclose(every, [oracles.dequantise(q) for q in range(256)], atol=1e-6)

    def test_floats_stay(self) -> None:
        np.testing.assert_array_equal(dequantise(tf.constant([0.5, -3.0])), [0.5, -3.0])

    def test_padding_becomes_zero_and_features_lie_side_by_side(self) -> None:
        batch = {
            "a": tf.constant([[[255], [255]], [[0], [255]]], tf.uint8),
            "b": tf.constant([[[1.0], [2.0]], [[3.0], [np.nan]]]),
            "num_frames": tf.constant([7, 1]),
        }
        frames, valid = read_frames(batch, DataSpec(("b", "a"), (1, 1), 2, "frame"))
        expected = [[[1.0, 2.0078125], [2.0, 2.0078125]], [[3.0, -1.9921875], [0.0, 0.0]]]
        np.testing.assert_allclose(frames, expected, rtol=1e-6)
        np.testing.assert_array_equal(valid, [[True, True], [True, False]])

    def test_vectors_lie_side_by_side(self) -> None:
        batch = {"a": tf.constant([[1.0, 2.0]]), "b": tf.constant([[3.0]])}
        np.testing.assert_array_equal(read_vectors(batch, DataSpec(("b", "a"), (1, 2), 2)), [[3.0, 1.0, 2.0]])

    def test_weights_are_the_lengths_of_features(self) -> None:
        spec = DataSpec(("a", "b"), (2, 1), 2, feature_weights=(2.0, 0.5))
        batch = {"a": tf.constant([[3.0, 4.0], [0.0, 0.0]]), "b": tf.constant([[-7.0], [1e-3]])}
        np.testing.assert_allclose(read_vectors(batch, spec), [[1.2, 1.6, -0.5], [0.0, 0.0, 0.5]], rtol=1e-6)

        # 255 -> 2.0078125, 0 -> -1.9921875; the padded frame stays 0.
        batch = {"a": tf.constant([[[255, 0], [255, 255]]], tf.uint8), "b": tf.constant([[[51], [0]]], tf.uint8)}
        spec = dataclasses.replace(spec, record_format="frame")
        frames, _ = read_frames(batch | {"num_frames": tf.constant([1])}, spec)
        length = np.hypot(2.0078125, 1.9921875)
        expected = [[[2 * 2.0078125 / length, -2 * 1.9921875 / length, -0.5], [0.0, 0.0, 0.0]]]
        np.testing.assert_allclose(frames, expected, rtol=1e-6)

    def test_a_feature_of_another_width_is_refused(self) -> None:
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
            read_vectors({"a": tf.zeros((1, 3))}, DataSpec(("a",), (2,), 2))


class TestL2:
    def test_by_hand(self) -> None:
        np.testing.assert_allclose(l2_normalise(tf.constant([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0.0, 0.0]])

    @given(arrays.arrays(np.float32, (3, 5), elements=st.floats(-100, 100, width=32)))
    @settings(deadline=None, max_examples=30)
    def test_the_length_is_one_or_as_good_as_zero(self, x: np.ndarray) -> None:
        lengths = np.linalg.norm(l2_normalise(tf.constant(x)).numpy().astype(np.float64), axis=1)
        assert np.all((np.abs(lengths - 1.0) < 1e-5) | (lengths <= 1e-6))

    @pytest.mark.parametrize("dtype", [tf.float32, tf.float16, tf.bfloat16])
    def test_the_gradient_at_zero_is_finite(self, dtype: tf.DType) -> None:
        x = tf.zeros((2, 3), dtype)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(l2_normalise(x) * 1000.0)
        assert y.dtype == dtype
        assert np.all(np.isfinite(tf.cast(tape.gradient(y, x), tf.float32)))

    def test_float16_does_not_overflow(self) -> None:
        # The sum of squares is 512 * 100^2 = 5,120,000; float16 ends at 65,504.
        y = l2_normalise(tf.fill((1, 512), tf.constant(100.0, tf.float16)))
        np.testing.assert_allclose(y, np.full((1, 512), 512**-0.5), rtol=1e-3)


class TestPooling:
    @given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.integers(0, 100))
    @settings(deadline=None, max_examples=25)
    def test_only_true_frames_count(self, lengths: list[int], seed: int) -> None:
        frames = RNG(seed).normal(size=(len(lengths), 4, 3)).astype(np.float32) - 5.0  # all below the zeros of padding
        valid = valid_frames(tf.constant(lengths), 4)
        for row, length in enumerate(lengths):
            true = [frames[row, t].astype(np.float64) for t in range(length)]
            mean = sum(true) / length if length else np.zeros(3)
            largest = [max(frame[f] for frame in true) for f in range(3)] if length else np.zeros(3)
            np.testing.assert_allclose(masked_mean(tf.constant(frames), valid)[row], mean, atol=1e-5)
            np.testing.assert_allclose(masked_max(tf.constant(frames), valid)[row], largest, atol=1e-5)

    @pytest.mark.parametrize("pool", [masked_mean, masked_max])
    def test_no_frames_at_all(self, pool: Callable[..., tf.Tensor]) -> None:
        np.testing.assert_array_equal(pool(tf.zeros((2, 0, 3)), tf.zeros((2, 0), tf.bool)), np.zeros((2, 3)))


class TestDropout:
    KEYS = tf.range(50, dtype=tf.int64)

    def test_the_expectation_stays(self) -> None:
        y = KeyedDropout(0.25, "a")(tf.ones((50, 400)), random_key=self.KEYS, training=True).numpy()
        assert set(np.unique(y)) == {0.0, np.float32(1.0 / 0.75)}
        assert abs(np.mean(y == 0.0) - 0.25) < 0.02  # 20,000 draws: standard deviation 0.003

    def test_draws_belong_to_the_example(self) -> None:
        layer, x = KeyedDropout(0.5, "a"), tf.ones((50, 20))
        y = layer(x, random_key=self.KEYS, training=True).numpy()
        np.testing.assert_array_equal(layer(x[:7], random_key=self.KEYS[40:47], training=True), y[40:47])
        assert not np.array_equal(y[0], y[1])
        assert not np.array_equal(KeyedDropout(0.5, "b")(x, random_key=self.KEYS, training=True), y)

    def test_a_feature_goes_from_all_frames_of_a_video_or_from_none(self) -> None:
        vectors = KeyedDropout(0.5, "a")(tf.ones((50, 8)), random_key=self.KEYS, training=True)
        sequences = KeyedDropout(0.5, "a")(tf.ones((50, 3, 8)), random_key=self.KEYS, training=True)
        np.testing.assert_array_equal(sequences, np.repeat(vectors[:, None, :], 3, axis=1))

    def test_nothing_is_dropped_at_evaluation_or_rate_zero(self) -> None:
        x = tf.ones((2, 3))
        np.testing.assert_array_equal(KeyedDropout(0.5, "a")(x), x)
        np.testing.assert_array_equal(KeyedDropout(0.0, "a")(x, training=True), x)

    def test_training_without_keys_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="random keys"):
            KeyedDropout(0.5, "a")(tf.ones((2, 3)), training=True)
        with pytest.raises(UserError, match=r"^rate=1.0: expected a share in \[0, 1\)"):
            KeyedDropout(1.0, "a")


def batch_normaliser(size: int, **kwargs: Any) -> MaskedBatchNormalization:
    layer = MaskedBatchNormalization(**kwargs)
    layer.build((None, size))
    return layer


class TestBatchNormalization:
    VALID = np.array([[True, True, False], [True, False, False]])

    def test_only_valid_positions_make_the_moments(self) -> None:
        layer, x = batch_normaliser(4), RNG(0).normal(3.0, 2.0, (2, 3, 4)).astype(np.float32)
        layer.gamma.assign([1.0, 2.0, 3.0, 4.0])
        layer.beta.assign([0.0, 0.5, 0.0, -0.5])
        mean, variance = oracles.moments(x.reshape(6, 4), self.VALID.reshape(6))
        expected = oracles.normalise(x, mean, variance) * [1, 2, 3, 4] + [0, 0.5, 0, -0.5]
        y = layer(x, valid=tf.constant(self.VALID), training=True)
        np.testing.assert_allclose(y, expected, atol=1e-5)
        # The first batch is all the layer knows, so evaluation repeats it.
        np.testing.assert_allclose(layer(x, training=False), expected, atol=1e-5)

    def test_moving_moments_by_hand(self) -> None:
        layer = batch_normaliser(1)
        for values in ([1.0, 3.0], [5.0, 5.0]):
            layer(tf.constant(values)[:, None], training=True)
        # rates 10/10 and 10/11: mean 2, then 2 + 10/11 * (5 - 2); variance 1, then 1 + 10/11 * (0 - 1)
        np.testing.assert_allclose(layer.moving_mean, [2.0 + 30.0 / 11.0], rtol=1e-6)
        np.testing.assert_allclose(layer.moving_variance, [1.0 / 11.0], rtol=1e-6)
        layer.num_updates.assign(1e6)
        layer.moving_mean.assign([0.0])
        layer(tf.constant([[7.0]]), training=True)
        np.testing.assert_allclose(layer.moving_mean, [0.007], rtol=1e-3)  # (1 - momentum) * 7

    def test_a_batch_without_valid_positions_changes_nothing(self) -> None:
        layer, x = batch_normaliser(4), tf.ones((2, 3, 4))
        layer(RNG(1).normal(size=(5, 4)).astype(np.float32), training=True)
        before = [weight.numpy() for weight in layer.weights]
        y = layer(x, valid=tf.zeros((2, 3), tf.bool), training=True)
        assert np.all(np.isfinite(y))
        for old, weight in zip(before, layer.weights, strict=True):
            np.testing.assert_array_equal(weight, old)

    def test_a_large_mean_costs_no_digits(self) -> None:
        # One pass in float32, mean of squares minus squared mean, would leave noise of 1e8 * 1e-7 = 10.
        x = 1e4 + RNG(2).normal(size=(1000, 1)).astype(np.float32)
        layer = batch_normaliser(1)
        layer(x, training=True)
        np.testing.assert_allclose(layer.moving_variance, [np.var(x.astype(np.float64))], rtol=1e-2)

    @pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
    def test_moments_are_float32_whatever_the_policy(self, policy: str) -> None:
        layer = batch_normaliser(1, dtype=policy)
        x = tf.cast(tf.fill((5000, 1), 30.0), layer.compute_dtype)  # the sum, 150,000, is beyond float16
        y = layer(x, training=True)
        assert y.dtype == x.dtype
        np.testing.assert_allclose(layer.moving_mean, [30.0])
        np.testing.assert_allclose(tf.cast(y, tf.float32), np.zeros((5000, 1)), atol=0.2)

    def test_gradients_equal_finite_differences(self) -> None:
        # Rows that do not count are normalised too, and their gradient reaches the moments.
        valid, upstream = tf.constant([True, True, False, True]), RNG(6).normal(size=(4, 2)).astype(np.float32)
        layer = batch_normaliser(2, epsilon=0.1)

        def total(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> tf.Tensor:
            layer.gamma.assign(gamma)
            layer.beta.assign(beta)
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(layer(x, valid=valid, training=True) * upstream)
            total.gradients = tape.gradient(loss, [x, layer.gamma.value, layer.beta.value])  # type: ignore[attr-defined]
            return loss

        point = [RNG(7).normal(size=shape).astype(np.float32) for shape in ((4, 2), (2,), (2,))]
        total(*map(tf.constant, point))
        analytic = [gradient.numpy() for gradient in total.gradients]  # type: ignore[attr-defined]
        for which, gradient in enumerate(analytic):
            for index in np.ndindex(gradient.shape):
                moved = [[part.copy() for part in point] for _ in range(2)]
                moved[0][which][index] += 1e-2
                moved[1][which][index] -= 1e-2
                high, low = (float(total(*map(tf.constant, parts))) for parts in moved)
                assert abs((high - low) / 2e-2 - gradient[index]) < 2e-3

    def test_two_devices_agree_with_one(self) -> None:
        x, valid = RNG(3).normal(2.0, 3.0, (4, 3, 2)).astype(np.float32), RNG(4).random((4, 3)) < 0.6
        target = RNG(5).normal(size=(4, 3, 2)).astype(np.float32)

        def loss_and_gradients(layer: MaskedBatchNormalization, rows: list[tf.Tensor]) -> list[tf.Tensor]:
            inputs, is_valid, wanted = rows
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                y = layer(inputs, valid=is_valid, training=True)
                loss = tf.reduce_sum(tf.square(y - wanted) * tf.cast(is_valid, tf.float32)[:, :, None])
            return [loss, *tape.gradient(loss, [inputs, layer.gamma.value, layer.beta.value])]

        alone = batch_normaliser(2)
        loss, to_x, to_gamma, to_beta = loss_and_gradients(alone, [tf.constant(part) for part in (x, valid, target)])

        strategy = build_strategy(2)
        with strategy.scope():
            shared = batch_normaliser(2)

        def share(context: Any) -> list[tf.Tensor]:
            rows = slice(0, 3) if context.replica_id_in_sync_group == 0 else slice(3, 4)  # unequal shares
            return [tf.constant(part[rows]) for part in (x, valid, target)]

        parts = strategy.experimental_distribute_values_from_function(share)
        results = strategy.run(tf.function(lambda rows: loss_and_gradients(shared, rows)), args=(parts,))
        losses, to_xs, to_gammas, to_betas = (strategy.experimental_local_results(result) for result in results)
        np.testing.assert_allclose(sum(losses), loss, rtol=1e-5)
        np.testing.assert_allclose(np.concatenate(to_xs), to_x, atol=1e-4)
        np.testing.assert_allclose(sum(to_gammas), to_gamma, atol=1e-4)
        np.testing.assert_allclose(sum(to_betas), to_beta, atol=1e-4)
        for mine, theirs in zip(alone.weights, shared.weights, strict=True):
            np.testing.assert_allclose(mine.numpy(), theirs.numpy(), atol=1e-6)


class TestNormalisedDense:
    def test_a_bias_takes_the_place_of_normalisation(self) -> None:
        layer = NormalisedDense(3, add_batch_norm=False)
        x = RNG(0).normal(size=(2, 4, 5)).astype(np.float32)
        y = layer(x)
        np.testing.assert_allclose(y, x @ layer.kernel.numpy() + layer.bias.numpy(), atol=1e-5)

    def test_weights_start_normal_with_the_given_spread(self) -> None:
        keras.utils.set_random_seed(0)
        layer = NormalisedDense(500, kernel_stddev=None, add_batch_norm=False, bias_stddev=0.3)
        layer.build((None, 400))
        assert abs(np.std(layer.kernel) - 0.05) < 0.001  # 1 / sqrt(400)
        assert abs(np.std(layer.bias) - 0.3) < 0.03
        other = NormalisedDense(500, kernel_stddev=0.2)
        other.build((None, 400))
        assert abs(np.std(other.kernel) - 0.2) < 0.004


class TestMixture:
    def logits(self, gates: np.ndarray, experts: np.ndarray) -> np.ndarray:
        return mixture_logits(tf.constant(gates, tf.float32), tf.constant(experts, tf.float32)).numpy()

    def test_by_hand(self) -> None:
        # One expert with sigmoid(0) = 1/2, gates 3 : 1 for it: p = 3/8, logit = log(3/5)
        logit = self.logits(np.array([[[np.log(3.0)], [0.0]]]), np.zeros((1, 1, 1)))
        np.testing.assert_allclose(logit, [[np.log(0.6)]], rtol=1e-6)

    @pytest.mark.parametrize("num_mixtures", [1, 2, 4])
    @pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
    def test_it_is_the_blend_of_probabilities(self, num_mixtures: int, scale: float) -> None:
        generator = RNG(num_mixtures)
        gates = generator.uniform(-scale, scale, (3, num_mixtures + 1, 5)).astype(np.float32)
        experts = generator.uniform(-scale, scale, (3, num_mixtures, 5)).astype(np.float32)
        expected = [
            [oracles.mixture_logit(gates[b, :, c].tolist(), experts[b, :, c].tolist()) for c in range(5)]
            for b in range(3)
        ]
        np.testing.assert_allclose(self.logits(gates, experts), expected, rtol=1e-4, atol=1e-5 + 1e-6 * scale)

    def test_gradients_by_two_other_routes(self) -> None:
        generator = RNG(7)
        gates = tf.constant(generator.normal(size=(2, 3, 4)), tf.float64)
        experts = tf.constant(generator.normal(size=(2, 2, 4)), tf.float64)
        upstream = generator.normal(size=(2, 4))

        def through_probabilities(g: tf.Tensor, e: tf.Tensor) -> tf.Tensor:
            p = tf.reduce_sum(tf.nn.softmax(g, axis=1)[:, :-1] * tf.sigmoid(e), axis=1)
            return tf.math.log(p) - tf.math.log1p(-p)

        def gradients(function: Callable[..., tf.Tensor]) -> list[tf.Tensor]:
            with tf.GradientTape() as tape:
                tape.watch([gates, experts])
                total = tf.reduce_sum(function(gates, experts) * upstream)
            return tape.gradient(total, [gates, experts])

        mine = gradients(mixture_logits)
        for ours, other in zip(mine, gradients(through_probabilities), strict=True):
            np.testing.assert_allclose(ours, other, atol=1e-10)
        numeric = tf.test.compute_gradient(lambda g, e: mixture_logits(g, e) * upstream, [gates, experts])[1]
        for ours, jacobian in zip(mine, numeric, strict=True):
            np.testing.assert_allclose(ours.numpy().ravel(), jacobian.sum(axis=0), atol=1e-6)

    @pytest.mark.parametrize("num_mixtures", [1, 2, 3])
    @pytest.mark.parametrize("scale", [1.0, 16.0, 1024.0])
    @pytest.mark.parametrize("dtype", [tf.float64, tf.float32, tf.bfloat16])
    def test_values_and_gradients_are_those_of_the_formula_in_float64(
        self, dtype: tf.DType, scale: float, num_mixtures: int
    ) -> None:
        generator = RNG(num_mixtures)
        # Of five binary digits, which bfloat16 has too, so that all types begin with the same numbers.
        gates, experts, upstream = (
            np.round(generator.uniform(-16, 16, shape)) / 16 * largest
            for shape, largest in (((5, num_mixtures + 1, 40), scale), ((5, num_mixtures, 40), scale), ((5, 40), 1.0))
        )

        def plain(g: tf.Tensor, e: tf.Tensor) -> tf.Tensor:
            p = g[:, :-1] + tf.math.log_sigmoid(e)
            q = tf.concat([g[:, :-1] + tf.math.log_sigmoid(-e), g[:, -1:]], axis=1)
            return tf.reduce_logsumexp(p, axis=1) - tf.reduce_logsumexp(q, axis=1)

        def with_gradients(
            function: Callable[..., tf.Tensor], dtype: tf.DType
        ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            g, e, u = (tf.cast(x, dtype) for x in (gates, experts, upstream))
            with tf.GradientTape() as tape:
                tape.watch([g, e])
                logits = function(g, e)
            assert logits.dtype == dtype
            arrays = [logits, *tape.gradient(logits, [g, e], output_gradients=u)]
            return tuple(tf.cast(x, tf.float64).numpy() for x in arrays)

        logits, *gradients = with_gradients(mixture_logits, dtype)
        expected, *formula = with_gradients(plain, tf.float64)
        # The terms are as large as 2 * scale. A rounding error of a term is a relative error of its share, but terms
        # that are far below the largest have no share, and most are, where the scale is large.
        precision = {tf.float64: 2.0**-52, tf.float32: 2.0**-23, tf.bfloat16: 2.0**-7}[dtype]
        np.testing.assert_allclose(logits, expected, rtol=0, atol=4 * scale * precision)
        for ours, theirs in zip(gradients, formula, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=2 * scale**0.5 * precision)

    def test_ties_share_the_gradient(self) -> None:
        gates, experts = tf.zeros((1, 3, 1)), tf.zeros((1, 2, 1))
        with tf.GradientTape() as tape:
            tape.watch([gates, experts])
            logit = mixture_logits(gates, experts)
        to_gates, to_experts = tape.gradient(logit, [gates, experts])
        # p = 1/3. alpha = (1/2, 1/2); 1 - p parts are 1/6, 1/6, 1/3, so beta = (1/4, 1/4, 1/2).
        np.testing.assert_allclose(to_gates[0, :, 0], [0.25, 0.25, -0.5], rtol=1e-6)
        np.testing.assert_allclose(to_experts[0, :, 0], [0.375, 0.375], rtol=1e-6)

    def test_every_expert_needs_a_gate(self) -> None:
        with pytest.raises(ValueError, match="2 experts need a gate each and one more"):
            mixture_logits(tf.zeros((1, 2, 5)), tf.zeros((1, 2, 5)))


class TestRecurrentStack:
    LENGTHS = (4, 0, 2)

    def read(self, cell: str) -> tuple[RecurrentStack, np.ndarray, list[list[tf.Tensor]]]:
        keras.utils.set_random_seed(2)
        layer, frames = RecurrentStack(cell, 3, 2), RNG(0).normal(size=(3, 4, 5)).astype(np.float32)
        layer.build((None, None, 5))
        for weight in layer.weights:
            weight.assign(RNG(weight.shape[-1]).normal(size=weight.shape))
        return layer, frames, layer(tf.constant(frames), valid_frames(tf.constant(self.LENGTHS), 4))[1]

    def test_lstm_step_by_step(self) -> None:
        layer, frames, states = self.read("lstm")
        for row, length in enumerate(self.LENGTHS):
            inputs: Any = frames[row, :length].astype(np.float64)
            for (h, c), recurrent in zip(states, layer.layers, strict=True):
                inputs, cell = oracles.lstm(inputs, *(weight.numpy() for weight in recurrent.weights))
                np.testing.assert_allclose(h[row], inputs[-1] if length else np.zeros(3), atol=1e-5)
                np.testing.assert_allclose(c[row], cell, atol=1e-5)

    def test_gru_step_by_step(self) -> None:
        layer, frames, states = self.read("gru")
        for row, length in enumerate(self.LENGTHS):
            inputs: Any = frames[row, :length].astype(np.float64)
            for (h,), recurrent in zip(states, layer.layers, strict=True):
                inputs = oracles.gru(inputs, *(weight.numpy() for weight in recurrent.weights))
                np.testing.assert_allclose(h[row], inputs[-1] if length else np.zeros(3), atol=1e-5)

    def test_outputs_are_those_of_the_top_layer_after_every_frame(self) -> None:
        layer, frames, _ = self.read("gru")
        outputs, _ = layer(tf.constant(frames), valid_frames(tf.constant(self.LENGTHS), 4))
        for row, length in enumerate(self.LENGTHS):
            expected: Any = frames[row, :length].astype(np.float64)
            for recurrent in layer.layers:
                expected = oracles.gru(expected, *(weight.numpy() for weight in recurrent.weights))
            np.testing.assert_allclose(outputs[row, :length], np.reshape(expected, (length, 3)), atol=1e-5)
            np.testing.assert_array_equal(outputs[row, length:], 0.0)

    @pytest.mark.parametrize("cell", ["lstm", "gru"])
    def test_a_portable_graph_has_the_same_outputs(self, cell: str) -> None:
        layer, frames, states = self.read(cell)
        valid = valid_frames(tf.constant(self.LENGTHS), 4)
        with portable_graphs():
            outputs, portable_states = layer(tf.constant(frames), valid)
        np.testing.assert_allclose(outputs, layer(tf.constant(frames), valid)[0], atol=1e-6)
        for one, other in zip(tf.nest.flatten(states), tf.nest.flatten(portable_states), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)

    def test_dropout_lies_between_layers(self) -> None:
        layer, frames, states = self.read("gru")
        dropping = RecurrentStack("gru", 3, 2, dropout=0.5)
        dropping.build((None, None, 5))
        for weight, value in zip(dropping.weights, layer.weights, strict=True):
            weight.assign(value)
        valid, key = valid_frames(tf.constant(self.LENGTHS), 4), tf.range(3, dtype=tf.int64)
        _, ((lower,), (upper,)) = dropping(frames, valid, key, training=True)
        _, ((other,), _) = dropping(frames, valid)
        np.testing.assert_array_equal(lower, states[0][0])
        np.testing.assert_array_equal(other, lower)
        recurrent, kept = layer.layers[1], dropping.dropouts[0](tf.ones((3, 3)), random_key=key, training=True)
        outputs = layer.layers[0](frames, mask=valid)[0] * kept[:, tf.newaxis]
        inputs = oracles.gru(outputs[0].numpy().astype(np.float64), *(weight.numpy() for weight in recurrent.weights))
        np.testing.assert_allclose(upper[0], inputs[-1], atol=1e-5)
        assert 0 < np.count_nonzero(kept == 0.0) < 9

    def test_forget_gates_start_open(self) -> None:
        layer = RecurrentStack("lstm", 3, 1)
        layer.build((None, None, 5))
        np.testing.assert_array_equal(layer.layers[0].weights[2], [0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0])

    def test_frames_turn_around_and_padding_stays(self) -> None:
        frames = tf.constant([[[1.0], [2.0], [3.0]], [[4.0], [5.0], [0.0]]])
        turned = reverse_frames(frames, valid_frames(tf.constant([3, 2]), 3))
        np.testing.assert_array_equal(turned[:, :, 0], [[3.0, 2.0, 1.0], [5.0, 4.0, 0.0]])


class TestDeepBagOfFrames:
    @pytest.mark.parametrize("pooling_method", ["max", "average"])
    @pytest.mark.parametrize("activation", ["sigmoid", "relu6"])
    @pytest.mark.parametrize("add_batch_norm", [True, False])
    def test_detector_by_detector(self, pooling_method: str, activation: str, add_batch_norm: bool) -> None:
        lengths, frames = (3, 1, 0), RNG(1).normal(1.0, 3.0, (3, 3, 4)).astype(np.float32)
        valid = valid_frames(tf.constant(lengths), 3)
        layer = DeepBagOfFrames(5, pooling_method, activation, add_batch_norm)
        seen = layer(tf.constant(frames), valid, training=True)

        rows, exists = frames.reshape(9, 4).astype(np.float64), valid.numpy().reshape(9)
        if add_batch_norm:
            rows = oracles.normalise(rows, *oracles.moments(rows, exists))
        rows = rows @ layer.projection.kernel.numpy().astype(np.float64)
        if add_batch_norm:
            rows = oracles.normalise(rows, *oracles.moments(rows, exists))
        else:
            rows = rows + layer.projection.bias.numpy()
        function = oracles.sigmoid if activation == "sigmoid" else (lambda x: min(max(x, 0.0), 6.0))
        for video, length in enumerate(lengths):
            for k in range(5):
                detections = [function(rows[3 * video + t, k]) for t in range(length)] or [0.0]
                expected = max(detections) if pooling_method == "max" else sum(detections) / len(detections)
                np.testing.assert_allclose(seen[video, k], expected, atol=1e-4)

    def test_unknown_options_are_named(self) -> None:
        with pytest.raises(UserError, match=r"^pooling_method=mean: .*max, average"):
            DeepBagOfFrames(5, "mean")
        with pytest.raises(UserError, match=r"^activation=relu: there is no such choice. Did you mean relu6\?"):
            DeepBagOfFrames(5, activation="relu")
