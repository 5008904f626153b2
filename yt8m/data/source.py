"""Shards that were opened, as data sets of serialized records."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import tensorflow as tf

from yt8m.data.diagnosis import Examiner, find_layout
from yt8m.data.formats.base import Layout
from yt8m.data.shards import Damage, Shard, open_shards, require_shards
from yt8m.data.skipping import SkippedRecords
from yt8m.errors import UserError
from yt8m.schema import DataSpec
from yt8m.storage import scheme

_BUFFER_BYTES = 1 << 18  # as tf.data.TFRecordDataset has it
_LENGTH_BYTES, _FRAMING_BYTES = 8, 16  # a record has its length before it, and two checksums of four bytes around it


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

    def columns(self, order: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns two `(N,)` strings, the files and the compressions of the shards.

        Args:
            order: `(N,)` int, the numbers of the shards, in the order wanted; None for all shards as they are.
        """
        columns = (
            tf.constant([shard.file for shard in self.shards], tf.string),
            tf.constant([shard.compression for shard in self.shards], tf.string),
        )
        return columns if order is None else tuple(tf.gather(column, order) for column in columns)

    def files(self) -> tf.data.Dataset:
        """Returns a pair of strings per shard, file and compression."""
        return tf.data.Dataset.from_tensor_slices(self.columns())

    def in_order(self) -> tf.data.Dataset:
        """Returns the serialized records of all shards, one shard after another."""
        compressions = {shard.compression for shard in self.shards}
        if self.sound_stretches is None and len(compressions) == 1:
            files = [shard.file for shard in self.shards]
            return tf.data.TFRecordDataset(files, compression_type=compressions.pop())
        return self.files().flat_map(self.records)

    @tf.autograph.experimental.do_not_convert
    def records(self, file: tf.Tensor, compression: tf.Tensor, offset: tf.Tensor | int = 0) -> tf.data.Dataset:
        """Returns the serialized records of a shard, without damaged ones if these are to be skipped.

        It is for functions of datasets only: TensorFlow cannot write down an iterator's graph that begins with it.

        Args:
            file: scalar string, the path of the shard.
            compression: scalar string, `GZIP` or empty.
            offset: scalar int64, the byte at which the first record begins, as `place_of_record` says.
        """
        stored = tf.data.experimental.from_variant(
            tf.raw_ops.TFRecordDatasetV2(
                filenames=[file],
                compression_type=compression,
                buffer_size=_BUFFER_BYTES,
                byte_offsets=tf.cast([offset], tf.int64),
            ),
            tf.TensorSpec([], tf.string),
        )
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

    def place_of_record(self, shard: Shard, number: int) -> tuple[int, int]:
        """Returns how to reach a record: a byte offset, and how many records have to be skipped from there.

        Lengths of records tell the offset, so nothing but them is read. A compressed shard has to be unpacked to find
        them, and where damage is left out, records that are not sound do not count: there the offset is 0.
        """
        if shard.compression or self.sound_stretches is not None:
            return 0, number
        return _offset_of_record(shard, number), 0


def _offset_of_record(shard: Shard, number: int) -> int:
    """The byte at which a record begins; if there are fewer, where the shard ends or its last record is cut."""
    offset = 0
    # A buffer would be filled anew after every step: only remote files, where a step costs more, have one.
    remote = scheme(shard.file)
    with tf.io.gfile.GFile(shard.file, "rb") if remote else Path(shard.file).open("rb", buffering=0) as stream:
        for _ in range(number):
            stream.seek(offset)
            end = offset + int.from_bytes(stream.read(_LENGTH_BYTES), "little") + _FRAMING_BYTES
            if end > shard.num_bytes:
                break
            offset = end
    return offset


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
