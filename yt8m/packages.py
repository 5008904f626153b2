"""Packages that only some programs need. They are looked for without TensorFlow, before any work."""

import importlib
from typing import Any

from yt8m.errors import UserError

PARQUET = ".parquet"  # the end of the names of such files


def pyarrow() -> Any:
    """Imports pyarrow and its module for Parquet.

    Raises:
        UserError: if it is not installed.
    """
    optional_package("pyarrow.parquet", "Parquet files are read and written", "requirements-parquet.txt")
    return importlib.import_module("pyarrow")


def optional_package(name: str, needed_for: str, requirements: str) -> Any:
    """Imports a package that is not in requirements.txt.

    Args:
        name: the module, as `import` takes it.
        needed_for: begins the message, as in `Video files are read`.
        requirements: the file that has the package.

    Raises:
        UserError: if it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"{needed_for} with packages that not everybody needs, and '{name}' cannot be imported. Install them: "
            f"pip install -r {requirements}"
        ) from error
