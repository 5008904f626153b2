"""Every registered model in every format: what it differs by from the model, its size, or why it is refused.

    PYTHONPATH=. python benchmarks/export.py [--only=MoeModel,GruModel] [--videos 1000] [--results results.json]

Models are small, with random weights; their sizes are no matter for what a format can hold. They predict real videos
in batches of 100: video-level ones of YouTube-8M, AudioSet's frames; clips are four of random pixels. LiteRT and ONNX
files are run by a process without TensorFlow. Results are kept as they come, and models that have some are not measured
again.
"""

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tools.export_model import check_inputs, converted, graph_of
from tools.measuring import FOLDERS, real_data
from yt8m.engine.serving import ServedModel
from yt8m.errors import UserError
from yt8m.output import export
from yt8m.output.exported import RUNNERS
from yt8m.registry import CLIP_MODELS, FRAME_LEVEL_MODELS, VIDEO_LEVEL_MODELS, Registry
from yt8m.schema import NUM_CLASSES, DataSpec

import readers
from video_level_models import VideoLevelModel

SMALL = {
    "cluster_size": 8, "second_cluster_size": 8, "hidden_size": 16, "head_size": 8, "attention_size": 8, "units": 16,
    "lstm_cells": 16, "gru_cells": 16, "num_layers": 1, "num_kernels": 16, "filters": 4, "code_size": 4,
    "num_supports": 2, "num_blocks": 1, "projected_size": 4, "projection_size": 24, "backbone_width": 0.5,
    "inception_width": 1 / 16, "width": 1 / 16, "flow_length": 3, "window_stride": 2, "fusion_size": 16,
}  # fmt: skip
SPECS = {
    VIDEO_LEVEL_MODELS: DataSpec(("mean_rgb", "mean_audio"), (1024, 128), 100),
    FRAME_LEVEL_MODELS: DataSpec(("audio_embedding",), (128,), 100, record_format="frame"),
    CLIP_MODELS: DataSpec(("rgb", "flow"), (3, 2), 100, record_format="clip", max_frames=8, clip_size=32),
}
SHARDS = {VIDEO_LEVEL_MODELS: ("video", "validate003[6-9].tfrecord"), FRAME_LEVEL_MODELS: ("audioset", "eval-00000-*")}
VARIANTS = {"RankPoolModel method=approximate": FRAME_LEVEL_MODELS}
BATCH_SIZE = 100
FORMATS = ("saved_model", "litert", "onnx")
ELSEWHERE = """
import json, statistics, sys, time
import numpy as np
from yt8m.output.exported import RUNNERS
for line in sys.stdin:
    file_format, folder, num_batches = json.loads(line)
    try:
        run, seconds = RUNNERS[file_format](f"{folder}/{file_format}"), []
        for number in range(num_batches):
            batch = dict(np.load(f"{folder}/{number}.npz"))
            if not number:
                run(batch)
            start = time.perf_counter()
            predictions = run(batch)
            seconds.append(time.perf_counter() - start)
            np.save(f"{folder}/{number}.npy", predictions)
        answer = {"seconds": statistics.median(seconds)}
    except Exception as error:
        answer = {"refused": f"does not run: {error}"}
    assert "tensorflow" not in sys.modules
    print(json.dumps(answer), flush=True)
"""


def videos_of(registry: Registry, count: int) -> list[dict[str, np.ndarray]]:
    """Returns batches of real videos, or one of random clips."""
    spec = SPECS[registry]
    if registry is CLIP_MODELS:
        generator, shape = np.random.default_rng(0), (4, spec.max_frames, spec.clip_size, spec.clip_size)
        clips = {
            name: generator.integers(0, 256, (*shape, channels)).astype(np.uint8)
            for name, channels in zip(spec.feature_names, spec.feature_sizes, strict=True)
        }
        return [clips | {"num_frames": np.array([8, 3, 8, 1], np.int32)}]
    folder, pattern = SHARDS[registry]
    files = readers.find_files(str(real_data() / FOLDERS[folder] / pattern), "shards")
    stored = replace(spec, num_classes=NUM_CLASSES)  # more classes than the models predict
    batches = readers.evaluation_batches(files, stored, BATCH_SIZE, labels_required=False)
    names = [*spec.feature_names, *(["num_frames"] if registry is FRAME_LEVEL_MODELS else [])]
    first_ones = itertools.islice(batches, math.ceil(count / BATCH_SIZE))
    return [{name: batch[name].numpy() for name in names} for batch in first_ones]


