"""The whole training step, compared with its matrix products, with an older checkout and with the starter's step.

    YT8M_REAL_DATA=DIR PYTHONPATH=. python benchmarks/step.py [--rounds 7]
        [--cases NAMES]        logistic, moe, netvlad; for the two options below names of registered models
        [--steps 10]           steps per turn, 2 for netvlad by default
        [--before CHECKOUT]    the same steps by the code of another checkout of this project
        [--bfloat16]           the same steps with --precision=bfloat16
        [--all]                instead: every registered model, examples/s, ratio and peak memory
        [--jit]                instead: forward and backward of every registered model, with and without XLA

A step is counted with everything that train.py does between two log lines, reading included; the last step of a turn is
reported, as with --log_steps. `products` are the matrix products of the model alone: each product that the forward pass
and the gradients of the weights make (recorded from one eager pass), of the same shapes and number, on data that is in
memory; a product with a vector is a sum in other words and is left out. `starter` is an own rendering, as one
tf.function, of the training step of google/youtube-8m: that code needs TensorFlow 1.

Every contender is a process of its own. They take turns, round by round, and ratios are medians of the rounds' ratios:
of CPU seconds, all threads, and of wall time. Video-level models train on the real shards of YT8M_REAL_DATA,
frame-level ones on noise of 300 frames per video.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import op_callbacks
from timing import median_ratio, peak_gigabytes

from yt8m.batch import LABELS, model_inputs
from yt8m.config import ModelConfig, OptimizationConfig, RunConfig, TrainingConfig
from yt8m.data.record_writing import frame_record, write_records
from yt8m.engine.step import TrainState, TrainStep
from yt8m.registry import FRAME_LEVEL_MODELS, VIDEO_LEVEL_MODELS
from yt8m.schema import DataSpec

import experiment

VIDEO_SPEC = DataSpec(("mean_rgb", "mean_audio"), (1024, 128))
FRAME_SPEC = DataSpec(("rgb", "audio"), (1024, 128), record_format="frame")
NUM_FRAMES = 300
Program = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """A model and how it is trained.

    Attributes:
        model: its registered name.
        batch_size: videos per step.
        steps: per turn.
        hparams: its hyper-parameters.
        bar: the most that a step may take of its matrix products' CPU time.
        starter: how much faster than the starter's step it has to be; 0: the starter has no such model.
    """

    model: str
    batch_size: int
    steps: int
    hparams: dict[str, Any] = field(default_factory=dict)
    bar: float = 0.0
    starter: float = 0.0

    @property
    def spec(self) -> DataSpec:
        """What its records hold."""
        return VIDEO_SPEC if self.model in VIDEO_LEVEL_MODELS else FRAME_SPEC


_NETVLAD = {"cluster_size": 256, "gating": True, "relu": False, "classifier_hparams": {"prob_gating": True}}
CASES = {
    "logistic": Case("LogisticModel", 1024, 10, bar=1.25, starter=1.25),
    "moe": Case("MoeModel", 1024, 10, bar=1.25, starter=1.3),
    "netvlad": Case("NetVLADModelLF", 32, 2, _NETVLAD, bar=1.35),
}


def case_of(name: str, steps: int = 0) -> Case:
    """Returns a case by its name, or that of a registered model with its defaults, with another number of steps."""
    batch_size, usual_steps = (256, 10) if name in VIDEO_LEVEL_MODELS else (16, 2)
    case = CASES.get(name, Case(name, batch_size, usual_steps))
    return replace(case, steps=steps or case.steps)


# The programs of a contender's process.


class Training:
    """A run of a case on the records of `pattern`, as train.py composes it."""

    def __init__(self, case: Case, pattern: str, precision: str = "float32"):
        self.case = case
        self.config = RunConfig(
            data=case.spec,
            model=ModelConfig(case.model, case.hparams, precision),
            optimization=OptimizationConfig(),
            training=TrainingConfig(pattern, case.batch_size, num_epochs=0, max_steps=1_000_000),
        )
        files = experiment.training_files(self.config)
        options = experiment.training_options(self.config)
        order = experiment.training_order(self.config, files, options)
        self.state: TrainState = experiment.build_train_state(self.config, 1_000_000 * case.batch_size)
        self.data = experiment.training_data(self.config, self.state.model, files, order, options)
        self.iterator = iter(self.data.batches)

    def step_program(self) -> Program:
        """Steps with everything, the last of them reported."""
        step = TrainStep(
            tf.distribute.get_strategy(),
            self.state,
            experiment.build_loss(self.config),
            regularization_penalty=self.config.optimization.regularization_penalty,
            clip_gradient_norm=self.config.optimization.clip_gradient_norm,
            top_k=20,
            batch_spec=self.data.batches.element_spec,
        )
        return lambda: step.run(self.iterator, self.case.steps)

    def gradients(self, batch: dict[str, tf.Tensor]) -> list[tf.Tensor]:
        """Forward and backward: the gradients of all weights."""
        loss = experiment.build_loss(self.config)
        with tf.GradientTape() as tape:
            outputs = self.state.model(model_inputs(batch), training=True)
            losses = [loss(batch[LABELS], outputs), *outputs.get("losses", {}).values()]
            objective = tf.reduce_mean(tf.add_n(losses))
        return tape.gradient(objective, [weight.value for weight in self.state.model.trainable_variables])

    def products_program(self) -> Program:
        """All matrix products of as many steps, without anything else."""
        program = products_program(recorded_products(lambda: self.gradients(next(self.iterator))))
        return lambda: [program() for _ in range(self.case.steps)]

    def gradients_program(self, jit_compile: bool) -> Program:
        """Forward and backward, on one batch."""
        batch = next(self.iterator)
        program = tf.function(lambda: self.gradients(batch), jit_compile=jit_compile, autograph=False)
        return lambda: [program() for _ in range(self.case.steps)]


@dataclass(frozen=True)
class Product:
    """An operation that multiplies matrices: its type, its attributes, and the shapes and types of its operands.

    An operand of a convolution that is itself a shape is here by its values.
    """

    kind: str
    attributes: tuple[tuple[str, Any], ...]
    operands: tuple[tuple[tuple[int, ...], tf.DType], ...]

    def program(self) -> Program:
        """Multiplies; returns one number, so that the product cannot be left out."""
        operands = [
            tf.constant(shape) if dtype is tf.int32 else tf.cast(tf.random.normal(shape), dtype)
            for shape, dtype in self.operands
        ]
        names = PRODUCTS[self.kind]
        arguments = {"inputs": operands} if self.kind == "Einsum" else dict(zip(names, operands, strict=True))
        multiply: Any = getattr(tf.raw_ops, self.kind)
        return lambda: tf.reshape(multiply(**arguments, **dict(self.attributes)), [-1])[0]


PRODUCTS = {
    "MatMul": ("a", "b"),
    "BatchMatMulV2": ("x", "y"),
    "Einsum": ("inputs",),
    "Conv2D": ("input", "filter"),
    "Conv2DBackpropInput": ("input_sizes", "filter", "out_backprop"),
    "Conv2DBackpropFilter": ("input", "filter_sizes", "out_backprop"),
}
_ATTRIBUTES = ("transpose_a", "transpose_b", "adj_x", "adj_y", "equation", "strides", "padding", "dilations")


def recorded_products(compute: Callable[[], object]) -> Counter[Product]:
    """Computes eagerly and returns which matrix products were made, and how often."""
    products: Counter[Product] = Counter()

    def record(kind: Any, inputs: Any, attributes: Any, outputs: Any, op_name: Any = None, graph: Any = None) -> None:
        kind = tf.compat.as_str(kind)
        if kind in PRODUCTS:
            shapes = [tuple(x.shape) for x in (*inputs, *outputs) if x.dtype is not tf.int32]
            if all(min(shape[-2:], default=1) > 1 for shape in shapes):
                pairs = dict(zip(attributes[::2], attributes[1::2], strict=True))
                kept = tuple((name, _hashable(pairs[name])) for name in _ATTRIBUTES if name in pairs)
                products[Product(kind, kept, tuple((_shape_meant(x), x.dtype) for x in inputs))] += 1
        elif "MatMul" in kind or "Conv" in kind:
            raise ValueError(f"{kind} is not known here.")

    tf.config.run_functions_eagerly(True)
    op_callbacks.add_op_callback(record)
    try:
        compute()
    finally:
        op_callbacks.remove_op_callback(record)
        tf.config.run_functions_eagerly(False)
    return products


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _shape_meant(operand: tf.Tensor) -> tuple[int, ...]:
    return tuple(operand.numpy().tolist()) if operand.dtype is tf.int32 else tuple(operand.shape)


def products_program(products: Counter[Product]) -> Program:
    """Makes all products in one call."""
    multiplications = [(product.program(), times) for product, times in products.items()]

    @tf.function
    def program() -> list[tf.Tensor]:
        corners = []
        for multiply, times in multiplications:
            corner: Any = multiply()
            for _ in tf.range(times - 1):
                corner += multiply()
            corners.append(corner)
        return corners

    return program


class Starter:
    """The training step of google/youtube-8m for its two video-level models, rendered as one tf.function.

    What it does, and where it is kinder than the original: records are parsed by the batch, and drawn from a buffer of
    five batches (there, a queue takes and gives videos one by one); labels become multi-hot by way of a sparse tensor;
    penalties are differentiated; each gradient is clipped by `tf.clip_by_norm`; Adam is the fused operation of
    TensorFlow 1; loss, predictions and labels come to NumPy in every step, and Hit@1, PERR and GAP of all of them are
    computed in every tenth. Summaries and checkpoints are left out.
    """

    def __init__(self, case: Case, pattern: str):
        self.case = case
        num_features, num_classes = case.spec.total_size, case.spec.num_classes
        self.mixtures = 2 if case.model == "MoeModel" else 0
        widths = ((self.mixtures + 1) * num_classes, self.mixtures * num_classes) if self.mixtures else (num_classes,)
        glorot = tf.keras.initializers.GlorotUniform(seed=0)
        self.kernels = [tf.Variable(glorot((num_features, width))) for width in widths]
        self.bias = tf.Variable(tf.zeros(widths[-1]))
        self.weights = [*self.kernels, self.bias]
        self.slots = [(tf.Variable(tf.zeros_like(w)), tf.Variable(tf.zeros_like(w))) for w in self.weights]
        self.powers = [tf.Variable(0.9), tf.Variable(0.999)]
        self.global_step = tf.Variable(0, dtype=tf.int64)
        files = tf.data.Dataset.list_files(pattern, seed=0).repeat()
        records = tf.data.TFRecordDataset(files, num_parallel_reads=8).shuffle(5 * case.batch_size)
        self.iterator = iter(records.batch(case.batch_size).map(self._parse, tf.data.AUTOTUNE).prefetch(2))

    def _parse(self, serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        columns = zip(self.case.spec.feature_names, self.case.spec.feature_sizes, strict=True)
        features: dict[str, Any] = {name: tf.io.FixedLenFeature([size], tf.float32) for name, size in columns}
        features |= {"id": tf.io.FixedLenFeature([], tf.string), "labels": tf.io.VarLenFeature(tf.int64)}
        parsed = tf.io.parse_example(serialized, features)
        labels = tf.sparse.to_indicator(parsed["labels"], self.case.spec.num_classes)
        labels.set_shape([None, self.case.spec.num_classes])
        return tf.concat([parsed[name] for name in self.case.spec.feature_names], axis=1), labels

    def _predictions(self, x: tf.Tensor) -> tf.Tensor:
        if not self.mixtures:
            return tf.sigmoid(tf.matmul(x, self.kernels[0]) + self.bias)
        gates = tf.nn.softmax(tf.reshape(tf.matmul(x, self.kernels[0]), [-1, self.mixtures + 1]))
        experts = tf.sigmoid(tf.reshape(tf.matmul(x, self.kernels[1]) + self.bias, [-1, self.mixtures]))
        blend = tf.reduce_sum(gates[:, : self.mixtures] * experts, axis=1)
        return tf.reshape(blend, [-1, self.case.spec.num_classes])

    @tf.function(autograph=False)
    def step(self, features: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Updates the weights; returns the loss, the predictions and the labels."""
        with tf.GradientTape() as tape:
            predictions = self._predictions(tf.nn.l2_normalize(features, 1))
            y, epsilon = tf.cast(labels, tf.float32), 1e-5
            terms = y * tf.math.log(predictions + epsilon) + (1 - y) * tf.math.log(1 - predictions + epsilon)
            loss = tf.reduce_mean(tf.reduce_sum(-terms, 1))
            objective = loss + tf.add_n([1e-8 * tf.nn.l2_loss(kernel) for kernel in self.kernels])
        gradients = [tf.clip_by_norm(g, 1.0) for g in tape.gradient(objective, self.weights)]
        for weight, (m, v), gradient in zip(self.weights, self.slots, gradients, strict=True):
            tf.raw_ops.ResourceApplyAdam(
                var=weight.handle,
                m=m.handle,
                v=v.handle,
                beta1_power=self.powers[0],
                beta2_power=self.powers[1],
                lr=0.01,
                beta1=0.9,
                beta2=0.999,
                epsilon=1e-8,
                grad=gradient,
            )
        for power, beta in zip(self.powers, (0.9, 0.999), strict=True):
            power.assign(power * beta)
        self.global_step.assign_add(1)
        return loss, predictions, labels

    def step_program(self) -> Program:
        """Steps, with metrics in the last of them."""
        return self._run

    def _run(self) -> None:
        for _ in range(self.case.steps):
            _, predictions, labels = (x.numpy() for x in self.step(*next(self.iterator)))
        report_of_starter(predictions, labels)


