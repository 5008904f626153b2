"""Names of the classes, from the two files that people have."""

import pandas as pd

from yt8m.errors import UserError

# (index column, name column) of YouTube-8M's vocabulary.csv and of AudioSet's class_labels_indices.csv.
_COLUMNS = (("Index", "Name"), ("index", "display_name"))


def class_names(path: str) -> dict[int, str]:
    """Reads the names of the classes by index.

    Raises:
        UserError: if the file cannot be read or has none of the known pairs of columns.
    """
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise UserError(f"--vocabulary={path} cannot be read: {error}. Give vocabulary.csv of the data set.") from error
    for index, name in _COLUMNS:
        if {index, name} <= set(table.columns):
            return {int(i): str(n) for i, n in zip(table[index], table[name], strict=True)}
    raise UserError(
        f"--vocabulary={path} has the columns {', '.join(map(str, table.columns))}; expected Index and Name, as "
        "vocabulary.csv has them, or index and display_name, as AudioSet's class_labels_indices.csv does."
    )
