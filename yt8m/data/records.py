"""Serialized records -> batches: what a record holds, and how many of them are parsed at once."""

from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

from yt8m.randomness import keys_from_ids
from yt8m.sampling import FrameSampling, sample_indices
from yt8m.schema import (
    ID_KEYS,
    LABELS_KEY,
    SEGMENT_LABELS_KEY,
    SEGMENT_SCORES_KEY,
    SEGMENT_START_TIMES_KEY,
    DataSpec,
)

Batch = dict[str, tf.Tensor]


@dataclass(frozen=True)
class Layout:
    """How the records of a data set store what a DataSpec names.

    Attributes:
        stored_names: the record's name of each feature of the spec.
        stored_as_floats: whether it is stored as a float list, not as a string of bytes.
    """

    stored_names: tuple[str, ...]
    stored_as_floats: tuple[bool, ...]


def batch_parser(
    spec: DataSpec, layout: Layout, labels_required: bool, sampling: FrameSampling | None = None
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
    """
    features = _frame_features if spec.frame_features else _video_features

    def parse(serialized: tf.Tensor, keys: tf.Tensor | None = None) -> Batch:
        context, stored, lengths = _parse(serialized, spec, layout)
        ids = _ids(context)
        keys = keys_from_ids(ids) if keys is None else keys
        labels = multi_hot(context[LABELS_KEY], spec.num_classes)
        checks = [tf.debugging.Assert(tf.reduce_all(tf.not_equal(ids, "")), ["A record has no id."])]
        if labels_required:
            checks.append(_assert_labelled(serialized, context[LABELS_KEY]))
        with tf.control_dependencies(checks):
            labels = tf.identity(labels)
        return {"id": ids, "labels": labels, "key": keys, **features(spec, layout, stored, lengths, keys, sampling)}

    return parse


def multi_hot(labels: tf.RaggedTensor, num_classes: int) -> tf.Tensor:
    """Returns `(B, C)` bool from the ragged `(B, None)` int64 class indices of B videos; one named twice counts once.

    Raises:
        tf.errors.InvalidArgumentError: if an index is outside [0, C): the scatter checks that on a CPU.
    """
    indices = tf.stack([labels.value_rowids(), labels.values], axis=1)
    empty = tf.zeros([labels.nrows(), num_classes], tf.bool)
    return tf.tensor_scatter_nd_update(empty, indices, tf.ones_like(labels.values, tf.bool))


def parse_labels(serialized: tf.Tensor, spec: DataSpec) -> tf.RaggedTensor:
    """Returns the ragged `(B, None)` int64 class indices of serialized records, and looks at nothing else in them."""
    wanted = {LABELS_KEY: tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64)}
    if spec.frame_features:
        return tf.io.parse_sequence_example(serialized, wanted)[0][LABELS_KEY]
    return tf.io.parse_example(serialized, wanted)[LABELS_KEY]


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
    ids: dict = {key: tf.io.FixedLenFeature([], tf.string, "") for key in ID_KEYS}
    context = tf.io.parse_sequence_example(serialized, ids | lists)[0]
    labels, starts, scores = (context[key] for key in lists)
    checks = [
        tf.debugging.assert_equal(labels.row_splits, starts.row_splits),
        tf.debugging.assert_equal(labels.row_splits, scores.row_splits),
        tf.debugging.assert_non_negative(labels.values),
        tf.debugging.assert_non_negative(starts.values),
        tf.debugging.Assert(tf.reduce_all((scores.values >= 0) & (scores.values <= 1)), ["A score."]),
        tf.debugging.Assert(tf.reduce_all(tf.not_equal(_ids(context), "")), ["A record has no id."]),
    ]
    with tf.control_dependencies(checks):
        ids_of_ratings = tf.gather(_ids(context), labels.value_rowids())
    return {"id": ids_of_ratings, "class": labels.values, "start": starts.values, "score": scores.values}


def _parse(serialized: tf.Tensor, spec: DataSpec, layout: Layout) -> tuple[Batch, Batch, Batch]:
    """Parses ids and labels, the stored features by their stored names, and the numbers of frames by the same names."""
    context: dict = {key: tf.io.FixedLenFeature([], tf.string, "") for key in ID_KEYS}
    context[LABELS_KEY] = tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64)
    columns = list(zip(layout.stored_names, layout.stored_as_floats, spec.feature_sizes, strict=True))
    if spec.frame_features:
        lists = {
            name: tf.io.FixedLenSequenceFeature([size], tf.float32)
            if as_floats
            else tf.io.FixedLenSequenceFeature([], tf.string)
            for name, as_floats, size in columns
        }
        return tf.io.parse_sequence_example(serialized, context, lists)
    vectors = {name: tf.io.FixedLenFeature([size], tf.float32) for name, _, size in columns}
    parsed = tf.io.parse_example(serialized, context | vectors)
    return parsed, {name: parsed[name] for name in vectors}, {}


def _ids(context: Batch) -> tf.Tensor:
    """The video's id, whichever of the keys holds it."""
    ids = context[ID_KEYS[0]]
    for key in ID_KEYS[1:]:
        ids = tf.where(tf.equal(ids, ""), context[key], ids)
    return ids


def _assert_labelled(serialized: tf.Tensor, labels: tf.RaggedTensor) -> tf.Operation:
    """Fails if a record has no labels feature; it looks into those records only whose list of labels is empty."""
    unlabelled = tf.boolean_mask(serialized, tf.equal(labels.row_lengths(), 0))
    # The name as a serialized Example or SequenceExample spells it: field 1, its length, its letters. `\C` is any byte.
    named = tf.strings.regex_full_match(unlabelled, rf"\C*\n\x{len(LABELS_KEY):02x}{LABELS_KEY}\C*")
    return tf.debugging.Assert(tf.reduce_all(named), ["A record has no labels feature."])


def _video_features(
    spec: DataSpec, layout: Layout, stored: Batch, lengths: Batch, keys: tf.Tensor, sampling: FrameSampling | None
) -> Batch:
    del lengths, keys, sampling
    return {
        name: stored[stored_name] for name, stored_name in zip(spec.feature_names, layout.stored_names, strict=True)
    }


def _frame_features(
    spec: DataSpec, layout: Layout, stored: Batch, lengths: Batch, keys: tf.Tensor, sampling: FrameSampling | None
) -> Batch:
    """Cuts to the frames that are wanted, then decodes them: bytes stay uint8, floats stay float32."""
    num_frames, check = _num_frames([lengths[name] for name in layout.stored_names], spec.max_frames)
    with tf.control_dependencies([check]):
        indices, num_frames = (None, num_frames) if sampling is None else sample_indices(sampling, num_frames, keys)
    longest = tf.maximum(tf.reduce_max(num_frames), 0)
    is_frame = tf.sequence_mask(num_frames, longest)
    batch = {"num_frames": num_frames}
    columns = zip(spec.feature_names, layout.stored_names, layout.stored_as_floats, spec.feature_sizes, strict=True)
    for name, stored_name, as_floats, size in columns:
        frames = stored[stored_name]
        if indices is None:
            wanted = frames[:, :longest]
            is_padded = tf.reduce_all(lengths[stored_name] <= tf.cast(num_frames, tf.int64))
        else:
            wanted = tf.gather(frames, indices[:, :longest], batch_dims=1)
            is_padded = tf.reduce_all(is_frame)
        padded = _pad(wanted, is_frame, is_padded)
        batch[name] = padded if as_floats else _decode(padded, is_frame, size)
    return batch


def _num_frames(lengths: list[tf.Tensor], max_frames: int) -> tuple[tf.Tensor, tf.Operation]:
    """The frames that every feature has, up to `max_frames`. It fails if one has none of them and another has some."""
    shortest, longest = tf.reduce_min(tf.stack(lengths), axis=0), tf.reduce_max(tf.stack(lengths), axis=0)
    check = tf.debugging.Assert(tf.reduce_all(tf.equal(shortest > 0, longest > 0)), ["A feature has no frames."])
    return tf.cast(tf.minimum(shortest, max_frames), tf.int32), check


def _pad(frames: tf.Tensor, is_frame: tf.Tensor, is_padded: tf.Tensor) -> tf.Tensor:
    """Replaces `(B, T)` strings or `(B, T, D)` floats that are no frames by padding, if there is something to replace.

    Parsing pads already. So this copies frames only where a video was cut, or has fewer frames than were drawn.
    """
    mask, padding = (is_frame, "") if frames.dtype == tf.string else (is_frame[:, :, tf.newaxis], 0.0)
    return tf.cond(is_padded, lambda: frames, lambda: tf.where(mask, frames, padding))


def _decode(frames: tf.Tensor, is_frame: tf.Tensor, size: int) -> tf.Tensor:
    """Decodes `(B, T)` strings of `size` bytes to `(B, T, size)` uint8, and empty ones, which are padding, to 0."""
    is_sound = tf.equal(tf.strings.length(frames), tf.where(is_frame, size, 0))
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(is_sound), ["A frame's width."])]):
        return tf.io.decode_raw(frames, tf.uint8, fixed_length=size)
