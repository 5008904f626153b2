"""The competition's CSV of 2017 and 2018: a video a row, its best classes with their scores, best first.

VideoId,LabelConfidencePairs
<id>,<class> <score> <class> <score> ...
"""

import contextlib
import uuid
from array import array
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import tensorflow as tf

from yt8m.errors import UserError
from yt8m.metrics.soundness import VideoIds, check_finite, name_of

HEADER = "VideoId,LabelConfidencePairs\n"


def format_rows(ids: VideoIds, classes: np.ndarray, scores: np.ndarray) -> str:
    """Returns the rows for a batch, in its order, each with a line end.

    Args:
        ids: `(B,)` bytes or str.
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
    """Writes a submission beside its target and renames it when it is whole.

        with SubmissionWriter(path) as writer:
            writer.add(ids, classes, scores)

    The file is opened on entry, so a target that cannot be written is found before any work is done. If the block ends
    with an exception, nothing is left behind and an existing target is as it was. Memory: the text of one batch, and
    about 100 bytes a video for the ids that were seen.

    Args:
        path: the target, any path that `tf.io.gfile` writes to.
        flag: the flag that holds the path, for error messages.

    Raises:
        UserError: if the target cannot be written.
    """

    def __init__(self, path: str, flag: str = "output_file"):
        self._path = path
        self._where = f"--{flag}={path}"
        # In the target's own folder: only there is a rename atomic.
        self._partial_path = f"{path}.{uuid.uuid4().hex[:8]}.partial"
        self._seen: set[str] = set()

    def __enter__(self) -> Self:
        if tf.io.gfile.isdir(self._path):
            raise UserError(f"{self._where} is a folder; expected the name of a file to write. Add a file name to it.")
        self._file = tf.io.gfile.GFile(self._partial_path, "w")
        with self._discarding(), self._naming_the_target():
            self._file.write(HEADER)
            self._file.flush()
        return self

    def add(self, ids: VideoIds, classes: np.ndarray, scores: np.ndarray) -> None:
        """Writes the rows of a batch; arguments as of `format_rows`.

        Raises:
            UserError: if a score is not finite, or an id was there before or cannot stand in a CSV (each names the
                video), or the file cannot be written, as on a full disk.
        """
        check_finite(scores, ids)
        names = [name_of(video_id) for video_id in ids]
        rows = format_rows(names, classes, scores)
        if rows.count(",") != len(names) or rows.count("\n") != len(names):
            _refuse_separators(names)
        self._check_new(names)
        with self._naming_the_target():
            self._file.write(rows)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._discard()
            return
        with self._discarding(), self._naming_the_target():
            self._file.close()
            tf.io.gfile.rename(self._partial_path, self._path, overwrite=True)

    def _check_new(self, names: list[str]) -> None:
        new = set(names)
        if len(new) == len(names) and self._seen.isdisjoint(new):
            self._seen |= new
            return
        twice = next(name for i, name in enumerate(names) if name in self._seen or name in names[:i])
        raise UserError(
            f"Video {twice} occurs twice in the input; a submission has one row a video. "
            "Does --input_data_pattern match a shard twice, or a copy of one?"
        )

    @contextlib.contextmanager
    def _naming_the_target(self) -> Iterator[None]:
        try:
            yield
        except tf.errors.OpError as error:
            raise UserError(
                f"{self._where} cannot be written ({_first_line(error)}). Expected a file name in an existing folder "
                "with permission and room to write. Choose another one."
            ) from error

    @contextlib.contextmanager
    def _discarding(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._discard()
            raise

    def _discard(self) -> None:
        # What could not be written cannot be closed in peace either; it is about to be removed.
        with contextlib.suppress(tf.errors.OpError):
            self._file.close()
        with contextlib.suppress(tf.errors.OpError):
            tf.io.gfile.remove(self._partial_path)


class Submission(NamedTuple):
    """A submission in memory: 8 bytes a pair and the ids.

    Attributes:
        ids: N video ids, in the file's order.
        num_pairs: `(N,)` int64, how many pairs each video has.
        classes: `(sum of num_pairs,)` int32, the classes of all pairs, video after video.
        scores: `(sum of num_pairs,)` float32, their scores.
    """

    ids: list[str]
    num_pairs: np.ndarray
    classes: np.ndarray
    scores: np.ndarray


def read_submission(path: str) -> Submission:
    """Reads a submission of any origin; videos may have different numbers of pairs.

    Raises:
        UserError: if the file cannot be read or is no submission; the message names the line.
    """
    ids: list[str] = []
    num_pairs, classes, scores = array("q"), array("i"), array("f")
    try:
        with tf.io.gfile.GFile(path, "r") as file:
            if file.readline().rstrip("\r\n") != HEADER.rstrip():
                raise UserError(f"{path}, line 1: this is no submission; expected the header {HEADER.rstrip()}.")
            for number, line in enumerate(file, start=2):
                video_id, row_classes, row_scores = _parse_row(f"{path}, line {number}", line)
                ids.append(video_id)
                num_pairs.append(len(row_classes))
                classes.extend(row_classes)
                scores.extend(row_scores)
    except tf.errors.OpError as error:
        raise UserError(f"{path} cannot be read ({_first_line(error)}). Expected a submission.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8; expected a submission, not compressed.") from error
    return Submission(ids, np.array(num_pairs), np.array(classes), np.array(scores))


def _parse_row(where: str, line: str) -> tuple[str, list[int], list[float]]:
    row = line.rstrip("\r\n")
    video_id, comma, pairs = row.partition(",")
    fields = pairs.split()
    try:
        classes, scores = [int(field) for field in fields[::2]], [float(field) for field in fields[1::2]]
    except ValueError:
        comma = ""
    if not comma or len(classes) != len(scores):
        raise UserError(f"{where}: found {row[:60]!r}, expected <id>,<class> <score> <class> <score> ...")
    return video_id, classes, scores


def _refuse_separators(names: list[str]) -> None:
    broken = next(name for name in names if "," in name or "\n" in name)
    raise UserError(f"Video {broken!r} has a comma or line end in its id; expected an id that can stand in a CSV.")


def _first_line(error: tf.errors.OpError) -> str:
    return str(error.message).partition("\n")[0]
