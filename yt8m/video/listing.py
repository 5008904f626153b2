"""Which videos there are, under which ids and with which labels: a CSV, or a folder per class."""

import csv
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from yt8m.errors import UserError

_MARKS_OF_CSV = ',"\r\n\0'


@dataclass(frozen=True)
class Video:
    """A video file.

    Attributes:
        path: of the file.
        id: the video's id, unlike that of any other.
        labels: the indices of its classes; None if nobody said.
    """

    path: str
    id: str
    labels: tuple[int, ...] | None


def list_videos(videos: str) -> tuple[list[Video], list[str]]:
    """Lists the videos that `--videos` names.

    * A CSV has the columns `path`, relative to the CSV's own folder, perhaps `labels`, class indices separated by
      spaces, and perhaps `id`. Its order is kept.
    * A folder with a folder per class: a class's index is its place in the alphabetical order of the folders. All files
      in them are videos. Their order is that of a checksum of their ids, which mixes the classes.
    * A folder of files alone: videos without labels.

    An id is the path as given, or below the folder, without its extension.

    Args:
        videos: the path of the CSV or of the folder.

    Returns:
        The videos, and the names of the classes by index; no names of a CSV.

    Raises:
        UserError: if there are none, a row of the CSV cannot be understood, or an id cannot be.
    """
    place = Path(videos)
    if place.is_dir():
        listed, classes = _in_folder(place)
    elif place.is_file():
        listed, classes = list(_in_csv(place)), []
    else:
        raise UserError(f"--videos={videos}: there is no such file or folder. Give a CSV of path,labels or a folder.")
    if not listed:
        raise UserError(f"--videos={videos}: it names no videos. Give a CSV of path,labels or a folder per class.")
    _check_ids(videos, listed)
    return listed, classes


def _in_folder(folder: Path) -> tuple[list[Video], list[str]]:
    classes = sorted(item.name for item in folder.iterdir() if item.is_dir() and not item.name.startswith("."))
    if classes:
        videos = [
            _video(folder, f"{name}/{file}", (label,))
            for label, name in enumerate(classes)
            for file in _files(folder / name)
        ]
    else:
        videos = [_video(folder, file, None) for file in _files(folder)]
    return sorted(videos, key=lambda video: (zlib.crc32(video.id.encode()), video.id)), classes


def _files(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir() if item.is_file() and not item.name.startswith("."))


def _video(folder: Path, path: str, labels: tuple[int, ...] | None, name: str = "") -> Video:
    return Video(str(folder / path), name or str(Path(path).with_suffix("")), labels)


def _in_csv(file: Path) -> Iterator[Video]:
    try:
        text = file.read_text(encoding="utf-8-sig")
        table = csv.DictReader(text.splitlines(), restval="", strict=True)
        columns = table.fieldnames or []
        rows = list(table)
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"--videos={file} cannot be read as a CSV: {error}. Expected columns path,labels.") from error
    if "path" not in columns:
        raise UserError(f"--videos={file} has the columns {', '.join(columns) or 'none'}; expected path,labels.")
    for number, row in enumerate(rows, start=1):
        if not row["path"]:
            raise UserError(f"--videos={file}, row {number} after the header: it has no path. Give one, or delete it.")
        labels = _labels(row["labels"], f"--videos={file}, row {number} after the header") if "labels" in row else None
        yield _video(file.parent, row["path"], labels, row.get("id") or "")


def _labels(text: str, where: str) -> tuple[int, ...]:
    words = text.split()
    wrong = [word for word in words if not (word.isascii() and word.isdecimal() and len(word) <= 9)]
    if wrong:
        raise UserError(f"{where}: the label is '{wrong[0]}'; expected class indices from 0, separated by spaces.")
    return tuple(map(int, words))


def _check_ids(videos: str, listed: list[Video]) -> None:
    twice = [name for name, count in Counter(video.id for video in listed).items() if count > 1]
    if twice:
        raise UserError(
            f"--videos={videos}: two videos have the id '{twice[0]}'. Give them ids of their own in a CSV with the "
            "column id."
        )
    for video in listed:
        if any(mark in video.id for mark in _MARKS_OF_CSV):
            raise UserError(
                f"--videos={videos}: the id {video.id!r} has a comma, a quote or a line end in it, so no submission "
                "can name it. Rename the file, or use a CSV with the column id."
            )
