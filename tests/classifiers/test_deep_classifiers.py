"""Chains, deep classifiers and support vector machines, against slow definitions, scikit-learn and published sizes."""

import re
from typing import Any

import keras
import numpy as np
import pytest
import sklearn.svm
import tensorflow as tf
from layer_checks import RNG, close, dense, randomise

from yt8m.classifiers.chain import ChainModel
from yt8m.classifiers.monn import MonnModel
from yt8m.classifiers.residual_mlp import ResidualMlpModel
from yt8m.classifiers.svm import SvmModel
from yt8m.layers.noise import KeyedNoise
from yt8m.losses.branches import branch_cross_entropy_loss
from yt8m.losses.hinge import squared_hinge_loss
from yt8m.randomness import normal
from yt8m.registry import VIDEO_LEVEL_MODELS

import video_level_models
from losses import cross_entropy_loss
from oracles import models as oracles_models
from oracles import temporal as oracles

VECTORS = RNG(4).normal(size=(3, 5)).astype(np.float32)


def built(model: Any) -> Any:
    model.build((None, 5))
    return randomise(model)


def mixture(model: Any, x: np.ndarray) -> np.ndarray:
    """Logits of a MoeModel or of the gates and experts of another."""
    gates = (x @ model.gates.kernel.numpy()).reshape(model.num_mixtures + 1, -1)
    experts = (x @ model.experts.kernel.numpy() + model.experts.bias.numpy()).reshape(model.num_mixtures, -1)
    return np.array([oracles_models.mixture_logit(gates[:, c], experts[:, c]) for c in range(gates.shape[1])])


def test_a_chain_by_the_definition() -> None:
    model = built(ChainModel(4, num_supports=2, code_size=3))
    outputs = model(tf.constant(VECTORS))
    for video, x in enumerate(VECTORS.astype(np.float64)):
        for step in range(3):
            logits = mixture(model.mixtures[step], x)
            close(outputs["branch_logits"][video, step] if step < 2 else outputs["logits"][video], logits, 1e-4)
            if step < 2:
                weights = [weight.numpy() for weight in model.codes[step].dense.weights]
                x = np.concatenate([x, oracles.code(np.vectorize(oracles_models.sigmoid)(logits), *weights)])


def test_supports_are_supervised_by_the_same_labels() -> None:
    model = built(ChainModel(4, num_supports=2, code_size=3, support_weight=0.1))
    outputs, labels = model(tf.constant(VECTORS)), RNG(5).random((3, 4)) < 0.5
    weights = RNG(6).random((3, 4)).astype(np.float32)
    for given in (None, tf.constant(weights)):
        last, first, second = (
            cross_entropy_loss(labels, {"logits": logits}, given)
            for logits in (outputs["logits"], *tf.unstack(outputs["branch_logits"], axis=1))
        )
        loss = branch_cross_entropy_loss(tf.constant(labels), outputs, given)
        np.testing.assert_allclose(loss, 0.9 * last + 0.1 * (first + second), rtol=1e-5)


def test_a_chain_of_the_published_size() -> None:
    # Step l reads 1152 + 128 l features: 5 C weights of each for 2 experts and 3 gates, and the codes' C * 128.
    model = ChainModel(3862)
    model.build((None, 1152))
    inputs = sum(1152 + 128 * step for step in range(9))
    assert model.count_params() == 5 * 3862 * inputs + 9 * 2 * 3862 + 8 * (3862 * 128 + 128)


def test_experts_are_deep_and_gates_are_not() -> None:
    model = built(MonnModel(4, num_mixtures=2, hidden_size=6, num_layers=2))
    logits = model(tf.constant(VECTORS))["logits"]
    for video, x in enumerate(VECTORS.astype(np.float64)):
        hidden = x
        for layer in model.hidden.layers:
            hidden = oracles.hidden(hidden, layer.kernel.numpy(), layer.bias.numpy())
        gates = (x @ model.gates.kernel.numpy()).reshape(3, 4)
        experts = (hidden @ model.experts.kernel.numpy() + model.experts.bias.numpy()).reshape(2, 4)
        close(logits[video], [oracles_models.mixture_logit(gates[:, c], experts[:, c]) for c in range(4)], 2e-4)


def test_monn_of_the_published_size() -> None:
    # MoNN4L over mean, deviation and length, 2305 features: 2305 * 2048 + 3 * 2048^2 of hidden layers.
    model = MonnModel(4716)
    model.build((None, 2305))
    hidden = 2305 * 2048 + 3 * 2048**2 + 4 * 2048
    assert model.count_params() == hidden + 4 * 4716 * 2305 + 3 * 4716 * (2048 + 1)


