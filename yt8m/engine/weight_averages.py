"""Averages of the weights over training, which are evaluated in their place."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import keras
import numpy as np
import tensorflow as tf

from yt8m.batch import Batch, model_inputs
from yt8m.errors import UserError
from yt8m.progress import with_progress
from yt8m.runs.checkpoints import reading
from yt8m.runs.directory import CONFIG

_NAME = "averages"  # in a checkpoint


class WeightAverages(tf.Module):
    """Running averages of all of a model's variables, moving moments too, over updates t = 0, 1, ...

        average <- average + r_t (value - average),   r_t = max(1 - 2^(-1 / halflife), 10 / (10 + t))

    A value that is `halflife` updates old counts half as much as a new one. While a run is short, the averages are of
    about its last tenth.

    Args:
        model: the built model; the averages start at its values.
        halflife: in updates.

    Source: Polyak & Juditsky 1992; the warm-up is that of tf.train.ExponentialMovingAverage(num_updates), without its
    bias towards the start. miha-skalic/youtube8mchallenge averages moving moments too; what it calls a half-life is a
    time constant: a value of that age counts 1 / e as much.
    """

    def __init__(self, model: keras.Model, halflife: float):
        super().__init__(name=_NAME)
        self.smallest_rate = 1.0 - 2.0 ** (-1.0 / halflife)
        self.num_updates = _own_variable(tf.zeros([]))
        self.averages = [_own_variable(variable.value) for variable in model.variables]

    def update(self, model: keras.Model) -> None:
        """Moves the averages towards the values that a step has left."""
        rate = tf.maximum(self.smallest_rate, 10.0 / (10.0 + self.num_updates))
        for average, variable in zip(self.averages, model.variables, strict=True):
            average.assign_add(tf.cast(rate, average.dtype) * (variable.value - average))
        self.num_updates.assign_add(1.0)

    def restart(self, model: keras.Model) -> None:
        """Starts again at the values of a model."""
        self.num_updates.assign(0.0)
        for average, variable in zip(self.averages, model.variables, strict=True):
            average.assign(variable.value)

    def copy_to(self, model: keras.Model) -> None:
        """Sets a model's variables to the averages."""
        for average, variable in zip(self.averages, model.variables, strict=True):
            variable.assign(average.read_value())

    @contextmanager
    def in_place(self, model: keras.Model) -> Iterator[None]:
        """Lends a model the averages; afterwards it has its own values again."""
        own = [variable.numpy() for variable in model.variables]
        self.copy_to(model)
        try:
            yield
        finally:
            for variable, value in zip(model.variables, own, strict=True):
                variable.assign(value)


def has_averages(checkpoint: str) -> bool:
    """Tells whether there are averages in a checkpoint."""
    names = tf.train.load_checkpoint(checkpoint).get_variable_to_shape_map()
    return any(name.startswith(f"{_NAME}/") for name in names)


def load_averages(model: keras.Model, checkpoint: str) -> None:
    """Sets a model's variables to the averages in a checkpoint."""
    averages = WeightAverages(model, halflife=1.0)
    status = tf.train.Checkpoint(averages=averages).read(checkpoint).expect_partial()
    status.assert_existing_objects_matched()
    averages.copy_to(model)


def load_mean_of_weights(model: keras.Model, checkpoints: Sequence[str], weights: Sequence[float]) -> None:
    """Sets a model's variables, moving moments too, to the weighted mean of what `load_weights` reads.

        variable = sum over checkpoints of weight * value;   whole numbers are those of the last checkpoint

    Sums are float64.

    Args:
        model: the built model.
        checkpoints: N paths.
        weights: N numbers, with sum 1.

    Raises:
        UserError: if a checkpoint lacks a weight of the model, or is damaged.

    Source: Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima and Better Generalization"; their pass over
    the data afterwards is `measure_moments`.
    """
    sums = [np.zeros(variable.shape) for variable in model.variables]
    pairs = zip(checkpoints, weights, strict=True)
    for checkpoint, weight in with_progress(pairs, "reading checkpoints", len(checkpoints)):
        load_weights(model, checkpoint)
        for total, variable in zip(sums, model.variables, strict=True):
            total += weight * variable.numpy()
    for total, variable in zip(sums, model.variables, strict=True):
        if tf.as_dtype(variable.dtype).is_floating:
            variable.assign(total)


def measure_moments(model: keras.Model, batches: Iterable[Batch]) -> int:
    """Measures the moving moments of batch normalisation anew, under the weights that a model has now.

        moments = mean over the batches of the moments of a batch, as training sees it, dropout included

    Args:
        model: the built model; nothing of it changes but moving moments.
        batches: of training videos; beyond a thousand, old ones count less.

    Returns:
        How many batches there were.
    """
    counters = [variable for variable in model.variables if variable.name == "num_updates"]
    see = tf.function(lambda batch: model(batch, training=True)["predictions"], autograph=False, reduce_retracing=True)
    number = 0
    for number, batch in enumerate(batches, start=1):
        # The moments move by 10 / (10 + num_updates), which is 1 / number.
        for counter in counters:
            counter.assign(10.0 * (number - 1))
        see(model_inputs(batch))
    return number


def _own_variable(start: tf.Tensor) -> tf.Variable:
    """Every replica has its own and all of them stay equal, so that nothing has to travel."""
    return tf.Variable(
        start,
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )


def load_weights(model: keras.Model, path: str) -> None:
    """Reads the weights that are to be evaluated, and nothing else, from a checkpoint: averages, if it has any.

    Raises:
        UserError: if the checkpoint lacks a weight of the model, or is damaged.
    """
    try:
        with reading(path):
            status = tf.train.Checkpoint(model=model).read(path).expect_partial()
            status.assert_existing_objects_matched()
            if has_averages(path):
                load_averages(model, path)
    except (AssertionError, ValueError) as error:
        raise UserError(
            f"Checkpoint {path} does not hold the weights of {type(model).__name__} as {CONFIG.name} describes it. "
            "Was it written by another version, or copied from another run?"
        ) from error
