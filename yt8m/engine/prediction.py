"""From models and a finite pass over the data to the best classes, or scores of some classes, of every video."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from yt8m.batch import ID, model_inputs
from yt8m.metrics import top_k_predictions

Model = Callable[..., Mapping[str, Any]]
Step = Callable[[Mapping[str, tf.Tensor]], Any]


def predict(
    models: Sequence[Model], weights: Sequence[float], batches: tf.data.Dataset, top_k: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields for each batch, in the order of the input, ids `(B,)` bytes, classes `(B, k)` int32 and scores `(B, k)`.

        scores = the k largest of  sum over models of weight * predictions

    The best class comes first.

    Args:
        models: M models, each of which maps a batch to `predictions` `(B, C)` float32.
        weights: M weights.
        batches: one pass over the data.
        top_k: the number k of classes per video.
    """
    yield from predict_batches(prediction_step(models, weights, batches.element_spec, top_k), batches)


def prediction_step(
    models: Sequence[Model], weights: Sequence[float], batch_spec: Mapping[str, tf.TypeSpec], top_k: int
) -> Step:
    """Returns the function from a batch to the scores and classes `(B, k)` of its videos, traced at its first call.

    Args:
        models: each maps a batch to `predictions` `(B, C)` float32.
        weights: the factor of each model's predictions in their sum.
        batch_spec: shapes and types of a batch.
        top_k: the number k of classes per video.
    """
    return _step(models, weights, batch_spec, partial(top_k_predictions, k=top_k))


def predict_batches(step: Step, batches: tf.data.Dataset) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields what `predict` does, by a step that may have predicted other batches before.

    Args:
        step: of `prediction_step`.
        batches: one pass over the data.
    """
    for batch in batches:
        scores, classes = step(batch)
        yield batch[ID].numpy(), classes.numpy(), scores.numpy()


def predict_classes(
    models: Sequence[Model], weights: Sequence[float], batches: tf.data.Dataset, classes: Sequence[int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields for each batch, in the order of the input, ids `(B,)` bytes and the scores of some classes, `(B, K)`.

    Args:
        models: M models, as of `predict`.
        weights: M weights.
        batches: one pass over the data.
        classes: K class indices; scores are in their order.
    """
    step = _step(models, weights, batches.element_spec, partial(tf.gather, indices=classes, axis=1))
    for batch in batches:
        yield batch[ID].numpy(), step(batch).numpy()


def _step(
    models: Sequence[Model],
    weights: Sequence[float],
    batch_spec: Mapping[str, tf.TypeSpec],
    choose: Callable[[tf.Tensor], Any],
) -> Step:
    """The function from a batch to what is chosen on the device of the weighted sum of predictions, `(B, C)`."""

    @tf.function(input_signature=[batch_spec], autograph=False)
    def step(batch: dict[str, tf.Tensor]) -> Any:
        inputs = model_inputs(batch)
        parts = [w * model(inputs, training=False)["predictions"] for w, model in zip(weights, models, strict=True)]
        return choose(tf.add_n(parts))

    return step
