"""What an argument may be, and how an error names it."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from yt8m.arguments import (
    ArgumentError,
    check_at_least,
    check_finite,
    check_one_of,
    check_positive,
    check_share,
    choose,
    typed_as,
)
from yt8m.errors import UserError

KNOWN = ("mean", "first", "attention")


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: check_at_least(1, groups=0), "groups=0: expected at least 1."),
        (lambda: check_at_least(0, size=4, width=-1), "width=-1: expected at least 0."),
        (lambda: check_at_least(0, penalty=math.nan), "penalty=nan: expected at least 0."),
        (lambda: check_at_least(0, penalty=math.inf), "penalty=inf: expected at least 0."),
        (lambda: check_positive(c=0.0), "c=0.0: expected a number above 0."),
        (lambda: check_positive(c=math.inf), "c=inf: expected a number above 0."),
        (lambda: check_finite(factor=-math.inf), "factor=-inf: expected a finite number."),
        (lambda: check_share(dropout=1.0), "dropout=1.0: expected a share in [0, 1)."),
        (lambda: check_share(dropout=-0.1), "dropout=-0.1: expected a share in [0, 1)."),
        (
            lambda: check_one_of(KNOWN, pooling="frist"),
            "pooling=frist: there is no such choice. Did you mean first? Known: mean, first, attention.",
        ),
        (lambda: choose({"a": 1}, activation="q"), "activation=q: there is no such choice. Known: a."),
    ],
)
def test_an_argument_out_of_range_is_named_with_its_value(check: Callable[[], Any], message: str) -> None:
    with pytest.raises(ArgumentError) as raised:
        check()
    assert str(raised.value) == message


def test_what_is_in_range_passes() -> None:
    check_at_least(1, groups=1, size=7)
    check_positive(c=1e-9)
    check_finite(factor=-0.5)
    check_share(dropout=0.0, input_dropout=0.99)
    check_one_of(KNOWN, pooling="mean")
    assert choose({"a": 1, "b": 2}, activation="b") == 2


def test_the_name_becomes_the_one_that_was_typed() -> None:
    with pytest.raises(ArgumentError, match=r"^--hparams=classifier\.dropout=1\.5: expected a share"):  # noqa: SIM117
        with typed_as("--hparams="), typed_as("classifier."):
            check_share(dropout=1.5)


def test_other_errors_stay_as_they_are() -> None:
    with pytest.raises(UserError, match=r"^No file matches\.$"), typed_as("--hparams="):
        raise UserError("No file matches.")
