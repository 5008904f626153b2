"""One optimisation step over all replicas of all workers, and what it changes."""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from yt8m.batch import (
    EXAMPLE_WEIGHTS,
    ID,
    LABEL_WEIGHTS,
    LABELS,
    MIXUP_SHARE,
    PARTNER_LABEL_WEIGHTS,
    PARTNER_LABELS,
    POSITION,
    TEACHER_PREDICTIONS,
    loss_inputs,
    model_inputs,
)
from yt8m.config import OptimizationConfig
from yt8m.distribution import Strategy, all_replica_sum, replica_rows
from yt8m.engine.optimization import build_optimizer, clip, loss_scale, squared_norms
from yt8m.engine.penalties import Penalties
from yt8m.engine.teacher import Teacher
from yt8m.engine.weight_averages import WeightAverages, has_averages
from yt8m.errors import UserError
from yt8m.metrics import batch_metrics, rated_predictions, top_k_pairs
from yt8m.positions import Position


def num_weights(model: keras.Model) -> int:
    """How many numbers of a model are trained."""
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


class TrainState(tf.train.Checkpoint):
    """Everything of a run that a step changes, apart from the place in the data.

    Args:
        model: the built model; if it computes in float16, the loss is scaled.
        config: the optimizer, the schedule of its learning rate, and the half-life of averages of the weights.
        run_examples: how many examples the run will see.
    """

    def __init__(self, model: keras.Model, config: OptimizationConfig, run_examples: int):
        global_step = tf.Variable(0, dtype=tf.int64, trainable=False, name="global_step")
        examples_seen = tf.Variable(0, dtype=tf.int64, trainable=False, name="examples_seen")
        optimizer = build_optimizer(
            config,
            examples_seen,
            run_examples,
            model.trainable_variables,
            scales_loss=model.compute_dtype == "float16",
        )
        super().__init__(model=model, optimizer=optimizer, global_step=global_step, examples_seen=examples_seen)
        self.averages = WeightAverages(model, config.weights_halflife) if config.weights_halflife else None

    def load(self, checkpoint: str) -> None:
        """Takes all values from a checkpoint; averages that it does not have start at its weights."""
        status = self.read(checkpoint)
        if self.averages is None or has_averages(checkpoint):
            status.assert_existing_objects_matched()
        else:
            status.expect_partial()
            self.averages.restart(self.model)

    def evaluated_weights(self) -> AbstractContextManager[None]:
        """While this lasts, the model has the weights that are to be evaluated: the averages, if there are any."""
        return self.averages.in_place(self.model) if self.averages is not None else nullcontext()


@dataclass(frozen=True)
class Measures:
    """What one step tells about itself.

    Attributes:
        scalars: `label_loss` (mean over the videos), `reg_loss`, `gradient_norm` before clipping, `loss_scale`,
            `learning_rate`, `num_examples`.
        metrics: `hit_at_one`, `perr` and `gap` of this worker's rows.
        position: the place in the data after the step's batch.
    """

    scalars: dict[str, float]
    metrics: dict[str, float]
    position: Position


