"""Flags that the programs share, and what they mean as data. Functions define them: nothing happens at import."""

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from absl import flags

from yt8m.arguments import LARGEST_COUNT, typed_as
from yt8m.cli.loss_flags import check_teacher, loss_hparams, resolve_loss, split_loss_assignments
from yt8m.cli.model_flags import given_hparams, known_model_flags, loss_of_model, resolve_model, typed_names
from yt8m.config import RECORDS_TEACH, OptimizationConfig, RunConfig, TrainingConfig, flat_hparams
from yt8m.errors import UserError
from yt8m.registry import LOSSES, METRICS, MODELS, RECORD_FORMATS
from yt8m.schema import DataSpec


def define_run_flags(values: flags.FlagValues) -> None:
    """Defines the flags that describe a run: all that its config.json can hold."""
    define_data_flags(values)
    define_model_flags(values)
    define_training_flags(values)


def define_train_flags(values: flags.FlagValues) -> None:
    """Defines the flags of train.py, which other programs pass on to it."""
    define_run_flags(values)
    define_program_flags(values, batch_size=1024)
    define_evaluation_flags(values)
    define_service_flag(values)


def define_data_flags(values: flags.FlagValues) -> None:
    """Defines the flags that say what records hold."""
    define = _Definer(values)
    define.text(
        "feature_names", "mean_rgb", "Features to read, comma separated, in the order in which they are joined."
    )
    define.text("feature_sizes", "1024", "Width of each feature, in the order of --feature_names.")
    define.text(
        "feature_weights",
        "",
        "Lengths that features are scaled to before they are joined, in the order of --feature_names; empty: none is.",
    )
    define.integer("num_classes", DataSpec().num_classes, "Number of classes; labels are 0 to num_classes - 1.")
    formats = ", ".join(RECORD_FORMATS.names())
    define.text("record_format", DataSpec().record_format, f"Kind of records. Known: {formats}.")
    define.boolean("frame_features", False, "The same as --record_format=frame.")
    define.boolean("segment_labels", False, "Frames of 5-second segments: the same as --record_format=segment.")
    define.integer("segment_context", DataSpec().segment_context, "Segments: frames to read before and after each.")
    define.integer("max_frames", DataSpec().max_frames, "Frames after this one are cut off; the length of a clip.")
    define.integer("clip_size", DataSpec().clip_size, "Clips: height and width of the frames that a model gets.")
    define.number(
        "clip_crop",
        DataSpec().clip_crop,
        "Clips: side of the square that is cut out, as a share of the frame's short side; 0: the whole frame.",
    )
    define.number("clip_zoom", DataSpec().clip_zoom, "Clips, in training: largest random factor to zoom in by.")
    define.boolean("clip_flip", DataSpec().clip_flip, "Clips, in training: mirror half of them.")
    define.text(
        "clip_sampling",
        DataSpec().clip_sampling,
        "Clips: consecutive frames, or spread over the whole video.",
    )
    define.integer("eval_clips", DataSpec().eval_clips, "Clips per video at evaluation; their scores are averaged.")


def define_model_flags(values: flags.FlagValues) -> None:
    """Defines the flags that choose a model and its hyper-parameters."""
    define = _Definer(values)
    names = ", ".join(name for models in MODELS.values() for name in models.names())
    define.text("model", "LogisticModel", f"Architecture. Known: {names}.")
    define.texts(
        "hparams",
        "A hyper-parameter of the model as name=value, classifier.name=value for its classifier, loss.name=value for "
        "the loss.",
    )
    define.text("precision", "float32", "float32, or bfloat16 or float16 to compute layers in half the width.")
    for flag in known_model_flags().values():
        define.of_kind(flag.kind, flag.name, f"Sets {flag.hyper_parameter} of {', '.join(flag.models)}.")


