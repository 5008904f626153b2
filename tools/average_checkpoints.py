"""Averages the weights of several checkpoints of a run, into a new directory that eval.py and inference.py take.

python -m tools.average_checkpoints --train_dir=RUN --output_dir=NEW [--last=3 | --steps=1000,2000] [--weights=1,2]
    [--train_data_pattern='DIR/train*.tfrecord' --moment_batches=100]
"""

from absl import flags

from yt8m.cli import program, run_flags


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of this program."""
    define = flags.DEFINE_string
    define("train_dir", "", "Directory of the run whose checkpoints are averaged.", flag_values=values)
    define("output_dir", "", "Directory of the run that is written; it holds none yet.", flag_values=values)
    flags.DEFINE_integer("last", 0, "How many of the newest checkpoints; 0: all there are.", flag_values=values)
    flags.DEFINE_list("steps", [], "The steps of the checkpoints, instead of --last.", flag_values=values)
    flags.DEFINE_list("weights", [], "How much each counts, oldest first; without it, equally.", flag_values=values)
    define(
        "train_data_pattern",
        "",
        "Training shards on which moments of batch normalisation are measured anew; without it they are averaged too.",
        flag_values=values,
    )
    flags.DEFINE_integer("moment_batches", 100, "How many batches of the run's size.", flag_values=values)
    run_flags.define_cache_flags(values)


if __name__ == "__main__":
    # Before TensorFlow is loaded, so that --help and mistyped flags are answered at once.
    program.parse_flags(define_flags)

import logging
from dataclasses import replace

import keras

from yt8m.arguments import check_count, typed_as
from yt8m.cli.ensemble_flags import weights_of_members
from yt8m.config import RunConfig
from yt8m.engine.weight_averages import load_mean_of_weights, measure_moments
from yt8m.errors import UserError
from yt8m.progress import with_progress
from yt8m.runs.checkpoints import save_weights
from yt8m.runs.directory import (
    CONFIG,
    all_checkpoints,
    check_name,
    checkpoint_step,
    load_config,
    paths_of_run,
    require_checkpoint,
)

import experiment

LOG = logging.getLogger("yt8m.average_checkpoints")


def main(values: flags.FlagValues) -> None:
    """Writes the run of the averaged weights.

    Raises:
        UserError: if the run lacks a checkpoint, or the new directory holds a run or cannot be written.
    """
    if not values.output_dir:
        raise UserError("--output_dir is missing: give a new directory for the averaged weights.")
    check_name(values.output_dir)
    there = paths_of_run(values.output_dir)
    if there:
        raise UserError(f"--output_dir={values.output_dir} holds {there[0]} of a run. Choose a new directory.")
    config = load_config(values.train_dir)
    checkpoints = chosen_checkpoints(values)
    weights = weights_of_members(values.weights, len(checkpoints), "weights", "the checkpoints")
    with typed_as(f"{CONFIG.path(values.train_dir)}: "):
        model = experiment.build_model(config)
    load_mean_of_weights(model, checkpoints, weights)
    if values.train_data_pattern:
        measure_moments_on(values.train_data_pattern, values.moment_batches, config, model)
    save_weights(values.output_dir, config, model, checkpoint_step(checkpoints[-1]))
    steps = ", ".join(str(checkpoint_step(path)) for path in checkpoints)
    LOG.info("%s holds the mean of the weights at steps %s.", values.output_dir, steps)


def measure_moments_on(pattern: str, num_batches: int, config: RunConfig, model: keras.Model) -> None:
    """Measures a model's moving moments on training shards, in an order as the run's own.

    Raises:
        UserError: if no file matches, or a record cannot be read.
    """
    with typed_as("--"):
        check_count(1, moment_batches=num_batches)
    # Moments depend neither on labels nor on what they count.
    training = replace(
        config.training, train_data_pattern=pattern, num_epochs=1, teacher="", example_weights="", bagging_seed=0
    )
    config = replace(config, training=training)
    files = experiment.training_files(config)
    options = experiment.training_options(config)
    order = experiment.training_order(config, files, options)
    data = experiment.training_data(config, model, files, order, options)
    with data.explained():
        batches = with_progress(data.batches.take(num_batches), "measuring moments", num_batches)
        found = measure_moments(model, batches)
    data.report_skipped()
    LOG.info("The moments of batch normalisation are those of %d batches.", found)


def chosen_checkpoints(values: flags.FlagValues) -> list[str]:
    """Returns the paths of the checkpoints that `--last` or `--steps` chooses, oldest first.

    Raises:
        UserError: if the run lacks one of them, or both flags are given.
    """
    with typed_as("--"):
        check_count(0, last=values.last)
    require_checkpoint(values.train_dir)
    by_step = {str(checkpoint_step(path)): path for path in all_checkpoints(values.train_dir)}
    if values.steps and values.last:
        raise UserError("--steps and --last both choose checkpoints. Give one of the two.")
    missing = [step for step in values.steps if step not in by_step]
    if missing or values.last > len(by_step):
        flag = f"--steps={','.join(values.steps)}" if missing else f"--last={values.last}"
        raise UserError(
            f"{flag}: {values.train_dir} has the checkpoints {', '.join(by_step)}. Choose among them; train.py keeps "
            "more with --keep_checkpoints."
        )
    if values.steps:
        return [path for step, path in by_step.items() if step in values.steps]
    return list(by_step.values())[-values.last :]


if __name__ == "__main__":
    program.run(main)
