"""From a run's description to its parts: the one place that knows configuration, readers, models and losses."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from yt8m.arguments import typed_as
from yt8m.batch import KEY, videos_in
from yt8m.config import PRECISIONS, RECORDS_TEACH, OnBadRecord, RunConfig, flat_hparams
from yt8m.data.example_weights import missing_weight, read_example_weights, with_example_weights
from yt8m.data.order import Order
from yt8m.distribution import Strategy
from yt8m.engine.evaluation import Evaluator
from yt8m.engine.step import TrainState
from yt8m.engine.teacher import ModelTeacher, PredictionTable, Teacher
from yt8m.engine.weight_averages import load_weights
from yt8m.errors import UserError, first_line
from yt8m.losses.base import weighted_sum
from yt8m.metrics import Accumulator
from yt8m.output.submission import read_submission
from yt8m.positions import Position
from yt8m.progress import progress_is_shown, with_progress
from yt8m.registry import CLIP_MODELS, LOSSES, METRICS, VIDEO_LEVEL_MODELS, models_that_read
from yt8m.runs.directory import CONFIG, has_run, load_config, require_checkpoint
from yt8m.schema import DataSpec, EverySegmentDataSpec, TaughtDataSpec

import readers
from video_level_models import VideoLevelModel

LOG = logging.getLogger("yt8m.experiment")

_DATA_FLAGS = (*DataSpec.__dataclass_fields__, "frame_features")  # of messages about records, which advise them


def build_model(config: RunConfig) -> keras.Model:
    """Builds the model of a run, with all its weights, for batches as the readers yield them.

    Raises:
        ArgumentError: if a hyper-parameter is out of range; who calls knows what the user typed it as.
        UserError: if there is no memory for weights of these sizes.
    """
    name, hparams = config.model.name, config.model.hparams
    keras.config.set_dtype_policy(PRECISIONS[config.model.precision])
    models = models_that_read(config.data.record_format)
    try:
        if models is VIDEO_LEVEL_MODELS:
            model = VideoLevelModel(config.data, models[name](config.data.num_classes, **hparams))
        else:
            model = models[name](config.data, **hparams)
        model.build()
    except tf.errors.ResourceExhaustedError as error:
        raise UserError(
            f"{name} of these sizes does not fit into memory ({first_line(error)}). Make one of its "
            "hyper-parameters or a size of the data smaller."
        ) from error
    return model


def trained_model(config: RunConfig, train_dir: str, checkpoint: str) -> keras.Model:
    """Builds the model of a run, with the weights that the run is evaluated with at a checkpoint.

    Args:
        config: the run.
        train_dir: its directory, for messages.
        checkpoint: the path.

    Raises:
        UserError: if the model cannot be built, or the checkpoint lacks a weight or is damaged.
    """
    with typed_as(f"{CONFIG.path(train_dir)}: "):
        model = build_model(config)
    load_weights(model, checkpoint)
    return model


def build_loss(config: RunConfig) -> Callable[..., tf.Tensor]:
    """Returns the loss of a run, the weighted sum of its terms: `(labels, outputs, label_weights) -> (B,)`.

    Raises:
        UserError: if a hyper-parameter is out of range; the message names it as `--hparams` does.
    """
    terms = [(term.weight, partial(LOSSES[term.name], **term.hparams)) for term in config.loss.terms]
    for term, (_, loss) in zip(config.loss.terms, terms, strict=True):
        # Each checks its hyper-parameters when it is called: now, on one video, not inside the first step.
        with typed_as(f"--hparams=loss.{term.name}."):
            loss(tf.zeros([1, 1], tf.bool), {"predictions": tf.zeros([1, 1]), KEY: tf.zeros([1], tf.int64)}, None)
    return weighted_sum(terms)


def build_teacher(config: RunConfig) -> Teacher | None:
    """Builds what the run's loss learns from beside labels, if there is such a thing and records do not carry it.

    Called before the run's own model is built, in the strategy's scope: the precision of what is built last stays.

    Raises:
        UserError: if the teacher is neither a submission nor a run with a checkpoint, or it predicts other classes or
            reads other data than the run.
    """
    path = config.training.teacher
    if not path or path == RECORDS_TEACH:
        return None
    if not tf.io.gfile.isdir(path):
        return PredictionTable(*read_submission(path), num_classes=config.data.num_classes, source=path)
    teacher = load_config(path)
    _check_reads_the_same(teacher.data, config.data, path)
    return ModelTeacher(trained_model(teacher, path, require_checkpoint(path)))


def _check_reads_the_same(teacher: DataSpec, student: DataSpec, path: str) -> None:
    """Checks that a teacher understands the batches of a student; it may read fewer features."""
    columns = [dict(zip(spec.feature_names, spec.feature_sizes, strict=True)) for spec in (teacher, student)]
    if columns[0].items() - columns[1].items():
        name, size = min(columns[0].items() - columns[1].items())
        raise UserError(
            f"--teacher={path}: its model reads the feature {name} of size {size}, which is not among "
            f"--feature_names={','.join(student.feature_names)}. Add it, or give a CSV of the teacher's predictions."
        )
    for flag in ("num_classes", "record_format"):
        theirs, ours = getattr(teacher, flag), getattr(student, flag)
        if theirs != ours:
            raise UserError(
                f"--teacher={path}: it was trained with --{flag}={theirs}, this run has {ours}. Give a teacher of the "
                "same, or a CSV of its predictions."
            )


def build_train_state(config: RunConfig, run_examples: int) -> TrainState:
    """Builds a run's model, optimizer and counters as they are before the first step, all decided by the seed."""
    keras.utils.set_random_seed(config.training.seed)
    return TrainState(build_model(config), config.optimization, run_examples)


