"""Records into batches, compared with draining the same files and with parsing record by record as older readers do.

    YT8M_REAL_DATA=DIR PYTHONPATH=. python benchmarks/reading.py [--videos 2400] [--rounds 7] [--batch_size 64]

The 1152-d frame-level shards are made up in a temporary folder: 120 to 300 frames of noise per video. Video-level
YouTube-8M and AudioSet are read from YT8M_REAL_DATA, and left out without it. Programs take turns, round by round;
ratios are medians of rounds. All files are in the page cache: the first round is not counted.

Every row makes an iterator and drains it; what comes before the first batch is in rows of its own. "an epoch within a
run" is three epochs of `training_batches` less one, halved. The last table has the same records in 1 to 1000 shards.
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import tensorflow as tf
from timing import interleaved_clocks

from yt8m.data.record_writing import frame_record, write_records
from yt8m.sampling import FrameSampling
from yt8m.schema import QUANTISATION_OFFSET, QUANTISATION_STEP, DataSpec

from readers import evaluation_batches, find_files, training_batches, training_order

YOUTUBE = DataSpec(("rgb", "audio"), (1024, 128), record_format="frame")
AUDIOSET = DataSpec(("audio_embedding",), (128,), num_classes=527, record_format="frame")
VIDEO_LEVEL = DataSpec(("mean_rgb", "mean_audio"), (1024, 128), num_classes=3862)
THIRTY = FrameSampling("random", 30)
RAW, ONE_BY_ONE, TRAINING, THREE_EPOCHS = "raw records", "one by one", "training_batches", "three epochs"


def drain(dataset: tf.data.Dataset) -> int:
    """Takes everything out of a dataset."""
    num_elements = 0
    for _ in dataset:
        num_elements += 1
    return num_elements


def old_reader(files: Sequence[str], spec: DataSpec, batch_size: int) -> tf.data.Dataset:
    """Parses, decodes, dequantises and pads one record at a time, then batches: an own rendering of the old way.

    It always yields whole videos: there a model that wants 30 frames draws them from the batch.
    """

    def parse(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        context, features = tf.io.parse_single_sequence_example(
            serialized,
            {"labels": tf.io.VarLenFeature(tf.int64)},
            {name: tf.io.FixedLenSequenceFeature([], tf.string) for name in spec.feature_names},
        )
        labels = tf.sparse.to_indicator(tf.sparse.reset_shape(context["labels"]), spec.num_classes)
        labels = tf.ensure_shape(labels, [spec.num_classes])
        matrices = []
        for name, size in zip(spec.feature_names, spec.feature_sizes, strict=True):
            frames = tf.reshape(tf.io.decode_raw(features[name], tf.uint8), [-1, size])
            frames = tf.cast(frames, tf.float32) * QUANTISATION_STEP + QUANTISATION_OFFSET
            num_frames = tf.minimum(tf.shape(frames)[0], spec.max_frames)
            frames = tf.pad(frames[: spec.max_frames], [[0, spec.max_frames - num_frames], [0, 0]])
            matrices.append(tf.ensure_shape(frames, [spec.max_frames, size]))
        return {"features": tf.concat(matrices, axis=1), "num_frames": num_frames, "labels": labels}

    records = tf.data.TFRecordDataset(files)
    return records.map(parse, num_parallel_calls=tf.data.AUTOTUNE).batch(batch_size).prefetch(2)


def contenders(
    files: list[str], spec: DataSpec, batch_size: int, sampling: FrameSampling | None
) -> dict[str, Callable]:
    """The programs that take turns; each reads all the files once, if its name says nothing else."""
    raw = tf.data.TFRecordDataset(files)
    in_order = evaluation_batches(files, spec, batch_size, sampling=sampling, labels_required=True)
    order = training_order(files, spec)
    one, three = (training_batches(order, spec, batch_size, sampling=sampling, num_epochs=n) for n in (1, 3))
    programs = {
        RAW: raw,
        "raw batches": raw.batch(batch_size),
        "evaluation_batches": in_order,
        "its first batch": in_order.take(1),
        TRAINING: one,
        "its first one": one.take(1),
        THREE_EPOCHS: three,
    }
    if spec.record_format == "frame":
        programs[ONE_BY_ONE] = old_reader(files, spec, batch_size)
    return {name: partial(drain, dataset) for name, dataset in programs.items()}


def print_ratios(title: str, seconds: dict[str, list[tuple[float, float]]], num_videos: int) -> None:
    """Prints CPU seconds and seconds, and how often each row's fit into the peers'."""
    peers = [peer for peer in (ONE_BY_ONE, RAW) if peer in seconds]
    print(f"\n{title}")
    print("| way | CPU-s | s | videos/CPU-s |" + "".join(f" x {peer}, CPU | s |" for peer in peers))
    print("|" + " --- |" * (4 + 2 * len(peers)))
    pairs = zip(seconds[TRAINING], seconds.pop(THREE_EPOCHS), strict=True)
    seconds["an epoch within a run"] = [((c - a) / 2, (d - b) / 2) for (a, b), (c, d) in pairs]
    for name, values in seconds.items():
        cpu, wall = (statistics.median(column) for column in zip(*values, strict=True))
        ratios = [
            statistics.median(old[clock] / new[clock] for old, new in zip(seconds[peer], values, strict=True))
            for peer in peers
            for clock in (0, 1)
        ]
        columns = "".join(f" {ratio:.2f} |" for ratio in ratios)
        print(f"| {name} | {cpu:.3f} | {wall:.3f} | {num_videos / cpu:.0f} |{columns}", flush=True)


def compare(
    title: str,
    files: list[str],
    spec: DataSpec,
    batch_size: int,
    rounds: int,
    sampling: FrameSampling | None = None,
) -> None:
    """Lets the programs take turns on some files, after a round that fills the page cache."""
    seconds = interleaved_clocks(contenders(files, spec, batch_size, sampling), rounds + 1)
    counted = {name: values[1:] for name, values in seconds.items()}
    print_ratios(title, counted, drain(tf.data.TFRecordDataset(files)))


def compare_numbers_of_shards(files: list[str], spec: DataSpec, batch_size: int, rounds: int) -> None:
    """Prints what an epoch, and the first batch of it, cost if the same records are in 1 to 1000 shards."""
    records = [record.numpy() for record in tf.data.TFRecordDataset(files)]
    programs: dict[str, Callable] = {}
    with tempfile.TemporaryDirectory() as directory:
        for count in (1, 10, 100, 1000):
            parts = [records[i::count] for i in range(count)]
            shards = [write_records(Path(directory) / f"{count}-{i:04d}", part) for i, part in enumerate(parts)]
            batches = training_batches(training_order(shards, spec), spec, batch_size, num_epochs=1)
            programs |= {f"{count}": partial(drain, batches), f"{count}, first": partial(drain, batches.take(1))}
        seconds = interleaved_clocks(programs, rounds + 1)
    print("\nAudioSet, other numbers of shards\n| shards | CPU-s | s | first batch: CPU-s | s |\n|" + " --- |" * 5)
    for name in filter(str.isdigit, programs):
        pairs = [*zip(*seconds[name][1:], strict=True), *zip(*seconds[f"{name}, first"][1:], strict=True)]
        print(f"| {name} |" + "".join(f" {statistics.median(values):.3f} |" for values in pairs), flush=True)


def write_noise(directory: str, num_videos: int) -> list[str]:
    """Writes shards of 200 videos of 120 to 300 frames of 1152 random bytes, three labels each."""
    rng = np.random.default_rng(0)

    def record(number: int) -> bytes:
        frames = rng.integers(0, 256, (rng.integers(120, 301), 1152), dtype=np.uint8)
        labels = rng.choice(YOUTUBE.num_classes, 3, replace=False).tolist()
        return frame_record(f"{number}", labels, {"rgb": frames[:, :1024], "audio": frames[:, 1024:]})

    return [
        write_records(Path(directory) / f"{start:06d}", map(record, range(start, min(start + 200, num_videos))))
        for start in range(0, num_videos, 200)
    ]


def main() -> None:
    """Prints a table for every kind of reading."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=2400)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--batch_size",
        type=int,
        default=64,
        help="1152-d videos per batch; 8 x as many of AudioSet, 16 x at video level",
    )
    arguments = parser.parse_args()
    size, rounds = arguments.batch_size, arguments.rounds
    with tempfile.TemporaryDirectory() as directory:
        files = write_noise(directory, arguments.videos)
        compare("Whole videos of 1152 bytes per frame", files, YOUTUBE, size, rounds)
        compare("30 frames per video of 1152 bytes per frame", files, YOUTUBE, size, rounds, THIRTY)
    real_data = os.environ.get("YT8M_REAL_DATA", "")
    if real_data:
        videos = find_files(f"{real_data}/yt8m-2018-video/*.tfrecord", "YT8M_REAL_DATA")
        compare("Video level, YouTube-8M", videos, VIDEO_LEVEL, 16 * size, rounds)
        clips = find_files(f"{real_data}/audioset/bal_train*.tfrecord", "YT8M_REAL_DATA")
        compare("AudioSet, balanced train", clips, AUDIOSET, 8 * size, rounds)
        compare_numbers_of_shards(clips, AUDIOSET, 8 * size, min(rounds, 3))
    else:
        print("\nReal records are left out: YT8M_REAL_DATA is not set.")


if __name__ == "__main__":
    main()
