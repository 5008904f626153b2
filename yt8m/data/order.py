"""The order of training: a function of shards, seed and sizes alone, in which a place is a few numbers.

An epoch takes the shards in an order of its own, in groups that are read side by side. Within a group, blocks of some
records are taken from its shards in turn, a block from each per round, until all of them have ended. Consecutive blocks
make a window, whose records are shuffled; batches are cut out of the stream of windows, across their edges and those of
epochs.

    epoch   shards 5 0 3 | 1 4 2               groups of 3
    group   5a 0a 3a, 5b 0b 3b, 5c 3c, 5d      rounds of blocks a, b, ...
    window  5a 0a 3a 5b | 0b 3b 5c 3c | 5d     of 4 blocks, here across rounds; then the next group

So nothing before a group has to be read to start in it, and nothing that waits to be shuffled has to be saved: a window
is made again.

TensorFlow prepares a function again, in some ten milliseconds, wherever a dataset that calls it is made. What is made
anew for every epoch and group is therefore small, and what is done with a window is outside of it.
"""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import tensorflow as tf

from yt8m.data.diagnosis import FOR_THE_USER
from yt8m.data.source import Source
from yt8m.positions import Position
from yt8m.randomness import keys_from_positions, permutation

_LARGEST_BLOCK = 128  # records
_NO_BEGIN = np.int64(-1)
# Fills the last block of a shard. No record is equal to it: a protocol buffer has no field 0.
_FILLER = b"\x00filler"

