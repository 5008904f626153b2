"""Self-attention and the normalisation of frames: slow definitions, by hand, gradients three ways."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from attention_steps import attention_by_frames, check_frames, layer_norm, without_padding
from hypothesis import given
from hypothesis import strategies as st
from layer_checks import LENGTHS, RNG, close, padded, randomise

from yt8m.errors import UserError
from yt8m.layers import attention
from yt8m.layers.attention import LogitNormalization, SelfAttention, attend, num_heads
from yt8m.layers.normalisation import LayerNormalization

from oracles import attention as oracles


def heads(seed: int, count: int = 2, shift: float = 0.0) -> tuple[tf.Tensor, ...]:
    """Queries, keys and values of the padded videos, `(4, count, 4, 3)` each."""
    return tuple(tf.constant(RNG(seed + i).normal(shift, size=(4, count, 4, 3)), tf.float32) for i in range(3))


def valid_frames() -> tf.Tensor:
    return padded()[1]


def plain_attention(queries: tf.Tensor, keys: tf.Tensor, values: tf.Tensor, scores: Any = lambda z: z) -> tf.Tensor:
    """What `attend` does, with all weights in memory and TensorFlow's gradients."""
    exists = valid_frames()[:, tf.newaxis, tf.newaxis, :]
    weights = tf.nn.softmax(tf.where(exists, scores(tf.matmul(queries, keys, transpose_b=True)), -1e9))
    return tf.matmul(tf.where(exists, weights, 0.0), values)


