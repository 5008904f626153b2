"""Convolutional networks without their heads, over the real frames of clips: those of keras.applications and others."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import keras
import numpy as np
import tensorflow as tf

from yt8m.arguments import ArgumentError, check_at_least, check_one_of, check_width
from yt8m.errors import first_line
from yt8m.layers.efficientnet_lite import efficientnet_lite0, lite_pixels, load_lite_weights
from yt8m.layers.inception import FrameInception
from yt8m.layers.layer_list import LayerList
from yt8m.layers.normalisation import MaskedBatchNormalization
from yt8m.schema import FLOW_ZERO

FRAME_FEATURES = ("average", "map")


@dataclass(frozen=True)
class Network:
    """How a network is built, and what it reads.

    Attributes:
        build: `(size, width) -> model`: the network over frames `(N, size, size, 3)` float, its output a feature map
            `(N, h, w, D)`; `width` is a factor of the number of channels, 1 where `has_width` is False.
        scale: maps frames `(N, S, S, 3)` float32 in [0, 255] to what the network reads, of the same shape.
        load: reads a file of weights into a model of `build`.
        has_width: whether there are narrower and wider versions of it.
    """

    build: Callable[[int | None, float], keras.Model]
    scale: Callable[[tf.Tensor], tf.Tensor]
    load: Callable[[keras.Model, str], None] = keras.Model.load_weights
    has_width: bool = False


@cache
def networks() -> dict[str, Network]:
    """Returns the networks that a backbone may be, by name."""
    applications = {name: _application(make) for name, make in vars(keras.applications).items() if callable(make)}
    own = {
        "EfficientNetLite0": Network(lambda size, width: efficientnet_lite0(size), lite_pixels, load_lite_weights),
        "InceptionV1": Network(_inception_v1, to_unit_range, has_width=True),
        "SmallCnn": Network(_small_cnn, to_unit_range, has_width=True),
    }
    return own | applications


class Backbone(keras.layers.Layer):
    """A convolutional network over the real frames of clips: a vector per frame.

        y[b, t] = mean over places of network(x[b, t])   or   all places of network(x[b, t]) in a row

    Real frames alone enter the network, folded into one batch; so the moments of its batch normalisation are theirs,
    on all replicas, and padding costs nothing. Its batch normalisation is replaced by `MaskedBatchNormalization`, and
    its dropout and stochastic depth, whose random numbers would depend on the device, are left out.

    With `chunk_size` the network computes so many frames at a time and keeps nothing of them but y. For the gradient
    each chunk is computed once more. Memory is then that of one chunk, and y and the gradients are the same up to
    rounding.

    Args:
        backbone: a model of `keras.applications`, such as `MobileNetV2`; `EfficientNetLite0`; `InceptionV1`; or
            `SmallCnn`, three convolutions with 16, 32 and 64 channels.
        size: S, the height and width of the frames.
        backbone_width: a factor of the numbers of channels, for networks that have widths.
        frame_features: `average`, the mean of the map's places; or `map`, the whole map.
        frozen: whether the network is not trained; its moments are then frozen too.
        freeze_moments: whether batch normalisation in training is by the moving moments, as at evaluation, which then
            stay as they are.
        chunk_size: the number of frames that are computed at a time; 0 for all.

    Raises:
        UserError: if there is no such network, it is not for frames of this size or width, or `chunk_size` is given
            where each chunk would be normalised by other moments.

    Source: Fernando & Gould 2016 and Ng et al. 2015 train such networks through a pooling over time; recomputation as
    in Chen et al. 2016, "Training deep nets with sublinear memory cost".
    """

    def __init__(
        self,
        backbone: str,
        size: int,
        *,
        backbone_width: float = 1.0,
        frame_features: str = "average",
        frozen: bool = False,
        freeze_moments: bool = False,
        chunk_size: int = 0,
        **kwargs: Any,
    ):
        check_one_of(backbone_names(), backbone=backbone)
        check_width(backbone_width=backbone_width)
        check_one_of(FRAME_FEATURES, frame_features=frame_features)
        check_at_least(1, size=size)
        check_at_least(0, chunk_size=chunk_size)
        kind = networks()[backbone]
        if backbone_width != 1.0 and not kind.has_width:
            raise ArgumentError(f"backbone_width={backbone_width}: {backbone} has one width. Leave it out.")
        super().__init__(autocast=False, **kwargs)
        self.kind, self.size, self.frame_features = kind, size, frame_features
        self.make_network = partial(_built, kind, backbone, size, backbone_width)
        self.network = _without_chance(self.make_network())
        # Checkpoints do not follow a model made of layers; the attributes of this list are their names there.
        self.members = LayerList(self, "part", [layer for layer in self.network.layers if layer.weights])
        self.normalisations = [
            layer for layer in self.network._flatten_layers() if isinstance(layer, MaskedBatchNormalization)
        ]
        self.moments_are_frozen = frozen or freeze_moments
        self.chunk_size = chunk_size
        self.trainable = not frozen
        if chunk_size and self.normalisations and not self.moments_are_frozen:
            raise ArgumentError(
                f"chunk_size={chunk_size}: every chunk of frames would be normalised by its own moments. Add "
                "freeze_moments=True, or leave it out."
            )

    @property
    def map_shape(self) -> tuple[int, int, int]:
        """The height, width and number of channels of the network's output, (h, w, D)."""
        return tuple(self.network.output_shape[1:])

    @property
    def width(self) -> int:
        """The number of features per frame."""
        return int(np.prod(self.map_shape)) if self.frame_features == "map" else self.map_shape[-1]

    def build(self, input_shape: Any = None) -> None:
        """Creates nothing: the network has its weights from the start."""

    def call(self, frames: tf.Tensor, valid: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Computes a vector per real frame.

        Args:
            frames: `(B, T, S, S, channels)` uint8: 3 channels of a picture; 1, which is repeated; or 2 of optical
                flow, to which a third without motion is added.
            valid: `(B, T)` bool, the padding mask: True for real frames.
            training: whether to normalise by the moments of the batch, if these are not frozen.

        Returns:
            `(B, T, width)` float32, 0 where padded.
        """
        compute = partial(self.vectors, training=training)
        vectors = vectors_of_real_frames(compute, frames, valid, self.chunk_size, self.width)
        return vectors if self.trainable else tf.stop_gradient(vectors)

    def vectors(self, frames: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Maps frames `(N, S, S, channels)` uint8 to their features `(N, width)` float32."""
        maps = self.maps(frames, training=training)
        if self.frame_features == "map":
            return tf.reshape(maps, (tf.shape(maps)[0], self.width))
        return tf.reduce_mean(maps, axis=(1, 2))

    def maps(self, frames: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Maps frames `(N, S, S, channels)` uint8 to feature maps `(N, h, w, D)` float32."""
        channels = frames.shape[-1]
        if channels == 1:
            frames = tf.repeat(frames, 3, axis=-1)
        elif channels == 2:
            frames = tf.pad(frames, [[0, 0]] * 3 + [[0, 1]], constant_values=FLOW_ZERO)
        frames = self.kind.scale(tf.cast(frames, tf.float32))
        return tf.cast(self.network(frames, training=training and not self.moments_are_frozen), tf.float32)

    def load(self, path: str) -> None:
        """Reads the network's weights, its moving moments included, from a file.

        Raises:
            UserError: if there is no such file, or it holds the weights of another network.
        """
        original = self.make_network()
        load_weights(original, path, "backbone_weights", self.kind.load)
        for source, layer in zip(original.layers, self.network.layers, strict=True):
            _copy_weights(source, layer)
        for layer in self.normalisations:  # else the first batches would replace the moments that were read
            layer.end_warm_up()


def load_weights(
    network: keras.Model,
    path: str,
    argument: str,
    load: Callable[[keras.Model, str], None] = keras.Model.load_weights,
) -> None:
    """Reads the weights of a network from a file. Of a `.keras` file the weights alone are read, and nothing is run.

    Args:
        network: the built network.
        path: of the file.
        argument: the name of the argument that gave the path, for messages.
        load: reads the file into the network.

    Raises:
        UserError: if there is no such file, or it holds the weights of another network.
    """
    if not Path(path).is_file():
        raise ArgumentError(f"{argument}={path}: there is no such file.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # of layers that Keras would leave as they are
            load(network, path)
    except (ValueError, KeyError, OSError, TypeError, BadZipFile, UserWarning) as error:
        raise ArgumentError(
            f"{argument}={path}: it does not hold the weights of this network ({first_line(error)}). Give weights "
            "without a head, as model.save_weights writes them, or a .keras file of the network."
        ) from error


def backbone_names() -> list[str]:
    """Returns the names of all networks that a backbone may be, in alphabetical order."""
    return sorted(networks())


def vectors_of_real_frames(
    compute: Callable[[tf.Tensor], tf.Tensor], frames: tf.Tensor, valid: tf.Tensor, chunk_size: int, width: int
) -> tf.Tensor:
    """Applies a network to the real frames of clips alone.

    Args:
        compute: the network, `(n, ...) -> (n, width)` float32.
        frames: `(B, T, ...)` uint8.
        valid: `(B, T)` bool, the padding mask: True for real frames.
        chunk_size: the number of frames that are computed at a time, as by `in_chunks`; 0 for all.
        width: the number of features per frame.

    Returns:
        `(B, T, width)` float32, 0 where padded.
    """
    real = tf.boolean_mask(frames, valid)
    num_real = tf.shape(real)[0]
    # TensorFlow's convolution of no frames has the wrong shape on a CPU; so one black frame is computed instead.
    real = tf.pad(real, [[0, tf.cast(tf.equal(num_real, 0), tf.int32)], *[[0, 0]] * (frames.shape.rank - 2)])
    vectors = in_chunks(compute, real, chunk_size, width) if chunk_size else compute(real)
    shape = (*tf.unstack(tf.shape(valid, tf.int64)), width)
    return tf.ensure_shape(tf.scatter_nd(tf.where(valid), vectors[:num_real], shape), (None, None, width))


def in_chunks(compute: Callable[[tf.Tensor], tf.Tensor], frames: tf.Tensor, chunk_size: int, width: int) -> tf.Tensor:
    """Applies a function to some rows at a time, and keeps nothing for the gradient but its arguments.

        y = [compute(frames[:k]), compute(frames[k : 2 k]), ...]

    Args:
        compute: a function `(n, ...) -> (n, width)` float32, each row a function of the same row and of variables.
        frames: `(N, ...)` uint8; no gradient flows to them.
        chunk_size: k, at least 1.
        width: the number of columns of y.

    Returns:
        y, `(N, width)` float32.
    """
    starts = tf.range(0, tf.shape(frames)[0], chunk_size)

    def each_chunk(visit: Callable[[tf.Tensor, list[tf.Tensor]], list[tf.Tensor]], state: list[tf.Tensor]) -> Any:
        """Calls `visit(start, state) -> state` for each chunk, one after the other."""
        _, state = tf.while_loop(
            lambda index, _: index < tf.size(starts),
            lambda index, state: (index + 1, visit(starts[index], state)),
            (tf.constant(0), state),
            parallel_iterations=1,
        )
        return state

    @tf.autograph.experimental.do_not_convert
    @tf.custom_gradient
    def apply(frames: tf.Tensor) -> Any:
        def forward(start: tf.Tensor, state: list[tf.TensorArray]) -> list[tf.TensorArray]:
            return [state[0].write(start // chunk_size, compute(frames[start : start + chunk_size]))]

        chunks = tf.TensorArray(tf.float32, tf.size(starts), infer_shape=False, element_shape=(None, width))
        vectors = each_chunk(forward, [chunks])[0].concat()

        def gradient(upstream: tf.Tensor, variables: Any = None) -> Any:
            if not variables:
                return None

            def backward(start: tf.Tensor, sums: list[tf.Tensor]) -> list[tf.Tensor]:
                rows = slice(start, start + chunk_size)
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    tape.watch(variables)
                    vectors = compute(frames[rows])
                return [
                    total + part
                    for total, part in zip(
                        sums,
                        tape.gradient(vectors, variables, upstream[rows], tf.UnconnectedGradients.ZERO),
                        strict=True,
                    )
                ]

            return None, each_chunk(backward, [tf.zeros_like(variable) for variable in variables])

        return vectors, gradient

    return apply(frames)


def _application(make: Callable[..., keras.Model]) -> Network:
    module = getattr(keras.applications, make.__module__.rpartition(".")[2])

    def build(size: int | None, width: float) -> keras.Model:
        del width
        return make(include_top=False, weights=None, input_shape=(size, size, 3))

    return Network(build, module.preprocess_input)


def _small_cnn(size: int | None, width: float) -> keras.Model:
    x = frames = keras.Input((size, size, 3))
    for channels in (16, 32, 64):
        x = keras.layers.Conv2D(max(1, round(channels * width)), 3, padding="same", use_bias=False)(x)
        x = keras.layers.ReLU()(MaskedBatchNormalization()(x))
        x = keras.layers.MaxPooling2D(padding="same")(x)
    return keras.Model(frames, x)


def _inception_v1(size: int | None, width: float) -> keras.Model:
    frames = keras.Input((size, size, 3))
    return keras.Model(frames, FrameInception(width)(frames))


def to_unit_range(frames: tf.Tensor) -> tf.Tensor:
    """Maps `frames` float of any shape from [0, 255] to [-1, 1]."""
    return frames / 127.5 - 1.0


def _built(kind: Network, name: str, size: int, width: float) -> keras.Model:
    try:
        return kind.build(size, width)
    except ValueError as error:
        raise ArgumentError(
            f"backbone={name}: it is not for frames of {size} x {size} ({first_line(error)}). Give larger ones, or "
            "another backbone."
        ) from error


def _without_chance(network: keras.Model) -> keras.Model:
    """Returns a network with its batch normalisation under our control, and nothing random."""

    def replaced(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, keras.layers.BatchNormalization):
            return _FrameNormalization(epsilon=layer.epsilon, name=layer.name, dtype=layer.dtype_policy)
        if isinstance(layer, keras.layers.Dropout):
            return keras.layers.Identity(name=layer.name, dtype=layer.dtype_policy)
        return layer

    if all(replaced(layer) is layer for layer in network.layers):
        return network
    copy = keras.models.clone_model(network, clone_function=replaced)
    for source, layer in zip(network.layers, copy.layers, strict=True):
        if isinstance(source, keras.layers.BatchNormalization):  # what the original does not train is not trained here
            layer.gamma.trainable, layer.beta.trainable = source.scale, source.center
    return copy


class _FrameNormalization(MaskedBatchNormalization):
    """Takes the place of Keras' batch normalisation, which is also called with a mask, always None here."""

    def call(self, x: tf.Tensor, mask: None = None, training: bool = False) -> tf.Tensor:
        """Normalises `x` `(N, h, w, D)` float: the same shape and dtype."""
        return super().call(x, training=training)


def _copy_weights(source: keras.layers.Layer, layer: keras.layers.Layer) -> None:
    if isinstance(source, keras.layers.BatchNormalization):
        for weight in source.weights:
            getattr(layer, weight.name).assign(weight)
    else:
        layer.set_weights(source.get_weights())
