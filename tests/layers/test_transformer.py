"""Transformers and Kmiec's models: slow definitions, what must not matter, and the commands of the original."""

import shlex
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from attention_steps import (
    check_frames,
    encoder_block,
    feedforward,
    keras_dense,
    layer_norm,
    normalised_attention,
    normalised_block,
    relu,
    without_padding,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_checks import (
    LENGTHS,
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

from yt8m.cli.run_flags import config_from_flags, define_program_flags, define_run_flags
from yt8m.errors import UserError
from yt8m.layers.attention import SelfAttention
from yt8m.layers.attention_vlad import AttentionEnhancedVLAD, AttentionSimilarityVLAD
from yt8m.layers.dropout import KeyedDropout
from yt8m.layers.pooling import first_frame
from yt8m.layers.transformer import (
    EncoderBlock,
    FeedForward,
    NormalisedBlock,
    PositionEmbedding,
    TransformerEncoder,
    gelu,
    sinusoids,
)
from yt8m.models.attention import TransformerModel
from yt8m.models.attention_vlad import AttentionEnhancedVLADModel, AttentionSimilarityVLADModel
from yt8m.registry import FRAME_LEVEL_MODELS
from yt8m.sampling import FrameSampling
from yt8m.schema import DataSpec

from oracles import attention as oracles
from oracles import vlad as oracles_vlad

VIDEOS = range(len(LENGTHS))
ENCODER: dict[str, Any] = {
    "num_layers": 2,
    "model_size": 0,
    "head_size": 2,
    "feedforward_size": 5,
    "activation": "gelu",
    "positions": "none",
    "num_positions": 3,
    "pooling": "mean",
    "dropout": 0.0,
    "salt": "encoder",
}


class TestBlocks:
    @pytest.mark.parametrize("activation", ["gelu", "relu"])
    @pytest.mark.parametrize("hidden_size", [0, 5])
    def test_feedforward(self, activation: str, hidden_size: int) -> None:
        layer = FeedForward(hidden_size, activation)
        activate = oracles.gelu if activation == "gelu" else relu
        check_frames(without_padding(layer), lambda x: feedforward(layer, x, activate))
        assert layer.widening.units == (hidden_size or 4 * SIZE)

    def test_gelu_by_hand_and_its_gradient(self) -> None:
        # A normal number is below 1 with probability 0.8413447, below -2 with 0.0227501.
        x = tf.constant([1.0, -2.0, 0.0])
        close(gelu(x), [0.8413447, -0.0455003, 0.0], 1e-6)
        by_formula, by_differences = tf.test.compute_gradient(gelu, [x], delta=1e-2)
        close(by_formula[0], by_differences[0], 1e-3)

    def test_encoder_block(self) -> None:
        block = EncoderBlock(2, 5, "gelu", 0.1, "block")
        check_frames(block, lambda x: encoder_block(block, x, oracles.gelu), 1e-3)

    def test_normalised_block(self) -> None:
        block = NormalisedBlock(2, 0.1, "block")
        check_frames(block, lambda x: normalised_block(block, x), 1e-3)


class TestPositions:
    @pytest.mark.parametrize("size", [1, 4, 5])
    def test_sinusoids(self, size: int) -> None:
        close(sinusoids(300, size)[299], oracles.sinusoid(299, size), 1e-4)
        close(sinusoids(3, size), [oracles.sinusoid(t, size) for t in range(3)])

    def test_sinusoids_by_hand(self) -> None:
        # n = 2: rates 1 and 10000^(-1/2) = 1/100
        close(sinusoids(3, 4)[2], [np.sin(2.0), np.sin(0.02), np.cos(2.0), np.cos(0.02)])

    def test_learnt_positions_and_those_behind(self) -> None:
        layer = PositionEmbedding("learnt", 3)
        frames = padded()[0]
        layer.build(frames.shape)
        randomise(layer)
        table = layer.embedding.numpy()
        close(layer(frames), frames + table[[0, 1, 2, 2]])

    def test_none(self) -> None:
        layer = PositionEmbedding("none", 3)
        layer.build(padded()[0].shape)
        assert not layer.weights
        np.testing.assert_array_equal(layer(padded()[0]), padded()[0])


class TestEncoder:
    @pytest.mark.parametrize("pooling", ["mean", "first", "attention"])
    @pytest.mark.parametrize("positions", ["none", "sinusoidal"])
    @pytest.mark.parametrize("model_size", [0, 4])
    def test_frame_by_frame(self, pooling: str, positions: str, model_size: int) -> None:
        layer: Any = TransformerEncoder(
            **ENCODER | {"pooling": pooling, "positions": positions, "model_size": model_size}
        )
        y = pooled(layer)
        size = model_size or SIZE
        for video in VIDEOS:
            x = true_frames(video)
            if model_size:
                x = np.array([dense(layer.entrance, row) for row in x]).reshape(-1, 4)
            if positions == "sinusoidal":
                x = np.array([row + oracles.sinusoid(t, size) for t, row in enumerate(x)]).reshape(-1, size)
            for block in layer.blocks:
                x = encoder_block(block, x, oracles.gelu)
            x = layer_norm(layer.norm, x)
            if not len(x):
                expected = np.zeros(size)
            elif pooling == "attention":
                weights = oracles_vlad.softmax(oracles_vlad.affine(layer.scorer.kernel.numpy()[:, 0], x.T))
                expected = sum(weight * row for weight, row in zip(weights, x, strict=True))
            else:
                expected = x[0] if pooling == "first" else sum(x) / len(x)
            close(y[video], expected, 2e-3)

    def test_the_first_frame_is_not_the_last(self) -> None:
        # The published Transformer over frames takes the last for the first.
        frames, valid = padded()
        close(first_frame(frames, valid), tf.where(tf.constant(LENGTHS)[:, tf.newaxis] > 0, frames[:, 0], 0.0))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"num_layers": 0}, "num_layers=0"),
            ({"model_size": -1}, "model_size=-1"),
            ({"feedforward_size": -1}, "feedforward_size=-1"),
            ({"activation": "gleu"}, r"^activation=gleu: .*Did you mean gelu"),
            ({"positions": "learned"}, r"^positions=learned: .*Did you mean learnt"),
            ({"pooling": "max"}, r"^pooling=max: .*mean, first, attention"),
            ({"dropout": 1.0}, r"dropout=1\.0"),
        ],
    )
    def test_what_cannot_be_built_is_named(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=message):
            TransformerEncoder(**ENCODER | changes)