def report_of_starter(predictions: np.ndarray, labels: np.ndarray, top_k: int = 20) -> dict[str, float]:
    """Hit@1, PERR and GAP of a batch, as the starter computes them: NumPy, video by video."""
    best = predictions.argmax(1)
    hit_at_one = float(np.mean(labels[np.arange(len(labels)), best]))
    perr = 0.0
    for scores, truth in zip(predictions, labels, strict=True):
        num_labels = int(truth.sum())
        perr += truth[np.argpartition(scores, -num_labels)[-num_labels:]].mean() if num_labels else 0.0
    pairs = []
    for scores, truth in zip(predictions, labels, strict=True):
        candidates = np.argpartition(scores, -top_k)[-top_k:]
        pairs += [(scores[c], truth[c]) for c in candidates]
    hits = np.array([hit for _, hit in sorted(pairs, key=lambda pair: -pair[0])])
    precisions = hits.cumsum() / np.arange(1, len(hits) + 1)
    gap = float(precisions[hits].sum() / max(labels.sum(), 1))
    return {"hit_at_one": hit_at_one, "perr": perr / len(labels), "gap": gap}


def serve(contender: str, case_name: str, steps: str, pattern: str) -> None:
    """What a contender's process does: it runs the program whose name it reads, and writes what that took."""
    before = peak_gigabytes()
    case = case_of(case_name, int(steps))
    precision = "bfloat16" if contender == "bfloat16" else "float32"
    training: Any = Starter(case, pattern) if contender == "starter" else Training(case, pattern, precision)
    build = {
        "step": lambda: training.step_program(),
        "products": lambda: training.products_program(),
        "gradients": lambda: training.gradients_program(jit_compile=False),
        "compiled": lambda: training.gradients_program(jit_compile=True),
    }
    programs: dict[str, Program] = {}
    for line in sys.stdin:
        name = line.strip()
        first = time.process_time()
        if name not in programs:
            programs[name] = build[name]()
            programs[name]()  # traces it
        cpu, wall = time.process_time(), time.perf_counter()
        programs[name]()
        took = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "first": cpu - first}
        print(json.dumps(took | {"peak": peak_gigabytes() - before}), flush=True)


