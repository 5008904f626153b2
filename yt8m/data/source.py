"""Shards that were opened, as data sets of serialized records."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import tensorflow as tf

from yt8m.data.diagnosis import Examiner, find_layout
from yt8m.data.formats.base import Layout, format_of
from yt8m.data.shards import (
    FETCH_AGAIN,
    Damage,
    Shard,
    measure_records,
    open_shards,
    require_shards,
    stored_records,
    without_advice,
)
from yt8m.data.skipping import SkippedRecords
from yt8m.errors import UserError
from yt8m.schema import DataSpec
from yt8m.shard_cache import announce, local_path
from yt8m.storage import scheme

_BUFFER_BYTES = 1 << 18  # as tf.data.TFRecordDataset has it
_ALL = -1  # for `Dataset.take`


@dataclass(frozen=True)
class Source:
    """Shards that were opened, and how their records are stored.

    Attributes:
        shards: the files of records.
        layout: how their records store the features.
        sound_stretches: if damage is to be left out, tells first number and count of the stretches of sound records of
            a shard, `(N, 2)` int64, and its bytes.
        cut: if a stored record holds several examples or none, returns these, each as a record; then what is said here
            of records is true of these.
    """

    shards: list[Shard]
    layout: Layout
    sound_stretches: Callable[[Shard], tuple[np.ndarray, np.int64]] | None = None
    cut: Callable[[bytes], list[bytes]] | None = None

    @property
    def is_remote(self) -> bool:
        """Whether shards have to be copied before they are read."""
        return any(scheme(shard.file) for shard in self.shards)

    def columns(self, order: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns two `(N,)` strings, the files and the compressions of the shards.

        Args:
            order: `(N,)` int, the numbers of the shards, in the order wanted; None for all shards as they are.
        """
        files = tf.constant([shard.file for shard in self.shards], tf.string)
        compressions = tf.constant([shard.compression for shard in self.shards], tf.string)
        if order is not None:
            files, compressions = tf.gather(files, order), tf.gather(compressions, order)
        if self.is_remote:
            files = tf.ensure_shape(tf.numpy_function(_announced, [files], tf.string, stateful=False), files.shape)
        return files, compressions

    def files(self) -> tf.data.Dataset:
        """Returns a pair of strings per shard, file and compression."""
        return tf.data.Dataset.from_tensor_slices(self.columns())

    def in_order(self) -> tf.data.Dataset:
        """Returns the serialized records of all shards, one shard after another."""
        return self.files().flat_map(self.records)

    @tf.autograph.experimental.do_not_convert
    def records(self, file: tf.Tensor, compression: tf.Tensor, start: int | tf.Tensor = 0) -> tf.data.Dataset:
        """Returns the serialized records of a shard from one on; if damage is to be left out, those that are sound.

        Whenever a shard is opened, the lengths in it are checked first; at its end, whether it was cut meanwhile. Both
        fail with a `UserError`, which `explain_failure` finds in TensorFlow's message. It is for functions of datasets
        only: TensorFlow cannot write down an iterator's graph that begins with it.

        Args:
            file: scalar string, the path of the shard.
            compression: scalar string, `GZIP` or empty.
            start: how many of the records that are not left out come before the first.
        """
        path = file
        if self.is_remote:
            path = tf.ensure_shape(tf.numpy_function(_local_path, [file], tf.string, stateful=False), [])
        # How many examples a record is cut into is not known before it is: they are counted from the first record on.
        start, first_example = (start, 0) if self.cut is None else (0, start)
        if self.sound_stretches is None:
            place = tf.numpy_function(_place_of_record, [file, compression, start], tf.int64, stateful=False)
            place = tf.ensure_shape(place, [4])
            # Not `tf.unstack`: in TensorFlow 2.17 the process dies if `skip` or `take` gets an output that is not the
            # first of its operation.
            offset, skipped, count, num_bytes = (place[i] for i in range(4))
            records = _stored_from(path, compression, offset).skip(skipped).take(count)
        else:
            sound_stretches = self.sound_stretches

            def look(file: bytes, compression: bytes) -> tuple[np.ndarray, np.int64]:
                return sound_stretches(Shard(file.decode(), compression.decode()))

            stretches, num_bytes = tf.numpy_function(look, [file, compression], [tf.int64, tf.int64], stateful=False)
            stretches = tf.data.Dataset.from_tensor_slices(tf.ensure_shape(stretches, [None, 2]))
            stored = _stored_from(path, compression, 0)
            records = stretches.flat_map(lambda stretch: stored.skip(stretch[0]).take(stretch[1])).skip(start)
        if self.cut is not None:
            records = records.map(_examples(self.cut)).unbatch().skip(first_example)

        def is_cut(file: tf.Tensor) -> tf.Tensor:
            return tf.ensure_shape(tf.numpy_function(_check_end, [file, num_bytes], tf.bool, stateful=False), [])

        return records.concatenate(tf.data.Dataset.from_tensors(file).filter(is_cut))


