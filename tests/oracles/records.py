"""Records read one by one with protobuf and numpy, as their layout is worded, to compare the readers with."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from yt8m.schema import DataSpec


def read_one(serialized: bytes, spec: DataSpec) -> dict[str, Any]:
    """Reads a record: its id, its set of labels, and its features as arrays, cut to `max_frames`."""
    record = tf.train.SequenceExample.FromString(serialized)
    context = record.context.feature
    ids = [value for key in ("id", "video_id") if key in context for value in context[key].bytes_list.value if value]
    labels = set(context["labels"].int64_list.value) if "labels" in context else set()
    read: dict[str, Any] = {"id": ids[0], "labels": labels}
    for name in spec.feature_names:
        if spec.record_format == "video":
            read[name] = np.array(context[name].float_list.value, np.float32)
            continue
        frames = record.feature_lists.feature_list[name].feature
        read[name] = [_frame(frame) for frame in frames]
    if spec.record_format == "frame":
        read["num_frames"] = min([spec.max_frames, *(len(read[name]) for name in spec.feature_names)])
    return read


def _frame(frame: tf.train.Feature) -> np.ndarray:
    if frame.WhichOneof("kind") == "float_list":
        return np.array(frame.float_list.value, np.float32)
    return np.frombuffer(frame.bytes_list.value[0], np.uint8)


def read_batch(serialized: Sequence[bytes], spec: DataSpec) -> dict[str, np.ndarray]:
    """Reads a batch as the contract words it, without random keys."""
    videos = [read_one(record, spec) for record in serialized]
    batch = {
        "id": np.array([video["id"] for video in videos], object),
        "labels": np.zeros([len(videos), spec.num_classes], bool),
    }
    for row, video in zip(batch["labels"], videos, strict=True):
        row[list(video["labels"])] = True
    if spec.record_format == "video":
        return batch | {name: np.stack([video[name] for video in videos]) for name in spec.feature_names}
    batch["num_frames"] = np.array([video["num_frames"] for video in videos], np.int32)
    longest = max(batch["num_frames"], default=0)
    for name, size in zip(spec.feature_names, spec.feature_sizes, strict=True):
        batch[name] = np.zeros([len(videos), longest, size], np.uint8)
        for row, video in zip(batch[name], videos, strict=True):
            for t in range(video["num_frames"]):
                row[t] = video[name][t]
    return batch
