"""From gradients to weights: the learning rate, clipping, and the optimizers by name."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from yt8m.config import OptimizationConfig
from yt8m.errors import UserError, did_you_mean

# Whether a gradient of fewer numbers is too long costs more to ask than to scale it by 1.
_WORTH_A_BRANCH = 1 << 16


class _FusedAdam:
    """Keras' Adam and AdamW with one operation per weight, where Keras goes over a weight's memory seven times.

        m <- m + (1 - b1) (g - m),   v <- v + (1 - b2) (g^2 - v)
        w <- w (1 - lr decay) - lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + epsilon)

    The variables, and with them checkpoints, are those of Keras. An update differs from that of Keras by 6.5e-6 of
    itself: the float32 next to b2 = 0.999 is off by 1.3e-5 of 1 - b2, which both use in b2^t, but Keras not in v.

    Source: Kingma & Ba 2015, the form before section 2.1; Loshchilov & Hutter 2019 (decay).
    """

    def update_step(self: Any, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Updates one weight on one device, by its `gradient` `(...)` and the `learning_rate` `()`, both float32."""
        index, step = self._get_variable_index(variable), tf.cast(self.iterations + 1, variable.dtype)
        if self.weight_decay is not None and self._use_weight_decay(variable):
            variable.assign(variable * (1.0 - learning_rate * self.weight_decay))  # no copy: the product is kept
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.pow(tf.cast(self.beta_1, variable.dtype), step),
            beta2_power=tf.pow(tf.cast(self.beta_2, variable.dtype), step),
            lr=learning_rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )

    def _apply_weight_decay(self, variables: Sequence[keras.Variable]) -> None:
        """Does nothing, because `update_step` does it."""


class Adam(_FusedAdam, keras.optimizers.Adam):
    """Adam with a fused update."""


class AdamW(_FusedAdam, keras.optimizers.AdamW):
    """AdamW with a fused update."""


