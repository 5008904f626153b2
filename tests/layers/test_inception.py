"""Inception-v1 and I3D as published, convolution over time from its definition, and inflation."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from layer_checks import randomise

from tools import inflate_weights
from yt8m.arguments import ArgumentError
from yt8m.errors import UserError
from yt8m.layers import inception
from yt8m.layers.backbones import Backbone
from yt8m.layers.inception import Inception
from yt8m.layers.space_time import SpaceTimeConv, max_pool, repeat_ends

from oracles import models as oracles_models
from oracles import space_time as oracles

LENGTHS = (5, 3, 1)
PUBLISHED = {  # Carreira & Zisserman 2017, figure 3, for 64 frames of 224 x 224
    "Conv1a": (32, 112, 112, 64),
    "MaxPool2a": (32, 56, 56, 64),
    "Conv2b": (32, 56, 56, 64),
    "Conv2c": (32, 56, 56, 192),
    "MaxPool3a": (32, 28, 28, 192),
    "Mixed3b": (32, 28, 28, 256),
    "Mixed3c": (32, 28, 28, 480),
    "MaxPool4a": (16, 14, 14, 480),
    "Mixed4b": (16, 14, 14, 512),
    "Mixed4c": (16, 14, 14, 512),
    "Mixed4d": (16, 14, 14, 512),
    "Mixed4e": (16, 14, 14, 528),
    "Mixed4f": (16, 14, 14, 832),
    "MaxPool5a": (8, 7, 7, 832),
    "Mixed5b": (8, 7, 7, 832),
    "Mixed5c": (8, 7, 7, 1024),
}


@pytest.fixture
def one_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what is the same whatever the number of modules: building all of them takes a second."""
    monkeypatch.setattr(inception, "STAGES", {"Mixed3b": inception.STAGES["Mixed3b"]})


def clips(size: int = 5, channels: int = 2) -> tuple[np.ndarray, tf.Tensor]:
    """Clips of LENGTHS with garbage after their ends."""
    frames = np.random.default_rng(0).random((3, 6, size, size, channels)).astype(np.float32)
    return frames, tf.sequence_mask(LENGTHS, 6)


@pytest.mark.parametrize(
    ("kernel", "strides"),
    [((3, 3, 3), (1, 1, 1)), ((7, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2)), ((1, 3, 3), (1, 2, 2))],
)
def test_windows_are_those_of_the_definition(kernel: Any, strides: Any) -> None:
    frames, valid = clips()
    layer = SpaceTimeConv(4, kernel, strides)
    layer.build(frames.shape)
    randomise(layer)
    convolved, pooled = layer(frames, valid).numpy(), max_pool(frames, valid, kernel, strides).numpy()
    norm = layer.batch_norm
    for video, length in enumerate(LENGTHS):
        real = frames[video, :length]
        rows = oracles.over_windows(
            real, kernel, strides, 0.0, lambda window: np.tensordot(window, layer.kernel.numpy(), axes=4)
        )
        rows = oracles_models.normalise(rows, norm.moving_mean.numpy(), norm.moving_variance.numpy())
        expected = np.maximum(rows * norm.gamma.numpy() + norm.beta.numpy(), 0.0)
        np.testing.assert_allclose(convolved[video, : len(expected)], expected, rtol=0, atol=2e-5)
        maxima = oracles.over_windows(real, kernel, strides, 0.0, lambda window: window.max(axis=(0, 1, 2)))
        np.testing.assert_allclose(pooled[video, : len(maxima)], maxima, rtol=0, atol=1e-6)


def test_the_ends_of_a_clip_are_its_first_and_last_frame() -> None:
    frames = np.arange(1.0, 13.0, dtype=np.float32).reshape(3, 4, 1, 1, 1)
    padded = repeat_ends(frames, tf.sequence_mask([4, 2, 0], 4), size=4, stride=2).numpy()[..., 0, 0, 0]
    np.testing.assert_array_equal(padded, [[1, 1, 2, 3, 4, 4, 4], [5, 5, 6, 6, 6, 6, 6], [9, 9, 9, 9, 9, 9, 9]])


def test_layers_have_the_published_shapes() -> None:
    network, found = Inception(inflated=True), {}
    network.build((1, 64, 224, 224, 3))

    def trace(frames: tf.Tensor) -> None:
        ends = network.end_points(frames, tf.ones([1, 64], tf.bool), training=False)
        found.update({name: tuple(output.shape[2:]) for name, output, _ in ends})

    tf.function(trace, autograph=False).get_concrete_function(tf.TensorSpec([1, 64, 224, 224, 3]))
    assert found == {name: shape[1:] for name, shape in PUBLISHED.items()}


def test_lengths_are_those_published() -> None:
    network = Inception(inflated=True, width=1 / 64)
    frames = tf.zeros([1, 64, 32, 32, 3])
    network.build(frames.shape)
    ends = network.end_points(frames, tf.ones([1, 64], tf.bool), training=False)
    assert {name: output.shape[1] for name, output, _ in ends} == {name: s[0] for name, s in PUBLISHED.items()}