class TestKmiec:
    def test_attention_around_vlad(self) -> None:
        layer = AttentionEnhancedVLAD(3, 2, 0.1, "rgb")
        y = pooled(layer)
        for video in VIDEOS:
            x = normalised_block(layer.frame_encoder, true_frames(video))
            clusters = oracles_vlad.vlad(x, shares_of(layer.vlad.assignment, x), layer.vlad.centres.numpy())
            tokens = normalised_block(layer.cluster_encoder, SIZE**0.5 * clusters) if len(x) else np.zeros((3, SIZE))
            close(y[video], oracles_vlad.unit(tokens.ravel()), 1e-3)

    @pytest.mark.parametrize("similarity", ["bn_relu", "softmax"])
    def test_attention_as_assignment(self, similarity: str) -> None:
        layer = AttentionSimilarityVLAD(3, 2, 0.1, "rgb", similarity)
        y = pooled(layer)
        for video in VIDEOS:
            x = true_frames(video)
            shares = []
            for row in normalised_attention(layer.attention, normalised_block(layer.encoder, x)):
                hidden = norm(layer.hidden_norm, relu(keras_dense(layer.widening, row)))
                logits = keras_dense(layer.narrowing, hidden)
                if similarity == "softmax":
                    shares.append(oracles_vlad.softmax(norm(layer.similarity_norm, logits)))
                else:
                    shares.append(norm(layer.similarity_norm, relu(logits)))
            clusters = oracles_vlad.vlad(x, np.array(shares).reshape(-1, 3), layer.centres.numpy())
            close(y[video], oracles_vlad.unit(clusters.ravel()), 2e-3)

    def test_videos_without_frames_have_no_say_in_the_moments(self) -> None:
        frames, valid = padded()
        seen = []
        for videos in ([0, 1, 2, 3], [0, 1, 3]):
            keras.utils.set_random_seed(0)
            layer = AttentionEnhancedVLAD(3, 2, 0.0, "rgb")
            layer.build(frames.shape)
            y = layer(tf.gather(frames, videos), tf.gather(valid, videos), training=True)
            seen.append([y[:2], *(weight for weight in layer.weights if not weight.trainable)])
        for all_videos, without_the_empty in zip(*seen, strict=True):
            close(all_videos, without_the_empty)

    def test_unknown_similarities_are_named(self) -> None:
        with pytest.raises(UserError, match=r"^similarity=relu: .*bn_relu, softmax"):
            AttentionSimilarityVLAD(3, 2, 0.1, "rgb", "relu")


