"""Learnable pooling against slow definitions, by hand, and without the defects of the originals."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_checks import (
    LENGTHS,
    RNG,
    SIZE,
    SPEC,
    built,
    close,
    dense,
    make_batch,
    norm,
    padded,
    pooled,
    randomise,
    shares_of,
    true_frames,
)

from yt8m.errors import UserError
from yt8m.layers.assignment import cluster_mass, residual_sums
from yt8m.layers.dbof import GatedBagOfFrames, MeanAndMaxBagOfFrames, SoftBagOfFrames
from yt8m.layers.fisher import NetFV
from yt8m.layers.frames import dequantise
from yt8m.layers.gating import (
    BottleneckGating,
    ContextGating,
    GatedLinearUnit,
    GateLogits,
    SqueezeExcitation,
)
from yt8m.layers.mixture import gated_logits
from yt8m.layers.nextvlad import NeXtVLAD
from yt8m.layers.vlad import GatedVLAD, NetRVLAD, NetVLAD
from yt8m.layers.whitening import ReverseWhitening
from yt8m.losses.branches import branch_cross_entropy_loss
from yt8m.models.bags import DbofModelLF, GatedDbofModelLF, SoftDbofModelLF
from yt8m.models.base import FrameLevelModel, stream_sizes
from yt8m.models.nextvlad import MixNeXtVLADModel, NeXtVLADModel
from yt8m.models.vlad import NetFVModelLF, NetVLADModelLF
from yt8m.sampling import FrameSampling
from yt8m.schema import DataSpec

from losses import cross_entropy_loss
from oracles import models as oracles_models
from oracles import vlad as oracles
from video_level_models import MoeModel


class TestVLAD:
    @pytest.mark.parametrize("add_batch_norm", [False, True])
    def test_residuals_to_centres(self, add_batch_norm: bool) -> None:
        layer = NetVLAD(3, add_batch_norm)
        y = pooled(layer)
        for video in range(4):
            x = true_frames(video)
            clusters = oracles.vlad(x, shares_of(layer.assignment, x), layer.centres.numpy())
            close(y[video], oracles.unit(clusters.ravel()))

    def test_tied_to_the_centres(self) -> None:
        layer = NetVLAD(3, tied=True)
        y = pooled(layer)
        centres, alpha = layer.centres.numpy().astype(np.float64), float(layer.alpha)
        assert [weight.name for weight in layer.weights] == ["centres", "alpha"]
        for video in range(4):
            x = true_frames(video)
            rows = [oracles.softmax(np.array([-alpha * sum((f - c) ** 2) for c in centres])) for f in x]
            close(y[video], oracles.unit(oracles.vlad(x, np.array(rows).reshape(-1, 3), centres).ravel()), 1e-4)

    @pytest.mark.parametrize("kind", [NetRVLAD, GatedVLAD])
    def test_without_centres(self, kind: Callable[..., Any]) -> None:
        layer = kind(3)
        y = pooled(layer)
        gates = oracles.sigmoid(layer.gates.numpy()) if kind is GatedVLAD else None
        for video in range(4):
            x = true_frames(video)
            clusters = oracles.vlad(x, shares_of(layer.assignment, x), np.zeros((3, SIZE)), gates)
            close(y[video], oracles.unit(clusters.ravel()))

    def test_clusters_of_unit_length(self) -> None:
        frames, valid = padded()
        flat, whole = NetVLAD(3), NetVLAD(3, flatten=False)
        for layer in (flat, whole):
            layer.build(frames.shape)
            randomise(layer)
        clusters = whole(frames, valid).numpy()
        assert clusters.shape == (4, 3, SIZE)
        close(np.linalg.norm(clusters[[0, 1, 3]], axis=2), np.ones((3, 3)))
        close(clusters.reshape(4, -1) / 3**0.5, flat(frames, valid))

    def test_by_hand(self) -> None:
        # One cluster takes all: (3, 4) + (1, 0) - 2 (1, 0) = (2, 4), divided by sqrt(20)
        layer = NetVLAD(1)
        frames = tf.constant([[[3.0, 4.0], [1.0, 0.0], [9.0, 9.0]]])
        layer.build(frames.shape)
        layer.centres.assign([[1.0, 0.0]])
        close(layer(frames, tf.constant([[True, True, False]])), [[2 / 20**0.5, 4 / 20**0.5]])

    def test_mass_counts_beyond_bfloat16(self) -> None:
        # In bfloat16 256 + 1 is 256.
        assert cluster_mass(tf.ones((1, 300, 1), tf.bfloat16)).numpy() == 300.0

    def test_residuals_keep_their_digits_where_sums_cancel(self) -> None:
        # 300 frames of 1.5 and a centre of 1.484375, all exact in bfloat16: 300 / 64 = 4.6875, but 450 and 445.3125
        # are 450 and 446 there, with a difference of 4.
        frames, shares = tf.fill((1, 300, 1), 1.5), tf.ones((1, 300, 1))
        residuals = residual_sums(
            tf.cast(shares, tf.bfloat16), tf.cast(frames, tf.bfloat16), tf.constant([[1.484375]], tf.bfloat16)
        )
        assert residuals.dtype == tf.bfloat16
        assert float(residuals[0, 0, 0]) == 4.6875

    def test_clusters_are_needed(self) -> None:
        with pytest.raises(UserError, match="cluster_size=0"):
            NetVLAD(0)


class TestFisher:
    @pytest.mark.parametrize("couple_weights", [False, True])
    @pytest.mark.parametrize("mixture_gradient", [False, True])
    def test_orders(self, couple_weights: bool, mixture_gradient: bool) -> None:
        layer = NetFV(3, couple_weights=couple_weights, coupling_factor=0.1, mixture_gradient=mixture_gradient)
        y = pooled(layer)
        spreads = layer.spread_roots.numpy().astype(np.float64) ** 2 + 1e-6
        centres = 0.1 * layer.assignment.projection.kernel.numpy().T if couple_weights else layer.own_centres.numpy()
        for video in range(4):
            x = true_frames(video)
            shares = shares_of(layer.assignment, x)
            expected = oracles.fisher(x, shares, centres, spreads)
            if mixture_gradient:
                extra = oracles.mixture_gradient(shares, oracles.softmax(layer.mixture.numpy()))
                expected = np.concatenate([expected, extra])
            close(y[video], expected, 1e-4)

    def test_by_hand(self) -> None:
        # Frames (1, 0), (3, 2), centre (1, 1), spread (1, 2):
        # first ((0 + 2) / 1, (-1 + 1) / 2) = (2, 0), second ((0 + 4) / 1 - 2, (1 + 1) / 4 - 2) = (2, -1.5), length 2.5
        layer = NetFV(1)
        frames = tf.constant([[[1.0, 0.0], [3.0, 2.0]]])
        layer.build(frames.shape)
        layer.own_centres.assign([[1.0, 1.0]])
        layer.spread_roots.assign([[1.0, 2.0**0.5]])
        close(layer(frames, tf.constant([[True, True]])), [[1.0, 0.0, 0.8, -0.6]])


class TestBags:
    @pytest.mark.parametrize("max_pool", [False, True])
    def test_soft_bag(self, max_pool: bool) -> None:
        layer = SoftBagOfFrames(5, max_pool)
        y = pooled(layer)
        for video in range(4):
            shares = shares_of(layer.assignment, true_frames(video))
            largest = [max(shares[:, k]) for k in range(5)] if len(shares) else np.zeros(5)
            parts = [oracles.unit(shares.sum(axis=0)), oracles.unit(np.array(largest))]
            close(y[video], np.concatenate(parts[: 1 + max_pool]))

    def test_gated_bag(self) -> None:
        layer = GatedBagOfFrames(5)
        y = pooled(layer)
        for video in range(4):
            shares = shares_of(layer.assignment, true_frames(video))
            largest = np.array([max(shares[:, k]) for k in range(5)] if len(shares) else np.zeros(5))
            narrow = oracles.affine(oracles.unit(largest), layer.gate.narrowing.numpy())
            assert narrow.shape == (SIZE,)
            gate = oracles.sigmoid(dense(layer.gate.widening, narrow))
            close(y[video], oracles.unit(gate * shares.sum(axis=0)))

    @pytest.mark.parametrize("activation", ["relu6", "glu"])
    def test_mean_and_max(self, activation: str) -> None:
        layer = MeanAndMaxBagOfFrames(5, activation)
        y = pooled(layer)
        for video in range(4):
            rows = [dense(layer.projection, x) for x in true_frames(video)]
            if activation == "glu":
                seen = [row[:5] * oracles.sigmoid(row[5:]) for row in rows]
            else:
                seen = [np.clip(row, 0.0, 6.0) for row in rows]
            both = [np.mean(seen, axis=0), np.max(seen, axis=0)] if seen else [np.zeros(5), np.zeros(5)]
            close(y[video], np.concatenate([oracles.unit(part) for part in both]))

    def test_unknown_activations_are_named(self) -> None:
        with pytest.raises(UserError, match=r"^activation=tanh: .*Known: .*glu"):
            MeanAndMaxBagOfFrames(5, "tanh")


class TestNeXtVLAD:
    def test_group_by_group(self) -> None:
        layer = NeXtVLAD(3, groups=4, expansion=2)
        y = pooled(layer)
        for video in range(4):
            x = true_frames(video)
            wide = np.array([oracles.affine(f, layer.widening.kernel.numpy()) + layer.widening.bias for f in x])
            wide = wide.reshape(-1, 12)
            attention = [oracles.sigmoid(w @ layer.attention.kernel.numpy() + layer.attention.bias) for w in wide]
            logits = [dense(layer.assignment, w).reshape(4, 3) for w in wide]
            shares = np.array([[oracles.softmax(row) for row in frame] for frame in logits])
            clusters = oracles.nextvlad(
                x, np.array(attention), shares, wide.reshape(-1, 4, 3), layer.centres.numpy().astype(np.float64)
            )
            close(y[video], norm(layer.descriptor_norm, clusters), 1e-4)

    def test_groups_must_divide(self) -> None:
        with pytest.raises(
            UserError, match=r"^groups=5: expected a divisor of 12, the width of 6 features widened 2 times"
        ):
            NeXtVLAD(3, groups=5).build((None, None, SIZE))
        with pytest.raises(UserError, match=r"^groups=0: expected at least 1"):
            NeXtVLAD(3, groups=0)


class TestGates:
    X = RNG(3).normal(size=(4, 5)).astype(np.float32)

    def gated(self, layer: Any) -> np.ndarray:
        layer.build((None, 5))
        return randomise(layer)(tf.constant(self.X)).numpy()

    @pytest.mark.parametrize("add_batch_norm", [False, True])
    @pytest.mark.parametrize("remove_diagonal", [False, True])
    @pytest.mark.parametrize("kind", [ContextGating, GatedLinearUnit])
    def test_context_gating_and_glu(
        self, kind: Callable[..., Any], remove_diagonal: bool, add_batch_norm: bool
    ) -> None:
        layer = kind(add_batch_norm, remove_diagonal)
        y = self.gated(layer)
        for video, x in enumerate(self.X):
            z = oracles.gate_logits(x, layer.gate.kernel.numpy(), remove_diagonal)
            z = norm(layer.gate.batch_norm, z) if add_batch_norm else z + layer.gate.bias.numpy()
            passed = dense(layer.linear, x) if kind is GatedLinearUnit else x
            close(y[video], passed * oracles.sigmoid(z))

    def test_bottleneck(self) -> None:
        layer = BottleneckGating(ratio=2)
        y = self.gated(layer)
        assert layer.gate.narrowing.shape == (5, 2)
        for video, x in enumerate(self.X):
            z = dense(layer.gate.widening, oracles.affine(x, layer.gate.narrowing.numpy()))
            close(y[video], x * oracles.sigmoid(z))

    def test_squeeze_and_excitation(self) -> None:
        layer = SqueezeExcitation(ratio=2)
        y = self.gated(layer)
        for video, x in enumerate(self.X):
            hidden = np.maximum(dense(layer.squeeze, x), 0.0)
            close(y[video], x * oracles.sigmoid(oracles.affine(hidden, layer.excitation.numpy())))

    def test_without_a_diagonal_a_feature_has_no_say(self) -> None:
        layer = GateLogits(5, add_batch_norm=False, remove_diagonal=True)
        layer.build((None, 5))
        x = tf.Variable(self.X)
        with tf.GradientTape() as tape:
            z = layer(x)[0, 2]
        gradient = tape.gradient(z, x).numpy()[0]
        close(gradient[2], 0.0)
        assert np.all(gradient[[0, 1, 3, 4]] != 0.0)


class TestReverseWhitening:
    def test_known_components_and_those_between(self) -> None:
        layer = ReverseWhitening(DataSpec(("rgb", "audio"), (1024, 128), 2, "frame"))
        layer.build(None)
        scale = layer.scale.numpy()
        close(scale[[0, 1, 100, 1023]], [3.839 + 1e-4, 2.888 + 1e-4, 0.657 + 1e-4, 0.124 + 1e-4])
        # Component 4 lies log(4/3) / log(6/3) = 0.41504 of the way from 3 to 6: 2.652 (1.866 / 2.652)^0.41504 = 2.2920
        close(scale[3], 2.2920 + 1e-4, 1e-4)
        assert np.all(np.diff(scale[:1024]) < 0.0)
        np.testing.assert_array_equal(scale[1024:], np.ones(128))
        # The published sum of the eigenvalues; a power law between twelve of them gets within 3 %.
        np.testing.assert_allclose(np.sum(scale[:1024] ** 2), 218.4, rtol=0.03)

    def test_padding_and_shift(self) -> None:
        layer = ReverseWhitening(DataSpec(("rgb", "audio"), (1024, 2), 2, "frame"))
        x = dequantise(tf.fill((1, 2, 1026), tf.constant(127, tf.uint8)))  # 127 * 4/255 - 2 + 4/512
        y = layer(x, tf.constant([[True, False]])).numpy()
        close(y[0, 0, 0], (127 * 4 / 255 - 2) * (3.839 + 1e-4))
        close(y[0, 0, 1024:], np.full(2, 127 * 4 / 255 - 2))
        np.testing.assert_array_equal(y[0, 1], np.zeros(1026))

    def test_features_that_were_not_whitened_keep_their_scale(self) -> None:
        layer, x = ReverseWhitening(SPEC), padded()[0]
        np.testing.assert_array_equal(layer(x, tf.ones((4, 4), tf.bool)), x - 4 / 512)


class TestGatedProbabilities:
    @given(st.floats(-80, 80), st.floats(-80, 80))
    @settings(deadline=None, max_examples=50)
    def test_the_logit_of_a_product(self, logit: float, gate: float) -> None:
        seen = gated_logits(tf.constant([[logit]], tf.float32), tf.constant([[gate]], tf.float32))[0, 0]
        expected = oracles.product_logit(float(np.float32(logit)), float(np.float32(gate)))
        np.testing.assert_allclose(seen, expected, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("look_at", ["prob", "input"])
    @pytest.mark.parametrize("remove_diagonal", [False, True])
    def test_mixture_with_gated_probabilities(self, look_at: str, remove_diagonal: bool) -> None:
        if look_at == "input" and remove_diagonal:
            with pytest.raises(UserError, match="have no diagonal"):
                MoeModel(3, prob_gating=True, prob_gating_input="input", prob_gating_remove_diag=True)
            return
        hparams: dict[str, Any] = {
            "prob_gating": True,
            "prob_gating_input": look_at,
            "prob_gating_remove_diag": remove_diagonal,
        }
        model: Any = MoeModel(3, low_rank_gates=2, **hparams)
        model.build((None, 5))
        x = TestGates.X
        logits = randomise(model)(tf.constant(x))["logits"]
        for video, row in enumerate(x):
            narrow = oracles.affine(row, model.narrow_gates.kernel.numpy())
            gates = oracles.affine(narrow, model.gates.kernel.numpy()).reshape(3, 3)
            experts = oracles.affine(row, model.experts.kernel.numpy()) + model.experts.bias.numpy()
            plain = [
                oracles_models.mixture_logit(gates[:, c].tolist(), experts.reshape(2, 3)[:, c].tolist())
                for c in range(3)
            ]
            seen = row if look_at == "input" else oracles.sigmoid(np.array(plain))
            z = norm(
                model.prob_gate.batch_norm,
                oracles.gate_logits(seen, model.prob_gate.kernel.numpy(), remove_diagonal),
            )
            close(logits[video], [oracles.product_logit(plain[c], z[c]) for c in range(3)], 1e-4)

    def test_weights_of_low_rank_and_of_the_gate(self) -> None:
        model: Any = MoeModel(4, low_rank_gates=2, prob_gating=True, l2_penalty=0.1)
        model.build((None, 5))
        # A 5 x 2, B 2 x 12, experts 5 x 8 + 8, gate 4 x 4 with 4 gammas and 4 betas
        assert sum(int(np.prod(w.shape)) for w in model.trainable_variables) == 10 + 24 + 48 + 16 + 8
        for weight in model.trainable_variables:
            weight.assign(tf.fill(weight.shape, 2.0))
        np.testing.assert_allclose(sum(model.losses), 0.1 * 2.0 * (10 + 24 + 40), rtol=1e-6)

    def test_the_zero_vector_starts_at_the_prior(self) -> None:
        prior = np.array([0.3, 1e-2, 1e-3, 0.0])
        model: Any = MoeModel(4, prob_gating=True)
        model.build((None, 5))
        model.prob_gate.kernel.assign(np.zeros((4, 4)))
        model.start_at_prior(prior)
        np.testing.assert_allclose(model(tf.zeros((1, 5)))["predictions"][0], prior, rtol=1e-3, atol=2e-7)

    @pytest.mark.parametrize(
        ("hparams", "message"),
        [
            ({"low_rank_gates": 0}, "^low_rank_gates=0"),
            ({"prob_gating_input": "x"}, "^prob_gating_input=x: .*prob, input"),
        ],
    )
    def test_what_cannot_be_built_is_named(self, hparams: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=message):
            MoeModel(3, **hparams)


class TestLateFusion:
    @pytest.mark.parametrize("relu", [False, True])
    @pytest.mark.parametrize("seen", ["unit", "raw", "unwhitened"])
    def test_from_bytes_to_logits(self, relu: bool, seen: str) -> None:
        hparams: dict[str, Any] = {"relu": relu, "gating": True, "classifier": "LogisticModel"}
        hparams |= {"unit_frames": seen == "unit", "reverse_whitening": seen == "unwhitened"}
        model = built(NetVLADModelLF(SPEC, cluster_size=5, hidden_size=3, **hparams))
        batch = make_batch()
        logits = model(batch)["logits"]
        assert [pool.cluster_size for pool in model.pools] == [5, 2]
        kernel, bias = (weight.numpy() for weight in model.classifier.weights)
        for video, length in enumerate(LENGTHS):
            stored = [batch[name][video].numpy() for name in SPEC.feature_names]
            if seen == "unit":
                x = np.array(oracles_models.unit_frames(stored, length)).reshape(-1, 6)
            else:
                x = np.concatenate([np.vectorize(oracles_models.dequantise)(part) for part in stored], axis=1)[:length]
            if seen == "unwhitened":
                x = (x - 4 / 512) * model.reverse_whitening.scale.numpy()
            x = norm(model.input_norm, x)
            parts = []
            for pool, stream in zip(model.pools, (x[:, :4], x[:, 4:]), strict=True):
                clusters = oracles.vlad(stream, shares_of(pool.assignment, stream), pool.centres.numpy())
                parts.append(oracles.unit(clusters.ravel()))
            hidden = dense(model.hidden, np.concatenate(parts))
            assert (model.hidden.batch_norm is not None) == relu
            hidden = np.clip(hidden, 0.0, 6.0) if relu else hidden
            z = norm(model.gate.gate.batch_norm, oracles.affine(hidden, model.gate.gate.kernel.numpy()))
            close(logits[video], (hidden * oracles.sigmoid(z)) @ kernel + bias, 2e-4)

    @pytest.mark.parametrize(
        ("model", "width"),
        [
            (NetVLADModelLF(SPEC, cluster_size=16), 16 * 4 + 8 * 2),
            (NetVLADModelLF(SPEC, cluster_size=16, dimred=7), 7),
            (NetFVModelLF(SPEC, cluster_size=16, mixture_gradient=True), 2 * (16 * 4 + 8 * 2) + 16 + 8),
            (SoftDbofModelLF(SPEC, cluster_size=16, max_pool=True), 2 * (16 + 2)),
            (GatedDbofModelLF(SPEC, cluster_size=16, max_pool=True), 16 + 2 * 2),
            (DbofModelLF(SPEC, cluster_size=16), 2 * (16 + 2)),
        ],
        ids=lambda value: value.__class__.__name__ if isinstance(value, FrameLevelModel) else str(value),
    )
    def test_narrow_features_have_fewer_clusters(self, model: Any, width: int) -> None:
        model.build()
        assert model.hidden.kernel.shape[0] == width

    def test_any_number_of_features(self) -> None:
        assert stream_sizes(256, 2, DataSpec(("a",), (128,), 2)) == [256]
        assert stream_sizes(256, 2, DataSpec(("a", "b", "c"), (128, 1024, 128), 2)) == [128, 256, 128]
        assert stream_sizes(256, 2, DataSpec(("a", "b"), (8, 8), 2)) == [256, 256]
        assert stream_sizes(1, 8, SPEC) == [1, 1]
        model = NetVLADModelLF(DataSpec(("audio",), (4,), 3, "frame"), cluster_size=5)
        model.build()
        assert [pool.cluster_size for pool in model.pools] == [5]

    def test_the_hidden_layer_starts_by_the_clusters(self) -> None:
        keras.utils.set_random_seed(0)
        model = NetVLADModelLF(DataSpec(("rgb",), (64,), 2, "frame"), cluster_size=25, hidden_size=64, relu=False)
        model.build()
        # 25 * 64 * 64 = 102,400 draws of standard deviation 1 / 5, whatever the 1600 inputs; its error is 0.0005.
        close(np.std(model.hidden.kernel.numpy()), 0.2, 0.003)

    @pytest.mark.parametrize("where", ["input_dropout", "dropout"])
    def test_dropout_in_training(self, where: str) -> None:
        batch = make_batch()
        for rate, differ in ((0.0, False), (0.5, True)):
            model = built(NetVLADModelLF(SPEC, cluster_size=4, hidden_size=3, **{where: rate}))  # type: ignore[arg-type]
            keys = (batch["key"], batch["key"] + 10)
            first, second = (model(batch | {"key": key}, training=True)["logits"].numpy() for key in keys)
            assert np.any(first != second) == differ

    def test_frames_asked_for(self) -> None:
        def wish(**hparams: Any) -> FrameSampling | None:
            return NetVLADModelLF(SPEC, cluster_size=2, **hparams).frame_sampling(training=True)

        assert wish() == FrameSampling("random", 30)
        assert wish(iterations=7, sample_random_frames=False) == FrameSampling("random_sequence", 7)
        assert wish(iterations=0) is None
        assert NetVLADModelLF(SPEC, cluster_size=2).frame_sampling(training=False) is None
        assert NeXtVLADModel(SPEC, groups=2).frame_sampling(training=True) is None
        sampled = NeXtVLADModel(SPEC, groups=2, sampling="random_without_replacement", iterations=9)
        assert sampled.frame_sampling(training=True) == FrameSampling("random_without_replacement", 9)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (
                lambda: NetVLADModelLF(SPEC, lightvlad=True, vlagd=True),
                "^lightvlad=True, vlagd=True, tied=False: expected one",
            ),
            (lambda: NetVLADModelLF(SPEC, gating=True, gating_form="se"), "^gating_form=se: "),
            (
                lambda: NetVLADModelLF(SPEC, gating=True, gating_form="bottleneck", gating_remove_diag=True),
                "^gating_remove_diag=True: .*'bottleneck' has no diagonal",
            ),
            (lambda: SoftDbofModelLF(SPEC, cluster_size=0), "cluster_size=0"),
            (
                lambda: NeXtVLADModel(SPEC, sampling="some"),
                r"^sampling=some: there is no such choice\. Known: all, random",
            ),
            (lambda: NeXtVLADModel(SPEC, gating_ratio=0), "gating_ratio=0"),
            (lambda: MixNeXtVLADModel(SPEC, num_branches=0), "num_branches=0"),
            (lambda: MixNeXtVLADModel(SPEC, temperature=0.0), "temperature=0.0"),
        ],
    )
    def test_what_cannot_be_built_is_named(self, make: Any, message: str) -> None:
        with pytest.raises(UserError, match=message):
            make()


MIX: dict[str, Any] = {"num_branches": 2, "cluster_size": 2, "groups": 2, "hidden_size": 4, "dropout": 0.0}


class TestMixture:
    def test_the_blend(self) -> None:
        model = built(MixNeXtVLADModel(SPEC, **MIX))
        outputs = model(make_batch())
        for video, length in enumerate(LENGTHS):
            stored = [make_batch()[name][video].numpy() for name in SPEC.feature_names]
            values = np.concatenate([np.vectorize(oracles_models.dequantise)(part) for part in stored], axis=1)
            scaled = (values[:length] - 4 / 512) * model.reverse_whitening.scale.numpy()
            mean = np.sum(scaled, axis=0) / max(length, 1)
            gate = oracles.affine(norm(model.blend_norm, mean), model.blend_gate.kernel.numpy())
            shares = oracles.softmax(gate + model.blend_gate.bias.numpy())
            branches = outputs["branch_logits"][video].numpy()
            assert branches.shape == (2, 3)
            close(outputs["logits"][video], sum(shares[m] * branches[m] for m in range(2)), 1e-4)

    def test_distillation(self) -> None:
        model = built(MixNeXtVLADModel(SPEC, temperature=2.0, distillation_weight=5.0, **MIX))
        outputs = model(make_batch(), training=True)
        for video in range(4):
            teacher, students = outputs["logits"][video].numpy(), outputs["branch_logits"][video].numpy()
            expected = 5.0 * sum(oracles.divergence(teacher, student, 2.0) for student in students)
            np.testing.assert_allclose(outputs["losses"]["distillation"][video], expected, rtol=1e-3, atol=1e-4)
        assert "losses" not in model(make_batch())
        assert "losses" not in MixNeXtVLADModel(SPEC, distillation_weight=0.0, **MIX)(make_batch(), training=True)

    @pytest.mark.parametrize("fixed_teacher", [False, True])
    def test_a_fixed_teacher_does_not_learn_from_its_students(self, fixed_teacher: bool) -> None:
        model = built(MixNeXtVLADModel(SPEC, fixed_teacher=fixed_teacher, **MIX))
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(make_batch(), training=True)["losses"]["distillation"])
        # Only through the blend does the distillation reach the gate of the blend.
        gradient = tape.gradient(loss, model.blend_gate.kernel)
        assert (gradient is None) == fixed_teacher

    def test_every_branch_pays_for_its_labels(self) -> None:
        outputs = built(MixNeXtVLADModel(SPEC, **MIX))(make_batch())
        labels, weights = tf.constant(RNG(1).random((4, 3)) < 0.5), tf.constant(RNG(2).random((4, 3)), tf.float32)
        alone = [{"logits": outputs["branch_logits"][:, m]} for m in range(2)]
        expected = sum(cross_entropy_loss(labels, each, weights).numpy() for each in [outputs, *alone])
        np.testing.assert_allclose(branch_cross_entropy_loss(labels, outputs, weights), expected, rtol=1e-5)
        plain = {"logits": outputs["logits"]}
        np.testing.assert_array_equal(branch_cross_entropy_loss(labels, plain), cross_entropy_loss(labels, plain))

    def test_branches_start_apart_and_at_the_prior(self) -> None:
        model = MixNeXtVLADModel(SPEC, **MIX)
        model.build()
        assert not np.array_equal(model.trunk_0.hidden.kernel, model.trunk_1.hidden.kernel)
        model.start_at_prior(np.array([0.5, 0.1, 0.01]))
        for classifier in model.classifiers:
            close(tf.sigmoid(classifier.dense.bias), [0.5, 0.1, 0.01])


def weights_without_moments(model: FrameLevelModel) -> int:
    """Counts matrices: no bias, no scale or offset of a normalisation; nothing of the model's size is allocated."""
    with keras.StatelessScope(initialize_variables=False), tf.Graph().as_default():
        model.build()
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_variables if len(weight.shape) == 2)


YT8M = DataSpec(("rgb", "audio"), (1024, 128), 3862, record_format="frame")


@pytest.mark.parametrize(
    ("make", "millions"),
    [
        (lambda: NeXtVLADModel(YT8M, cluster_size=128, groups=8, hidden_size=2048, gating_ratio=8), 88.8),
        (lambda: NeXtVLADModel(YT8M, cluster_size=112, groups=8, hidden_size=2048, gating_ratio=16), 78.57),
        # 3862 classes, not the 4716 of 2017: those would make it 333.2
        (
            lambda: NetVLADModelLF(
                YT8M, cluster_size=256, gating=True, relu=False, classifier_hparams={"prob_gating": True}
            ),
            321.5,
        ),
    ],
    ids=["NeXtVLAD-128", "NeXtVLAD-112", "NetVLAD-256"],
)
def test_published_numbers_of_parameters(make: Callable[[], FrameLevelModel], millions: float) -> None:
    digits = len(str(millions).split(".")[1])
    assert round(weights_without_moments(make()) / 1e6, digits) == millions
