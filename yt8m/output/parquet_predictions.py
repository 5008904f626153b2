"""Predictions as Parquet: the columns of a submission with their types, a batch of videos per row group.

id: string, classes: fixed_size_list<int16>[k], scores: fixed_size_list<float>[k], best first; classes are int32 where
there are more than 32,768.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from yt8m.errors import UserError
from yt8m.packages import pyarrow
from yt8m.parquet import read_batches

_COLUMNS = ("id", "classes", "scores")
_ROWS_AT_ONCE = 256  # of all classes in the longest lists: a million pairs


def predictions_table(names: list[str], classes: np.ndarray, scores: np.ndarray, num_classes: int) -> Any:
    """Returns the `pyarrow.Table` of a batch of videos.

    Args:
        names: the B ids.
        classes: `(B, k)` int.
        scores: `(B, k)` float.
        num_classes: C, which decides the type of classes.
    """
    arrow, k = pyarrow(), classes.shape[1]
    kind = np.int16 if num_classes <= np.iinfo(np.int16).max + 1 else np.int32

    def lists(array: np.ndarray) -> Any:
        return arrow.FixedSizeListArray.from_arrays(arrow.array(array.ravel()), k)

    columns = arrow.array(names, arrow.string()), lists(classes.astype(kind)), lists(scores.astype(np.float32))
    return arrow.table(dict(zip(_COLUMNS, columns, strict=True)))


def predictions_rows(path: str) -> Iterator[tuple[str, str]]:
    """Yields the place of each row and its text as in a CSV, with the nine digits from which a float32 is read again.

    Raises:
        UserError: if the file cannot be read, or has other columns.
    """
    number = 0
    for batch in read_batches(path, _ROWS_AT_ONCE):
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        if not set(_COLUMNS) <= set(columns):
            raise UserError(
                f"{path}: it has the columns {', '.join(columns)}; expected {', '.join(_COLUMNS)}, as inference.py "
                "--output_file=x.parquet writes them."
            )
        for name, classes, scores in zip(*(columns[column].to_pylist() for column in _COLUMNS), strict=True):
            number += 1
            where = f"{path}, row {number}"
            try:
                pairs = " ".join(f"{c:d} {score:.9g}" for c, score in zip(classes, scores, strict=True))
            except (TypeError, ValueError) as error:
                raise UserError(f"{where}: classes and scores are no lists of numbers of one length.") from error
            yield where, f"{name},{pairs}"