def test_a_residual_mlp_by_the_definition() -> None:
    model = built(ResidualMlpModel(4, hidden_size=6, num_blocks=2))

    def leaky(x: np.ndarray) -> np.ndarray:
        return np.where(x > 0, x, 0.2 * x)

    for video, vector in enumerate(VECTORS.astype(np.float64)):
        x = leaky(dense(model.hidden, vector))
        for block in model.blocks:
            x = x + leaky(dense(block.first, x)) @ block.second.kernel.numpy() + block.second.bias.numpy()
        expected = x @ model.dense.kernel.numpy() + model.dense.bias.numpy()
        np.testing.assert_allclose(model(tf.constant(VECTORS))["logits"][video], expected, rtol=1e-4, atol=1e-4)


def test_residual_blocks_start_as_the_identity() -> None:
    keras.utils.set_random_seed(1)
    model = ResidualMlpModel(4, hidden_size=6, num_blocks=1)
    model.build((None, 5))
    x = tf.constant(RNG(7).normal(size=(3, 6)), tf.float32)
    np.testing.assert_array_equal(model.blocks[0](x), x)


def test_squared_hinge_by_hand() -> None:
    # A label with f = 0.5 misses the margin by 0.5, another class with f = -3 is beyond it, one with f = 1 misses it
    # by 2: 0.25 + 0 + 4.
    logits = {"logits": tf.constant([[0.5, -3.0, 1.0]])}
    labels = tf.constant([[True, False, False]])
    np.testing.assert_allclose(squared_hinge_loss(labels, logits), [4.25])
    np.testing.assert_allclose(squared_hinge_loss(labels, logits, tf.constant([[2.0, 1.0, 0.5]])), [2.5])


def test_support_vector_machines_are_those_of_scikit_learn() -> None:
    # scikit-learn minimises |w|^2 / 2 + K sum of losses: lambda = 1 / (N K). A large intercept feature leaves its bias
    # almost without a penalty.
    x = RNG(8).normal(size=(60, 5)).astype(np.float32)
    labels = np.stack([x[:, 0] + RNG(9).normal(size=60) > 0.5, x[:, 1] - x[:, 2] > 0.0], axis=1)
    model = SvmModel(2, l2_penalty=1 / (60 * 0.5))
    model.build((None, 5))
    optimizer = keras.optimizers.Adam(0.1)
    optimizer.build(model.trainable_variables)

    @tf.function(autograph=False)
    def step() -> None:
        with tf.GradientTape() as tape:
            objective = tf.reduce_mean(squared_hinge_loss(labels, model(x))) + tf.add_n(model.losses)
        optimizer.apply(tape.gradient(objective, model.trainable_variables), model.trainable_variables)

    for rate in (0.1, 0.01, 0.001):
        optimizer.learning_rate = rate
        for _ in range(400):
            step()
    for c in range(2):
        theirs = sklearn.svm.LinearSVC(C=0.5, intercept_scaling=100.0, tol=1e-8, max_iter=100_000, dual=False)
        theirs.fit(x, labels[:, c])
        outputs = model(x)
        np.testing.assert_allclose(outputs["logits"][:, c], theirs.decision_function(x), atol=2e-3)
        np.testing.assert_array_equal(
            np.argsort(outputs["predictions"][:, c]), np.argsort(outputs["logits"][:, c].numpy())
        )


def test_noise_is_normal_and_follows_the_key() -> None:
    keys = tf.range(200, dtype=tf.int64)
    drawn = normal(keys, 500, "noise").numpy()
    assert abs(np.mean(drawn)) < 0.02
    assert abs(np.std(drawn) - 1.0) < 0.02
    assert abs(np.mean(np.abs(drawn) < 1.0) - 0.6827) < 0.01
    layer, x = KeyedNoise(0.5, "noise"), tf.ones((200, 500))
    np.testing.assert_allclose(layer(x, keys, training=True), 1.0 + 0.5 * drawn, rtol=1e-6)
    np.testing.assert_array_equal(layer(x, keys), x)
    # Up to rounding: a processor computes logarithms and cosines at the end of a tensor one by one.
    close(layer(x[:1], keys[:1], training=True), layer(x, keys, training=True)[:1], 1e-6)
    with pytest.raises(ValueError, match="random keys"):
        layer(x, training=True)


def test_the_name_plate_of_the_door_says_where_classifiers_are() -> None:
    plate = str(video_level_models.__doc__).split("\n\n", 1)[1]
    listed: dict[str, str] = {}
    for line in plate.splitlines():
        place = re.search(r"yt8m/classifiers/\w+|$", line)[0] or "video_level_models"  # type: ignore[index]
        listed |= {name: place.replace("/", ".") for name in re.findall(r"\w+Model\b", line)}
    assert listed == {name: entry.module for name, entry in VIDEO_LEVEL_MODELS.entries.items()}
