r"""Makes frame-level records as YouTube-8M has them of video files, by networks for pictures and sound.

    python -m tools.extract_features --videos=VIDEOS --fit_pca=pca.npz --backbone=... --backbone_weights=...
    python -m tools.extract_features --videos=VIDEOS --output=DIR/train --pca=pca.npz --backbone=... \
        --backbone_weights=...

With a PCA the features are whitened and stored as bytes; without one they stay floats. docs/video.md has the details.
"""

import logging

from absl import flags

from tools.video_features import (
    Extraction,
    FeatureNetworks,
    define_feature_flags,
    extraction_from_flags,
)
from tools.video_shards import (
    VideoReader,
    check_shard_flags,
    check_some,
    check_video_flags,
    define_process_flag,
    define_shard_flags,
    write_missing_shards,
)
from yt8m.arguments import check_size, typed_as
from yt8m.cli import program
from yt8m.errors import UserError
from yt8m.progress import progress
from yt8m.video.listing import list_videos

LOG = logging.getLogger("yt8m.video")


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of this program."""
    define_shard_flags(values)
    define_process_flag(values)
    define_feature_flags(values)
    flags.DEFINE_string(
        "fit_pca",
        "",
        "Write no records: fit a PCA with whitening to the features, and write it to this file.",
        flag_values=values,
    )
    flags.DEFINE_integer("pca_size", 1024, "Components that --fit_pca keeps.", flag_values=values)


def check_flags(values: flags.FlagValues) -> Extraction:
    """Checks the flags of this program.

    Returns:
        What is computed of a video.

    Raises:
        UserError: if one is missing or makes no sense, or a package is not installed.
    """
    if values.fit_pca:
        check_video_flags(values)
        if values.output or values.pca:
            raise UserError("--fit_pca writes no records. Leave out --output and --pca; give --pca in a second call.")
    else:
        check_shard_flags(values)
    with typed_as("--"):
        check_size(1, pca_size=values.pca_size)
    return extraction_from_flags(values)


if __name__ == "__main__":
    # Before TensorFlow is loaded, so that --help and mistyped flags are answered at once.
    program.parse_flags(define_flags, check_flags)


def main(values: flags.FlagValues) -> None:
    """Fits a PCA, or writes the shards that are not there yet.

    Raises:
        UserError: if a flag, a video, a file of weights or the output cannot be used.
    """
    # Networks first: wrong weights are found before the first video is decoded.
    extraction = check_flags(values)
    networks = FeatureNetworks(extraction)
    if values.fit_pca:
        _fit_pca(values, extraction, networks)
    else:
        write_missing_shards(values, extraction.settings(), extraction.read, networks.record)


def _fit_pca(values: flags.FlagValues, extraction: Extraction, networks: FeatureNetworks) -> None:
    from yt8m.data.whitening import Moments, WhiteningFile

    videos, _ = list_videos(values.videos)
    moments: dict[str, Moments] = {}
    with progress("reading videos", len(videos)) as advance:
        reader = VideoReader(videos, extraction.read, values.on_bad_video, values.num_processes, advance)
        for _, inputs in reader.read(videos):
            for name, features in networks.features(inputs).items():
                moments.setdefault(name, Moments()).add(features)
    check_some(reader.faults, len(videos))
    WhiteningFile({name: it.whitening(values.pca_size) for name, it in moments.items()}).write(values.fit_pca)
    LOG.info("%s is fitted to %d frames of %d videos.", values.fit_pca, moments["rgb"].count, len(videos))


if __name__ == "__main__":
    program.run(main)
