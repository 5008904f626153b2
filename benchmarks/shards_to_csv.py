"""Inference to the CSV in videos/s, compared with its parts alone: reading, reading and the model, and the writer.

    PYTHONPATH=. python benchmarks/shards_to_csv.py [--videos 4096] [--rounds 5]

Video-level records of random features, 3862 classes, the 20 best of each video, batches of 512 as inference.py has
them. Programs take turns, round by round; times are medians.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
from timing import interleaved, print_table

from yt8m.config import ModelConfig, RunConfig
from yt8m.data.record_writing import video_record, write_records
from yt8m.engine.prediction import predict
from yt8m.output.submission import SubmissionWriter
from yt8m.schema import DataSpec

import readers
from experiment import build_model

TOP_K, BATCH_SIZE = 20, 512
SPEC = DataSpec(("mean_rgb", "mean_audio"), (1024, 128))


def random_video(index: int) -> bytes:
    generator = np.random.default_rng(index)
    columns = zip(SPEC.feature_names, SPEC.feature_sizes, strict=True)
    features = {name: generator.normal(size=size).astype(np.float32) for name, size in columns}
    return video_record(f"{index:04x}", None, features)


def write(path: str, predictions: Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
    with SubmissionWriter(path) as writer:
        for batch in predictions:
            writer.add(*batch)


def compare(name: str, model: keras.Model, files: list[str], path: str, num_videos: int, rounds: int) -> None:
    def predictions() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        return predict([model], [1.0], batches, TOP_K)

    batches = readers.evaluation_batches(files, SPEC, BATCH_SIZE, labels_required=False)
    pairs = list(predictions())
    print(f"\n{name}\n")
    print_table(
        interleaved(
            {
                "shards to CSV": lambda: write(path, predictions()),
                "reading and model": lambda: list(predictions()),
                "reading": lambda: list(batches),
                "CSV": lambda: write(path, iter(pairs)),
            },
            rounds,
        ),
        num_videos,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--videos", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = [write_records(Path(folder) / "test.tfrecord", map(random_video, range(arguments.videos)))]
        for name in ("LogisticModel", "MoeModel"):
            model = build_model(RunConfig(SPEC, ModelConfig(name)))
            compare(name, model, files, str(Path(folder) / "out.csv"), arguments.videos, arguments.rounds)


if __name__ == "__main__":
    main()
