"""Rank pooling compared with its Gram matrix, the diagonal gradient, LinearSVR, an unrolled solver and a CNN.

    PYTHONPATH=. python benchmarks/rankpool.py [--rounds 9] [--parts sizes,unrolled,wide]

Programs take turns, round by round; a ratio is the median over the rounds. LinearSVR solves a few sequences, one after
the other, and its time is scaled to the batch. Frames are running means of unit length, c = 1, epsilon = 0.1, float32.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn.svm import LinearSVR
from timing import interleaved

from yt8m.rankpool.gradient import GradientName

from rankpool_ops import rank_pool, running_mean, unit_length

C, EPSILON = 1.0, 0.1
Program = Callable[[], object]


def video_features(num_videos: int, num_frames: int, size: int) -> tf.Tensor:
    """Shots of about 20 frames, each a point and noise around it, as running means of unit length."""
    rng = np.random.default_rng(0)
    shots = rng.standard_normal((num_videos, num_frames // 20 + 1, size), np.float32)
    frames = np.repeat(shots, 20, axis=1)[:, :num_frames]
    frames += 0.5 * rng.standard_normal(frames.shape, np.float32)
    return unit_length(running_mean(tf.constant(frames)))


def gradient_program(frames: tf.Tensor, gradient: GradientName, **options: Any) -> Callable[[], tf.Tensor]:
    """Forward and backward, for an upstream gradient of ones."""

    @tf.function
    def program() -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(frames)
            u = rank_pool(frames, c=C, epsilon=EPSILON, gradient=gradient, **options)
        return tape.gradient(u, frames)

    return program


def linear_svr(frames: np.ndarray) -> np.ndarray:
    """liblinear's solver of the same problem, C = c / 2, one sequence at a time."""
    machine = LinearSVR(
        loss="squared_epsilon_insensitive",
        dual=False,
        C=C / 2,
        epsilon=EPSILON,
        fit_intercept=False,
        tol=1e-6,
        max_iter=100_000,
    )
    times = np.arange(1, frames.shape[1] + 1)
    return np.stack([machine.fit(sequence, times).coef_ for sequence in frames])


def unrolled(frames: tf.Tensor, num_steps: int) -> tf.Tensor:
    """Nesterov's method on the primal, its steps sized for the largest curvature: what autodiff can go through."""
    times = tf.range(1, frames.shape[1] + 1, dtype=frames.dtype)
    gram = tf.matmul(frames, frames, transpose_b=True)
    largest = 1 + C * tf.reduce_max(tf.linalg.eigvalsh(tf.stop_gradient(gram)), axis=1)[:, tf.newaxis]
    momentum = (tf.sqrt(largest) - 1) / (tf.sqrt(largest) + 1)
    u = ahead = tf.zeros_like(frames[:, 0])
    for _ in tf.range(num_steps):
        residual = times - tf.linalg.matvec(frames, ahead)
        excess = tf.sign(residual) * tf.nn.relu(tf.abs(residual) - EPSILON)
        slope = ahead - C * tf.linalg.matvec(frames, excess, transpose_a=True)
        following = ahead - slope / largest
        u, ahead = following, following + momentum * (following - u)
    return u


def caffe_net(size: int) -> keras.Model:
    """The backbone of the paper's experiments, CaffeNet, up to its first fully connected layer."""
    layers = [keras.Input((227, 227, 3))]
    for filters, width, stride, pools in (
        (96, 11, 4, 1),
        (256, 5, 1, 1),
        (384, 3, 1, 0),
        (384, 3, 1, 0),
        (256, 3, 1, 1),
    ):
        layers.append(keras.layers.Conv2D(filters, width, stride, "same", activation="relu"))
        layers += [keras.layers.MaxPooling2D(3, 2)] * pools
    return keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(size, "relu")])


def print_ratios(seconds: dict[str, list[float]], ratios: Sequence[tuple[str, str, str]]) -> None:
    """Prints medians in milliseconds and the ratios asked for, with the bar of each."""
    for name, values in seconds.items():
        print(f"| {name} | {1e3 * statistics.median(values):.1f} ms |")
    for above, below, bar in ratios:
        ratio = statistics.median(a / b for a, b in zip(seconds[above], seconds[below], strict=True))
        print(f"| {above} / {below} | {ratio:.2f} | {bar} |")


def warm(programs: dict[str, Program]) -> dict[str, Program]:
    for program in programs.values():
        program()
    return programs


