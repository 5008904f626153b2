"""Writes a run as what other programs load: a SavedModel, a file for LiteRT or ONNX, or a SavedModel for MediaPipe.

python -m tools.export_model --train_dir=RUN --output=model.tflite --format=litert [--storage=float16]
"""

from absl import flags

from yt8m.cli import program, run_flags
from yt8m.errors import UserError

_FORMATS = ("saved_model", "litert", "onnx", "mediapipe")
_STORAGES = ("float32", "float16", "int8")


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of this program."""
    run_flags.define_program_flags(values, batch_size=256)
    run_flags.define_calibrated_flag(values)
    define, choice = flags.DEFINE_string, flags.DEFINE_enum
    define("output", "", "What is written: a new directory, or for LiteRT and ONNX a file.", flag_values=values)
    choice("format", "saved_model", _FORMATS, "What it is written for.", flag_values=values)
    choice("storage", "float32", _STORAGES, "How LiteRT and ONNX files keep the weights.", flag_values=values)
    flags.DEFINE_boolean(
        "allow_select_tf_ops",
        False,
        "A LiteRT file may use TensorFlow's operations: it then needs a LiteRT with the Flex delegate.",
        flag_values=values,
    )
    flags.DEFINE_boolean(
        "float_features", False, "Frames are given as floats, as some records hold them, not bytes.", flag_values=values
    )
    define("eval_data_pattern", "", "Shards with labels: GAP of the run and of what is written.", flag_values=values)


def check_combination(values: flags.FlagValues) -> None:
    """Checks that the flags fit each other.

    Raises:
        UserError: if one of them has no meaning beside another, or the output is missing.
    """
    if not values.output:
        raise UserError("--output is missing: give the directory or the file to write.")
    if values.storage != "float32" and values.format not in ("litert", "onnx"):
        raise UserError(
            f"--storage={values.storage}: the weights of a SavedModel are float32. Leave it out, or choose "
            "--format=litert or onnx."
        )
    if values.allow_select_tf_ops and values.format != "litert":
        raise UserError("--allow_select_tf_ops is for --format=litert alone. Leave it out.")
    if values.float_features and values.format == "mediapipe":
        raise UserError("--float_features: MediaPipe feeds floats, whatever records hold. Leave it out.")
    if values.eval_data_pattern and values.format == "mediapipe":
        raise UserError("--eval_data_pattern: records do not hold what MediaPipe feeds. Leave it out.")


if __name__ == "__main__":
    # Before TensorFlow is loaded, so that --help and mistyped flags are answered at once.
    program.parse_flags(define_flags, check_combination)

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from yt8m.batch import ID, LABELS, NUM_FRAMES, Batch
from yt8m.config import RunConfig
from yt8m.data.formats.base import Layout
from yt8m.data.records import batch_parser
from yt8m.engine.calibration import temperature_of
from yt8m.engine.serving import ServedModel
from yt8m.files import AtomicFile, check_outputs
from yt8m.metrics import EvaluationMetrics, top_k_pairs
from yt8m.output import export
from yt8m.output.exported import PACKAGES, RUNNERS, FlexDelegateError, Runner, optional_package
from yt8m.portability import portable_graphs
from yt8m.registry import CLIP_MODELS, models_that_read
from yt8m.runs.directory import load_config, paths_of_run, require_checkpoint

import experiment

LOG = logging.getLogger("yt8m.export_model")

_LARGEST_DIFFERENCE = 1e-4  # from the run's predictions, of what is stored in float32: beyond it something is wrong
_CHALLENGE_BYTES = 1e9  # how large a model of the 2018 challenge could be


def main(values: flags.FlagValues) -> None:
    """Writes the newest checkpoint of a run.

    Raises:
        UserError: if flags do not fit each other or the run, a package is missing, the format cannot hold the model, or
            something cannot be read or written.
    """
    # 1. What is known without work.
    check_combination(values)
    for package in PACKAGES.get(values.format, ()):
        optional_package(package)
    is_converted = values.format in PACKAGES
    config, checkpoint = load_config(values.train_dir), require_checkpoint(values.train_dir)
    check_outputs({"output": values.output}, paths_of_run(values.train_dir))
    if is_converted and config.model.precision != "float32":
        LOG.info("The run computes in %s; what is written computes in float32.", config.model.precision)
        config = replace(config, model=replace(config.model, precision="float32"))

    # 2. The model, as inference.py has it.
    model = experiment.trained_model(config, values.train_dir, checkpoint)
    served = ServedModel(model, temperature_of(values.train_dir, checkpoint) if values.calibrated else 1.0)
    check_inputs(values.format, served, values.float_features)
    if values.eval_data_pattern and served.spec.record_format == "segment":
        raise UserError("--eval_data_pattern: GAP is of videos, and this run predicts segments. Leave it out.")

    # 3. The file gets its name when it was loaded and found to predict what the run does.
    signature = served.signature(values.float_features)
    videos = made_up_videos(served, signature)
    if is_converted:
        with AtomicFile(values.output, b"", "output") as file:
            content = converted(values.format, values.storage, served, signature, values.allow_select_tf_ops)
            try:
                check_predictions(values.storage, served, RUNNERS[values.format](content), videos)
            except FlexDelegateError:
                if values.eval_data_pattern:
                    raise
                LOG.warning("It needs a LiteRT with the Flex delegate. There is none here, so it was not tried.")
            file.write(content)
    else:
        with export.new_directory(values.output, "output") as directory:
            if values.format == "mediapipe":
                export.write_saved_model(directory, {"serving_default": mediapipe_graph(served)})
            else:
                export.write_saved_model(directory, saved_graphs(served, signature, values.float_features))
                check_predictions(values.storage, served, RUNNERS["saved_model"](directory), videos)
    size = size_of(values.output)
    share = 100 * size / _CHALLENGE_BYTES
    print(f"{values.output} | {size / 1e6:.3f} MB, {share:.3g} % of the 1 GB of the 2018 challenge")

    # 4. How good it is.
    if values.eval_data_pattern:
        compare(values, config, served, RUNNERS[values.format](values.output))


def check_inputs(file_format: str, served: ServedModel, float_features: bool = False) -> None:
    """Checks that a format can feed a model.

    Args:
        file_format: what it is written for.
        served: the model.
        float_features: whether features of frames are to be given as floats.

    Raises:
        UserError: if it cannot.
    """
    names, records = ",".join(served.spec.feature_names), served.spec.record_format
    if file_format in PACKAGES and models_that_read(records) is CLIP_MODELS:
        raise UserError(
            f"--format={file_format}: models over clips, whose inputs are pixels, are exported as SavedModels alone."
        )
    if file_format == "mediapipe" and not (served.has_frames and sorted(served.spec.feature_names) == ["audio", "rgb"]):
        raise UserError(
            f"--format=mediapipe: MediaPipe's graph feeds rgb and audio of every frame; this run reads {names} of "
            f"records of the format {records}. Export a SavedModel."
        )
    if file_format != "saved_model" and served.needs_ids:
        raise UserError(
            f"--format={file_format}: this run reads frames in an order that follows from the id of a video, and "
            f"{export.FORMATS[file_format]} is given no ids. Export a SavedModel, or train without random_sequence."
        )
    if float_features and not served.has_frames:
        raise UserError("--float_features is for runs that read features of frames. Leave it out.")


def converted(
    file_format: str,
    storage: str,
    served: ServedModel,
    signature: Mapping[str, tf.TensorSpec],
    allow_select_tf_ops: bool = False,
) -> bytes:
    """Returns the content of a file for LiteRT or ONNX.

    Args:
        file_format: `litert` or `onnx`.
        storage: of the weights: `float32`, `float16` or `int8`.
        served: the model.
        signature: shapes and types of its inputs, by name.
        allow_select_tf_ops: whether LiteRT may use TensorFlow's operations.

    Raises:
        UserError: if the format lacks an operation of the model.
    """
    with portable_graphs():
        function = graph_of(lambda batch: {"predictions": served.outputs(batch)["predictions"]}, signature)
        graph = function.get_concrete_function()
        if not allow_select_tf_ops:
            export.check_operations(graph, file_format)
        if file_format == "litert":
            return export.litert_file(graph, storage, allow_select_tf_ops)
        return export.onnx_file(function, signature, storage)


def saved_graphs(served: ServedModel, signature: Mapping[str, tf.TensorSpec], float_features: bool) -> dict[str, Any]:
    """Returns the signatures of a SavedModel: from features, and from records to ids and predictions."""
    spec = served.spec
    graphs = {"serving_default": graph_of(served.outputs, signature).get_concrete_function()}
    if spec.record_format == "segment":
        return graphs  # a record holds many segments: their frames are for the caller to cut out
    as_floats = spec.record_format == "video" or float_features
    layout = Layout(spec.feature_names, (as_floats,) * len(spec.feature_names))
    parse = batch_parser(spec, layout, labels_required=False, sampling=served.sampling, portable=True)

    def serialized(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        batch = parse(examples, None)
        return {ID: batch[ID], **served.outputs_of_chosen(batch)}

    examples = tf.TensorSpec([None], tf.string, "examples")
    return graphs | {"serialized": graph_of(serialized, examples).get_concrete_function()}


def mediapipe_graph(served: ServedModel) -> Any:
    """Returns the signature that MediaPipe's graph feeds."""
    frames = tf.TensorSpec([None, None, served.spec.total_size], tf.float32, "rgb_and_audio")
    num_frames = tf.TensorSpec([None, 1], tf.int32, NUM_FRAMES)
    return graph_of(served.mediapipe_outputs, frames, num_frames).get_concrete_function()