@pytest.mark.parametrize(
    ("inflated", "channels", "expected"),
    [
        # With a head of 1000 classes, 1,025,000 more: the 6,624,904 of the network with batch normalisation.
        (False, 3, 5_599_904),
        (True, 3, 12_287_264),
        (True, 2, 12_287_264 - 7 * 7 * 7 * 64),
    ],
)
def test_numbers_of_parameters(inflated: bool, channels: int, expected: int) -> None:
    network = Inception(inflated)
    network.build((None, None, 224, 224, channels))
    assert sum(int(np.prod(weight.shape)) for weight in network.trainable_weights) == expected


def pair(width: float, channels: int = 3) -> tuple[Inception, Inception]:
    """A network of frames with random weights, and what it is inflated to."""
    keras.utils.set_random_seed(1)
    frames, inflated = Inception(width=width), Inception(inflated=True, width=width)
    frames.build((None, None, 32, 32, 3))
    inflated.build((None, None, 32, 32, channels))
    ranges = {"gamma": (1.5, 2.5), "beta": (-0.2, 0.2), "moving_mean": (-0.2, 0.2), "moving_variance": (0.5, 1.0)}
    for index, weight in enumerate(frames.weights):
        if weight.name in ranges:
            weight.assign(np.random.default_rng(index).uniform(*ranges[weight.name], weight.shape))
    inflated.inflate(frames)
    return frames, inflated


def test_a_clip_that_does_not_change_has_the_answer_of_its_frame() -> None:
    frames, inflated = pair(width=1 / 8)
    pictures = np.random.default_rng(0).uniform(-1, 1, (3, 1, 32, 32, 3)).astype(np.float32)
    clip = np.repeat(pictures, 17, axis=1)
    clip[1, 5:], clip[2, 1:] = 7.0, -9.0  # padding
    expected, _ = frames(pictures, tf.ones([3, 1], tf.bool))
    seen, valid = inflated(clip, tf.sequence_mask([17, 5, 1], 17))
    np.testing.assert_array_equal(valid, [[True, True, True], [True, False, False], [True, False, False]])
    scale = np.max(np.abs(expected))
    for video, time in ((0, 0), (0, 1), (0, 2), (1, 0), (2, 0)):
        np.testing.assert_allclose(seen[video, time] / scale, expected[video, 0] / scale, rtol=0, atol=1e-5)
    # Other pictures have answers that differ by far more than the tolerance.
    assert np.max(np.abs(expected[0] - expected[1])) > 1e-3 * scale


def test_flow_is_read_by_the_mean_of_the_kernels_over_colours(one_module: None) -> None:
    frames, inflated = pair(width=1 / 16, channels=2)
    kernel = frames.stages["Conv1a"].kernel.numpy()
    seen = inflated.stages["Conv1a"].kernel.numpy()
    np.testing.assert_allclose(seen, np.repeat(np.repeat(kernel.mean(axis=3, keepdims=True), 2, 3), 7, 0) / 7)


def test_another_width_is_refused(one_module: None) -> None:
    frames, _ = pair(width=1 / 16)
    other = Inception(inflated=True, width=1 / 8)
    other.build((None, None, 32, 32, 3))
    with pytest.raises(ArgumentError, match=r"^width=0\.125: the network of frames has another one"):
        other.inflate(frames)


def inflated_file(**arguments: Any) -> None:
    values = flags.FlagValues()
    inflate_weights.define_flags(values)
    values(["tools.inflate_weights", *(f"--{name}={value}" for name, value in arguments.items())])
    inflate_weights.main(values)


def test_a_file_of_weights_is_inflated(one_module: None, tmp_path: Path) -> None:
    backbone = Backbone("InceptionV1", 32, backbone_width=1 / 16)
    backbone.network.save_weights(tmp_path / "2d.weights.h5")
    inflated_file(input=tmp_path / "2d.weights.h5", output=tmp_path / "3d.weights.h5", width=1 / 16)
    network = Inception(inflated=True, width=1 / 16)
    network.build((None, None, 32, 32, 3))
    network.with_files().load_weights(tmp_path / "3d.weights.h5")
    picture = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.uint8)
    clip = np.repeat((picture / 127.5 - 1.0)[:, np.newaxis], 4, axis=1).astype(np.float32)
    seen, _ = network(clip, tf.ones([1, 4], tf.bool))
    np.testing.assert_allclose(seen[:, 0], backbone.maps(tf.constant(picture)), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input": "none.weights.h5"}, r"--input=none\.weights\.h5: there is no such file"),
        ({"output": "x.h5"}, r"--output=x\.h5: expected the name of a new file, as NAME\.weights\.h5"),
        ({"channels": 0}, "--channels=0: expected a whole number from 1 to"),
        ({"width": -1}, "--width=-1.0: expected a number above 0, at most 16"),
    ],
)
def test_what_cannot_be_inflated_is_refused(
    one_module: None, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        inflated_file(**{"output": tmp_path / "3d.weights.h5", "width": 1 / 16} | arguments)
    assert list(tmp_path.iterdir()) == []
