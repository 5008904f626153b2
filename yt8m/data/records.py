"""Serialized records -> batches: what all record formats have in common, and many records are parsed at once."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError, Message

from yt8m.batch import ID, KEY, LABEL_WEIGHTS, LABELS, TEACHER_PREDICTIONS, Batch
from yt8m.data.formats.base import Layout, format_of
from yt8m.randomness import keys_from_ids
from yt8m.sampling import FrameSampling
from yt8m.schema import (
    ID_KEYS,
    SEGMENT_LABELS_KEY,
    SEGMENT_SCORES_KEY,
    SEGMENT_START_TIMES_KEY,
    TEACHER_CLASSES_KEY,
    TEACHER_SCORES_KEY,
    DataSpec,
)

_WANTED_IDS: dict[str, Any] = {key: tf.io.FixedLenFeature([], tf.string, "") for key in ID_KEYS}
_WANTED_LABELS = tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64)
_WANTED_OF_A_TEACHER: dict[str, Any] = {
    TEACHER_CLASSES_KEY: tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64),
    TEACHER_SCORES_KEY: tf.io.RaggedFeature(tf.float32, row_splits_dtype=tf.int64),
}
_MARK_OF_CSV = r'\C*[,"\r\n\x00]\C*'  # `\C` is any byte


Purpose = Literal["training", "evaluation", "examination"]


def batch_parser(
    spec: DataSpec,
    layout: Layout,
    labels_required: bool,
    sampling: FrameSampling | None = None,
    purpose: Purpose = "evaluation",
    portable: bool = False,
) -> Callable[[tf.Tensor, tf.Tensor | None], Batch]:
    """Returns a function from serialized records to a batch, to be called directly or inside `Dataset.map`.

    The function takes `(B,)` strings and `(B,)` int64 random keys; without keys it makes them from the ids. B may be 0.
    It raises `tf.errors.OpError` if one of the records does not hold what the spec says; diagnosis.py finds out which
    one and why.

    Args:
        spec: what to read.
        layout: how it is stored.
        labels_required: whether a record without any labels feature is an error. An empty list of labels never is.
        sampling: which frames to keep (frame level only); None keeps the first `spec.max_frames`.
        purpose: what the batch is for: `examination` fails at whatever training or evaluation could fail at.
        portable: whether the function's graph is to run in other processes. It leaves out the check that a record is a
            protocol buffer from end to end, which Python does; most damage of that kind fails elsewhere.
    """
    record_format, labels_name, rated_name = format_of(spec), layout.labels_name, format_of(spec).rated_name
    features = {
        "training": record_format.training_features,
        "evaluation": record_format.features,
        "examination": record_format.examined_features,
    }[purpose]
    wanted = _WANTED_IDS | {labels_name: _WANTED_LABELS} | ({rated_name: _WANTED_LABELS} if rated_name else {})
    wanted |= _WANTED_OF_A_TEACHER if spec.has_teacher else {}

    def parse(serialized: tf.Tensor, keys: tf.Tensor | None = None) -> Batch:
        context, stored = record_format.parse(serialized, wanted, spec, layout)
        ids = _ids(context)
        keys = keys_from_ids(ids) if keys is None else keys
        labels = multi_hot(context[labels_name], spec.num_classes)
        checks = _assert_ids(ids)
        if not portable:
            checks.append(_assert_well_formed(serialized, record_format.is_all_context))
        if labels_required:
            checks.append(_assert_present(serialized, context[labels_name], labels_name))
        with tf.control_dependencies(checks):
            labels = tf.identity(labels)
        batch = {ID: ids, LABELS: labels, KEY: keys, **features(spec, layout, stored, keys, sampling)}
        if rated_name:
            batch[LABEL_WEIGHTS] = tf.cast(multi_hot(context[rated_name], spec.num_classes), tf.float32)
        return batch | (_teacher_predictions(serialized, context, spec.num_classes) if spec.has_teacher else {})

    return parse


def _teacher_predictions(serialized: tf.Tensor, context: Batch, num_classes: int) -> Batch:
    """Returns the probabilities that records list, `(B, C)` float32, and 0 for classes that they do not list."""
    classes, scores = context[TEACHER_CLASSES_KEY], context[TEACHER_SCORES_KEY]
    pairs = tf.stack([classes.value_rowids(), classes.values], axis=1)
    checks = [
        *(_assert_present(serialized, context[name], name) for name in _WANTED_OF_A_TEACHER),
        tf.debugging.assert_equal(classes.row_splits, scores.row_splits),
        tf.debugging.assert_non_negative(classes.values),
        tf.debugging.assert_less(classes.values, tf.constant(num_classes, tf.int64)),
        tf.debugging.Assert(tf.reduce_all((scores.values >= 0) & (scores.values <= 1)), ["A teacher's score."]),
        tf.debugging.assert_equal(
            tf.size(tf.unique(classes.value_rowids() * num_classes + classes.values)[0]), tf.size(classes.values)
        ),
    ]
    with tf.control_dependencies(checks):
        shape = tf.stack([classes.nrows(), num_classes])
        return {TEACHER_PREDICTIONS: tf.scatter_nd(pairs, scores.values, shape)}


def multi_hot(labels: tf.RaggedTensor, num_classes: int) -> tf.Tensor:
    """Returns `(B, C)` bool from the ragged `(B, None)` int64 class indices of B videos; one named twice counts once.

    Raises:
        tf.errors.InvalidArgumentError: if an index is outside [0, C): the scatter checks that on a CPU.
    """
    indices = tf.stack([labels.value_rowids(), labels.values], axis=1)
    empty = tf.zeros([labels.nrows(), num_classes], tf.bool)
    return tf.tensor_scatter_nd_update(empty, indices, tf.ones_like(labels.values, tf.bool))


def parse_labels(serialized: tf.Tensor, spec: DataSpec, layout: Layout) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the labels, `(B, C)` bool, of `serialized` `(B,)` records, and of which classes they say anything.

    The latter is `(B, C)` bool too. Nothing else is parsed.
    """
    rated_name = format_of(spec).rated_name
    wanted = {name: _WANTED_LABELS for name in (layout.labels_name, rated_name) if name}
    context = format_of(spec).parse_context(serialized, wanted)
    labels = multi_hot(context[layout.labels_name], spec.num_classes)
    return labels, multi_hot(context[rated_name], spec.num_classes) if rated_name else tf.ones_like(labels)


