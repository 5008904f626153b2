"""tf.data pipelines: files of records -> batches, shuffled and resumable for training, in order for evaluation."""

import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
import tensorflow as tf

from yt8m.batch import POSITION, Batch
from yt8m.data.data_service import ORDER as SERVICE_ORDER
from yt8m.data.data_service import check_service, service_batches
from yt8m.data.diagnosis import explain_failure, explain_ratings_failure
from yt8m.data.formats.base import Layout, format_of
from yt8m.data.formats.segment import num_rated_segments
from yt8m.data.mixup import mixed, partners
from yt8m.data.order import Order
from yt8m.data.ratings import SegmentRatings, add_ratings
from yt8m.data.record_faults import fault_of, labels_name_of
from yt8m.data.records import batch_parser, parse_ids_and_labels, parse_labels, parse_ratings
from yt8m.data.shards import (
    READING_ERRORS,
    Damage,
    Record,
    Shard,
    open_shards,
    record_sizes,
    require_shards,
    stored_records,
)
from yt8m.data.skipping import SkippedRecords
from yt8m.data.source import Source, open_source
from yt8m.data.video_labels import VideoLabels
from yt8m.errors import UserError, first_line
from yt8m.positions import Position
from yt8m.progress import progress_is_shown, with_progress
from yt8m.randomness import keys_from_positions
from yt8m.sampling import FrameSampling
from yt8m.schema import LABELS_KEY, SEGMENT_LABELS_KEY, DataSpec
from yt8m.scores import name_of
from yt8m.storage import matching_files, scheme

__all__ = [
    "READING_ERRORS",
    "SERVICE_ORDER",
    "ReadOptions",
    "SkippedRecords",
    "class_counts",
    "estimate_num_examples",
    "estimate_num_records",
    "evaluation_batches",
    "explain_failure",
    "find_files",
    "segment_ratings",
    "served_batches",
    "training_batches",
    "training_order",
    "video_labels",
]

# A batch is parsed by one thread, the next one by another. 1024 whole videos of 300 frames take 354 MB a thread.
_PARALLEL_PARSES = min(os.cpu_count() or 1, 4)
_BATCHES_AHEAD = 2
# Records that are shuffled at a time: as many as fit into 128 MiB if all videos had `max_frames`, within limits.
_WINDOW_BYTES = 1 << 27
_MOST_BYTES = 1 << 29  # where the smallest window would have more, as of clips
_SMALLEST_WINDOW, _LARGEST_WINDOW = 512, 16384
_FILES_OF_A_COUNT = 16
_RECORDS_OF_A_COUNT = 256
_RECORDS_OF_RATINGS = 64  # they arrive with all of their frames, up to 350 KB each


@dataclass(frozen=True)
class ReadOptions:
    """How to read.

    Attributes:
        num_readers: training: shards that are read side by side.
        on_bad_record: whether a record that cannot be read ends the run or is left out and counted in `skipped`.
        shuffle_window: training: serialized records that are shuffled at a time; 0 chooses by their size.
        skipped: where records that were left out are counted; ask it for a `report()` when the reading is done.
    """

    num_readers: int = 8
    on_bad_record: Literal["error", "skip"] = "error"
    shuffle_window: int = 0
    skipped: SkippedRecords = field(default_factory=SkippedRecords, compare=False)

    @property
    def damage(self) -> SkippedRecords | None:
        """Where damage that is left out is counted; None if damage is an error."""
        return self.skipped if self.on_bad_record == "skip" else None


def find_files(patterns: str, flag: str) -> list[str]:
    """Returns the files that match comma-separated glob patterns, sorted, each once.

    Args:
        patterns: for example `train/a*.tfrecord,train/b*.tfrecord`.
        flag: the flag that gave the patterns, without dashes, for the error message.

    Raises:
        UserError: if there is no pattern, or one matches no file.
    """
    found: set[str] = set()
    for pattern in filter(None, (part.strip() for part in patterns.split(","))):
        matches = matching_files(pattern)
        if not matches:
            raise UserError(f"--{flag}: no file matches '{pattern}'. {_pattern_advice(pattern)}")
        found.update(matches)
    if not found:
        raise UserError(f"--{flag} is empty. Give one or more file patterns, separated by commas.")
    return sorted(found)


