"""Names of the classes, from the two files that people have."""

import pandas as pd
import tensorflow as tf

from yt8m.errors import UserError

# (index column, name column) of YouTube-8M's vocabulary.csv and of AudioSet's class_labels_indices.csv.
_COLUMNS = (("Index", "Name"), ("index", "display_name"))


def class_names(path: str) -> dict[int, str]:
    """Reads the names of the classes by index.

    Raises:
        UserError: if the file cannot be read, has none of the known pairs of columns, or an index is no whole number.
    """
    table = _read_table(path)
    for index, name in _COLUMNS:
        if {index, name} <= set(table.columns):
            return dict(zip(_indices(path, table[index]), table[name], strict=True))
    raise UserError(
        f"--vocabulary={path} has the columns {', '.join(map(str, table.columns))}; expected Index and Name, as "
        "vocabulary.csv has them, or index and display_name, as AudioSet's class_labels_indices.csv does."
    )


def _read_table(path: str) -> pd.DataFrame:
    """All fields as text, so that nothing is made of an index that is missing or of a class that is called NA."""
    try:
        with tf.io.gfile.GFile(path) as file:
            return pd.read_csv(file, dtype=str, keep_default_na=False)
    except (tf.errors.OpError, OSError, ValueError) as error:
        raise UserError(f"--vocabulary={path} cannot be read: {error}. Give vocabulary.csv of the data set.") from error


def _indices(path: str, column: pd.Series) -> list[int]:
    for row, text in enumerate(column, start=1):
        if not text.isdecimal():
            raise UserError(
                f"--vocabulary={path}, row {row} after the header: the class index is '{text}'; expected a whole "
                "number. Put it right, or fetch the file again."
            )
    return [int(text) for text in column]