class TrainStep:
    """One optimisation step over all replicas of all workers, and many of them in one call.

    The objective of a step, whatever the number of replicas, is

        sum over the videos of the global batch of weight * loss / their number + regularization_penalty * penalties

    Gradients are summed over the parts of a replica's rows, then over the replicas once, then clipped, then applied,
    so that one device and many, and one part and many, reach the same weights. Batch normalisation alone sees a part:
    its moments are those of a part's rows on all replicas.

    Args:
        strategy: where the replicas are.
        state: the model, the optimizer and the counters, made in the strategy's scope.
        loss: `(labels, outputs, label_weights) -> (B,)` loss of each video.
        regularization_penalty: factor of the model's weight penalties.
        clip_gradient_norm: largest norm of a gradient, 0 for no limit.
        clip_gradient_scope: whose norm: of the gradient of each `variable`, or `global`, of all together.
        top_k: predictions per video that the training metrics look at.
        batch_spec: shapes and types of a batch.
        teacher: what a loss learns from beside labels; None if no loss does.
        accumulate_steps: the parts of a replica's rows; what is in memory for the gradient is of one part.
        jit_compile: whether XLA compiles the model, the loss and their gradients. It compiles anew for each shape of a
            batch. Weights are equal up to rounding.

    Raises:
        UserError: if `jit_compile` is asked for and there are several replicas: what XLA compiles cannot sum over them.
    """

    def __init__(
        self,
        strategy: Strategy,
        state: TrainState,
        loss: Callable[..., tf.Tensor],
        *,
        regularization_penalty: float,
        clip_gradient_norm: float,
        top_k: int,
        batch_spec: dict[str, tf.TypeSpec],
        clip_gradient_scope: str = "variable",
        teacher: Teacher | None = None,
        accumulate_steps: int = 1,
        jit_compile: bool = False,
    ):
        if jit_compile and strategy.num_replicas_in_sync > 1:
            raise UserError(
                f"--jit_compile: it works on one device, and there are {strategy.num_replicas_in_sync}: what XLA "
                "compiles cannot sum over several. Leave it out, or train on one device."
            )
        self._strategy = strategy
        self._state = state
        self._loss = loss
        self._penalties = Penalties(state.model, regularization_penalty)
        self._clip_gradient_norm = clip_gradient_norm
        self._clip_gradient_scope = clip_gradient_scope
        self._num_parts = accumulate_steps
        self._top_k = top_k
        self._teacher = teacher
        self._gradients = (
            tf.function(self._compute_gradients, jit_compile=True, autograph=False)
            if jit_compile
            else self._compute_gradients
        )
        self._measured = tf.function(self._step, input_signature=[batch_spec], autograph=False)
        # A step on one device is traced once, for both calls. TensorFlow cannot call one on several from a loop.
        self._step_in_loop = self._measured if strategy.num_replicas_in_sync == 1 else self._step

    def run(self, iterator: Any, num_steps: int) -> Measures | None:
        """Runs steps, all but the last in one call of the device.

        Args:
            iterator: yields global batches, or this worker's share of them.
            num_steps: how many, at least 1; at the end of the data there are fewer.

        Returns:
            The measures of the last step that was run; None if the data had ended before the first.
        """
        last = self._run_all_but_last(iterator, tf.constant(num_steps, tf.int64))
        if not last.has_value():
            return None
        batch = last.get_value()
        sums, best = self._measured(batch)
        pairs = {name: np.concatenate([part[name].numpy() for part in best]) for name in best[0]}
        scalars = {name: float(value) for name, value in sums.items()}
        return Measures(scalars, batch_metrics(pairs), Position.from_row(batch[POSITION].numpy()))

    @tf.function(autograph=False)
    def _run_all_but_last(self, iterator: Any, num_steps: tf.Tensor) -> tf.experimental.Optional:
        """Runs up to `num_steps - 1` steps and returns the batch of the next one, if there is one.

        A step runs only when the batch after its own is there, so that the last step of the data can be measured too.
        """

        def run_if_another_follows(step: tf.Tensor, batch: Any) -> tuple[tf.Tensor, Any]:
            following = iterator.get_next_as_optional()

            def run() -> Any:
                self._step_in_loop(batch.get_value())
                return following

            return step + 1, tf.cond(following.has_value(), run, lambda: batch)

        first = (tf.constant(1, tf.int64), iterator.get_next_as_optional())
        _, batch = tf.while_loop(lambda step, _: step < num_steps, run_if_another_follows, first)
        return batch

    def _step(self, batch: dict[str, tf.Tensor]) -> tuple[dict[str, tf.Tensor], tuple[dict[str, tf.Tensor], ...]]:
        sums, best = self._strategy.run(self._replica_step, args=(batch,))
        sums = {name: self._strategy.experimental_local_results(value)[0] for name, value in sums.items()}
        self._state.global_step.assign_add(1)
        self._state.examples_seen.assign_add(tf.cast(sums["num_examples"], tf.int64))
        return sums, self._per_replica(best)

    def _per_replica(self, values: dict[str, Any]) -> tuple[dict[str, tf.Tensor], ...]:
        columns = [self._strategy.experimental_local_results(value) for value in values.values()]
        return tuple(dict(zip(values, row, strict=True)) for row in zip(*columns, strict=True))

    def _replica_step(self, batch: dict[str, tf.Tensor]) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        # 1. This replica's rows, and how many rows all replicas have: a mean over the global batch divides by those, so
        # that replicas with unequal shares, or none, weigh as much as their rows.
        rows = replica_rows(batch)
        num_examples = all_replica_sum(tf.cast(tf.shape(rows[LABELS])[0], tf.float32))

        # 2. What the teacher says of them: nothing that is differentiated.
        if self._teacher is not None:
            rows[TEACHER_PREDICTIONS] = self._teacher.predictions(rows)

        # 3. The gradient of this replica's terms alone: what is summed below must not be summed in the tape as well. It
        # is as many times too large as the optimizer scales the loss, until that divides it.
        examples = {name: value for name, value in rows.items() if name not in (ID, POSITION)}
        scale = loss_scale(self._state.optimizer)
        gradients, label_loss, reg_loss, predictions = self._sum_over_parts(examples, num_examples, scale)

        # 4. One sum over all replicas. From here on every replica computes the same, and clips what one device would.
        gradients, label_loss, reg_loss = all_replica_sum((gradients, label_loss, reg_loss))
        gradients = self._penalties.add_l2_gradients(gradients, scale)
        squares = squared_norms(gradients)

        # 5. What the log tells of all rows. In steps that nobody reports TensorFlow prunes what nothing else needs.
        sums = {
            "label_loss": label_loss,
            "reg_loss": reg_loss + self._penalties.l2(),
            "gradient_norm": tf.sqrt(tf.add_n([tf.zeros([]), *squares])) / scale,
            "loss_scale": tf.convert_to_tensor(scale),
            "num_examples": num_examples,
            "learning_rate": tf.identity(self._state.optimizer.learning_rate),
        }

        # 6. The update, then the averages, which are of the weights after it.
        if self._clip_gradient_norm:
            gradients = clip(gradients, squares, self._clip_gradient_norm * scale, self._clip_gradient_scope)
        self._state.optimizer.apply(gradients, self._state.model.trainable_variables)
        if self._state.averages is not None:
            self._state.averages.update(self._state.model)

        # 7. What the log tells of these rows.
        predictions = rated_predictions(predictions, rows.get(LABEL_WEIGHTS))
        return sums, top_k_pairs(predictions, rows[LABELS], self._top_k)

    def _sum_over_parts(
        self, rows: dict[str, tf.Tensor], num_examples: tf.Tensor, scale: tf.Tensor | float
    ) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns what `_compute_gradients` does, of all rows, computed in equal parts one after another."""
        if self._num_parts == 1:
            return self._gradients(rows, num_examples, scale)
        n = tf.shape(rows[LABELS])[0]
        sums: list[tf.Tensor] = []
        predictions = []
        for part in range(self._num_parts):
            # Without an order between them, TensorFlow would keep all parts in memory at the same time.
            with tf.control_dependencies(sums):
                begin, end = part * n // self._num_parts, (part + 1) * n // self._num_parts
                some = {name: tf.identity(value)[begin:end] for name, value in rows.items()}
                gradients, label_loss, reg_loss, of_part = self._gradients(some, num_examples, scale)
            terms = [*gradients, label_loss, reg_loss]
            sums = [a + b for a, b in zip(sums, terms, strict=True)] if sums else terms
            predictions.append(of_part)
        *gradients, label_loss, reg_loss = sums
        return gradients, label_loss, reg_loss, tf.concat(predictions, axis=0)

    def _compute_gradients(
        self, rows: dict[str, tf.Tensor], num_examples: tf.Tensor, scale: tf.Tensor | float
    ) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns the gradients of `scale` times the terms of these rows, the terms themselves, and the predictions."""
        weights = [variable.value for variable in self._state.model.trainable_variables]
        with tf.GradientTape() as tape:
            outputs = self._state.model(model_inputs(rows), training=True)
            losses = self._video_losses(rows, outputs)
            reg_loss = self._penalties.differentiated() / (self._strategy.num_replicas_in_sync * self._num_parts)
        # That of the losses' mean, by what it is of each loss: differentiating the mean would ask for the shape of the
        # losses and so compute them in every step.
        of_each = tf.fill(tf.shape(rows[LABELS])[:1], 1.0 / tf.maximum(num_examples, 1.0))
        if EXAMPLE_WEIGHTS in rows:
            of_each *= rows[EXAMPLE_WEIGHTS]
        upstream = [of_each * scale, tf.ones([]) * scale]
        gradients = tape.gradient([losses, reg_loss], weights, output_gradients=upstream)
        # The gradient of a product over unknown axes has lost the shape, which is that of its weight.
        gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
        gradients = [
            tf.ensure_shape(gradient, weight.shape) for gradient, weight in zip(gradients, weights, strict=True)
        ]
        return gradients, tf.reduce_sum(losses * of_each), reg_loss, outputs["predictions"]

    def _video_losses(self, rows: dict[str, tf.Tensor], outputs: dict[str, Any]) -> tf.Tensor:
        """The label loss of each video, or of the two that it is mixed of, and whatever the model asks to add to it."""
        inputs = loss_inputs(rows, outputs)
        label_losses = self._loss(rows[LABELS], inputs, rows.get(LABEL_WEIGHTS))
        if MIXUP_SHARE in rows:
            of_partners = self._loss(rows[PARTNER_LABELS], inputs, rows.get(PARTNER_LABEL_WEIGHTS))
            label_losses = rows[MIXUP_SHARE] * label_losses + (1.0 - rows[MIXUP_SHARE]) * of_partners
        return tf.add_n([label_losses, *outputs.get("losses", {}).values()])


@contextmanager
def explained_compilation(model_name: str) -> Iterator[None]:
    """Turns the failure of a step that XLA cannot compile into a message that says so.

    Args:
        model_name: of the model that is trained.

    Raises:
        UserError: if XLA refused a step in the `with` block.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if not re.search("tf2xla|XLA", error.message):
            raise
        node = re.search(r"\{\{node ([^}]*)\}\}", error.message)
        raise UserError(
            f"--jit_compile: XLA cannot compile the training step of {model_name}{f', at {node[1]}' if node else ''}. "
            "Leave the flag out."
        ) from error