def _pattern_advice(pattern: str) -> str:
    if not scheme(pattern) and tf.io.gfile.isdir(pattern):
        return f"It is a folder: try '{pattern.rstrip('/')}/*.tfrecord'."
    return "Check the folder, and quote the pattern so that the shell leaves it to the program."


def training_order(files: Sequence[str], spec: DataSpec, *, seed: int = 0, options: ReadOptions | None = None) -> Order:
    """Opens shards for training, and says in which order their records come.

    Args:
        files: shards of records; every epoch reads each of them once, in an order of its own.
        spec: what the records hold.
        seed: of the order, and of the videos' random keys.
        options: how to read.

    Raises:
        UserError: if the first record of the files is not what `spec` says.
    """
    options = options or ReadOptions()
    source = open_source(files, spec, True, options.damage)
    _check_examples(source, spec)
    return Order(source, seed, options.num_readers, options.shuffle_window or _default_window(spec))


def training_batches(
    order: Order,
    spec: DataSpec,
    batch_size: int,
    *,
    num_epochs: int | None = None,
    sampling: FrameSampling | None = None,
    mixup: float = 0.0,
    worker: int = 0,
    num_workers: int = 1,
    start: Position | None = None,
) -> tf.data.Dataset:
    """Returns shuffled batches, the same ones whoever takes part and wherever they start.

    Args:
        order: of the records.
        spec: what the records hold.
        batch_size: videos of the global batch, the sum over the workers; the last batch may be smaller.
        num_epochs: passes over the files; None for no end.
        sampling: which frames of a video to keep, drawn by its key; None for all, up to `spec.max_frames`.
        mixup: alpha of the shares by which features of videos are mixed with others of the global batch; 0 for none.
        worker: this worker's number, from 0. Of n videos of a global batch it gets
            `[worker * n // num_workers, (worker + 1) * n // num_workers)`, which may be none.
        num_workers: how many workers share a global batch.
        start: where to start, as a batch before it said; None for the start of the first epoch.
    """
    parse = batch_parser(spec, order.source.layout, labels_required=True, sampling=sampling, purpose="training")

    def worker_batch(serialized: tf.Tensor, position: tf.Tensor) -> Batch:
        count = tf.shape(serialized, out_type=tf.int64)[0]
        first, end = worker * count // num_workers, (worker + 1) * count // num_workers
        numbers = position[-1] - count + tf.range(first, end)
        keys = keys_from_positions(order.seed, numbers)
        batch = parse(serialized[first:end], keys)
        if mixup:
            chosen = partners(order.seed, position[-1], count)[first:end]
            batch = mixed(batch, parse(tf.gather(serialized, chosen), keys), spec.feature_names, mixup)
        return batch | {POSITION: position}

    return _parsed(order.batches(batch_size, num_epochs, start or Position()), worker_batch)


def served_batches(
    order: Order,
    spec: DataSpec,
    batch_size: int,
    address: str,
    *,
    num_epochs: int | None = None,
    sampling: FrameSampling | None = None,
    start: Position | None = None,
    examples_per_epoch: int,
) -> tf.data.Dataset:
    """Returns shuffled batches that a tf.data service makes, in whatever order they come: yt8m/data/data_service.py.

    Args:
        order: has the shards.
        spec: what the records hold.
        batch_size: videos per batch; a few batches at the end may be smaller.
        address: `grpc://HOST:PORT` of the service's dispatcher.
        num_epochs: passes over the files; None for no end.
        sampling: which frames of a video to keep; None for all, up to `spec.max_frames`.
        start: epoch to start with, and examples seen before.
        examples_per_epoch: about how many records the shards hold.

    Raises:
        UserError: if the service does not answer, or cannot open the shards.
    """
    check_service(address, order)
    parse = batch_parser(spec, order.source.layout, True, sampling, purpose="training", portable=True)
    return service_batches(
        order,
        parse,
        batch_size,
        address,
        num_epochs=num_epochs,
        start=start or Position(),
        examples_per_epoch=examples_per_epoch,
    )


