"""Teachers: what a model learns from beside labels, asked in every step for the videos of its batch."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import keras
import numpy as np
import tensorflow as tf

from yt8m.batch import ID, model_inputs
from yt8m.errors import UserError

_MISSING = "the teacher has no row for video"


class Teacher(ABC):
    """Predicts the videos of a batch."""

    @abstractmethod
    def predictions(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns `(B, C)` float32 in [0, 1] for a batch as a reader yields it; nothing to differentiate."""


class ModelTeacher(Teacher):
    """A trained model as it predicts, without dropout; it sees the frames that the student sees.

    Args:
        model: the model, with its weights.
    """

    def __init__(self, model: keras.Model):
        self._model = model

    def predictions(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns what the model predicts, `(B, C)` float32."""
        return tf.stop_gradient(self._model(model_inputs(batch), training=False)["predictions"])


class PredictionTable(Teacher):
    """The k best classes of known videos, as a submission has them; all other classes have probability 0.

    Holds 8 bytes per pair, the ids and a hash table of them.

    Args:
        ids: N video ids, each once.
        num_pairs: `(N,)` int, how many pairs each video has.
        classes: `(sum of num_pairs,)` int, the classes of all pairs, video after video; of a video each once, as a
            submission is read.
        scores: `(sum of num_pairs,)` float, their probabilities.
        num_classes: C.
        source: the path of the submission, for messages.

    Raises:
        UserError: if a video occurs twice, or a class or a probability is out of range.
    """

    def __init__(
        self,
        ids: list[str],
        num_pairs: np.ndarray,
        classes: np.ndarray,
        scores: np.ndarray,
        num_classes: int,
        source: str,
    ):
        videos = np.repeat(np.arange(len(ids)), num_pairs)
        _check_rows(ids, videos, classes, scores, num_classes, source)
        rows = tf.lookup.KeyValueTensorInitializer(tf.constant(ids, tf.string), tf.range(len(ids), dtype=tf.int64))
        self._rows = tf.lookup.StaticHashTable(rows, default_value=-1)
        self._ends = tf.constant(np.cumsum(num_pairs), tf.int64)
        self._num_pairs = tf.constant(num_pairs, tf.int64)
        self._classes, self._scores = tf.constant(classes, tf.int32), tf.constant(scores, tf.float32)
        self._num_classes = num_classes

    def predictions(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns the rows of the videos, `(B, C)` float32. A missing one fails: see `explained_teacher`."""
        rows = self._rows.lookup(batch[ID])
        missing = tf.boolean_mask(batch[ID], rows < 0)[:1]
        with tf.control_dependencies([tf.debugging.Assert(tf.size(missing) == 0, [_MISSING, missing])]):
            rows = tf.identity(rows)
        ends, counts = tf.gather(self._ends, rows), tf.gather(self._num_pairs, rows)
        pairs = tf.ragged.range(ends - counts, ends)
        classes = tf.gather(self._classes, pairs.values)
        places = tf.stack([tf.cast(pairs.value_rowids(), tf.int32), classes], axis=1)
        return tf.scatter_nd(places, tf.gather(self._scores, pairs.values), [tf.size(rows), self._num_classes])


def _check_rows(
    ids: list[str], videos: np.ndarray, classes: np.ndarray, scores: np.ndarray, num_classes: int, source: str
) -> None:
    unique, numbers = np.unique(ids, return_counts=True)
    if unique.size < len(ids):
        raise UserError(f"{source}: video {unique[numbers > 1][0]} has two rows; expected one row per video.")
    wrong = np.flatnonzero(classes >= num_classes)
    if wrong.size:
        raise UserError(
            f"{source}: video {ids[videos[wrong[0]]]} has class {classes[wrong[0]]}; expected 0 to {num_classes - 1}. "
            "Is the teacher of another data set, or --num_classes missing?"
        )
    wrong = np.flatnonzero((scores < 0) | (scores > 1))
    if wrong.size:
        raise UserError(
            f"{source}: video {ids[videos[wrong[0]]]} has the score {scores[wrong[0]]:g}; expected a probability in "
            "[0, 1]. Give the predictions themselves, not scores made of them."
        )


@contextmanager
def explained_teacher() -> Iterator[None]:
    """Turns the failure of a step whose teacher does not know a video into a message that names the video.

    Raises:
        UserError: if a step in the `with` block asked a `PredictionTable` for a video that it does not have.
    """
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = re.search(rf"\[{_MISSING}\] \[(.*)\]\n", str(error))
        if found is None:
            raise
        raise UserError(
            f"--teacher: it has no row for video {found[1]}, which is among the training videos. Predict all of "
            "--train_data_pattern with inference.py, or train on the videos that the teacher knows."
        ) from error
