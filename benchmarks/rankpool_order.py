"""Videos that differ in nothing but the order of their frames: who can tell a class from its time reversal?

    PYTHONPATH=. python benchmarks/rankpool_order.py [--seeds 1] [--videos 2000] [--steps 1000]

Every video shows the same four shots for equally long; its class is their order. There are six classes: three orders
and their reversals. So the set of frames says nothing: by guessing, one video in six is right.

In `plain` videos that is all, apart from a little noise, and the shots are four directions of 64: rank pooling of the
features as they are suffices. In `hidden` ones it is not meant to: every fourth frame of a shot points the other way,
so that shots differ less in where their frames are than in how far out, which no sum of frames shows; and 30 other
directions hold shots of their own, cut at random, which rank pooling orders just as eagerly. A projection with a
rectifier that is trained through the pooling can find what makes a shot; one that is left as drawn finds some of it.

Prints the share of new videos whose class is found, in percent.
"""

import argparse
import statistics
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from yt8m.models.base import FrameLevelModel
from yt8m.schema import DataSpec

from frame_level_models import AveragePoolModel, MaxPoolModel, RankPoolModel
from losses import cross_entropy_loss

NUM_SHOTS, NUM_NUISANCES, SIZE, LONGEST = 4, 30, 64, 20
ORDERS = [(0, 1, 2, 3), (1, 3, 0, 2), (2, 0, 1, 3)]
CLASSES = np.array(ORDERS + [order[::-1] for order in ORDERS])
NOISE = 0.1
# Share of frames that point the other way; length of the shots of the other directions, where those that count have 1.
KINDS = {"plain": (0.0, 0.0), "hidden": (0.25, 1.0)}
SPEC = DataSpec(("features",), (SIZE,), len(CLASSES), record_format="frame", max_frames=LONGEST)
BATCH_SIZE = 64

PROJECTION: dict[str, Any] = {"projection_size": 32}
# Name, model, hyper-parameters, whether the projection is trained.
Row = tuple[str, type[FrameLevelModel], dict[str, Any], bool]
ROWS: list[Row] = [
    ("average pooling, projection trained", AveragePoolModel, PROJECTION, True),
    ("maximum pooling, projection trained", MaxPoolModel, PROJECTION, True),
    ("rank pooling of the features as they are, c = 1", RankPoolModel, {}, True),
    ("rank pooling of the features as they are, c = 0.01", RankPoolModel, {"c": 0.01}, True),
    ("rank pooling, projection left as drawn", RankPoolModel, PROJECTION, False),
    ("rank pooling, trained through the op, diagonal", RankPoolModel, PROJECTION | {"gradient": "diagonal"}, True),
    ("rank pooling, trained through the op, exact", RankPoolModel, PROJECTION, True),
]


class Videos(NamedTuple):
    """Frames `(N, T, D)` float32, their numbers `(N,)` and the classes `(N,)`."""

    frames: np.ndarray
    num_frames: np.ndarray
    classes: np.ndarray


def make_videos(num_videos: int, kind: str, seed: int) -> Videos:
    """Makes up videos of 12, 16 or 20 frames, so that each of the four shots has the same share of all of them."""
    flipped, nuisance = KINDS[kind]
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(np.random.default_rng(0).standard_normal((SIZE, SIZE)))[0]
    shots, others = directions[:NUM_SHOTS], directions[NUM_SHOTS : NUM_SHOTS + NUM_NUISANCES]
    classes = rng.integers(0, len(CLASSES), num_videos)
    num_frames = 4 * rng.integers(3, LONGEST // 4 + 1, num_videos)
    frames = NOISE * rng.standard_normal((num_videos, LONGEST, SIZE))
    for video, order, length in zip(frames, CLASSES[classes], num_frames, strict=True):
        sides = np.where(rng.random((length, 1)) < flipped, -1, 1)
        video[:length] += sides * np.repeat(shots[order], length // NUM_SHOTS, axis=0)
        video[:length] += nuisance * _cut_at_random(rng, length) @ others
        video[length:] = 0
    return Videos(frames.astype(np.float32), num_frames.astype(np.int32), classes)


def _cut_at_random(rng: np.random.Generator, length: int) -> np.ndarray:
    """Returns five shots of random lengths, each a point near the unit sphere, `(length, NUM_NUISANCES)`."""
    points = rng.standard_normal((5, NUM_NUISANCES)) / np.sqrt(NUM_NUISANCES)
    cuts = rng.choice(np.arange(1, length), 4, replace=False)
    return points[np.searchsorted(np.sort(cuts), np.arange(length), side="right")]


def accuracy(row: Row, training: Videos, unseen: Videos, num_steps: int, seed: int) -> float:
    """Trains a model of one row and returns the share of unseen videos whose class it finds."""
    _, architecture, hparams, is_trained = row
    keras.utils.set_random_seed(seed)
    model = architecture(
        SPEC, takes_pooled_sqrt=False, classifier="LogisticModel", classifier_hparams={"l2_penalty": 0.0}, **hparams
    )
    model.build()
    if not is_trained:
        model.projection.trainable = False
    train(model, training, num_steps, seed)
    predictions = model(_batch(unseen, np.arange(len(unseen.classes))), training=False)["predictions"]
    return float(np.mean(np.argmax(predictions, axis=1) == unseen.classes))


def train(model: keras.Model, videos: Videos, num_steps: int, seed: int) -> None:
    """Minimises the cross entropy with Adam, whose rate falls to 0 along half a cosine."""
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.02, num_steps))
    optimizer.build(model.trainable_variables)
    labels = np.eye(len(CLASSES), dtype=bool)[videos.classes]

    @tf.function
    def step(batch: dict[str, tf.Tensor], batch_labels: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(cross_entropy_loss(batch_labels, model(batch, training=True)))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    rng = np.random.default_rng(seed)
    for _ in range(num_steps):
        chosen = rng.integers(0, len(labels), BATCH_SIZE)
        step(_batch(videos, chosen), tf.constant(labels[chosen]))


def _batch(videos: Videos, chosen: np.ndarray) -> dict[str, tf.Tensor]:
    return {
        "features": tf.constant(videos.frames[chosen]),
        "num_frames": tf.constant(videos.num_frames[chosen]),
        "key": tf.constant(chosen, tf.int64),
    }


def print_row(row: Row, num_videos: int, num_steps: int, num_seeds: int) -> None:
    """Prints mean and, for several seeds, standard deviation over seeds that decide videos, weights and batches."""
    cells = []
    for kind in KINDS:
        shares = [
            100
            * accuracy(
                row,
                make_videos(num_videos, kind, 2 * seed + 1),
                make_videos(2000, kind, 2 * seed + 2),
                num_steps,
                seed,
            )
            for seed in range(num_seeds)
        ]
        spread = f" ± {statistics.stdev(shares):.1f}" if num_seeds > 1 else ""
        cells.append(f"{statistics.mean(shares):.1f}{spread}")
    print(f"| {row[0]} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--videos", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=1000)
    arguments = parser.parse_args()
    print(f"| right, % (by guessing {100 / len(CLASSES):.1f}) | {' | '.join(KINDS)} |\n| --- | --- | --- |")
    for row in ROWS:
        print_row(row, arguments.videos, arguments.steps, arguments.seeds)


if __name__ == "__main__":
    main()
