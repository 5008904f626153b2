"""What an argument may be. A layer speaks of its own argument; who passes on what a user typed completes its name."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from yt8m.errors import UserError, did_you_mean


class ArgumentError(UserError):
    """An argument that cannot be. The message begins with it: `dropout=1.5: expected a share in [0, 1).`"""


@contextmanager
def typed_as(prefix: str) -> Iterator[None]:
    """Completes the name of an argument that an error in the `with` block is about.

        with typed_as("--hparams="): KeyedDropout(rate=1.5)      # --hparams=rate=1.5: expected a share in [0, 1).

    Args:
        prefix: what the user typed before the argument's own name: `--hparams=`, `classifier.`

    Raises:
        ArgumentError: that of the block, with `prefix` before its message.
    """
    try:
        yield
    except ArgumentError as error:
        raise ArgumentError(f"{prefix}{error}") from error


def check_at_least(minimum: float, **arguments: float) -> None:
    """Checks finite numbers that have a smallest value.

    Raises:
        ArgumentError: names the first that is smaller, infinite or NaN.
    """
    _check(lambda value: minimum <= value < math.inf, f"expected at least {minimum}.", arguments)


def check_positive(**arguments: float) -> None:
    """Checks finite numbers above 0; error as of `check_at_least`."""
    _check(lambda value: 0 < value < math.inf, "expected a number above 0.", arguments)


def check_finite(**arguments: float) -> None:
    """Checks numbers of any sign and size; error as of `check_at_least`."""
    _check(math.isfinite, "expected a finite number.", arguments)


def check_share(**arguments: float) -> None:
    """Checks shares, as of features to drop: 0 or more and less than 1; error as of `check_at_least`."""
    _check(lambda value: 0 <= value < 1, "expected a share in [0, 1).", arguments)


def check_one_of(known: Collection[str], **arguments: str) -> None:
    """Checks names.

    Raises:
        ArgumentError: names the first that is not known, with the closest name and all that there are.
    """
    for name, value in arguments.items():
        if value not in known:
            hint = did_you_mean(str(value), known)
            raise ArgumentError(f"{name}={value}: there is no such choice.{hint} Known: {', '.join(known)}.")


def choose(options: Mapping[str, Any], **argument: str) -> Any:
    """Returns the option that an argument names, as in `choose(ACTIVATIONS, activation="relu6")`.

    Raises:
        ArgumentError: as `check_one_of`.
    """
    check_one_of(options, **argument)
    (name,) = argument.values()
    return options[name]


def _check(is_right: Callable[[float], bool], expected: str, arguments: Mapping[str, float]) -> None:
    bad = [name for name, value in arguments.items() if not is_right(value)]
    if bad:
        raise ArgumentError(f"{bad[0]}={arguments[bad[0]]}: {expected}")
