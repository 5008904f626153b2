"""A model, a loss, a group of metrics, a record format: each one new file and no other edit, in a copy."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from yt8m.data.synthetic import write_frame_shards

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]

MODEL = '''
"""A registered model that came after all others."""

from typing import Any

import tensorflow as tf

from yt8m.arguments import check_at_least
from yt8m.layers.pooling import masked_max, masked_mean
from yt8m.models.base import FrameLevelModel
from yt8m.registry import FRAME_LEVEL_MODELS
from yt8m.schema import DataSpec


@FRAME_LEVEL_MODELS.register(flags={"max_weight": "max_weight"}, loss="SmoothedCrossEntropyLoss")
class MeanAndMaxModel(FrameLevelModel):
    """The mean and the largest value of every feature.

    Args:
        spec: what the records hold.
        max_weight: factor of the largest values.
        inherited: see FrameLevelModel.

    Raises:
        UserError: if the factor is below 0.

    Source: docs/adding-a-model.md.
    """

    def __init__(self, spec: DataSpec, *, max_weight: float = 1.0, **inherited: Any):
        check_at_least(0, max_weight=max_weight)
        super().__init__(spec, **inherited)
        self.max_weight = max_weight

    def pool(self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool) -> tf.Tensor:
        """Pools `frames` `(B, T, D)` twice, to `(B, 2 D)`."""
        return tf.concat([masked_mean(frames, valid), self.max_weight * masked_max(frames, valid)], axis=-1)
'''

LOSS = '''
"""A registered loss that came after all others."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from yt8m.losses.base import class_cross_entropies, sum_over_classes
from yt8m.registry import LOSSES


@LOSSES.register("SmoothedCrossEntropyLoss")
def smoothed_cross_entropy_loss(
    labels: tf.Tensor,
    outputs: Mapping[str, Any],
    label_weights: tf.Tensor | None = None,
    *,
    smoothing: float = 0.1,
) -> tf.Tensor:
    """Binary cross entropy with labels that are not quite sure.

        loss[b] = sum_c (1 - smoothing / 2) h(y[b, c], p[b, c]) + smoothing / 2 h(1 - y[b, c], p[b, c])

    Args:
        labels: `(B, C)` bool, y.
        outputs: `logits` or `predictions` `(B, C)` float, p.
        label_weights: `(B, C)` float; 1 if None.
        smoothing: how unsure.

    Returns:
        `(B,)` float32, in nats.

    Source: Szegedy et al. 2016.
    """
    labels = tf.cast(labels, tf.bool)
    as_labelled, otherwise = (class_cross_entropies(y, outputs) for y in (labels, ~labels))
    return sum_over_classes((1.0 - smoothing / 2.0) * as_labelled + smoothing / 2.0 * otherwise, label_weights)
'''

METRIC = '''
"""A registered group of metrics that came after all others."""

from collections.abc import Iterator, Mapping
from typing import ClassVar

from yt8m.metrics.accumulator import Accumulator, BatchResults
from yt8m.registry import METRICS


@METRICS.register("labels")
class LabelCounts(Accumulator):
    """How many labels a video has.

    Args:
        num_classes: C.
        top_k: k.
        factor: what the mean is multiplied by.
    """

    values: ClassVar[Mapping[str, str]] = {"mean_labels": "labels per video"}

    def __init__(self, num_classes: int, top_k: int, *, factor: float = 1.0):
        self._factor, self._num_labels, self._num_videos = factor, 0, 0

    def add_batch(self, results: BatchResults) -> None:
        """Counts."""
        self._num_labels += int(results["num_labels"].sum())
        self._num_videos += len(results["num_labels"])

    def result(self) -> Iterator[tuple[str, float]]:
        """Yields the mean."""
        yield "mean_labels", self._factor * self._num_labels / max(self._num_videos, 1)
'''

RECORD_FORMAT = '''
"""A registered record format that came after all others."""

import tensorflow as tf

from yt8m.batch import Batch
from yt8m.data.formats.base import Layout
from yt8m.data.formats.video import VideoFormat
from yt8m.registry import RECORD_FORMATS
from yt8m.sampling import FrameSampling
from yt8m.schema import DataSpec


@RECORD_FORMATS.register("doubled", level="video")
class DoubledFormat(VideoFormat):
    """Video-level records that hold half of every number."""

    def features(
        self, spec: DataSpec, layout: Layout, stored: Batch, keys: tf.Tensor, sampling: FrameSampling | None
    ) -> Batch:
        """Returns twice what is stored."""
        features = super().features(spec, layout, stored, keys, sampling)
        return {name: 2.0 * value for name, value in features.items()}
