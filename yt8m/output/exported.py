"""Runs exported files: the same call for every format. LiteRT and ONNX files are run without TensorFlow."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from yt8m import packages
from yt8m.errors import UserError

# What reads and writes a format, apart from TensorFlow.
PACKAGES = {"litert": ("ai_edge_litert.interpreter",), "onnx": ("onnx", "tf2onnx", "onnxruntime")}

# Features `(B, ...)` and `num_frames` `(B,)` by name -> predictions `(B, C)` float32.
Runner = Callable[[Mapping[str, np.ndarray]], np.ndarray]


class FlexDelegateError(UserError):
    """A file for LiteRT has operations of TensorFlow's, and the LiteRT of this process does not."""


def optional_package(name: str) -> Any:
    """Imports a package of requirements-export.txt.

    Raises:
        UserError: if it is not installed.
    """
    return packages.optional_package(name, "LiteRT and ONNX files are written and run", "requirements-export.txt")


def saved_model_runner(path: str) -> Runner:
    """Loads a SavedModel, of which it runs the signature `serving_default`."""
    tf = importlib.import_module("tensorflow")
    loaded = tf.saved_model.load(path)

    def run(batch: Mapping[str, np.ndarray]) -> np.ndarray:
        inputs = {name: tf.constant(values) for name, values in batch.items()}
        return loaded.signatures["serving_default"](**inputs)["predictions"].numpy()

    return run


def litert_runner(file: str | bytes) -> Runner:
    """Loads a file for LiteRT, or its content.

    Raises:
        UserError: if ai-edge-litert is not installed.
        FlexDelegateError: when it is run, if it has operations that are not LiteRT's own. In a process that has loaded
            TensorFlow 2.17 they are there.
    """
    source = {"model_content" if isinstance(file, bytes) else "model_path": file}
    interpreter = optional_package("ai_edge_litert.interpreter").Interpreter(**source)
    serve = interpreter.get_signature_runner("serving_default")

    def run(batch: Mapping[str, np.ndarray]) -> np.ndarray:
        try:
            return serve(**batch)["predictions"]
        except RuntimeError as error:
            if "Flex delegate" not in str(error):
                raise
            raise FlexDelegateError(
                "The file for LiteRT has operations of TensorFlow's, and the LiteRT here only its own. Run it with one "
                "that has the Flex delegate, or export it without --allow_select_tf_ops."
            ) from error

    return run


def onnx_runner(file: str | bytes) -> Runner:
    """Loads a file of ONNX, or its content.

    Raises:
        UserError: if onnxruntime is not installed.
    """
    runtime = optional_package("onnxruntime")
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(["predictions"], dict(batch))[0]


RUNNERS: dict[str, Callable[[Any], Runner]] = {
    "saved_model": saved_model_runner,
    "litert": litert_runner,
    "onnx": onnx_runner,
}
