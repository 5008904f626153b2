r"""Writes what records hold to files of NumPy, CSV, JSON or Parquet, which tools.make_records reads again.

    python -m tools.read_records --data_pattern='DIR/train*.tfrecord' --output=OUT/train --format=parquet \
        --frame_features --feature_names=rgb,audio --feature_sizes=1024,128

Nothing is changed: frames stay bytes, vectors stay float32. A program that was ended goes on where it was: finished
files are kept.
"""

from absl import flags

from yt8m.arguments import check_one_of, check_size, typed_as
from yt8m.cli import program, run_flags
from yt8m.errors import UserError
from yt8m.packages import pyarrow
from yt8m.progress import Advance, progress

_FORMATS = ("npz", "csv", "jsonl", "parquet")


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of this program."""
    run_flags.define_data_flags(values)
    run_flags.define_cache_flags(values)
    define = flags.DEFINE_string
    define("data_pattern", "", "Shards to read: comma-separated patterns.", flag_values=values)
    define("output", "", "How the paths of the files begin: OUT/train for OUT/train0000.npz.", flag_values=values)
    define("format", "npz", f"Kind of files: {', '.join(_FORMATS)}.", flag_values=values)
    flags.DEFINE_integer("videos_per_file", 1000, "Videos of a file; the last has the rest.", flag_values=values)


def check_flags(values: flags.FlagValues) -> None:
    """Checks the flags of this program.

    Raises:
        UserError: if one is missing or makes no sense, or a package is not installed.
    """
    if not values.output:
        raise UserError("--output is missing: give how the paths of the files begin, as in OUT/train.")
    with typed_as("--"):
        check_size(1, videos_per_file=values.videos_per_file)
        check_one_of(_FORMATS, format=values.format)
    if values.format == "parquet":
        pyarrow()


if __name__ == "__main__":
    # Before TensorFlow is loaded, so that --help and mistyped flags are answered at once.
    program.parse_flags(define_flags, check_flags)

import logging
import zlib
from collections import deque
from collections.abc import Iterator
from itertools import chain, islice

from yt8m.data.diagnosis import find_layout
from yt8m.data.formats.base import RecordFaultError
from yt8m.data.shard_writing import claim_output, is_written, shard_path
from yt8m.data.shards import Damage, Record, Shard, require_shards, stored_records
from yt8m.data.stored_videos import check_is_stored_whole, stored_video
from yt8m.data.video_files.kinds import writer_of

import readers

LOG = logging.getLogger("yt8m.read_records")


def main(values: flags.FlagValues) -> None:
    """Writes the files that are not there yet.

    Raises:
        UserError: if a flag, a shard or a record cannot be used, or a file cannot be written.
    """
    # 1. The shards, and how their records store what is wanted.
    check_flags(values)
    spec = run_flags.data_spec_from_flags(values)
    check_is_stored_whole(spec)
    shards = require_shards(readers.find_files(values.data_pattern, "data_pattern"))
    layout = find_layout(shards, spec, labels_required=False, skip=False)

    # 2. The same videos in the same files as before, if there was a before.
    listing = "\n".join(f"{shard.file},{shard.num_bytes},{shard.ends.hex()}" for shard in shards)
    settings = {
        **{name: values[name].value for name in ("feature_names", "feature_sizes", "format", "videos_per_file")},
        "record_format": spec.record_format,
        "data_pattern": f"{zlib.crc32(listing.encode()):08x}",
    }
    suffix = f".{values.format}"
    claim_output(values.output, settings, suffix)

    # 3. Record after record into file after file.
    num_files = num_videos = 0
    with progress("reading shards", len(shards)) as advance:
        records = _records(shards, advance)
        for first in records:
            of_file = chain([first], islice(records, values.videos_per_file - 1))
            path = shard_path(values.output, num_files, suffix)
            num_files += 1
            if is_written(path):
                deque(of_file, maxlen=0)
                continue
            with writer_of(values.format)(path, spec.feature_names) as writer:
                for record in of_file:
                    try:
                        writer.add(stored_video(record.serialized, spec, layout))
                    except RecordFaultError as fault:
                        raise UserError(str(Damage(record.file, record.number, str(fault)))) from fault
                    num_videos += 1
    LOG.info("%d videos written, to %s*: %d files.", num_videos, values.output, num_files)


def _records(shards: list[Shard], advance: Advance) -> Iterator[Record]:
    for shard in shards:
        for item in stored_records(shard):
            if isinstance(item, Damage):
                raise UserError(str(item))
            yield item
        advance(1)


if __name__ == "__main__":
    program.run(main)
