"""Videos -> serialized records of each format, and files of them."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from yt8m.data.formats.clip import FLOW_CHANNELS
from yt8m.schema import (
    ID_KEYS,
    LABELS_KEY,
    SEGMENT_END_TIMES_KEY,
    SEGMENT_LABELS_KEY,
    SEGMENT_SCORES_KEY,
    SEGMENT_SECONDS,
    SEGMENT_START_TIMES_KEY,
)

Rating = tuple[int, int, float]  # the second at which a segment starts, a class, and 1 if it is to be seen there or 0


def frame_record(
    video_id: str,
    labels: Iterable[int] | None,
    features: Mapping[str, np.ndarray | Sequence[np.ndarray]],
    id_key: str = ID_KEYS[0],
    ratings: Sequence[Rating] | None = None,
) -> bytes:
    """Returns a serialized SequenceExample.

    Args:
        video_id: the video's id.
        labels: class indices; None for a record without a labels feature.
        features: by name, the frames of a video: uint8 vectors are stored as strings, float ones as lists of floats.
        id_key: the name under which the id is stored.
        ratings: what raters said of the video's segments; None for a record without such lists.
    """
    record = tf.train.SequenceExample()
    _set_context(record.context, video_id, labels, id_key)
    if ratings is not None:
        _set_ratings(record.context, ratings)
    for name, frames in features.items():
        stored = record.feature_lists.feature_list[name]
        for frame in frames:
            if frame.dtype == np.uint8:
                stored.feature.add().bytes_list.value.append(frame.tobytes())
            else:
                stored.feature.add().float_list.value.extend(frame.tolist())
    return record.SerializeToString(deterministic=True)


def video_record(
    video_id: str, labels: Iterable[int] | None, features: Mapping[str, np.ndarray], id_key: str = ID_KEYS[0]
) -> bytes:
    """Returns a serialized Example with a list of floats for every feature; the arguments are as in `frame_record`."""
    record = tf.train.Example()
    _set_context(record.features, video_id, labels, id_key)
    for name, vector in features.items():
        record.features.feature[name].float_list.value.extend(vector.tolist())
    return record.SerializeToString(deterministic=True)


def clip_record(
    video_id: str, labels: Iterable[int] | None, pictures: Mapping[str, np.ndarray], quality: int = 95
) -> bytes:
    """Returns a serialized SequenceExample of the format `clip`.

    Args:
        video_id: the video's id.
        labels: class indices; None for a record without a labels feature.
        pictures: by name, the frames of a video, `(T, H, W, channels)` uint8; two channels are flow.
        quality: of the JPEGs, 0 to 100.
    """

    def encode(picture: np.ndarray) -> np.ndarray:
        if picture.shape[-1] == FLOW_CHANNELS:
            picture = np.concatenate(np.split(picture, FLOW_CHANNELS, axis=-1))
        jpeg = tf.io.encode_jpeg(picture, quality=quality, chroma_downsampling=False).numpy()
        return np.frombuffer(jpeg, np.uint8)

    return frame_record(video_id, labels, {name: [encode(x) for x in frames] for name, frames in pictures.items()})


def _set_context(context: tf.train.Features, video_id: str, labels: Iterable[int] | None, id_key: str) -> None:
    context.feature[id_key].bytes_list.value.append(video_id.encode())
    if labels is not None:
        context.feature[LABELS_KEY].int64_list.value.extend(labels)


def _set_ratings(context: tf.train.Features, ratings: Sequence[Rating]) -> None:
    starts = [start for start, _, _ in ratings]
    context.feature[SEGMENT_START_TIMES_KEY].int64_list.value.extend(starts)
    context.feature[SEGMENT_END_TIMES_KEY].int64_list.value.extend(start + SEGMENT_SECONDS for start in starts)
    context.feature[SEGMENT_LABELS_KEY].int64_list.value.extend(label for _, label, _ in ratings)
    context.feature[SEGMENT_SCORES_KEY].float_list.value.extend(score for _, _, score in ratings)


def write_records(path: str | Path, records: Iterable[bytes], compression: str = "") -> str:
    """Writes serialized records to a file, compressed if `compression` is `GZIP`, and returns its path."""
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for record in records:
            writer.write(record)
    return str(path)
