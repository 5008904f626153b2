"""The package that only those need who read or write Parquet. It is looked for without TensorFlow, before any work."""

import importlib
from typing import Any

from yt8m.errors import UserError

PARQUET = ".parquet"  # the end of the names of such files


def pyarrow() -> Any:
    """Imports pyarrow and its module for Parquet.

    Raises:
        UserError: if it is not installed.
    """
    try:
        importlib.import_module("pyarrow.parquet")
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise UserError(
            f"Parquet files are read and written with the package pyarrow, which cannot be imported ({error}). Install "
            "it: pip install -r requirements-parquet.txt"
        ) from error