# The process that compares them.


class Contender:
    """A process that runs programs when it is told to."""

    def __init__(self, name: str, case: str, steps: int, pattern: str, checkout: str):
        command = [sys.executable, __file__, "--serve", name, case, str(steps), pattern]
        environment = os.environ | {"PYTHONPATH": str(Path(checkout).resolve())}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._commands: Any = self._process.stdin
        self._answers: Any = self._process.stdout

    def run(self, program: str) -> dict[str, float]:
        """Runs a program once and returns its CPU and wall seconds, and the gigabytes of the process at its largest.

        `first` is the CPU seconds that it took before, to trace it and run it a first time.
        """
        self._commands.write(f"{program}\n")
        self._commands.flush()
        return json.loads(self._answers.readline())

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


Way = tuple[str, str, str]  # a name for the table, the contender's name, its program


def take_turns(
    ways: list[Way], case: str, steps: int, pattern: str, rounds: int, before: str = ""
) -> dict[str, list[dict[str, float]]]:
    """Returns what each way took in every round; `first` is its turn before all rounds, which traces."""
    taken: dict[str, list[dict[str, float]]] = {name: [] for name, *_ in ways}
    with ExitStack() as stack:
        contenders: dict[str, Contender] = {}
        first: dict[str, float] = {}
        for way, name, program in ways:
            if name not in contenders:
                contenders[name] = Contender(name, case, steps, pattern, before if name == "before" else ".")
                stack.callback(contenders[name].close)
            first[way] = contenders[name].run(program)["first"]
        for _ in range(rounds):
            for way, name, program in ways:
                taken[way].append(contenders[name].run(program) | {"first": first[way]})
    return taken