def parse_ids_and_labels(serialized: tf.Tensor, labels_name: str) -> tuple[tf.Tensor, tf.RaggedTensor]:
    """Returns the ids and labels of records of any format, and looks at nothing else in them.

    An Example and a SequenceExample both hold what is parsed here in field 1.

    Args:
        serialized: `(B,)` strings.
        labels_name: the records' name of their list of classes.

    Returns:
        `(B,)` string ids and ragged `(B, None)` int64 class indices.

    Raises:
        tf.errors.OpError: if a record is none, or has no id or no labels feature.
    """
    parsed = tf.io.parse_example(serialized, _WANTED_IDS | {labels_name: _WANTED_LABELS})
    ids, labels = _ids(parsed), parsed[labels_name]
    checks = [_assert_well_formed(serialized), *_assert_ids(ids), _assert_present(serialized, labels, labels_name)]
    with tf.control_dependencies(checks):
        return tf.identity(ids), labels


def parse_ratings(serialized: tf.Tensor) -> Batch:
    """Returns what raters said of segments of the videos in serialized records, and looks at nothing else in them.

    Args:
        serialized: `(B,)` strings, frame-level records; those without ratings add nothing.

    Returns:
        Tensors of all N ratings, record after record: `id` `(N,)` string, the video; `class` and `start` `(N,)` int64,
        the second at which the segment starts; `score` `(N,)` float32, 1 if the class is to be seen there, 0 if not.

    Raises:
        tf.errors.OpError: if a record's lists do not fit each other or hold something else; diagnosis.py finds out
            which one and why.
    """
    integers, floats = (tf.io.RaggedFeature(dtype, row_splits_dtype=tf.int64) for dtype in (tf.int64, tf.float32))
    lists = {SEGMENT_LABELS_KEY: integers, SEGMENT_START_TIMES_KEY: integers, SEGMENT_SCORES_KEY: floats}
    context = tf.io.parse_sequence_example(serialized, _WANTED_IDS | lists)[0]
    labels, starts, scores = (context[key] for key in lists)
    checks = [
        tf.debugging.assert_equal(labels.row_splits, starts.row_splits),
        tf.debugging.assert_equal(labels.row_splits, scores.row_splits),
        tf.debugging.assert_non_negative(labels.values),
        tf.debugging.assert_non_negative(starts.values),
        tf.debugging.Assert(tf.reduce_all((scores.values >= 0) & (scores.values <= 1)), ["A score."]),
        *_assert_ids(_ids(context)),
    ]
    with tf.control_dependencies(checks):
        ids_of_ratings = tf.gather(_ids(context), labels.value_rowids())
    return {"id": ids_of_ratings, "class": labels.values, "start": starts.values, "score": scores.values}


