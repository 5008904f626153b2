"""Which record it was: found slowly, after the fast path has failed. Record 0 is the first of a file."""

import itertools
import re
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import tensorflow as tf

from yt8m.batch import Batch
from yt8m.data.formats.base import Column, Layout, format_of
from yt8m.data.record_faults import columns_of, fault_of, labels_name_of, ratings_fault_of
from yt8m.data.records import batch_parser
from yt8m.data.shards import (
    READING_ERRORS,
    Damage,
    Record,
    Shard,
    open_shards,
    reason_of,
    require_shards,
    stored_records,
    without_advice,
)
from yt8m.errors import UserError
from yt8m.schema import LABELS_KEY, DataSpec

FOR_THE_USER = "|for the user|"  # before and after what a pipeline itself says in its error
_RECORDS_AT_ONCE = 64  # a padded batch of 64 videos of 300 frames takes 22 MB
_RECORDS_OF_A_LOOK = 1000  # a layout is settled by the first record that has a frame


def find_layout(shards: Sequence[Shard], spec: DataSpec, labels_required: bool, skip: bool) -> Layout:
    """Finds out from the first records how features are stored.

    Raises:
        UserError: if a record that is looked at is not what `spec` says; with `skip`, only if no record is.
    """
    damages: list[Damage] = []
    columns: list[Column] = []
    labels_name = LABELS_KEY
    items = itertools.chain.from_iterable(map(stored_records, shards))
    for item in itertools.islice(items, _RECORDS_OF_A_LOOK):
        damage = item if isinstance(item, Damage) else _damage_of(item, spec, None, labels_required)
        if damage is not None:
            damages.append(damage)
            if not skip:
                break
        elif isinstance(item, Record):
            columns, labels_name = columns_of(item.serialized, spec), labels_name_of(item.serialized)
            if all(as_floats is not None for _, as_floats in columns):
                break
    if damages and not (skip and columns):
        raise UserError(without_advice(damages[0]) if skip else str(damages[0]))
    if not columns:
        raise UserError(f"{shards[0].file}: it holds no record. Pass shards that hold some.")
    return Layout.of(columns, labels_name)


def _damage_of(record: Record, spec: DataSpec, layout: Layout | None, labels_required: bool) -> Damage | None:
    fault = fault_of(record.serialized, spec, layout, labels_required)
    return None if fault is None else Damage(record.file, record.number, fault)


class SoundRecords(NamedTuple):
    """Records of a file that can be read.

    Attributes:
        numbers: of the records, the first of a file is 0.
        batch: what they hold, as `examination` returns it; B may be 0.
    """

    numbers: list[int]
    batch: Batch


class Examiner:
    """Reads and parses whole files, and tells sound records from damage.

    Args:
        spec: what the records should hold.
        layout: how they store it.
        labels_required: whether a record without a labels feature is damage.
    """

    def __init__(self, spec: DataSpec, layout: Layout, labels_required: bool):
        self._spec, self._layout, self._labels_required = spec, layout, labels_required
        parse = tf.function(batch_parser(spec, layout, labels_required, purpose="examination"), autograph=False)
        self._parse = parse.get_concrete_function(tf.TensorSpec([None], tf.string))

    def examine(self, shard: Shard) -> Iterator[int | Damage]:
        """Yields the numbers of a file's sound records in their order, and damage in its place."""
        for item in self.examined_batches(shard):
            if isinstance(item, Damage):
                yield item
            else:
                yield from item.numbers

    def examined_batches(self, shard: Shard) -> Iterator[SoundRecords | Damage]:
        """Yields a file's sound records in their order, some at a time, and damage in its place."""
        waiting: list[Record] = []
        for item in stored_records(shard):
            if isinstance(item, Record):
                waiting.append(item)
            if isinstance(item, Damage) or len(waiting) == _RECORDS_AT_ONCE:
                yield from self._judge(waiting)
                waiting = []
            if isinstance(item, Damage):
                yield item
        yield from self._judge(waiting)

    def _judge(self, records: list[Record]) -> Iterator[SoundRecords | Damage]:
        """Parses records at once and, only if that fails, one by one."""
        parsed = self._parsed(records)
        if not isinstance(parsed, str):
            yield SoundRecords([record.number for record in records], parsed)
            return
        for record in records:
            parsed = self._parsed([record])
            yield self._damage(record, parsed) if isinstance(parsed, str) else SoundRecords([record.number], parsed)

    def _parsed(self, records: list[Record]) -> Batch | str:
        """The batch of the records' examples, or why there is none."""
        cut = format_of(self._spec).cut
        try:
            examples = [example for record in records for example in cut(record.serialized, self._spec, self._layout)]
            return self._parse(tf.constant(examples, tf.string, [len(examples)]))
        except Exception as error:  # whatever it is: TensorFlow raises a TypeError where its message is not UTF-8
            return reason_of(error)

    def _damage(self, record: Record, failure: str) -> Damage:
        damage = _damage_of(record, self._spec, self._layout, self._labels_required)
        return damage or Damage(record.file, record.number, f"it cannot be parsed: {failure}.")


def explain_failure(
    error: Exception,
    files: Sequence[str],
    spec: DataSpec,
    labels_required: bool,
    already_skipped: Collection[Damage] | None = None,
) -> UserError | None:
    """Finds out which record made a pipeline fail, by reading the files again, slowly, until it is met.

    Args:
        error: what was raised.
        files: what the pipeline reads.
        spec: what the records should hold.
        labels_required: whether a record without a labels feature is an error.
        already_skipped: the damage that was left out and so is not the cause; None if none is left out.

    Returns:
        A message that names the file, the record and the field, or None if all files are sound: then the failure has
        another cause.
    """
    if not isinstance(error, READING_ERRORS):
        return None
    if FOR_THE_USER in str(error):
        return UserError(str(error).split(FOR_THE_USER)[1])
    said = re.search(r"UserError: (.*)", str(error))
    if said:  # by our own part of the pipeline, from which TensorFlow passes on only the text
        return UserError(said[1])
    skip = already_skipped is not None
    known = set(already_skipped or ())
    try:
        opened = open_shards(files) if skip else require_shards(files)
        shards = [shard for shard in opened if isinstance(shard, Shard)]
        gone = [damage for damage in opened if isinstance(damage, Damage) and damage not in known]
        if gone or not shards:
            return UserError(
                without_advice(gone[0]) if gone else f"None of the {len(files)} files can be read any more."
            )
        layout = find_layout(shards, spec, labels_required, skip)
    except UserError as explanation:
        return explanation
    examiner = Examiner(spec, layout, labels_required)
    for shard in shards:
        for item in examiner.examine(shard):
            if isinstance(item, Damage) and item not in known:
                return UserError(without_advice(item) if skip else str(item))
    return None


def explain_ratings_failure(shards: Sequence[Shard]) -> UserError | None:
    """Finds out in which record ratings of segments cannot be read, as `explain_failure` does for what models read."""
    for item in itertools.chain.from_iterable(map(stored_records, shards)):
        if isinstance(item, Damage):
            return UserError(str(item))
        fault = ratings_fault_of(item.serialized)
        if fault is not None:
            return UserError(str(Damage(item.file, item.number, fault)))
    return None
