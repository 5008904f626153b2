"""Clip models: what they compute from definitions, gradients through the pooling, several clips, pretrained weights."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from layer_checks import randomise

from yt8m.arguments import ArgumentError
from yt8m.config import OptimizationConfig
from yt8m.distribution import build_strategy
from yt8m.engine.step import TrainState, TrainStep
from yt8m.errors import UserError
from yt8m.layers import inception, vggish
from yt8m.layers.frames import valid_frames
from yt8m.layers.inception import Inception
from yt8m.models.frame_vote import FrameVoteModel
from yt8m.models.i3d import I3dModel
from yt8m.registry import CLIP_MODELS, LOSSES
from yt8m.schema import PATCH_SIZE, DataSpec

LENGTHS = (6, 0, 3)
SPEC = DataSpec(("rgb",), (3,), 4, "clip", max_frames=6, clip_size=16)
BOTH = DataSpec(("rgb", "flow"), (3, 2), 4, "clip", max_frames=6, clip_size=16)
ALL_STAGES = inception.STAGES
NARROW: dict[str, Any] = {"backbone_width": 0.25}


@pytest.fixture(scope="module", autouse=True)
def _one_module() -> Iterator[None]:
    """Gives Inception-v1 one module, for what is the same whatever their number."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception, "STAGES", {"Mixed3b": inception.STAGES["Mixed3b"]})
        yield


def batch(spec: DataSpec = SPEC, seed: int = 0) -> dict[str, tf.Tensor]:
    generator = np.random.default_rng(seed)
    size = (len(LENGTHS), spec.max_frames, spec.clip_size, spec.clip_size)
    features = zip(spec.feature_names, spec.feature_sizes, strict=True)
    shapes = {name: (*(size[:2] if width == PATCH_SIZE else size), width) for name, width in features}
    clips = {name: tf.constant(generator.integers(0, 256, shape), tf.uint8) for name, shape in shapes.items()}
    return clips | {"num_frames": tf.constant(LENGTHS), "key": tf.range(3, dtype=tf.int64)}


def built(name: str, spec: DataSpec = SPEC, **hparams: Any) -> Any:
    keras.utils.set_random_seed(1)
    model = CLIP_MODELS[name](spec, **hparams)
    model.build()
    return model


@pytest.mark.parametrize("frame_model", ["RankPoolModel", "MaxPoolModel", "LstmModel", "SlowPoolModel"])
@pytest.mark.parametrize("frame_features", ["average", "map"])
def test_a_clip_is_its_frames_through_the_network(frame_model: str, frame_features: str) -> None:
    hparams = {"LstmModel": {"lstm_cells": 4}, "SlowPoolModel": {"hidden_size": 4}}.get(frame_model, {})
    model = built(
        "ClipModel",
        frame_model=frame_model,
        frame_model_hparams=hparams,
        frame_features=frame_features,
        **NARROW,
    )
    clips = batch()
    frames = np.zeros((3, 6, model.backbones[0].width), np.float32)
    for video, length in enumerate(LENGTHS):
        for time in range(length):
            maps = model.backbones[0].network(clips["rgb"][video, time : time + 1].numpy() / 127.5 - 1.0).numpy()[0]
            frames[video, time] = maps.mean(axis=(0, 1)) if frame_features == "average" else maps.ravel()
    expected = model.frame_model({"rgb": tf.constant(frames), "num_frames": clips["num_frames"]})["predictions"]
    np.testing.assert_allclose(model(clips)["predictions"], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("gradient", ["exact", "sherman_morrison"])
def test_the_network_is_trained_through_rank_pooling(gradient: str) -> None:
    model = built("ClipModel", frame_model="RankPoolModel", frame_model_hparams={"gradient": gradient}, **NARROW)
    clips, labels = batch(), tf.constant(np.random.default_rng(5).random((3, 4)) < 0.4)
    weights = [weight.value for weight in model.backbones[0].trainable_variables]

    def loss() -> tf.Tensor:
        return tf.reduce_sum(LOSSES["CrossEntropyLoss"](labels, model(clips, training=False)))

    with tf.GradientTape() as tape:
        value = loss()
    gradients = tape.gradient(value, weights)
    # Along the gradient g of all weights the loss changes by |g| per unit of length.
    norm = tf.linalg.global_norm(gradients)
    step, first = 1e-3, [tf.identity(weight) for weight in weights]
    ends = []
    for sign in (1.0, -1.0):
        for weight, at, slope in zip(weights, first, gradients, strict=True):
            weight.assign(at + sign * step * slope / norm)
        ends.append(float(loss()))
    np.testing.assert_allclose((ends[0] - ends[1]) / (2 * step), float(norm), rtol=0.05)
    assert float(norm) > 0.01


@pytest.fixture(name="small_vggish")
def make_small_vggish(monkeypatch: pytest.MonkeyPatch) -> Callable[[], keras.Model]:
    """A network of few weights in place of the 72 million."""

    def build() -> keras.Model:
        patches = keras.Input((96, 64))
        x = keras.layers.AveragePooling2D((32, 32))(keras.layers.Reshape((96, 64, 1))(patches))
        return keras.Model(patches, keras.layers.Dense(128, activation="tanh")(keras.layers.Flatten()(x)))

    monkeypatch.setattr(vggish, "vggish", build)
    return build


WITH_SOUND = DataSpec(("rgb", "audio"), (3, PATCH_SIZE), 4, "clip", max_frames=6, clip_size=16)


@pytest.mark.usefixtures("small_vggish")
@pytest.mark.parametrize("chunk_size", [0, 2])
def test_sound_has_a_network_of_its_own(chunk_size: int) -> None:
    hparams = {"frame_model": "NetVLADModelLF", "frame_model_hparams": {"cluster_size": 4, "hidden_size": 4}}
    model = built("ClipModel", WITH_SOUND, chunk_size=chunk_size, freeze_moments=True, **hparams, **NARROW)
    clips = batch(WITH_SOUND)
    frames = {"rgb": np.zeros((3, 6, 16), np.float32), "audio": np.zeros((3, 6, 128), np.float32)}
    pictures, sound = model.backbones
    for video, length in enumerate(LENGTHS):
        for time in range(length):
            picture = clips["rgb"][video, time : time + 1].numpy() / 127.5 - 1.0
            frames["rgb"][video, time] = pictures.network(picture).numpy().mean(axis=(0, 1, 2))
            bands = np.log(0.01) + clips["audio"][video, time].numpy() * (6.2 - np.log(0.01)) / 255
            frames["audio"][video, time] = sound.network(bands.reshape(1, 96, 64)).numpy()[0]
    features = {name: tf.constant(x) for name, x in frames.items()} | {"num_frames": clips["num_frames"]}
    expected = model.frame_model(features)["predictions"]
    np.testing.assert_allclose(model(clips)["predictions"], expected, rtol=0, atol=2e-6)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(clips, training=True)["logits"] ** 2)
    gradients = tape.gradient(loss, sound.trainable_variables)
    assert len(gradients) == 2
    assert all(np.abs(gradient).max() > 0 for gradient in gradients)
    assert not built("ClipModel", WITH_SOUND, train_backbone=False, **NARROW).backbones[1].trainable_variables


