"""Training step and inference of learnable pooling, compared with its matrix products and a straightforward form.

    PYTHONPATH=. python benchmarks/pooling.py [--models netvlad,nextvlad,transformer] [--rounds 7] [--batch 32]

Videos of 300 frames of 1024 + 128 features, 3862 classes, float32. A step is the loss and the gradients of all weights;
Adam's update is timed apart. `products` are the matrix products of the model alone, of the same shapes: forward for
inference; forward, to the inputs and to the weights for a step. Programs take turns, round by round, and ratios are
medians of the rounds' ratios. Peak memory is that of a process that makes two steps, above what it had when TensorFlow
was loaded.

`straightforward` is the same model with the pooling of benchmarks/straightforward.py. Its residuals of 32 videos, one
number per frame, cluster and feature, are 10 GB, and there are several such tensors at a time; so VLAD is run with few
videos, two sizes, and extrapolated along the line through them.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from straightforward import make_straightforward
from timing import interleaved, median_ratio, peak_gigabytes

from yt8m.models.attention import TransformerModel
from yt8m.models.base import FrameLevelModel
from yt8m.models.nextvlad import NeXtVLADModel
from yt8m.models.vlad import NetVLADModelLF
from yt8m.schema import DataSpec

from losses import cross_entropy_loss

SPEC = DataSpec(("rgb", "audio"), (1024, 128), 3862, record_format="frame")
NUM_FRAMES, NUM_CLASSES = 300, 3862
Program = Callable[[], object]


@dataclass(frozen=True)
class Product:
    """`(rows, inner)` times `(inner, columns)`, `batch` of them at a time, `times` over."""

    rows: int
    inner: int
    columns: int
    batch: int = 0
    times: int = 1


@dataclass(frozen=True)
class Case:
    """A model, its products by the number of videos, and two numbers of videos that its straightforward form can hold.

    Without any, that form is run like the others.
    """

    make: Callable[[], FrameLevelModel]
    products: Callable[[int], list[Product]]
    few_videos: tuple[int, ...]


def _netvlad() -> FrameLevelModel:
    return NetVLADModelLF(SPEC, cluster_size=256, gating=True, relu=False, classifier_hparams={"prob_gating": True})


def _netvlad_products(videos: int) -> list[Product]:
    streams = [
        product
        for size, clusters in ((1024, 256), (128, 128))
        for product in (
            Product(videos * NUM_FRAMES, size, clusters),
            Product(clusters, NUM_FRAMES, size, batch=videos),
        )
    ]
    hidden = [Product(videos, 256 * 1024 + 128 * 128, 1024), Product(videos, 1024, 1024)]
    return [*streams, *hidden, *_experts(videos, 1024), Product(videos, NUM_CLASSES, NUM_CLASSES)]


def _experts(videos: int, size: int) -> list[Product]:
    return [Product(videos, size, 3 * NUM_CLASSES), Product(videos, size, 2 * NUM_CLASSES)]


def _nextvlad_products(videos: int) -> list[Product]:
    streams = [
        product
        for size, clusters, groups in ((1024, 128, 8), (128, 64, 4))
        for product in (
            Product(videos * NUM_FRAMES, size, 2 * size),
            Product(videos * NUM_FRAMES, 2 * size, groups),
            Product(videos * NUM_FRAMES, 2 * size, groups * clusters),
            Product(clusters, NUM_FRAMES * groups, 2 * size // groups, batch=videos),
        )
    ]
    hidden = [Product(videos, 128 * 256 + 64 * 64, 2048), Product(videos, 2048, 256), Product(videos, 256, 2048)]
    return [*streams, *hidden, Product(videos, 2048, NUM_CLASSES)]


def _transformer_products(videos: int) -> list[Product]:
    size, heads = 1152, 18
    frames, width = videos * NUM_FRAMES, size // heads
    block = [
        Product(frames, size, 3 * size),
        Product(NUM_FRAMES, width, NUM_FRAMES, batch=heads, times=videos),
        Product(NUM_FRAMES, NUM_FRAMES, width, batch=heads, times=videos),
        Product(frames, size, size),
        Product(frames, size, 4 * size),
        Product(frames, 4 * size, size),
    ]
    return [*block, *block, *_experts(videos, size)]


CASES = {
    "netvlad": Case(_netvlad, _netvlad_products, (2, 4)),
    "nextvlad": Case(lambda: NeXtVLADModel(SPEC), _nextvlad_products, (2, 4)),
    "transformer": Case(lambda: TransformerModel(SPEC), _transformer_products, ()),
}


def products_program(products: Sequence[Product], backward: bool) -> Program:
    """All products one after the other; of each result one number is kept, so that none can be left out."""
    operands = [_operands(product) for product in products]

    @tf.function
    def program() -> list[tf.Tensor]:
        corners = []
        for product, (left, right, upstream) in zip(products, operands, strict=True):
            corner = _corner(left, right, upstream, backward)
            for _ in tf.range(product.times - 1):
                corner += _corner(left, right, upstream, backward)
            corners.append(corner)
        return corners

    return program


def _operands(product: Product) -> list[tf.Tensor]:
    shapes = ((product.rows, product.inner), (product.inner, product.columns), (product.rows, product.columns))
    batch = (product.batch,) if product.batch else ()
    return [tf.random.normal((*batch, *shape)) for shape in shapes]


def _corner(left: tf.Tensor, right: tf.Tensor, upstream: tf.Tensor, backward: bool) -> tf.Tensor:
    results = [tf.matmul(left, right)]
    if backward:
        results += [tf.matmul(upstream, right, transpose_b=True), tf.matmul(left, upstream, transpose_a=True)]
    return tf.add_n([tf.reshape(result, (-1,))[0] for result in results])


def make_batch(videos: int) -> dict[str, tf.Tensor]:
    """Random videos of 300 frames."""
    generator = np.random.default_rng(0)
    columns = zip(SPEC.feature_names, SPEC.feature_sizes, strict=True)
    features = {
        name: tf.constant(generator.integers(0, 256, (videos, NUM_FRAMES, size), dtype=np.uint8))
        for name, size in columns
    }
    return features | {"num_frames": tf.fill((videos,), NUM_FRAMES), "key": tf.range(videos, dtype=tf.int64)}


def step_program(model: FrameLevelModel, videos: int) -> Callable[[], list[tf.Tensor]]:
    """Loss and gradients."""
    batch = make_batch(videos)
    labels = tf.constant(np.random.default_rng(1).random((videos, NUM_CLASSES)) < 1e-3)

    @tf.function
    def program() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(cross_entropy_loss(labels, model(batch, training=True)))
            loss = tf.add_n([loss, *model.losses])
        return tape.gradient(loss, model.trainable_variables)

    return program


def inference_program(model: FrameLevelModel, videos: int) -> Program:
    """Predictions."""
    batch = make_batch(videos)
    return tf.function(lambda: model(batch, training=False)["predictions"])


def update_program(model: FrameLevelModel, gradients: list[tf.Tensor]) -> Program:
    """Adam with gradients clipped per weight, as train.py updates by default."""
    optimizer = keras.optimizers.Adam(2e-4, clipnorm=1.0)
    optimizer.build(model.trainable_variables)
    pairs = list(zip(gradients, model.trainable_variables, strict=True))
    return tf.function(lambda: optimizer.apply_gradients(pairs))


def new_model(name: str, straightforward: bool) -> FrameLevelModel:
    model = CASES[name].make()
    if straightforward:
        make_straightforward(model)
    model.build()
    return model


def compare_times(name: str, videos: int, rounds: int) -> None:
    """Prints seconds and ratios of one model."""
    case, model = CASES[name], new_model(name, straightforward=False)
    step = step_program(model, videos)
    programs: dict[str, Program] = {
        "step": step,
        "products of a step": products_program(case.products(videos), backward=True),
        "inference": inference_program(model, videos),
        "products of inference": products_program(case.products(videos), backward=False),
        "Adam's update": update_program(model, step()),
    }
    peer = new_model(name, straightforward=True)
    for count in case.few_videos or (videos,):
        programs[f"straightforward step, {count} videos"] = step_program(peer, count)
        programs[f"straightforward inference, {count} videos"] = inference_program(peer, count)
    interleaved(programs, 1)  # traces them
    seconds = interleaved(programs, rounds)
    for kind in ("step", "inference"):
        few = [seconds[f"straightforward {kind}, {count} videos"] for count in case.few_videos or (videos,)]
        rows = zip(*few, strict=True)
        seconds[f"straightforward {kind}"] = [continued(case.few_videos, values, videos) for values in rows]
    print(f"\n| {name} | median seconds |\n| --- | --- |")
    for way, values in seconds.items():
        print(f"| {way} | {statistics.median(values):.3f} |")
    print(f"\n| {name} | ratio | bar |\n| --- | --- | --- |")
    for above, below, bar in (
        ("step", "products of a step", "at most 1.6"),
        ("inference", "products of inference", ""),
        ("straightforward step", "step", "at least 3"),
        ("straightforward inference", "inference", "at least 3"),
    ):
        print(f"| {above} / {below} | {median_ratio(seconds[above], seconds[below]):.2f} | {bar} |")


def continued(counts: Sequence[int], values: Sequence[float], count: int) -> float:
    """The line through two points, at `count`; one point is its own value."""
    if len(values) == 1:
        return values[0]
    (x0, x1), (y0, y1) = counts, values
    return y0 + (y1 - y0) * (count - x0) / (x1 - x0)


def peak_memory(name: str, kind: str, straightforward: bool, videos: int) -> float:
    """Gigabytes that a process of its own needs for a step or for inference."""
    way = "straightforward" if straightforward else "ours"
    command = [sys.executable, __file__, "--only_memory", name, kind, way, str(videos)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def print_own_peak(name: str, kind: str, way: str, videos: str) -> None:
    """What the process of `peak_memory` does."""
    before = peak_gigabytes()
    model = new_model(name, way == "straightforward")
    program = step_program(model, int(videos)) if kind == "step" else inference_program(model, int(videos))
    for _ in range(2):
        program()
    print(peak_gigabytes() - before)


def compare_memory(name: str, videos: int) -> None:
    """Prints peaks and their ratio of one model."""
    print(f"\n| {name} | ours GB | straightforward GB | ratio | bar |\n| --- | --- | --- | --- | --- |")
    for kind in ("step", "inference"):
        ours = peak_memory(name, kind, False, videos)
        counts = CASES[name].few_videos or (videos,)
        theirs = continued(counts, [peak_memory(name, kind, True, count) for count in counts], videos)
        print(f"| {kind} | {ours:.2f} | {theirs:.2f} | {theirs / ours:.1f} | at least 5 |")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default=",".join(CASES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--only_memory", nargs=4, metavar=("MODEL", "KIND", "WAY", "BATCH"), help=argparse.SUPPRESS)
    arguments: Any = parser.parse_args()
    if arguments.only_memory:
        print_own_peak(*arguments.only_memory)
        return
    for name in arguments.models.split(","):
        compare_memory(name, arguments.batch)
        compare_times(name, arguments.batch, arguments.rounds)


if __name__ == "__main__":
    main()
