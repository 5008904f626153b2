"""The labels of videos by id, and the CSV that keeps them.

VideoId,Labels
<id>,<class> <class> ...

A video without labels has nothing after the comma.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from yt8m.errors import UserError, first_line
from yt8m.files import open_text

LABELS_HEADER = "VideoId,Labels\n"


class VideoLabels:
    """The labels of videos, in about 120 bytes per video.

    Args:
        videos: pairs of an id and the classes of the video, an empty list if it has none.
        source: the file or the pattern that they come from, for messages.
        num_classes: C.

    Raises:
        UserError: if a video occurs twice, or a class is not in [0, C).
    """

    def __init__(self, videos: Iterable[tuple[str, Sequence[int]]], source: str, num_classes: int):
        self.source = source
        self.num_classes = num_classes
        self._rows: dict[str, int] = {}
        ends, classes = array("q", [0]), array("i")
        for video_id, labels in videos:
            if video_id in self._rows:
                raise UserError(f"{source}: video {video_id} occurs twice; expected the labels of a video once.")
            self._rows[video_id] = len(self._rows)
            wrong = [label for label in labels if not 0 <= label < num_classes]
            if wrong:
                raise UserError(
                    f"{source}: video {video_id} has the label {wrong[0]}; expected 0 to {num_classes - 1}. "
                    "Is --num_classes that of these labels?"
                )
            classes.extend(sorted(set(labels)))
            ends.append(len(classes))
        self._ends, self._classes = np.array(ends), np.array(classes, np.int64)

    @property
    def ids(self) -> Iterable[str]:
        """The ids of all videos."""
        return self._rows.keys()

    def __contains__(self, video_id: str) -> bool:
        return video_id in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def of(self, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the labels of B videos, each of which has to be there.

        Args:
            ids: the B ids.

        Returns:
            num_labels: `(B,)` int64.
            classes: `(sum of num_labels,)` int64, the labels, video after video.
        """
        rows = np.array([self._rows[video_id] for video_id in ids], np.int64)
        starts, ends = self._ends[rows], self._ends[rows + 1]
        num_labels = ends - starts
        firsts = np.repeat(starts - (np.cumsum(num_labels) - num_labels), num_labels)
        return num_labels, self._classes[firsts + np.arange(len(firsts))]


def read_labels(path: str, num_classes: int) -> VideoLabels:
    """Reads the labels of videos from a CSV.

    Args:
        path: the file, any that `tf.io.gfile` reads.
        num_classes: C.

    Raises:
        UserError: if the file cannot be read or has another format, a video occurs twice, or a class is not in [0, C).
    """
    return VideoLabels(_rows(path), path, num_classes)


def _rows(path: str) -> Iterator[tuple[str, list[int]]]:
    try:
        with open_text(path) as file:
            for number, line in enumerate(file, start=1):
                line = line.rstrip("\r\n")
                if number > 1:
                    yield _parse(path, number, line)
                elif line != LABELS_HEADER.rstrip():
                    raise UserError(
                        f"{path}, line 1: found {line[:60]!r}, expected the header {LABELS_HEADER.rstrip()}."
                    )
    except tf.errors.OpError as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}). Expected a CSV of ids and labels.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8; expected a CSV of ids and labels, not compressed.") from error


def _parse(path: str, number: int, line: str) -> tuple[str, list[int]]:
    video_id, comma, labels = line.partition(",")
    words = labels.split()
    if not comma or not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
        raise UserError(f"{path}, line {number}: found {line[:60]!r}, expected <id>,<class> <class> ...")
    return video_id, [int(word) for word in words]
