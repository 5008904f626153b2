"""Shards that were opened, as data sets of serialized records."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import tensorflow as tf

from yt8m.data.diagnosis import Examiner, find_layout
from yt8m.data.formats.base import Layout
from yt8m.data.shards import Damage, Shard, open_shards, require_shards
from yt8m.data.skipping import SkippedRecords
from yt8m.errors import UserError
from yt8m.schema import DataSpec


@dataclass(frozen=True)
class Source:
    """Shards that were opened, and how their records are stored.

    Attributes:
        shards: the files of records.
        layout: how their records store the features.
        sound_stretches: if damage is to be left out, tells first number and count of the stretches of sound records of
            a shard, `(N, 2)` int64.
    """

    shards: list[Shard]
    layout: Layout
    sound_stretches: Callable[[Shard], np.ndarray] | None = None

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
        compressions = {shard.compression for shard in self.shards}
        if self.sound_stretches is None and len(compressions) == 1:
            files = [shard.file for shard in self.shards]
            return tf.data.TFRecordDataset(files, compression_type=compressions.pop())
        return self.files().flat_map(self.records)

    @tf.autograph.experimental.do_not_convert
    def records(self, file: tf.Tensor, compression: tf.Tensor) -> tf.data.Dataset:
        """Returns the serialized records of a shard, without damaged ones if these are to be skipped.

        Args:
            file: scalar string, the path of the shard.
            compression: scalar string, `GZIP` or empty.
        """
        stored = tf.data.TFRecordDataset(file, compression_type=compression)
        sound_stretches = self.sound_stretches
        if sound_stretches is None:
            return stored

        def look(file: bytes, compression: bytes) -> np.ndarray:
            return sound_stretches(Shard(file.decode(), compression.decode()))

        # The answer for a shard is remembered, so that asking again is free and changes nothing.
        stretches = tf.numpy_function(look, [file, compression], tf.int64, stateful=False)
        return tf.data.Dataset.from_tensor_slices(tf.ensure_shape(stretches, [None, 2])).flat_map(
            lambda stretch: stored.skip(stretch[0]).take(stretch[1])
        )


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
    if not shards:
        raise UserError(f"None of the {len(files)} files can be read. {opened[0]}")
    for damage in opened:
        if isinstance(damage, Damage):
            skipped.add(damage)
    layout = find_layout(shards, spec, labels_required, skip=True)
    examiner = Examiner(spec, layout, labels_required)
    return Source(shards, layout, partial(skipped.sound_stretches, examiner=examiner))
