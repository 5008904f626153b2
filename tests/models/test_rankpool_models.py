"""Rank, average and maximum pooling models: from their definition, and what the order of frames does to them."""

import functools
import math
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from yt8m.errors import UserError
from yt8m.schema import DataSpec

from oracles import models as oracles
from oracles import rankpool as oracles_rankpool

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import rankpool_order

from frame_level_models import AveragePoolModel, MaxPoolModel, RankPoolModel, SequencePoolModel

SPEC = DataSpec(("rgb", "audio"), (3, 2), 4, record_format="frame")
LENGTHS = (6, 3, 1, 0)
LINEAR: dict[str, Any] = {"classifier": "LogisticModel"}


def make_batch() -> dict[str, tf.Tensor]:
    """Float frames, as some records hold them; the padding is NaN."""
    rng = np.random.default_rng(0)
    batch = {}
    for name, size in zip(SPEC.feature_names, SPEC.feature_sizes, strict=True):
        frames = rng.standard_normal((4, 6, size)).cumsum(axis=1)
        frames[np.arange(6) >= np.array(LENGTHS)[:, None]] = math.nan
        batch[name] = tf.constant(frames, tf.float32)
    return batch | {"num_frames": tf.constant(LENGTHS), "key": tf.range(4, dtype=tf.int64)}


def true_frames(video: int) -> np.ndarray:
    batch = make_batch()
    return np.concatenate([batch[name][video, : LENGTHS[video]] for name in SPEC.feature_names], axis=1, dtype=float)


def reversed_batch() -> dict[str, tf.Tensor]:
    batch = make_batch()
    return batch | {name: tf.reverse_sequence(batch[name], LENGTHS, 1, 0) for name in SPEC.feature_names}


def built(model: keras.Model) -> keras.Model:
    """Gives the model weights that no initialiser would draw, so that none of them goes unnoticed."""
    model.build()
    for index, weight in enumerate(model.weights):
        weight.assign(np.random.default_rng(index).uniform(0.1, 1.0, weight.shape))
    return model


def signed_sqrt(x: np.ndarray) -> np.ndarray:
    return np.sign(x) * np.sqrt(np.abs(x))


def unit(x: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    return x / np.where(length > 0, length, 1)


def rank_pooled(frames: np.ndarray, c: float = 1.0, epsilon: float = 0.1) -> np.ndarray:
    if not len(frames):
        return np.zeros(frames.shape[1])
    return oracles_rankpool.rank_pool(frames, np.arange(1.0, len(frames) + 1), c, epsilon)


def running_means(frames: np.ndarray) -> np.ndarray:
    return np.array([frames[: t + 1].mean(axis=0) for t in range(len(frames))]).reshape(frames.shape)


def assert_classifies(model: keras.Model, expected: list[np.ndarray], atol: float = 2e-5) -> None:
    """The logits of a linear classifier are those of these pooled vectors."""
    kernel, bias = (weight.numpy() for weight in model.classifier.weights)
    logits = model(make_batch())["logits"]
    np.testing.assert_allclose(logits, unit(signed_sqrt(np.array(expected))) @ kernel + bias, atol=atol)


def test_rank_pool_model_is_its_definition() -> None:
    model = built(RankPoolModel(SPEC, c=0.5, epsilon=0.3, **LINEAR))
    videos = (unit(running_means(true_frames(video))) for video in range(4))
    assert_classifies(model, [rank_pooled(frames, 0.5, 0.3) for frames in videos])


def test_both_directions_start_from_the_frames_themselves() -> None:
    model = built(RankPoolModel(SPEC, direction="both", takes_frame_sqrt=True, takes_unit_length=False, **LINEAR))
    videos = [true_frames(video) for video in range(4)]
    both = [[signed_sqrt(running_means(x)) for x in (video, video[::-1])] for video in videos]
    assert_classifies(model, [np.concatenate([rank_pooled(x) for x in pair]) for pair in both])


def test_frames_are_normalised_and_projected() -> None:
    model = built(
        RankPoolModel(
            SPEC,
            add_batch_norm=True,
            projection_size=4,
            projection_activation="sigmoid",
            takes_running_mean=False,
            takes_unit_length=False,
            **LINEAR,
        )
    )

    def norm(layer: Any, rows: np.ndarray) -> np.ndarray:
        rows = oracles.normalise(rows, layer.moving_mean.numpy(), layer.moving_variance.numpy())
        return rows * layer.gamma.numpy() + layer.beta.numpy()

    projection, expected = model.projection, []
    for video in range(4):
        rows = norm(model.input_norm, true_frames(video)) @ projection.kernel.numpy()
        expected.append(rank_pooled(1 / (1 + np.exp(-norm(projection.batch_norm, rows)))))
    assert_classifies(model, expected, atol=1e-4)


def test_average_pool_model_is_its_definition() -> None:
    model = built(AveragePoolModel(SPEC, projection_size=4, **LINEAR))
    kernel, bias = model.projection.kernel.numpy(), model.projection.bias.numpy()
    videos = (unit(np.maximum(true_frames(video) @ kernel + bias, 0)) for video in range(4))
    assert_classifies(model, [frames.sum(axis=0) / max(len(frames), 1) for frames in videos])


def test_max_pool_model_is_its_definition() -> None:
    model = built(MaxPoolModel(SPEC, takes_running_mean=True, takes_frame_sqrt=True, **LINEAR))
    videos = (unit(signed_sqrt(running_means(true_frames(video)))) for video in range(4))
    assert_classifies(model, [frames.max(axis=0) if len(frames) else np.zeros(5) for frames in videos])


def test_one_frame_by_hand() -> None:
    # The mean of one frame is the frame; its unit length (.6, 0, .8); u is a multiple of it, and so is the maximum.
    # sqrt: (.7746, 0, .8944), of length sqrt(1.4) = 1.18322: (.65465, 0, .75593).
    spec = DataSpec(("x",), (3,), 1, record_format="frame")
    batch = {"x": tf.constant([[[3.0, 0.0, 4.0]]]), "num_frames": tf.constant([1])}
    for architecture in (RankPoolModel, AveragePoolModel, MaxPoolModel):
        model = architecture(spec, **LINEAR)
        model.build()
        model.classifier.dense.kernel.assign([[1.0], [10.0], [100.0]])
        np.testing.assert_allclose(model(batch)["logits"], [[0.65465 + 75.593]], rtol=1e-4)


def test_pooled_features_can_keep_their_size() -> None:
    # The same frame without the square root: .6 + 80.
    spec = DataSpec(("x",), (3,), 1, record_format="frame")
    model = MaxPoolModel(spec, takes_pooled_sqrt=False, **LINEAR)
    model.build()
    model.classifier.dense.kernel.assign([[1.0], [10.0], [100.0]])
    batch = {"x": tf.constant([[[3.0, 0.0, 4.0]]]), "num_frames": tf.constant([1])}
    np.testing.assert_allclose(model(batch)["logits"], [[80.6]], rtol=1e-6)


def change_by_reversal(model: SequencePoolModel) -> float:
    built(model)
    change = model(make_batch())["logits"] - model(reversed_batch())["logits"]
    np.testing.assert_allclose(change[2:], 0.0, atol=1e-5)  # one frame, no frames
    return float(np.max(np.abs(change[:2])))


@pytest.mark.parametrize("architecture", [AveragePoolModel, MaxPoolModel])
def test_average_and_maximum_see_no_order(architecture: type[SequencePoolModel]) -> None:
    assert change_by_reversal(architecture(SPEC, projection_size=4, **LINEAR)) < 1e-5
    assert change_by_reversal(architecture(SPEC, takes_running_mean=True, **LINEAR)) > 1e-2


@pytest.mark.parametrize("method", ["rank_pool", "approximate"])
def test_rank_pooling_sees_the_order(method: Any) -> None:
    assert change_by_reversal(RankPoolModel(SPEC, method=method, **LINEAR)) > 1e-2
    assert change_by_reversal(RankPoolModel(SPEC, method=method, takes_running_mean=False, **LINEAR)) > 1e-2


def projection_gradient(**hparams: Any) -> np.ndarray:
    model = built(RankPoolModel(SPEC, projection_size=4, projection_activation="linear", **hparams, **LINEAR))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(make_batch(), training=True)["predictions"] ** 2)
    return tape.gradient(loss, model.projection.kernel.value).numpy()


