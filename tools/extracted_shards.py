"""What a worker of tools.beam_extract_features does: it makes a shard of the records of its videos."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock

from tools.beam_pipeline import load_beam
from tools.video_features import Extraction, FeatureNetworks, Features
from tools.video_shards import OnBadVideo, VideoReader
from yt8m.data.shard_writing import write_shard
from yt8m.storage import enable
from yt8m.video.listing import Video

# Threads of a worker decode side by side. The networks are there once, and take all cores for the frames of one video.
_one_at_a_time = Lock()
_loaded = lru_cache(1)(FeatureNetworks)


def networks_of(extraction: Extraction) -> FeatureNetworks:
    """Returns the networks, which this process loads once.

    Raises:
        UserError: if a file of weights or of whitenings cannot be used.
    """
    with _one_at_a_time:
        return _loaded(extraction)


@dataclass(frozen=True)
class ShardWriter:
    """Writes a shard, given its path and its videos; again, after another worker failed, with the same content.

    Attributes:
        extraction: what is computed of a video.
        on_bad_video: what is done about one that cannot be used.
    """

    extraction: Extraction
    on_bad_video: OnBadVideo

    def __call__(self, shard: tuple[str, Sequence[Video]]) -> tuple[str, list[str]]:
        """Writes a shard and counts, as metrics of Beam, its videos and frames, and the videos that are skipped.

        Returns:
            The path, and what is wrong with the videos that were skipped.

        Raises:
            UserError: if a video cannot be used and is not to be skipped, or a file cannot be.
        """
        path, videos = shard
        for place in (path, self.extraction.pca):
            enable(place)
        networks = networks_of(self.extraction)

        def record(video: Video, inputs: Features) -> bytes:
            with _one_at_a_time:
                serialized = networks.record(video, inputs)
            _count("frames", len(inputs["rgb"]))
            return serialized

        # Bars and lines of a worker reach nobody; who started the pipeline names the videos that are skipped.
        reader = VideoReader(videos, self.extraction.read, self.on_bad_video, 1, _say_nothing, _say_nothing)
        num_records = write_shard(path, (record(video, inputs) for video, inputs in reader.read(videos)))
        _count("videos", num_records)
        _count("bad_videos", len(reader.faults))
        return path, reader.faults


def _say_nothing(_: object) -> None:
    """In place of a bar or a line."""


def _count(what: str, number: int) -> None:
    load_beam().metrics.Metrics.counter("extract_features", what).inc(number)