def graph_of(compute: Callable[..., Mapping[str, tf.Tensor]], *signature: Any) -> Any:
    """Returns a function of TensorFlow's for inputs of the shapes and types of the signature."""
    return tf.function(compute, input_signature=list(signature), autograph=False)


def made_up_videos(served: ServedModel, signature: Mapping[str, tf.TensorSpec]) -> Batch:
    """Returns a batch of three videos of random numbers, of different lengths, for a model to be tried on."""
    generator = np.random.default_rng(0)
    width = min(served.spec.max_frames, 19)  # no multiple of a stride: what is rounded shows
    batch: dict[str, Any] = {ID: tf.constant(["a", "b", "c"])}
    if NUM_FRAMES in signature:
        num_frames = np.full((3, *signature[NUM_FRAMES].shape[1:]), width, np.int32)
        num_frames[1:] = 1
        num_frames[2:] = (width + 1) // 2
        batch[NUM_FRAMES] = tf.constant(num_frames)
    for name in served.spec.feature_names:
        free = iter((3, width))
        shape = [next(free) if size is None else size for size in signature[name].shape]
        numbers = generator.integers(0, 256, shape)
        batch[name] = tf.cast(numbers if signature[name].dtype == tf.uint8 else numbers / 64 - 2, signature[name].dtype)
    return {name: batch[name] for name in signature}


