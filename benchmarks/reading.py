"""Records into batches, compared with draining the same files and with parsing record by record as older readers do.

    YT8M_REAL_DATA=DIR PYTHONPATH=. python benchmarks/reading.py [--videos 2400] [--rounds 7] [--batch_size 64]

The 1152-d shards are made up in a temporary folder: 120 to 300 frames of noise per video. AudioSet is read from
YT8M_REAL_DATA, and left out without it. Programs take turns, round by round; ratios are medians of rounds. All files
are in the page cache: the first round is not counted.
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from timing import interleaved

from yt8m.data.synthetic import frame_record, write_records
from yt8m.sampling import FrameSampling
from yt8m.schema import QUANTISATION_OFFSET, QUANTISATION_STEP, DataSpec

from readers import evaluation_batches, find_files, training_batches, training_order

YOUTUBE = DataSpec(("rgb", "audio"), (1024, 128), record_format="frame")
AUDIOSET = DataSpec(("audio_embedding",), (128,), num_classes=527, record_format="frame")
THIRTY = FrameSampling("random", 30)


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
    """The programs that take turns; each reads all the files once."""
    raw = tf.data.TFRecordDataset(files)
    in_order = evaluation_batches(files, spec, batch_size, sampling=sampling, labels_required=True)
    order = training_order(files, spec)
    shuffled = training_batches(order, spec, batch_size, sampling=sampling, num_epochs=1)
    old = old_reader(files, spec, batch_size)
    return {
        "raw records": lambda: drain(raw),
        "raw batches": lambda: drain(raw.batch(batch_size)),
        "evaluation_batches": lambda: drain(in_order),
        "training_batches": lambda: drain(shuffled),
        "one by one": lambda: drain(old),
    }


def print_ratios(title: str, seconds: dict[str, list[float]], num_videos: int, bars: tuple[float, float]) -> None:
    """Prints speeds relative to both peers, with the bars that evaluation_batches has to pass."""
    print(f"\n{title}; bars: {bars[0]:g} x one by one, {bars[1]:g} x raw records")
    print("| way | seconds | videos/s | x one by one | x raw records | x raw batches |\n|" + " --- |" * 6)
    for name, values in seconds.items():
        ratios = [
            statistics.median(old / new for old, new in zip(seconds[peer], values, strict=True))
            for peer in ("one by one", "raw records", "raw batches")
        ]
        median = statistics.median(values)
        columns = " | ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"| {name} | {median:.3f} | {num_videos / median:.0f} | {columns} |", flush=True)


def compare(
    title: str,
    files: list[str],
    spec: DataSpec,
    batch_size: int,
    rounds: int,
    bars: tuple[float, float],
    sampling: FrameSampling | None = None,
) -> None:
    """Lets the programs take turns on some files, after a round that fills the page cache."""
    programs = contenders(files, spec, batch_size, sampling)
    seconds = interleaved(programs, rounds + 1)
    counted = {name: values[1:] for name, values in seconds.items()}
    print_ratios(title, counted, drain(tf.data.TFRecordDataset(files)), bars)


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
        "--batch_size", type=int, default=64, help="1152-d videos per batch; eight times as many of AudioSet"
    )
    arguments = parser.parse_args()
    size, rounds = arguments.batch_size, arguments.rounds
    with tempfile.TemporaryDirectory() as directory:
        files = write_noise(directory, arguments.videos)
        compare("Whole videos of 1152 bytes per frame", files, YOUTUBE, size, rounds, (3, 0.45))
        compare("30 frames per video of 1152 bytes per frame", files, YOUTUBE, size, rounds, (4, 0.55), THIRTY)
    real_data = os.environ.get("YT8M_REAL_DATA", "")
    if real_data:
        files = find_files(f"{real_data}/audioset/bal_train*.tfrecord", "YT8M_REAL_DATA")
        compare("AudioSet, balanced train", files, AUDIOSET, 8 * size, rounds, (9, 0.5))
    else:
        print("\nAudioSet is left out: YT8M_REAL_DATA is not set.")


if __name__ == "__main__":
    main()