def define_training_flags(values: flags.FlagValues) -> None:
    """Defines the flags of a training run; eval.py and inference.py take and ignore them."""
    define, opt, run = _Definer(values), OptimizationConfig(), TrainingConfig()
    define.text("train_data_pattern", run.train_data_pattern, "Training shards: comma-separated patterns.")
    define.integer("num_epochs", run.num_epochs, "Passes over the training data; 0 repeats it until --max_steps.")
    define.integer("max_steps", None, "Step to stop at; without it the end of the data decides.")
    flags.DEFINE_alias("max_step", "max_steps", flag_values=values)
    define.integer(
        "accumulate_steps",
        run.accumulate_steps,
        "Parts of a batch whose gradients are computed one after another, for batches that do not fit in memory.",
    )
    define.integer("num_readers", run.num_readers, "Shards that are read side by side.")
    define.integer("seed", run.seed, "Decides initial weights, order of examples, sampled frames and dropout.")
    define.text(
        "label_loss",
        None,
        "Loss, or a weighted sum as in CrossEntropyLoss+0.05*HingeLoss; without it the one that the model asks for, or "
        f"CrossEntropyLoss. Known: {', '.join(LOSSES.names())}.",
    )
    define.text(
        "teacher",
        run.teacher,
        "What a loss that distils learns from: a CSV VideoId,LabelConfidencePairs, the train_dir of a run, or "
        "records if the training records carry predictions.",
    )
    define.text(
        "init_from", run.init_from, "The train_dir of a run of the same model, with whose weights a new run starts."
    )
    define.text("example_weights", run.example_weights, "A CSV of the training videos' weights: VideoId,Weight.")
    define.integer("bagging_seed", run.bagging_seed, "Seed of a bootstrap sample to train on; 0: none.")
    define.number("mixup", run.mixup, "Alpha of the shares by which features of training videos are mixed; 0: none.")
    define.number("regularization_penalty", opt.regularization_penalty, "Factor of the models' weight penalties.")
    define.text("optimizer", opt.optimizer, "Optimizer: AdamOptimizer, MomentumOptimizer, AdamW, Lion, SGD, ...")
    define.number("base_learning_rate", opt.base_learning_rate, "Learning rate before any decay.")
    define.text(
        "learning_rate_schedule",
        opt.learning_rate_schedule,
        "staircase; or to 0 at the end of the run: cosine, polynomial.",
    )
    define.number("learning_rate_decay", opt.learning_rate_decay, "Factor of a step of the staircase.")
    define.integer("learning_rate_decay_examples", opt.learning_rate_decay_examples, "Examples between two such steps.")
    define.number("learning_rate_warmup", opt.learning_rate_warmup, "Share of the run in which the rate climbs from 0.")
    define.number("learning_rate_power", opt.learning_rate_power, "Exponent of the polynomial: 1 falls along a line.")
    define.number("clip_gradient_norm", opt.clip_gradient_norm, "Largest gradient norm; 0: no limit.")
    define.text(
        "clip_gradient_scope", opt.clip_gradient_scope, "Clip the gradient of each variable, or global: of all."
    )
    define.number("weight_decay", opt.weight_decay, "What AdamW and Lion take off a weight per step, times the rate.")
    define.text("weight_decay_of", opt.weight_decay_of, "kernels: not biases, norms and centres; all: every weight.")
    define.integer(
        "class_prior_examples",
        opt.class_prior_examples,
        "Training examples that give the class prior at which output biases start; 0: they start at zero.",
    )
    define.number(
        "weights_halflife",
        opt.weights_halflife,
        "Half-life in steps of an average of the weights, which is evaluated in their place; 0: none.",
    )
    define.boolean("start_new_model", False, "Overwrite the run in --train_dir instead of resuming it.")
    define.integer("num_gpu", 1, "Devices of this machine to train on.")
    define.integer("export_model_steps", 1000, "Steps between two checkpoints.")
    define.integer("save_checkpoint_seconds", 600, "Seconds after which a checkpoint is due before its step; 0: never.")
    define.integer("keep_checkpoints", 3, "How many of the newest checkpoints to keep.")
    define.integer("log_steps", 10, "Steps between two log lines; so many steps run in one call of the device.")
    define.boolean("jit_compile", False, "Compile model, loss and gradients with XLA: see docs/speed.md.")
    define.text("profile_steps", "", "A,B: record steps A to B for TensorBoard's profiler, B included.")
    define.boolean("log_device_placement", False, "Log the device on which each operation runs.")


def define_program_flags(values: flags.FlagValues, *, batch_size: int) -> None:
    """Defines the flags that every program has for itself; they are never compared with those of a run."""
    define = _Definer(values)
    define.text("train_dir", "/tmp/yt8m_model/", "Directory of the run: config.json, checkpoints, TensorBoard events.")
    define.integer("batch_size", batch_size, "Examples per step, over all devices.")
    define.text("on_bad_record", "error", "error: stop at a damaged record; skip: count it and go on.")
    define.integer("top_k", 20, "Predictions per video that count.")
    define_cache_flags(values)


