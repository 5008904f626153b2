"""Shards that were opened, as data sets of serialized records."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import tensorflow as tf

from yt8m.data.diagnosis import Examiner, find_layout
from yt8m.data.formats.base import Layout
from yt8m.data.shards import (
    FETCH_AGAIN,
    Damage,
    Shard,
    count_records,
    open_shards,
    require_shards,
    stored_records,
    without_advice,
)
from yt8m.data.skipping import SkippedRecords
from yt8m.errors import UserError
from yt8m.schema import DataSpec
from yt8m.storage import scheme


@dataclass(frozen=True)
class Source:
    """Shards that were opened, and how their records are stored.

    Attributes:
        shards: the files of records.
        layout: how their records store the features.
        sound_stretches: if damage is to be left out, tells first number and count of the stretches of sound records of
            a shard, `(N, 2)` int64, and its bytes.
    """

    shards: list[Shard]
    layout: Layout
    sound_stretches: Callable[[Shard], tuple[np.ndarray, np.int64]] | None = None

    def files(self, order: tf.Tensor | None = None) -> tf.data.Dataset:
        """Returns a pair of strings per shard, file and compression.

        Args:
            order: `(N,)` int, the numbers of the shards, in the order wanted; None for all shards as they are.
        """
        columns = (
            tf.constant([shard.file for shard in self.shards], tf.string),
            tf.constant([shard.compression for shard in self.shards], tf.string),
        )
        if order is not None:
            columns = tuple(tf.gather(column, order) for column in columns)
        return tf.data.Dataset.from_tensor_slices(columns)

    def in_order(self) -> tf.data.Dataset:
        """Returns the serialized records of all shards, one shard after another."""
        return self.files().flat_map(self.records)

    @tf.autograph.experimental.do_not_convert
    def records(self, file: tf.Tensor, compression: tf.Tensor, start: int | tf.Tensor = 0) -> tf.data.Dataset:
        """Returns the serialized records of a shard from one on; if damage is to be left out, those that are sound.

        Whenever a shard is opened, the lengths in it are checked first; at its end, whether it was cut meanwhile. Both
        fail with a `UserError`, which `explain_failure` finds in TensorFlow's message.

        Args:
            file: scalar string, the path of the shard.
            compression: scalar string, `GZIP` or empty.
            start: how many of the records that are not left out come before the first.
        """
        stored = tf.data.TFRecordDataset(file, compression_type=compression)
        if self.sound_stretches is None:
            count, num_bytes = tf.numpy_function(_count, [file, compression], [tf.int64, tf.int64], stateful=False)
            count = tf.where(count < 0, count, tf.maximum(count - start, 0))
            records = stored.skip(start).take(tf.ensure_shape(count, []))
        else:
            sound_stretches = self.sound_stretches

            def look(file: bytes, compression: bytes) -> tuple[np.ndarray, np.int64]:
                return sound_stretches(Shard(file.decode(), compression.decode()))

            stretches, num_bytes = tf.numpy_function(look, [file, compression], [tf.int64, tf.int64], stateful=False)
            stretches = tf.data.Dataset.from_tensor_slices(tf.ensure_shape(stretches, [None, 2]))
            records = stretches.flat_map(lambda stretch: stored.skip(stretch[0]).take(stretch[1])).skip(start)

        def is_cut(file: tf.Tensor) -> tf.Tensor:
            return tf.ensure_shape(tf.numpy_function(_check_end, [file, num_bytes], tf.bool, stateful=False), [])

        return records.concatenate(tf.data.Dataset.from_tensors(file).filter(is_cut))


def _count(file: bytes, compression: bytes) -> tuple[np.int64, np.int64]:
    """How many records, and bytes, a file has; -1, for all records, if that cannot be told without reading them all."""
    shard = Shard(file.decode(), compression.decode())
    if compression or scheme(shard.file):
        return np.int64(-1), np.int64(tf.io.gfile.stat(file).length)
    count, num_bytes, is_whole = count_records(shard.file)
    if not is_whole or not num_bytes:
        damages = (item for item in stored_records(shard) if isinstance(item, Damage))
        raise UserError(str(next(damages, Damage(shard.file, None, f"it is empty. {FETCH_AGAIN}"))))
    return np.int64(count), np.int64(num_bytes)


def _check_end(file: bytes, num_bytes: np.int64) -> np.bool_:
    """Fails if a file has fewer bytes than when it was opened: TensorFlow takes the cut for the end of the records."""
    if tf.io.gfile.exists(file) and tf.io.gfile.stat(file).length < num_bytes:
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
        return Source(shards, find_layout(shards, spec, labels_required, skip=False))
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
    return Source(shards, layout, partial(skipped.sound_stretches, examiner=examiner, files=names))
