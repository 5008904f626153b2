"""What an argument may be. A layer speaks of its own argument; who passes on what a user typed completes its name."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from yt8m.errors import UserError, did_you_mean

LARGEST_SIZE = 2**20  # of an axis of a tensor: a million clusters, classes or videos
LARGEST_COUNT = 10**12  # of steps, epochs or examples; so many batches of the largest size still fit into an int64
LARGEST_WIDTH = 16  # a factor of the widths of a network, whose published form has 1
LARGEST_FLOAT = 3.4028234e38  # beyond it a float32, in which the models compute, is infinite


class ArgumentError(UserError):
    """An argument that cannot be. The message begins with it: `dropout=1.5: expected a share in [0, 1).`"""


@contextmanager
def typed_as(prefix: str, typed: Mapping[str, str] | None = None) -> Iterator[None]:
    """Completes the name of an argument that an error in the `with` block is about.

        with typed_as("--hparams="): KeyedDropout(rate=1.5)      # --hparams=rate=1.5: expected a share in [0, 1).

    Args:
        prefix: what the user typed before the argument's own name: `--hparams=`, `classifier.`
        typed: arguments for which the user typed another name altogether: `{"gru_cells": "--gru_cells"}`.

    Raises:
        ArgumentError: that of the block, with `prefix` before its message.
    """
    try:
        yield
    except ArgumentError as error:
        name, equals, rest = str(error).partition("=")
        raise ArgumentError((typed or {}).get(name, prefix + name) + equals + rest) from error


def check_at_least(minimum: float, **arguments: float) -> None:
    """Checks finite numbers that have a smallest value.

    Raises:
        ArgumentError: names the first that is smaller, infinite (also as a float32) or NaN.
    """
    _check(lambda value: minimum <= value <= LARGEST_FLOAT, f"expected at least {minimum}.", arguments)


def check_size(minimum: int, **arguments: int) -> None:
    """Checks sizes of tensors, from `minimum` to `LARGEST_SIZE`; error as of `check_at_least`."""
    _check(
        lambda value: minimum <= value <= LARGEST_SIZE,
        f"expected a whole number from {minimum} to {LARGEST_SIZE}.",
        arguments,
    )


def check_count(minimum: int, **arguments: int) -> None:
    """Checks numbers of steps, epochs or examples, from `minimum` to `LARGEST_COUNT`; error as of `check_at_least`."""
    _check(
        lambda value: minimum <= value <= LARGEST_COUNT,
        f"expected a whole number from {minimum} to {LARGEST_COUNT}.",
        arguments,
    )


def check_positive(**arguments: float) -> None:
    """Checks finite numbers above 0; error as of `check_at_least`."""
    _check(lambda value: 0 < value <= LARGEST_FLOAT, "expected a number above 0.", arguments)


def check_width(**arguments: float) -> None:
    """Checks factors of the widths of a network's layers, above 0 and at most 16; error as of `check_at_least`."""
    _check(lambda value: 0 < value <= LARGEST_WIDTH, f"expected a number above 0, at most {LARGEST_WIDTH}.", arguments)


def check_finite(**arguments: float) -> None:
    """Checks numbers of any sign and size; error as of `check_at_least`."""
    _check(lambda value: abs(value) <= LARGEST_FLOAT, "expected a finite number.", arguments)


def check_share(**arguments: float) -> None:
    """Checks shares, as of features to drop: 0 or more and less than 1; error as of `check_at_least`."""
    _check(lambda value: 0 <= value < 1, "expected a share in [0, 1).", arguments)


def check_fraction(**arguments: float) -> None:
    """Checks parts of a whole, which may be all of it: 0 to 1; error as of `check_at_least`."""
    _check(lambda value: 0 <= value <= 1, "expected a number in [0, 1].", arguments)


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
