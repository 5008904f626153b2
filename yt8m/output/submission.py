"""Writes and reads the competition's CSV files.

In 2017 and 2018: one video per row, its best classes with their scores, best first.

VideoId,LabelConfidencePairs
<id>,<class> <score> <class> <score> ...

In 2019: one class per row, its best segments, best first; a segment is named by its video and its first second.

Class,Segments
<class>,<id>:<second> <id>:<second> ...
"""

import math
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import tensorflow as tf

from yt8m.arguments import LARGEST_FLOAT, LARGEST_SIZE
from yt8m.errors import UserError, first_line
from yt8m.files import AtomicFile, open_text
from yt8m.output.parquet_predictions import predictions_rows, predictions_table
from yt8m.packages import PARQUET
from yt8m.parquet import ParquetWriter
from yt8m.scores import VideoIds, check_finite, name_of
from yt8m.segments import SEGMENT_NAME

HEADER = "VideoId,LabelConfidencePairs\n"
SEGMENT_HEADER = "Class,Segments\n"
_CHARACTERS_PER_BLOCK = 16_000_000
_MARKS_OF_CSV = (",", "\n", "\r", '"', "\0")

_RANKING_ROW = re.compile(rf"([0-9]{{1,19}}),((?:{SEGMENT_NAME}(?: ++{SEGMENT_NAME})*+)? *)")


def format_rows(ids: VideoIds, classes: np.ndarray, scores: np.ndarray) -> str:
    """Returns the CSV rows of a batch of videos, in order, each ended by a newline.

    Args:
        ids: `(B,)` bytes or str, the videos' ids.
        classes: `(B, k)` int, written with `%i`.
        scores: `(B, k)` float, best first, written with `%g`: six significant digits.
    """
    num_videos, num_pairs = classes.shape
    fields = np.empty((num_videos, 1 + 2 * num_pairs), object)
    fields[:, 0] = [name_of(video_id) for video_id in ids]
    fields[:, 1::2] = classes
    fields[:, 2::2] = scores
    row = "%s," + " ".join(["%i %g"] * num_pairs) + "\n"
    # One template for the whole batch: Python's own formatting, entered once.
    return row * num_videos % tuple(fields.ravel().tolist())


class SubmissionWriter:
    """Context manager that writes a submission to a temporary file and renames it to its target when complete.

        with SubmissionWriter(path) as writer:
            writer.add(ids, classes, scores)

    The file is opened on entry, so that an unwritable target is reported before any work. If the block ends with an
    exception, the temporary file is removed and an existing target is unchanged. Memory: the text of one batch, and
    about 100 bytes per video for the ids written so far.

    Args:
        path: the target, any path that `tf.io.gfile` writes to.
        flag: the name of the flag that holds the path, for error messages.

    Raises:
        UserError: on entry, if the target cannot be written.
    """

    def __init__(self, path: str, flag: str = "output_file"):
        self._file = AtomicFile(path, HEADER, flag)
        self._written_ids: set[str] = set()

    def __enter__(self) -> Self:
        self._file.__enter__()
        return self

    def add(self, ids: VideoIds, classes: np.ndarray, scores: np.ndarray) -> None:
        """Writes the rows of a batch of videos.

        Args:
            ids: `(B,)` bytes or str, the videos' ids.
            classes: `(B, k)` int.
            scores: `(B, k)` float, best first.

        Raises:
            UserError: if a score is not finite, an id was written before or contains a comma, quote or line end (the
                message names the video), or the file cannot be written, for example on a full disk.
        """
        check_finite(scores, ids)
        names = [name_of(video_id) for video_id in ids]
        self.add_rows(names, format_rows(names, classes, scores))

    def add_rows(self, names: list[str], rows: str) -> None:
        """Writes rows that are text already, as those of a part of the submission.

        Args:
            names: B ids of videos.
            rows: a row for each of them, in the same order, each ended by a newline.

        Raises:
            UserError: if an id was written before or has a comma, quote or line end in it, or the file cannot be
                written.
        """
        # One comma and one line end per row, and no other mark: nothing of them is in an id.
        if [rows.count(mark) for mark in _MARKS_OF_CSV] != [len(names), len(names), 0, 0, 0]:
            _refuse_marks(names)
        self._check_new(names)
        self._file.write(rows)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.__exit__(kind, error, traceback)

    def _check_new(self, names: list[str]) -> None:
        new = set(names)
        if len(new) == len(names) and self._written_ids.isdisjoint(new):
            self._written_ids |= new
            return
        twice = next(name for i, name in enumerate(names) if name in self._written_ids or name in names[:i])
        raise UserError(
            f"Video {twice} occurs twice in the input; a submission has one row per video. "
            "Does --input_data_pattern match a shard twice, or a copy of one?"
        )


