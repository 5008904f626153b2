"""What every registered model keeps, whoever wrote it: see docs/adding-a-model.md.

A new model is tested here as soon as it is registered; give it small sizes in SIZES to keep this file fast.
"""

import functools
import inspect
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np
import pytest
import tensorflow as tf

from yt8m.config import OptimizationConfig
from yt8m.distribution import one_device_strategy
from yt8m.engine.step import TrainState, TrainStep
from yt8m.errors import UserError
from yt8m.layers import inception
from yt8m.models.base import FrameLevelModel
from yt8m.models.clips import ClipNetwork
from yt8m.output.export import check_operations
from yt8m.portability import portable_graphs
from yt8m.registry import CLIP_MODELS, FRAME_LEVEL_MODELS, VIDEO_LEVEL_MODELS, Registry
from yt8m.sampling import FrameSampling
from yt8m.schema import DataSpec

from losses import cross_entropy_loss
from video_level_models import VideoLevelModel

SIZES: dict[str, dict[str, Any]] = {
    "AttentionClusterModel": {"cluster_size": 4, "attention_size": 8, "hidden_size": 16},
    "AttentionEnhancedVLADModel": {"cluster_size": 8, "head_size": 4, "hidden_size": 16},
    "AttentionSimilarityVLADModel": {"cluster_size": 4, "head_size": 4, "hidden_size": 16},
    "DbofModel": {"cluster_size": 32, "hidden_size": 16},
    "DbofModelLF": {"cluster_size": 16, "hidden_size": 16, "activation": "glu"},
    "GatedDbofModelLF": {"cluster_size": 16, "hidden_size": 16, "max_pool": True, "relu": False},
    "MixNeXtVLADModel": {"num_branches": 2, "cluster_size": 4, "hidden_size": 16},
    "NeXtVLADModel": {"cluster_size": 4, "hidden_size": 16},
    "NetFVModelLF": {"cluster_size": 4, "hidden_size": 16, "relu": False, "mixture_gradient": True},
    "NetVLADModelLF": {
        "cluster_size": 4,
        "hidden_size": 16,
        "relu": False,
        "gating": True,
        "classifier_hparams": {"prob_gating": True},
    },
    "RankPoolModel": {"projection_size": 24, "direction": "both", "learns_c": True, "add_batch_norm": True},
    "AveragePoolModel": {"projection_size": 24, "add_batch_norm": True, "takes_running_mean": True},
    "MaxPoolModel": {"projection_size": 24},
    # With few clusters their products saturate the softmax, whose gradient is then 0: see NonLocalVLAD.
    "NonLocalVLADModel": {"cluster_size": 64, "hidden_size": 16},
    "SecondOrderVLADModel": {  # 2 clusters of the narrow feature: there is nothing to train in an assignment to one
        "cluster_size": 8,
        "second_cluster_size": 8,
        "projected_size": 4,
        "hidden_size": 16,
        "approximation_penalty": 0.01,
    },
    "SoftDbofModelLF": {"cluster_size": 16, "hidden_size": 16, "gating": True},
    "TransformerModel": {
        "num_layers": 1,
        "head_size": 8,
        "positions": "learnt",
        "pooling": "attention",
        "separate_encoders": True,
    },
    "ConvPoolModel": {"hidden_size": 16},
    "LatePoolModel": {"hidden_size": 16, "add_batch_norm": True},
    "SlowPoolModel": {"hidden_size": 16, "window_size": 3, "window_stride": 2, "input_batch_norm": True},
    "LocalPoolModel": {"hidden_size": 16, "num_parts": 3, "input_batch_norm": True},
    "TimeConvModel": {"hidden_size": 16, "num_kernels": 16, "window_size": 3, "window_stride": 2},
    "DeepLstmModel": {"units": 16, "num_layers": 2},
    "BiLstmModel": {"units": 16},
    "BiGruModel": {"units": 16},
    "LstmAttentionModel": {"units": 16, "num_heads": 2},
    "MultiscaleCnnLstmModel": {"units": 8, "filters": 4, "num_levels": 2},
    "CnnChainModel": {"code_size": 4, "num_supports": 2},
    "LstmCnnChainModel": {"lstm_cells": 16, "code_size": 4, "num_supports": 2},
    "ChainModel": {"code_size": 8, "num_supports": 2},
    "ResidualMlpModel": {"hidden_size": 16, "num_blocks": 1},
    "MonnModel": {"hidden_size": 16, "num_layers": 2},
    "KernelRidgeModel": {"stacking": 0.5},
    "C3dModel": {"width": 1 / 16, "hidden_size": 16},
    "ClipModel": {"backbone_width": 0.5},
    "CnnLstmModel": {"backbone_width": 1 / 16, "frame_model_hparams": {"units": 16, "num_layers": 1}},
    "FusedTwoStreamModel": {"inception_width": 1 / 16, "flow_length": 3, "window_stride": 2, "fusion_size": 16},
    "I3dModel": {"inception_width": 1 / 16},
    "MapTimeConvModel": {
        "backbone_width": 0.5,
        "hidden_size": 16,
        "num_kernels": 16,
        "window_size": 3,
        "window_stride": 2,
    },
    "TwoStreamModel": {"inception_width": 1 / 16, "flow_length": 3, "window_stride": 2},
    "LstmModel": {"lstm_cells": 16},
    "GruModel": {"gru_cells": 16},
}
POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")
NUM_CLASSES = 6
FRAME_SPEC = DataSpec(("rgb", "audio"), (16, 8), NUM_CLASSES, record_format="frame", max_frames=8)
VIDEO_SPEC = DataSpec(("mean_rgb", "mean_audio"), (16, 8), NUM_CLASSES)
CLIP_SPEC = DataSpec(("rgb", "flow"), (3, 2), NUM_CLASSES, record_format="clip", max_frames=8, clip_size=8)
SPECS = {VIDEO_LEVEL_MODELS: VIDEO_SPEC, FRAME_LEVEL_MODELS: FRAME_SPEC, CLIP_MODELS: CLIP_SPEC}

