"""From a model and a finite pass over the data to the best classes of every video."""

from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from yt8m.batch import ID, model_inputs
from yt8m.metrics import top_k_predictions


def predict(
    model: keras.Model, batches: tf.data.Dataset, top_k: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields for each batch, in the order of the input, ids `(B,)` bytes, classes `(B, k)` int32 and scores `(B, k)`.

    The best class comes first.
    """

    @tf.function(input_signature=[batches.element_spec], autograph=False)
    def step(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        return top_k_predictions(model(model_inputs(batch), training=False)["predictions"], top_k)

    for batch in batches:
        scores, classes = step(batch)
        yield batch[ID].numpy(), classes.numpy(), scores.numpy()
