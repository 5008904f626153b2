"""Exact WARP against its dense form, loss and gradient: time and memory.

    PYTHONPATH=. python benchmarks/warp.py [--classes 3862] [--rounds 5]

The dense form compares every label with every class, in a tensor of videos x labels x classes. Each case runs in a
process of its own, which reports the median of its steps and how far its memory rose above what was used before the
first.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from yt8m.cli.startup import keep_freed_memory
from yt8m.losses.warp import warp_loss

BATCH_SIZES = (128, 1024)


def dense_warp_loss(labels: tf.Tensor, outputs: dict[str, tf.Tensor]) -> tf.Tensor:
    """WARP by comparing all pairs, for videos of at most P labels: `(B, P, C)`."""
    logits = outputs["logits"]
    most = tf.reduce_max(tf.math.count_nonzero(labels, axis=1, dtype=tf.int32))
    is_label, columns = tf.math.top_k(tf.cast(labels, tf.float32), most)
    hinges = 1.0 - tf.gather(logits, columns, batch_dims=1)[:, :, tf.newaxis] + logits[:, tf.newaxis, :]
    hinges = tf.where(labels[:, tf.newaxis, :], 0.0, tf.nn.relu(hinges))
    counts = tf.math.count_nonzero(hinges, axis=2, dtype=tf.int32)
    harmonic = tf.cumsum(1.0 / tf.range(1.0, tf.cast(tf.shape(labels)[1], tf.float32) + 1.0))
    factors = tf.gather(tf.pad(harmonic, [[1, 0]]), counts) / tf.cast(tf.maximum(counts, 1), tf.float32)
    return tf.reduce_sum(is_label * factors * tf.reduce_sum(hinges, axis=2), axis=1)


FORMS: dict[str, Callable[..., tf.Tensor]] = {"dense": dense_warp_loss, "exact, sorted": warp_loss}


def videos(batch_size: int, num_classes: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Labels, 3.4 per video and at most 23, and logits as of a model that has learnt something."""
    rng = np.random.default_rng(0)
    labels = np.zeros((batch_size, num_classes), bool)
    for row in labels:
        row[rng.choice(num_classes, min(rng.geometric(1 / 3.4), 23), replace=False)] = True
    labels[0, :23] = True
    logits = rng.normal(-8.0, 2.0, labels.shape) + 6.0 * labels
    return tf.constant(labels), tf.constant(logits, tf.float32)


def measure(form: str, batch_size: int, num_classes: int, rounds: int) -> dict[str, float]:
    """Returns seconds per step, the rise of memory in MB and the mean loss of one form."""
    keep_freed_memory()
    labels, logits = videos(batch_size, num_classes)

    @tf.function
    def step(logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = tf.reduce_mean(FORMS[form](labels, {"logits": logits}))
        return loss, tape.gradient(loss, logits)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loss, gradient = step(logits)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        step(logits)
        seconds.append(time.perf_counter() - start)
    rise = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    norm = float(tf.norm(tf.convert_to_tensor(gradient)))
    return {"seconds": statistics.median(seconds), "megabytes": rise / 1024, "loss": float(loss), "gradient": norm}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--classes", type=int, default=3862)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--case", nargs=2, help="form and batch size: measure this one, in this process")
    arguments = parser.parse_args()
    if arguments.case:
        form, batch_size = arguments.case
        print(json.dumps(measure(form, int(batch_size), arguments.classes, arguments.rounds)))
        return
    print("| videos | form | ms per step | MB | mean loss | gradient |\n| --- | --- | --- | --- | --- | --- |")
    for batch_size in BATCH_SIZES:
        for form in FORMS:
            options = [f"--classes={arguments.classes}", f"--rounds={arguments.rounds}"]
            case = [sys.executable, __file__, *options, "--case", form, str(batch_size)]
            done = subprocess.run(case, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout)
            cells = [f"{1e3 * found['seconds']:.1f}", f"{found['megabytes']:.0f}"]
            cells += [f"{found['loss']:.4f}", f"{found['gradient']:.4f}"]
            print(f"| {batch_size} | {form} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