LAYERS = [
    lambda: SelfAttention(2, add_batch_norm=True),
    lambda: NormalisedBlock(2, 0.0, "a"),
    lambda: EncoderBlock(2, 5, "relu", 0.0, "a"),
    lambda: AttentionEnhancedVLAD(3, 2, 0.0, "a"),
    lambda: AttentionSimilarityVLAD(3, 2, 0.0, "a"),
]
NAMES = ["SelfAttention", "NormalisedBlock", "EncoderBlock", "AttentionEnhancedVLAD", "AttentionSimilarityVLAD"]
every_layer = pytest.mark.parametrize("make", LAYERS, ids=NAMES)


class TestWhatDoesNotMatter:
    @every_layer
    def test_padding_in_training(self, make: Callable[[], Any]) -> None:
        frames, valid = padded()
        longer = tf.concat([frames, tf.fill((4, 3, SIZE), 50.0)], axis=1)
        seen = []
        for x, exists in ((frames, valid), (longer, tf.pad(valid, [[0, 0], [0, 3]]))):
            layer = make()
            layer.build(x.shape)
            randomise(layer)
            y = layer(x, exists, training=True)
            y = tf.boolean_mask(y[:, :4], valid) if y.shape.rank == 3 else y
            seen.append([y, *(weight for weight in layer.weights if not weight.trainable)])
        for plain, with_padding in zip(*seen, strict=True):
            close(with_padding, plain, 1e-4)

    @every_layer
    @settings(deadline=None, max_examples=10)
    @given(order=st.permutations(range(4)))
    def test_order(self, make: Callable[[], Any], order: list[int]) -> None:
        frames, valid = padded()[0], tf.ones((4, 4), tf.bool)
        layer = make()
        layer.build(frames.shape)
        randomise(layer)
        moved, plain = layer(tf.gather(frames, order, axis=1), valid), layer(frames, valid)
        close(moved, tf.gather(plain, order, axis=1) if plain.shape.rank == 3 else plain, 1e-4)

    @every_layer
    def test_company(self, make: Callable[[], Any]) -> None:
        frames, valid = padded()
        layer = make()
        layer.build(frames.shape)
        randomise(layer)
        together = layer(frames, valid)
        for video, length in enumerate(LENGTHS):
            alone = layer(frames[video : video + 1, :length], valid[video : video + 1, :length])[0]
            close(alone, together[video, :length] if alone.shape.rank == 2 else together[video], 1e-4)


KMIEC: dict[str, Any] = {"cluster_size": 5, "head_size": 2, "hidden_size": 3}


