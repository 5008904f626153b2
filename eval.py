"""Evaluates a run: python eval.py --eval_data_pattern='DIR/validate*.tfrecord' --train_dir=RUN [--run_once]"""

from absl import flags

from yt8m.cli import metric_flags, program, run_flags


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of this program; those of a run may be repeated and are compared with it."""
    run_flags.define_run_flags(values)
    run_flags.define_program_flags(values, batch_size=1024)
    run_flags.define_evaluation_flags(values)
    run_flags.define_calibrated_flag(values)
    flags.DEFINE_boolean("run_once", False, "Evaluate the newest checkpoint and stop.", flag_values=values)
    run_flags.define_vocabulary_flag(values)
    flags.DEFINE_boolean(
        "projector", False, "Also write the weights of the classes for TensorBoard's projector.", flag_values=values
    )


if __name__ == "__main__":
    # Before TensorFlow is loaded, so that --help and mistyped flags are answered at once.
    program.parse_flags(define_flags, metric_flags.metrics_from_flags)

import logging
import time
from collections.abc import Iterable

from yt8m.arguments import typed_as
from yt8m.data.vocabulary import class_names
from yt8m.distribution import one_device_strategy
from yt8m.engine.calibration import CalibratedModel, temperature_of
from yt8m.engine.clusters import ClusterView
from yt8m.engine.projector import class_weights, write_projector
from yt8m.engine.reports import EvaluationReport, EventWriter, class_table
from yt8m.engine.weight_averages import load_weights
from yt8m.runs.checkpoints import save_class_table, save_evaluation
from yt8m.runs.directory import (
    CONFIG,
    checkpoint_step,
    evaluation_directory,
    has_run,
    load_config,
    new_checkpoints,
    require_checkpoint,
)

import experiment

LOG = logging.getLogger("yt8m.eval")

PROGRAM = "eval.py"  # as the history of evaluations names it
SECONDS_BETWEEN_LOOKS = 10.0


def main(values: flags.FlagValues) -> None:
    """Evaluates the newest checkpoint, or each new one for as long as the program runs."""
    # 1. The run says what it is; the command line may repeat it, but not say otherwise.
    names = class_names(values.vocabulary) if values.vocabulary else {}
    metrics = metric_flags.metrics_from_flags(values)
    if not values.run_once:
        _wait_for_run(values.train_dir)
    config = load_config(values.train_dir)
    run_flags.check_repeated_flags(values, config)
    config = run_flags.at_evaluation(values, config)
    metrics = metric_flags.fitting_metrics(metrics, config.data.record_format)

    # 2. The model, the shards in their order, and what compares the two.
    with typed_as(f"{CONFIG.path(values.train_dir)}: "):
        model = experiment.build_model(config)
    data = experiment.evaluation_data(
        config,
        model,
        values.eval_data_pattern,
        "eval_data_pattern",
        batch_size=values.batch_size,
        on_bad_record=values.on_bad_record,
        labels_required=True,
        decided_by=values.train_dir,
    )
    calibrated = CalibratedModel(model)
    evaluator = experiment.build_evaluator(config, one_device_strategy(), calibrated, data, metrics, values.top_k)
    clusters = ClusterView(model, data.batches)
    report = EvaluationReport(EventWriter(evaluation_directory(values.train_dir)))

    # 3. One checkpoint, or each new one as it comes.
    for checkpoint in _checkpoints(values.train_dir, values.run_once):
        load_weights(model, checkpoint)
        calibrated.set_temperature(temperature_of(values.train_dir, checkpoint) if values.calibrated else 1.0)
        with data.explained():
            evaluation = evaluator.evaluate(data.batches, data.num_videos)
            videos = clusters()
        data.report_skipped()

        # 4. The log line comes first: it is there even where nothing can be written.
        step = checkpoint_step(checkpoint)
        report(step, evaluation, config.data.num_classes)
        report.write_curves(step, evaluation.curves, names)
        report.write_clusters(step, videos)
        save_class_table(values.train_dir, class_table(evaluation.per_class, names))
        if values.projector:
            weights = class_weights(model, config.data.num_classes)
            write_projector(values.train_dir, weights, evaluation.per_class, names)
        # Last, as all before can be redone.
        save_evaluation(values.train_dir, {"global_step": step} | evaluation.summary, PROGRAM)


def _wait_for_run(train_dir: str) -> None:
    if not has_run(train_dir):
        LOG.info("Waiting for a run to start in %s.", train_dir)
    while not has_run(train_dir):
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _checkpoints(train_dir: str, run_once: bool) -> Iterable[str]:
    if not run_once:
        return new_checkpoints(train_dir, SECONDS_BETWEEN_LOOKS)
    return [require_checkpoint(train_dir)]


if __name__ == "__main__":
    program.run(main)