class SGD(keras.optimizers.SGD):
    """Keras' gradient descent with a fused update: w <- w - lr g, or m <- momentum m - lr g, w <- w + m."""

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Updates one weight on one device, by its `gradient` `(...)` and the `learning_rate` `()`, both float32."""
        if not self.momentum:
            tf.raw_ops.ResourceApplyGradientDescent(var=variable.handle, alpha=learning_rate, delta=gradient)
            return
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=self.momentums[self._get_variable_index(variable)].value.handle,
            lr=learning_rate,
            grad=gradient,
            momentum=self.momentum,
        )


# A weight decays by this rule under `weight_decay_of="kernels"`: biases, scales and shifts are vectors.
def _is_kernel(variable: keras.Variable) -> bool:
    return len(variable.shape) >= 2 and variable.name != "centres"


# The names that TensorFlow 1 gave, and with them the old command lines, mean what Keras calls by the shorter name. Adam
# keeps the epsilon of TensorFlow 1 (1e-8; Keras has 1e-7), because published learning rates were found with it.
_OPTIMIZERS: dict[str, Callable[..., keras.optimizers.Optimizer]] = {
    "Adam": lambda rate: Adam(rate, epsilon=1e-8),
    "Adagrad": keras.optimizers.Adagrad,
    "Adadelta": keras.optimizers.Adadelta,
    "Ftrl": keras.optimizers.Ftrl,
    "GradientDescent": SGD,
    "SGD": SGD,
    "Momentum": lambda rate: SGD(rate, momentum=0.9),
    "RMSProp": keras.optimizers.RMSprop,
}
_DECAYING_OPTIMIZERS: dict[str, Callable[..., keras.optimizers.Optimizer]] = {
    "AdamW": lambda rate, decay: AdamW(rate, weight_decay=decay, epsilon=1e-8),
    "Lion": lambda rate, decay: keras.optimizers.Lion(rate, weight_decay=decay),
}
OPTIMIZER_NAMES = tuple(f"{name}Optimizer" for name in (*_OPTIMIZERS, *_DECAYING_OPTIMIZERS))


class LearningRate(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate as a function of the examples seen.

        rate = base_learning_rate * climb * fall
        climb = min(share / learning_rate_warmup, 1),   share = min(examples_seen / run_examples, 1)
        fall = decay ** floor(examples_seen / decay_examples)   (staircase)
               (1 + cos(pi * share)) / 2                        (cosine)
               (1 - share) ** learning_rate_power               (polynomial)

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
        self._fall = {"staircase": self._staircase, "cosine": self._cosine, "polynomial": self._polynomial}[
            config.learning_rate_schedule
        ]

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

    def _polynomial(self) -> tf.Tensor:
        return tf.pow(1.0 - self._share(), self._config.learning_rate_power)

    def _share(self) -> tf.Tensor:
        share = tf.cast(self._examples_seen.read_value(), tf.float64) / self._run_examples
        return tf.cast(tf.minimum(share, 1.0), tf.float32)

    def get_config(self) -> dict:
        """Refuses: Keras would save the schedule with it."""
        raise NotImplementedError("A schedule belongs to a run; its numbers are in the run's config.json.")


def build_optimizer(
    config: OptimizationConfig,
    examples_seen: tf.Variable,
    run_examples: int,
    weights: Sequence[keras.Variable],
    *,
    scales_loss: bool = False,
) -> keras.optimizers.Optimizer:
    """Builds the optimizer of a run. It takes gradients that are summed over the replicas, and clipped, already.

    Args:
        config: its name and the schedule of its learning rate.
        examples_seen: int64 scalar variable that the training loop advances.
        run_examples: how many examples the run will see.
        weights: what it will train.
        scales_loss: whether it takes gradients of `loss_scale(optimizer)` times the loss, which float16 needs: with a
            factor of 2^15 small gradients do not become 0. An update whose gradients overflow is left out and halves
            the factor; 2000 updates in a row double it.

    Raises:
        UserError: if there is no optimizer of that name; the message offers the closest one.

    Source: Micikevicius et al. 2018, "Mixed precision training" (`scales_loss`).
    """
    name = config.optimizer.removesuffix("Optimizer")
    rate = LearningRate(config, examples_seen, run_examples)
    if name in _OPTIMIZERS:
        optimizer = _OPTIMIZERS[name](rate)
    elif name in _DECAYING_OPTIMIZERS:
        optimizer = _DECAYING_OPTIMIZERS[name](rate, config.weight_decay)
        if config.weight_decay_of == "kernels":
            optimizer.exclude_from_weight_decay([weight for weight in weights if not _is_kernel(weight)])
    else:
        hint = did_you_mean(config.optimizer, OPTIMIZER_NAMES)
        raise UserError(
            f"--optimizer={config.optimizer}: there is no such optimizer.{hint} Known: {', '.join(OPTIMIZER_NAMES)}."
        )
    # Keras would sum the gradients over the replicas. The loop has done so before it clipped them: only the sum that
    # one device would have computed may be clipped.
    optimizer._all_reduce_sum_gradients = list
    optimizer = keras.optimizers.LossScaleOptimizer(optimizer) if scales_loss else optimizer
    optimizer.build(weights)
    return optimizer


def loss_scale(optimizer: keras.optimizers.Optimizer) -> tf.Tensor | float:
    """Returns the factor of the loss whose gradients an optimizer takes: a scalar float32, or 1.0 if it scales none."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return tf.convert_to_tensor(optimizer.dynamic_scale.value)
    return 1.0


def squared_norms(gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Returns the squared L2 norm of every gradient, scalars `()` float32, in one pass over each."""
    return [2.0 * tf.nn.l2_loss(gradient) for gradient in gradients]


def clip(
    gradients: Sequence[tf.Tensor], squares: Sequence[tf.Tensor], largest_norm: float | tf.Tensor, scope: str
) -> list[tf.Tensor]:
    """Scales gradients down to an L2 norm of at most `largest_norm`, in the shape of each.

    Args:
        gradients: one per variable, of static shapes.
        squares: their squared norms.
        largest_norm: the limit.
        scope: whose norm that is: `variable`, of each on its own, as in the starter and every published recipe; or
            `global`, of all together, which keeps the direction of the step.
    """
    if scope == "global":
        norms = [tf.sqrt(tf.add_n([tf.zeros([]), *squares]))] * len(gradients)
    else:
        norms = [tf.sqrt(square) for square in squares]
    return [_clip(gradient, norm, largest_norm) for gradient, norm in zip(gradients, norms, strict=True)]


def _clip(gradient: tf.Tensor, norm: tf.Tensor, largest_norm: float | tf.Tensor) -> tf.Tensor:
    is_long = norm > largest_norm
    scale = tf.where(is_long, largest_norm / norm, 1.0)
    if gradient.shape.num_elements() < _WORTH_A_BRANCH:
        return gradient * scale
    return tf.cond(is_long, lambda: gradient * scale, lambda: gradient)
