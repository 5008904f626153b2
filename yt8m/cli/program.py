"""A program from its command line to its exit status."""

import logging
import sys
from collections.abc import Callable, Sequence
from typing import get_args

from absl import app, flags
from absl import logging as absl_logging

from yt8m.cli.startup import keep_freed_memory
from yt8m.config import OnBadRecord, check_not_negative, check_one_of, check_positive
from yt8m.errors import UserError
from yt8m.storage import enable

# Numbers that stand in no `RunConfig`, which would check them, or in none that eval.py and inference.py make.
_POSITIVE = ("batch_size", "top_k", "log_steps", "export_model_steps", "keep_checkpoints")
_NOT_NEGATIVE = ("num_gpu", "save_checkpoint_seconds", "top_n")


def run_program(
    main: Callable[[flags.FlagValues], int | None], define_flags: Callable[[flags.FlagValues], None]
) -> None:
    """Runs a program: defines its flags, parses the command line, and turns a `UserError` into one line and status 1.

    Args:
        main: takes the parsed flags, returns an exit status or None.
        define_flags: defines the program's flags.
    """
    keep_freed_memory()
    define_listed_flags(flags.FLAGS, define_flags)
    app.run(lambda _: _exit_status(lambda: start(main, flags.FLAGS)), flags_parser=_parse)


def define_listed_flags(values: flags.FlagValues, define_flags: Callable[[flags.FlagValues], None]) -> None:
    """Defines a program's flags so that `--help` lists them all; by itself it lists those of the main module alone.

    Args:
        values: where the flags are defined.
        define_flags: defines them, with the help of other modules.
    """
    of_absl = set(values)
    define_flags(values)
    for name in set(values) - of_absl:
        values.register_key_flag_for_module(sys.argv[0], values[name])


def start(main: Callable[[flags.FlagValues], int | None], values: flags.FlagValues) -> int | None:
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
    _enable_storage(values)
    return main(values)


def _check_numbers(values: flags.FlagValues) -> None:
    check_positive(values, *(name for name in _POSITIVE if name in values))
    check_not_negative(values, *(name for name in _NOT_NEGATIVE if name in values))
    if "on_bad_record" in values:
        check_one_of(values, "on_bad_record", get_args(OnBadRecord))


def _enable_storage(values: flags.FlagValues) -> None:
    """Looks at every text, so that no flag that holds a path, or several patterns, can be forgotten."""
    for text in (values[name].value for name in values):
        if isinstance(text, str):
            for path in text.split(","):
                enable(path.strip())


def _parse(arguments: Sequence[str]) -> list[str]:
    try:
        rest = flags.FLAGS(arguments)
        if len(rest) > 1:
            raise UserError(f"Unexpected argument '{rest[1]}': settings are given as --name=value.")
    except (flags.Error, UserError) as error:
        _fail(f"{error}")
    _show_log()
    return rest


def _show_log() -> None:
    """Shows our own log lines on stderr, and only warnings of the libraries."""
    absl_logging.set_verbosity(absl_logging.WARNING)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("yt8m")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _exit_status(work: Callable[[], int | None]) -> int | None:
    try:
        return work()
    except UserError as error:
        return _fail(str(error))


def _fail(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(1)
