"""A run that is small: a model of one weight matrix, and what a run of it saves."""

import keras
import numpy as np
import tensorflow as tf

from yt8m.cli.loss_flags import resolve_loss
from yt8m.config import ModelConfig, RunConfig

CONFIG = RunConfig(
    model=ModelConfig("LogisticModel", {"l2_penalty": 1e-8, "dropout": 0.0}),
    loss=resolve_loss("CrossEntropyLoss", []),
)


def make_model(units: int = 3, value: float = 1.0) -> keras.Model:
    """A model of one weight matrix that holds one value."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(units, use_bias=False)])
    model.set_weights([np.full((2, units), value)])
    return model


class State(tf.train.Checkpoint):
    """What a run saves."""

    def __init__(self, model: keras.Model):
        super().__init__(model=model, examples_seen=tf.Variable(0, dtype=tf.int64))

    def load(self, checkpoint: str) -> None:
        self.read(checkpoint).expect_partial()
