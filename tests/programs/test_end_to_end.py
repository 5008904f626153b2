"""Shards -> train.py -> eval.py -> inference.py as people run them, killed and split over workers too."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from yt8m.data.synthetic import write_frame_shards, write_video_shards
from yt8m.output.submission import read_submission
from yt8m.runs.directory import checkpoint_step, newest_checkpoint

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
VIDEO = ["--feature_names=mean_rgb,mean_audio", "--feature_sizes=1024,128", "--num_classes=20"]
STEPS = 600


def start(program: str, *arguments: str, **environment: str) -> subprocess.Popen:
    """Starts a program."""
    return subprocess.Popen(
        [sys.executable, program, *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen, status: int = 0) -> str:
    """Waits for a program and returns what it said on stderr."""
    _, said = process.communicate(timeout=300)
    assert process.returncode == status, said
    return said


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small shards of both kinds in one folder, as in the starter's examples."""
    place = tmp_path_factory.mktemp("shards")
    sizes = {"num_shards": 3, "num_classes": 20}
    for seed, (split, num_videos) in enumerate({"train": 240, "validate": 60, "test": 40}.items()):
        labelled = split != "test"
        for write, kind in ((write_frame_shards, "frame"), (write_video_shards, "video")):
            directory = place / kind / split
            write(str(directory), prefix=split, num_videos=num_videos, seed=seed, labelled=labelled, **sizes)
    return place


def video_command(shards: Path, run: Path) -> list[str]:
    """A run long enough to be killed in the middle."""
    return [
        "train.py",
        f"--train_data_pattern={shards}/video/train/train*.tfrecord",
        "--model=MoeModel",
        *VIDEO,
        "--batch_size=32",
        "--num_epochs=0",
        f"--max_steps={STEPS}",
        "--export_model_steps=50",
        "--weights_halflife=100",
        f"--train_dir={run}",
    ]


@pytest.fixture(scope="module")
def whole_run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    finish(start(*video_command(shards, run)))
    return run


def weights(run: Path) -> dict[str, np.ndarray]:
    """Everything in a run's newest checkpoint, averages too."""
    reader = tf.train.load_checkpoint(newest_checkpoint(str(run)))
    names = [name for name in reader.get_variable_to_shape_map() if "VARIABLE_VALUE" in name]
    return {name: reader.get_tensor(name) for name in names}


def test_a_killed_run_ends_with_the_weights_of_a_whole_one(whole_run: Path, shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(*video_command(shards, run))
    while newest_checkpoint(str(run)) is None and process.poll() is None:
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.3))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    killed_at = checkpoint_step(newest_checkpoint(str(run)) or "none-0")
    assert 0 < killed_at < STEPS, "the kill came too late to prove anything"
    finish(start(*video_command(shards, run)))
    resumed, unbroken = weights(run), weights(whole_run)
    assert resumed.keys() == unbroken.keys()
    for name, value in unbroken.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start_two_workers(*command: str) -> list[subprocess.Popen]:
    """Starts one command on two workers of this machine."""
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    tasks = [{"type": "worker", "index": index} for index in range(2)]
    configs = [json.dumps({"cluster": {"worker": addresses}, "task": task}) for task in tasks]
    return [start(*command, TF_CONFIG=config) for config in configs]


