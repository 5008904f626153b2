"""What raters said of 5-second segments, and the file that keeps it, so that shards of frames are read only once.

Segment,Class,Score
<id>:<second>,<class>,<1 or 0>
...
# <how many> rated pairs

A plain CSV (`pandas.read_csv(path, comment="#")`), sorted by class and segment. Its last line tells a whole file from
one that was cut.
"""

import re

import numpy as np
import tensorflow as tf

from yt8m.errors import UserError, first_line
from yt8m.segments import SEGMENT_NAME, segment_name

# Class -> name of a segment that was rated for it, as in a submission -> whether the class is to be seen there.
SegmentRatings = dict[int, dict[str, bool]]

RATINGS_HEADER = "Segment,Class,Score\n"
_ROW = re.compile(rf"({SEGMENT_NAME}),([0-9]{{1,19}}),([01])")
_LAST_LINE = "# %d rated pairs"
_MAKE_AGAIN = "Delete it: it is made again from the shards of --eval_data_pattern."


def add_ratings(
    ratings: SegmentRatings, ids: np.ndarray, classes: np.ndarray, starts: np.ndarray, scores: np.ndarray
) -> None:
    """Adds to `ratings`. A segment that is rated again for a class counts once, and shows it if one rating says so.

    Args:
        ratings: what is added to.
        ids: `(N,)` bytes, the video of each rating.
        classes: `(N,)` int.
        starts: `(N,)` int, the second at which the segment starts.
        scores: `(N,)` float, above 0 if the class is to be seen there.

    Raises:
        UserError: if the id of a video cannot be part of a submission.
    """
    columns = ids.tolist(), classes.tolist(), starts.tolist(), (scores > 0).tolist()
    for video_id, class_index, start, is_positive in zip(*columns, strict=True):
        segments = ratings.setdefault(class_index, {})
        name = segment_name(video_id, start)
        segments[name] = segments.get(name, False) or is_positive


def num_rated_pairs(ratings: SegmentRatings) -> int:
    """Returns how many pairs of a segment and a class were rated."""
    return sum(map(len, ratings.values()))


def format_ratings(ratings: SegmentRatings) -> str:
    """Returns the lines of the file that come after `RATINGS_HEADER`."""
    rows = [
        f"{segment},{class_index},{is_positive:d}\n"
        for class_index, segments in sorted(ratings.items())
        for segment, is_positive in sorted(segments.items())
    ]
    return "".join(rows) + _LAST_LINE % len(rows) + "\n"


def has_ratings(path: str) -> bool:
    """Tells whether there is a file at `path`."""
    return tf.io.gfile.exists(path)


def read_ratings(path: str) -> SegmentRatings:
    """Reads ratings from a file that `format_ratings` made.

    Raises:
        UserError: if it cannot be read or is damaged; the message names the line.
    """
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            lines = file.read().decode().split("\n")
    except tf.errors.OpError as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}). Expected a cache of ratings.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8; expected a cache of ratings. {_MAKE_AGAIN}") from error
    if lines[0] != RATINGS_HEADER.rstrip():
        raise _damage(path, 1, lines[0], f"the header {RATINGS_HEADER.rstrip()}")
    ratings: SegmentRatings = {}
    *rows, last, rest = lines[1:] if len(lines) > 2 else ["", ""]
    for number, row in enumerate(rows, start=2):
        match = _ROW.fullmatch(row)
        if match is None:
            raise _damage(path, number, row, "<id>:<second>,<class>,<0 or 1>")
        ratings.setdefault(int(match[2]), {})[match[1]] = match[3] == "1"
    expected = _LAST_LINE % num_rated_pairs(ratings)
    if last != expected or rest:
        number, found = (len(rows) + 3, rest) if rest else (len(rows) + 2, last)
        raise _damage(path, number, found, f"the file to end with the line {expected!r}")
    return ratings


def _damage(path: str, number: int, found: str, expected: str) -> UserError:
    return UserError(f"{path}, line {number}: found {found[:60]!r}, expected {expected}. {_MAKE_AGAIN}")