Batch = dict[str, tf.Tensor]

FRAME_LEVEL = [(FRAME_LEVEL_MODELS, name) for name in FRAME_LEVEL_MODELS.names()]
WITH_FRAMES = FRAME_LEVEL + [(CLIP_MODELS, name) for name in CLIP_MODELS.names()]
ALL = WITH_FRAMES + [(VIDEO_LEVEL_MODELS, name) for name in VIDEO_LEVEL_MODELS.names()]


def over(models: list[tuple[Registry, str]]) -> pytest.MarkDecorator:
    """Runs a test over models; the tests of one model come one after another and share what is built for it."""
    return pytest.mark.parametrize("case", models, ids=[name for _, name in models], indirect=True, scope="module")


every_model = over(ALL)
every_model_with_frames = over(WITH_FRAMES)


class Case:
    """A registered model, built and traced once for all tests that ask for it."""

    def __init__(self, registry: Registry, name: str):
        self.registry = registry
        self.name = name
        self.registered = registry[name]
        self.spec = SPECS[registry]
        self._built: dict[tuple[str, bool], tuple[keras.Model, list[np.ndarray]]] = {}

    def model(self, policy: str = "float32", drops: bool = False) -> keras.Model:
        """The model with its first weights, which depend on nothing but its name; `drops`: wherever it can."""
        if (policy, drops) not in self._built:
            model = self._build(policy, dropouts(self.registry, self.name) if drops else {})
            self._built[policy, drops] = model, [weight.numpy() for weight in model.weights]
        model, first_weights = self._built[policy, drops]
        for weight, value in zip(model.weights, first_weights, strict=True):
            weight.assign(value)
        keras.config.set_dtype_policy(policy)
        if remembers(model):
            model.remember([labelled(self.batch([8, 2, 5, 7], seed=9))])
        return model

    def _build(self, policy: str, changes: dict[str, Any]) -> keras.Model:
        keras.config.set_dtype_policy(policy)
        keras.utils.set_random_seed(1)
        hparams = SIZES.get(self.name, {}) | changes
        if self.registry is VIDEO_LEVEL_MODELS:
            model = VideoLevelModel(VIDEO_SPEC, self.registered(NUM_CLASSES, **hparams))
        else:
            model = self.registered(self.spec, **hparams)
        model.build()
        return model

    @functools.cached_property
    def predictions(self) -> Any:
        """A graph from any batch to the predictions of `model()`."""
        model = self.model()
        return tf.function(
            lambda batch: model(batch, training=False)["predictions"],
            autograph=False,
            input_signature=[self.batch_signature()],
        )

    @functools.cached_property
    def gradients(self) -> Any:
        """A graph from any batch and its labels to the gradients of `model()`."""
        model = self.model()
        return tf.function(
            lambda batch, labels: training_gradients(model, batch, labels),
            autograph=False,
            input_signature=[self.batch_signature(), tf.TensorSpec([None, NUM_CLASSES], tf.bool)],
        )

    def batch_signature(self) -> dict[str, tf.TensorSpec]:
        batch = self.batch([1])
        return {name: tf.TensorSpec(self._free_axes(values), values.dtype) for name, values in batch.items()}

    def _free_axes(self, values: tf.Tensor) -> list[int | None]:
        """Batch and time are free, the width of a feature and the size of a clip's frames are not."""
        num_free = {VIDEO_LEVEL_MODELS: 1}.get(self.registry, 2)
        return [None if axis < num_free else size for axis, size in enumerate(values.shape)]

    def batch(self, num_frames: list[int], seed: int = 0) -> Batch:
        """Random videos of the given lengths; a video-level batch has as many videos."""
        generator = np.random.default_rng(seed)
        count, width = len(num_frames), max(num_frames, default=0)
        batch = {"key": tf.range(count, dtype=tf.int64) + 100}
        if self.registry is VIDEO_LEVEL_MODELS:
            for feature, size in zip(VIDEO_SPEC.feature_names, VIDEO_SPEC.feature_sizes, strict=True):
                batch[feature] = tf.constant(generator.normal(size=(count, size)), tf.float32)
            return batch
        places = (self.spec.clip_size, self.spec.clip_size) if self.registry is CLIP_MODELS else ()
        width = self.spec.max_frames if places else width  # clips are as long as each other
        for feature, size in zip(self.spec.feature_names, self.spec.feature_sizes, strict=True):
            batch[feature] = tf.constant(generator.integers(0, 256, (count, width, *places, size)), tf.uint8)
        return batch | {"num_frames": tf.constant(num_frames, tf.int32)}


