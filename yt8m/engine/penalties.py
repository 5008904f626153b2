"""The penalties of a model's weights: l2 ones as their gradient, whatever else there is by differentiation."""

from collections.abc import Sequence

import keras
import tensorflow as tf


class Penalties:
    """A model's penalties times a factor.

        penalty = factor * (sum_w l2_w |w|^2 + others),   gradient of the first part = 2 * factor * l2_w * w

    Differentiation would square every weight, keep it, and fill tensors of its size on the way back. The gradient above
    takes one product and one sum, and the value, which only a reported step asks for, one pass.

    Args:
        model: the built model; its weights carry their regularizers.
        factor: of all penalties.
    """

    def __init__(self, model: keras.Model, factor: float):
        self._model = model
        self._factor = factor
        regularised = [weight for weight in model.trainable_variables if weight.regularizer is not None]
        self._num_regularised = len(regularised)
        self._others = [weight for weight in regularised if type(weight.regularizer) is not keras.regularizers.L2]
        # By place among the trainable weights, as gradients come.
        self._l2 = {
            index: factor * float(weight.regularizer.l2)
            for index, weight in enumerate(model.trainable_variables)
            if type(weight.regularizer) is keras.regularizers.L2
        }

    def differentiated(self) -> tf.Tensor:
        """Returns the scalar part that a tape has to see: other regularizers, and what layers added with `add_loss`."""
        # Keras lists first what layers added, then a term for each weight with a regularizer.
        added = self._model.losses
        added = added[: len(added) - self._num_regularised]
        terms = [*added, *(weight.regularizer(weight) for weight in self._others)]
        return self._factor * tf.add_n([tf.zeros([]), *terms])

    def l2(self) -> tf.Tensor:
        """Returns the scalar part that no tape has to see."""
        weights = self._model.trainable_variables
        terms = [2.0 * scale * tf.nn.l2_loss(weights[index].value) for index, scale in self._l2.items()]
        return tf.add_n([tf.zeros([]), *terms])

    def add_l2_gradients(self, gradients: Sequence[tf.Tensor], scale: tf.Tensor | float = 1.0) -> list[tf.Tensor]:
        """Adds those of `scale * l2()` to the `gradients` of all trainable weights, each of its weight's shape `(...)`.

        `scale` is a scalar float32.
        """
        weights = self._model.trainable_variables
        return [
            gradient + 2.0 * self._l2[index] * scale * weights[index].value if self._l2.get(index) else gradient
            for index, gradient in enumerate(gradients)
        ]