def evaluation_batches(
    files: Sequence[str],
    spec: DataSpec,
    batch_size: int,
    *,
    sampling: FrameSampling | None = None,
    options: ReadOptions | None = None,
    labels_required: bool,
) -> tf.data.Dataset:
    """Returns the records of the files in their order, each once, the last batch perhaps smaller.

    Args:
        files: shards of records, read one after another.
        spec: what the records hold.
        batch_size: videos per batch.
        sampling: which frames of a video to keep, drawn by a key that is a function of its id; None for all, up to
            `spec.max_frames`.
        options: how to read.
        labels_required: whether a record without a labels feature is an error; if not, it has no labels.

    Raises:
        UserError: if the first record of the files is not what `spec` says.
    """
    options = options or ReadOptions()
    source = open_source(files, spec, labels_required, options.damage)
    _check_examples(source, spec)
    parse = batch_parser(spec, source.layout, labels_required, sampling)
    return _parsed(source.in_order().batch(batch_size), parse)


def class_counts(
    files: Sequence[str], spec: DataSpec, limit: int, options: ReadOptions | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Counts in how many records every class is a label, for the class prior.

    Args:
        files: shards of records; the records are taken from all of them in turn.
        spec: what the records hold.
        limit: how many records are looked at, at most.
        options: how to read.

    Returns:
        counts: `(C,)` int64.
        num_examples: `(C,)` int64, how many of the records that were looked at say of each class whether it is a label:
            all of them, unless only some classes were rated.
    """
    options = options or ReadOptions()
    source = open_source(files, spec, True, options.damage)
    cycle_length = min(len(source.shards), _FILES_OF_A_COUNT)
    records = source.files().interleave(source.records, cycle_length=cycle_length).take(limit)
    counts, num_examples = np.zeros((2, spec.num_classes), np.int64)
    batches = records.batch(_RECORDS_OF_A_COUNT)
    for serialized in with_progress(batches, "counting labels", limit, len):
        labels, is_rated = parse_labels(serialized, spec, source.layout)
        counts += labels.numpy().sum(axis=0)
        num_examples += is_rated.numpy().sum(axis=0)
    return counts, num_examples


def video_labels(pattern: str, num_classes: int) -> VideoLabels:
    """Reads the labels of videos from shards of any format; nothing but ids and labels is parsed.

    Args:
        pattern: comma-separated patterns of the shards, as `--eval_data_pattern` gives them.
        num_classes: the number of classes, C.

    Raises:
        UserError: if no file matches, a file or a record cannot be read or has no labels, a video occurs twice, or a
            label is not in [0, C).
    """
    files = find_files(pattern, "eval_data_pattern")
    shards = require_shards(files)
    first = next(stored_records(shards[0]), None)
    labels_name = labels_name_of(first.serialized) if isinstance(first, Record) else LABELS_KEY
    batches = Source(shards, Layout((), ())).in_order().batch(_RECORDS_OF_A_COUNT)
    parsed = batches.map(partial(parse_ids_and_labels, labels_name=labels_name), num_parallel_calls=_PARALLEL_PARSES)

    def videos() -> Iterator[tuple[str, list[int]]]:
        total = estimate_num_records(files) if progress_is_shown() else 0
        for ids, labels in with_progress(parsed.prefetch(1), "reading labels", total, lambda it: len(it[0])):
            yield from zip(map(name_of, ids.numpy().tolist()), labels.to_list(), strict=True)

    try:
        return VideoLabels(videos(), pattern, num_classes)
    except READING_ERRORS as error:
        damages = (item for shard in shards for item in stored_records(shard) if isinstance(item, Damage))
        damage = next(damages, None)
        raise UserError(
            f"--eval_data_pattern={pattern}: "
            + (str(damage) if damage else f"a record cannot be read ({first_line(error)}).")
            + " Expected records with ids and labels; tools.check_dataset finds what is damaged."
        ) from error


def _check_examples(source: Source, spec: DataSpec) -> None:
    """Checks that there is something to read where records may hold no example: epochs could go by without a batch."""
    if source.cut is None or spec.has_every_segment:
        return
    items = itertools.chain.from_iterable(map(stored_records, source.shards))
    rated = (item for item in items if isinstance(item, Record) and num_rated_segments(item.serialized))
    if all(fault_of(item.serialized, spec, source.layout, labels_required=True) for item in rated):
        raise _unrated([shard.file for shard in source.shards])


def segment_ratings(files: Sequence[str]) -> SegmentRatings:
    """Reads what raters said of segments of videos; nothing but that is parsed, and the order of reading is free.

    Args:
        files: frame-level shards; records without ratings add nothing.

    Raises:
        UserError: if a file or a record cannot be read, or no record has ratings.
    """
    shards = require_shards(files)
    try:
        ratings = _merged_ratings(Source(shards, Layout((), ())))
    except READING_ERRORS as error:
        raise explain_ratings_failure(shards) or error from None
    if not ratings:
        raise _unrated(files)
    return ratings


def _unrated(files: Sequence[str]) -> UserError:
    return UserError(
        f"No record of {files[0]} or of the other files ({len(files)} in all) holds ratings of segments "
        f"('{SEGMENT_LABELS_KEY}'). Pass frame-level validation shards of 2019, as in 3/frame/validate."
    )


def _merged_ratings(source: Source) -> SegmentRatings:
    records = source.files().interleave(
        source.records, cycle_length=_FILES_OF_A_COUNT, num_parallel_calls=_PARALLEL_PARSES, deterministic=False
    )
    ratings: SegmentRatings = {}
    batches = records.batch(_RECORDS_OF_RATINGS).map(parse_ratings).prefetch(1).as_numpy_iterator()
    for batch in with_progress(batches, "reading ratings", count=lambda it: len(it["id"])):
        add_ratings(ratings, batch["id"], batch["class"], batch["start"], batch["score"])
    return ratings


def estimate_num_records(files: Sequence[str]) -> int:
    """Estimates how many records shards hold, from their sizes: exact where they are small, within some percent else.

        records looked at / their bytes * bytes of all shards

    Args:
        files: shards of records; at most 256 records of 16 of them, spread evenly, are looked at, and all records of
            those that are compressed, which tell no sizes.
    """
    shards = [shard for shard in open_shards(files) if isinstance(shard, Shard)]
    if not shards:
        return 0
    looked_at = [_records_and_bytes(shard) for shard in shards[:: math.ceil(len(shards) / _FILES_OF_A_COUNT)]]
    num_records, num_bytes = (sum(column) for column in zip(*looked_at, strict=True))
    return round(num_records / max(num_bytes, 1) * sum(shard.num_bytes for shard in shards))


def estimate_num_examples(files: Sequence[str], spec: DataSpec) -> int:
    """Estimates how many examples shards hold: their records or, if these are cut, their rated segments.

    Args:
        files: shards of records; of those that are cut at most 256 records of 16 of them are looked at.
        spec: what the records hold.
    """
    num_records = estimate_num_records(files)
    if not format_of(spec).cuts_records:
        return num_records
    shards = [shard for shard in open_shards(files) if isinstance(shard, Shard)]
    counts = [
        num_rated_segments(item.serialized)
        for shard in shards[:: math.ceil(len(shards) / _FILES_OF_A_COUNT) or 1]
        for item in itertools.islice(stored_records(shard), _RECORDS_OF_A_COUNT)
        if isinstance(item, Record)
    ]
    return round(num_records * sum(counts) / max(len(counts), 1))


def _records_and_bytes(shard: Shard) -> tuple[int, int]:
    """How many of a shard's records were looked at, and how many bytes of the file they take. Damage ends the look."""
    if shard.compression:
        return sum(isinstance(item, Record) for item in stored_records(shard)), shard.num_bytes
    sizes = list(itertools.islice(record_sizes(shard.file), _RECORDS_OF_A_COUNT))
    return len(sizes), sum(sizes)


def _default_window(spec: DataSpec) -> int:
    largest = format_of(spec).largest_record(spec)
    smallest = max(min(_SMALLEST_WINDOW, _MOST_BYTES // largest), 1)
    return min(max(_WINDOW_BYTES // largest, smallest), _LARGEST_WINDOW)


def _parsed(batches: tf.data.Dataset, parse: Callable[..., Batch]) -> tf.data.Dataset:
    """Parses batches side by side, in order."""
    parse = tf.autograph.experimental.do_not_convert(parse)  # a graph as it is written: nothing to convert
    parsed = batches.map(parse, num_parallel_calls=_PARALLEL_PARSES, deterministic=True)
    options = tf.data.Options()
    options.autotune.enabled = False  # there is nothing to tune, and it clocks every record in every dataset
    return parsed.prefetch(_BATCHES_AHEAD).with_options(options)
