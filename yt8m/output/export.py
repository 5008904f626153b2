"""Writes functions of TensorFlow's as what other programs load: SavedModels, files for LiteRT, files of ONNX."""

import contextlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from yt8m.errors import UserError, first_line
from yt8m.files import delete_abandoned, partial_path
from yt8m.output.exported import optional_package

FORMATS = {"saved_model": "a SavedModel", "mediapipe": "MediaPipe", "litert": "LiteRT", "onnx": "ONNX"}
STORAGES = ("float32", "float16", "int8")

# Operations that a format lacks, and what it is that uses them. What else it lacks is found by converting.
_SOLVER = "rank pooling's exact solver; method=approximate does without"
_VOTES = "votes that add up in one place, where ONNX keeps the last one"
_LISTS = "a loop that keeps its results in a list of tensors"
_LOGARITHMS = "logarithms of 1 + x"
_MISSING: dict[str, dict[str, str]] = {
    "litert": {"Cholesky": _SOLVER, "TensorListReserve": _LISTS},
    "onnx": {"Cholesky": _SOLVER, "TensorListConcatV2": _LISTS, "ScatterNd": _VOTES, "Log1p": _LOGARITHMS},
}
_WAY_OUT = {
    "litert": "Export a SavedModel, which holds every model, or allow TensorFlow's operations: --allow_select_tf_ops.",
    "onnx": "Export a SavedModel, which holds every model.",
}
_ONNX_OPSET = 18
_FEWEST_NUMBERS = 1024  # of a tensor that is stored in fewer bits, as in LiteRT: smaller ones are no gain
_LARGEST_BYTE = 127
_LONGEST_REASON = 300


def check_operations(function: Any, file_format: str) -> None:
    """Checks that a format has the operations of a function, as far as that is known before it is converted.

    Args:
        function: a concrete function of TensorFlow's.
        file_format: a key of FORMATS.

    Raises:
        UserError: if it lacks one; the message says which, and what it is for.
    """
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(node for part in graph.library.function for node in part.node_def)]
    lacking = sorted({node.op for node in nodes} & set(_MISSING.get(file_format, {})))
    if lacking:
        raise UserError(
            f"--format={file_format}: {FORMATS[file_format]} lacks the operation {lacking[0]}, which this model needs "
            f"for {_MISSING[file_format][lacking[0]]}. {_WAY_OUT[file_format]}"
        )


@contextlib.contextmanager
def new_directory(path: str, flag: str) -> Iterator[str]:
    """Yields a directory to write to, which gets its name when the block ends, and is deleted if it fails.

    Args:
        path: where it is to be; nothing is there.
        flag: the flag that says so.

    Raises:
        UserError: if something is there, or it cannot be written.
    """
    if tf.io.gfile.exists(path):
        raise UserError(f"--{flag}={path} is there already. A SavedModel is a directory of its own: choose a new name.")
    delete_abandoned(path.rstrip("/"))
    partial = partial_path(path.rstrip("/"))
    try:
        tf.io.gfile.makedirs(partial)
        yield partial
        tf.io.gfile.rename(partial, path)
    except (tf.errors.OpError, OSError) as error:
        raise UserError(
            f"--{flag}={path} cannot be written ({first_line(error)}). Choose a place that you may write to."
        ) from error
    finally:
        if tf.io.gfile.exists(partial):
            tf.io.gfile.rmtree(partial)


def write_saved_model(directory: str, signatures: Mapping[str, Any]) -> None:
    """Writes concrete functions and the variables that they read, and no Python objects.

    Args:
        directory: an existing directory.
        signatures: the concrete functions by the names of their signatures.
    """
    # A SavedModel that holds the Keras model too aborts the process that converts it to LiteRT.
    module = tf.Module()
    variables = {id(variable): variable for function in signatures.values() for variable in function.variables}
    module.variables_of_signatures = list(variables.values())
    tf.saved_model.save(module, directory, signatures=dict(signatures))


