"""What is in a batch."""

import tensorflow as tf

NOT_FOR_THE_MODEL = ("id", "labels", "label_weights")


def model_inputs(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Returns what a model may look at: everything but ids and labels."""
    return {name: value for name, value in batch.items() if name not in NOT_FOR_THE_MODEL}
