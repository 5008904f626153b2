"""Names of the classes, and lists of some of them, from the files that people have."""

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
    header, rows = _read_table(path, f"--vocabulary={path}", "vocabulary.csv")
    for index, name in _COLUMNS:
        if {index, name} <= set(header):
            indices = _indices(f"--vocabulary={path}", [row[index] for row in rows])
            return dict(zip(indices, (row[name] for row in rows), strict=True))
    raise UserError(
        f"--vocabulary={path} has the columns {', '.join(header)}; expected Index and Name, as "
        "vocabulary.csv has them, or index and display_name, as AudioSet's class_labels_indices.csv does."
    )


def listed_classes(path: str, num_classes: int) -> list[int]:
    """Reads a list of classes, as `segment_label_ids.csv` has it: a column Index, a class per row.

    Args:
        path: of the list.
        num_classes: C.

    Raises:
        UserError: if the file cannot be read, has no such column, or an index is not in [0, C) or there twice.
    """
    typed = f"--segment_label_ids_file={path}"
    header, rows = _read_table(path, typed, "segment_label_ids.csv")
    if "Index" not in header:
        raise UserError(
            f"{typed} has the columns {', '.join(header)}; expected Index, as segment_label_ids.csv has it."
        )
    classes = _indices(typed, [row["Index"].strip() for row in rows])
    wrong = [c for c in classes if c >= num_classes]
    if wrong or not classes or len(set(classes)) < len(classes):
        fault = f"class {wrong[0]}" if wrong else "a class twice" if classes else "no class"
        raise UserError(f"{typed} has {fault}; expected different classes from 0 to {num_classes - 1}, one per row.")
    return classes


def _read_table(path: str, typed: str, expected: str) -> tuple[list[str], list[dict[str, str]]]:
    """The header, and for each row its fields by column; a field that a row lacks is empty."""
    try:
        with tf.io.gfile.GFile(path) as file:
            text = file.read().removeprefix("\ufeff")  # with which spreadsheets begin a CSV
        table = csv.DictReader(io.StringIO(text, newline=""), restval="", strict=True)
        rows = list(table)
    except (tf.errors.OpError, OSError, ValueError, csv.Error) as error:
        raise _unreadable(typed, expected, str(error)) from error
    if not table.fieldnames:
        raise _unreadable(typed, expected, "No columns")
    return list(table.fieldnames), rows


def _unreadable(typed: str, expected: str, reason: str) -> UserError:
    return UserError(f"{typed} cannot be read: {reason}. Give {expected} of the data set.")


def _indices(typed: str, column: list[str]) -> list[int]:
    for row, text in enumerate(column, start=1):
        if not text.isdecimal():
            raise UserError(
                f"{typed}, row {row} after the header: the class index is '{text}'; expected a whole "
                "number. Put it right, or fetch the file again."
            )
    return [int(text) for text in column]