def define_cache_flags(values: flags.FlagValues) -> None:
    """Defines the flags of the programs that read records."""
    define = _Definer(values)
    define.text("cache_dir", "~/.cache/yt8m", "Folder for copies of shards of s3://, gs://, az:// and http(s)://.")
    define.number("cache_max_gb", 100.0, "What the copies in --cache_dir may take, in GB.")


def define_service_flag(values: flags.FlagValues) -> None:
    """Defines the flag of train.py that lets other processes read."""
    _Definer(values).text(
        "tf_data_service",
        "",
        "grpc://HOST:PORT of a tf.data service that reads the training shards, in no fixed order: see docs/large.md.",
    )


def check_service_flag(values: flags.FlagValues) -> None:
    """Checks that nothing is asked for with a tf.data service that its workers cannot do.

    Raises:
        UserError: names the flag.
    """
    if not values.tf_data_service:
        return
    reasons = {
        "mixup": (values.mixup, "a video's partner is chosen by the order of the data, which a service does not keep"),
        "on_bad_record": (values.on_bad_record == "skip", "its workers run no Python, which looks for damage"),
    }
    for flag, (is_given, reason) in reasons.items():
        if is_given:
            raise UserError(f"--tf_data_service with --{flag}={values[flag].value}: {reason}. Leave one of them out.")


def define_examination_flags(values: flags.FlagValues) -> None:
    """Defines the flags of the programs that count what shards hold."""
    define_data_flags(values)
    define_cache_flags(values)
    define = _Definer(values)
    define.text("data_pattern", "", "Shards to check: comma-separated patterns.")
    define.boolean("labels_required", True, "Whether a record without labels is damage.")
    define.text("vocabulary", "", "Names of the classes: a CSV with Index and Name, or AudioSet's.")
    define.text("csv", "", "Also write all counts to this CSV: Part,Key,Name,Value.")


def define_calibrated_flag(values: flags.FlagValues) -> None:
    """Defines the flag of the programs that use a run's calibration."""
    _Definer(values).boolean(
        "calibrated", True, "Divide logits by the temperature that tools.calibrate found for the checkpoint, if it did."
    )


def define_vocabulary_flag(values: flags.FlagValues) -> None:
    """Defines the flag of the programs that name classes."""
    _Definer(values).text("vocabulary", "", "vocabulary.csv or class_labels_indices.csv: names of classes.")


def define_evaluation_flags(values: flags.FlagValues) -> None:
    """Defines the flags of the programs that evaluate."""
    define = _Definer(values)
    define.text("eval_data_pattern", "", "Evaluation shards: comma-separated patterns.")
    define.text(
        "metrics",
        "default",
        "Groups of metrics to report, separated by commas; a setting follows its group as in ap_at_n:n=100. "
        f"Known: {', '.join(METRICS.names())}.",
    )
    define.boolean("macro", False, "The same as to add macro to --metrics.")


class _Definer:
    """Defines flags in one set of values. absl files them under this module: see `define_listed_flags`."""

    def __init__(self, values: flags.FlagValues):
        self._values = values

    def text(self, name: str, default: str | None, text: str) -> None:
        flags.DEFINE_string(name, default, text, flag_values=self._values)

    def texts(self, name: str, text: str) -> None:
        flags.DEFINE_multi_string(name, [], text, flag_values=self._values)

    def integer(self, name: str, default: int | None, text: str) -> None:
        flags.DEFINE_integer(name, default, text, flag_values=self._values)

    def number(self, name: str, default: float | None, text: str) -> None:
        flags.DEFINE_float(name, default, text, flag_values=self._values)

    def boolean(self, name: str, default: bool | None, text: str) -> None:
        flags.DEFINE_boolean(name, default, text, flag_values=self._values)

    def of_kind(self, kind: type, name: str, text: str) -> None:
        define: dict[type, Callable[..., None]] = {
            int: self.integer,
            float: self.number,
            bool: self.boolean,
            str: self.text,
        }
        define[kind](name, None, text)


