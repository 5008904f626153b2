"""Video-level models: their formulas, penalties and starting point."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from yt8m.errors import UserError
from yt8m.models.base import build_classifier
from yt8m.schema import DataSpec

from oracles import models as oracles
from video_level_models import LogisticModel, MoeModel, VideoLevelModel

SPEC = DataSpec(("mean_rgb", "mean_audio"), (3, 2), 4)


def vectors(count: int = 3, size: int = 5) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, size)).astype(np.float32)


def randomise(model: keras.Model) -> None:
    generator = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(generator.normal(size=weight.shape))


def test_logistic_regression() -> None:
    model, x = LogisticModel(4), vectors()
    outputs = model(tf.constant(x))
    randomise(model)
    outputs = model(tf.constant(x))
    kernel, bias = (weight.numpy().astype(np.float64) for weight in model.weights)
    np.testing.assert_allclose(outputs["logits"], x @ kernel + bias, atol=1e-5)
    np.testing.assert_allclose(outputs["predictions"], np.vectorize(oracles.sigmoid)(x @ kernel + bias), atol=1e-6)


@pytest.mark.parametrize("num_mixtures", [1, 3])
def test_mixture_of_experts_class_by_class(num_mixtures: int) -> None:
    model, x = MoeModel(4, num_mixtures=num_mixtures), vectors()
    model.build((None, 5))
    randomise(model)
    logits = model(tf.constant(x))["logits"]
    gates = (x @ model.gates.kernel.numpy()).reshape(3, num_mixtures + 1, 4).astype(float)
    experts = (x @ model.experts.kernel.numpy() + model.experts.bias.numpy()).reshape(3, num_mixtures, 4).astype(float)
    for video in range(3):
        for label in range(4):
            expected = oracles.mixture_logit(gates[video, :, label].tolist(), experts[video, :, label].tolist())
            np.testing.assert_allclose(logits[video, label], expected, rtol=1e-4, atol=1e-5)


def test_gates_have_no_bias() -> None:
    model = MoeModel(4)
    model.build((None, 5))
    # (M + 1) C x 5 gates, M C x 5 experts, M C biases with M = 2, C = 4: 60 + 40 + 8
    assert model.count_params() == 108


def test_the_penalty_is_half_lambda_times_squares() -> None:
    # Weights of 2: 20 of them in W, 60 and 40 in gates and experts; 4 / 2 * lambda each. Biases are free.
    for model, count in ((LogisticModel(4, l2_penalty=0.1), 20), (MoeModel(4, l2_penalty=0.1), 100)):
        model.build((None, 5))
        for weight in model.weights:
            weight.assign(tf.fill(weight.shape, 2.0))
        np.testing.assert_allclose(sum(model.losses), 0.1 * 2.0 * count, rtol=1e-6)


@pytest.mark.parametrize("name", ["LogisticModel", "MoeModel"])
def test_the_zero_vector_starts_at_the_prior(name: str) -> None:
    prior = np.array([0.5, 1e-3, 0.0, 1.0])
    model = build_classifier(name, 4)
    model.build((None, 5))
    model.start_at_prior(prior)
    predictions = model(tf.zeros((1, 5)))["predictions"][0].numpy()
    highest = 1.0 if name == "LogisticModel" else 2.0 / 3.0  # of three equal gates one is the dummy's
    np.testing.assert_allclose(predictions, np.minimum(prior, highest), rtol=1e-4, atol=2e-7)
    assert np.all(np.isfinite(model.weights[-1]))


def test_features_lie_side_by_side_at_unit_length() -> None:
    model = VideoLevelModel(SPEC, LogisticModel(4))
    model.build()
    randomise(model)
    batch = {"mean_audio": tf.constant([[0.0, 4.0]]), "mean_rgb": tf.constant([[3.0, 0.0, 0.0]])}
    expected = model.classifier(tf.constant([[0.6, 0.0, 0.0, 0.0, 0.8]]))["logits"]
    np.testing.assert_allclose(model(batch)["logits"], expected, atol=1e-5)


def test_unknown_classifiers_and_hyper_parameters_are_named() -> None:
    with pytest.raises(UserError, match=r"Did you mean MoeModel\?"):
        build_classifier("MoEModel2", 4)
    with pytest.raises(UserError, match=r"MoeModel has no hyper-parameter 'mixtures'.*It has: num_mixtures, l2_"):
        build_classifier("MoeModel", 4, {"mixtures": 3})
    with pytest.raises(UserError, match="num_mixtures=0"):
        build_classifier("MoeModel", 4, {"num_mixtures": 0})


@pytest.mark.parametrize("name", ["LogisticModel", "MoeModel"])
def test_dropout_is_of_the_example_and_only_in_training(name: str) -> None:
    model, x, keys = (
        build_classifier(name, 4, {"dropout": 0.5}),
        tf.constant(vectors()),
        tf.constant([5, 6, 7], tf.int64),
    )
    model.build((None, 5))
    randomise(model)
    plain = model(x)["logits"]
    drawn = model(x, random_key=keys, training=True)["logits"]
    assert not np.allclose(drawn, plain)
    np.testing.assert_array_equal(model(x, random_key=keys)["logits"], plain)
    np.testing.assert_allclose(model(x[1:], random_key=keys[1:], training=True)["logits"], drawn[1:], atol=1e-6)
    assert not np.allclose(model(x, random_key=keys + 1, training=True)["logits"], drawn)


@pytest.mark.parametrize("name", ["LogisticModel", "MoeModel"])
def test_mixed_precision_leaves_scores_their_digits(name: str) -> None:
    batch = {"mean_rgb": tf.constant(vectors(3, 3)), "mean_audio": tf.constant(vectors(3, 2))}
    logits = []
    for policy in ("float32", "mixed_bfloat16"):
        keras.config.set_dtype_policy(policy)
        model = VideoLevelModel(SPEC, build_classifier(name, 4))
        keras.config.set_dtype_policy("float32")
        model.build()
        randomise(model)
        logits.append(model(batch)["logits"].numpy())
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-6)