'''

READING = """
import readers
from yt8m.data.record_writing import video_record, write_records
from yt8m.schema import DataSpec
import numpy as np, sys

file = write_records(sys.argv[1], [video_record("v", [1], {"mean_rgb": np.array([0.5, 2.0])})])
spec = DataSpec(("mean_rgb",), (2,), 3, record_format="doubled")
for labels_required in (True, False):
    (batch,) = readers.evaluation_batches([file], spec, 4, labels_required=labels_required)
    print("read", batch["mean_rgb"].numpy().tolist())
"""

FILES = {
    "yt8m/data/formats/doubled.py": RECORD_FORMAT,
    "yt8m/models/mean_and_max.py": MODEL,
    "yt8m/losses/smoothed.py": LOSS,
    "yt8m/metrics/label_counts.py": METRIC,
}


def run_python(place: Path, *arguments: str) -> str:
    """Runs Python in the copy and returns what it printed."""
    ended = subprocess.run(
        [sys.executable, *arguments], cwd=place, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


@pytest.fixture(scope="module", name="copy")
def make_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout with three more files."""
    place = tmp_path_factory.mktemp("copy") / "checkout"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "demo", "runs", "docs", "benchmarks")
    # `runs` at the top is data, yt8m/runs is code.
    shutil.copytree(ROOT, place, ignore=ignored)
    shutil.copytree(ROOT / "yt8m" / "runs", place / "yt8m" / "runs", dirs_exist_ok=True)
    shutil.copytree(ROOT / "tests" / "runs", place / "tests" / "runs", dirs_exist_ok=True)
    shutil.copy(ROOT / "pyproject.toml", place)
    for name, text in FILES.items():
        (place / name).write_text(text.lstrip())
    return place


def test_new_files_pass_the_tests_of_everything_registered(copy: Path) -> None:
    names = "MeanAndMaxModel or SmoothedCrossEntropyLoss or labels"
    tests = ["tests/models/test_contract.py", "tests/losses/test_losses.py", "tests/metrics/test_groups.py"]
    passed = run_python(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", names, *tests)
    assert "failed" not in passed
    catalogue = run_python(
        copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", names, "tests/cli/test_catalogue.py"
    )
    assert "failed" not in catalogue


def test_new_files_are_found_by_the_programs(copy: Path, tmp_path: Path) -> None:
    write_frame_shards(tmp_path, num_videos=20, num_shards=1, num_classes=4, max_frames=5)
    spec = ("--frame_features", "--feature_names=rgb,audio", "--feature_sizes=1024,128", "--num_classes=4")
    data, run = f"{tmp_path}/train*.tfrecord", f"{tmp_path}/run"
    new = ("--model=MeanAndMaxModel", "--max_weight=0.5", "--hparams=loss.smoothing=0.2")
    metrics = ("--metrics=labels:factor=2.0", f"--eval_data_pattern={data}")
    run_python(
        copy, "train.py", *spec, *new, *metrics, f"--train_data_pattern={data}", f"--train_dir={run}", "--num_epochs=1"
    )
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["model"]["hparams"]["max_weight"] == 0.5
    assert config["loss"]["terms"] == [
        {"name": "SmoothedCrossEntropyLoss", "weight": 1.0, "hparams": {"smoothing": 0.2}}
    ]
    summary = json.loads((tmp_path / "run" / "eval" / "metrics.json").read_text())
    assert summary["mean_labels"] >= 2.0  # every video has a label, and the factor is 2
    listed = run_python(copy, "-m", "tools.list_models")
    assert {"MeanAndMaxModel", "SmoothedCrossEntropyLoss", "labels"} <= set(listed.split())


def test_a_new_record_format_is_read_and_trained_on(copy: Path, tmp_path: Path) -> None:
    printed = run_python(copy, "-c", READING, str(tmp_path / "x.tfrecord"))
    assert printed.count("read [[1.0, 4.0]]") == 2
    spec = ("--record_format=doubled", "--feature_names=mean_rgb", "--feature_sizes=2", "--num_classes=3")
    data = (f"--train_data_pattern={tmp_path}/x.tfrecord", f"--train_dir={tmp_path}/run", "--num_epochs=1")
    run_python(copy, "train.py", *spec, *data)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["record_format"] == "doubled"
