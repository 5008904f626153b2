r"""Makes records as tools.extract_features does, by many workers: a pipeline of Apache Beam.

    python -m tools.beam_extract_features --videos=VIDEOS --output=DIR/train --pca=pca.npz --backbone_weights=... \
        -- --direct_running_mode=multi_processing --direct_num_workers=2

What follows `--` are options of Beam. The shards are those of tools.extract_features; a shard is one worker's.
"""

import sys

from absl import flags

from tools.video_features import define_feature_flags, extraction_from_flags
from tools.video_shards import check_shard_flags, define_shard_flags
from yt8m.cli import program


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of this program."""
    define_shard_flags(values)
    define_feature_flags(values)


if __name__ == "__main__":
    # Before TensorFlow is loaded, so that --help and mistyped flags are answered at once.
    OPTIONS = program.parse_flags(define_flags, check_shard_flags, extraction_from_flags, num_arguments=sys.maxsize)

from collections.abc import Sequence
from functools import partial
from typing import Any

from tools.beam_pipeline import (
    check_options,
    load_beam,
    load_result,
    run_pipeline,
    save_result,
    shared_folder,
    spread,
)
from tools.extracted_shards import ShardWriter, networks_of
from tools.video_shards import claimed_shards, name_skipped
from yt8m.runs.directory import join


def main(values: flags.FlagValues, options: Sequence[str] = ()) -> None:
    """Writes the shards that are not there yet.

    Args:
        values: the flags.
        options: of Beam.

    Raises:
        UserError: if a flag, a video, a file of weights or the output cannot be used, or Beam is not installed.
    """
    # 1. Networks first: wrong weights are found before a worker starts.
    check_shard_flags(values)
    extraction = extraction_from_flags(values)
    check_options(options)
    beam = load_beam()
    networks_of(extraction)
    shards = claimed_shards(values, extraction.settings())

    # 2. Workers write shards; what is wrong with videos comes back.
    with shared_folder(values.output) as folder:
        path = join(folder, "faults")

        def build(pipeline: Any) -> None:
            written = pipeline | beam.Create(list(shards.missing.items()))
            written |= spread(ShardWriter(extraction, values.on_bad_video))
            written | beam.combiners.ToList() | "Save faults" >> beam.Map(partial(save_result, path=path))

        run_pipeline(build, options)
        faults_of = dict(load_result(path))

    # 3. In the order of the videos.
    faults = [fault for shard in shards.missing for fault in faults_of[shard]]
    for fault in faults:
        name_skipped(fault)
    shards.finish(faults)


if __name__ == "__main__":
    program.run(lambda values: main(values, OPTIONS))