@pytest.fixture(scope="module", autouse=True)
def _few_stages() -> Iterator[None]:
    """Gives Inception-v1 one pooling and one module: a graph of all takes seconds, and they have tests of their own."""
    kept = ("MaxPool4a", "Mixed4b")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception, "STAGES", {name: inception.STAGES[name] for name in kept})
        yield


@pytest.fixture(scope="module", name="case")
def make_case(request: pytest.FixtureRequest) -> Case:
    return Case(*request.param)


@pytest.fixture(autouse=True)
def _float32_policy_afterwards() -> Any:
    yield
    keras.config.set_dtype_policy("float32")


def make_labels(count: int) -> tf.Tensor:
    return tf.constant(np.random.default_rng(5).random((count, NUM_CLASSES)) < 0.3)


def labelled(batch: Batch) -> Batch:
    return batch | {"labels": make_labels(len(batch["key"]))}


def remembers(model: keras.Model) -> bool:
    """Whether there is a memory of training videos in the place of weights."""
    return hasattr(model.classifier, "remember")


def predict(model: keras.Model, batch: Batch) -> np.ndarray:
    return model(batch, training=False)["predictions"].numpy()


def training_gradients(model: keras.Model, batch: Batch, labels: tf.Tensor) -> list[tf.Tensor | None]:
    with tf.GradientTape() as tape:
        outputs = model(batch, training=True)
        loss = tf.reduce_sum(cross_entropy_loss(labels, outputs))
        terms = [tf.reduce_sum(extra) for extra in outputs.get("losses", {}).values()] + model.losses
        loss += tf.add_n([tf.zeros([]), *terms])
    return tape.gradient(loss, model.trainable_variables)


@every_model
@pytest.mark.parametrize("policy", POLICIES)
def test_outputs_are_float32_probabilities(case: Case, policy: str) -> None:
    model, batch = case.model(policy), case.batch([8, 1, 5])
    for training in (False, True):
        outputs = model(batch, training=training)
        predictions, logits = outputs["predictions"], outputs["logits"]
        assert predictions.shape == logits.shape == (3, NUM_CLASSES)
        assert predictions.dtype == logits.dtype == tf.float32
        assert np.all((predictions >= 0) & (predictions <= 1))
        np.testing.assert_allclose(predictions, tf.sigmoid(logits), atol=1e-6)
        for extra in outputs.get("losses", {}).values():
            assert extra.shape == (3,)
            assert extra.dtype == tf.float32


