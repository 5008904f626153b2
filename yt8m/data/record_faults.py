"""One record, looked at slowly: how it stores what a DataSpec names, or in words what is wrong with it."""

import math
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError

from yt8m.data.formats.base import Column, Layout, RecordFaultError, format_of, values_of
from yt8m.errors import UserError
from yt8m.schema import (
    ID_KEYS,
    LABELS_KEY,
    LABELS_KEYS,
    SEGMENT_LABELS_KEY,
    SEGMENT_SCORES_KEY,
    SEGMENT_START_TIMES_KEY,
    TEACHER_CLASSES_KEY,
    TEACHER_SCORES_KEY,
    DataSpec,
)
from yt8m.scores import name_of
from yt8m.segments import segment_name

# Name, kind and largest value of the lists that hold one entry per rating.
_RATING_LISTS = (
    (SEGMENT_LABELS_KEY, "integers", math.inf),
    (SEGMENT_START_TIMES_KEY, "integers", math.inf),
    (SEGMENT_SCORES_KEY, "floats", 1),
)

_MARKS_OF_CSV = (b",", b'"', b"\r", b"\n", b"\0")


def fault_of(serialized: bytes, spec: DataSpec, layout: Layout | None, labels_required: bool) -> str | None:
    """Returns what is wrong with a record, or None.

    Args:
        serialized: the record.
        spec: what it should hold.
        layout: how the first records store it; None if this is the first.
        labels_required: whether a record without a labels feature is wrong.
    """
    try:
        _check(serialized, spec, layout, labels_required)
    except RecordFaultError as fault:
        return str(fault)
    return None


def ratings_fault_of(serialized: bytes) -> str | None:
    """Returns what is wrong with the ratings of segments that a record holds, or None. To hold none is not wrong."""
    try:
        context = _parsed(serialized).context.feature
        check_id(context)
        check_ratings(context)
    except RecordFaultError as fault:
        return str(fault)
    return None


def columns_of(serialized: bytes, spec: DataSpec) -> list[Column]:
    """Returns a column per feature of the spec.

    Raises:
        RecordFaultError: if the record is not of the format that the spec says, or lacks a feature.
    """
    return format_of(spec).columns_of(_parsed(serialized), spec)


def labels_name_of(serialized: bytes) -> str:
    """Returns under which name a record keeps its list of classes; the usual one if it has none.

    Raises:
        RecordFaultError: if it is no record.
    """
    return _labels_name(_parsed(serialized).context.feature)


def id_of(serialized: bytes) -> str:
    """Returns the id of a record of any format.

    Raises:
        RecordFaultError: if it has none that a CSV can hold, or is no record.
    """
    return check_id(_parsed(serialized).context.feature)


def _labels_name(context: Mapping[str, Any]) -> str:
    return next((key for key in LABELS_KEYS if key in context), LABELS_KEY)


def _check(serialized: bytes, spec: DataSpec, layout: Layout | None, labels_required: bool) -> None:
    record, record_format = _parsed(serialized), format_of(spec)
    columns = record_format.columns_of(record, spec)
    check_id(record.context.feature, record_format.cuts_records)
    layout, names = layout or Layout.of(columns, _labels_name(record.context.feature)), [name for name, _ in columns]
    if record_format.cuts_records:
        check_ratings(record.context.feature, spec.num_classes)
    else:
        _check_labels(record.context.feature, layout.labels_name, spec.num_classes, labels_required)
    if spec.has_teacher:
        _check_teacher(record.context.feature, spec.num_classes)
    if names != list(layout.stored_names):
        raise RecordFaultError(
            f"its features are named {', '.join(names)}, those of the first record {', '.join(layout.stored_names)}. "
            "Read shards of one kind at a time."
        )
    record_format.check_features(record_format.stored_features(record), spec, layout)


def _parsed(serialized: bytes) -> tf.train.SequenceExample:
    """An Example is a SequenceExample without feature lists: both keep ids, labels and vectors in field 1."""
    try:
        return tf.train.SequenceExample.FromString(serialized)
    except DecodeError as error:
        raise RecordFaultError(
            "it is neither a tf.train.Example nor a tf.train.SequenceExample. Is this a file of YouTube-8M records?"
        ) from error


