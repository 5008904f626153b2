"""How cost grows with ten times the videos, classes, frames, shards and checkpoints.

    PYTHONPATH=. python benchmarks/scale.py                      the table
    PYTHONPATH=. python benchmarks/scale.py --case evaluation --size 1100000

Each row is a process of its own, for its largest memory, TensorFlow included. The CPU seconds are those of all threads
after the imports; `x before` compares them with the row of a tenth of the size: 10 is linear, 100 quadratic. There is
no model: an evaluation and an inference start from the 20 best pairs of each video, made up, as a device returns them.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# What is asked for: by case, the sizes. The whole table takes minutes.
SIZES = {
    "evaluation": [11_000, 110_000, 1_100_000],
    "classes": [386, 3862, 38_620],
    "inference": [7_000, 70_000, 700_000],
    "frames": [30, 300],
    "shards": [10, 100, 1000],
    "checkpoints": [10, 100, 1000],
}
WHAT = {
    "evaluation": "videos of 3862 classes, evaluated from their best pairs",
    "classes": "classes, 110,000 videos evaluated from their best pairs",
    "inference": "videos, the best pairs written as a submission",
    "frames": "frames per video, 1024 videos of 1152 bytes per frame read",
    "shards": "shards of 20,000 records in all, two epochs in training order",
    "checkpoints": "checkpoints and evaluations of one run, 3 kept",
}
NUM_CLASSES, TOP_K, BATCH_SIZE = 3862, 20, 1024


def made_up_results(num_videos: int, num_classes: int) -> Iterator[dict[str, Any]]:
    """What a step of evaluation returns, batch by batch: one batch of random numbers, its scores and classes varied."""
    import numpy as np

    from yt8m.metrics import top_k_pairs

    generator = np.random.default_rng(0)
    labels = np.zeros((BATCH_SIZE, num_classes), bool)
    np.put_along_axis(labels, generator.integers(num_classes, size=(BATCH_SIZE, 3)), True, axis=1)
    predictions = generator.random((BATCH_SIZE, num_classes), np.float32) ** 8 + labels / np.float32(4)
    one = {name: values.numpy() for name, values in top_k_pairs(predictions, labels, TOP_K).items()}
    for first in range(0, num_videos, BATCH_SIZE):
        count, shift = min(BATCH_SIZE, num_videos - first), int(generator.integers(num_classes))
        yield {
            **{name: one[name][:count] for name in ("hits", "num_labels", "equal_recall_hits")},
            "scores": one["scores"][:count] * generator.random((count, 1), np.float32),
            "classes": (one["classes"][:count] + shift) % num_classes,
            "class_positives": np.roll(labels[:count].sum(axis=0), shift),
            "ids": np.char.zfill(np.arange(first, first + count).astype("S"), 11),
            "losses": np.ones(count, np.float32),
        }


def evaluate(num_videos: int, num_classes: int) -> Callable[[], object]:
    from yt8m.metrics.default import DefaultMetrics

    def run() -> None:
        metrics = DefaultMetrics(num_classes, TOP_K)
        for results in made_up_results(num_videos, num_classes):
            metrics.add_batch(results)
        print(dict(metrics.result()), len(metrics.per_class()), len(metrics.curves()), file=sys.stderr)

    return run


def infer(num_videos: int, folder: str) -> Callable[[], object]:
    from yt8m.output.submission import SubmissionWriter

    def run() -> None:
        with SubmissionWriter(f"{folder}/solution.csv") as writer:
            for results in made_up_results(num_videos, NUM_CLASSES):
                writer.add(results["ids"], results["classes"], results["scores"])

    return run


def read_frames(num_frames: int, folder: str) -> Callable[[], object]:
    import numpy as np

    from yt8m.data.record_writing import frame_record, write_records
    from yt8m.schema import DataSpec

    import readers

    frames = {name: np.zeros((num_frames, size), np.uint8) for name, size in (("rgb", 1024), ("audio", 128))}
    file = write_records(Path(folder, "a.tfrecord"), [frame_record(f"v{i}", [1], frames) for i in range(1024)])
    spec = DataSpec(("rgb", "audio"), (1024, 128), NUM_CLASSES, "frame")
    batches = readers.evaluation_batches([str(file)], spec, 64, labels_required=True)
    return lambda: [None for _ in batches]


def read_shards(num_shards: int, folder: str) -> Callable[[], object]:
    import numpy as np

    from yt8m.data.record_writing import video_record, write_records
    from yt8m.schema import DataSpec

    import readers

    per_shard = 20_000 // num_shards
    records = [video_record(f"v{i}", [1], {"mean_rgb": np.zeros(16, np.float32)}) for i in range(per_shard)]
    files = [str(write_records(Path(folder, f"{i:05d}"), records)) for i in range(num_shards)]
    spec = DataSpec(("mean_rgb",), (16,), 10)

    def run() -> None:
        readers.estimate_num_records(files)
        for _ in readers.training_batches(readers.training_order(files, spec), spec, BATCH_SIZE, num_epochs=2):
            pass

    return run


def save_checkpoints(count: int, folder: str) -> Callable[[], object]:
    import tensorflow as tf

    from yt8m.positions import Position
    from yt8m.runs.checkpoints import Checkpoints, save_evaluation

    state = tf.train.Checkpoint(examples_seen=tf.Variable(0, dtype=tf.int64))
    summary = dict.fromkeys(("gap", "hit_at_one", "perr", "map", "map_all_classes", "loss"), 0.123456789012)

    def run() -> None:
        checkpoints = Checkpoints(folder, state, 3, "order")
        for step in range(1, count + 1):
            checkpoints.save(step, Position(examples=step))
            save_evaluation(folder, {"global_step": step} | summary, "train.py")

    return run


def measure(case: str, size: int) -> dict[str, float]:
    """Runs one case in this process."""
    from yt8m.cli.startup import load_tensorflow

    load_tensorflow()
    with tempfile.TemporaryDirectory() as folder:
        run = {
            "evaluation": lambda: evaluate(size, NUM_CLASSES),
            "classes": lambda: evaluate(110_000, size),
            "inference": lambda: infer(size, folder),
            "frames": lambda: read_frames(size, folder),
            "shards": lambda: read_shards(size, folder),
            "checkpoints": lambda: save_checkpoints(size, folder),
        }[case]()
        cpu, wall = time.process_time(), time.perf_counter()
        run()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"cpu": cpu, "wall": wall, "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", choices=SIZES)
    parser.add_argument("--size", type=int)
    arguments = parser.parse_args()
    if arguments.size:
        print(json.dumps(measure(arguments.case, arguments.size)))
        return
    print("| what | size | CPU s | x before | s | peak MB |\n| --- | --- | --- | --- | --- | --- |")
    for case in [arguments.case] if arguments.case else SIZES:
        before = None
        for size in SIZES[case]:
            command = [sys.executable, __file__, "--case", case, "--size", str(size)]
            result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            ratio = f"{result['cpu'] / before:.1f}" if before else ""
            before = result["cpu"]
            columns = f"{result['cpu']:.2f} | {ratio} | {result['wall']:.1f} | {result['mb']:.0f}"
            print(f"| {WHAT[case]} | {size:,} | {columns} |", flush=True)


if __name__ == "__main__":
    main()
