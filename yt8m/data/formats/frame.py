"""Frame-level records: a `tf.train.SequenceExample` with a list of frames per feature."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from yt8m.batch import NUM_FRAMES, Batch
from yt8m.data.formats.base import (
    WIDTH_ADVICE,
    Layout,
    RecordFaultError,
    RecordFormat,
    check_finite,
    finite,
    listing,
    values_of,
)
from yt8m.registry import RECORD_FORMATS
from yt8m.sampling import FrameSampling, sample_indices
from yt8m.schema import DataSpec


@RECORD_FORMATS.register("frame", level="frame")
class FrameFormat(RecordFormat):
    """A vector per feature and frame: a string of bytes, or a list of floats as MediaPipe writes it."""

    def parse_context(self, serialized: tf.Tensor, wanted: Mapping[str, Any]) -> Batch:
        """Parses the `wanted` context features of `serialized` `(B,)` string records."""
        return tf.io.parse_sequence_example(serialized, dict(wanted))[0]

    def parse(
        self, serialized: tf.Tensor, wanted: Mapping[str, Any], spec: DataSpec, layout: Layout
    ) -> tuple[Batch, tuple[Batch, Batch]]:
        """Parses `serialized` `(B,)` records to context, frames and numbers of frames, by their stored names."""
        columns = zip(layout.stored_names, layout.stored_as_floats, spec.feature_sizes, strict=True)
        lists = {
            name: tf.io.FixedLenSequenceFeature([size], tf.float32)
            if as_floats
            else tf.io.FixedLenSequenceFeature([], tf.string)
            for name, as_floats, size in columns
        }
        context, frames, lengths = tf.io.parse_sequence_example(serialized, dict(wanted), lists)
        return context, ({name: finite(x) if x.dtype == tf.float32 else x for name, x in frames.items()}, lengths)

    def features(
        self,
        spec: DataSpec,
        layout: Layout,
        stored: tuple[Batch, Batch],
        keys: tf.Tensor,
        sampling: FrameSampling | None,
    ) -> Batch:
        """Cuts to the frames that are wanted, then decodes them: bytes stay uint8, floats stay float32.

        Returns:
            `(B, T, size)` per feature, and `num_frames` `(B,)` int32.
        """
        all_frames, lengths = stored
        num_frames, check = common_length([lengths[name] for name in layout.stored_names])
        num_frames = tf.minimum(num_frames, spec.max_frames)
        with tf.control_dependencies([check]):
            indices, num_frames = (None, num_frames) if sampling is None else sample_indices(sampling, num_frames, keys)
        longest = tf.maximum(tf.reduce_max(num_frames), 0)
        is_frame = tf.sequence_mask(num_frames, longest)
        batch = {NUM_FRAMES: num_frames}
        columns = zip(spec.feature_names, layout.stored_names, layout.stored_as_floats, spec.feature_sizes, strict=True)
        for name, stored_name, as_floats, size in columns:
            frames = all_frames[stored_name]
            if indices is None:
                wanted = frames[:, :longest]
                is_padded = tf.reduce_all(lengths[stored_name] <= tf.cast(num_frames, tf.int64))
            else:
                wanted = tf.gather(frames, indices[:, :longest], batch_dims=1)
                is_padded = tf.reduce_all(is_frame)
            padded = _pad(wanted, is_frame, is_padded)
            batch[name] = padded if as_floats else decode_bytes(padded, is_frame, size)
        return batch

    def blank(self, spec: DataSpec) -> Batch:
        """Returns one black frame, `(1, 1, size)` uint8 per feature."""
        features = zip(spec.feature_names, spec.feature_sizes, strict=True)
        frames = {name: tf.zeros([1, 1, size], tf.uint8) for name, size in features}
        return frames | {NUM_FRAMES: tf.ones([1], tf.int32)}

    def largest_record(self, spec: DataSpec) -> int:
        """All features of the longest video, a byte each."""
        return spec.total_size * spec.max_frames

    def stored_features(self, record: tf.train.SequenceExample) -> Mapping[str, Any]:
        """The features are in the feature lists."""
        return record.feature_lists.feature_list

    def check_level(self, record: tf.train.SequenceExample) -> None:
        """Refuses a record without features of frames."""
        if not record.feature_lists.feature_list:
            raise RecordFaultError(
                f"it holds no features of frames, only {listing(record.context.feature) or 'ids and labels'}, and "
                "--frame_features or --record_format=frame was given. Leave it out, or pass frame-level shards."
            )

    def stored_as_floats(self, feature: tf.train.FeatureList) -> bool | None:
        """As the first frame is; None without frames."""
        return values_of(feature.feature[0])[0] == "floats" if feature.feature else None

    def check_features(self, stored: Mapping[str, tf.train.FeatureList], spec: DataSpec, layout: Layout) -> None:
        """Expects frames of one width, of each feature or of none."""
        for name, as_floats, size in zip(layout.stored_names, layout.stored_as_floats, spec.feature_sizes, strict=True):
            check_frames(name, stored[name], size, as_floats)
        check_lengths({name: len(stored[name].feature) for name in layout.stored_names})


def common_length(lengths: list[tf.Tensor]) -> tuple[tf.Tensor, tf.Operation]:
    """Counts the frames that every feature of a video has.

    Args:
        lengths: `(B,)` int64 per feature, its number of frames.

    Returns:
        The smallest of them, `(B,)` int32, and a check that fails if one feature has no frames and another has some.
    """
    shortest, longest = tf.reduce_min(tf.stack(lengths), axis=0), tf.reduce_max(tf.stack(lengths), axis=0)
    check = tf.debugging.Assert(tf.reduce_all(tf.equal(shortest > 0, longest > 0)), ["A feature has no frames."])
    return tf.cast(shortest, tf.int32), check


def _pad(frames: tf.Tensor, is_frame: tf.Tensor, is_padded: tf.Tensor) -> tf.Tensor:
    """Replaces `(B, T)` strings or `(B, T, D)` floats that are no frames by padding, if there is something to replace.

    Parsing pads already. So this copies frames only where a video was cut, or has fewer frames than were drawn.
    """
    mask, padding = (is_frame, "") if frames.dtype == tf.string else (is_frame[:, :, tf.newaxis], 0.0)
    return tf.cond(is_padded, lambda: frames, lambda: tf.where(mask, frames, padding))


def decode_bytes(frames: tf.Tensor, is_frame: tf.Tensor, size: int) -> tf.Tensor:
    """Decodes strings of bytes, and empty ones, which are padding, to zeros.

    Args:
        frames: `(...)` string, of any shape.
        is_frame: `(...)` bool: where there is no padding.
        size: the length of the others.

    Returns:
        `(..., size)` uint8.

    Raises:
        tf.errors.InvalidArgumentError: if a string has another length.
    """
    is_sound = tf.equal(tf.strings.length(frames), tf.where(is_frame, size, 0))
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(is_sound), ["A frame's width."])]):
        return tf.io.decode_raw(frames, tf.uint8, fixed_length=size)


def check_frames(name: str, frames: tf.train.FeatureList, size: int, expects_floats: bool) -> None:
    """Checks the frames of a feature of a record.

    Args:
        name: of the feature in the record.
        frames: as they are stored.
        size: the width of each of them.
        expects_floats: whether they are lists of floats, not strings of bytes.

    Raises:
        RecordFaultError: if one is anything else.
    """
    expected = "floats" if expects_floats else "bytes"
    for i, feature in enumerate(frames.feature):
        kind, values = values_of(feature)
        if kind != expected:
            raise RecordFaultError(
                f"'{name}' holds {kind} at frame {i}, expected {size} {expected} as in the first record."
            )
        if kind == "bytes" and len(values) != 1:
            raise RecordFaultError(f"'{name}' holds {len(values)} strings at frame {i}, expected one of {size} bytes.")
        width = len(values) if expects_floats else len(values[0])
        if width != size:
            raise RecordFaultError(
                f"'{name}' holds {width} {expected} a frame (frame {i}), expected {size}. {WIDTH_ADVICE}"
            )
        if expects_floats:
            check_finite(name, values, f" at frame {i}")


def check_lengths(lengths: Mapping[str, int]) -> None:
    """Checks the numbers of frames of a record's features, by name.

    Raises:
        RecordFaultError: if one has no frames and another has some.
    """
    longest = max(lengths, key=lambda name: lengths[name])
    empty = [name for name, length in lengths.items() if not length]
    if empty and lengths[longest]:
        raise RecordFaultError(
            f"'{empty[0]}' holds no frames, '{longest}' holds {lengths[longest]}. "
            f"Leave '{empty[0]}' out of --feature_names, or the record out of the data."
        )