def test_the_projection_is_trained_through_the_regression() -> None:
    exact, diagonal = projection_gradient(), projection_gradient(gradient="diagonal")
    assert np.all(exact != 0)
    assert np.max(np.abs(exact - diagonal)) > 0.01 * np.max(np.abs(exact))


def test_c_is_one_more_weight_if_it_is_learned() -> None:
    model = RankPoolModel(SPEC, learns_c=True, c=0.25, **LINEAR)
    model.build()
    (weight,) = (weight for weight in model.trainable_weights if weight.name == "log_c")
    assert float(weight) == pytest.approx(math.log(0.25))
    assert model.rank_pooling.epsilon == 0.1


@pytest.mark.parametrize(
    "hparams", [{"gradient": "diagonal"}, {"method": "approximate", "direction": "reverse"}], ids=str
)
def test_every_form_can_be_exported(hparams: dict[str, Any], tmp_path: Path) -> None:
    model = built(RankPoolModel(SPEC, projection_size=4, **hparams, **LINEAR))
    batch = make_batch()
    signature = {
        name: tf.TensorSpec([None] * (values.shape.rank - 1) + [values.shape[-1]], values.dtype)
        for name, values in batch.items()
        if values.shape.rank > 1
    }
    signature |= {name: tf.TensorSpec([None], batch[name].dtype) for name in ("num_frames", "key")}
    module = tf.Module()
    module.model = model
    module.predict = tf.function(lambda b: model(b)["predictions"], input_signature=[signature])
    tf.saved_model.save(module, str(tmp_path))
    restored = tf.saved_model.load(str(tmp_path))
    np.testing.assert_allclose(restored.predict(batch), model(batch)["predictions"], atol=1e-6)


@pytest.mark.parametrize(
    ("hparams", "message"),
    [
        ({"projection_activation": "relux"}, "Did you mean relu"),
        ({"direction": "up"}, "direction"),
        ({"gradient": "exat"}, "Did you mean exact"),
        ({"c": 0.0}, "c=0.0"),
    ],
)
def test_unknown_choices_are_refused(hparams: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        RankPoolModel(SPEC, **hparams)


def test_order_alone_is_learnt_by_rank_pooling_alone() -> None:
    """A short form of benchmarks/rankpool_order.py, whose videos differ in nothing but the order of their frames."""
    training, unseen = rankpool_order.make_videos(600, "hidden", 1), rankpool_order.make_videos(400, "hidden", 2)
    average, maximum, _, fixed, _, diagonal, exact = (
        functools.partial(rankpool_order.accuracy, row, training, unseen, 150, seed=0) for row in rankpool_order.ROWS
    )
    assert max(average(), maximum()) < 0.3  # by guessing: 1/6
    assert min(diagonal(), exact()) > fixed() + 0.1
