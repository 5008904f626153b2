"""Shared by the programs whose work Apache Beam spreads over workers: options, errors, results, the pipeline itself."""

import importlib
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import tensorflow as tf

from yt8m.errors import UserError
from yt8m.files import delete_abandoned, partial_path, write_text
from yt8m.runs.directory import make_directory

Element = TypeVar("Element")
Result = TypeVar("Result")

_FOR_THE_USER = "|for the user|"  # before and after a message, of which Beam passes on only the text of the exception


def check_options(options: Sequence[str]) -> None:
    """Checks the words after `--`.

    Raises:
        UserError: if one does not look like an option of Beam.
    """
    words = [option for option in options if not option.startswith("--")]
    if words:
        raise UserError(f"Unexpected argument '{words[0]}': expected options of Beam after --, as in -- --runner=...")


def load_beam() -> Any:
    """Imports Apache Beam.

    Raises:
        UserError: if it is not installed.
    """
    try:
        return importlib.import_module("apache_beam")
    except ImportError as error:
        raise UserError(
            "This program needs the package apache-beam, in an environment of its own: "
            "pip install -r requirements.txt -r requirements-beam.txt"
        ) from error


def spread(function: Callable[[Element], Result]) -> Any:
    """Returns the transform that calls a function on every element, by whichever worker is free.

    Args:
        function: it can be pickled, as a function of a module or a `partial` of one. A `UserError` that it raises ends
            the pipeline, and comes out of `run_pipeline`.
    """
    beam = load_beam()
    # Without the shuffle a runner may fuse the steps, and one worker would do all that one source gives.
    return "Spread" >> beam.Reshuffle() | "Work" >> beam.Map(partial(_with_marked_errors, function))


def _with_marked_errors(function: Callable[[Element], Result], element: Element) -> Result:
    try:
        return function(element)
    except UserError as error:
        raise RuntimeError(f"{_FOR_THE_USER}{error}{_FOR_THE_USER}") from error


def run_pipeline(build: Callable[[Any], None], options: Sequence[str]) -> None:
    """Builds a pipeline, runs it, and waits for its end.

    Args:
        build: applies transforms to the empty pipeline that it gets.
        options: of Beam, as `--runner=FlinkRunner`. Without any the pipeline runs in this process.

    Raises:
        UserError: if the work of a worker raised one.
    """
    beam = load_beam()
    pipeline_options = importlib.import_module("apache_beam.options.pipeline_options")
    pipeline = beam.Pipeline(options=pipeline_options.PipelineOptions(list(options)))
    build(pipeline)
    try:
        pipeline.run().wait_until_finish()
    except Exception as error:
        if _FOR_THE_USER in str(error):
            raise UserError(str(error).split(_FOR_THE_USER)[1]) from error
        raise


@contextmanager
def shared_folder(output: str) -> Iterator[str]:
    """Makes a folder beside a program's output, through which workers return results; afterwards it is deleted.

    What a killed program of this machine left of it goes too.

    Args:
        output: the file that the program writes; all workers have to see its folder.

    Raises:
        UserError: if the folder cannot be made.
    """
    place = f"{output}.parts"
    delete_abandoned(place)
    folder = partial_path(place)
    make_directory(folder)
    try:
        yield folder
    finally:
        tf.io.gfile.rmtree(folder)


def save_result(result: Any, path: str) -> None:
    """Writes a worker's result to a file in the shared folder."""
    write_text(path, pickle.dumps(result))


def load_result(path: str) -> Any:
    """Reads what `save_result` wrote."""
    with tf.io.gfile.GFile(path, "rb") as file:
        return pickle.loads(file.read())
