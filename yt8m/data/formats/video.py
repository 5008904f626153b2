"""Video-level records: a `tf.train.Example` with a list of floats per feature."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from yt8m.batch import Batch
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
from yt8m.sampling import FrameSampling
from yt8m.schema import DataSpec

_BYTES_PER_FLOAT = 4


@RECORD_FORMATS.register("video", level="video")
class VideoFormat(RecordFormat):
    """A vector per feature and video."""

    is_all_context = True

    def parse_context(self, serialized: tf.Tensor, wanted: Mapping[str, Any]) -> Batch:
        """Parses the `wanted` features of `serialized` `(B,)` string records."""
        return tf.io.parse_example(serialized, dict(wanted))

    def parse(
        self, serialized: tf.Tensor, wanted: Mapping[str, Any], spec: DataSpec, layout: Layout
    ) -> tuple[Batch, Batch]:
        """Parses `serialized` `(B,)` records to context and vectors `(B, size)` float32, both by their stored names."""
        columns = zip(layout.stored_names, spec.feature_sizes, strict=True)
        vectors = {name: tf.io.FixedLenFeature([size], tf.float32) for name, size in columns}
        parsed = tf.io.parse_example(serialized, {**wanted, **vectors})
        return parsed, {name: finite(parsed[name]) for name in vectors}

    def features(
        self, spec: DataSpec, layout: Layout, stored: Batch, keys: tf.Tensor, sampling: FrameSampling | None
    ) -> Batch:
        """Returns the vectors `(B, size)` by the names of the spec."""
        del keys, sampling
        names = zip(spec.feature_names, layout.stored_names, strict=True)
        return {name: stored[stored_name] for name, stored_name in names}

    def blank(self, spec: DataSpec) -> Batch:
        """Returns zero vectors `(1, size)`."""
        features = zip(spec.feature_names, spec.feature_sizes, strict=True)
        return {name: tf.zeros([1, size], tf.float32) for name, size in features}

    def largest_record(self, spec: DataSpec) -> int:
        """All features of a video."""
        return spec.total_size * _BYTES_PER_FLOAT

    def stored_features(self, record: tf.train.SequenceExample) -> Mapping[str, Any]:
        """The features are in the context."""
        return record.context.feature

    def check_level(self, record: tf.train.SequenceExample) -> None:
        """Refuses a record with features of frames, because it lacks one of a video."""
        frames = record.feature_lists.feature_list
        if frames:
            raise RecordFaultError(
                f"it holds features of every frame ({listing(frames)}), and --frame_features was not given. Pass "
                "--frame_features, or video-level shards."
            )

    def stored_as_floats(self, feature: tf.train.Feature) -> bool:
        """There is no other way."""
        del feature
        return True

    def check_features(self, stored: Mapping[str, tf.train.Feature], spec: DataSpec, layout: Layout) -> None:
        """Expects as many floats per feature as the spec says."""
        for name, size in zip(layout.stored_names, spec.feature_sizes, strict=True):
            kind, values = values_of(stored[name])
            if kind != "floats":
                raise RecordFaultError(f"'{name}' holds {kind}, expected {size} floats.")
            if len(values) != size:
                raise RecordFaultError(f"'{name}' holds {len(values)} floats, expected {size}. {WIDTH_ADVICE}")
            check_finite(name, values)