@dataclass(frozen=True)
class Data:
    """Batches, and where they come from.

    Attributes:
        batches: for training this worker's share of every global batch, for evaluation one finite pass.
        spec: what the records hold.
        files: the shards.
        labels_required: whether a record without labels is an error.
        options: how they are read; knows the damaged records that were left out.
        decided_by: the run that decides what records hold, where no flag can.
    """

    batches: tf.data.Dataset
    spec: DataSpec
    files: list[str]
    labels_required: bool
    options: readers.ReadOptions
    decided_by: str = ""

    @cached_property
    def num_videos(self) -> int:
        """How many videos there are, about, for those who watch a bar; 0 where nobody does."""
        return readers.estimate_num_records(self.files) if progress_is_shown() else 0

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turns a failure of the fast path into a message that names the file, the record and the field."""
        with _decided_by(self.decided_by, self.spec):
            try:
                yield
            except readers.READING_ERRORS as error:
                explanation = missing_weight(error)
                if explanation is None:
                    skipped = None if self.options.damage is None else self.options.damage.damages
                    explanation = readers.explain_failure(error, self.files, self.spec, self.labels_required, skipped)
                if explanation is None:
                    raise
                raise explanation from error

    def report_skipped(self) -> None:
        """Logs which damaged records were left out and not reported yet."""
        for line in self.options.skipped.report():
            LOG.warning("%s", line)


@contextmanager
def _decided_by(run: str, spec: DataSpec) -> Iterator[None]:
    """Completes a message that advises other flags of the data where a run decides what is read, and no flag can."""
    try:
        yield
    except UserError as error:
        if not run or not any(f"--{flag}" in str(error) for flag in _DATA_FLAGS):
            raise
        raise UserError(
            f"{error} The run in {run} was trained on other data, and decides what is read: "
            f"{', '.join(spec.feature_names)} of records of the format {spec.record_format}, with {spec.num_classes} "
            "classes. Give shards like those that it was trained on."
        ) from error


def training_files(config: RunConfig) -> list[str]:
    """Finds the training shards of a run.

    Raises:
        UserError: if no file matches.
    """
    if not config.training.train_data_pattern:
        raise UserError("--train_data_pattern is missing: give the training shards, as in 'DIR/train*.tfrecord'.")
    return readers.find_files(config.training.train_data_pattern, "train_data_pattern")


def run_examples(config: RunConfig, examples_per_epoch: int) -> int:
    """Returns how many examples a run sees until its end, if an epoch has so many."""
    run = config.training
    ends = []
    if run.max_steps:
        ends.append(run.max_steps * run.batch_size)
    if run.num_epochs:
        ends.append(run.num_epochs * examples_per_epoch)
    return min(ends)


def training_options(config: RunConfig) -> readers.ReadOptions:
    """Returns how the training shards of a run are read."""
    return readers.ReadOptions(config.training.num_readers, config.training.on_bad_record)


def training_spec(config: RunConfig) -> DataSpec:
    """Returns what the training records of a run hold: `config.data`, and perhaps the predictions of a teacher."""
    return TaughtDataSpec(**vars(config.data)) if config.training.teacher == RECORDS_TEACH else config.data


def training_order(config: RunConfig, files: list[str], options: readers.ReadOptions) -> Order:
    """Opens the training shards of a run, and says in which order their records come."""
    return readers.training_order(files, training_spec(config), seed=config.training.seed, options=options)


def training_data(
    config: RunConfig,
    model: keras.Model,
    files: list[str],
    order: Order,
    options: readers.ReadOptions,
    *,
    start: Position | None = None,
    worker: int = 0,
    num_workers: int = 1,
    service: str = "",
    examples_per_epoch: int = 0,
) -> Data:
    """Reads the training shards of a run, from a position on.

    Args:
        config: the run.
        model: tells which frames it wants to see.
        files: the shards.
        order: of their records.
        options: how they were opened.
        start: where to start; None for the start of the first epoch.
        worker: number of this process.
        num_workers: how many share a batch.
        service: the address of a tf.data service that reads in place of this process; empty for none.
        examples_per_epoch: about how many records the shards hold, which decides the end of a run that a service reads
            for.

    Raises:
        UserError: if the weights of examples cannot be read, or the service cannot be used.
    """
    run, spec = config.training, training_spec(config)
    num_epochs, sampling = run.num_epochs or None, model.frame_sampling(training=True)
    if service:
        if num_workers > 1:
            raise UserError(
                f"--tf_data_service={service}: with several workers in TF_CONFIG the batches of one would come to an "
                "end before those of another. Leave the flag out, or train on the devices of one machine (--num_gpu)."
            )
        batches = readers.served_batches(
            order,
            spec,
            run.batch_size,
            service,
            num_epochs=num_epochs,
            sampling=sampling,
            start=start,
            examples_per_epoch=examples_per_epoch,
        )
    else:
        batches = readers.training_batches(
            order,
            spec,
            run.batch_size,
            num_epochs=num_epochs,
            sampling=sampling,
            mixup=run.mixup,
            worker=worker,
            num_workers=num_workers,
            start=start,
        )
    if run.example_weights or run.bagging_seed:
        weights = read_example_weights(run.example_weights) if run.example_weights else None
        batches = batches.map(with_example_weights(weights, run.bagging_seed)).prefetch(1)
    return Data(batches, spec, files, labels_required=True, options=options)


def evaluation_data(
    config: RunConfig,
    model: keras.Model,
    pattern: str,
    flag: str,
    *,
    batch_size: int,
    on_bad_record: OnBadRecord,
    labels_required: bool,
    decided_by: str = "",
) -> Data:
    """Opens shards for one pass in the order of the input.

    Args:
        config: the run.
        model: tells which frames it wants to see.
        pattern: comma-separated patterns of the shards.
        flag: the flag that gave the pattern, for messages.
        batch_size: videos per batch.
        on_bad_record: `error` or `skip`.
        labels_required: whether a record without labels is an error; if not, segments need no ratings, and all of a
            video's are read.
        decided_by: the directory of the run, if flags cannot change what is read.

    Raises:
        UserError: if no file matches.
    """
    if not pattern:
        raise UserError(f"--{flag} is missing: give the shards to read, as in 'DIR/validate*.tfrecord'.")
    files = readers.find_files(pattern, flag)
    return evaluation_data_of(
        files,
        config,
        model,
        batch_size=batch_size,
        on_bad_record=on_bad_record,
        labels_required=labels_required,
        decided_by=decided_by,
    )


def evaluation_data_of(
    files: list[str],
    config: RunConfig,
    model: keras.Model,
    *,
    batch_size: int,
    on_bad_record: OnBadRecord,
    labels_required: bool,
    decided_by: str = "",
) -> Data:
    """Opens the shards `files` for one pass in their order; the other arguments are those of `evaluation_data`.

    Args:
        files: the shards.
        config: the run.
        model: tells which frames it wants to see.
        batch_size: videos per batch.
        on_bad_record: `error` or `skip`.
        labels_required: whether a record without labels is an error.
        decided_by: the directory of the run, if flags cannot change what is read.

    Raises:
        UserError: if a file cannot be read.
    """
    sampling = model.frame_sampling(training=False)
    options = readers.ReadOptions(on_bad_record=on_bad_record)
    spec = config.data if labels_required else EverySegmentDataSpec(**vars(config.data))
    with _decided_by(decided_by, spec):
        batches = readers.evaluation_batches(
            files, spec, batch_size, sampling=sampling, options=options, labels_required=labels_required
        )
    return Data(batches, spec, files, labels_required, options, decided_by)


def build_evaluator(
    config: RunConfig,
    strategy: Strategy,
    model: Callable[..., dict[str, Any]],
    data: Data,
    metrics: Mapping[str, Mapping[str, Any]],
    top_k: int,
) -> Evaluator:
    """Builds what evaluates a run's model on batches like those of `data`.

    Args:
        config: the run.
        strategy: where the replicas are.
        model: the run's model, or what calls it; its weights at the time of an evaluation count.
        data: the evaluation shards.
        metrics: the settings of each group of metrics, by name.
        top_k: predictions per video that count.

    Raises:
        UserError: if a setting of a metric is out of range.
    """

    def build_metrics() -> list[Accumulator]:
        accumulators = []
        for name, settings in metrics.items():
            with typed_as(f"--metrics={name}:"):
                accumulators.append(METRICS[name](config.data.num_classes, top_k, **settings))
        return accumulators

    return Evaluator(
        strategy,
        model,
        build_loss(config),
        batch_spec=data.batches.element_spec,
        build_metrics=build_metrics,
        top_k=top_k,
    )


def start_at_pretrained_weights(config: RunConfig, model: keras.Model) -> None:
    """Reads the weights of other networks with which a new clip model starts, where hyper-parameters name files.

    A run that is resumed or evaluated has its own, and does not need the files.

    Raises:
        UserError: if there is no such file, or it holds other weights; the message names it as `--hparams` does.
    """
    if models_that_read(config.data.record_format) is CLIP_MODELS:
        with typed_as("--hparams="):
            model.load_pretrained()


def start_from_run(config: RunConfig, state: TrainState, train_dir: str) -> None:
    """Gives a new model the weights of the run that `config.training.init_from` names, averages if it has some.

    Those are the weights that the other run is evaluated with; the optimizer and the counters stay new. Only what
    decides which weights there are has to be the same: hyper-parameters such as dropout may differ, and so may what of
    the frames is read: whole videos or segments.

    Raises:
        UserError: if there is no such run, its model has other weights, or it is about to be overwritten.
    """
    path = config.training.init_from
    given = f"--init_from={path}"
    if f"{os.path.realpath(path)}/".startswith(f"{os.path.realpath(train_dir)}/"):
        raise UserError(f"{given}: it is in --train_dir={train_dir}, which is about to be overwritten. Choose another.")
    if not has_run(path):
        raise UserError(f"{given} holds no run with a checkpoint. Give the --train_dir of one, or its best/.")
    other = load_config(path)
    for flag, theirs, ours in (
        ("model", other.model.name, config.model.name),
        ("num_classes", other.data.num_classes, config.data.num_classes),
        ("feature_names", ",".join(other.data.feature_names), ",".join(config.data.feature_names)),
        *(
            (flag, ",".join(map(str, getattr(other.data, flag))), ",".join(map(str, getattr(config.data, flag))))
            for flag in ("feature_sizes", "feature_weights")
        ),
    ):
        if theirs != ours:
            raise UserError(f"{given}: it was trained with --{flag}={theirs}, this run has {ours}. Make them the same.")
    try:
        load_weights(state.model, require_checkpoint(path))
    except UserError as error:
        hparams = flat_hparams(config.model.hparams)
        before = flat_hparams(other.model.hparams)
        different = [f"{name}={value}" for name, value in before.items() if value != hparams.get(name)]
        raise UserError(
            f"{given}: its weights do not fit into {config.model.name} as this run has it. "
            + (f"It was trained with other hyper-parameters: {', '.join(different)}." if different else str(error))
        ) from error
    if state.averages is not None:
        state.averages.restart(state.model)


def start_from_data(config: RunConfig, model: keras.Model, data: Data) -> None:
    """Gives a new model what it takes from the training data before the first step.

    That is the class prior, and for a classifier that remembers, such as NearestNeighboursModel, all videos in one pass
    in the order of the shards. Damaged records are treated as training treats them.

    Raises:
        UserError: if a file cannot be read and is not to be skipped, or training would change what is remembered.
    """
    _start_at_class_prior(config, model, data)
    if not hasattr(getattr(model, "classifier", None), "remember"):
        return
    if model.trainable_variables:
        raise UserError(
            f"--model={config.model.name}: its classifier remembers pooled vectors, and training would change them, "
            "for the pooling has weights. Choose one without any, such as AveragePoolModel, or another classifier."
        )
    videos = readers.evaluation_batches(
        data.files,
        data.spec,
        config.training.batch_size,
        sampling=model.frame_sampling(training=False),
        options=data.options,
        labels_required=True,
    )
    with typed_as("--hparams="):
        model.remember(with_progress(videos, "remembering", data.num_videos, videos_in))


def _start_at_class_prior(config: RunConfig, model: keras.Model, data: Data) -> None:
    """Sets the output biases so that a new model predicts the share of videos that have each label.

    Without it the first steps are spent on moving every bias from 0 to about -6. The shares are those of the first
    `class_prior_examples` records, each class counted half a video too often, so that none is impossible. Of segments
    they are shares of those that were rated for the class.
    """
    limit = config.optimization.class_prior_examples
    if limit:
        counts, num_examples = readers.class_counts(data.files, data.spec, limit, data.options)
        if not counts.any():
            LOG.warning(
                "None of the first %d records has a label: there is nothing to learn. Are these the training shards?",
                num_examples.max(),
            )
        # A class that nobody was asked for is taken for absent.
        num_examples = np.where(num_examples, num_examples, num_examples.max())
        model.start_at_prior((counts + 0.5) / (num_examples + 1.0))
