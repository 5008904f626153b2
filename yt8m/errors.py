"""The one exception that a user is meant to read."""

import difflib
from collections.abc import Iterable

_S3_SAYS_NOTHING = ": No response body."
_KINDS_OF_S3_ERRORS = {"NotFoundError": "it is not there", "PermissionDeniedError": "access is denied"}


class UserError(Exception):
    """Something the user can put right. A program prints its message on one line and exits with status 1.

    The message says what is wrong and where, what was expected, and what to do. Every other exception is a bug and
    keeps its traceback.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns `" Did you mean X?"` for the known name closest to a mistyped one, or an empty string."""
    by_lower_case = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), by_lower_case, n=1, cutoff=0.6)
    return f" Did you mean {by_lower_case[close[0]]}?" if close else ""


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message; TensorFlow's go on with the places in a graph.

    Where tensorflow-io's client of s3:// says nothing, the kind of the error has to: S3 answers a question about an
    object that is missing, or that may not be read, without a text.
    """
    line = str(getattr(error, "message", error)).partition("\n")[0]
    if line != _S3_SAYS_NOTHING:
        return line
    kind = type(error).__name__
    return _KINDS_OF_S3_ERRORS.get(kind, kind)
