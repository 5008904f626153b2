"""From gradients to weights: the learning rate, clipping, and the optimizers by name."""

import math
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


class LearningRate(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate as a function of the examples seen.

        rate = base_learning_rate * climb * fall
        climb = min(share / learning_rate_warmup, 1),   share = min(examples_seen / run_examples, 1)
        fall = decay ** floor(examples_seen / decay_examples)   (staircase)   or   (1 + cos(pi * share)) / 2   (cosine)

    It counts examples, not steps, so that it means the same whatever the batch size, also when that changes on the way.

    Args:
        config: the schedule and its numbers.
        examples_seen: int64 scalar variable that the training loop advances.
        run_examples: how many examples the run will see.

    Source: google/youtube-8m, train.py (staircase); Loshchilov & Hutter 2017, "SGDR", without restarts (cosine).
    """

    def __init__(self, config: OptimizationConfig, examples_seen: tf.Variable, run_examples: int):
        super().__init__()
        self._config = config
        self._examples_seen = examples_seen
        self._run_examples = max(run_examples, 1)
        self._fall = {"staircase": self._staircase, "cosine": self._cosine}[config.learning_rate_schedule]

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the rate at this moment of the run; `step` is not asked, because examples are counted instead."""
        rate = self._config.base_learning_rate * self._fall()
        warmup = self._config.learning_rate_warmup
        return rate * tf.minimum(self._share() / warmup, 1.0) if warmup else rate

    def _staircase(self) -> tf.Tensor:
        exponent = self._examples_seen.read_value() // self._config.learning_rate_decay_examples
        return tf.pow(self._config.learning_rate_decay, tf.cast(exponent, tf.float32))

    def _cosine(self) -> tf.Tensor:
        return (1.0 + tf.cos(math.pi * self._share())) / 2.0

    def _share(self) -> tf.Tensor:
        share = tf.cast(self._examples_seen.read_value(), tf.float64) / self._run_examples
        return tf.cast(tf.minimum(share, 1.0), tf.float32)

    def get_config(self) -> dict:
        """Refuses: Keras would save the schedule with it."""
        raise NotImplementedError("A schedule belongs to a run; its numbers are in the run's config.json.")


def build_optimizer(
    config: OptimizationConfig, examples_seen: tf.Variable, run_examples: int
) -> keras.optimizers.Optimizer:
    """Builds the optimizer of a run. It takes gradients that are summed over the replicas, and clipped, already.

    Args:
        config: its name and the schedule of its learning rate.
        examples_seen: int64 scalar variable that the training loop advances.
        run_examples: how many examples the run will see.

    Raises:
        UserError: if there is no optimizer of that name; the message offers the closest one.
    """
    name = config.optimizer.removesuffix("Optimizer")
    if name not in _OPTIMIZERS:
        hint = did_you_mean(config.optimizer, OPTIMIZER_NAMES)
        raise UserError(
            f"--optimizer={config.optimizer}: there is no such optimizer.{hint} Known: {', '.join(OPTIMIZER_NAMES)}."
        )
    optimizer = _OPTIMIZERS[name](LearningRate(config, examples_seen, run_examples))
    # Keras would sum the gradients over the replicas. The loop has done so before it clipped them: only the sum that
    # one device would have computed may be clipped.
    optimizer._all_reduce_sum_gradients = list
    return optimizer


def clip_each(gradients: Sequence[tf.Tensor], largest_norm: float) -> list[tf.Tensor]:
    """Scales every gradient down to an L2 norm of at most `largest_norm`, in the shape of each; 0 changes nothing.

    Each variable on its own, not all together: what the starter and every published recipe did.
    """
    if not largest_norm:
        return list(gradients)
    return [tf.clip_by_norm(gradient, largest_norm) for gradient in gradients]