class TestModels:
    def test_transformer_from_bytes_to_logits(self) -> None:
        model = built(
            TransformerModel(SPEC, head_size=2, num_layers=1, separate_encoders=True, classifier="LogisticModel")
        )
        frames, valid = padded()
        kernel, bias = (weight.numpy() for weight in model.classifier.weights)
        assert [encoder.norm.gamma.shape for encoder in model.encoders] == [(4,), (2,)]
        unit = frames / tf.norm(frames, axis=-1, keepdims=True)
        streams = tf.split(model.input_norm(unit, valid=valid), (4, 2), axis=-1)
        parts = [encoder(stream, valid).numpy() for encoder, stream in zip(model.encoders, streams, strict=True)]
        vector = np.concatenate(parts, axis=1)
        logits = model({"rgb": frames[:, :, :4], "audio": frames[:, :, 4:], "num_frames": tf.constant(LENGTHS)})[
            "logits"
        ]
        close(logits, vector @ kernel + bias, 1e-3)
        close(vector[2], np.zeros(6))

    @pytest.mark.parametrize("model", [AttentionEnhancedVLADModel, AttentionSimilarityVLADModel])
    def test_narrow_features_have_a_quarter_of_the_clusters(self, model: Any) -> None:
        spec = DataSpec(("rgb", "audio"), (8, 4), 3, record_format="frame")
        small = model(spec, **KMIEC | {"cluster_size": 8})
        small.build()
        assert small.hidden.kernel.shape == (8 * 8 + 2 * 4, 3)
        audio = model(DataSpec(("audio",), (4,), 3, record_format="frame"), **KMIEC | {"cluster_size": 8})
        audio.build()
        assert audio.hidden.kernel.shape == (8 * 4, 3)

    def test_every_dropout_draws_for_itself(self) -> None:
        models = [
            TransformerModel(SPEC, head_size=2, separate_encoders=True),
            AttentionEnhancedVLADModel(SPEC, **KMIEC),
            AttentionSimilarityVLADModel(SPEC, **KMIEC),
        ]
        for model, expected in zip(models, (2 * 2 * 2, 4, 4), strict=True):
            model.build()
            layers = [layer for layer in model._flatten_layers() if isinstance(layer, KeyedDropout)]
            salts = [layer.salt for layer in layers]
            assert len(set(salts)) == len(salts)
            assert sum(layer.rate == 0.1 for layer in layers) == expected

    @pytest.mark.parametrize("pooling", ["mean", "attention"])
    def test_order_is_seen_by_positions_alone(self, pooling: str) -> None:
        batch = make_batch()
        backwards = batch | {name: tf.reverse_sequence(batch[name], LENGTHS, 1) for name in SPEC.feature_names}
        for positions in ("none", "sinusoidal", "learnt"):
            model = built(TransformerModel(SPEC, head_size=2, num_layers=1, positions=positions, pooling=pooling))
            difference = np.abs(model(batch)["logits"] - model(backwards)["logits"])
            if positions == "none":
                assert np.max(difference) < 1e-3
            else:
                assert np.all(np.max(difference[:2], axis=1) > 1e-3)  # the other videos have one frame, or none

    def test_frames_asked_for(self) -> None:
        def wishes(model: Any, **hparams: Any) -> tuple[Any, Any]:
            chosen = model(SPEC, head_size=2, **hparams)
            return chosen.frame_sampling(training=True), chosen.frame_sampling(training=False)

        assert wishes(TransformerModel) == (None, None)
        assert wishes(TransformerModel, iterations=5)[0] == FrameSampling("random_without_replacement", 5)
        for model in (AttentionEnhancedVLADModel, AttentionSimilarityVLADModel):
            assert wishes(model, cluster_size=2) == (FrameSampling("uniform", 256), None)
        both = wishes(AttentionEnhancedVLADModel, cluster_size=2, iterations=7, evaluation_sampling="uniform")
        assert both == (FrameSampling("uniform", 7), FrameSampling("uniform", 7))


COMMON = (
    '--record_format="frame" --feature_names="rgb,audio" --feature_sizes="1024,128" --train_data_pattern=d/*.tfrecord '
    "--train_dir=run "
)
TRAINING = (
    "--batch_size=80 --base_learning_rate=0.0002 --netvlad_cluster_size=256 --netvlad_hidden_size=512 --iterations=256 "
    "--learning_rate_decay=0.85"
)


@pytest.mark.parametrize(
    ("alias", "model"),
    [("NetVladV1", AttentionEnhancedVLADModel), ("NetVladV2", AttentionSimilarityVLADModel)],
)
def test_the_commands_of_kmiec_run_unchanged(alias: str, model: Any) -> None:
    values = flags.FlagValues()
    define_run_flags(values)
    define_program_flags(values, batch_size=1024)
    values(["train.py", *shlex.split(f"{COMMON}--model={alias} {TRAINING}")])
    run = config_from_flags(values)
    assert FRAME_LEVEL_MODELS[run.model.name] is model
    # What the published code does without being told: uniform frames, a linear hidden layer, a gate, two experts.
    published: dict[str, Any] = {"cluster_size": 256, "hidden_size": 512, "iterations": 256, "head_size": 16}
    published |= {"sampling": "uniform", "relu": False, "gating": True, "classifier": "MoeModel"}
    assert run.model.hparams | published == run.model.hparams
    experts = run.model.hparams["classifier_hparams"]
    assert experts | {"num_mixtures": 2, "l2_penalty": 1e-8, "prob_gating": False} == experts
    assert (run.training.batch_size, run.optimization.learning_rate_decay) == (80, 0.85)
    small = model(SPEC, **run.model.hparams | KMIEC)
    small.build()
    outputs = small(make_batch(), training=True)
    assert outputs["predictions"].shape == (4, 3)
    assert np.all(np.isfinite(outputs["logits"]))
