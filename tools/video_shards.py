"""Shared by the programs that make records of video files: which shards are missing, and what is left out of them."""

import csv
import io
import logging
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Generic, Literal, NamedTuple, TypeVar, get_args

from absl import flags

from yt8m.arguments import check_one_of, check_size, typed_as
from yt8m.errors import UserError
from yt8m.progress import Advance, progress
from yt8m.side_by_side import in_order
from yt8m.video.listing import Video, list_videos
from yt8m.video.packages import optional_package

LOG = logging.getLogger("yt8m.video")

OnBadVideo = Literal["fail", "skip"]
Read = TypeVar("Read")


def define_shard_flags(values: flags.FlagValues) -> None:
    """Defines the flags that say which videos are read and where their records go."""
    flags.DEFINE_string(
        "videos", "", "A CSV with the columns path,labels, or a folder with a folder per class.", flag_values=values
    )
    flags.DEFINE_string(
        "output", "", "How the paths of the shards begin: DIR/train for DIR/train0000.tfrecord.", flag_values=values
    )
    flags.DEFINE_integer("videos_per_shard", 100, "Videos of a shard; the last one may have fewer.", flag_values=values)
    flags.DEFINE_string(
        "on_bad_video",
        "fail",
        "fail: stop at a video that cannot be used; skip: name it and go on.",
        flag_values=values,
    )


def define_process_flag(values: flags.FlagValues) -> None:
    """Defines how many processes of this machine decode videos."""
    flags.DEFINE_integer(
        "num_processes", os.cpu_count() or 1, "Processes that decode videos side by side.", flag_values=values
    )


def check_video_flags(values: flags.FlagValues) -> None:
    """Checks the flags that say which videos are read, and that the packages are there which read videos.

    Raises:
        UserError: if one is missing or makes no sense, or a package is not installed.
    """
    if not values.videos:
        raise UserError("--videos is missing: give a CSV with the columns path,labels, or a folder with one per class.")
    with typed_as("--"):
        check_size(1, videos_per_shard=values.videos_per_shard)
        if "num_processes" in values:
            check_size(1, num_processes=values.num_processes)
        check_one_of(get_args(OnBadVideo), on_bad_video=values.on_bad_video)
    optional_package("av")
    optional_package("cv2")


def check_shard_flags(values: flags.FlagValues) -> None:
    """Checks all flags of `define_shard_flags`.

    Raises:
        UserError: as `check_video_flags` does, or if `--output` is missing.
    """
    check_video_flags(values)
    if not values.output:
        raise UserError("--output is missing: give how the paths of the shards begin, as in DIR/train.")


def name_skipped(fault: str) -> None:
    """Says in the log that a video is skipped, and why."""
    LOG.warning("%s It is skipped.", fault)


class VideoReader(Generic[Read]):
    """Reads videos in other processes, a few ahead, and keeps book of those that cannot be used.

    Args:
        videos: all that will be asked for, in that order.
        read: reads a video file in another process; returns a text if it cannot be used, which says why.
        on_bad_video: what is done about one that cannot be used.
        num_processes: how many; 1 reads in this process.
        advance: is told of each video.
        on_skip: is told what is wrong with each video that is skipped.
    """

    def __init__(
        self,
        videos: Sequence[Video],
        read: Callable[[str], Read | str],
        on_bad_video: OnBadVideo,
        num_processes: int,
        advance: Advance,
        on_skip: Callable[[str], None] = name_skipped,
    ):
        self._on_bad_video, self._advance, self._on_skip = on_bad_video, advance, on_skip
        self._results = in_order(read, [video.path for video in videos], num_processes)
        self.faults: list[str] = []

    def read(self, videos: Sequence[Video]) -> Iterator[tuple[Video, Read]]:
        """Yields the next videos, each with what was read; those that cannot be used are left out.

        Raises:
            UserError: if one cannot be used and is not to be skipped, or a process dies.
        """
        for video, result in zip(videos, islice(self._results, len(videos)), strict=True):
            if isinstance(result, str):
                fault = f"{video.path}: {result}"
                if self._on_bad_video == "fail":
                    raise UserError(f"{fault} Repair it, leave it out, or pass --on_bad_video=skip.")
                self._on_skip(fault)
                self.faults.append(fault)
            else:
                yield video, result
            self._advance(1)


