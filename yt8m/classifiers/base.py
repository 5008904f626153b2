"""Parts of classifiers: their penalties, their outputs, and the biases that make a class as probable as it is."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

_TINY_PROBABILITY = 1e-7  # a class without examples gets the logit -16, not minus infinity

CLASSIFIER_DROPOUT = "classifier input"  # the salt of a classifier's dropout

Outputs = dict[str, Any]


def l2_regulariser(penalty: float) -> keras.regularizers.Regularizer:
    """Returns the Keras regulariser penalty / 2 * sum of w^2, as slim.l2_regularizer of the reference models."""
    return keras.regularizers.L2(penalty / 2.0)


def outputs_from_logits(logits: tf.Tensor) -> Outputs:
    """Returns `{"predictions": sigmoid(logits), "logits": logits}` for `logits` `(B, C)` float."""
    return {"predictions": tf.math.sigmoid(logits), "logits": logits}


def prior_logits(prior: np.ndarray) -> np.ndarray:
    """Returns log(p / (1 - p)), `(C,)` float64, of `prior` `(C,)` float, p clipped to [1e-7, 1 - 1e-7]."""
    bounded = np.clip(np.asarray(prior, np.float64), _TINY_PROBABILITY, 1.0 - _TINY_PROBABILITY)
    return np.log(bounded) - np.log1p(-bounded)
