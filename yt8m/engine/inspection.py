"""One pass over labelled videos that keeps what people want to look at, not only numbers."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from yt8m.batch import ID, LABEL_WEIGHTS, LABELS, model_inputs, videos_in
from yt8m.engine.calibration import LogitHistogram, Model, logits_of
from yt8m.metrics import EvaluationMetrics, rated_predictions, top_k_pairs
from yt8m.progress import with_progress
from yt8m.scores import check_finite, name_of


class Mistake(NamedTuple):
    """A class that a video was given and does not have.

    Attributes:
        score: the prediction, in [0, 1].
        video_id: the id in the records, as text.
        predicted: the class.
        labels: the classes that the video has.
    """

    score: float
    video_id: str
    predicted: int
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Inspection:
    """What a pass over labelled videos found.

    Attributes:
        metrics: all videos, for GAP and its companions, AP and curves of each class.
        logits: all predictions and labels, for calibration and one curve of all.
        mistakes: the videos whose best wrong class has the highest scores, highest first; one per video.
    """

    metrics: EvaluationMetrics
    logits: LogitHistogram
    mistakes: list[Mistake]


def inspect(
    model: Model, batches: tf.data.Dataset, *, num_classes: int, top_k: int, num_mistakes: int, num_videos: int = 0
) -> Inspection:
    """Looks at the predictions of a model for a finite data set.

    Args:
        model: maps a batch to `predictions` `(B, C)` float32, and perhaps `logits`.
        batches: one pass over the data.
        num_classes: C.
        top_k: predictions per video that count for GAP, AP and the curves of classes.
        num_mistakes: how many mistakes are kept, at most.
        num_videos: how many videos there are, about, for the time left; 0 if that is not known.

    Raises:
        UserError: if a prediction is not finite; the message names the video.
    """

    @tf.function(input_signature=[batches.element_spec], autograph=False)
    def step(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
        outputs = model(model_inputs(batch), training=False)
        predictions = rated_predictions(outputs["predictions"], batch.get(LABEL_WEIGHTS))
        return logits_of(outputs), predictions, top_k_pairs(predictions, batch[LABELS], top_k)

    metrics, histogram, mistakes = EvaluationMetrics(num_classes, top_k), LogitHistogram(), list[Mistake]()
    for batch in with_progress(batches, "inspecting", num_videos, videos_in):
        logits, predictions, pairs = tf.nest.map_structure(lambda x: x.numpy(), step(batch))
        ids, labels = batch[ID].numpy(), batch[LABELS].numpy()
        check_finite(predictions, ids)
        metrics.add(pairs, ids)
        histogram.add(logits, labels, batch[LABEL_WEIGHTS].numpy() > 0 if LABEL_WEIGHTS in batch else None)
        mistakes += worst_mistakes(predictions, labels, ids, num_mistakes)
        mistakes = sorted(mistakes, key=lambda mistake: -mistake.score)[:num_mistakes]
    return Inspection(metrics, histogram, mistakes)


def worst_mistakes(predictions: np.ndarray, labels: np.ndarray, ids: np.ndarray, count: int) -> list[Mistake]:
    """Returns of each video the class of highest score that it does not have, of the `count` with the highest scores.

    A video that has all classes has no mistake. Highest score first, then in the order of the videos.

    Args:
        predictions: `(B, C)` float; below 0 for classes that were not rated.
        labels: `(B, C)` bool.
        ids: `(B,)` bytes.
        count: how many are returned, at most.
    """
    wrong = np.where(labels, -np.inf, predictions)
    classes, scores = wrong.argmax(axis=1), wrong.max(axis=1)
    order = np.argsort(-scores, kind="stable")[:count]
    return [
        Mistake(float(scores[v]), name_of(ids[v]), int(classes[v]), tuple(map(int, np.flatnonzero(labels[v]))))
        for v in order
        if scores[v] >= 0
    ]