# These functions are graphs as they are written; to convert them takes longer than to trace them.
_as_written = tf.autograph.experimental.do_not_convert
_NO_END = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Order:
    """How the records of a source are ordered.

    Attributes:
        source: the shards.
        seed: decides every permutation, and the examples' random keys.
        num_readers: shards per group.
        window: about how many records are shuffled at a time.
    """

    source: Source
    seed: int
    num_readers: int
    window: int

    @property
    def block(self) -> int:
        """Records per block: at least two blocks of each shard of a group fit into a window."""
        return min(max(self.window // (2 * self.num_readers), 1), _LARGEST_BLOCK)

    def shards(self) -> str:
        """Returns a line per shard: name, size, checksum of its beginning and end. Shards may move, but not change."""
        columns = ((shard.file.rsplit("/", 1)[-1], shard.num_bytes, crc32(shard.ends)) for shard in self.source.shards)
        return "".join(f"{name} {num_bytes} {checksum:08x}\n" for name, num_bytes, checksum in columns)

    def fingerprint(self) -> str:
        """Returns a text that is equal for two orders in which a position means the same place."""
        decides = [self.shards(), self.seed, self.num_readers, self.window, self.block]
        return hashlib.sha256(json.dumps(decides).encode()).hexdigest()

    def batches(self, batch_size: int, num_epochs: int | None, start: Position) -> tf.data.Dataset:
        """Returns the global batches from a position on.

        Args:
            batch_size: records per batch; the last one may have fewer.
            num_epochs: the epoch to stop before; None for no end.
            start: the position of the first record of the first batch.

        Returns:
            Pairs of serialized records `(n,)` and the position after the batch, `(7,)` int64. Its last number minus n
            is how many examples of the run came before the batch: random keys are made from that.
        """
        end = _NO_END if num_epochs is None else max(num_epochs, start.epoch)
        windows = tf.data.Dataset.range(start.epoch, end).flat_map(self._windows(start))
        begin = tf.constant([start.epoch, start.group, start.round, start.block], tf.int64)
        shuffled = windows.scan(begin, self._shuffle(start))
        if start.epoch < end and start != start.start_of_epoch():
            shuffled = self._checked(shuffled, start)
        shuffled = shuffled.map(_as_written(lambda records, places, begin: (records, places))).prefetch(1)

        @_as_written
        def with_position(number: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            records, places = batch
            # The place after a batch is the place after its last record, in whichever window and epoch that is.
            examples = start.examples + number * batch_size + tf.size(records, tf.int64)
            return records, tf.concat([places[-1], [examples]], axis=0)

        return _numbered(shuffled.rebatch(batch_size)).map(with_position)

    def _shuffle(self, start: Position) -> Callable:
        """Returns the function that shuffles a window.

        It takes what the window before it left, `(4,)` int64: epoch, group and round of its last block, and how many
        blocks that round has had. It returns the same of this window, its shuffled records `(n,)`, for each of them the
        place after it, `(n, 6)` int64, and its begin, `(5,)` int64: epoch, group, round, block and window. Of the
        window in which the stream starts only what is not used is left; if it has less, its begin is -1.
        """

        @_as_written
        def shuffle(before: tf.Tensor, window: tuple) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
            epoch, (number, (groups, (rounds, blocks))) = window
            rounds = tf.stack([tf.fill(tf.shape(groups), epoch), groups, rounds], axis=1)
            num_before = tf.where(tf.reduce_all(tf.equal(rounds[0], before[:3])), before[3], 0)
            in_last_round = tf.reduce_all(tf.equal(rounds, rounds[-1]), axis=1)
            num_last = tf.math.count_nonzero(in_last_round) + tf.where(in_last_round[0], num_before, 0)

            records = tf.reshape(blocks, [-1])
            # Short prefixes are compared, because a comparison copies what it compares.
            is_filler = tf.equal(tf.strings.substr(records, 0, len(_FILLER) + 1), _FILLER)
            stored = tf.where(~is_filler)[:, 0]
            count = tf.size(stored)
            order = permutation(keys_from_positions(keys_from_positions(self.seed, epoch), number), count, "window")
            # The whole window is shuffled as it was, and only then are the records that the run has had left out.
            is_first = tf.equal(epoch, start.epoch) & tf.equal(number, start.window)
            used = tf.where(is_first, tf.constant(start.record, tf.int64), 0)
            begin = tf.concat([rounds[0], [num_before, number]], axis=0)
            begin = tf.where(used > tf.cast(count, tf.int64), _NO_BEGIN, begin)
            used = tf.minimum(tf.cast(used, tf.int32), count)
            after = tf.range(used + 1, count + 1)[:, tf.newaxis]
            places = tf.concat([tf.repeat(begin[tf.newaxis], count - used, axis=0), tf.cast(after, tf.int64)], axis=1)
            left = tf.concat([rounds[-1], [num_last]], axis=0)
            return left, (tf.gather(records, tf.gather(stored, order[used:])), places, begin)

        return shuffle

    def _checked(self, windows: tf.data.Dataset, start: Position) -> tf.data.Dataset:
        """The same windows, but an error if the first one does not begin where the position says.

        Even if the run has had all of its records, the window of a position is there.
        """
        after_all = (tf.zeros([1, 0], tf.string), tf.zeros([1, 0, 6], tf.int64), tf.fill([1, 5], _NO_BEGIN))
        expected = tf.constant([start.epoch, start.group, start.round, start.block, start.window], tf.int64)
        message = f"{FOR_THE_USER}{self._beyond_the_end(start)}{FOR_THE_USER}"

        @_as_written
        def check(number: tf.Tensor, window: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
            records, places, begin = window
            is_there = (number > 0) | tf.reduce_all(begin == expected)
            with tf.control_dependencies([tf.debugging.Assert(is_there, [message])]):
                return tf.identity(records), places, begin

        return _numbered(windows.concatenate(tf.data.Dataset.from_tensor_slices(after_all))).map(check)

    def _beyond_the_end(self, start: Position) -> str:
        epoch_key = keys_from_positions(self.seed, tf.constant(start.epoch, tf.int64))
        shard_order = permutation(epoch_key, len(self.source.shards), "shards")
        group = shard_order[start.group * self.num_readers : (start.group + 1) * self.num_readers]
        names = ", ".join(self.source.shards[number].file for number in group.numpy()) or "the shards"
        return (
            f"{names}: here are other records than when the checkpoint was saved; the position in the data is beyond "
            "their end. Restore the shards, or delete data/STEP.json of that step in --train_dir: the data are then "
            "read from the start of the epoch."
        )

    def _windows(self, start: Position) -> Callable:
        """Returns the function from an epoch to its windows: `(epoch, (number, (groups, (rounds, records))))`.

        For the W blocks of a window, groups and rounds are `(W,)` int64, records `(W, block)` strings. A shard's last
        block is filled up: a window has so many blocks, and about so many records.
        """
        num_groups = math.ceil(len(self.source.shards) / self.num_readers)
        blocks_per_window = max(self.window // self.block, 1)

        @_as_written
        def windows(epoch: tf.Tensor) -> tf.data.Dataset:
            is_first = tf.equal(epoch, start.epoch)
            shard_order = permutation(keys_from_positions(self.seed, epoch), len(self.source.shards), "shards")
            files, compressions = self.source.columns(shard_order)

            @_as_written
            def blocks_of_group(group: tf.Tensor) -> tf.data.Dataset:
                is_cut = is_first & tf.equal(group, start.group)
                first_round = tf.where(is_cut, tf.constant(start.round, tf.int64), 0)
                members = slice(group * self.num_readers, (group + 1) * self.num_readers)

                @_as_written
                def blocks_of_shard(file: tf.Tensor, compression: tf.Tensor) -> tf.data.Dataset:
                    records = self.source.records(file, compression, first_round * self.block)
                    filler = tf.data.Dataset.from_tensors(_FILLER).repeat(self.block - 1)
                    blocks = records.concatenate(filler).batch(self.block, drop_remainder=True)
                    return _numbered(blocks, first_round)

                shards = tf.data.Dataset.from_tensor_slices((files[members], compressions[members]))
                blocks = shards.interleave(blocks_of_shard, cycle_length=self.num_readers)
                return tf.data.Dataset.zip(tf.data.Dataset.from_tensors(group).repeat(), blocks)

            first_group, first_window, skipped = (
                tf.where(is_first, tf.constant(number, tf.int64), 0)
                for number in (start.group, start.window, start.block)
            )
            blocks = tf.data.Dataset.range(first_group, num_groups).flat_map(blocks_of_group)
            # Blocks of the first round that an earlier window has are read again and dropped: one per shard at most.
            windows = _numbered(blocks.skip(skipped).batch(blocks_per_window), first_window)
            return tf.data.Dataset.zip(tf.data.Dataset.from_tensors(epoch).repeat(), windows)

        return windows


def _numbered(dataset: tf.data.Dataset, start: tf.Tensor | int = 0) -> tf.data.Dataset:
    """Pairs of a number, from `start` on, and an element.

    `Dataset.enumerate` has Grappler rewrite its counter wherever it is made: 2 ms for every shard.
    """
    return tf.data.Dataset.zip(tf.data.Dataset.range(start, _NO_END), dataset)
