"""From gradients to weights: the learning rate, clipping, and the optimizers by name."""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from yt8m.config import OptimizationConfig
from yt8m.errors import UserError, did_you_mean

# The names that TensorFlow 1 gave, and with them the old command lines, mean what Keras calls by the shorter name. Adam
# keeps the epsilon of TensorFlow 1 (1e-8; Keras has 1e-7), because published learning rates were found with it.
_OPTIMIZERS: dict[str, Callable[..., keras.optimizers.Optimizer]] = {
    "Adam": lambda rate: keras.optimizers.Adam(rate, epsilon=1e-8),
    "AdamW": lambda rate: keras.optimizers.AdamW(rate, epsilon=1e-8),
    "Adagrad": keras.optimizers.Adagrad,
    "Adadelta": keras.optimizers.Adadelta,
    "Ftrl": keras.optimizers.Ftrl,
    "GradientDescent": keras.optimizers.SGD,
    "Momentum": lambda rate: keras.optimizers.SGD(rate, momentum=0.9),
    "RMSProp": keras.optimizers.RMSprop,
}
OPTIMIZER_NAMES = tuple(f"{name}Optimizer" for name in _OPTIMIZERS)


class StaircaseDecay(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate as a function of the examples seen.

        rate = base_learning_rate * decay ** floor(examples_seen / decay_examples)

    It counts examples, not steps, so that it means the same whatever the batch size, also when that changes on the way.

    Args:
        config: the three numbers.
        examples_seen: int64 scalar variable that the training loop advances.

    Source: google/youtube-8m, train.py (exponential_decay with staircase=True).
    """

    def __init__(self, config: OptimizationConfig, examples_seen: tf.Variable):
        super().__init__()
        self._config = config
        self._examples_seen = examples_seen

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        exponent = self._examples_seen.read_value() // self._config.learning_rate_decay_examples
        return self._config.base_learning_rate * tf.pow(self._config.learning_rate_decay, tf.cast(exponent, tf.float32))

    def get_config(self) -> dict:
        raise NotImplementedError("A schedule belongs to a run; its numbers are in the run's config.json.")


def build_optimizer(config: OptimizationConfig, examples_seen: tf.Variable) -> keras.optimizers.Optimizer:
    """Builds the optimizer of a run. It takes gradients that are summed over the replicas, and clipped, already.

    Raises:
        UserError: if there is no optimizer of that name; the message offers the closest one.
    """
    name = config.optimizer.removesuffix("Optimizer")
    if name not in _OPTIMIZERS:
        hint = did_you_mean(config.optimizer, OPTIMIZER_NAMES)
        raise UserError(
            f"--optimizer={config.optimizer}: there is no such optimizer.{hint} Known: {', '.join(OPTIMIZER_NAMES)}."
        )
    optimizer = _OPTIMIZERS[name](StaircaseDecay(config, examples_seen))
    # Keras would sum the gradients over the replicas. The loop has done so before it clipped them: only the sum that
    # one device would have computed may be clipped.
    optimizer._all_reduce_sum_gradients = list
    return optimizer


def clip_each(gradients: Sequence[tf.Tensor], largest_norm: float) -> list[tf.Tensor]:
    """Scales every gradient down to an L2 norm of at most `largest_norm`; 0 leaves them as they are.

    Each variable on its own, not all together: what the starter and every published recipe did.
    """
    if not largest_norm:
        return list(gradients)
    return [tf.clip_by_norm(gradient, largest_norm) for gradient in gradients]
