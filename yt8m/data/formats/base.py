"""What a record format is: how records of one kind are parsed, and what may be wrong with one of them.

All formats have ids, labels and ratings in common: they are in the context of a record, which is the whole of a
`tf.train.Example` and the first field of a `tf.train.SequenceExample`. So one parser of protocol buffers reads both.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from yt8m.batch import Batch
from yt8m.registry import RECORD_FORMATS
from yt8m.sampling import FrameSampling
from yt8m.schema import ID_KEYS, LABELS_KEY, LABELS_KEYS, MEDIAPIPE_NAMES, DataSpec

KINDS = {"bytes_list": "bytes", "float_list": "floats", "int64_list": "integers", None: "nothing"}
WIDTH_ADVICE = "Is --feature_sizes in the order of --feature_names?"


# Of a feature in a record: its name there, and whether it is a list of floats; None if that cannot be seen.
Column = tuple[str, bool | None]


class RecordFaultError(Exception):
    """Says what is wrong with a record, what was expected and what to do; the caller knows which record it is."""


@dataclass(frozen=True)
class Layout:
    """How the records of a data set store what a DataSpec names.

    Attributes:
        stored_names: the record's name of each feature of the spec.
        stored_as_floats: whether it is stored as a float list, not as a string of bytes.
        labels_name: the record's name of its list of classes.
    """

    stored_names: tuple[str, ...]
    stored_as_floats: tuple[bool, ...]
    labels_name: str = LABELS_KEY

    @classmethod
    def of(cls, columns: Sequence[Column], labels_name: str = LABELS_KEY) -> "Layout":
        """Returns the layout of the features of one record; what cannot be seen is taken for bytes."""
        return cls(tuple(name for name, _ in columns), tuple(bool(as_floats) for _, as_floats in columns), labels_name)


class RecordFormat(ABC):
    """A kind of record. It is registered with `level="frame"` if models over frames read it, else `level="video"`.

    Attributes:
        is_all_context: whether a record is a `tf.train.Example`, with nothing beside its context.
        rated_name: the list of the classes of which labels say anything, in the context of what is parsed; empty if
            that is every class.
    """

    is_all_context = False
    rated_name = ""

    @property
    def cuts_records(self) -> bool:
        """Whether a stored record holds several examples, or none; `cut` then has to be asked."""
        return bool(self.rated_name)

    def cut(self, serialized: bytes, spec: DataSpec, layout: Layout) -> list[bytes]:
        """Returns the examples of a stored record, each as a record of its own, which is what all else here parses.

        Args:
            serialized: the stored record.
            spec: what is read.
            layout: how it is stored.

        Raises:
            Exception: of any kind, if the record is unsound; yt8m/data/record_faults.py says in words why.
        """
        del spec, layout
        return [serialized]

    @abstractmethod
    def parse_context(self, serialized: tf.Tensor, wanted: Mapping[str, Any]) -> Batch:
        """Parses the `wanted` context features of `serialized` `(B,)` string records, and no other part of them."""

    @abstractmethod
    def parse(
        self, serialized: tf.Tensor, wanted: Mapping[str, Any], spec: DataSpec, layout: Layout
    ) -> tuple[Batch, Any]:
        """Parses `serialized` `(B,)` string records.

        Returns:
            What is wanted of the context, and whatever `features` takes as `stored`.

        Raises:
            tf.errors.OpError: if a record does not hold what the spec says; `check_features` says in words why.
        """

    @abstractmethod
    def features(
        self, spec: DataSpec, layout: Layout, stored: Any, keys: tf.Tensor, sampling: FrameSampling | None
    ) -> Batch:
        """Returns the features of a batch by the names of the spec, and what else a model needs to know of them.

        Args:
            spec: what is read.
            layout: how it is stored.
            stored: what `parse` returned.
            keys: `(B,)` int64, the videos' random keys.
            sampling: which frames to keep; None for all, up to `spec.max_frames`. Without frames it has no meaning.
        """

    def training_features(
        self, spec: DataSpec, layout: Layout, stored: Any, keys: tf.Tensor, sampling: FrameSampling | None
    ) -> Batch:
        """Returns the features of a batch to train on, as `features` does, which it is unless a format changes them.

        Args:
            spec: what is read.
            layout: how it is stored.
            stored: what `parse` returned.
            keys: `(B,)` int64, the videos' random keys: the same key draws the same changes.
            sampling: which frames to keep.
        """
        return self.features(spec, layout, stored, keys, sampling)

    def examined_features(
        self, spec: DataSpec, layout: Layout, stored: Any, keys: tf.Tensor, sampling: FrameSampling | None
    ) -> Batch:
        """Looks at all that `features` and `training_features` may ever read, and fails if anything there is unsound.

        Args:
            spec: what is read.
            layout: how it is stored.
            stored: what `parse` returned.
            keys: `(B,)` int64, the videos' random keys.
            sampling: which frames to keep; a format that reads others in training ignores it.
        """
        return self.features(spec, layout, stored, keys, sampling)

    @abstractmethod
    def blank(self, spec: DataSpec) -> Batch:
        """Returns the features of one video, all zero."""

    @abstractmethod
    def largest_record(self, spec: DataSpec) -> int:
        """Returns about how many bytes a record has at most."""

    @abstractmethod
    def stored_features(self, record: tf.train.SequenceExample) -> Mapping[str, Any]:
        """Returns the features of a record by their names there."""

    @abstractmethod
    def check_level(self, record: tf.train.SequenceExample) -> None:
        """Checks that a record is of this format.

        Raises:
            RecordFaultError: if it is of another.
        """

    @abstractmethod
    def stored_as_floats(self, feature: Any) -> bool | None:
        """Returns whether a feature of a record is a list of floats, not of bytes; None if that cannot be seen."""

    @abstractmethod
    def check_features(self, stored: Mapping[str, Any], spec: DataSpec, layout: Layout) -> None:
        """Checks the features of a record.

        Raises:
            RecordFaultError: if one does not hold what the spec says, in the way that the layout says.
        """

    def columns_of(self, record: tf.train.SequenceExample, spec: DataSpec) -> list[Column]:
        """Returns a column per feature of the spec.

        Raises:
            RecordFaultError: if the record lacks a feature, as one of another format does.
        """
        stored = self.stored_features(record)
        names = [_stored_name(name, stored) for name in spec.feature_names]
        missing = [name for name in names if name not in stored]
        if missing:
            self.check_level(record)
            raise RecordFaultError(
                f"it has no feature '{missing[0]}'. Choose with --feature_names and --feature_sizes from: "
                f"{listing(stored) or 'none'}."
            )
        return [(name, self.stored_as_floats(stored[name])) for name in names]


def format_of(spec: DataSpec) -> RecordFormat:
    """Returns the format of the records of a data set."""
    return RECORD_FORMATS[spec.record_format]()


def values_of(feature: tf.train.Feature) -> tuple[str, Sequence[Any]]:
    """Returns the kind of a feature, as in `KINDS`, and its values."""
    which = feature.WhichOneof("kind")
    return KINDS[which], getattr(feature, which).value if which else ()


def finite(values: tf.Tensor) -> tf.Tensor:
    """Returns `values` `(...)` float, of any shape, unchanged.

    Raises:
        tf.errors.InvalidArgumentError: if one is NaN or infinite.
    """
    check = tf.debugging.Assert(tf.reduce_all(tf.math.is_finite(values)), ["A feature is not finite."])
    with tf.control_dependencies([check]):
        return tf.identity(values)


def check_finite(name: str, values: Sequence[float], place: str = "") -> None:
    """Checks the floats of a feature.

    Raises:
        RecordFaultError: if one is NaN or infinite.
    """
    wrong = [value for value in values if not math.isfinite(value)]
    if wrong:
        raise RecordFaultError(f"'{name}' holds {wrong[0]}{place}, expected finite numbers.")


def listing(stored: Mapping[str, Any]) -> str:
    """Returns names and widths of features, as in `rgb (1024), audio (128)`."""
    widths = {name: _width(stored[name]) for name in sorted(stored) if name not in (*ID_KEYS, *LABELS_KEYS)}
    # A name of a damaged record may hold anything, line ends included.
    return ", ".join(f"{repr(name)[1:-1]} ({width})" for name, width in widths.items())


def _width(feature: Any) -> int:
    """The width of a vector, or of the first frame of a list of them."""
    if isinstance(feature, tf.train.FeatureList):
        return _width(feature.feature[0]) if feature.feature else 0
    kind, values = values_of(feature)
    return len(values[0]) if kind == "bytes" and len(values) == 1 else len(values)


def _stored_name(name: str, stored: Mapping[str, Any]) -> str:
    alias = MEDIAPIPE_NAMES.get(name, name)
    return alias if name not in stored and alias in stored else name