def compare(name: str, steps: int, pattern: str, rounds: int, before: str, bfloat16: bool) -> None:
    """Prints seconds per step of every contender of a case, and their ratios."""
    case = case_of(name, steps)
    ways = [("step", "ours", "step"), ("products", "ours", "products")]
    ways += [("step before", "before", "step")] if before else []
    ways += [("step in bfloat16", "bfloat16", "step")] if bfloat16 else []
    ways += [("starter's step", "starter", "step")] if case.starter else []
    taken = take_turns(ways, name, steps, pattern, rounds, before)
    print(f"\n{case.model}, batches of {case.batch_size}")
    print("| way | CPU s per step | wall s per step | examples per CPU s | examples per wall s |\n|" + " --- |" * 5)
    for way, values in taken.items():
        seconds = [statistics.median(value[clock] for value in values) / case.steps for clock in ("cpu", "wall")]
        speeds = " | ".join(f"{case.batch_size / value:.0f}" for value in seconds)
        print(f"| {way} | {seconds[0]:.4f} | {seconds[1]:.4f} | {speeds} |")
    print("\n| ratio | CPU | wall | bar |\n| --- | --- | --- | --- |")
    for above, below, bar in (
        ("step", "products", f"at most {case.bar}"),
        ("step before", "products", ""),
        ("step", "step before", ""),
        ("step in bfloat16", "step", ""),
        ("starter's step", "step", f"at least {case.starter}"),
    ):
        if above in taken and below in taken:
            ratios = " | ".join(f"{ratio:.3f}" for ratio in _ratios(taken, above, below))
            print(f"| {above} / {below} | {ratios} | {bar} |", flush=True)


