"""Made-up videos with something to learn in them, in the layouts of the data set: for the demo, tests and benchmarks.

A class is a direction in a space of topics. A video's frames show its classes, each for a part of the time, and topics
of no class; both modalities are fixed linear pictures of the topics, with noise. Labels are raters' labels: some are
missing, some are wrong. So a model can do much better than guessing and never perfectly.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from yt8m.data.formats.clip import FLOW_CHANNELS
from yt8m.data.record_writing import clip_record, frame_record, video_record, write_records
from yt8m.schema import FLOW_STEP, FLOW_ZERO, MAX_FRAMES, QUANTISATION_OFFSET, QUANTISATION_STEP

FRAME_FEATURES = {"rgb": 1024, "audio": 128}
VIDEO_FEATURES = {"rgb": "mean_rgb", "audio": "mean_audio"}
_WORLD_SEED = 8  # directions of classes and topics: the same for the training, validation and test videos
_NUM_TOPICS = 32
_OTHER_TOPICS = 0.6  # size of what a video shows beside its classes; a class has size 1 in every topic
_CONTRAST = 3.0  # bytes by which one topic moves a feature
_NOISE = 20.0  # bytes, of every frame and feature
_ZIPF = 0.7  # class c is drawn with a weight of (c + 1) ** -_ZIPF
_MORE_LABELS = 1.5  # labels of a video after its first one, on average
_DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1))  # (x, y) of a moving square, by class
_MISSED, _MISTAKEN = 0.1, 0.1  # shares of labels that raters leave out, and make up


def write_frame_shards(
    directory: str | Path,
    *,
    prefix: str = "train",
    num_videos: int = 1000,
    num_shards: int = 4,
    num_classes: int = 50,
    seed: int = 0,
    labelled: bool = True,
    max_frames: int = MAX_FRAMES,
) -> list[str]:
    """Writes frame-level shards `<prefix>0000.tfrecord`, ...: rgb and audio, 1 to `max_frames` frames per video.

    Args:
        directory: where to; it is made if it does not exist.
        prefix: the first part of the files' names and of the videos' ids.
        num_videos: how many videos, spread evenly over the shards.
        num_shards: how many files.
        num_classes: how many classes; the first are the commonest.
        seed: of the videos; what a class looks like does not depend on it.
        labelled: whether the records carry labels, or none at all, as in a test split.
        max_frames: the longest a video can be.

    Returns:
        The paths of the shards.
    """
    videos = _videos(prefix, num_videos, num_classes, seed, max_frames)
    records = (frame_record(v.id, v.labels if labelled else None, v.frames) for v in videos)
    return _write_shards(Path(directory), prefix, records, num_videos, num_shards)


def write_video_shards(
    directory: str | Path,
    *,
    prefix: str = "train",
    num_videos: int = 1000,
    num_shards: int = 4,
    num_classes: int = 50,
    seed: int = 0,
    labelled: bool = True,
    max_frames: int = MAX_FRAMES,
) -> list[str]:
    """Writes video-level shards: mean_rgb and mean_audio of the very videos that `write_frame_shards` makes."""
    videos = _videos(prefix, num_videos, num_classes, seed, max_frames)
    records = (video_record(v.id, v.labels if labelled else None, _means(v)) for v in videos)
    return _write_shards(Path(directory), prefix, records, num_videos, num_shards)


def write_clip_shards(
    directory: str | Path,
    *,
    prefix: str = "train",
    num_videos: int = 40,
    num_shards: int = 2,
    num_classes: int = 4,
    seed: int = 0,
    num_frames: int = 8,
    size: int = 32,
    flow: bool = False,
) -> list[str]:
    """Writes shards of clips: a bright square that moves over a dark noisy ground, up, down, to the left or the right.

    The class is the direction, so no single frame shows it. More than 4 classes go the same ways, each 4 of them a
    pixel per frame faster.

    Args:
        directory: where the shards are written.
        prefix: their names and the videos' ids begin with it.
        num_videos: of all shards together.
        num_shards: the files that share them.
        num_classes: the number of classes, C.
        seed: decides where squares start and what the ground looks like.
        num_frames: per video.
        size: height and width of the frames.
        flow: whether records hold optical flow too.

    Returns:
        The paths of the shards.
    """
    videos = (
        _moving_square(np.random.default_rng([seed, n]), n % num_classes, num_frames, size) for n in range(num_videos)
    )
    records = (
        clip_record(f"{prefix}{n:05d}", [n % num_classes], video if flow else {"rgb": video["rgb"]})
        for n, video in enumerate(videos)
    )
    return _write_shards(Path(directory), prefix, records, num_videos, num_shards)


def _moving_square(rng: np.random.Generator, label: int, num_frames: int, size: int) -> dict[str, np.ndarray]:
    """Returns `rgb` `(T, S, S, 3)` and `flow` `(T, S, S, 2)`, uint8. What leaves at one edge comes in at the other."""
    speed = np.array(_DIRECTIONS[label % len(_DIRECTIONS)]) * (1 + label // len(_DIRECTIONS))  # (x, y) pixels per frame
    side = max(size // 4, 1)
    square = np.zeros((size, size), bool)
    square[:side, :side] = True
    start, colour = rng.integers(0, size, 2), rng.integers(160, 256, 3)
    rgb = rng.integers(0, 64, (num_frames, size, size, 3)).astype(np.uint8)
    flow = np.full((num_frames, size, size, FLOW_CHANNELS), FLOW_ZERO, np.uint8)
    for t in range(num_frames):
        x, y = start + t * speed
        covered = np.roll(square, (y, x), axis=(0, 1))
        rgb[t, covered] = colour
        flow[t, covered] = np.round(speed / FLOW_STEP) + FLOW_ZERO
    return {"rgb": rgb, "flow": flow}


@dataclass(frozen=True)
class _Video:
    id: str
    labels: list[int]
    frames: dict[str, np.ndarray]


def _write_shards(
    directory: Path, prefix: str, records: Iterator[bytes], num_videos: int, num_shards: int
) -> list[str]:
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for shard in range(num_shards):
        count = (shard + 1) * num_videos // num_shards - shard * num_videos // num_shards
        path = directory / f"{prefix}{shard:04d}.tfrecord"
        paths.append(write_records(path, (next(records) for _ in range(count))))
    return paths


def _means(video: _Video) -> dict[str, np.ndarray]:
    return {
        VIDEO_FEATURES[name]: frames.mean(axis=0, dtype=np.float32) * QUANTISATION_STEP + QUANTISATION_OFFSET
        for name, frames in video.frames.items()
    }


def _videos(prefix: str, num_videos: int, num_classes: int, seed: int, max_frames: int) -> Iterator[_Video]:
    """Yields videos one by one; a video depends on the seed and its number, not on how many there are."""
    world = np.random.default_rng(_WORLD_SEED)
    pictures = world.standard_normal((_NUM_TOPICS, sum(FRAME_FEATURES.values())), np.float32) * _CONTRAST
    noise = 128 + _NOISE * world.standard_normal((4 * MAX_FRAMES, pictures.shape[1]), np.float32)
    classes = world.standard_normal((num_classes, _NUM_TOPICS), np.float32)
    weights = np.arange(1, num_classes + 1, dtype=np.float64) ** -_ZIPF
    for number in range(num_videos):
        rng = np.random.default_rng([seed, number])
        shown = _draw_classes(rng, weights)
        num_frames = int(rng.integers(1, max_frames + 1))
        topics = _shares_of_time(rng, num_frames, len(shown)) @ classes[shown]
        topics += rng.standard_normal(_NUM_TOPICS, np.float32) * _OTHER_TOPICS * np.sqrt(len(shown))
        picture = topics @ pictures
        picture += noise[rng.integers(len(noise), size=num_frames)]
        frames = np.clip(picture, 0, 255, out=picture).astype(np.uint8)
        rgb, audio = np.split(frames, [FRAME_FEATURES["rgb"]], axis=1)
        yield _Video(f"{prefix}{number:05d}", _rate(rng, shown, weights), {"rgb": rgb, "audio": audio})


def _draw_classes(rng: np.random.Generator, weights: np.ndarray) -> np.ndarray:
    """Different classes by weight: the largest of log(weight) + Gumbel noise."""
    count = min(1 + rng.poisson(_MORE_LABELS), len(weights))
    return np.argsort(-(np.log(weights) + rng.gumbel(size=len(weights))))[:count]


def _shares_of_time(rng: np.random.Generator, num_frames: int, num_shown: int) -> np.ndarray:
    """Returns `(T, L)` float32: 1 while a class is to be seen, from a random moment for at least half of the video."""
    shown_for = rng.uniform(0.5, 1.0, num_shown) * num_frames
    start = rng.uniform(0.0, 1.0, num_shown) * (num_frames - shown_for)
    middle = np.arange(num_frames)[:, np.newaxis] + 0.5
    return ((middle >= start) & (middle <= start + shown_for)).astype(np.float32)


def _rate(rng: np.random.Generator, shown: np.ndarray, weights: np.ndarray) -> list[int]:
    """What raters say: most of the classes that are shown, at times another one, never nothing."""
    rated = {int(label) for label in shown[rng.random(len(shown)) >= _MISSED]} or {int(shown[0])}
    if rng.random() < _MISTAKEN * len(shown):
        rated.add(int(rng.choice(len(weights), p=weights / weights.sum())))
    return sorted(rated)
