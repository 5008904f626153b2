"""Training steps of a network and rank pooling, end to end from pixels: frames per second and memory.

    PYTHONPATH=. python benchmarks/clips.py [--backbone MobileNetV2] [--size 64] [--frames 32] [--videos 4] [--rounds 9]

A step is the loss and the gradients of all weights, without their update, of clips of random pixels. The gradients of
rank pooling, exact and diagonal, take turns with average pooling, round by round, and ratios are medians of the rounds'
ratios of CPU seconds of all threads. Fernando & Gould 2016 state that with their exact gradient a step is ten times as
slow as with the diagonal one.

Peak memory is that of a process that makes two steps, above what it had when TensorFlow was loaded; batch normalisation
is by the moving moments, with which the network may compute its frames in chunks.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from timing import interleaved_clocks, median_ratio, peak_gigabytes

from yt8m.models.clips import ClipModel
from yt8m.schema import DataSpec

from losses import cross_entropy_loss

NUM_CLASSES = 10
POOLINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "rank pooling, exact": ("RankPoolModel", {"gradient": "exact"}),
    "rank pooling, diagonal": ("RankPoolModel", {"gradient": "diagonal"}),
    "average pooling": ("AveragePoolModel", {}),
}
CHUNKS = (0, 64, 16)


def step_program(arguments: argparse.Namespace, pooling: str, **hparams: Any) -> Callable[[], object]:
    """Returns a training step on one batch of random clips."""
    keras.utils.set_random_seed(0)
    size, frames, videos = arguments.size, arguments.frames, arguments.videos
    spec = DataSpec(("rgb",), (3,), NUM_CLASSES, "clip", max_frames=frames, clip_size=size)
    frame_model, settings = POOLINGS[pooling]
    model = ClipModel(
        spec, backbone=arguments.backbone, frame_model=frame_model, frame_model_hparams=settings, **hparams
    )
    model.build()
    generator = np.random.default_rng(0)
    batch = {
        "rgb": tf.constant(generator.integers(0, 256, (videos, frames, size, size, 3)), tf.uint8),
        "num_frames": tf.fill([videos], frames),
        "key": tf.range(videos, dtype=tf.int64),
    }
    labels = tf.constant(generator.random((videos, NUM_CLASSES)) < 0.2)

    @tf.function(autograph=False)
    def step() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(cross_entropy_loss(labels, model(batch, training=True)))
        return tape.gradient(loss, [weight.value for weight in model.trainable_variables])

    return step


def compare_speed(arguments: argparse.Namespace) -> None:
    programs = {pooling: step_program(arguments, pooling) for pooling in POOLINGS}
    for program in programs.values():
        program()
    clocks = interleaved_clocks(programs, arguments.rounds)
    cpu = {pooling: [seconds for seconds, _ in values] for pooling, values in clocks.items()}
    num_frames = arguments.videos * arguments.frames
    print(f"\n{describe(arguments)}\n\n| step | frames per second | per CPU second | speed beside diagonal |")
    print("| --- | --- | --- | --- |")
    for pooling, values in clocks.items():
        per_cpu_second, per_second = (num_frames / statistics.median(column) for column in zip(*values, strict=True))
        ratio = median_ratio(cpu["rank pooling, diagonal"], cpu[pooling])
        print(f"| {pooling} | {per_second:.0f} | {per_cpu_second:.0f} | {ratio:.2f} |")


def compare_memory(arguments: argparse.Namespace) -> None:
    print(f"\n{describe(arguments)}\n\n| frames at a time | CPU seconds per step | peak MB |\n| --- | --- | --- |")
    for chunk_size in CHUNKS:
        line = subprocess.run(
            [sys.executable, *sys.argv, "--measure", str(chunk_size)], check=True, capture_output=True, text=True
        ).stdout.splitlines()[-1]
        print(f"| {chunk_size or 'all'} | {line} |", flush=True)


def measure(arguments: argparse.Namespace) -> None:
    before = peak_gigabytes()
    step = step_program(arguments, "rank pooling, exact", freeze_moments=True, chunk_size=arguments.measure)
    step()
    ((seconds, _),) = interleaved_clocks({"step": step}, 1)["step"]
    print(f"{seconds:.2f} | {1000 * (peak_gigabytes() - before):.0f}")


def describe(arguments: argparse.Namespace) -> str:
    return (
        f"TensorFlow {tf.__version__}: {arguments.backbone}, {arguments.videos} videos of {arguments.frames} frames "
        f"of {arguments.size} x {arguments.size}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="MobileNetV2")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--videos", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--measure", type=int, help="the process of one row of the table of memory")
    arguments = parser.parse_args()
    if arguments.measure is not None:
        measure(arguments)
        return
    compare_speed(arguments)
    compare_memory(arguments)


if __name__ == "__main__":
    main()
