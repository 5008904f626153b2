"""One way from a video file to a record of its features, for tools.extract_features and tools.beam_extract_features."""

import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from yt8m.arguments import check_fraction, check_positive, check_size, typed_as
from yt8m.errors import UserError
from yt8m.video.inputs import InputOptions, network_inputs
from yt8m.video.listing import Video

Features = dict[str, np.ndarray]
_FRAMES_AT_ONCE = 32


def define_feature_flags(values: flags.FlagValues) -> None:
    """Defines the flags that say what is computed of a video."""
    define, text = partial(flags.DEFINE_float, flag_values=values), partial(flags.DEFINE_string, flag_values=values)
    define("fps", 1.0, "Frames per second.")
    flags.DEFINE_integer("max_frames", 300, "Frames of a video after this one are cut off.", flag_values=values)
    text("backbone", "EfficientNetLite0", "Network for pictures: a model of keras.applications, or EfficientNetLite0.")
    text("backbone_weights", "", "File of its weights.")
    flags.DEFINE_integer("size", 224, "Height and width of the frames that it reads.", flag_values=values)
    define("crop", 0.0, "Side of the square in the middle that it sees, as a share of the short side; 0: all of it.")
    text("audio_weights", "", "File of the weights of VGGish: then the sound is read too.")
    text("pca", "", "Whiten the features by this file and store them as bytes.")


@dataclass(frozen=True)
class Extraction:
    """What is computed of a video, in names and numbers: any process makes the same records of them.

    Attributes:
        options: what is taken of the file.
        backbone: the network for pictures.
        backbone_weights: the file of its weights.
        audio_weights: the file of those of VGGish; empty without sound.
        pca: the file of the whitenings; without one features are stored as floats.
    """

    options: InputOptions
    backbone: str
    backbone_weights: str
    audio_weights: str
    pca: str

    def read(self, path: str) -> Features | str:
        """Returns what the networks read of a video file, as `network_inputs` does."""
        return network_inputs(path, self.options)

    def settings(self) -> dict[str, Any]:
        """Returns all that decides what records hold, by flag: files by a checksum, for it is the same anywhere."""
        files = {name: getattr(self, name) for name in ("backbone_weights", "audio_weights", "pca")}
        checksums = {name: f"{zlib.crc32(Path(x).read_bytes()):08x}" if x else "" for name, x in files.items()}
        return {**asdict(self.options), "backbone": self.backbone, **checksums}


def extraction_from_flags(values: flags.FlagValues) -> Extraction:
    """Turns the flags of `define_feature_flags` into what is computed of a video.

    Raises:
        UserError: if one is missing or makes no sense.
    """
    if not values.backbone_weights:
        raise UserError(
            f"--backbone_weights is missing: give the file of the weights of {values.backbone}. Features of a network "
            "that nobody trained mean nothing. docs/video.md says where there are some."
        )
    with typed_as("--"):
        check_positive(fps=values.fps)
        check_fraction(crop=values.crop)
        check_size(1, size=values.size, max_frames=values.max_frames)
    options = InputOptions(values.fps, values.size, values.crop, values.max_frames, bool(values.audio_weights))
    return Extraction(options, values.backbone, values.backbone_weights, values.audio_weights, values.pca)


class _Network(NamedTuple):
    """A network over frames or patches of sound.

    Attributes:
        size: the number of features that it gives.
        compute: maps `(N, ...)` to `(N, size)` float32.
    """

    size: int
    compute: Callable[[np.ndarray], np.ndarray]

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Computes some `frames` `(T, ...)` at a time, always as many, so that the graph is made once: `(T, size)`."""
        missing = -len(frames) % _FRAMES_AT_ONCE
        padded = np.pad(frames, [(0, missing)] + [(0, 0)] * (frames.ndim - 1))
        blocks = np.split(padded, len(padded) // _FRAMES_AT_ONCE)
        return np.concatenate([self.compute(block) for block in blocks])[: len(frames)]


class FeatureNetworks:
    """The networks of an extraction with their weights, and the whitenings.

    Args:
        extraction: names them and their files.

    Raises:
        UserError: if a file of weights or of whitenings cannot be used.
    """

    def __init__(self, extraction: Extraction):
        from yt8m.data.whitening import WhiteningFile  # TensorFlow comes with it

        self._networks = _networks(extraction)
        sizes = {name: network.size for name, network in self._networks.items()}
        self._whitenings = WhiteningFile.read(extraction.pca, sizes).whitenings if extraction.pca else {}

    def features(self, inputs: Features) -> Features:
        """Maps what was read of a video, `(T, ...)` by name of the feature, to `(T, D)` float32."""
        return {name: self._networks[name](frames) for name, frames in inputs.items()}

    def record(self, video: Video, inputs: Features) -> bytes:
        """Returns the serialized record of a video.

        Args:
            video: its id and labels.
            inputs: `(T, ...)` by name of the feature, what was read of it.
        """
        from yt8m.data.record_writing import frame_record
        from yt8m.data.whitening import quantise

        features = self.features(inputs)
        features.update({name: quantise(whiten(features[name])) for name, whiten in self._whitenings.items()})
        return frame_record(video.id, video.labels, features)


def _networks(extraction: Extraction) -> dict[str, _Network]:
    """The networks by the name of the feature that they make."""
    import tensorflow as tf

    from yt8m.layers.backbones import Backbone, load_weights
    from yt8m.layers.vggish import AUDIO_SIZE, vggish

    def compiled(compute: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[np.ndarray], np.ndarray]:
        graph = tf.function(compute, autograph=False)
        return lambda frames: graph(frames).numpy()

    with typed_as("--"):
        backbone = Backbone(extraction.backbone, extraction.options.size, frozen=True)
        backbone.load(extraction.backbone_weights)
        networks = {"rgb": _Network(backbone.width, compiled(backbone.vectors))}
        if extraction.audio_weights:
            sound = vggish()
            load_weights(sound, extraction.audio_weights, "audio_weights")
            networks["audio"] = _Network(AUDIO_SIZE, compiled(partial(sound, training=False)))
    return networks