@every_model
@pytest.mark.parametrize("policy", POLICIES)
def test_every_trainable_weight_has_a_finite_gradient(case: Case, policy: str) -> None:
    model = case.model(policy)
    for weight in model.trainable_variables:  # one that starts at 0 hides those before it
        weight.assign(tf.where(weight.value == 0.0, 0.1, weight.value))
    gradients = training_gradients(model, case.batch([8, 3, 5, 2]), make_labels(4))
    for weight, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert gradient is not None, f"{weight.path} is not used"
        assert np.all(np.isfinite(gradient)), weight.path
        assert weight.dtype == "float32", weight.path
        assert np.any(gradient != 0.0), f"{weight.path} is not trained"


@every_model
@pytest.mark.parametrize("num_frames", [[], [0], [0, 0], [0, 4, 1]], ids=str)
def test_empty_batches_and_empty_videos_are_finite(case: Case, num_frames: list[int]) -> None:
    model, batch = case.model(), case.batch(num_frames)
    predictions = predict(model, batch)
    assert predictions.shape == (len(num_frames), NUM_CLASSES)
    assert np.all(np.isfinite(predictions))
    gradients = case.gradients(batch, make_labels(len(num_frames)))
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)
    assert all(np.all(np.isfinite(weight)) for weight in model.weights)


@every_model_with_frames
@pytest.mark.parametrize("training", [False, True])
def test_padding_is_not_seen(case: Case, training: bool) -> None:
    model, batch = case.model(), case.batch([8, 0, 5, 1])
    garbage, zeros = dict(batch), dict(batch)
    exists = np.arange(8)[None, :] < np.array([8, 0, 5, 1])[:, None]
    for feature in case.spec.feature_names:
        frames = batch[feature].numpy()
        longer, blank = np.full((4, 11, *frames.shape[2:]), 255, np.uint8), np.zeros_like(frames)
        longer[:, :8][exists] = frames[exists]
        garbage[feature] = tf.constant(longer)
        blank[exists] = frames[exists]
        zeros[feature] = tf.constant(blank)
    seen, expected = (model(b, training=training)["predictions"] for b in (garbage, zeros))
    np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-6)


@every_model
def test_a_video_is_judged_alone(case: Case) -> None:
    model, lengths = case.model(), [3, 8, 0, 5]
    batch = case.batch(lengths)
    together = predict(model, batch)
    for row, length in enumerate(lengths):
        alone = {feature: values[row : row + 1] for feature, values in batch.items()}
        if case.registry is FRAME_LEVEL_MODELS:  # a clip is as long as it was
            alone |= {feature: alone[feature][:, :length] for feature in FRAME_SPEC.feature_names}
        np.testing.assert_allclose(predict(model, alone)[0], together[row], rtol=0, atol=1e-6)


@every_model
def test_videos_are_told_apart(case: Case) -> None:
    predictions = predict(case.model(), case.batch([5, 5]))
    assert np.max(np.abs(predictions[0] - predictions[1])) > 1e-5


@every_model
def test_evaluation_leaves_nothing_to_chance(case: Case) -> None:
    model, batch = case.model(), case.batch([8, 2, 5])
    before = [weight.numpy() for weight in model.weights]
    first = predict(model, batch)
    other_keys = predict(model, batch | {"key": batch["key"] + 1})
    np.testing.assert_array_equal(first, other_keys)
    np.testing.assert_array_equal(first, predict(model, {k: v for k, v in batch.items() if k != "key"}))
    for old, weight in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, weight.numpy())


def dropouts(registry: Registry, name: str) -> dict[str, Any]:
    """Hyper-parameters with which a model drops wherever it can."""
    defaults = registry.entry(name).defaults
    rates: dict[str, Any] = {hparam: 0.4 for hparam in defaults if hparam.endswith("dropout")}
    if "classifier" in defaults:
        given = SIZES.get(name, {}).get("classifier_hparams", {})
        rates["classifier_hparams"] = given | dropouts(VIDEO_LEVEL_MODELS, defaults["classifier"])
    return rates