def litert_file(function: Any, storage: str, allow_select_tf_ops: bool = False) -> bytes:
    """Converts a concrete function to the content of a file for LiteRT, with the signature `serving_default`.

    Args:
        function: maps named tensors to named tensors.
        storage: of the weights: `float32`; `float16`; or `int8`, with which inputs of products are rounded too.
        allow_select_tf_ops: whether it may use operations of TensorFlow's, which not every LiteRT runs.

    Raises:
        UserError: if LiteRT lacks an operation.
    """
    with tempfile.TemporaryDirectory() as directory:
        write_saved_model(directory, {"serving_default": function})
        converter = tf.lite.TFLiteConverter.from_saved_model(directory, signature_keys=["serving_default"])
        if allow_select_tf_ops:
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
        if storage != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if storage == "float16":
            converter.target_spec.supported_types = [tf.float16]
        try:
            return converter.convert()
        except Exception as error:  # whatever a converter raises
            raise _not_converted("litert", error) from error


def onnx_file(function: Any, signature: Mapping[str, tf.TensorSpec], storage: str) -> bytes:
    """Converts a function to the content of an ONNX file, whose inputs have the names of the signature.

    Args:
        function: a `tf.function`, traced for this signature.
        signature: shapes and types of its inputs, by name.
        storage: of the weights: `float32`; or `float16` or `int8`, which are turned into float32 before they are used.

    Raises:
        UserError: if a package is missing, or ONNX lacks an operation.
    """
    tf2onnx = optional_package("tf2onnx")
    try:
        model, _ = tf2onnx.convert.from_function(function, input_signature=[dict(signature)], opset=_ONNX_OPSET)
    except Exception as error:  # whatever a converter raises
        raise _not_converted("onnx", error) from error
    if storage != "float32":
        _store_in_fewer_bits(model.graph, storage)
    return model.SerializeToString()


def _not_converted(file_format: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())
    operations = re.search(r"TF Select ops: ([\w, ]+?) Details", reason)
    reason = f"it lacks {operations[1]}" if operations else reason[:_LONGEST_REASON]
    return UserError(
        f"--format={file_format}: this model cannot be converted to {FORMATS[file_format]}: {reason}. "
        + _WAY_OUT[file_format]
    )


def _store_in_fewer_bits(graph: Any, storage: str) -> None:
    """Replaces the large float32 tensors of an ONNX graph by smaller ones and nodes that turn them back."""
    onnx = optional_package("onnx")
    for tensor in list(graph.initializer):
        values = onnx.numpy_helper.to_array(tensor)
        is_matrix = values.ndim > 1
        if values.dtype != np.float32 or values.size < _FEWEST_NUMBERS or not (is_matrix or storage == "float16"):
            continue
        name = tensor.name
        if storage == "float16":
            limit = np.finfo(np.float16).max
            stored = {f"{name}/float16": np.clip(values, -limit, limit).astype(np.float16)}
            node = onnx.helper.make_node("Cast", [*stored], [name], to=onnx.TensorProto.FLOAT)
        else:
            # A scale per output: the last axis of a matrix, the first one of a convolution's kernel.
            axis = values.ndim - 1 if values.ndim < 4 else 0
            others = tuple(other for other in range(values.ndim) if other != axis)
            scale = np.max(np.abs(values), axis=others, keepdims=True) / _LARGEST_BYTE
            scale = np.where(scale == 0, np.float32(1), scale)
            stored = {f"{name}/int8": np.rint(values / scale).astype(np.int8), f"{name}/scale": scale.ravel()}
            node = onnx.helper.make_node("DequantizeLinear", [*stored], [name], axis=axis)
        graph.initializer.remove(tensor)
        graph.initializer.extend(onnx.numpy_helper.from_array(values, name) for name, values in stored.items())
        graph.node.insert(0, node)
