"""Frame-level models: what they compute, which frames they ask for, and what they refuse."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from yt8m.errors import UserError
from yt8m.layers.frames import read_frames
from yt8m.models.recurrent import GruModel, LstmModel
from yt8m.sampling import FrameSampling
from yt8m.schema import DataSpec

from frame_level_models import DbofModel, FrameLevelLogisticModel
from oracles import models as oracles

SPEC = DataSpec(("rgb", "audio"), (3, 2), 4, record_format="frame")
LENGTHS = (4, 2, 0)


def make_batch() -> dict[str, tf.Tensor]:
    generator = np.random.default_rng(0)
    features = {
        name: tf.constant(generator.integers(0, 256, (3, 4, size)), tf.uint8)
        for name, size in zip(SPEC.feature_names, SPEC.feature_sizes, strict=True)
    }
    return features | {"num_frames": tf.constant(LENGTHS), "key": tf.range(3, dtype=tf.int64)}


def true_frames(video: int) -> np.ndarray:
    batch = make_batch()
    return np.array(oracles.unit_frames([batch[name][video].numpy() for name in ("rgb", "audio")], LENGTHS[video]))


def built(model: keras.Model) -> keras.Model:
    model.build()
    for index, weight in enumerate(model.weights):
        weight.assign(np.random.default_rng(index).uniform(0.1, 1.0, weight.shape))
    return model


def test_frame_level_logistic_model() -> None:
    model = built(FrameLevelLogisticModel(SPEC))
    logits = model(make_batch())["logits"]
    kernel, bias = (weight.numpy() for weight in model.weights)
    for video, length in enumerate(LENGTHS):
        mean = np.sum(true_frames(video), axis=0) / length if length else np.zeros(5)
        np.testing.assert_allclose(logits[video], mean @ kernel + bias, atol=1e-5)


def test_frame_level_logistic_penalty() -> None:
    model = FrameLevelLogisticModel(SPEC, l2_penalty=0.1)
    model.build()
    kernel = model.classifier.dense.kernel
    kernel.assign(np.full(kernel.shape, 2.0))
    np.testing.assert_allclose(model.losses, [0.1 * 2.0 * 20], rtol=1e-6)  # lambda / 2 * 2^2 for each of 5 x 4


@pytest.mark.parametrize("pooling_method", ["max", "average"])
def test_dbof_model_at_evaluation(pooling_method: str) -> None:
    hparams: dict[str, Any] = {"cluster_size": 6, "hidden_size": 5, "classifier": "LogisticModel"}
    model = built(DbofModel(SPEC, pooling_method=pooling_method, **hparams))
    squash = np.vectorize(oracles.sigmoid)

    def norm(layer: Any, rows: np.ndarray) -> np.ndarray:
        rows = oracles.normalise(rows, layer.moving_mean.numpy(), layer.moving_variance.numpy())
        return rows * layer.gamma.numpy() + layer.beta.numpy()

    logits, bag, hidden = model(make_batch())["logits"], model.bag, model.hidden
    for video, length in enumerate(LENGTHS):
        pooled = np.zeros(6)
        if length:
            rows = norm(bag.input_norm, true_frames(video)) @ bag.projection.kernel.numpy()
            detections = squash(norm(bag.projection.batch_norm, rows))
            pooled = detections.max(axis=0) if pooling_method == "max" else detections.sum(axis=0) / length
        vector = squash(norm(hidden.batch_norm, pooled @ hidden.kernel.numpy()))
        kernel, bias = (weight.numpy() for weight in model.classifier.weights)
        np.testing.assert_allclose(logits[video], vector @ kernel + bias, atol=1e-4)


def test_dbof_weights_without_batch_norm() -> None:
    model = DbofModel(SPEC, cluster_size=6, hidden_size=5, add_batch_norm=False, classifier="LogisticModel")
    model.build()
    # 5 x 6 + 6, 6 x 5 + 5, 5 x 4 + 4
    assert model.count_params() == 36 + 35 + 24


def _lstm_states(model: LstmModel, video: int, step: int) -> list[tuple[np.ndarray, np.ndarray]]:
    inputs: Any = true_frames(video)[::step]
    states = []
    for layer in model.stack.layers:
        inputs, cell = oracles.lstm(inputs, *(weight.numpy() for weight in layer.weights))
        states.append((inputs[-1] if inputs else np.zeros(3), cell))
    return states


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("state", ["last_h", "all"])
def test_lstm_model(state: str, backward: bool) -> None:
    model = built(LstmModel(SPEC, lstm_cells=3, state=state, backward=backward, classifier="LogisticModel"))
    logits = model(make_batch())["logits"]
    kernel, bias = (weight.numpy() for weight in model.classifier.weights)
    for video in range(3):
        (h1, c1), (h2, c2) = _lstm_states(model, video, -1 if backward else 1)
        vector = h2 if state == "last_h" else np.concatenate([c1, h1, c2, h2])
        np.testing.assert_allclose(logits[video], vector @ kernel + bias, atol=1e-5)


@pytest.mark.parametrize("backward", [False, True])
def test_gru_model(backward: bool) -> None:
    model = built(GruModel(SPEC, gru_cells=3, gru_layers=3, backward=backward, classifier="LogisticModel"))
    logits = model(make_batch())["logits"]
    kernel, bias = (weight.numpy() for weight in model.classifier.weights)
    for video in range(3):
        inputs: Any = true_frames(video)[:: -1 if backward else 1]
        last = []
        for layer in model.stack.layers:
            inputs = oracles.gru(inputs, *(weight.numpy() for weight in layer.weights))
            last.append(inputs[-1] if inputs else np.zeros(3))
        np.testing.assert_allclose(logits[video], np.concatenate(last) @ kernel + bias, atol=1e-5)


def test_raw_frames_by_the_moments_of_training() -> None:
    model = built(
        GruModel(SPEC, gru_cells=3, gru_layers=1, unit_frames=False, input_batch_norm=True, classifier="LogisticModel")
    )
    mean, variance = np.arange(5) / 7.0, np.arange(5) + 0.5
    for weight, value in zip(model.input_norm.weights, (np.ones(5), np.zeros(5), mean, variance, 1), strict=True):
        weight.assign(value)
    logits, batch = model(make_batch())["logits"], make_batch()
    kernel, bias = (weight.numpy() for weight in model.classifier.weights)
    for video in range(3):
        frames, valid = read_frames(batch, SPEC)
        raw = frames[video].numpy()[valid[video].numpy()].astype(np.float64)
        inputs: Any = (raw - mean) / np.sqrt(variance + 1e-3)
        outputs = oracles.gru(inputs, *(weight.numpy() for weight in model.stack.layers[0].weights))
        vector = outputs[-1] if len(raw) else np.zeros(3)
        np.testing.assert_allclose(logits[video], vector @ kernel + bias, atol=1e-5)


def test_frames_asked_for_in_training_and_at_evaluation() -> None:
    def asks(model: keras.Model) -> tuple[FrameSampling | None, FrameSampling | None]:
        return model.frame_sampling(training=True), model.frame_sampling(training=False)

    assert asks(FrameLevelLogisticModel(SPEC)) == (None, None)
    assert asks(DbofModel(SPEC)) == (FrameSampling("random", 30), None)
    assert asks(DbofModel(SPEC, iterations=7, sample_random_frames=False)) == (
        FrameSampling("random_sequence", 7),
        None,
    )
    assert asks(LstmModel(SPEC)) == asks(GruModel(SPEC)) == (None, None)
    bag = (FrameSampling("random", 150), FrameSampling("shuffled"))
    assert asks(LstmModel(SPEC, random_sequence=True, iterations=150)) == bag
    assert asks(GruModel(SPEC, random_sequence=True, iterations=150)) == bag


def test_any_classifier_with_its_hyper_parameters() -> None:
    model = LstmModel(SPEC, lstm_cells=3, classifier="MoeModel", classifier_hparams={"num_mixtures": 4})
    model.build()
    assert model.classifier.gates.kernel.shape == (3, 5 * 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LstmModel(SPEC, classifier="MoeMode"), r"^classifier=MoeMode: .*mean MoeModel\?"),
        (lambda: LstmModel(SPEC, classifier_hparams={"mixtures": 2}), "no hyper-parameter 'mixtures'"),
        (lambda: LstmModel(SPEC, state="h"), "^state=h: there is no such choice. Known: last_h, all"),
        (lambda: LstmModel(SPEC, lstm_layers=0), "lstm_layers=0"),
        (lambda: DbofModel(SPEC, iterations=-1), "^iterations=-1: expected at least 0"),
        (lambda: DbofModel(SPEC, pooling_method="attention"), "^pooling_method=attention: "),
        (lambda: DbofModel(SPEC, activation="glu"), "^activation=glu: "),
    ],
)
def test_what_cannot_be_built_is_named(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()