def test_sound_starts_with_the_weights_of_a_file(small_vggish: Callable[[], keras.Model], tmp_path: Path) -> None:
    path = str(tmp_path / "sound.weights.h5")
    network = small_vggish()
    network.save_weights(path)
    model = built("ClipModel", WITH_SOUND, audio_weights=path, **NARROW)
    before = model.backbones[0].get_weights()
    model.load_pretrained()
    for found, expected in zip(model.backbones[1].network.get_weights(), network.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)
    for found, expected in zip(model.backbones[0].get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, expected)
    gone = built("ClipModel", WITH_SOUND, audio_weights="gone.weights.h5", **NARROW)
    with pytest.raises(UserError, match=r"^audio_weights=gone\.weights\.h5: there is no such file"):
        gone.load_pretrained()


def test_models_that_read_no_sound_say_so() -> None:
    for name in ("I3dModel", "C3dModel", "MapTimeConvModel", "TwoStreamModel"):
        with pytest.raises(UserError, match=rf"^{name} reads pictures and flow; 'audio' is sound\. Leave it out"):
            CLIP_MODELS[name](WITH_SOUND)
    with pytest.raises(UserError, match=r"^audio_weights=x: none of the features is sound"):
        CLIP_MODELS["ClipModel"](SPEC, audio_weights="x")


def test_several_clips_are_averaged() -> None:
    model, first, second = built("ClipModel", BOTH, **NARROW), batch(BOTH), batch(BOTH, seed=1)
    both = {name: tf.stack([first[name], second[name]], axis=1) for name in ("rgb", "flow", "num_frames")}
    outputs = model(both | {"key": first["key"]})
    logits = [model(clips)["logits"].numpy() for clips in (first, second)]
    np.testing.assert_allclose(outputs["logits"], (logits[0] + logits[1]) / 2, rtol=0, atol=1e-6)
    np.testing.assert_allclose(outputs["predictions"], tf.sigmoid(outputs["logits"]), rtol=0, atol=1e-6)
    np.testing.assert_allclose(outputs["clip_predictions"], tf.sigmoid(np.stack(logits, axis=1)), rtol=0, atol=1e-6)
    empty = model({name: values[:0] for name, values in both.items()})
    assert empty["predictions"].shape == (0, 4)
    assert empty["clip_predictions"].shape == (0, 2, 4)