def config_from_flags(values: flags.FlagValues) -> RunConfig:
    """Turns flags into the description of a run, without a look at any file.

    Raises:
        UserError: for a value out of range, an unknown model, loss or hyper-parameter, or a flag of another model.
    """
    data = data_spec_from_flags(values)
    of_loss, of_model = split_loss_assignments(values.hparams)
    model = resolve_model(values.model, data, _given_model_flags(values), of_model, values.precision)
    label_loss = loss_of_model(model, data) if values.label_loss is None else values.label_loss
    loss = resolve_loss(label_loss, of_loss)
    check_teacher(loss, values.teacher)
    _check_mixup(values, data)
    if values.teacher == RECORDS_TEACH and data.record_format == "segment":
        raise UserError(
            "--teacher=records: records carry what a teacher predicts for whole videos, not for segments. Give a CSV "
            "whose ids are names of segments, <id>:<second>, or a run on segments."
        )
    with typed_as("--"):
        return RunConfig(
            data=data,
            model=model,
            loss=loss,
            optimization=OptimizationConfig(**_values_of(OptimizationConfig, values)),
            training=TrainingConfig(**_values_of(TrainingConfig, values)),
        )


def _check_mixup(values: flags.FlagValues, data: DataSpec) -> None:
    """Checks that nothing is asked for with mixup that is known of one video and not of two."""
    if not values.mixup:
        return
    if RECORD_FORMATS.entry(data.record_format).facts["level"] == "clip":
        raise UserError(
            f"--mixup={values.mixup}: it mixes vectors of videos or frames, and --record_format={data.record_format} "
            "has pictures. Leave it out, or train on features."
        )
    for flag in ("teacher", "example_weights", "bagging_seed"):
        if values[flag].value:
            raise UserError(
                f"--mixup={values.mixup}: with --{flag}={values[flag].value} it has no meaning, for that is known of "
                "one video and not of a mixture. Leave one of them out."
            )


def hparams_as_typed(values: flags.FlagValues) -> AbstractContextManager[None]:
    """Names a hyper-parameter that an error in the `with` block is about as the command line gave it.

    That is `--netvlad_cluster_size=0` or `--hparams=cluster_size=0`.
    """
    data, (_, of_model) = data_spec_from_flags(values), split_loss_assignments(values.hparams)
    return typed_as("--hparams=", typed_names(values.model, data, _given_model_flags(values), of_model))


def _values_of(config: type, values: flags.FlagValues) -> dict[str, Any]:
    """The flags that are named like the fields of a configuration; one that was left out keeps the field's default."""
    given = {item.name: values[item.name].value for item in dataclasses.fields(config)}
    return {name: value for name, value in given.items() if value is not None}


def data_spec_from_flags(values: flags.FlagValues) -> DataSpec:
    """Turns the data flags into a `DataSpec`.

    Raises:
        UserError: if names and sizes do not pair up or a number makes no sense.
    """
    with typed_as("--"):
        return DataSpec(**{name: read(values) for name, read in _DATA_FLAGS.items()})


def _feature_names(values: flags.FlagValues) -> tuple[str, ...]:
    return tuple(name.strip() for name in values.feature_names.split(",") if name.strip())


def _feature_sizes(values: flags.FlagValues) -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in values.feature_sizes.split(","))
    except ValueError as error:
        raise UserError(
            f"--feature_sizes={values.feature_sizes}: expected whole numbers separated by commas, one for each of "
            "--feature_names."
        ) from error


def _feature_weights(values: flags.FlagValues) -> tuple[float, ...]:
    try:
        return tuple(float(weight) for weight in values.feature_weights.split(",") if values.feature_weights)
    except ValueError as error:
        raise UserError(
            f"--feature_weights={values.feature_weights}: expected numbers separated by commas, one for each of "
            "--feature_names."
        ) from error


def _record_format(values: flags.FlagValues) -> str:
    if values.segment_labels:
        for flag, fits in (("frame_features", (True,)), ("record_format", (*_OF_FRAMES, "segment"))):
            if values[flag].present and values[flag].value not in fits:
                raise UserError(
                    f"--segment_labels: segments are cut out of frame-level records, and --{flag}={values[flag].value} "
                    "was given. Leave one of them out."
                )
        return "segment"
    both_given = values["frame_features"].present and values["record_format"].present
    if both_given and values.frame_features != (values.record_format == "frame"):
        raise UserError(
            f"--frame_features={values.frame_features} is not --record_format={values.record_format}: --frame_features "
            "means --record_format=frame. Give one of the two."
        )
    return RECORD_FORMATS.resolve("frame" if values.frame_features else values.record_format)


