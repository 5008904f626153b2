"""A whole competition on synthetic videos: shards, training, evaluation, submission, report. `make demo` runs it."""

from absl import flags

from yt8m.cli import program


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of this program."""
    flags.DEFINE_string("directory", "demo", "Where shards, run and submission go.", flag_values=values)


if __name__ == "__main__":
    # Before TensorFlow is loaded, so that --help and mistyped flags are answered at once.
    program.parse_flags(define_flags)

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from yt8m.batch import LABELS
from yt8m.data.synthetic import write_frame_shards
from yt8m.errors import UserError
from yt8m.metrics import metrics_of_matrix
from yt8m.runs.directory import CLASS_TABLE, EVALUATION, HISTORY
from yt8m.schema import DataSpec

import readers

ROOT = Path(__file__).resolve().parent.parent
NUM_CLASSES = 50
SPLITS = {"train": 3000, "validate": 600, "test": 600}
SPEC = DataSpec(("rgb", "audio"), (1024, 128), NUM_CLASSES, record_format="frame")


def main(values: flags.FlagValues) -> None:
    """Writes synthetic shards, trains, evaluates, writes a submission and a report, and prints scores and paths.

    Raises:
        UserError: if one of the programs fails.
    """
    start = time.monotonic()
    place = Path(values.directory).resolve()
    make_shards(place)
    run = place / "run"
    run_program(
        "train.py",
        "--frame_features",
        "--model=DbofModel",
        "--feature_names=rgb,audio",
        "--feature_sizes=1024,128",
        f"--num_classes={NUM_CLASSES}",
        "--dbof_cluster_size=512",
        "--dbof_hidden_size=256",
        "--batch_size=64",
        "--num_epochs=4",
        f"--train_data_pattern={place}/train*.tfrecord",
        f"--eval_data_pattern={place}/validate*.tfrecord",
        "--export_model_steps=60",
        f"--train_dir={run}",
        "--start_new_model",
    )
    run_program("eval.py", f"--eval_data_pattern={place}/validate*.tfrecord", f"--train_dir={run}", "--run_once")
    submission = place / "submission.csv"
    run_program(
        "inference.py",
        f"--input_data_pattern={place}/test*.tfrecord",
        f"--train_dir={run}",
        f"--output_file={submission}",
    )
    page = place / "report.html"
    run_program(
        "tools.report",
        f"--train_dir={run}",
        f"--eval_data_pattern={place}/validate*.tfrecord",
        f"--output={page}",
    )
    tell(place, run, submission, page, time.monotonic() - start)


def make_shards(place: Path) -> None:
    """Writes shards of the three splits into `place`; the test split has no labels."""
    for seed, (split, num_videos) in enumerate(SPLITS.items()):
        say(f"making {num_videos} videos: {place}/{split}*.tfrecord")
        write_frame_shards(
            str(place),
            prefix=split,
            num_videos=num_videos,
            num_shards=4,
            num_classes=NUM_CLASSES,
            seed=seed,
            labelled=split != "test",
        )


def run_program(program: str, *arguments: str) -> None:
    """Runs one of the project's programs in a process of its own, with its output on the terminal.

    Raises:
        UserError: if the program ends with a status other than 0.
    """
    say(f"python {program if program.endswith('.py') else f'-m {program}'} {' '.join(arguments)}")
    command = [program] if program.endswith(".py") else ["-m", program]
    if subprocess.run([sys.executable, *command, *arguments], cwd=ROOT, check=False).returncode:
        raise UserError(f"{program} failed: its message is above.")


def class_prior_gap(place: Path) -> float:
    """Returns the validation GAP, in [0, 1], of predicting each class's frequency in training for every video."""
    counts, num_videos = readers.class_counts(
        readers.find_files(f"{place}/train*.tfrecord", "train"), SPEC, SPLITS["train"]
    )
    files = readers.find_files(f"{place}/validate*.tfrecord", "validate")
    batches = readers.evaluation_batches(files, SPEC, 256, labels_required=True)
    labels = np.concatenate([batch[LABELS].numpy() for batch in batches])
    predictions = np.broadcast_to((counts / num_videos).astype(np.float32), labels.shape)
    return metrics_of_matrix(predictions, labels).result()["gap"]


def tell(place: Path, run: Path, submission: Path, page: Path, seconds: float) -> None:
    """Prints the metrics, the baseline and the paths.

    Args:
        place: the directory of the shards.
        run: the directory of the run.
        submission: the CSV.
        page: the report.
        seconds: the time that the demo took.
    """
    metrics = json.loads(Path(EVALUATION.path(str(run))).read_text())
    first_row = submission.read_text().splitlines()[1]
    print(
        f"""
GAP {metrics["gap"]:.4f}, Hit@1 {metrics["hit_at_one"]:.4f} on {metrics["num_examples"]} unseen videos.
Predicting the class prior gives GAP {class_prior_gap(place):.4f}. Made in {seconds:.0f} s.

shards       {place}/train*.tfrecord, validate*.tfrecord, test*.tfrecord
run          {run}
metrics      {EVALUATION.path(str(run))}, {HISTORY.name}, {CLASS_TABLE.name}
submission   {submission}
             {first_row[:70]} ...
page         {page}

To watch it:  .venv/bin/tensorboard --logdir={run}"""
    )


def say(text: str) -> None:
    """Prints a heading, before the output of the next program."""
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    program.run(main)