def check_some(faults: Sequence[str], num_videos: int) -> None:
    """Checks that of all `num_videos` videos some could be used.

    Args:
        faults: of those that could not, one each.
        num_videos: the number of videos, with those.

    Raises:
        UserError: if none could.
    """
    if faults and len(faults) == num_videos:
        raise UserError(f"None of the {num_videos} videos can be used. {faults[0]}")


class Shards(NamedTuple):
    """What there is to write.

    Attributes:
        num_videos: of all shards.
        missing: the videos of each shard that is not there yet, by its path.
    """

    num_videos: int
    missing: dict[str, list[Video]]

    def finish(self, faults: Sequence[str]) -> None:
        """Says how many videos were written, after all missing shards.

        Args:
            faults: what is wrong with those that were skipped.

        Raises:
            UserError: if no video could be used.
        """
        check_some(faults, self.num_videos)
        todo = sum(map(len, self.missing.values()))
        LOG.info("%d videos written, %d skipped.", todo - len(faults), len(faults))


def claimed_shards(values: flags.FlagValues, settings: Mapping[str, Any]) -> Shards:
    """Lists the videos and the shards that they belong in, and writes beside the shards how they are made.

    Args:
        values: the flags of `define_shard_flags`.
        settings: by flag, what else decides what the records hold.

    Raises:
        UserError: if the videos cannot be listed, or the shards that are there were made of others or otherwise.
    """
    from yt8m.data.shard_writing import claim_output, is_written, shard_path

    # 1. The same videos in the same shards as before, if there was a before.
    videos, classes = list_videos(values.videos)
    listing = "\n".join(f"{video.path},{video.id},{video.labels}" for video in videos)
    claim_output(
        values.output,
        {**settings, "videos_per_shard": values.videos_per_shard, "videos": f"{zlib.crc32(listing.encode()):08x}"},
    )
    if classes:
        _write_classes(values.output, classes)

    # 2. What is still to do.
    shards = {
        shard_path(values.output, number): videos[first : first + values.videos_per_shard]
        for number, first in enumerate(range(0, len(videos), values.videos_per_shard))
    }
    missing = {path: shard for path, shard in shards.items() if not is_written(path)}
    if len(missing) < len(shards):
        LOG.info("%d of %d shards are there already.", len(shards) - len(missing), len(shards))
    return Shards(len(videos), missing)


def write_missing_shards(
    values: flags.FlagValues,
    settings: Mapping[str, Any],
    read: Callable[[str], Read | str],
    record_of: Callable[[Video, Read], bytes],
) -> None:
    """Writes the shards that are not there yet.

    Args:
        values: the flags of `define_shard_flags` and `define_process_flag`.
        settings: by flag, what else decides what the records hold.
        read: reads a video file in another process, as `VideoReader` takes it.
        record_of: makes the record of a video of what was read.

    Raises:
        UserError: if a video cannot be used and is not to be skipped, none can, or something cannot be written.
    """
    # TensorFlow comes with it; the processes that decode, which import this module, do without.
    from yt8m.data.shard_writing import write_shard

    shards = claimed_shards(values, settings)
    todo = [video for shard in shards.missing.values() for video in shard]

    # Other processes read the videos in this order; each shard takes its own.
    with progress("reading videos", len(todo)) as advance:
        reader = VideoReader(todo, read, values.on_bad_video, values.num_processes, advance)
        for path, shard in shards.missing.items():
            started = time.monotonic()
            num_records = write_shard(path, (record_of(video, result) for video, result in reader.read(shard)))
            LOG.info("%s: %d videos in %.1f seconds.", path, num_records, time.monotonic() - started)
    shards.finish(reader.faults)


def _write_classes(output: str, classes: list[str]) -> None:
    """Writes the names of the classes as AudioSet does, for --vocabulary; all shards of a folder share them."""
    from yt8m.data.shard_writing import is_written
    from yt8m.files import read_bytes, write_text

    path = f"{output.rpartition('/')[0] or '.'}/classes.csv"
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerows([("index", "display_name"), *enumerate(classes)])
    if is_written(path):
        if read_bytes(path) != text.getvalue().encode():
            raise UserError(
                f"{path} names other classes than the {len(classes)} folders of --videos, so class 0 of one would not "
                "be class 0 of the other. Give both the same folders, or choose another --output."
            )
    else:
        write_text(path, text.getvalue())