@every_model
def test_training_draws_follow_the_key(case: Case) -> None:
    model, batch = case.model(drops=True), case.batch([8, 2, 5])
    tf.random.set_seed(98)
    first = model(batch, training=True)["predictions"]
    tf.random.set_seed(99)
    np.testing.assert_array_equal(first, model(batch, training=True)["predictions"])
    other = model(batch | {"key": batch["key"] + 1}, training=True)["predictions"]
    assert np.all(np.any(first != other, axis=1)) == bool(dropouts(case.registry, case.name))


def signal_batch(case: Case, count: int, seed: int) -> tuple[Batch, np.ndarray]:
    """Videos of one class each, whose frames scatter around the prototype of their class."""
    generator = np.random.default_rng(seed)
    classes = generator.integers(0, NUM_CLASSES, count)
    batch = case.batch(list(generator.integers(1, 9, count)), seed)
    for index, feature in enumerate(case.spec.feature_names):
        size = case.spec.feature_sizes[index]
        prototypes = np.random.default_rng(index).normal(size=(NUM_CLASSES, size))
        if case.registry is not VIDEO_LEVEL_MODELS:
            noise = generator.normal(size=batch[feature].shape)
            axes = noise.ndim - 2
            numbers = prototypes[classes].reshape(count, *[1] * axes, size) + 0.5 * noise
            batch[feature] = tf.constant(np.clip(128 + 50 * numbers, 0, 255), tf.uint8)
        else:
            batch[feature] = tf.constant(prototypes[classes] + 0.5 * generator.normal(size=(count, size)), tf.float32)
    return batch, np.eye(NUM_CLASSES, dtype=bool)[classes]


def training(case: Case, batch: Batch, labels: np.ndarray) -> tuple[keras.Model, Callable[[int], object]]:
    """A model, and what trains it on one batch by so many steps of the training loop.

    The axes of the batch are free, as those of the readers are.
    """
    model = case.model()
    batch = batch | {"labels": tf.constant(labels), "position": tf.zeros([7], tf.int64)}
    if remembers(model):
        model.remember([batch])
    spec = case.batch_signature() | {
        "labels": tf.TensorSpec([None, NUM_CLASSES], tf.bool),
        "position": tf.TensorSpec([7], tf.int64),
    }
    step = TrainStep(
        one_device_strategy(),
        TrainState(model, OptimizationConfig(base_learning_rate=0.02), run_examples=1),
        cross_entropy_loss,
        regularization_penalty=1.0,
        clip_gradient_norm=1.0,
        top_k=1,
        batch_spec=spec,
    )
    batches = iter(tf.data.Dataset.from_generator(lambda: itertools.repeat(batch), output_signature=spec))
    return model, lambda num_steps: step.run(batches, num_steps)


@every_model
def test_a_signal_is_learnt(case: Case) -> None:
    model, train = training(case, *signal_batch(case, 96, seed=1))
    unseen, unseen_labels = signal_batch(case, 96, seed=2)
    share_right = 0.0
    for _ in range(4):  # at most 60 steps; most models need 15 or 30
        assert train(15) is not None
        hits = np.argmax(predict(model, unseen), axis=1) == np.argmax(unseen_labels, axis=1)
        share_right = np.mean(hits)
        if share_right > 0.8:  # by guessing: 1/6
            break
    assert share_right > 0.8


@every_model
def test_weights_survive_a_checkpoint(case: Case, tmp_path: Path) -> None:
    model, batch = case.model(), case.batch([8, 2, 5])
    generator = np.random.default_rng(3)
    for weight in model.weights:
        weight.assign(generator.uniform(0.1, 1.0, weight.shape))
    path = tf.train.Checkpoint(model=model).write(str(tmp_path / "weights"))
    restored = case.model(drops=True)  # another object of the same weights
    assert not np.allclose(predict(restored, batch), predict(model, batch))
    tf.train.Checkpoint(model=restored).read(path).assert_consumed()
    np.testing.assert_array_equal(predict(restored, batch), predict(model, batch))


@every_model
def test_a_saved_model_takes_any_batch(case: Case, tmp_path: Path) -> None:
    model = case.model()
    module = tf.Module()
    module.model, module.predict = model, case.predictions
    tf.saved_model.save(module, str(tmp_path))
    restored = tf.saved_model.load(str(tmp_path))
    for num_frames in ([8, 2, 5], [3], []):
        batch = case.batch(num_frames)
        np.testing.assert_allclose(restored.predict(batch), predict(model, batch), rtol=0, atol=1e-6)