def test_two_workers_of_which_the_first_is_killed_reach_the_weights_of_one(
    whole_run: Path, shards: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    processes = start_two_workers(*video_command(shards, run))
    while newest_checkpoint(str(run)) is None and all(process.poll() is None for process in processes):
        time.sleep(0.01)
    processes[0].kill()
    processes[0].communicate()
    said = finish(processes[1], status=1)
    assert "Worker 1 of 2 stops, for another one was lost: " in said
    assert "Traceback" not in said
    killed_at = checkpoint_step(newest_checkpoint(str(run)) or "none-0")
    assert 0 < killed_at < STEPS, "the kill came too late to prove anything"
    for process in start_two_workers(*video_command(shards, run)):
        finish(process)
    two, one = weights(run), weights(whole_run)
    assert two.keys() == one.keys()
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


def test_the_starters_frame_level_commands(shards: Path, tmp_path: Path) -> None:
    data, run = f"{shards}/frame", tmp_path / "sample_model"
    said = finish(
        start(
            *f"train.py --frame_features --model=FrameLevelLogisticModel --feature_names=rgb,audio "
            f"--feature_sizes=1024,128 --train_data_pattern={data}/train/train*.tfrecord --train_dir {run} "
            f"--start_new_model --num_classes=20 --batch_size=16 --num_epochs=20 --base_learning_rate=0.1 "
            f"--eval_data_pattern={data}/validate/validate*.tfrecord --export_model_steps=150".split()
        )
    )
    assert "training step 10 | Loss: " in said
    assert " Examples/sec: " in said
    assert sorted(path.name for path in (run / "best").glob("ckpt*.index")) in (["ckpt-150.index"], ["ckpt-300.index"])
    said = finish(
        start(
            *f"eval.py --eval_data_pattern={data}/validate/validate*.tfrecord --train_dir {run} "
            "--run_once --macro".split()
        )
    )
    assert "epoch/eval number 300 | Avg_Hit@1: " in said
    metrics = json.loads((run / "eval/metrics.json").read_text())
    assert metrics["global_step"] == 300
    assert metrics["num_examples"] == 60
    assert metrics["gap"] > 0.5
    assert {"hit_at_one", "perr", "map", "map_all_classes", "loss", "macro_ap", "macro_auc"} <= metrics.keys()
    output = tmp_path / "out" / "kaggle_solution.csv"
    output.parent.mkdir()
    finish(
        start(
            *f"inference.py --train_dir {run} --output_file={output} --input_data_pattern={data}/test/test*.tfrecord "
            f"--output_model_tgz={tmp_path}/model.tgz".split()
        )
    )
    submission = read_submission(str(output))
    assert len(submission.ids) == 40
    from_archive = tmp_path / "from_archive.csv"
    finish(
        start(
            *f"inference.py --input_model_tgz={tmp_path}/model.tgz --output_file={from_archive} "
            f"--input_data_pattern={data}/test/test*.tfrecord".split()
        )
    )
    assert from_archive.read_text() == output.read_text()
    check_tensorboard(run)


def check_tensorboard(run: Path) -> None:
    """Starts TensorBoard on a run and reads its scalars back."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", f"--logdir={run}", f"--port={port}", "--load_fast=false"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        tags = wait_for_tags(f"http://127.0.0.1:{port}/data/plugin/scalars/tags")
    finally:
        server.terminate()
        server.wait()
    expected = {"learning_rate", "label_loss", "reg_loss", "model/Training_Hit@1", "model/Training_Perr"}
    assert expected | {"model/Training_GAP", "global_step/Examples/Second"} <= tags["."].keys()
    names = ("Eval_Avg_Hit@1", "Eval_Avg_Perr", "Eval_Avg_Loss", "Eval_MAP", "Eval_GAP")
    assert {f"Epoch/{name}" for name in names} <= tags["eval"].keys()


def wait_for_tags(address: str) -> dict:
    """Asks until TensorBoard has read the run."""
    for _ in range(120):
        try:
            with urllib.request.urlopen(address) as answer:
                tags = json.load(answer)
            if tags.get(".") and tags.get("eval"):
                return tags
        except OSError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"TensorBoard did not answer at {address}")


def test_the_starters_video_level_commands_while_the_evaluation_waits(shards: Path, tmp_path: Path) -> None:
    data, run = f"{shards}/video", tmp_path / "video_level_logistic_model"
    watch = start(
        *f"eval.py --eval_data_pattern={data}/validate/validate*.tfrecord --train_dir {run} "
        f"--vocabulary={write_vocabulary(tmp_path)}".split()
    )
    try:
        assert "Waiting for a run to start" in read_line(watch)
        finish(
            start(
                *f"train.py --train_data_pattern={data}/train/train*.tfrecord --model=LogisticModel "
                f"--feature_names=mean_rgb,mean_audio --feature_sizes=1024,128 --train_dir {run} --num_classes=20 "
                "--batch_size=40".split()
            )
        )
        assert "epoch/eval number 30 | Avg_Hit@1: " in read_line(watch)  # 240 videos, 5 epochs, 40 a step
        while not (run / "eval/per_class_ap.csv").exists():
            time.sleep(0.1)
    finally:
        watch.kill()
        watch.communicate()
    header, first, *others = (run / "eval/per_class_ap.csv").read_text().splitlines()
    assert header == "class,name,num_positives,average_precision"
    assert first.startswith("0,Name 0,")
    assert len(others) == 19
    said = finish(
        start(
            *f"inference.py --train_dir {run} --output_file={tmp_path}/missing/solution.csv "
            f"--input_data_pattern={data}/test/test*.tfrecord".split()
        ),
        status=1,
    )
    assert said.startswith(f"error: --output_file={tmp_path}/missing/solution.csv cannot be written")
    assert len(said.splitlines()) == 1
    finish(
        start(
            *f"inference.py --train_dir {run} --output_file={tmp_path}/solution.csv "
            f"--input_data_pattern={data}/test/test*.tfrecord".split()
        )
    )
    assert len(read_submission(f"{tmp_path}/solution.csv").ids) == 40


def write_vocabulary(folder: Path) -> Path:
    """Names for 20 classes, in the form of the data set's own file."""
    path = folder / "vocabulary.csv"
    path.write_text("Index,Name\n" + "".join(f"{index},Name {index}\n" for index in range(20)))
    return path


def read_line(process: subprocess.Popen) -> str:
    """Waits for the next line of a running program."""
    assert process.stderr is not None
    return process.stderr.readline()


def test_real_shards_from_training_to_submission(real_data: Path, tmp_path: Path) -> None:
    run, shards = tmp_path / "run", real_data / "audioset"
    recipe = ROOT / "recipes" / "audioset-logistic.flags"
    training = f"--train_data_pattern={shards}/bal_train-00000-*"
    finish(start("train.py", f"--flagfile={recipe}", training, f"--train_dir={run}", "--num_epochs=8"))
    evaluation = f"--eval_data_pattern={shards}/bal_train-00001-*"
    finish(start("eval.py", evaluation, f"--train_dir={run}", "--run_once"))
    metrics = json.loads((run / "eval/metrics.json").read_text())
    assert metrics["num_examples"] == 2802
    assert metrics["gap"] > 0.15  # by the class prior alone: 0.055
    output = tmp_path / "solution.csv"
    unlabelled = f"--input_data_pattern={shards}/eval-00000-*"
    finish(start("inference.py", unlabelled, f"--train_dir={run}", f"--output_file={output}"))
    assert len(read_submission(str(output)).ids) == 2474


def test_tools_are_found_from_the_checkout(shards: Path) -> None:
    said = finish(start("-m", "tools.check_dataset", *VIDEO, f"--data_pattern={shards}/video/train/train*.tfrecord"))
    assert said == ""


def test_a_wrong_command_is_answered_in_one_line_and_leaves_nothing(shards: Path, tmp_path: Path) -> None:
    pattern = f"--train_data_pattern={shards}/video/train/train*.tfrecord"
    said = finish(start("train.py", "--model=MoeModle", *VIDEO, pattern, f"--train_dir={tmp_path}/run"), status=1)
    assert said.splitlines() == [
        "error: --model=MoeModle: there is no such video-level model. Did you mean MoeModel? "
        "Known: ChainModel, KernelRidgeModel, LogisticModel, MoeModel, MonnModel, NearestNeighboursModel, "
        "ResidualMlpModel, SvmModel."
    ]
    assert list(tmp_path.iterdir()) == []