def check_predictions(storage: str, served: ServedModel, run: Runner, videos: Batch) -> None:
    """Compares what was written with the model that it was written from.

    Raises:
        UserError: if the predictions differ by more than the weights do.
    """
    seen = run({name: value.numpy() for name, value in videos.items()})
    difference = float(np.max(np.abs(seen - served.outputs(videos)["predictions"].numpy())))
    LOG.info("On made-up videos its predictions differ from those of the run by at most %.1e.", difference)
    if storage == "float32" and not difference <= _LARGEST_DIFFERENCE:
        raise UserError(
            f"What was converted predicts something else than the run, by up to {difference:.1e}, and was not written. "
            "Export a SavedModel."
        )


def size_of(path: str) -> int:
    """Returns the bytes of a file, or of all files in a directory."""
    if not tf.io.gfile.isdir(path):
        return tf.io.gfile.stat(path).length
    return sum(
        tf.io.gfile.stat(f"{folder}/{name}").length for folder, _, names in tf.io.gfile.walk(path) for name in names
    )


def compare(values: flags.FlagValues, config: RunConfig, served: ServedModel, run: Runner) -> None:
    """Prints GAP of the run and of what was written, on whole videos.

    Raises:
        UserError: if a shard cannot be read, or features are stored in the other way.
    """
    data = experiment.evaluation_data(
        config,
        served,
        values.eval_data_pattern,
        "eval_data_pattern",
        batch_size=values.batch_size,
        on_bad_record=values.on_bad_record,
        labels_required=True,
        decided_by=values.train_dir,
    )
    signature = served.signature(values.float_features)
    stored = {name: data.batches.element_spec[name].dtype for name in signature}
    wrong = [name for name, dtype in stored.items() if dtype != signature[name].dtype]
    if wrong:
        raise UserError(
            f"--eval_data_pattern: its records hold {wrong[0]} as {stored[wrong[0]].name}, what was written takes "
            f"{signature[wrong[0]].dtype.name}. Give --float_features where frames are floats, and only there."
        )
    predict = graph_of(lambda batch: served.outputs(batch)["predictions"], signature)
    largest, metrics = 0.0, [EvaluationMetrics(config.data.num_classes, values.top_k) for _ in range(2)]
    with data.explained():
        for batch in data.batches:
            videos = {name: batch[name] for name in signature}
            both = [predict(videos).numpy(), run({name: value.numpy() for name, value in videos.items()})]
            largest = max(largest, float(np.max(np.abs(both[0] - both[1]))))
            for of_one, predictions in zip(metrics, both, strict=True):
                pairs = top_k_pairs(tf.constant(predictions), batch[LABELS], values.top_k)
                of_one.add({name: value.numpy() for name, value in pairs.items()}, batch[ID].numpy())
    data.report_skipped()
    of_run, of_file = (of_one.result() for of_one in metrics)
    print(
        f"GAP of the run: {of_run['gap']:.6f} | of {values.output}: {of_file['gap']:.6f} | largest difference of a "
        f"prediction: {largest:.1e} | videos: {of_run['num_examples']}"
    )


if __name__ == "__main__":
    program.run(main)
