"""A program from its command line to its exit status.

if __name__ == "__main__":
    program.parse_flags(define_flags)   # first of all: --help and a mistyped flag need no TensorFlow
import ...
if __name__ == "__main__":
    program.run(main)                   # at the end of the file
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO, get_args

from absl import app, flags
from absl import logging as absl_logging

from yt8m.arguments import check_at_least, check_count, check_one_of, check_size, typed_as
from yt8m.cli.startup import end_on_signals, keep_freed_memory, load_tensorflow
from yt8m.config import OnBadRecord
from yt8m.errors import UserError
from yt8m.progress import clear_progress

# Numbers that no `RunConfig` holds, which would check them, or none that eval.py and inference.py build.
_RANGES: dict[str, tuple[Callable[..., None], int]] = {
    "batch_size": (check_size, 1),
    "top_k": (check_size, 1),
    "num_gpu": (check_size, 0),
    "log_steps": (check_count, 1),
    "export_model_steps": (check_count, 1),
    "keep_checkpoints": (check_count, 1),
    "save_checkpoint_seconds": (check_count, 0),
    "top_n": (check_count, 0),
    "segment_max_pred": (check_count, 1),
    "untar_max_gb": (check_at_least, 0),
    "cache_max_gb": (check_at_least, 0),
}

Define = Callable[[flags.FlagValues], None]
Main = Callable[[flags.FlagValues], int | None]


def parse_flags(
    define_flags: Define,
    *checks: Callable[[flags.FlagValues], object],
    num_arguments: int = 0,
    needs_tensorflow: bool = True,
) -> list[str]:
    """Parses the command line of this process, and ends it with one line if that is wrong; then loads TensorFlow.

    Args:
        define_flags: defines the program's flags.
        checks: each takes the parsed flags and raises a `UserError` if they make no sense.
        num_arguments: how many words the program takes that are no flags, at most.
        needs_tensorflow: whether the program works with TensorFlow in this process.

    Returns:
        The words that are no flags.
    """
    end_on_signals()
    app.define_help_flags()
    define_listed_flags(flags.FLAGS, define_flags)
    try:
        _check_encoding(sys.argv)
        _, *arguments = flags.FLAGS(sys.argv)
        if len(arguments) > num_arguments:
            raise UserError(f"Unexpected argument '{arguments[num_arguments]}': settings are given as --name=value.")
        _check_numbers(flags.FLAGS)
        for check in checks:
            check(flags.FLAGS)
    except (flags.Error, UserError) as error:
        sys.exit(_show_error(str(error)))
    if needs_tensorflow:
        keep_freed_memory()
        load_tensorflow()
    return arguments


def run(main: Main) -> None:
    """Runs a program whose flags are parsed; turns a `UserError` into one line and status 1.

    Args:
        main: takes the flags, returns an exit status or None.
    """
    _show_log()
    app.run(lambda _: _exit_status(main), flags_parser=lambda arguments: arguments[:1])


def define_listed_flags(values: flags.FlagValues, define_flags: Define) -> None:
    """Defines a program's flags so that `--help` lists them all; by itself it lists those of the main module alone.

    Args:
        values: where the flags are defined.
        define_flags: defines them, with the help of other modules.
    """
    of_absl = set(values)
    define_flags(values)
    for name in set(values) - of_absl:
        values.register_key_flag_for_module(sys.argv[0], values[name])


def start(main: Main, values: flags.FlagValues) -> int | None:
    """Checks a program's numbers and loads what its paths need, before it does anything, and then runs it.

    Args:
        main: takes the parsed flags, returns an exit status or None.
        values: the parsed flags.

    Returns:
        What `main` returned.

    Raises:
        UserError: if a number is out of range, a path needs tensorflow-io and it does not load, or from `main`.
    """
    _check_numbers(values)
    _expand_home(values)
    with _storage(values):
        return main(values)


def _check_encoding(arguments: Sequence[str]) -> None:
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"{argument!a} is not text in UTF-8, which names of files have to be here. Rename what it names."
            ) from error


def _check_numbers(values: flags.FlagValues) -> None:
    with typed_as("--"):
        for name, (check, minimum) in _RANGES.items():
            if name in values:
                check(minimum, **{name: values[name].value})
        if "on_bad_record" in values:
            check_one_of(get_args(OnBadRecord), on_bad_record=values.on_bad_record)


def _expand_home(values: flags.FlagValues) -> None:
    """Reads `~/runs` as the shell does, which leaves it alone after an equals sign and inside a list of patterns."""
    for name in values:
        text = values[name].value
        if isinstance(text, str) and "~" in text:
            paths = text.split(",")
            values[name].value = ",".join(
                str(Path(path).expanduser()) if path.startswith("~/") else path for path in paths
            )


@contextmanager
def _storage(values: flags.FlagValues) -> Iterator[None]:
    """Loads what remote paths need: every text is looked at, so that no flag that holds some can be forgotten."""
    flagged = [(name, values[name].value) for name in values]
    texts = [(name, text) for name, text in flagged if isinstance(text, str)]
    parts = [(name, path.strip()) for name, text in texts for path in text.split(",")]
    remote = [(name, path) for name, path in parts if "://" in path and not path.startswith("grpc://")]  # a server
    if not remote:
        yield
        return
    from yt8m.shard_cache import shard_cache  # TensorFlow comes with it
    from yt8m.storage import enable, enable_records

    for name, path in remote:
        (enable_records if name.endswith("data_pattern") else enable)(path)
    if "cache_dir" not in values:
        yield
        return
    with shard_cache(values.cache_dir, values.cache_max_gb):
        yield


def _show_log() -> None:
    """Shows our own log lines on stderr, and only warnings of the libraries."""
    absl_logging.set_verbosity(absl_logging.WARNING)
    handler = _LogHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("yt8m")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


class _LogHandler(logging.StreamHandler[TextIO]):
    """Writes to what sys.stderr is at the time: while a bar is shown, to what keeps bar and lines apart."""

    def emit(self, record: logging.LogRecord) -> None:
        self.setStream(sys.stderr)
        super().emit(record)


def _exit_status(main: Main) -> int | None:
    try:
        status = start(main, flags.FLAGS)
    except UserError as error:
        clear_progress()
        status = _show_error(str(error))
    finally:
        clear_progress()
    if sys.modules.get("tensorflow_io"):
        # Its client of s3:// aborts the process while Python ends it ("pure virtual method called").
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status or 0)
    return status


def _show_error(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 1