def _ratios(taken: dict[str, list[dict[str, float]]], above: str, below: str) -> list[float]:
    """Of CPU and of wall seconds: the medians of the rounds' ratios."""
    return [
        median_ratio([value[clock] for value in taken[above]], [value[clock] for value in taken[below]])
        for clock in ("cpu", "wall")
    ]


def survey(names: list[str], steps: int, patterns: Callable[[str], str], rounds: int) -> None:
    """Prints a line for each model."""
    print(
        "\n| model | batch | examples/s | CPU s per example | step / products, CPU | wall | peak GB |\n|" + " --- |" * 7
    )
    for name in names:
        case = case_of(name, steps)
        ways = [("step", "ours", "step"), ("products", "ours", "products")]
        taken = take_turns(ways, name, steps, patterns(name), rounds)
        videos = case.batch_size * case.steps
        speed, cost = (statistics.median(value[clock] for value in taken["step"]) / videos for clock in ("wall", "cpu"))
        cpu, wall = _ratios(taken, "step", "products")
        peak = taken["step"][0]["peak"]
        print(
            f"| {name} | {case.batch_size} | {1 / speed:.1f} | {cost:.5f} | {cpu:.2f} | {wall:.2f} | {peak:.2f} |",
            flush=True,
        )


def compare_compiled(names: list[str], steps: int, patterns: Callable[[str], str], rounds: int) -> None:
    """Prints for each model what XLA makes of its forward and backward passes."""
    print("\n| model | CPU s per step | compiled | ratio, CPU | wall | CPU s to compile |\n|" + " --- |" * 6)
    for name in names:
        case = case_of(name, steps)
        ways = [(program, "ours", program) for program in ("gradients", "compiled")]
        try:
            taken = take_turns(ways, name, steps, patterns(name), rounds)
        except json.JSONDecodeError:
            print(f"| {name} | | cannot be compiled | | | |", flush=True)
            continue
        plain, compiled = (statistics.median(value["cpu"] for value in taken[way]) / case.steps for way, *_ in ways)
        cpu, wall = _ratios(taken, "compiled", "gradients")
        first = taken["compiled"][0]["first"] - taken["gradients"][0]["first"]
        print(f"| {name} | {plain:.4f} | {compiled:.4f} | {cpu:.2f} | {wall:.2f} | {first:.1f} |", flush=True)