def _ids(context: Batch) -> tf.Tensor:
    """The video's id, whichever of the keys holds it."""
    ids = context[ID_KEYS[0]]
    for key in ID_KEYS[1:]:
        ids = tf.where(tf.equal(ids, ""), context[key], ids)
    return ids


def _assert_ids(ids: tf.Tensor) -> list[tf.Operation]:
    """Fails if an id is empty, or cannot be written to a CSV."""
    return [
        tf.debugging.Assert(tf.reduce_all(tf.not_equal(ids, "")), ["A record has no id."]),
        tf.debugging.Assert(~tf.reduce_any(tf.strings.regex_full_match(ids, _MARK_OF_CSV)), ["An id."]),
    ]


def _assert_well_formed(serialized: tf.Tensor, is_all_context: bool = False) -> tf.Operation:
    """Fails if the part of a record that holds id and labels, or all of it, is no protocol buffer.

    TensorFlow's parsers let a part of a message reach beyond the end of the whole, and read then other classes, or
    another id, than were written. What is in lists of frames is known by its width.
    """
    if is_all_context:
        message, contexts = tf.train.Example, serialized
    else:
        # Field 1 of both kinds of records is a tf.train.Features, perhaps in several parts, like the values of a
        # BytesList; the 350 KB of frames beside it are passed over.
        message = tf.train.Features
        contexts = tf.cond(
            tf.size(serialized) > 0,  # the decoder refuses an empty batch
            lambda: tf.io.decode_proto(serialized, "tensorflow.BytesList", ["value"], [tf.string]).values[0],
            lambda: tf.zeros([0, 1], tf.string),
        )
    well_formed = tf.numpy_function(partial(_are_well_formed, message), [contexts], tf.bool, stateful=False)
    return tf.debugging.Assert(well_formed, ["A record is no protocol buffer."])


def _are_well_formed(message: type[Message], contexts: np.ndarray) -> np.bool_:
    # One message takes them all: whenever some thousand messages were freed, protobuf gives all free memory of the
    # process back to the kernel, and every tensor that is made afterwards has to be fetched from there, page by page.
    merge = message().MergeFromString
    try:
        for context in contexts.flat:
            merge(context)
    except DecodeError:
        return np.False_
    return np.True_


def _assert_present(serialized: tf.Tensor, values: tf.RaggedTensor, name: str) -> tf.Operation:
    """Fails if a record has no list of that name; it looks into those records only whose list of values is empty."""
    without = tf.boolean_mask(serialized, tf.equal(values.row_lengths(), 0))
    # The name as a serialized Example or SequenceExample spells it: field 1, its length, its letters.
    named = tf.strings.regex_full_match(without, rf"\C*\n\x{len(name):02x}{name}\C*")
    return tf.debugging.Assert(tf.reduce_all(named), [f"A record has no feature {name}."])
