"""Trains a model on TFRecord shards: python train.py --train_data_pattern='DIR/train*.tfrecord' --train_dir=RUN ..."""

from absl import flags

from yt8m.cli import metric_flags, program, run_flags


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of this program."""
    run_flags.define_train_flags(values)


if __name__ == "__main__":
    # Before TensorFlow is loaded, so that --help and mistyped flags are answered at once.
    program.parse_flags(
        define_flags,
        run_flags.config_from_flags,
        run_flags.profile_steps,
        run_flags.check_service_flag,
        metric_flags.metrics_from_flags,
    )

import logging
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext

from yt8m.config import RunConfig, schedule_differences
from yt8m.distribution import Strategy, Workers, build_strategy, num_workers, worker_index
from yt8m.engine.clusters import ClusterView
from yt8m.engine.evaluation import Evaluator
from yt8m.engine.loop import LoopSettings, train
from yt8m.engine.profiling import Profile
from yt8m.engine.reports import EvaluationReport, TrainingReport
from yt8m.engine.step import TrainState, TrainStep, explained_compilation, num_weights
from yt8m.engine.teacher import explained_teacher
from yt8m.positions import Position
from yt8m.runs.checkpoints import Checkpoints, best_gap, last_evaluated_step, save_best, save_evaluation, tidy_best
from yt8m.runs.directory import newest_checkpoint, save_config
from yt8m.runs.lifecycle import delete_leftovers, new_run, open_run
from yt8m.runs.lock import check_unlocked, locked

import experiment
import readers

LOG = logging.getLogger("yt8m.train")

PROGRAM = "train.py"  # as the history of evaluations names it


def main(values: flags.FlagValues) -> int:
    """Trains or resumes the run in --train_dir; returns the exit status."""
    # 1. The run that is asked for, and the one in its directory, if that is to be resumed. Nothing is written yet.
    config = run_flags.config_from_flags(values)
    run_flags.check_service_flag(values)
    profiled = run_flags.profile_steps(values)
    strategy = build_strategy(values.num_gpu, values.log_device_placement)
    worker, workers = worker_index(strategy), Workers(strategy)
    if worker == 0:
        check_unlocked(values.train_dir)
    resumed = open_run(values.train_dir, config, values.start_new_model)

    # 2. Model, optimizer and counters as the seed makes them, on every device, and who teaches the model.
    files = experiment.training_files(config)
    examples_per_epoch = readers.estimate_num_examples(files, config.data)
    run_examples = experiment.run_examples(config, examples_per_epoch)
    with strategy.scope():
        teacher = experiment.build_teacher(config)
    with strategy.scope(), run_flags.hparams_as_typed(values):
        state = experiment.build_train_state(config, run_examples)

    # 3. A new run begins with the first example, a resumed one where its newest checkpoint left it. What a tf.data
    # service reads has no order, so that a place in it is a number of examples alone.
    options = experiment.training_options(config)
    order = experiment.training_order(config, files, options)
    if values.tf_data_service:
        LOG.info("--tf_data_service: the order of the data is that in which they come; resuming is not exact.")
    fingerprint = readers.SERVICE_ORDER if values.tf_data_service else order.fingerprint()
    checkpoints = Checkpoints(values.train_dir, state, values.keep_checkpoints, fingerprint, order.shards(), worker)
    start = checkpoints.restore(examples_per_epoch) if resumed else Position()

    # 4. This worker's share of every batch from there on, and what a step does with it.
    data = experiment.training_data(
        config,
        state.model,
        files,
        order,
        options,
        start=start,
        worker=worker,
        num_workers=num_workers(strategy),
        service=values.tf_data_service,
        examples_per_epoch=examples_per_epoch,
    )
    step = TrainStep(
        strategy,
        state,
        experiment.build_loss(config),
        regularization_penalty=config.optimization.regularization_penalty,
        clip_gradient_norm=config.optimization.clip_gradient_norm,
        clip_gradient_scope=config.optimization.clip_gradient_scope,
        accumulate_steps=config.training.accumulate_steps,
        top_k=values.top_k,
        batch_spec=data.batches.element_spec,
        teacher=teacher,
        jit_compile=values.jit_compile,
    )
    evaluation = _evaluation(values, config, strategy, state) if worker == 0 else None
    if evaluation and resumed:
        best_gap(values.train_dir)  # a damaged file is named now, not at the next checkpoint

    with data.explained():
        iterator = iter(data.batches)
        if resumed is None and config.training.init_from:
            with strategy.scope():
                experiment.start_from_run(config, state, values.train_dir)
        elif resumed is None:
            experiment.start_at_pretrained_weights(config, state.model)
            experiment.start_from_data(config, state.model, data)

        # A model that remembers the data and trains nothing needs no more steps than the one that its checkpoint is of.
        max_steps = config.training.max_steps if state.model.trainable_variables else 1

        # 5. Nobody has anything left to refuse: from here on the directory changes. The first worker prepares it
        # before any other looks into it.
        workers.barrier()
        with _directory(values.train_dir, config, resumed) if worker == 0 else nullcontext():
            workers.barrier()

            # 6. Train, to the end or until a signal.
            if worker == 0:
                LOG.info("%s has %s weights to train.", config.model.name, f"{num_weights(state.model):,}")
            examples_seen = int(state.examples_seen.numpy())
            with (
                closing(
                    TrainingReport(values.train_dir, config, examples_seen, run_examples, log=worker == 0)
                ) as report,
                Profile(values.train_dir, profiled if worker == 0 else None) as profile,
                explained_teacher(),
                explained_compilation(config.model.name) if values.jit_compile else nullcontext(),
            ):
                signal_number = train(
                    step,
                    state,
                    iterator,
                    checkpoints,
                    LoopSettings(
                        max_steps,
                        values.log_steps,
                        values.export_model_steps,
                        values.save_checkpoint_seconds,
                        profiled,
                    ),
                    workers=workers,
                    report=report,
                    profile=profile,
                    evaluated_at=last_evaluated_step(values.train_dir, PROGRAM) if resumed else None,
                    evaluate=evaluation and _at_checkpoints(values.train_dir, config, state, report, *evaluation),
                )

    # 7. What was left out, and where it all is.
    data.report_skipped()
    LOG.info("Step %d is saved in %s.", int(state.global_step.numpy()), newest_checkpoint(values.train_dir))
    return 128 + signal_number if signal_number else 0


def _evaluation(
    values: flags.FlagValues, config: RunConfig, strategy: Strategy, state: TrainState
) -> tuple[experiment.Data, Evaluator] | None:
    """Opens the evaluation shards, if --eval_data_pattern is given."""
    if not values.eval_data_pattern:
        return None
    data = experiment.evaluation_data(
        config,
        state.model,
        values.eval_data_pattern,
        "eval_data_pattern",
        batch_size=values.batch_size,
        on_bad_record=values.on_bad_record,
        labels_required=True,
    )
    metrics = metric_flags.fitting_metrics(metric_flags.metrics_from_flags(values), config.data.record_format)
    return data, experiment.build_evaluator(config, strategy, state.model, data, metrics, values.top_k)


@contextmanager
def _directory(train_dir: str, config: RunConfig, resumed: RunConfig | None) -> Iterator[None]:
    """Writes the run's description; a run that was to be overwritten goes only now, when all else is sound.

    Other processes that would write the run are refused while this lasts.
    """
    if resumed is None:
        with new_run(train_dir, config), locked(train_dir):
            yield
        return
    with locked(train_dir):
        for name, before, now in schedule_differences(resumed, config):
            LOG.info("Resuming with %s=%s; it was %s.", name, now, before)
        delete_leftovers(train_dir)
        tidy_best(train_dir)
        save_config(train_dir, config)
        yield


def _at_checkpoints(
    train_dir: str,
    config: RunConfig,
    state: TrainState,
    training: TrainingReport,
    data: experiment.Data,
    evaluator: Evaluator,
) -> Callable[[int], None]:
    """Returns what is done at each checkpoint: evaluate, keep the best weights."""
    report, clusters = EvaluationReport(training.events), ClusterView(state.model, data.batches)

    def evaluate(step: int) -> None:
        with state.evaluated_weights():
            with data.explained():
                evaluation = evaluator.evaluate(data.batches, data.num_videos)
                videos = clusters()
            data.report_skipped()
            report(step, evaluation, config.data.num_classes)
            report.write_clusters(step, videos)
            summary = {"global_step": step} | evaluation.summary
            if summary["gap"] > best_gap(train_dir):
                save_best(train_dir, config, state.model, summary)
            # Last: what is in the history is not evaluated again after a kill.
            save_evaluation(train_dir, summary, PROGRAM)
        training.restart_clock()

    return evaluate


if __name__ == "__main__":
    program.run(main)
