"""Networks over the real frames of clips: what they see, keep, read from files and refuse."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from layer_checks import randomise

from yt8m.arguments import ArgumentError
from yt8m.layers import backbones
from yt8m.layers.backbones import Backbone, Network, backbone_names, in_chunks
from yt8m.layers.normalisation import MaskedBatchNormalization

LENGTHS = (5, 0, 2)
VALID = tf.sequence_mask(LENGTHS, 5)
SIZE = 16


def clips(garbage: int = 0, channels: int = 3) -> tf.Tensor:
    """Clips of LENGTHS, with `garbage` as padding."""
    frames = np.random.default_rng(0).integers(0, 256, (3, 5, SIZE, SIZE, channels))
    return tf.constant(np.where(VALID.numpy()[:, :, None, None, None], frames, garbage), tf.uint8)


def gradients(network: Backbone, frames: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
    with tf.GradientTape() as tape:
        vectors = network(frames, VALID, training=True)
        loss = tf.reduce_sum(tf.square(vectors))
    return vectors, tape.gradient(loss, [weight.value for weight in network.trainable_variables])


def test_a_vector_is_the_mean_of_the_map_or_the_map_and_padding_is_0() -> None:
    mean, whole = (Backbone("SmallCnn", SIZE, frame_features=features) for features in ("average", "map"))
    whole.network.set_weights(mean.network.get_weights())
    assert (mean.width, whole.width, whole.map_shape) == (64, 2 * 2 * 64, (2, 2, 64))
    vectors, maps = mean(clips(), VALID), whole(clips(), VALID)
    expected = mean.network(clips()[0].numpy() / 127.5 - 1.0)
    np.testing.assert_allclose(maps[0], tf.reshape(expected, (5, -1)), rtol=0, atol=1e-6)
    np.testing.assert_allclose(vectors[0], tf.reduce_mean(expected, axis=(1, 2)), rtol=0, atol=1e-6)
    assert not np.any(vectors.numpy()[~VALID.numpy()])
    assert not np.any(maps.numpy()[~VALID.numpy()])


def test_moments_are_those_of_real_frames() -> None:
    network = Backbone("SmallCnn", SIZE)
    network(clips(garbage=255), VALID, training=True)
    real = tf.boolean_mask(clips(), VALID).numpy() / 127.5 - 1.0
    first = next(layer for layer in network.network.layers if isinstance(layer, keras.layers.Conv2D))
    np.testing.assert_allclose(
        network.normalisations[0].moving_mean, np.mean(first(real), axis=(0, 1, 2)), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("wrap", [lambda f: f, tf.function(autograph=False)], ids=["eager", "graph"])
@pytest.mark.parametrize("chunk_size", [1, 3, 7, 100])
def test_chunks_are_all_frames_at_once(chunk_size: int, wrap: Callable[..., Any]) -> None:
    whole = randomise(Backbone("SmallCnn", SIZE, freeze_moments=True))
    parts = randomise(Backbone("SmallCnn", SIZE, freeze_moments=True, chunk_size=chunk_size))
    expected, seen = (wrap(gradients)(network, clips()) for network in (whole, parts))
    np.testing.assert_allclose(seen[0], expected[0], rtol=1e-5)
    for value, other in zip(seen[1], expected[1], strict=True):
        np.testing.assert_allclose(value, other, rtol=0, atol=1e-5 * np.max(np.abs(other)))


def test_chunks_keep_nothing_of_what_they_compute() -> None:
    calls = []
    weight = tf.Variable([[2.0]])

    def compute(rows: tf.Tensor) -> tf.Tensor:
        calls.append(len(rows))
        return tf.square(tf.cast(rows, tf.float32) @ weight)

    with tf.GradientTape() as tape:
        y = in_chunks(compute, tf.constant([[1], [2], [3]], tf.uint8), 2, 1)
    np.testing.assert_array_equal(y, [[4], [16], [36]])
    # d/dw of (1 + 4 + 9) w^2 = 28 w, at w = 2
    np.testing.assert_allclose(tape.gradient(y, weight), [[56.0]])
    assert calls == [2, 1, 2, 1]  # once for y, once more for the gradient


def test_a_frozen_network_is_as_at_evaluation_and_has_no_gradient() -> None:
    network = randomise(Backbone("SmallCnn", SIZE, frozen=True))
    before = network.network.get_weights()
    with tf.GradientTape(persistent=True) as tape:
        vectors = network(clips(), VALID, training=True)
    assert network.trainable_variables == []
    assert tape.gradient(vectors, network.network.weights[0].value) is None
    np.testing.assert_array_equal(vectors, network(clips(), VALID, training=False))
    for old, new in zip(before, network.network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_frozen_moments_stay_and_all_else_is_trained() -> None:
    network = randomise(Backbone("SmallCnn", SIZE, freeze_moments=True))
    vectors, found = gradients(network, clips())
    np.testing.assert_array_equal(vectors, network(clips(), VALID, training=False))
    assert len(found) == 9  # three kernels, and gamma and beta of three normalisations
    assert all(np.any(gradient != 0) for gradient in found)


def test_flow_gets_a_channel_without_motion_and_grey_pictures_three_alike() -> None:
    network = Backbone("SmallCnn", SIZE)
    flow, grey = clips(channels=2)[0], clips(channels=1)[0]
    third = tf.fill((*flow.shape[:3], 1), tf.constant(128, tf.uint8))
    np.testing.assert_array_equal(network.maps(flow), network.maps(tf.concat([flow, third], axis=-1)))
    np.testing.assert_array_equal(network.maps(grey), network.maps(tf.concat([grey] * 3, axis=-1)))


def test_each_application_reads_pixels_as_it_was_trained_to() -> None:
    pixel = tf.constant([[[[255.0, 0.0, 51.0]]]])
    scaled = {name: backbones.networks()[name].scale(pixel).numpy().ravel() for name in backbone_names()}
    np.testing.assert_allclose(scaled["MobileNetV2"], [1.0, -1.0, -0.6], atol=1e-6)
    # BGR, less the mean of ImageNet
    np.testing.assert_allclose(scaled["VGG16"], [51 - 103.939, 0 - 116.779, 255 - 123.68], rtol=1e-5)
    # (x / 255 - mean) / standard deviation
    np.testing.assert_allclose(
        scaled["DenseNet121"], [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.2 - 0.406) / 0.225], rtol=1e-5
    )
    np.testing.assert_array_equal(scaled["EfficientNetB0"], [255.0, 0.0, 51.0])  # the network itself scales


def make_keras_network(size: int | None, width: float = 1.0) -> keras.Model:
    x = frames = keras.Input((size, size, 3))
    x = keras.layers.BatchNormalization(scale=False, name="norm")(keras.layers.Conv2D(4, 3)(x))
    return keras.Model(frames, keras.layers.Dropout(0.5)(keras.layers.ReLU()(x)))


@pytest.fixture
def keras_network(monkeypatch: pytest.MonkeyPatch) -> Network:
    """A network of layers as applications have them."""
    network = Network(make_keras_network, lambda frames: frames)
    monkeypatch.setitem(backbones.networks(), "Test", network)
    return network


def test_a_network_of_keras_is_its_own_at_evaluation_and_draws_nothing(keras_network: Network, tmp_path: Path) -> None:
    original = keras_network.build(SIZE, 1.0)
    for index, weight in enumerate(original.weights):
        weight.assign(np.random.default_rng(index).uniform(0.1, 1.0, weight.shape))
    original.save_weights(tmp_path / "x.weights.h5")
    network = Backbone("Test", SIZE)
    network.load(str(tmp_path / "x.weights.h5"))
    np.testing.assert_allclose(network.maps(clips()[0]), original(tf.cast(clips()[0], tf.float32)), rtol=1e-5)
    # The scale that the original has not is not trained.
    assert [weight.name for weight in network.trainable_variables] == ["kernel", "bias", "beta"]
    (norm,) = network.normalisations
    assert isinstance(norm, MaskedBatchNormalization)
    before = norm.moving_mean.numpy()
    first = network(clips(), VALID, training=True)
    # What was read is moved, not replaced, by the first batch.
    convolved = network.network.layers[1](tf.cast(tf.boolean_mask(clips(), VALID), tf.float32))
    expected = 0.999 * before + 0.001 * np.mean(convolved, axis=(0, 1, 2))
    np.testing.assert_allclose(norm.moving_mean, expected, rtol=1e-4)
    np.testing.assert_array_equal(first, network(clips(), VALID, training=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": "MobileNet2"}, r"backbone=MobileNet2: there is no such choice\. Did you mean MobileNetV2"),
        ({"backbone": "VGG16"}, r"backbone=VGG16: it is not for frames of 16 x 16 \(Input size must be at least 32x32"),
        (
            {"backbone": "MobileNetV2", "size": 32, "backbone_width": 0.5},
            r"backbone_width=0\.5: MobileNetV2 has one width\.",
        ),
        ({"backbone_width": 0.0}, r"backbone_width=0\.0: expected a number above 0, at most 16\."),
        ({"frame_features": "sum"}, r"frame_features=sum: there is no such choice\."),
        ({"chunk_size": -1}, r"chunk_size=-1: expected at least 0\."),
        ({"chunk_size": 4}, r"chunk_size=4: every chunk of frames would be normalised by its own moments\. Add freeze"),
    ],
)
def test_what_cannot_be_is_named(arguments: dict[str, Any], message: str) -> None:
    all_arguments: dict[str, Any] = {"backbone": "SmallCnn", "size": SIZE} | arguments
    with pytest.raises(ArgumentError, match=f"^{message}"):
        Backbone(**all_arguments)


@pytest.mark.parametrize("has_head", [False, True])
def test_a_whole_model_of_keras_gives_its_weights_and_nothing_else(
    has_head: bool, keras_network: Network, tmp_path: Path
) -> None:
    """Its description, by which Keras would build it, may name any function to be called; it is not even looked at."""
    original = keras_network.build(SIZE, 1.0)
    for index, weight in enumerate(original.weights):
        weight.assign(np.random.default_rng(index).uniform(0.1, 1.0, weight.shape))
    head = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(original.output))
    whole = keras.Model(original.input, head if has_head else original.output)
    whole.save(tmp_path / "whole.keras")
    with zipfile.ZipFile(tmp_path / "whole.keras") as archive, zipfile.ZipFile(tmp_path / "x.keras", "w") as copy:
        copy.writestr("config.json", '{"module": "os", "class_name": "abort", "config": {}}')
        copy.writestr("model.weights.h5", archive.read("model.weights.h5"))
    network = Backbone("Test", SIZE)
    network.load(str(tmp_path / "x.keras"))
    np.testing.assert_allclose(network.maps(clips()[0]), original(tf.cast(clips()[0], tf.float32)), rtol=1e-5)


def test_files_that_hold_no_such_weights_are_named(tmp_path: Path) -> None:
    network = Backbone("SmallCnn", SIZE)
    with pytest.raises(ArgumentError, match=r"^backbone_weights=.*none\.h5: there is no such file\.$"):
        network.load(str(tmp_path / "none.h5"))
    (tmp_path / "text.weights.h5").write_text("text")
    Backbone("SmallCnn", SIZE, backbone_width=2.0).network.save_weights(tmp_path / "wide.weights.h5")
    make_keras_network(SIZE).save_weights(tmp_path / "other.weights.h5")
    (tmp_path / "text.keras").write_text("text")
    with zipfile.ZipFile(tmp_path / "empty.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    make_keras_network(SIZE).save(tmp_path / "other.keras")
    for name in ("text.weights.h5", "wide.weights.h5", "other.weights.h5", "text.keras", "empty.keras", "other.keras"):
        with pytest.raises(ArgumentError, match=rf"^backbone_weights=.*{name}: it does not hold the weights of this"):
            network.load(str(tmp_path / name))