def test_frames_vote() -> None:
    spec = DataSpec(("rgb",), (2,), 2, "frame", max_frames=3)
    model = FrameVoteModel(spec, unit_frames=False)
    model.build()
    model.classifier.dense.kernel.assign([[1.0, 0.0], [0.0, 2.0]])
    frames = {"rgb": tf.constant([[[1.0, 1.0], [3.0, 0.0], [9.0, 9.0]]]), "num_frames": tf.constant([2])}
    outputs = model(frames)
    # Frames (1, 1) and (3, 0) have the logits (1, 2) and (3, 0); the third is padding.
    np.testing.assert_allclose(outputs["logits"], [[2.0, 1.0]], rtol=1e-6)
    loss = LOSSES["BranchSoftmaxLoss"](tf.constant([[True, False]]), outputs)
    # (log(1 + e^(2 - 1)) + log(1 + e^(0 - 3))) / 2
    np.testing.assert_allclose(loss, [(np.log1p(np.e) + np.log1p(np.exp(-3.0))) / 2], rtol=1e-6)


def test_convolution_of_maps_is_that_of_the_definition() -> None:
    model = built("MapTimeConvModel", num_kernels=3, window_size=3, window_stride=2, hidden_size=4, **NARROW)
    randomise(model.kernels)
    clips = batch()
    valid = valid_frames(clips["num_frames"], 6)
    height, width, channels = model.backbones[0].map_shape
    maps = model.backbones[0](clips["rgb"], valid).numpy().reshape(3, 6, height, width, channels)
    kernel = model.kernels.kernel.numpy().reshape(3, 3, 3, channels, 3)  # (height, width, frame, D, K)
    for video, starts in ((0, (0, 2, 4)), (2, (0,))):
        real = np.pad(maps[video], ((0, 3), (1, 1), (1, 1), (0, 0)))
        best = np.zeros((height, width, 3))
        for start, y, x in np.ndindex(len(starts), height, width):
            window = real[starts[start] : starts[start] + 3, y : y + 3, x : x + 3]
            response = np.einsum("tyxd,yxtdk->k", window, kernel) + model.kernels.bias.numpy()
            best[y, x] = np.maximum(best[y, x], response)
        (layer,) = model.video_layer.layers
        hidden = np.maximum(best.ravel() @ layer.kernel.numpy() + layer.bias.numpy(), 0)
        expected = model.classifier(tf.constant(hidden[np.newaxis], tf.float32))["logits"]
        np.testing.assert_allclose(model(clips)["logits"][video], expected[0], rtol=0, atol=1e-5)


def test_i3d_averages_windows_of_two_frames_and_streams() -> None:
    model = built("I3dModel", BOTH, inception_width=1 / 16)
    clips = batch(BOTH)
    logits = []
    for index, (name, scaled) in enumerate(
        [("rgb", clips["rgb"].numpy() / 127.5 - 1.0), ("flow", (clips["flow"].numpy() - 128.0) / 127.0)]
    ):
        maps, _ = model.networks[index](scaled[:1].astype(np.float32), tf.ones([1, 6], tf.bool))
        assert maps.shape[1] == 3, name
        a, b, c = tf.reduce_mean(maps[0], axis=(1, 2)).numpy()
        vector = ((a + b) / 2 + (b + c) / 2) / 2
        logits.append(model.classifiers[index](tf.constant(vector[np.newaxis]))["logits"].numpy())
    outputs = model(clips)
    np.testing.assert_allclose(outputs["branch_logits"][0], np.concatenate(logits), rtol=0, atol=1e-5)
    np.testing.assert_allclose(outputs["logits"][0], (logits[0] + logits[1])[0] / 2, rtol=0, atol=1e-5)
    # Each stream has a loss of its own.
    labels = tf.constant([[True, False, False, False]] * 3)
    parts = [LOSSES["CrossEntropyLoss"](labels, {"logits": outputs["branch_logits"][:, i]}) for i in range(2)]
    np.testing.assert_allclose(LOSSES["BranchCrossEntropyLoss"](labels, outputs), parts[0] + parts[1], rtol=1e-5)


def test_two_streams_see_the_middle_picture_and_the_flow_around_it() -> None:
    model = built("TwoStreamModel", BOTH, inception_width=1 / 16, flow_length=3, window_stride=2)
    clips = batch(BOTH)
    pictures, flow = clips["rgb"].numpy() / 127.5 - 1.0, (clips["flow"].numpy() - 128.0) / 127.0
    # Clip 0 has the windows 0-2, 2-4, 4-5; clip 2 has the window 0-2.
    for video, middles, windows in ((0, (1, 3, 5), ((0, 1, 2), (2, 3, 4), (4, 5))), (2, (1,), ((0, 1, 2),))):
        stacks = np.zeros((1, len(windows), 16, 16, 6), np.float32)
        for w, times in enumerate(windows):
            for place, time in enumerate(times):
                stacks[0, w, :, :, 2 * place : 2 * place + 2] = flow[video, time]
        every_window = tf.ones([1, len(windows)], tf.bool)
        inputs = pictures[video, middles, :][np.newaxis].astype(np.float32), stacks
        logits = []
        for index, network in enumerate((model.spatial, model.temporal)):
            maps, _ = network(inputs[index], every_window)
            logits.append(model.classifiers[index](tf.reduce_mean(maps, axis=(1, 2, 3)))["logits"].numpy()[0])
        np.testing.assert_allclose(model(clips)["branch_logits"][video], logits, rtol=0, atol=1e-5)


