"""NumPy's files.

A file of one video, `.npy` or `.npz`, holds vectors `(D,)`, or `(T, D)` with a row per frame; its id is the name of the
file, or an array `id` without axes, and `labels` `(L,)` may be there. A `.npz` of N videos, as we write it, has `id`
`(N,)`; the labels of all videos one after another in `labels`, with `num_labels` `(N,)`, -1 for a video of which nobody
said; each feature as `(N, D)`, or the frames of all videos one after another, `(sum of T, D)`, with `NAME.num_frames`
`(N,)`. Labels may also be `(N, C)` bool.
"""

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from types import TracebackType
from typing import Any, Self

import numpy as np
import tensorflow as tf

from yt8m.data.stored_videos import StoredVideo
from yt8m.data.video_files.base import (
    ID_COLUMN,
    LABELS_COLUMN,
    Row,
    VideoFileReader,
    VideoFileWriter,
    check_columns,
    class_indices,
)
from yt8m.errors import UserError
from yt8m.files import AtomicFile
from yt8m.scores import name_of

_NUM_LABELS = "num_labels"
_NUM_FRAMES = ".num_frames"


class ArrayReader(VideoFileReader):
    """Reads `.npy` and `.npz`; the arrays of a file are in memory."""

    def read(self, path: str) -> Iterator[Row]:
        """Yields the videos of a file, which may be one.

        Raises:
            UserError: if the file or a row cannot be understood; the message names both.
        """
        arrays = self._load(path)
        if arrays.get(ID_COLUMN, np.array("")).ndim == 0:
            name = name_of(arrays[ID_COLUMN].item()) if ID_COLUMN in arrays else PurePosixPath(path).stem
            check_columns(path, self.features, {ID_COLUMN: name, **arrays})
            labels = _labels_of(path, arrays[LABELS_COLUMN]) if LABELS_COLUMN in arrays else None
            yield path, StoredVideo(name, labels, {name: arrays[name] for name in self.features})
            return
        check_columns(path, self.features, arrays)
        ids = arrays[ID_COLUMN]
        labels_of_all = _labels_of_all(path, arrays)
        columns = {name: self._column(path, name, arrays) for name in self.features}
        for i, name in enumerate(ids.tolist()):
            features = {feature: column[i] for feature, column in columns.items()}
            where = f"{path}, row {i + 1}"
            listed = labels_of_all[i]
            labels = None if listed is None else _labels_of(where, listed)
            yield where, StoredVideo(name_of(name), labels, features)

    def _load(self, path: str) -> dict[str, np.ndarray]:
        wanted = {ID_COLUMN, LABELS_COLUMN, _NUM_LABELS, *self.features, *(x + _NUM_FRAMES for x in self.features)}
        try:
            with tf.io.gfile.GFile(path, "rb") as file:
                found = np.load(file, allow_pickle=False)
                if isinstance(found, np.ndarray):
                    if len(self.features) > 1:
                        raise UserError(
                            f"{path}: it holds one array, and --feature_names names {len(self.features)}. Give .npz "
                            "files with an array per feature."
                        )
                    return {self.features[0]: found}
                return {name: found[name] for name in found.files if name in wanted}
        except UserError:
            raise
        except Exception as error:  # NumPy raises whatever a damaged file makes it raise
            raise UserError(f"{path} cannot be read as a file of NumPy ({error}).") from error

    def _column(self, path: str, name: str, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The array of each video."""
        array, num_videos = arrays[name], len(arrays[ID_COLUMN])
        if not self.has_frames:
            _check_sum(path, f"'{name}'", "rows", len(array) if array.ndim else 0, num_videos)
            return list(array)
        lengths = name + _NUM_FRAMES
        if lengths not in arrays:
            raise UserError(
                f"{path}: it has no '{lengths}', the number of frames of each video, which tells the rows of '{name}' "
                "apart."
            )
        counts = _counts(path, lengths, arrays[lengths], num_videos)
        _check_sum(path, f"'{name}'", "frames", len(array) if array.ndim else 0, int(counts.sum()))
        return np.split(array, np.cumsum(counts)[:-1])


def _labels_of_all(path: str, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray | None]:
    num_videos = len(arrays[ID_COLUMN])
    if LABELS_COLUMN not in arrays:
        return [None] * num_videos
    labels = arrays[LABELS_COLUMN]
    if labels.ndim == 2 and labels.dtype == bool:
        _check_sum(path, f"'{LABELS_COLUMN}'", "rows", len(labels), num_videos)
        return [np.flatnonzero(row) for row in labels]
    if _NUM_LABELS not in arrays or labels.ndim != 1:
        raise UserError(
            f"{path}: 'labels' has the shape {labels.shape} of {labels.dtype}; expected the classes of all videos one "
            f"after another, with '{_NUM_LABELS}' of each, or (videos, classes) bool."
        )
    counts = _counts(path, _NUM_LABELS, np.maximum(arrays[_NUM_LABELS], 0), num_videos)
    _check_sum(path, f"'{LABELS_COLUMN}'", "classes", len(labels), int(counts.sum()))
    parts = np.split(labels, np.cumsum(counts)[:-1])
    return [part if count >= 0 else None for part, count in zip(parts, arrays[_NUM_LABELS], strict=True)]


def _counts(path: str, name: str, counts: np.ndarray, num_videos: int) -> np.ndarray:
    if counts.shape != (num_videos,) or not np.issubdtype(counts.dtype, np.integer) or (counts < 0).any():
        raise UserError(f"{path}: '{name}' holds no whole number for each of the {num_videos} videos.")
    return counts


def _check_sum(path: str, name: str, what: str, found: int, expected: int) -> None:
    if found != expected:
        raise UserError(f"{path}: {name} holds {found} {what}, expected {expected}, those of all videos.")


def _labels_of(where: str, labels: np.ndarray) -> list[int]:
    if labels.ndim != 1:
        raise UserError(f"{where}: 'labels' has the shape {labels.shape}; expected a list of class indices.")
    return class_indices(where, labels)


class ArrayWriter(VideoFileWriter):
    """Writes a `.npz` of N videos, which are in memory until then."""

    def __enter__(self) -> Self:
        self._file = AtomicFile(self.path, b"")
        self._file.__enter__()
        self._videos: list[StoredVideo] = []
        return self

    def add(self, video: StoredVideo) -> None:
        """Keeps a video."""
        self._videos.append(video)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None and self._videos:
            try:
                np.savez(self._file.stream(), **self._arrays())
            except BaseException as fault:
                self._file.__exit__(type(fault), fault, None)
                raise
        self._file.__exit__(kind, error, traceback)

    def _arrays(self) -> dict[str, Any]:
        videos = self._videos
        arrays = {
            ID_COLUMN: np.array([video.id for video in videos]),
            LABELS_COLUMN: np.array([label for video in videos for label in video.labels or ()], np.int64),
            _NUM_LABELS: np.array([-1 if video.labels is None else len(video.labels) for video in videos], np.int64),
        }
        for name in self.features:
            columns = [video.features[name] for video in videos]
            if columns[0].ndim == 2:
                arrays[name] = np.concatenate(columns)
                arrays[name + _NUM_FRAMES] = np.array(list(map(len, columns)), np.int64)
            else:
                arrays[name] = np.stack(columns)
        return arrays