def _examples(cut: Callable[[bytes], list[bytes]]) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the function from a record, scalar string, to its examples, `(n,)` string."""

    @tf.autograph.experimental.do_not_convert
    def examples(serialized: tf.Tensor) -> tf.Tensor:
        as_array = tf.numpy_function(lambda record: np.array(cut(record), object), [serialized], tf.string, False)
        return tf.ensure_shape(as_array, [None])

    return examples


def stored_records_of(file: tf.Tensor, compression: tf.Tensor) -> tf.data.Dataset:
    """Returns the serialized records of a shard as it is; nothing is checked, for nothing of it runs in Python.

    Args:
        file: scalar string, a path that TensorFlow opens.
        compression: scalar string, `GZIP` or empty.
    """
    return _stored_from(file, compression, 0)


def _stored_from(file: tf.Tensor, compression: tf.Tensor, offset: tf.Tensor | int) -> tf.data.Dataset:
    """All records of a shard from the one on that begins at a byte."""
    variant = tf.raw_ops.TFRecordDatasetV2(
        filenames=[file],
        compression_type=compression,
        buffer_size=_BUFFER_BYTES,
        byte_offsets=tf.cast([offset], tf.int64),
    )
    return tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string))


def _announced(files: np.ndarray) -> np.ndarray:
    announce([file.decode() for file in files])
    return files


def _local_path(file: bytes) -> bytes:
    return local_path(file.decode()).encode()


def _place_of_record(file: bytes, compression: bytes, number: np.int64) -> np.ndarray:
    """How to reach a record, and how far one may read from there.

    Returns:
        `(4,)` int64: a byte offset; how many records to skip from there; how many follow then, -1 for all; and how many
        bytes the file has. A compressed file has to be unpacked to find its records: there the offset is 0.

    Raises:
        UserError: if a length does not fit into the file.
    """
    shard = Shard(file.decode(), compression.decode())
    if compression:
        return np.array([0, number, _ALL, Path(local_path(shard.file)).stat().st_size])
    extent = measure_records(shard.file, int(number))
    if not extent.is_whole or not extent.num_bytes:
        damages = (item for item in stored_records(shard) if isinstance(item, Damage))
        raise UserError(str(next(damages, Damage(shard.file, None, f"it is empty. {FETCH_AGAIN}"))))
    return np.array([extent.offset, 0, extent.num_after, extent.num_bytes])


def _check_end(file: bytes, num_bytes: np.int64) -> np.bool_:
    """Fails if a file has fewer bytes than when it was opened: TensorFlow takes the cut for the end of the records."""
    path = Path(local_path(file.decode()))
    if path.exists() and path.stat().st_size < num_bytes:
        raise UserError(
            f"{file.decode()}: it became shorter while it was read. Leave shards alone while a program runs."
        )
    return np.False_


def open_source(
    files: Sequence[str], spec: DataSpec, labels_required: bool, skipped: SkippedRecords | None = None
) -> Source:
    """Opens shards, and finds out from their first records how features are stored.

    Args:
        files: paths of shards.
        spec: what the records hold.
        labels_required: whether a record without a labels feature is damage.
        skipped: where damage that is left out is noted; None if damage is an error.

    Raises:
        UserError: if a file is no shard, or the first record is not what `spec` says; if damage is left out, only if
            nothing is left.
    """
    if skipped is None:
        shards = require_shards(files)
        layout = find_layout(shards, spec, labels_required, skip=False)
        return Source(shards, layout, cut=_cut(spec, layout))
    opened = open_shards(files)
    shards = [shard for shard in opened if isinstance(shard, Shard)]
    damages = [damage for damage in opened if isinstance(damage, Damage)]
    if not shards:
        raise UserError(f"None of the {len(files)} files can be read. {without_advice(damages[0])}")
    for damage in damages:
        skipped.add(damage)
    layout = find_layout(shards, spec, labels_required, skip=True)
    examiner = Examiner(spec, layout, labels_required)
    names = [shard.file for shard in shards]
    sound_stretches = partial(skipped.sound_stretches, examiner=examiner, files=names)
    return Source(shards, layout, sound_stretches, _cut(spec, layout))


def _cut(spec: DataSpec, layout: Layout) -> Callable[[bytes], list[bytes]] | None:
    record_format = format_of(spec)
    return partial(record_format.cut, spec=spec, layout=layout) if record_format.cuts_records else None
