"""What programs do before their first step: what they load, what they trace, and how often."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from programs import run
from tensorflow.python.autograph.impl import api as autograph

from yt8m.data.synthetic import write_video_shards

import readers
from video_level_models import VideoLevelModel

ROOT = Path(__file__).parents[2]
DATA = ["--feature_names=mean_rgb,mean_audio", "--feature_sizes=1024,128", "--num_classes=20"]
# Nobody has to install these, and Keras loads them, in a second and more, where they are installed.
NOT_NEEDED = ("pandas", "scipy", "sklearn", "matplotlib", "tensorflow_io", "IPython", "jax", "torch")

TRAINING = """
import gc, json, runpy, sys
sys.modules |= dict.fromkeys({not_needed!r})
import keras, tensorflow
before = set(sys.modules)
sys.argv = ["train.py", *{arguments!r}]
try:
    runpy.run_path("train.py", run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
loaded = {{name.split(".")[0] for name in set(sys.modules) - before}}
print(json.dumps([sorted(loaded), gc.isenabled(), gc.get_freeze_count()]))
"""


@pytest.fixture
def shards(tmp_path: Path) -> str:
    write_video_shards(str(tmp_path), prefix="train", num_shards=2, num_videos=40, num_classes=20)
    return f"{tmp_path}/train*"


def commands(shards: str, run_directory: Path) -> dict[str, list[str]]:
    """A run of two steps with an evaluation, then the two programs that take it further."""
    here = [f"--train_dir={run_directory}", "--batch_size=10"]
    training = [f"--train_data_pattern={shards}", f"--eval_data_pattern={shards}", "--max_steps=2", "--log_steps=2"]
    return {
        "train": [*DATA, *training, *here],
        "eval": [f"--eval_data_pattern={shards}", "--run_once", *here],
        "inference": [f"--input_data_pattern={shards}", f"--output_file={run_directory}/out.csv", *here],
    }


def test_training_loads_nothing_that_it_does_not_use(shards: str, tmp_path: Path) -> None:
    code = TRAINING.format(not_needed=NOT_NEEDED, arguments=commands(shards, tmp_path / "run")["train"])
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    loaded, collects, frozen = json.loads(ended.stdout.splitlines()[-1])
    ours = {"yt8m", "experiment", "readers", "losses", "video_level_models"}
    # TensorBoard writes the events, some as protocol buffers; it loads what it finds of the others for remote paths.
    events = {"tensorboard", "google", "fsspec", "botocore"}
    needed = {"tensorflow", "keras", "absl", "numpy"}
    # Extensions that were compiled by the same Cython share a module of their own.
    third_party = {name for name in loaded if not name.startswith("_cython_")} - set(sys.stdlib_module_names)
    assert third_party - ours - events - needed == set()
    # Garbage is collected again, but what TensorFlow's import left is not looked through any more.
    assert collects
    assert frozen > 0


def test_functions_are_traced_once_and_not_converted(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced: list[str] = []
    converted: list[Any] = []

    def counted(name: str, function: Callable) -> Callable:
        @wraps(function)  # Keras looks at the signature
        def call(*args: Any, **kwargs: Any) -> Any:
            if not tf.executing_eagerly():
                traced.append(name + (", training" if kwargs.get("training") else ""))
            return function(*args, **kwargs)

        return call

    def noted(entity: Any, context: Any) -> Any:
        converted.append(entity)
        return real_convert(entity, context)

    real_parser, real_convert = readers.batch_parser, autograph._convert_actual
    monkeypatch.setattr(VideoLevelModel, "call", counted("model", VideoLevelModel.call))
    monkeypatch.setattr(
        readers, "batch_parser", lambda *args, **kwargs: counted("parser", real_parser(*args, **kwargs))
    )
    monkeypatch.setattr(autograph, "_convert_actual", noted)
    # Training is evaluated at its end, so its evaluation is traced too.
    expected = {
        "train": ["model", "model, training", "parser", "parser"],
        "eval": ["model", "parser"],
        "inference": ["model", "parser"],
    }
    for program, arguments in commands(shards, tmp_path / "run").items():
        traced.clear()
        run(program, *arguments)
        assert sorted(traced) == expected[program]
    assert converted == []