# What LiteRT and ONNX do not hold, and why, is in docs/export.md.
NEVER_PORTABLE = {"RankPoolModel": {"litert", "onnx"}, "NearestNeighboursModel": {"onnx"}}


@over(FRAME_LEVEL + [(VIDEO_LEVEL_MODELS, name) for name in VIDEO_LEVEL_MODELS.names()])
def test_a_portable_graph_predicts_the_same(case: Case) -> None:
    model, batch = case.model(), case.batch([8, 2, 5])
    signature = {name: spec for name, spec in case.batch_signature().items() if name != "key"}
    with portable_graphs():
        graph = tf.function(
            lambda batch: model(batch, training=False)["predictions"], autograph=False, input_signature=[signature]
        ).get_concrete_function()
    seen = graph({name: batch[name] for name in signature})
    np.testing.assert_allclose(seen, predict(model, batch), rtol=0, atol=1e-6)
    refused = set()
    for file_format in ("litert", "onnx"):
        try:
            check_operations(graph, file_format)
        except UserError:
            refused.add(file_format)
    assert refused == NEVER_PORTABLE.get(case.name, set())


@every_model
def test_training_can_start_at_the_class_prior(case: Case) -> None:
    model = case.model()
    prior = np.array([0.3, 0.05, 1e-2, 1e-3, 1e-4, 0.0])
    model.start_at_prior(prior)
    if remembers(model):
        model.remember([])
    predictions = np.mean(predict(model, case.batch([8, 2, 5, 7, 3, 8])), axis=0)
    # Random weights on random videos scatter around the prior; without it every prediction is near 0.5.
    np.testing.assert_allclose(_logit(predictions[:5]), _logit(prior[:5]), rtol=0, atol=1.5)
    assert 0.0 < predictions[5] < 1e-5


def _logit(p: np.ndarray) -> np.ndarray:
    return np.log(p) - np.log1p(-p)


@every_model_with_frames
@pytest.mark.parametrize("training", [False, True])
def test_the_wish_for_frames_is_one_the_reader_knows(case: Case, training: bool) -> None:
    sampling = case.model().frame_sampling(training)
    assert sampling is None or isinstance(sampling, FrameSampling)
    if not training and sampling is not None:
        assert sampling.method in ("shuffled", "uniform")  # at evaluation every frame counts, or a fixed choice


OUT_OF_RANGE: dict[str, Any] = {"int": -3, "float": math.nan, "str": "nonsense"}


@every_model
def test_a_hyper_parameter_out_of_range_is_named(case: Case) -> None:
    spec_or_size = NUM_CLASSES if case.registry is VIDEO_LEVEL_MODELS else case.spec
    for hparam, setting in case.registry.entry(case.name).hyper_parameters.items():
        kind = "str" if setting.default is None else type(setting.default).__name__
        values = [OUT_OF_RANGE[kind]] if kind in OUT_OF_RANGE and not hparam.endswith(("_hparams", "_weights")) else []
        for value in [*values, 1.0] if hparam.endswith("dropout") else values:
            with pytest.raises(UserError, match=f"^{hparam}={re.escape(str(value))}: "):
                case.registered(spec_or_size, **{hparam: value})


@every_model_with_frames
def test_outputs_come_from_the_base_class(case: Case) -> None:
    above = inspect.getmro(cast(type, case.registered))
    base = ClipNetwork if case.registry is CLIP_MODELS else FrameLevelModel
    own = above[: above.index(base)]
    assert [model for model in own if "call" in vars(model)] == []


@every_model
def test_the_documentation_is_complete(case: Case) -> None:
    assert "Source:" in (inspect.getdoc(case.registered) or "")
    hparams = case.registry.entry(case.name).defaults
    above = inspect.getmro(cast(type, case.registered))  # where a class inherits hyper-parameters, they are explained
    documentation = "\n".join(inspect.getdoc(base) or "" for base in above)
    for hparam in hparams:
        assert f"\n    {hparam}: " in documentation, f"{case.name} says nothing about {hparam}"
    assert json.loads(json.dumps(hparams)) == hparams
