r"""Makes frame-level records as YouTube-8M has them of video files, by networks for pictures and sound.

    python -m tools.extract_features --videos=VIDEOS --fit_pca=pca.npz --backbone=... --backbone_weights=...
    python -m tools.extract_features --videos=VIDEOS --output=DIR/train --pca=pca.npz --backbone=... \
        --backbone_weights=...

With a PCA the features are whitened and stored as bytes; without one they stay floats. docs/video.md has the details.
"""

import logging
import zlib
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags

from tools.video_shards import (
    VideoReader,
    check_shard_flags,
    check_video_flags,
    define_shard_flags,
    write_missing_shards,
)
from yt8m.arguments import check_fraction, check_positive, check_size, typed_as
from yt8m.cli import program
from yt8m.errors import UserError
from yt8m.progress import progress
from yt8m.video.inputs import InputOptions, network_inputs
from yt8m.video.listing import Video, list_videos

LOG = logging.getLogger("yt8m.video")

Features = dict[str, np.ndarray]
_FRAMES_AT_ONCE = 32


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of this program."""
    define_shard_flags(values)
    define, text = partial(flags.DEFINE_float, flag_values=values), partial(flags.DEFINE_string, flag_values=values)
    define("fps", 1.0, "Frames per second.")
    flags.DEFINE_integer("max_frames", 300, "Frames of a video after this one are cut off.", flag_values=values)
    text("backbone", "EfficientNetLite0", "Network for pictures: a model of keras.applications, or EfficientNetLite0.")
    text("backbone_weights", "", "File of its weights.")
    flags.DEFINE_integer("size", 224, "Height and width of the frames that it reads.", flag_values=values)
    define("crop", 0.0, "Side of the square in the middle that it sees, as a share of the short side; 0: all of it.")
    text("audio_weights", "", "File of the weights of VGGish: then the sound is read too.")
    text("fit_pca", "", "Write no records: fit a PCA with whitening to the features, and write it to this file.")
    flags.DEFINE_integer("pca_size", 1024, "Components that --fit_pca keeps.", flag_values=values)
    text("pca", "", "Whiten the features by this file and store them as bytes.")


def check_flags(values: flags.FlagValues) -> InputOptions:
    """Checks the flags of this program.

    Returns:
        What is taken of a video.

    Raises:
        UserError: if one is missing or makes no sense, or a package is not installed.
    """
    if values.fit_pca:
        check_video_flags(values)
        if values.output or values.pca:
            raise UserError("--fit_pca writes no records. Leave out --output and --pca; give --pca in a second call.")
    else:
        check_shard_flags(values)
    if not values.backbone_weights:
        raise UserError(
            f"--backbone_weights is missing: give the file of the weights of {values.backbone}. Features of a network "
            "that nobody trained mean nothing. docs/video.md says where there are some."
        )
    with typed_as("--"):
        check_positive(fps=values.fps)
        check_fraction(crop=values.crop)
        check_size(1, size=values.size, max_frames=values.max_frames, pca_size=values.pca_size)
    return InputOptions(values.fps, values.size, values.crop, values.max_frames, bool(values.audio_weights))


if __name__ == "__main__":
    # Before TensorFlow is loaded, so that --help and mistyped flags are answered at once.
    program.parse_flags(define_flags, check_flags)


def main(values: flags.FlagValues) -> None:
    """Fits a PCA, or writes the shards that are not there yet.

    Raises:
        UserError: if a flag, a video, a file of weights or the output cannot be used.
    """
    # 1. Networks first: wrong weights are found before the first video is decoded.
    options = check_flags(values)
    networks = _networks(values)
    read = partial(network_inputs, options=options)

    def features_of(inputs: Features) -> Features:
        return {name: networks[name](frames) for name, frames in inputs.items()}

    # 2. Either what all features have in common,
    if values.fit_pca:
        _fit_pca(values, read, features_of)
        return

    # 3. or a record per video.
    from yt8m.data.record_writing import frame_record
    from yt8m.data.whitening import WhiteningFile, quantise

    sizes = {name: network.size for name, network in networks.items()}
    whitenings = WhiteningFile.read(values.pca, sizes).whitenings if values.pca else {}

    def record_of(video: Video, inputs: Features) -> bytes:
        features = features_of(inputs)
        if values.pca:
            features = {name: quantise(whitenings[name](x)) for name, x in features.items()}
        return frame_record(video.id, video.labels, features)

    files = {name: values[name].value for name in ("backbone_weights", "audio_weights", "pca")}
    settings = {
        **asdict(options),
        "backbone": values.backbone,
        **{name: _checksum(str(path)) for name, path in files.items()},
    }
    write_missing_shards(values, settings, read, record_of)


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


def _networks(values: flags.FlagValues) -> dict[str, _Network]:
    """The networks by the name of the feature that they make."""
    import tensorflow as tf

    from yt8m.layers.backbones import Backbone, load_weights
    from yt8m.layers.vggish import AUDIO_SIZE, vggish

    def compiled(compute: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[np.ndarray], np.ndarray]:
        graph = tf.function(compute, autograph=False)
        return lambda frames: graph(frames).numpy()

    with typed_as("--"):
        backbone = Backbone(values.backbone, values.size, frozen=True)
        backbone.load(values.backbone_weights)
        networks = {"rgb": _Network(backbone.width, compiled(backbone.vectors))}
        if values.audio_weights:
            sound = vggish()
            load_weights(sound, values.audio_weights, "audio_weights")
            networks["audio"] = _Network(AUDIO_SIZE, compiled(partial(sound, training=False)))
    return networks


def _fit_pca(
    values: flags.FlagValues, read: Callable[[str], Features | str], features_of: Callable[[Features], Features]
) -> None:
    from yt8m.data.whitening import Moments, WhiteningFile

    videos, _ = list_videos(values.videos)
    moments: dict[str, Moments] = {}
    with progress("reading videos", len(videos)) as advance:
        reader = VideoReader(values, videos, read, advance)
        for _, inputs in reader.read(videos):
            for name, features in features_of(inputs).items():
                moments.setdefault(name, Moments()).add(features)
    reader.check_some(len(videos))
    WhiteningFile({name: it.whitening(values.pca_size) for name, it in moments.items()}).write(values.fit_pca)
    LOG.info("%s is fitted to %d frames of %d videos.", values.fit_pca, moments["rgb"].count, len(videos))


def _checksum(path: str) -> str:
    """Tells one file from another, wherever it is."""
    return f"{zlib.crc32(Path(path).read_bytes()):08x}" if path else ""


if __name__ == "__main__":
    program.run(main)