@contextmanager
def shards(real_data: str) -> Iterator[Callable[[str], str]]:
    """Offers the pattern of the shards on which a case or a model trains."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "noise.tfrecord"
        rng = np.random.default_rng(0)

        def record(number: int) -> bytes:
            frames = rng.integers(0, 256, (NUM_FRAMES, FRAME_SPEC.total_size), dtype=np.uint8)
            labels = rng.choice(FRAME_SPEC.num_classes, 3, replace=False).tolist()
            return frame_record(f"{number}", labels, {"rgb": frames[:, :1024], "audio": frames[:, 1024:]})

        write_records(path, map(record, range(256)))
        video_level = f"{real_data}/yt8m-2018-video/validate00[0-2]*.tfrecord"
        yield lambda name: video_level if case_of(name).spec is VIDEO_SPEC else str(path)


def main() -> None:
    """Prints the tables that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--before", default="", metavar="CHECKOUT")
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--jit", action="store_true")
    parser.add_argument("--serve", nargs=4, metavar=("CONTENDER", "CASE", "STEPS", "PATTERN"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(*arguments.serve)
        return
    real_data = os.environ.get("YT8M_REAL_DATA", "")
    if not real_data:
        print("\nThe steps are left out: YT8M_REAL_DATA is not set.")
        return
    every_model = (*VIDEO_LEVEL_MODELS.entries, *FRAME_LEVEL_MODELS.entries)
    with shards(real_data) as patterns:
        names = arguments.cases.split(",") if arguments.cases else None
        steps, rounds = arguments.steps, arguments.rounds
        if arguments.all:
            survey(names or [*every_model], steps, patterns, rounds)
        elif arguments.jit:
            compare_compiled(names or [*every_model], steps, patterns, rounds)
        else:
            for name in names or CASES:
                compare(name, steps, patterns(name), rounds, arguments.before, arguments.bfloat16)


if __name__ == "__main__":
    main()