def build(registry: Registry, name: str, batch: dict[str, np.ndarray]) -> keras.Model:
    """Builds a small model with random weights, and lets it remember the videos if it can."""
    keras.utils.set_random_seed(0)
    name, *assignments = name.split(" ")
    known = registry.entry(name).hyper_parameters
    hparams: dict[str, Any] = {hparam: value for hparam, value in SMALL.items() if hparam in known}
    hparams |= dict(assignment.split("=") for assignment in assignments)
    spec = SPECS[registry]
    if registry is VIDEO_LEVEL_MODELS:
        model: Any = VideoLevelModel(spec, registry[name](spec.num_classes, **hparams))
    else:
        model = registry[name](spec, **hparams)
    model.build()
    generator = np.random.default_rng(1)
    for weight in model.trainable_variables:
        weight.assign_add(0.1 * generator.normal(size=weight.shape))
    if hasattr(model.classifier, "remember"):
        labels = generator.random((len(next(iter(batch.values()))), spec.num_classes)) < 0.01
        model.remember([{**{key: tf.constant(value) for key, value in batch.items()}, "labels": tf.constant(labels)}])
    return model


def measure(registry: Registry, name: str, count: int, folder: Path, elsewhere: Any) -> dict[str, Any]:
    """Returns what every format makes of a model: the difference, bytes and seconds, or why it is refused."""
    batches = videos_of(registry, count)
    served = ServedModel(build(registry, name, batches[0]))
    signature = served.signature()
    predict = graph_of(served.outputs, signature)
    predict({key: tf.constant(value) for key, value in batches[0].items()})
    expected, seconds = [], []
    for number, batch in enumerate(batches):
        np.savez(folder / f"{number}.npz", **batch)
        videos = {key: tf.constant(value) for key, value in batch.items()}
        start = time.perf_counter()
        expected.append(predict(videos)["predictions"].numpy())
        seconds.append(time.perf_counter() - start)
    results: dict[str, Any] = {"videos": sum(map(len, expected)), "seconds": statistics.median(seconds)}

    def found(file_format: str, predictions_of: Callable[[int], np.ndarray]) -> dict[str, Any]:
        differences = [np.max(np.abs(predictions_of(number) - other)) for number, other in enumerate(expected)]
        files = [path for path in (folder / file_format, *(folder / file_format).rglob("*")) if path.is_file()]
        return {"difference": float(np.max(differences)), "bytes": sum(path.stat().st_size for path in files)}

    export.write_saved_model(str(folder / "saved_model"), {"serving_default": predict.get_concrete_function()})
    run = RUNNERS["saved_model"](str(folder / "saved_model"))
    results["saved_model"] = found("saved_model", lambda number: run(batches[number]))
    for file_format in ("litert", "onnx"):
        start = time.perf_counter()
        try:
            check_inputs(file_format, served)
            (folder / file_format).write_bytes(converted(file_format, "float32", served, signature))
        except UserError as error:
            results[file_format] = {"refused": str(error)}
            continue
        written_in = time.perf_counter() - start
        print(json.dumps([file_format, str(folder), len(batches)]), file=elsewhere.stdin, flush=True)
        results[file_format] = json.loads(elsewhere.stdout.readline()) | {"written_in": written_in}
        if "refused" not in results[file_format]:
            results[file_format] |= found(file_format, lambda number: np.load(folder / f"{number}.npy"))
    return results


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="")
    parser.add_argument("--videos", type=int, default=1000)
    parser.add_argument("--results", type=Path, default=Path("export-results.json"))
    arguments = parser.parse_args()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", ELSEWHERE]
    results = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
    models = {name: registry for registry in SPECS for name in registry.names()}
    models = dict(sorted((models | VARIANTS).items(), key=lambda item: (list(SPECS).index(item[1]), item[0])))
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env=environment) as elsewhere:
        for name in arguments.only.split(",") if arguments.only else models:
            if name in results:
                continue
            with tempfile.TemporaryDirectory() as folder:
                results[name] = measure(models[name], name, arguments.videos, Path(folder), elsewhere)
            print(name, results[name], file=sys.stderr, flush=True)
            arguments.results.write_text(json.dumps(results, indent=1))
            keras.backend.clear_session()
    print("\n".join(rows(results, [name for name in models if name in results])))


def rows(results: dict[str, Any], names: list[str]) -> list[str]:
    """Returns the table, and the largest difference in every format."""
    lines = [
        "| model | SavedModel, MB | LiteRT: difference, MB | ONNX: difference, MB "
        f"| ms of {BATCH_SIZE} videos: TensorFlow, LiteRT, ONNX |",
        "| --- | --- | --- | --- | --- |",
    ]
    largest = dict.fromkeys(FORMATS, 0.0)
    for name in names:
        result = results[name]
        cells = [f"{result['saved_model']['bytes'] / 1e6:.2f}"]
        for key in FORMATS[1:]:
            refused = result[key].get("refused")
            cells.append(refused or f"{result[key]['difference']:.1e}, {result[key]['bytes'] / 1e6:.2f}")
        for key in FORMATS:
            largest[key] = float(np.max([largest[key], result[key].get("difference", 0.0)]))
        times = [result["seconds"], *(result[key].get("seconds") for key in FORMATS[1:])]
        milliseconds = ", ".join("-" if t is None else f"{1000 * t:.0f}" for t in times)
        lines.append(f"| {name} | {' | '.join(cells)} | {milliseconds} |")
    return [*lines, "", ", ".join(f"{key}: {value:.1e}" for key, value in largest.items())]


if __name__ == "__main__":
    main()
