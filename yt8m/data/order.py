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
"""

import hashlib
import json
import math
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from yt8m.data.source import Source
from yt8m.positions import Position
from yt8m.randomness import keys_from_positions, permutation

_LARGEST_BLOCK = 128  # records

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
        """Returns a line per shard: its name, its size and how it begins. Shards may move, but not change."""
        columns = (
            (shard.file.rsplit("/", 1)[-1], shard.num_bytes, shard.leading.hex()) for shard in self.source.shards
        )
        return "".join(f"{name} {num_bytes} {leading}\n" for name, num_bytes, leading in columns)

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

        @_as_written
        def with_position(number: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            records, places = batch
            # The place after a batch is the place after its last record, in whichever window and epoch that is.
            examples = start.examples + number * batch_size + tf.size(records, tf.int64)
            return records, tf.concat([places[-1], [examples]], axis=0)

        windows = tf.data.Dataset.range(start.epoch, end).flat_map(
            _as_written(lambda epoch: self._windows(epoch, start))
        )
        return windows.prefetch(1).rebatch(batch_size).enumerate().map(with_position)

    def _windows(self, epoch: tf.Tensor, start: Position) -> tf.data.Dataset:
        """The shuffled windows of an epoch: records `(n,)`, and for each the place after it, `(n, 6)` int64."""
        is_first = tf.equal(epoch, start.epoch)
        epoch_key = keys_from_positions(self.seed, epoch)
        first_window = tf.where(is_first, tf.constant(start.window, tf.int64), 0)
        blocks = self._blocks(epoch_key, is_first, start)
        blocks_per_window = max(self.window // self.block, 1)

        @_as_written
        def shuffled(number: tf.Tensor, blocks: tuple[tf.RaggedTensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            records, begins = blocks[0].flat_values, blocks[1]
            count = tf.size(records)
            order = permutation(keys_from_positions(epoch_key, number), count, "window")
            # The whole window is shuffled as it was, and only then are the records that the run has had left out.
            used = tf.where(is_first & tf.equal(number, start.window), start.record, 0)
            place = tf.concat([[epoch], begins[0], [number]], axis=0)
            after = tf.range(used + 1, count + 1)[:, tf.newaxis]
            places = tf.concat([tf.repeat(place[tf.newaxis], count - used, axis=0), tf.cast(after, tf.int64)], axis=1)
            return tf.gather(records, order[used:]), places

        # Blocks at the end of a shard are shorter: a window has so many blocks, and about so many records.
        windows = blocks.ragged_batch(blocks_per_window).enumerate(first_window).map(shuffled)
        return windows.filter(_as_written(lambda records, places: tf.size(records) > 0))

    def _blocks(self, epoch_key: tf.Tensor, is_first: tf.Tensor, start: Position) -> tf.data.Dataset:
        """The blocks of an epoch: records `(n,)`, and group, round and number in the round, `(3,)` int64."""
        shard_order = permutation(epoch_key, len(self.source.shards), "shards")
        num_groups = math.ceil(len(self.source.shards) / self.num_readers)

        @_as_written
        def blocks_of(group: tf.Tensor) -> tf.data.Dataset:
            is_cut = is_first & tf.equal(group, start.group)
            first_round = tf.where(is_cut, tf.constant(start.round, tf.int64), 0)
            members = shard_order[group * self.num_readers : (group + 1) * self.num_readers]

            @_as_written
            def blocks_of_shard(file: tf.Tensor, compression: tf.Tensor) -> tf.data.Dataset:
                records = self.source.records(file, compression, first_round * self.block)
                return records.batch(self.block).enumerate(first_round)

            rounds = self.source.files(members).interleave(blocks_of_shard, cycle_length=self.num_readers)

            @_as_written
            def numbered(
                state: tuple[tf.Tensor, tf.Tensor], block: tuple[tf.Tensor, tf.Tensor]
            ) -> tuple[tuple[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
                round_before, number = state
                round_now, records = block
                number = tf.where(tf.equal(round_now, round_before), number + 1, 0)
                return (round_now, number), (records, tf.stack([group, round_now, number]))

            # Blocks of the first round that an earlier window has are read again and dropped: one per shard at most.
            nothing_yet = (tf.constant(-1, tf.int64), tf.constant(0, tf.int64))
            skipped = tf.where(is_cut, tf.constant(start.block, tf.int64), 0)
            return rounds.scan(nothing_yet, numbered).skip(skipped)

        first_group = tf.where(is_first, tf.constant(start.group, tf.int64), 0)
        return tf.data.Dataset.range(first_group, num_groups).flat_map(blocks_of)
