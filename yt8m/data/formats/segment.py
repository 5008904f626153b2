"""Segments of frame-level records: windows of 5 seconds, of which raters said for some classes if they show them.

A stored record is of a whole video. As soon as it is read, it is cut into a small frame-level record per segment, so
that whatever counts, shuffles, samples or resumes examples meets segments. In the context of a small record are the
segment's name as its id, `labels`, the classes that raters saw there, and `segment_labels`, all that were asked for.
"""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError

from yt8m.data.formats.base import Layout, RecordFaultError
from yt8m.data.formats.frame import FrameFormat, check_lengths
from yt8m.data.record_faults import check_id, check_ratings
from yt8m.registry import RECORD_FORMATS
from yt8m.schema import (
    ID_KEYS,
    SEGMENT_LABELS_KEY,
    SEGMENT_SCORES_KEY,
    SEGMENT_SECONDS,
    SEGMENT_START_TIMES_KEY,
    DataSpec,
)
from yt8m.segments import segment_name

_CONTEXT_BYTES = 100  # of a segment's record, beside its frames


@RECORD_FORMATS.register("segment", level="frame")
class SegmentFormat(FrameFormat):
    """Segments that were rated, or every segment of a video; the frames of one, and `segment_context` on both sides."""

    rated_name = SEGMENT_LABELS_KEY

    def cut(self, serialized: bytes, spec: DataSpec, layout: Layout) -> list[bytes]:
        """Returns a record per segment, in the order of time.

        Those are the segments that were rated or, for an `EverySegmentDataSpec`, windows of 5 frames from the first
        frame on, of which the last may be shorter. Of a segment there are as many frames as the video has in that
        time, which may be none, and as many around it as it has and `segment_context` asks for.

        Args:
            serialized: the record of a video.
            spec: what is read.
            layout: how it is stored.

        Raises:
            RecordFaultError: if its id cannot be part of a segment's name, its ratings are unsound, or a feature has no
                frames and another has some.
            google.protobuf.message.DecodeError: if it is no record.
        """
        record = tf.train.SequenceExample.FromString(serialized)
        video_id = check_id(record.context.feature, names_segments=True)
        frames = {name: record.feature_lists.feature_list[name].feature for name in layout.stored_names}
        lengths = {name: len(of_feature) for name, of_feature in frames.items()}
        check_lengths(lengths)
        num_frames = min(spec.max_frames, *lengths.values())
        if spec.has_every_segment:
            ratings: dict[int, dict[int, bool]] = {start: {} for start in range(0, num_frames, SEGMENT_SECONDS)}
        else:
            check_ratings(record.context.feature, spec.num_classes)
            ratings = _ratings_by_start(record.context.feature)
        segments = []
        for start, classes in sorted(ratings.items()):
            segment = tf.train.SequenceExample()
            context = segment.context.feature
            context[ID_KEYS[0]].bytes_list.value.append(segment_name(video_id, start).encode())
            context[layout.labels_name].int64_list.value.extend(c for c, is_seen in classes.items() if is_seen)
            context[SEGMENT_LABELS_KEY].int64_list.value.extend(classes)
            first = max(start - spec.segment_context, 0)
            end = min(start + SEGMENT_SECONDS + spec.segment_context, num_frames)
            for name, of_feature in frames.items():
                segment.feature_lists.feature_list[name].feature.extend(of_feature[first:end])
            segments.append(segment.SerializeToString())
        return segments

    def largest_record(self, spec: DataSpec) -> int:
        """All features of a segment and of what is around it, a byte each."""
        num_frames = min(SEGMENT_SECONDS + 2 * spec.segment_context, spec.max_frames)
        return spec.total_size * num_frames + _CONTEXT_BYTES


def num_rated_segments(serialized: bytes) -> int:
    """Returns how many segments of a record's video were rated; 0 if it is no record, or has unsound ratings."""
    try:
        context = tf.train.SequenceExample.FromString(serialized).context.feature
        check_ratings(context)
    except (DecodeError, RecordFaultError):
        return 0
    return len(_ratings_by_start(context))


def _ratings_by_start(context: Mapping[str, Any]) -> dict[int, dict[int, bool]]:
    """By the second at which a segment starts, for each class that it was rated for whether one rating saw it there."""
    if SEGMENT_LABELS_KEY not in context:
        return {}
    starts = context[SEGMENT_START_TIMES_KEY].int64_list.value
    classes = context[SEGMENT_LABELS_KEY].int64_list.value
    scores = context[SEGMENT_SCORES_KEY].float_list.value
    ratings: dict[int, dict[int, bool]] = {}
    for start, class_index, score in zip(starts, classes, scores, strict=True):
        of_segment = ratings.setdefault(start, {})
        of_segment[class_index] = of_segment.get(class_index, False) or score > 0
    return ratings
