"""Training batches that other processes make, the workers of a tf.data service, in whatever order they come.

That is faster where parsing is the bottleneck. A dispatcher hands out the files of all epochs one by one to whichever
worker is free (dynamic sharding). A worker reads some files side by side, shuffles within a window, and parses batches.
Which batch comes next depends on who is faster, so that no place in the data can be kept but the number of examples
seen. What travels to the workers is a graph without any Python: they need TensorFlow and the files, and nothing of this
project.
"""

import socket
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from yt8m.batch import ID, POSITION, Batch
from yt8m.data.order import Order
from yt8m.data.source import stored_records_of
from yt8m.errors import UserError
from yt8m.positions import Position
from yt8m.randomness import keys_from_positions, permutation
from yt8m.storage import scheme

ORDER = "tf.data service"  # in place of the fingerprint of an order: there is none

_PROTOCOL = "grpc"
_SECONDS_TO_CONNECT = 10.0
_SCHEMES = ("", "gs")  # of files that every TensorFlow opens by itself
_NO_END = np.iinfo(np.int64).max
_RECORDS_PER_FILE = 1 << 32  # more than any has

Parse = Callable[[tf.Tensor, tf.Tensor], Batch]

_as_written = tf.autograph.experimental.do_not_convert


def check_service(address: str, order: Order) -> None:
    """Checks that a dispatcher listens, and that workers can open the shards; TensorFlow would wait for an hour.

    Args:
        address: `grpc://HOST:PORT`.
        order: has the shards.

    Raises:
        UserError: if not.
    """
    host, _, port = address.removeprefix(f"{_PROTOCOL}://").rpartition(":")
    if scheme(address) != _PROTOCOL or not host or not port.isdecimal():
        raise UserError(f"--tf_data_service={address}: expected the address of a dispatcher, grpc://HOST:PORT.")
    try:
        socket.create_connection((host, int(port)), _SECONDS_TO_CONNECT).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--tf_data_service={address}: nobody listens there ({error}). Start a dispatcher and workers first "
            "(docs/large.md), or leave the flag out."
        ) from error
    if order.source.cut is not None:
        raise UserError(
            f"--tf_data_service={address}: its workers run no Python, which cuts records into segments. Leave it out."
        )
    remote = [shard.file for shard in order.source.shards if scheme(shard.file) not in _SCHEMES]
    if remote:
        raise UserError(
            f"--tf_data_service={address}: its workers cannot open {remote[0]}, for they have no cache of shards. Give "
            "shards on a disk that all of them see, or on gs://."
        )


def service_batches(
    order: Order,
    parse: Parse,
    batch_size: int,
    address: str,
    *,
    num_epochs: int | None,
    start: Position,
    examples_per_epoch: int,
) -> tf.data.Dataset:
    """Returns batches in the order in which they come from the workers of a service.

    A run that starts reads every record once per epoch. A run that is resumed starts with a fresh pass, and ends when
    it has seen as many examples as it would have seen without the interruption.

    Args:
        order: has the shards, the seed, and how many files a worker reads side by side and records it shuffles.
        parse: from `(n,)` serialized records and `(n,)` int64 random keys to a batch, without any Python in its graph.
        batch_size: videos per batch; each worker's last batch may be smaller.
        address: `grpc://HOST:PORT` of the dispatcher.
        num_epochs: passes over the files; None for no end.
        start: epoch to start with, and examples seen before.
        examples_per_epoch: about how many records the shards hold.
    """
    shards, seed = order.source.shards, order.seed
    num_files = len(shards)
    names, compressions = tf.constant([s.file for s in shards]), tf.constant([s.compression for s in shards])

    @_as_written
    def numbered_records(number: tf.Tensor) -> tf.data.Dataset:
        epoch_key = keys_from_positions(seed, number // num_files)
        file = permutation(epoch_key, num_files, "shards")[number % num_files]
        records = stored_records_of(names[file], compressions[file])
        first = (number // num_files * num_files + tf.cast(file, tf.int64)) * _RECORDS_PER_FILE
        return tf.data.Dataset.zip(records, tf.data.Dataset.range(first, _NO_END))

    @_as_written
    def parsed(serialized: tf.Tensor, numbers: tf.Tensor) -> Batch:
        # A key is a function of seed, epoch, file and record, whoever reads it when.
        return parse(serialized, keys_from_positions(seed, numbers))

    is_resumed = start.examples > 0
    end = _NO_END if num_epochs is None or is_resumed else num_epochs * num_files
    batches = (
        tf.data.Dataset.range(start.epoch * num_files, end)
        .interleave(numbered_records, cycle_length=order.num_readers, num_parallel_calls=tf.data.AUTOTUNE)
        .shuffle(order.window)
        .batch(batch_size)
        .map(parsed, num_parallel_calls=tf.data.AUTOTUNE)
        .apply(tf.data.experimental.service.distribute(tf.data.experimental.service.ShardingPolicy.DYNAMIC, address))
    )
    last = num_epochs * examples_per_epoch if num_epochs is not None and is_resumed else _NO_END
    return _counted(batches, start.examples, last, examples_per_epoch).prefetch(1)


def _counted(batches: tf.data.Dataset, seen: int, last: int, examples_per_epoch: int) -> tf.data.Dataset:
    """Adds the position to batches, of which only the epoch and the examples mean something, and ends at an example."""

    @_as_written
    def count(seen: tf.Tensor, batch: Batch) -> tuple[tf.Tensor, Batch]:
        left = tf.minimum(tf.shape(batch[ID], out_type=tf.int64)[0], last - seen)
        seen += left
        position = tf.stack([seen // max(examples_per_epoch, 1), *[tf.zeros([], tf.int64)] * 5, seen])
        return seen, {name: value[:left] for name, value in batch.items()} | {POSITION: position}

    is_more = _as_written(lambda batch: tf.size(batch[ID]) > 0)
    return batches.scan(tf.constant(seen, tf.int64), count).take_while(is_more)
