"""Names of the classes, from the two files that people have."""

import csv
import io

import tensorflow as tf

from yt8m.errors import UserError

# (index column, name column) of YouTube-8M's vocabulary.csv and of AudioSet's class_labels_indices.csv.
_COLUMNS = (("Index", "Name"), ("index", "display_name"))


def class_names(path: str) -> dict[int, str]:
    """Reads the names of the classes by index.

    Raises:
        UserError: if the file cannot be read, has none of the known pairs of columns, or an index is no whole number.
    """
    header, rows = _read_table(path)
    for index, name in _COLUMNS:
        if {index, name} <= set(header):
            indices = _indices(path, [row[index] for row in rows])
            return dict(zip(indices, (row[name] for row in rows), strict=True))
    raise UserError(
        f"--vocabulary={path} has the columns {', '.join(header)}; expected Index and Name, as "
        "vocabulary.csv has them, or index and display_name, as AudioSet's class_labels_indices.csv does."
    )


def _read_table(path: str) -> tuple[list[str], list[dict[str, str]]]:
    """The header, and for each row its fields by column; a field that a row lacks is empty."""
    try:
        with tf.io.gfile.GFile(path) as file:
            text = file.read().removeprefix("\ufeff")  # with which spreadsheets begin a CSV
        table = csv.DictReader(io.StringIO(text, newline=""), restval="", strict=True)
        rows = list(table)
    except (tf.errors.OpError, OSError, ValueError, csv.Error) as error:
        raise _unreadable(path, str(error)) from error
    if not table.fieldnames:
        raise _unreadable(path, "No columns")
    return list(table.fieldnames), rows


def _unreadable(path: str, reason: str) -> UserError:
    return UserError(f"--vocabulary={path} cannot be read: {reason}. Give vocabulary.csv of the data set.")


def _indices(path: str, column: list[str]) -> list[int]:
    for row, text in enumerate(column, start=1):
        if not text.isdecimal():
            raise UserError(
                f"--vocabulary={path}, row {row} after the header: the class index is '{text}'; expected a whole "
                "number. Put it right, or fetch the file again."
            )
    return [int(text) for text in column]
