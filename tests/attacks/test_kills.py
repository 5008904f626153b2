"""Killed before any change of a file and started again, training ends with the files of the unbroken run.

Here a kill is an exception after which nothing can be changed any more, and a few moments are tried. With true kills,
of all programs and before every change: benchmarks/attack_kills.py.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from programs import run

from yt8m import files
from yt8m.data.synthetic import write_video_shards

NUM_KILLS = 3


class Killed(BaseException):
    """What nobody catches."""


class Disk:
    """Counts changes of files and lets a program die before one of them; a dead program changes nothing.

    Args:
        patch: puts itself in the place of TensorFlow's file operations.
        kill_at: the number of the change, the first is 1; 0 for none.
    """

    def __init__(self, patch: pytest.MonkeyPatch, kill_at: int = 0):
        self.changes = 0
        self._kill_at = kill_at
        for name in ("rename", "remove", "rmtree", "makedirs"):
            patch.setattr(tf.io.gfile, name, self._counted(getattr(tf.io.gfile, name)))
        patch.setattr(tf.io.gfile, "GFile", self._file_class())
        patch.setattr(tf.train.Checkpoint, "write", self._half_written(tf.train.Checkpoint.write))
        patch.setattr(files, "start_of", lambda process: "1")  # afterwards its files are those of another process

    def change(self) -> None:
        """Comes before every change."""
        self.changes += 1
        if 0 < self._kill_at <= self.changes:
            raise Killed

    def _counted(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **more: Any) -> Any:
            self.change()
            return operation(*arguments, **more)

        return counted

    def _half_written(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def half_written(checkpoint: tf.train.Checkpoint, path: str) -> Any:
            if self.changes + 1 == self._kill_at:
                folder = Path(f"{path}_temp")
                folder.mkdir()
                (folder / "part-00000-of-00001.index.tempstate1").write_text("half")
                Path(f"{path}.index").write_text("half")
            self.change()
            return write(checkpoint, path)

        return half_written

    def _file_class(self) -> type:
        disk = self

        class File(tf.io.gfile.GFile):
            """A file whose changes count."""

            def __init__(self, name: str, mode: str = "r"):
                self.is_written = "w" in mode
                if self.is_written:
                    disk.change()
                super().__init__(name, mode)

            def write(self, content: str | bytes) -> None:
                disk.change()
                super().write(content)

            def close(self) -> None:
                if self.is_written:
                    disk.change()
                super().close()

        return File


@pytest.fixture(scope="module", name="shards")
def make_shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A few videos."""
    place = tmp_path_factory.mktemp("shards")
    write_video_shards(place, num_videos=40, num_shards=3, num_classes=3)
    return f"{place}/train*.tfrecord"


def train(train_dir: Path, shards: str) -> None:
    schedule = ("--batch_size=10", "--num_epochs=0", "--max_steps=5", "--export_model_steps=2", "--keep_checkpoints=2")
    data = (f"--train_data_pattern={shards}", f"--eval_data_pattern={shards}", "--num_classes=3")
    run("train", *data, *schedule, f"--train_dir={train_dir}")


def contents(train_dir: Path) -> dict[str, bytes]:
    """All files but those of events, which are only ever added to; of checkpoints the values.

    The second model of a process has other names of layers, which checkpoints hold too.
    """
    paths = [path for path in train_dir.rglob("*") if path.is_file() and "tfevents" not in path.name]
    return {str(path.relative_to(train_dir)): values(path) for path in paths}


def values(path: Path) -> bytes:
    if ".data-" in path.name:
        return b""  # compared with the index, through which the values are read
    if path.suffix != ".index":
        return path.read_bytes()
    checkpoint = tf.train.load_checkpoint(str(path.with_suffix("")))
    names = sorted(name for name in checkpoint.get_variable_to_shape_map() if "VARIABLE_VALUE" in name)
    return b"".join(name.encode() + checkpoint.get_tensor(name).tobytes() for name in names)


@pytest.mark.slow
def test_a_run_that_is_killed_ends_with_the_files_of_the_unbroken_one(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        disk = Disk(patch)
        train(tmp_path / "run", shards)
    (tmp_path / "run").rename(tmp_path / "unbroken")
    unbroken = contents(tmp_path / "unbroken")
    assert {"ckpt-4.index", "ckpt-5.index", "data/5.json", "best/metrics.json", "eval/history.jsonl"} < unbroken.keys()
    for number in sorted(random.Random(3).sample(range(1, disk.changes + 1), NUM_KILLS)):
        with monkeypatch.context() as patch:
            Disk(patch, number)
            with pytest.raises(Killed):
                train(tmp_path / "run", shards)
        train(tmp_path / "run", shards)
        found = contents(tmp_path / "run")
        assert sorted(found) == sorted(unbroken), f"killed before change {number}"
        assert [path for path in found if found[path] != unbroken[path]] == [], f"killed before change {number}"
        (tmp_path / "run").rename(tmp_path / f"killed-{number}")