class TestAttend:
    @pytest.mark.parametrize("at_a_time", [1, 40, 1 << 22])
    def test_query_by_query(self, at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(attention, "_WEIGHTS_AT_A_TIME", at_a_time)
        queries, keys, values = heads(0)
        y = attend(queries, keys, values, valid_frames()).numpy()
        for video, length in enumerate(LENGTHS):
            for head in range(2):
                q, k, v = (x.numpy()[video, head, :length].astype(np.float64) for x in (queries, keys, values))
                close(y[video, head, :length], oracles.attend(q, k, v))
        np.testing.assert_array_equal(y[2], np.zeros((2, 4, 3)))  # a video without frames

    def test_by_hand(self) -> None:
        # q . k is log 3 and 0: weights 3/4 and 1/4 of 4 and 8 make 5; without the second frame it is 4.
        queries = tf.constant([[[[1.0], [0.0]]], [[[1.0], [0.0]]]])
        keys = tf.constant([[[[np.log(3.0)], [0.0]]]] * 2, tf.float32)
        values = tf.constant([[[[4.0], [8.0]]]] * 2)
        y = attend(queries, keys, values, tf.constant([[True, True], [True, False]]))
        close(y[:, 0, 0, 0], [5.0, 4.0])
        close(y[0, 0, 1], [6.0])

    @pytest.mark.parametrize("at_a_time", [1, 1 << 22])
    @pytest.mark.parametrize("in_graph", [False, True])
    def test_gradients_are_those_of_the_plain_form(
        self, at_a_time: int, in_graph: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(attention, "_WEIGHTS_AT_A_TIME", at_a_time)
        upstream = heads(7)[0] * tf.cast(valid_frames(), tf.float32)[:, tf.newaxis, :, tf.newaxis]

        def gradients(form: Any) -> list[tf.Tensor]:
            inputs = heads(0)
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                loss = tf.reduce_sum(upstream * form(*inputs))
            return tape.gradient(loss, inputs)

        def ours() -> list[tf.Tensor]:
            return gradients(lambda q, k, v: attend(q, k, v, valid_frames()))

        seen = tf.function(ours)() if in_graph else ours()
        for one, other in zip(seen, gradients(plain_attention), strict=True):
            close(one, other)

    def test_gradients_are_those_of_differences(self) -> None:
        inputs = [x[:2, :1] for x in heads(3)]
        by_formula, by_differences = tf.test.compute_gradient(
            lambda q, k, v: attend(q, k, v, valid_frames()[:2]), inputs, delta=1e-2
        )
        for one, other in zip(by_formula, by_differences, strict=True):
            close(one, other, 2e-3)

    def test_padding_neither_says_nor_learns_anything(self) -> None:
        queries, keys, values = heads(0)
        loud = tf.where(valid_frames()[:, tf.newaxis, :, tf.newaxis], 1.0, 1e4)
        inputs = (queries, keys * loud, values * loud)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = attend(*inputs, valid_frames())
            seen = tf.boolean_mask(tf.transpose(y, (0, 2, 1, 3)), valid_frames())
            loss = tf.reduce_sum(tf.square(seen))
        plain = tf.transpose(attend(queries, keys, values, valid_frames()), (0, 2, 1, 3))
        np.testing.assert_array_equal(seen, tf.boolean_mask(plain, valid_frames()))
        for gradient in tape.gradient(loss, inputs):
            assert np.all(np.isfinite(gradient))
            hidden = tf.boolean_mask(tf.transpose(gradient, (0, 2, 1, 3)), ~valid_frames())
            np.testing.assert_array_equal(hidden, np.zeros_like(hidden))

    def test_logits_are_float32_under_float16(self) -> None:
        # 300 * 300 is beyond float16, whose softmax of two infinities would be no number at all.
        x = tf.constant([[[[300.0], [300.0]]]], tf.float16)
        y = attend(x, x, tf.constant([[[[1.0], [3.0]]]], tf.float16), tf.constant([[True, True]]))
        assert y.dtype == tf.float16
        close(y[0, 0], [[2.0], [2.0]])

    def test_few_weights_exist_at_a_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sizes, weigh = [], attention._weights

        def recorded(queries: tf.Tensor, keys: tf.Tensor, exists: tf.Tensor) -> tf.Tensor:
            weights = weigh(queries, keys, exists)
            sizes.append(int(np.prod(weights.shape)))
            return weights

        monkeypatch.setattr(attention, "_weights", recorded)
        monkeypatch.setattr(attention, "_WEIGHTS_AT_A_TIME", 50)
        inputs = heads(0)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            queries, keys, values = inputs
            loss = tf.reduce_sum(attend(queries, keys, values, valid_frames()))
        tape.gradient(loss, inputs)
        # 8 rows of 4 x 4 weights, three at a time: 3, 3 and 2 forward, and as many backward
        assert sizes == [48, 48, 32] * 2

    @pytest.mark.parametrize("shape", [(0, 2, 4, 3), (3, 2, 0, 3)])
    def test_nothing_to_attend_to(self, shape: tuple[int, ...]) -> None:
        x = tf.zeros(shape)
        assert attend(x, x, x, tf.zeros((shape[0], shape[2]), tf.bool)).shape == shape


class TestLogitNormalization:
    def videos(self, queries: tf.Tensor, keys: tf.Tensor, head: int) -> list[tuple[np.ndarray, np.ndarray]]:
        parts = [x.numpy()[:, head].astype(np.float64) for x in (queries, keys)]
        return [(parts[0][video, :length], parts[1][video, :length]) for video, length in enumerate(LENGTHS)]

    # Far from 0 a difference of means of squares would have no digit left: their mean is 90,000, their variance 600.
    @pytest.mark.parametrize("shift", [0.0, 10.0, 100.0])
    def test_variance_over_pairs(self, shift: float) -> None:
        queries, keys, _ = heads(0, shift=shift)
        layer = LogitNormalization()
        layer.build(queries.shape)
        layer(queries, keys, valid_frames(), training=True)
        for head in range(2):
            variance, count = oracles.pair_moments(self.videos(queries, keys, head))
            assert count == 16 + 4 + 0 + 1
            np.testing.assert_allclose(layer.moving_variance[head], variance, rtol=1e-3)

    def test_it_is_all_that_a_softmax_sees_of_batch_normalisation(self) -> None:
        queries, keys, values = heads(0)
        layer = LogitNormalization()
        layer.build(queries.shape)
        layer.gamma.assign([0.5, -2.0])
        seen = attend(layer(queries, keys, valid_frames(), training=True), keys, values, valid_frames())

        def normalised(logits: tf.Tensor) -> tf.Tensor:
            exists = valid_frames()
            pairs = exists[:, tf.newaxis, :] & exists[:, :, tf.newaxis]
            both = [
                tf.nn.moments(tf.boolean_mask(logits[:, head], pairs), axes=0) for head in range(2)
            ]  # mean, variance
            mean, variance = (tf.reshape(tf.stack(part), (1, 2, 1, 1)) for part in zip(*both, strict=True))
            gamma, beta = tf.reshape(layer.gamma.value, (1, 2, 1, 1)), tf.reshape([0.3, -0.7], (1, 2, 1, 1))
            return gamma * (logits - mean) / tf.sqrt(variance + 1e-3) + beta

        close(seen[:2], plain_attention(queries, keys, values, normalised)[:2])

    def test_gradients_go_through_the_variance(self) -> None:
        inputs = [x[:2, :1] for x in heads(3)[:2]]
        layer = LogitNormalization()
        layer.build((None, 1, None, 3))
        by_formula, by_differences = tf.test.compute_gradient(
            lambda q, k: layer(q, k, valid_frames()[:2], training=True), inputs, delta=1e-2
        )
        for one, other in zip(by_formula, by_differences, strict=True):
            close(one, other, 5e-3)

    def test_the_moving_variance_follows(self) -> None:
        queries, keys, _ = heads(0, count=1)
        layer = LogitNormalization()
        layer.build(queries.shape)
        layer(queries, keys, tf.zeros((4, 4), tf.bool), training=True)
        close(layer.moving_variance, [1.0])  # nobody was there
        layer(queries, keys, valid_frames(), training=True)
        first = layer.moving_variance.numpy()
        layer(2.0 * queries, keys, valid_frames(), training=True)
        close(
            layer.moving_variance, first + 10 / 11 * 3.0 * first, 1e-3
        )  # rate 10 / (10 + 1) towards 4 times the first
        close(layer(queries, keys, valid_frames()), queries / np.sqrt(layer.moving_variance + 1e-3), 1e-5)

    def test_a_factor_a_head_whatever_the_place_of_a_key(self) -> None:
        layer = LogitNormalization()
        layer.build((None, 2, 256, 3))
        assert layer.gamma.shape == (2,)  # not (256,), as published: videos of other lengths have to fit


class TestSelfAttention:
    @pytest.mark.parametrize("add_batch_norm", [False, True])
    def test_frame_by_frame(self, add_batch_norm: bool) -> None:
        layer = SelfAttention(2, add_batch_norm)
        check_frames(layer, lambda x: attention_by_frames(layer, x))
        assert layer.num_heads == 3

    def test_weights_as_in_the_paper(self) -> None:
        layer = SelfAttention(16, add_batch_norm=True)
        layer.build((None, None, 128))
        # Queries, keys, values without biases, the output with one; a factor a head, gamma and beta of the blends
        sizes = [int(np.prod(weight.shape)) for weight in layer.trainable_variables]
        assert sorted(sizes) == sorted([3 * 128 * 128, 128 * 128, 128, 8, 128, 128])
        limit = np.sqrt(6 / 256)  # Glorot's, of one square matrix: not of three side by side
        assert 0.99 * limit < np.max(np.abs(layer.projection)) <= limit

    @given(st.integers(1, 200), st.integers(1, 40))
    def test_heads_divide_the_frame(self, width: int, size: int) -> None:
        heads = num_heads(width, size)
        assert width % heads == 0
        assert heads == 1 or width // heads >= size
        assert all(width % more or width // more < size for more in range(heads + 1, width + 1))

    def test_heads_of_the_paper(self) -> None:
        assert [num_heads(width, 16) for width in (1024, 128)] == [64, 8]
        with pytest.raises(UserError, match="head_size=0"):
            num_heads(8, 0)


class TestLayerNormalization:
    def test_frame_by_frame(self) -> None:
        layer = LayerNormalization()
        check_frames(without_padding(layer), lambda x: layer_norm(layer, x))

    def test_by_hand(self) -> None:
        # (1, 2, 6): mean 3, variance (4 + 1 + 9) / 3 = 14 / 3
        layer = LayerNormalization()
        layer.build((None, 3))
        layer.gamma.assign([1.0, 1.0, 2.0])
        layer.beta.assign([0.0, 5.0, 0.0])
        root = (14 / 3) ** 0.5
        close(layer(tf.constant([[1.0, 2.0, 6.0]])), [[-2 / root, 5 - 1 / root, 6 / root]])

    def test_gradients_are_those_of_differences_and_of_the_plain_form(self) -> None:
        layer, x = LayerNormalization(), tf.constant(RNG(1).normal(size=(2, 3, 5)), tf.float32)
        layer.build(x.shape)
        randomise(layer)
        by_formula, by_differences = tf.test.compute_gradient(layer, [x], delta=1e-2)
        close(by_formula[0], by_differences[0], 5e-3)
        upstream, weights = (
            tf.constant(RNG(2).normal(size=(2, 3, 5)), tf.float32),
            [layer.gamma.value, layer.beta.value],
        )
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            mean, variance = tf.nn.moments(x, axes=-1, keepdims=True)
            plain = weights[0] * (x - mean) / tf.sqrt(variance + 1e-6) + weights[1]
            losses = [tf.reduce_sum(upstream * y) for y in (layer(x), plain)]
        for one, other in zip(*(tape.gradient(loss, [x, *weights]) for loss in losses), strict=True):
            close(one, other)

    def test_float16_is_normalised_in_float32(self) -> None:
        layer = LayerNormalization(dtype="mixed_float16")
        layer.build((None, 2))
        y = layer(tf.constant([[1000.0, 3000.0]], tf.float16))  # the squared difference, 1e6, is beyond float16
        assert y.dtype == tf.float16
        close(y, [[-1.0, 1.0]], 1e-3)
