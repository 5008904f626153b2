"""From models and a finite pass over the data to the best classes of every video."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from yt8m.batch import ID, model_inputs
from yt8m.metrics import top_k_predictions

Model = Callable[..., Mapping[str, Any]]


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

    @tf.function(input_signature=[batches.element_spec], autograph=False)
    def step(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        inputs = model_inputs(batch)
        parts = [w * model(inputs, training=False)["predictions"] for w, model in zip(weights, models, strict=True)]
        return top_k_predictions(tf.add_n(parts), top_k)

    for batch in batches:
        scores, classes = step(batch)
        yield batch[ID].numpy(), classes.numpy(), scores.numpy()