class ParquetSubmissionWriter(SubmissionWriter):
    """Writes a submission with its types, a batch per row group, in the way of `SubmissionWriter`.

    Args:
        path: the target.
        num_classes: C.

    Raises:
        UserError: if pyarrow is not installed; on entry, if the target cannot be written.
    """

    def __init__(self, path: str, num_classes: int):
        super().__init__(path)
        self._table = ParquetWriter(path, "output_file")
        self._num_classes = num_classes

    def __enter__(self) -> Self:
        self._table.__enter__()
        return self

    def add(self, ids: VideoIds, classes: np.ndarray, scores: np.ndarray) -> None:
        """Writes the rows of a batch of videos.

        Args:
            ids: `(B,)` bytes or str, the videos' ids.
            classes: `(B, k)` int.
            scores: `(B, k)` float, best first.

        Raises:
            UserError: if a score is not finite, an id was written before or cannot be part of a CSV, or the file cannot
                be written.
        """
        check_finite(scores, ids)
        names = [name_of(video_id) for video_id in ids]
        if any(mark in name for name in names for mark in _MARKS_OF_CSV):
            _refuse_marks(names)
        self._check_new(names)
        self._table.write(predictions_table(names, classes, scores, self._num_classes))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._table.__exit__(kind, error, traceback)


def submission_writer(path: str, num_classes: int) -> SubmissionWriter:
    """Returns what writes a submission of C = `num_classes` classes: as Parquet where the path ends so, else as CSV.

    Raises:
        UserError: if Parquet is wanted and pyarrow is not installed.
    """
    return ParquetSubmissionWriter(path, num_classes) if path.endswith(PARQUET) else SubmissionWriter(path)


class Submission(NamedTuple):
    """A submission in memory, with 8 bytes per pair (class, score).

    Attributes:
        ids: the N video ids, in the order of the file.
        num_pairs: `(N,)` int64, the number of pairs per video.
        classes: `(sum of num_pairs,)` int32, the classes of all pairs, video by video.
        scores: `(sum of num_pairs,)` float32, the scores of all pairs, in the same order.
    """

    ids: list[str]
    num_pairs: np.ndarray
    classes: np.ndarray
    scores: np.ndarray


def read_submission(path: str) -> Submission:
    """Reads a submission of 2017 or 2018, written by any program; videos may have different numbers of pairs.

    Raises:
        UserError: if the file cannot be read or has another format; the message names the line.
    """
    return parse_rows(read_rows(path))


def read_blocks(path: str) -> Iterator[Submission]:
    """Reads a submission as `read_submission` does, in blocks as `parsed_blocks` cuts them."""
    return (block for (block,) in parsed_blocks([read_rows(path)]))


def parsed_blocks(files: Sequence[Iterable[tuple[str, str]]]) -> Iterator[tuple[Submission, ...]]:
    """Parses the rows of M files side by side, and yields M submissions per block of videos.

    A block ends where its rows have 16 million characters. Lists may be of 20 classes or of all, so a number of videos
    would not bound the memory.

    Args:
        files: M iterables of rows as `read_rows` returns them, all of the same length.

    Raises:
        UserError: as `parse_rows` does.
    """
    block: list[tuple[tuple[str, str], ...]] = []
    num_characters = 0
    for rows in zip(*files, strict=True):
        block.append(rows)
        num_characters += sum(len(row) for _, row in rows)
        if num_characters >= _CHARACTERS_PER_BLOCK:
            yield tuple(map(parse_rows, zip(*block, strict=True)))
            block, num_characters = [], 0
    if block:
        yield tuple(map(parse_rows, zip(*block, strict=True)))


def read_rows(path: str) -> Iterator[tuple[str, str]]:
    """Checks the header of a submission of 2017 or 2018, or its columns in Parquet, and returns its rows, not parsed.

    Returns:
        An iterator over pairs of the place for error messages, `<path>, line <n>`, and the text of the row.

    Raises:
        UserError: if the file cannot be read or has another header.
    """
    return predictions_rows(path) if path.endswith(PARQUET) else _rows(path, HEADER)


def parse_rows(rows: Iterable[tuple[str, str]]) -> Submission:
    """Parses rows as `read_rows` returns them.

    Raises:
        UserError: if a row has another format, a class twice or out of range, or a score that is not finite; the
            message names the place.
    """
    ids: list[str] = []
    num_pairs, classes, scores = array("q"), array("i"), array("f")
    for where, row in rows:
        video_id, row_classes, row_scores = _parse_row(where, row)
        ids.append(video_id)
        num_pairs.append(len(row_classes))
        classes.extend(row_classes)
        scores.extend(row_scores)
    return Submission(ids, np.array(num_pairs), np.array(classes), np.array(scores))