def compare_sizes(rounds: int) -> None:
    for num_videos, num_frames, num_fitted, bar in ((32, 300, 2, "at least 2.2"), (128, 30, 8, "at least 6")):
        frames = video_features(num_videos, num_frames, 1024)
        few = frames[:num_fitted].numpy().astype(np.float64)
        programs = {
            "Gram": tf.function(lambda frames=frames: tf.matmul(frames, frames, transpose_b=True)),
            "forward": tf.function(lambda frames=frames: rank_pool(frames, c=C, epsilon=EPSILON)),
            "forward + exact": gradient_program(frames, "exact"),
            "forward + diagonal": gradient_program(frames, "diagonal"),
            "forward + exact, float64 inside": gradient_program(frames, "exact", internal_dtype="float64"),
            "LinearSVR": lambda few=few: linear_svr(few),
        }
        u, info = rank_pool(frames, c=C, epsilon=EPSILON, return_info=True)
        print(
            f"\nB={num_videos} T={num_frames} D=1024, linear systems per sequence: {info.iterations.numpy().mean():.1f}"
        )
        exact = rank_pool(tf.constant(few), c=C, epsilon=EPSILON).numpy()
        for name, value in (("forward", u[:num_fitted].numpy()), ("LinearSVR", linear_svr(few))):
            print(f"{name}: relative error of u {np.linalg.norm(value - exact) / np.linalg.norm(exact):.0e}")
        seconds = interleaved(warm(programs), rounds)
        seconds["LinearSVR"] = [value * num_videos / num_fitted for value in seconds["LinearSVR"]]
        ratios = [
            ("forward", "Gram", "at most 2.0"),
            ("forward + exact", "forward", "at most 1.4"),
            ("forward + exact", "forward + diagonal", "at most 1.2"),
            ("LinearSVR", "forward", bar),
        ]
        print_ratios(seconds, ratios)


def compare_unrolled(rounds: int) -> None:
    """At B=8, because every step's residuals are kept for the backward pass."""
    frames = video_features(8, 300, 1024)
    exact = rank_pool(tf.cast(frames, tf.float64), c=C, epsilon=EPSILON)
    pooled = tf.function(unrolled)
    num_steps, error = 32, 1.0
    while error > 1e-6 and num_steps < 4096:
        num_steps *= 2
        u = tf.cast(pooled(frames, tf.constant(num_steps)), tf.float64)
        error = float(tf.norm(u - exact) / tf.norm(exact))

    @tf.function
    def through_the_steps() -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(frames)
            u = unrolled(frames, num_steps)
        return tape.gradient(u, frames)

    print(f"\nB=8 T=300 D=1024, unrolled: {num_steps} steps, relative error of u {error:.0e}")
    programs = {"forward + exact": gradient_program(frames, "exact"), "unrolled + autodiff": through_the_steps}
    print_ratios(interleaved(warm(programs), rounds), [("unrolled + autodiff", "forward + exact", "")])


def compare_wide(rounds: int) -> None:
    """The paper states 50 (diagonal) and 5 (exact) frames per second at D=4096, with its CNN, on its machine."""
    frames = video_features(16, 100, 4096)
    images = tf.random.normal((16, 227, 227, 3))
    network = caffe_net(4096)
    programs: dict[str, Program] = {
        "exact": gradient_program(frames, "exact"),
        "diagonal": gradient_program(frames, "diagonal"),
        "CNN and exact": cnn_program(network, images),
    }
    counts = {"exact": 1600, "diagonal": 1600, "CNN and exact": 16}
    print("\nD=4096, forward + backward")
    for name, values in interleaved(warm(programs), rounds).items():
        print(f"| {name} | {counts[name] / statistics.median(values):.0f} frames/s |")


def cnn_program(network: keras.Model, images: tf.Tensor) -> Program:
    """One video: forward and backward through backbone and pooling."""

    @tf.function
    def program() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            frames = network(images, training=True)[tf.newaxis]
            u = rank_pool(unit_length(running_mean(frames)), c=C, epsilon=EPSILON)
        return tape.gradient(u, network.trainable_variables)

    return program


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--parts", default="sizes,unrolled,wide")
    arguments = parser.parse_args()
    print(f"TensorFlow {tf.__version__}")
    parts = {"sizes": compare_sizes, "unrolled": compare_unrolled, "wide": compare_wide}
    for part in arguments.parts.split(","):
        parts[part](arguments.rounds)


if __name__ == "__main__":
    main()
