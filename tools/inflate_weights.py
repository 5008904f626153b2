"""Inflates Inception-v1 over frames to I3D: the weights that I3dModel starts with.

python -m tools.inflate_weights --input=RUN_OR_FILE --output=i3d.weights.h5 [--channels=2] [--width=1]
"""

from absl import flags

from yt8m.cli import program


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of this program."""
    define = flags.DEFINE_string
    define(
        "input",
        "",
        "Directory of a run with --hparams=backbone=InceptionV1, or a file of that network's weights.",
        flag_values=values,
    )
    define("output", "", "The file that is written, NAME.weights.h5.", flag_values=values)
    flags.DEFINE_integer("channels", 3, "Channels that I3D reads: 3 of pictures, 2 of flow.", flag_values=values)
    flags.DEFINE_float("width", 1.0, "Of a file: the factor of its numbers of kernels.", flag_values=values)


if __name__ == "__main__":
    # Before TensorFlow is loaded, so that --help and mistyped flags are answered at once.
    program.parse_flags(define_flags)

import logging
from pathlib import Path

from yt8m.arguments import check_size, check_width, typed_as
from yt8m.errors import UserError
from yt8m.layers.backbones import Backbone
from yt8m.layers.inception import Inception
from yt8m.runs.directory import load_config, require_checkpoint

import experiment

LOG = logging.getLogger("yt8m.inflate_weights")

_SIZE = 32  # of the frames of a network that is read from a file; its weights fit any


def main(values: flags.FlagValues) -> None:
    """Writes the inflated weights.

    Raises:
        UserError: if the input is neither a run with that network nor a file of its weights, or the output is no name
            of a file of weights, or is there.
    """
    with typed_as("--"):
        check_size(1, channels=values.channels)
        check_width(width=values.width)
    if not values.output.endswith(".weights.h5") or Path(values.output).exists():
        raise UserError(f"--output={values.output}: expected the name of a new file, as NAME.weights.h5.")
    source = frame_network(values.input, values.width)
    target = Inception(inflated=True, width=source.width)
    target.build((None, None, _SIZE, _SIZE, values.channels))
    target.inflate(source)
    target.with_files().save_weights(values.output)
    LOG.info("%s holds the weights of I3D, inflated from %s.", values.output, values.input)


def frame_network(path: str, width: float) -> Inception:
    """Returns the network of frames of a run, or of a file of weights.

    Args:
        path: the directory or the file.
        width: of a file, the factor of its numbers of kernels.

    Raises:
        UserError: if there is neither, or it holds another network.
    """
    if not Path(path).is_dir():
        backbone = Backbone("InceptionV1", _SIZE, backbone_width=width)
        with typed_as("", {"backbone_weights": "--input"}):
            backbone.load(path)
        return backbone.network.layers[-1].inception
    config = load_config(path)
    if config.model.hparams.get("backbone") != "InceptionV1":
        raise UserError(
            f"--input={path} holds a run of {config.model.name} without InceptionV1. Give one that train.py trained "
            "with --hparams=backbone=InceptionV1."
        )
    model = experiment.trained_model(config, path, require_checkpoint(path))
    return model.backbones[0].network.layers[-1].inception


if __name__ == "__main__":
    program.run(main)