def read_rankings(path: str) -> Iterator[tuple[int, list[str]]]:
    """Reads a submission of 2019 row by row; a row may have 100,000 segments. The header is checked at once.

    Returns:
        An iterator over pairs of a class index, no class twice, and the names `<id>:<second>` of its segments, best
        first, no segment twice.

    Raises:
        UserError: if the file cannot be read or has another format; the message names the line.
    """
    return _rankings(_rows(path, SEGMENT_HEADER))


def _rows(path: str, header: str) -> Iterator[tuple[str, str]]:
    """Checks the header and returns an iterator over the rows as pairs ("path, line n", text)."""
    rows = _lines(path, header)
    next(rows)
    return rows


def _lines(path: str, header: str) -> Iterator[tuple[str, str]]:
    try:
        with open_text(path) as file:
            found = file.readline().rstrip("\r\n")
            if found != header.rstrip():
                raise UserError(
                    f"{path}, line 1: this is no submission of the expected kind: found {found[:60]!r}, expected the "
                    f"header {header.rstrip()}."
                )
            yield f"{path}, line 1", found
            blank = ""  # the first of the blank lines that may end the file
            for number, line in enumerate(file, start=2):
                place, text = f"{path}, line {number}", line.rstrip("\r\n")
                if text:
                    if blank:
                        yield blank, ""
                    yield place, text
                blank = blank or place if not text else ""
    except tf.errors.OpError as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}). Expected a submission.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8; expected a submission, not compressed.") from error


def _rankings(rows: Iterator[tuple[str, str]]) -> Iterator[tuple[int, list[str]]]:
    ranked: set[int] = set()
    for where, row in rows:
        match = _RANKING_ROW.fullmatch(row)
        if match is None:
            raise UserError(f"{where}: {_fault_of_ranking(row)}")
        class_index, segments = int(match[1]), match[2].split()
        if class_index in ranked:
            raise UserError(f"{where}: class {class_index} has a row already; expected one row per class.")
        ranked.add(class_index)
        if len(set(segments)) != len(segments):
            twice = Counter(segments).most_common(1)[0][0]
            raise UserError(f"{where}: class {class_index} has segment {twice} twice; a ranking has a segment once.")
        yield class_index, segments


def _fault_of_ranking(row: str) -> str:
    class_index, comma, ranking = row.partition(",")
    if not comma or not re.fullmatch("[0-9]{1,19}", class_index):
        return f"found {row[:60]!r}, expected <class>,<id>:<second> <id>:<second> ..."
    wrong = [name for name in re.split(" +", ranking) if not re.fullmatch(SEGMENT_NAME, name)]
    # The one case left is a space before the first segment, which splits off an empty name.
    return f"class {class_index} has {wrong[0][:60]!r} among its segments, expected <id>:<second> as in 002G:35."


def _parse_row(where: str, row: str) -> tuple[str, list[int], list[float]]:
    video_id, comma, pairs = row.partition(",")
    fields = pairs.split()
    try:
        classes, scores = [int(field) for field in fields[::2]], [float(field) for field in fields[1::2]]
    except ValueError:
        comma = ""
    if not comma or len(classes) != len(scores):
        raise UserError(f"{where}: found {row[:60]!r}, expected <id>,<class> <score> <class> <score> ...")
    if classes:
        _check_pairs(f"{where}: video {video_id}", classes, scores)
    return video_id, classes, scores


def _check_pairs(video: str, classes: list[int], scores: list[float]) -> None:
    if min(classes) < 0 or max(classes) >= LARGEST_SIZE:
        wrong = next(c for c in classes if not 0 <= c < LARGEST_SIZE)
        raise UserError(f"{video} has class {wrong}; expected an index from 0 to {LARGEST_SIZE - 1}.")
    if len(set(classes)) < len(classes):
        twice = Counter(classes).most_common(1)[0][0]
        raise UserError(f"{video} has class {twice} twice; expected each class once.")
    # A sum tells of NaN, which a comparison may not.
    if not math.isfinite(sum(scores)) or max(scores) > LARGEST_FLOAT or min(scores) < -LARGEST_FLOAT:
        wrong_score = next(score for score in scores if not abs(score) <= LARGEST_FLOAT)
        raise UserError(f"{video} has the score {wrong_score}; expected a finite number.")


def _refuse_marks(names: list[str]) -> None:
    broken = next(name for name in names if any(mark in name for mark in _MARKS_OF_CSV))
    raise UserError(
        f"Video {broken!r} has a comma, a quote or a line end in its id; expected an id that can be written to a CSV."
    )