# What the flags say of each field of a `DataSpec`.
_DATA_FLAGS: dict[str, Callable[[flags.FlagValues], Any]] = {
    "feature_names": _feature_names,
    "feature_sizes": _feature_sizes,
    "feature_weights": _feature_weights,
    "num_classes": lambda values: values.num_classes,
    "record_format": _record_format,
    "max_frames": lambda values: values.max_frames,
    "clip_size": lambda values: values.clip_size,
    "clip_crop": lambda values: values.clip_crop,
    "clip_zoom": lambda values: values.clip_zoom,
    "clip_flip": lambda values: values.clip_flip,
    "clip_sampling": lambda values: values.clip_sampling,
    "eval_clips": lambda values: values.eval_clips,
    "segment_context": lambda values: values.segment_context,
}
_FREE_AT_EVALUATION = ("eval_clips", "segment_context")
_OF_FRAMES = ("frame", "segment")  # formats of the same records, read in different ways


def profile_steps(values: flags.FlagValues) -> tuple[int, int] | None:
    """Returns the first and the last step that `--profile_steps` names; None if it is not given.

    Raises:
        UserError: if it does not name two steps in their order.
    """
    text = values.profile_steps
    if not text:
        return None
    first, _, last = text.partition(",")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last) <= LARGEST_COUNT):
        raise UserError(f"--profile_steps={text}: expected the first and the last step to record, as in 100,110.")
    return int(first), int(last)


def check_repeated_flags(values: flags.FlagValues, config: RunConfig) -> None:
    """Compares the data and model flags, and the settings of the loss, that a command line has with its run.

    Raises:
        UserError: names the first flag that says something else than the run, and both values.
    """
    given = {name: name for name in _DATA_FLAGS if values[name].present and name not in _FREE_AT_EVALUATION}
    if values["frame_features"].present:
        given["record_format"] = "frame_features"
    for name, flag in given.items():
        asked, known = _DATA_FLAGS[name](values), getattr(config.data, name)
        is_free = values["segment_labels"].present or flag == "frame_features"
        if not (name == "record_format" and is_free and asked in _OF_FRAMES and known in _OF_FRAMES):
            _check_equal(f"--{flag}", asked, known)
    if values["precision"].present:
        _check_equal("--precision", values.precision, config.model.precision)
    model = values.model if values["model"].present else config.model.name
    of_loss, of_model = split_loss_assignments(values.hparams)
    classifier = config.model.hparams.get("classifier", "")
    name, hparams = given_hparams(model, config.data, _given_model_flags(values), of_model, classifier)
    _check_equal("--model", name, config.model.name)
    known = flat_hparams(config.model.hparams)
    for hparam, value in hparams.items():
        _check_equal(f"hyper-parameter {hparam}", value, known.get(hparam))
    given_to_loss = loss_hparams([term.name for term in config.loss.terms], of_loss)
    for term in config.loss.terms:
        for hparam, value in given_to_loss[term.name].items():
            _check_equal(f"hyper-parameter loss.{term.name}.{hparam}", value, term.hparams[hparam])


def at_evaluation(values: flags.FlagValues, config: RunConfig) -> RunConfig:
    """Returns a run with what evaluation may differ in, where the command line gives it.

    That is how many clips of a video there are, whether videos are read whole or in segments, and what around these.

    Raises:
        UserError: if a number makes no sense, or segments are asked for of a run that does not read frames.
    """
    changes: dict[str, Any] = {name: values[name].value for name in _FREE_AT_EVALUATION if values[name].present}
    if values["segment_labels"].present:
        if values.segment_labels and config.data.record_format not in _OF_FRAMES:
            raise UserError(
                f"--segment_labels: the run reads records of the format {config.data.record_format}, and segments are "
                "cut out of frame-level records. Give a run that was trained with --frame_features."
            )
        if config.data.record_format in _OF_FRAMES:
            changes["record_format"] = "segment" if values.segment_labels else "frame"
    with typed_as("--"):
        return dataclasses.replace(config, data=dataclasses.replace(config.data, **changes))


def _check_equal(what: str, given: Any, known: Any) -> None:
    if given != known:
        given, known = (",".join(map(str, it)) if isinstance(it, tuple) else it for it in (given, known))
        raise UserError(
            f"{what}: you gave {given}; the run was trained with {known}. Leave it out: it is read from the run."
        )


def _given_model_flags(values: flags.FlagValues) -> dict[str, Any]:
    """Collects the model flags that the command line gives, explicit 0, False and "" included."""
    return {name: values[name].value for name in known_model_flags() if values[name].present}
