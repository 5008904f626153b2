"""One record, looked at slowly: how it stores what a DataSpec names, or in words what is wrong with it."""

import math
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError

from yt8m.data.records import Layout
from yt8m.schema import (
    ID_KEYS,
    LABELS_KEY,
    MEDIAPIPE_NAMES,
    SEGMENT_LABELS_KEY,
    SEGMENT_SCORES_KEY,
    SEGMENT_START_TIMES_KEY,
    DataSpec,
)

_KINDS = {"bytes_list": "bytes", "float_list": "floats", "int64_list": "integers", None: "nothing"}
# Name, kind and largest value of the lists that hold one entry a rating.
_RATING_LISTS = (
    (SEGMENT_LABELS_KEY, "integers", math.inf),
    (SEGMENT_START_TIMES_KEY, "integers", math.inf),
    (SEGMENT_SCORES_KEY, "floats", 1),
)
_WIDTH_ADVICE = "Is --feature_sizes in the order of --feature_names?"


class RecordFaultError(Exception):
    """Says what is wrong with a record, what was expected and what to do; the caller knows which record it is."""


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
        _check_id(context)
        _check_ratings(context)
    except RecordFaultError as fault:
        return str(fault)
    return None


def columns_of(serialized: bytes, spec: DataSpec) -> list[tuple[str, bool | None]]:
    """Returns for every feature its name in the record, and whether that is a list of floats; None if not to be seen.

    Raises:
        RecordFaultError: if the record is not of the level that the spec says, or lacks a feature.
    """
    record = _parsed(serialized)
    _check_level(record, spec)
    stored = _stored(record, spec)
    names = [_stored_name(name, stored) for name in spec.feature_names]
    _check_names(names, stored, spec)
    if not spec.frame_features:
        return [(name, True) for name in names]
    kinds = [_kind_of_frames(stored[name]) for name in names]
    return [(name, None if kind is None else kind == "floats") for name, kind in zip(names, kinds, strict=True)]


def _check(serialized: bytes, spec: DataSpec, layout: Layout | None, labels_required: bool) -> None:
    columns = columns_of(serialized, spec)
    record = _parsed(serialized)
    _check_id(record.context.feature)
    _check_labels(record.context.feature, spec.num_classes, labels_required)
    stored = _stored(record, spec)
    if layout and [name for name, _ in columns] != list(layout.stored_names):
        raise RecordFaultError(
            f"its features are named {', '.join(n for n, _ in columns)}, those of the first record "
            f"{', '.join(layout.stored_names)}. Read shards of one kind at a time."
        )
    for i, (name, as_floats) in enumerate(columns):
        expects_floats = layout.stored_as_floats[i] if layout else bool(as_floats)
        check = _check_frames if spec.frame_features else _check_vector
        check(name, stored[name], spec.feature_sizes[i], expects_floats)
    if spec.frame_features:
        _check_lengths({name: len(stored[name].feature) for name, _ in columns})


def _parsed(serialized: bytes) -> tf.train.SequenceExample:
    """An Example is a SequenceExample without feature lists: both keep ids, labels and vectors in field 1."""
    try:
        return tf.train.SequenceExample.FromString(serialized)
    except DecodeError as error:
        raise RecordFaultError(
            "it is neither a tf.train.Example nor a tf.train.SequenceExample. Is this a file of YouTube-8M records?"
        ) from error


def _check_level(record: tf.train.SequenceExample, spec: DataSpec) -> None:
    has_frames = bool(record.feature_lists.feature_list)
    if has_frames and not spec.frame_features:
        raise RecordFaultError(
            f"it holds features of every frame ({_listing(record.feature_lists.feature_list)}), and --frame_features "
            "was not given. Pass --frame_features, or video-level shards."
        )
    if spec.frame_features and not has_frames:
        raise RecordFaultError(
            f"it holds no features of frames, only {_listing(record.context.feature) or 'ids and labels'}, and "
            "--frame_features was given. Leave it out, or pass frame-level shards."
        )


def _stored(record: tf.train.SequenceExample, spec: DataSpec) -> Mapping[str, Any]:
    return record.feature_lists.feature_list if spec.frame_features else record.context.feature


def _stored_name(name: str, stored: Mapping[str, Any]) -> str:
    alias = MEDIAPIPE_NAMES.get(name, name)
    return alias if name not in stored and alias in stored else name


def _check_names(names: list[str], stored: Mapping[str, Any], spec: DataSpec) -> None:
    for name in (name for name in names if name not in stored):
        flags = "--feature_names and --feature_sizes"
        raise RecordFaultError(f"it has no feature '{name}'. Choose with {flags} from: {_listing(stored) or 'none'}.")