def check_id(context: Mapping[str, Any], names_segments: bool = False) -> str:
    """Expects one string that a CSV can hold, and returns it.

    Args:
        context: the features by name.
        names_segments: whether it has to fit into the name of a segment too.

    Raises:
        RecordFaultError: if it is anything else.
    """
    found = {key: values_of(context[key]) for key in ID_KEYS if key in context}
    for key, (kind, values) in found.items():
        if kind not in ("bytes", "nothing") or len(values) > 1:
            raise RecordFaultError(f"'{key}' holds {len(values)} {kind}, expected one string.")
    ids = [values[0] for _, values in found.values() if values and values[0]]
    if not ids:
        raise RecordFaultError(f"it has no id. Expected a string named {' or '.join(map(repr, ID_KEYS))}.")
    if any(mark in ids[0] for mark in _MARKS_OF_CSV):
        raise RecordFaultError(
            f"its id {ids[0].decode(errors='backslashreplace')!r} has a comma, a quote or a line end in it, so no "
            "submission can name it. Write the record with another id."
        )
    if names_segments:
        try:
            segment_name(ids[0], 0)
        except UserError as error:
            # Without that error, whose text would be taken for the whole message where this one fails a pipeline.
            raise RecordFaultError(f"its segments have no name. {error}") from None
    return name_of(ids[0])


def _check_labels(context: Mapping[str, Any], name: str, num_classes: int, labels_required: bool) -> None:
    if name not in context:
        if labels_required:
            raise RecordFaultError(
                f"it has no feature '{name}', so it can be used for inference only. "
                "Is this a test shard? Pass labelled shards."
            )
        return
    kind, values = values_of(context[name])
    if kind not in ("integers", "nothing"):
        raise RecordFaultError(f"'{name}' holds {kind}, expected integers in [0, {num_classes}).")
    outside = [label for label in values if not 0 <= label < num_classes]
    if outside:
        raise RecordFaultError(
            f"'{name}' holds class {outside[0]}, expected 0 to {num_classes - 1}. Does --num_classes fit this data?"
        )


def _check_teacher(context: Mapping[str, Any], num_classes: int) -> None:
    """Expects two lists of one length: different classes, and their probabilities."""
    missing = [key for key in (TEACHER_CLASSES_KEY, TEACHER_SCORES_KEY) if key not in context]
    if missing:
        raise RecordFaultError(
            f"it has no feature '{missing[0]}', in which --teacher=records looks for the predictions of a teacher. "
            "Write shards with them by tools.add_predictions, or give another teacher."
        )
    (kind, classes), (scores_kind, scores) = (
        values_of(context[key]) for key in (TEACHER_CLASSES_KEY, TEACHER_SCORES_KEY)
    )
    if kind not in ("integers", "nothing") or scores_kind not in ("floats", "nothing"):
        raise RecordFaultError(
            f"'{TEACHER_CLASSES_KEY}' holds {kind} and '{TEACHER_SCORES_KEY}' {scores_kind}, expected integers and "
            "floats."
        )
    if len(classes) != len(scores) or len(set(classes)) < len(classes):
        raise RecordFaultError(
            f"'{TEACHER_CLASSES_KEY}' holds {len(set(classes))} different classes of {len(classes)}, "
            f"'{TEACHER_SCORES_KEY}' {len(scores)} scores; expected one score for each of different classes."
        )
    outside = [label for label in classes if not 0 <= label < num_classes]
    if outside:
        raise RecordFaultError(
            f"'{TEACHER_CLASSES_KEY}' holds class {outside[0]}, expected 0 to {num_classes - 1}. Is the teacher of "
            "another data set?"
        )
    wrong = [score for score in scores if not 0 <= score <= 1]
    if wrong:
        raise RecordFaultError(f"'{TEACHER_SCORES_KEY}' holds {wrong[0]}, expected probabilities in [0, 1].")


def check_ratings(context: Mapping[str, Any], num_classes: int | None = None) -> None:
    """Checks what raters said of a record's segments. To hold no ratings is not wrong.

    Args:
        context: the features by name.
        num_classes: C; None if any class will do.

    Raises:
        RecordFaultError: if the lists do not fit each other, or hold something else.
    """
    lengths = {}
    for key, expected, largest in _RATING_LISTS:
        if key == SEGMENT_LABELS_KEY and num_classes is not None:
            largest = num_classes - 1
        kind, values = values_of(context[key]) if key in context else ("nothing", ())
        if kind not in (expected, "nothing"):
            raise RecordFaultError(f"'{key}' holds {kind}, expected {expected}.")
        outside = [value for value in values if not 0 <= value <= largest]
        if outside:
            raise RecordFaultError(f"'{key}' holds {outside[0]}, expected {expected} in [0, {largest}].")
        lengths[key] = len(values)
    if len(set(lengths.values())) > 1:
        listing = ", ".join(f"'{key}' holds {length}" for key, length in lengths.items())
        raise RecordFaultError(
            f"{listing}; expected one entry per rating in each. Is this a test shard, whose ratings are kept back?"
        )