def test_two_streams_need_pictures_and_flow() -> None:
    with pytest.raises(UserError, match=r"^Two streams are read: .*The data have rgb of 3 channels\.$"):
        CLIP_MODELS["TwoStreamModel"](SPEC)


def test_a_new_run_starts_with_the_weights_of_a_file(tmp_path: Path) -> None:
    source = built("ClipModel", **NARROW)
    path = tmp_path / "cnn.weights.h5"
    source.backbones[0].network.save_weights(path)
    keras.utils.set_random_seed(2)
    model = CLIP_MODELS["ClipModel"](BOTH, backbone_weights=str(path), **NARROW)
    model.build()
    model.load_pretrained()
    for network in model.backbones:
        for value, expected in zip(
            network.network.get_weights(), source.backbones[0].network.get_weights(), strict=True
        ):
            if value.ndim:  # the count of batches is another
                np.testing.assert_array_equal(value, expected)
    built("ClipModel", backbone_weights="none.h5").build()  # a run that has its own weights does not need the file


def test_i3d_starts_with_a_file_per_stream(tmp_path: Path) -> None:
    network = randomise(Inception(inflated=True, width=1 / 16))
    network.build((None, None, 16, 16, 3))
    randomise(network)
    network.with_files().save_weights(tmp_path / "i3d.weights.h5")
    model = I3dModel(SPEC, inception_width=1 / 16, inception_weights=str(tmp_path / "i3d.weights.h5"))
    model.build()
    model.load_pretrained()
    for value, expected in zip(model.networks[0].get_weights(), network.get_weights(), strict=True):
        np.testing.assert_array_equal(value, expected)
    with pytest.raises(ArgumentError, match=r"^inception_weights=a: expected as many files as there are features, 2,"):
        I3dModel(BOTH, inception_weights="a")


def trained(num_devices: int, **hparams: Any) -> list[np.ndarray]:
    """The weights of a small model after two steps on three videos."""
    strategy = build_strategy(num_devices)
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = CLIP_MODELS["ClipModel"](SPEC, **NARROW, **hparams)
        model.build()
        settings = OptimizationConfig(optimizer="GradientDescentOptimizer", base_learning_rate=0.1)
        state = TrainState(model, settings, run_examples=1000)
    rows = batch() | {"labels": tf.eye(3, 4) > 0, "position": tf.zeros([7], tf.int64)}
    batches = tf.data.Dataset.from_tensors(rows).repeat(2)
    step = TrainStep(
        strategy,
        state,
        LOSSES["CrossEntropyLoss"],
        regularization_penalty=1.0,
        clip_gradient_norm=1.0,
        top_k=1,
        batch_spec=batches.element_spec,
    )
    assert step.run(iter(batches), 2) is not None
    return [weight.numpy() for weight in model.weights]


@pytest.mark.parametrize("hparams", [{}, {"chunk_size": 2, "freeze_moments": True}], ids=["moments", "chunks"])
def test_two_devices_reach_the_weights_of_one(hparams: dict[str, Any]) -> None:
    for one, two in zip(trained(1, **hparams), trained(2, **hparams), strict=True):
        np.testing.assert_allclose(two, one, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "features", "size", "millions"),
    [
        ("CnnLstmModel", ("rgb",), 32, 9),
        ("C3dModel", ("rgb",), 112, 79),
        ("TwoStreamModel", ("rgb", "flow"), 32, 12),
        ("FusedTwoStreamModel", ("rgb", "flow"), 32, 39),
        ("I3dModel", ("rgb", "flow"), 32, 25),
    ],
)
def test_models_have_the_published_sizes(
    name: str, features: tuple[str, ...], size: int, millions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Carreira & Zisserman 2017, table 1, for the 400 classes of Kinetics."""
    monkeypatch.setattr(inception, "STAGES", ALL_STAGES)
    channels = tuple({"rgb": 3, "flow": 2}[feature] for feature in features)
    model = built(name, DataSpec(features, channels, 400, "clip", max_frames=8, clip_size=size))
    count = sum(int(np.prod(weight.shape)) for weight in model.trainable_variables)
    assert abs(count / 1e6 - millions) < 1.0
