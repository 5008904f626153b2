"""A video as a record holds it, whole and unchanged: what tools take out of records and put into them.

Models get less: yt8m/data/records.py cuts, pads and joins.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from yt8m.data.formats.base import Layout, RecordFaultError, values_of
from yt8m.data.record_faults import columns_of, fault_of, id_of, labels_name_of
from yt8m.data.record_writing import frame_record, video_record
from yt8m.errors import UserError
from yt8m.schema import DataSpec

_FORMATS = ("video", "frame")


class StoredVideo(NamedTuple):
    """A video, whole, as it is stored.

    Attributes:
        id: of the video.
        labels: the classes as they are listed; None if nobody said.
        features: by name, a vector `(D,)` of the video or one per frame, `(T, D)`: uint8 for bytes, else float32.
    """

    id: str
    labels: Sequence[int] | None
    features: Mapping[str, np.ndarray]


def check_is_stored_whole(spec: DataSpec) -> None:
    """Checks that records of a format hold vectors, which may be taken out and put in.

    Raises:
        UserError: if they hold pictures.
    """
    if spec.record_format not in _FORMATS:
        raise UserError(
            f"--record_format={spec.record_format}: expected {' or '.join(_FORMATS)}. Records of clips are made by "
            "tools.make_video_records."
        )


def stored_video(serialized: bytes, spec: DataSpec, layout: Layout | None = None) -> StoredVideo:
    """Takes a video out of a record of the format `video` or `frame`.

    Args:
        serialized: the record.
        spec: what it should hold.
        layout: how the first records store it; None if this is the first.

    Raises:
        RecordFaultError: if the record does not hold what `spec` says; labels need not be there.
    """
    fault = fault_of(serialized, spec, layout, labels_required=False)
    if fault is not None:
        raise RecordFaultError(fault)
    layout = layout or Layout.of(columns_of(serialized, spec), labels_name_of(serialized))
    record = tf.train.SequenceExample.FromString(serialized)
    features: dict[str, np.ndarray] = {}
    columns = zip(spec.feature_names, layout.stored_names, layout.stored_as_floats, spec.feature_sizes, strict=True)
    for name, stored_name, as_floats, size in columns:
        if spec.record_format == "video":
            features[name] = np.array(values_of(record.context.feature[stored_name])[1], np.float32)
            continue
        frames = [values_of(frame)[1] for frame in record.feature_lists.feature_list[stored_name].feature]
        if as_floats:
            features[name] = np.array(frames, np.float32).reshape(-1, size)
        else:
            features[name] = np.frombuffer(b"".join(frame[0] for frame in frames), np.uint8).reshape(-1, size)
    labels = None
    if layout.labels_name in record.context.feature:
        labels = list(values_of(record.context.feature[layout.labels_name])[1])
    return StoredVideo(id_of(serialized), labels, features)


def record_of(video: StoredVideo, spec: DataSpec) -> bytes:
    """Makes a record of a video; of one that `stored_video` gave, it holds the same, bit for bit.

    Args:
        video: its frames are stored as bytes if they are uint8, else as lists of floats.
        spec: what the record should hold, in the format `video` or `frame`.

    Raises:
        RecordFaultError: if the video does not have what `spec` says.
    """
    write = video_record if spec.record_format == "video" else frame_record
    serialized = write(video.id, video.labels, video.features)
    as_floats = tuple(video.features[name].dtype != np.uint8 for name in spec.feature_names)
    fault = fault_of(serialized, spec, Layout(spec.feature_names, as_floats), labels_required=False)
    if fault is not None:
        raise RecordFaultError(fault)
    return serialized
