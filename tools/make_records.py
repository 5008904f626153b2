r"""Makes records of features that other programs computed, in files of NumPy, CSV, JSON, Parquet or MediaPipe.

    python -m tools.make_records --input='features/*.npz' --labels_file=labels.csv --output=DIR/train \
        --frame_features --feature_names=rgb,audio --feature_sizes=1024,128

A row is a video. Features of frames are quantised to bytes, as YouTube-8M's are. A program that was ended goes on where
it was: finished shards are kept. docs/data.md tells what each kind of file holds.
"""

from absl import flags

from yt8m.arguments import check_one_of, check_size, typed_as
from yt8m.cli import program, run_flags
from yt8m.errors import UserError
from yt8m.packages import PARQUET, pyarrow
from yt8m.progress import Advance, progress

_NUMBERS = ("floats", "bytes")


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of this program."""
    run_flags.define_data_flags(values)
    define = flags.DEFINE_string
    define("input", "", "Files to read: comma-separated patterns.", flag_values=values)
    define("labels_file", "", "A CSV of their videos' labels: VideoId,Labels.", flag_values=values)
    define("output", "", "How the paths of the shards begin: DIR/train for DIR/train0000.tfrecord.", flag_values=values)
    flags.DEFINE_integer("videos_per_shard", 1000, "Videos of a shard; the last has the rest.", flag_values=values)
    flags.DEFINE_boolean(
        "quantise", True, "Frames: store floats as bytes. Otherwise as lists of floats.", flag_values=values
    )
    define("numbers", "floats", "Frames in CSV and JSON: floats, or bytes, 0 to 255.", flag_values=values)


def check_flags(values: flags.FlagValues) -> None:
    """Checks the flags of this program.

    Raises:
        UserError: if one is missing or makes no sense, or a package is not installed.
    """
    if not values.input or not values.output:
        raise UserError("--input and --output are needed: files to read, and how the shards begin, as in DIR/train.")
    with typed_as("--"):
        check_size(1, videos_per_shard=values.videos_per_shard)
        check_one_of(_NUMBERS, numbers=values.numbers)
    if PARQUET in values.input:
        pyarrow()


if __name__ == "__main__":
    # Before TensorFlow is loaded, so that --help and mistyped flags are answered at once.
    program.parse_flags(define_flags, check_flags)

import logging
import zlib
from collections import deque
from collections.abc import Iterator
from itertools import chain, islice

import numpy as np
import tensorflow as tf

from yt8m.data.formats.base import RecordFaultError
from yt8m.data.shard_writing import claim_output, is_written, shard_path, write_shard
from yt8m.data.stored_videos import StoredVideo, check_is_stored_whole, record_of
from yt8m.data.video_files.base import Row
from yt8m.data.video_files.kinds import reader_of
from yt8m.data.video_labels import VideoLabels, read_labels
from yt8m.data.whitening import quantise
from yt8m.schema import QUANTISATION_RANGE, DataSpec

import readers

LOG = logging.getLogger("yt8m.make_records")

_SHARE_WORTH_A_WARNING = 0.01


def main(values: flags.FlagValues) -> None:
    """Writes the shards that are not there yet.

    Raises:
        UserError: if a flag, a file or a row cannot be used; the message names file and row.
    """
    # 1. What there is to read, and what is to be made of it.
    check_flags(values)
    spec = run_flags.data_spec_from_flags(values)
    check_is_stored_whole(spec)
    files = readers.find_files(values.input, "input")
    sizes = [tf.io.gfile.stat(file) for file in files]
    for file, size in zip(files, sizes, strict=True):
        reader_of(file)
        if file.endswith(PARQUET):
            pyarrow()
        if not size.length:
            raise UserError(f"{file}: it is empty. Write it again, or leave it out of --input.")
    labels = read_labels(values.labels_file, spec.num_classes) if values.labels_file else None

    # 2. The same rows in the same shards as before, if there was a before.
    listing = "\n".join(f"{file},{it.length},{it.mtime_nsec}" for file, it in zip(files, sizes, strict=True))
    settings = {
        **{name: values[name].value for name in ("feature_names", "feature_sizes", "num_classes", "numbers")},
        **{name: values[name].value for name in ("quantise", "videos_per_shard")},
        "record_format": spec.record_format,
        "labels_file": _checksum(tf.io.gfile.GFile(values.labels_file, "rb").read()) if values.labels_file else "",
        "input": _checksum(listing.encode()),
    }
    claim_output(values.output, settings)

    # 3. Row after row into shard after shard. The rows of a shard that is there are read and counted, no more.
    ranges = _Ranges()
    with progress("reading files", len(files)) as advance:
        rows = _unlike(_rows(files, spec, values.numbers == "bytes", advance))
        num_shards = num_videos = 0
        for first in rows:
            of_shard = chain([first], islice(rows, values.videos_per_shard - 1))
            path = shard_path(values.output, num_shards)
            num_shards += 1
            if is_written(path):
                deque(of_shard, maxlen=0)
                continue
            num_videos += write_shard(path, (_record(row, spec, labels, values.quantise, ranges) for row in of_shard))

    # 4. All in all.
    LOG.info("%d videos written, to %s*: %d shards.", num_videos, values.output, num_shards)
    for line in ranges.warnings():
        LOG.warning("%s", line)


def _rows(files: list[str], spec: DataSpec, are_bytes: bool, advance: Advance) -> Iterator[Row]:
    for file in files:
        is_empty = True
        for row in reader_of(file)(spec, are_bytes).read(file):
            is_empty = False
            yield row
        if is_empty:
            raise UserError(f"{file}: it holds no videos. Write it again, or leave it out of --input.")
        advance(1)


def _unlike(rows: Iterator[Row]) -> Iterator[Row]:
    """Checks that no id occurs twice; about 150 bytes per video."""
    places: dict[str, str] = {}
    for where, video in rows:
        if video.id in places:
            raise UserError(f"{where}: its id {video.id!r} is that of {places[video.id]} too; expected each id once.")
        places[video.id] = where
        yield where, video


class _Ranges:
    """Counts, per feature, the numbers that bytes cannot reach."""

    def __init__(self) -> None:
        self._outside: dict[str, int] = {}
        self._total: dict[str, int] = {}

    def add(self, name: str, features: np.ndarray) -> None:
        """Adds features `(T, D)` float."""
        outside = int(np.count_nonzero(np.abs(features) > QUANTISATION_RANGE))
        self._outside[name] = self._outside.get(name, 0) + outside
        self._total[name] = self._total.get(name, 0) + features.size

    def warnings(self) -> Iterator[str]:
        """Yields a line for each feature of which much was cut off."""
        for name, total in self._total.items():
            share = self._outside[name] / max(total, 1)
            if share > _SHARE_WORTH_A_WARNING:
                yield (
                    f"{share:.0%} of the numbers of '{name}' are outside [-2, 2], which bytes reach, and were cut off "
                    "there. Whiten the features first, or pass --noquantise."
                )


def _record(row: Row, spec: DataSpec, labels: VideoLabels | None, quantised: bool, ranges: _Ranges) -> bytes:
    """The serialized record of a row."""
    where, video = row
    if labels is not None:
        if video.labels is not None:
            raise UserError(f"{where}: it has labels of its own, and --labels_file was given. Leave one of them out.")
        if video.id not in labels:
            raise UserError(f"{where}: {labels.source} has no row for video {video.id!r}. Add one, or leave it out.")
        video = video._replace(labels=labels.of([video.id])[1].tolist())
    try:
        features = {name: _features(name, array, spec) for name, array in video.features.items()}
        if quantised and spec.record_format == "frame":
            for name, array in features.items():
                if array.dtype != np.uint8:
                    ranges.add(name, array)
                    features[name] = quantise(array)
        return record_of(StoredVideo(video.id, video.labels, features), spec)
    except RecordFaultError as fault:
        raise UserError(f"{where}: {fault}") from fault


def _features(name: str, array: np.ndarray, spec: DataSpec) -> np.ndarray:
    """A feature as it was found, as uint8 or float32 of the right number of axes, and finite."""
    has_frames = spec.record_format == "frame"
    if array.ndim != 1 + has_frames:
        expected = "(frames, width)" if has_frames else "(width,)"
        raise RecordFaultError(f"'{name}' has the shape {array.shape}, expected {expected}.")
    if has_frames and array.dtype == np.uint8:
        return array
    if array.dtype.kind not in ("f" if has_frames else "fiu"):
        expected = "floats, or bytes as uint8" if has_frames else "numbers"
        raise RecordFaultError(f"'{name}' holds {array.dtype}, expected {expected}.")
    with np.errstate(over="ignore"):  # what becomes infinite is refused as such
        floats = array.astype(np.float32)
    if not np.isfinite(floats).all():
        place = np.argwhere(~np.isfinite(floats))[0]
        frame = f" at frame {place[0]}" if has_frames else ""
        raise RecordFaultError(f"'{name}' holds {array[tuple(place)]}{frame}, expected finite numbers.")
    return floats


def _checksum(content: bytes) -> str:
    return f"{zlib.crc32(content):08x}"


if __name__ == "__main__":
    program.run(main)