def _listing(stored: Mapping[str, Any]) -> str:
    """Names and widths of features, as in `rgb (1024), audio (128)`."""
    widths = {name: _width(stored[name]) for name in sorted(stored) if name not in (*ID_KEYS, LABELS_KEY)}
    return ", ".join(f"{name} ({width})" for name, width in widths.items())


def _width(feature: Any) -> int:
    """The width of a vector, or of the first frame of a list of them."""
    if isinstance(feature, tf.train.FeatureList):
        return _width(feature.feature[0]) if feature.feature else 0
    kind, values = _values(feature)
    return len(values[0]) if kind == "bytes" and len(values) == 1 else len(values)


def _values(feature: tf.train.Feature) -> tuple[str, Any]:
    which = feature.WhichOneof("kind")
    return _KINDS[which], getattr(feature, which).value if which else ()


def _kind_of_frames(frames: tf.train.FeatureList) -> str | None:
    return _values(frames.feature[0])[0] if frames.feature else None


def _check_id(context: Mapping[str, Any]) -> None:
    found = {key: _values(context[key]) for key in ID_KEYS if key in context}
    for key, (kind, values) in found.items():
        if kind not in ("bytes", "nothing") or len(values) > 1:
            raise RecordFaultError(f"'{key}' holds {len(values)} {kind}, expected one string.")
    if not any(values and values[0] for _, values in found.values()):
        raise RecordFaultError(f"it has no id. Expected a string named {' or '.join(map(repr, ID_KEYS))}.")


def _check_labels(context: Mapping[str, Any], num_classes: int, labels_required: bool) -> None:
    if LABELS_KEY not in context:
        if labels_required:
            raise RecordFaultError(
                f"it has no feature '{LABELS_KEY}', so it can be used for inference only. "
                "Is this a test shard? Pass labelled shards."
            )
        return
    kind, values = _values(context[LABELS_KEY])
    if kind not in ("integers", "nothing"):
        raise RecordFaultError(f"'{LABELS_KEY}' holds {kind}, expected integers in [0, {num_classes}).")
    for label in (label for label in values if not 0 <= label < num_classes):
        raise RecordFaultError(
            f"'{LABELS_KEY}' holds class {label}, expected 0 to {num_classes - 1}. Does --num_classes fit this data?"
        )


def _check_ratings(context: Mapping[str, Any]) -> None:
    lengths = {}
    for key, expected, largest in _RATING_LISTS:
        kind, values = _values(context[key]) if key in context else ("nothing", ())
        if kind not in (expected, "nothing"):
            raise RecordFaultError(f"'{key}' holds {kind}, expected {expected}.")
        for value in (value for value in values if not 0 <= value <= largest):
            raise RecordFaultError(f"'{key}' holds {value}, expected {expected} in [0, {largest}].")
        lengths[key] = len(values)
    if len(set(lengths.values())) > 1:
        listing = ", ".join(f"'{key}' holds {length}" for key, length in lengths.items())
        raise RecordFaultError(
            f"{listing}; expected one entry a rating in each. Is this a test shard, whose ratings are kept back?"
        )


def _check_vector(name: str, feature: tf.train.Feature, size: int, expects_floats: bool) -> None:
    del expects_floats
    kind, values = _values(feature)
    if kind != "floats":
        raise RecordFaultError(f"'{name}' holds {kind}, expected {size} floats.")
    if len(values) != size:
        raise RecordFaultError(f"'{name}' holds {len(values)} floats, expected {size}. {_WIDTH_ADVICE}")


def _check_frames(name: str, frames: tf.train.FeatureList, size: int, expects_floats: bool) -> None:
    expected = "floats" if expects_floats else "bytes"
    for i, feature in enumerate(frames.feature):
        kind, values = _values(feature)
        if kind != expected:
            raise RecordFaultError(
                f"'{name}' holds {kind} at frame {i}, expected {size} {expected} as in the first record."
            )
        if kind == "bytes" and len(values) != 1:
            raise RecordFaultError(f"'{name}' holds {len(values)} strings at frame {i}, expected one of {size} bytes.")
        width = len(values) if expects_floats else len(values[0])
        if width != size:
            raise RecordFaultError(
                f"'{name}' holds {width} {expected} a frame (frame {i}), expected {size}. {_WIDTH_ADVICE}"
            )


def _check_lengths(lengths: dict[str, int]) -> None:
    if not any(lengths.values()):
        return
    for name in (name for name, length in lengths.items() if not length):
        longest = max(lengths, key=lambda other: lengths[other])
        raise RecordFaultError(
            f"'{name}' holds no frames, '{longest}' holds {lengths[longest]}. "
            f"Leave '{name}' out of --feature_names, or the record out of the data."
        )
