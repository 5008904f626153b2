"""What whole processes cost, up to the first step, to evaluate and to predict, compared with the import of TensorFlow.

    [YT8M_REAL_DATA=DIR] PYTHONPATH=. python benchmarks/startup.py [--rounds 5]

LogisticModel on video-level records of 1024 + 128 features and 3862 classes: 8 shards for training, 8 others, about
2300 videos, for eval.py and inference.py; made up where there is no YT8M_REAL_DATA. CPU seconds are user and system,
of all threads. Processes take turns, round by round, and times are medians. The starter does not run beside TensorFlow
2: benchmarks/starter.py renders its work. Needs Linux, whose /proc tells what a process has used so far.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from yt8m.data.synthetic import write_video_shards
from yt8m.runs.directory import EVALUATION, newest_checkpoint

FLOOR = "`import tensorflow`"
MODEL = ["--model=LogisticModel", "--feature_names=mean_rgb,mean_audio", "--feature_sizes=1024,128"]
FIRST_STEP = b"training step 1 "
Cost = tuple[float, float]  # CPU seconds, seconds


def whole_process(*command: str, status: int = 0) -> Cost:
    """Runs Python on a command and measures the process from its start to its end."""
    with tempfile.TemporaryFile() as output:
        start = time.perf_counter()
        process = start_python(command, output.fileno())
        _, ended, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(ended)
        output.seek(0)
        check(process.returncode == status, output.read())
    return used.ru_utime + used.ru_stime, seconds


def until_first_step(*command: str) -> Cost:
    """Runs Python on a command and measures the process from its start to the log line of its first step."""
    start = time.perf_counter()
    process = start_python(command, subprocess.PIPE)
    output: Iterable[bytes] = process.stdout or ()
    lines: list[bytes] = []
    for line in output:
        lines.append(line)
        if FIRST_STEP in line:
            ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
            cost = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"), time.perf_counter() - start
            check(process.wait() == 0, b"".join([*lines, *output]))
            return cost
    sys.exit(b"".join(lines).decode())


def start_python(command: Sequence[str], output: int) -> subprocess.Popen:
    """Starts Python with what benchmarks import on its path."""
    environment = os.environ | {"PYTHONPATH": f".:{Path(__file__).parent}", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen([sys.executable, *command], env=environment, stdout=output, stderr=subprocess.STDOUT)


def check(succeeded: bool, output: bytes) -> None:
    """Ends the benchmark with a process's output if the process did not do what is measured."""
    if not succeeded:
        sys.exit(output.decode())


def processes(directory: str, training: str, evaluation: str) -> dict[str, Callable[[], Cost]]:
    """The processes that take turns; all but the first step work on a run that is made here."""
    here = f"--train_dir={directory}/run"
    train = ["train.py", *MODEL, f"--train_data_pattern={training}", "--max_steps=1", "--log_steps=1"]
    until_first_step(*train, here)
    checkpoint, ours, starters = newest_checkpoint(f"{directory}/run"), f"{directory}/ours.csv", f"{directory}/old.csv"

    def starter(call: str) -> Callable[[], Cost]:
        return lambda: whole_process("-c", f"import starter; starter.{call}")

    return {
        FLOOR: lambda: whole_process("-c", "import tensorflow"),
        "train.py to its first step": lambda: until_first_step(
            *train, f"--train_dir={directory}/first", "--start_new_model"
        ),
        "eval.py": lambda: whole_process("eval.py", f"--eval_data_pattern={evaluation}", here, "--run_once"),
        "eval.py, the starter's work": starter(f"evaluate({checkpoint!r}, {evaluation!r})"),
        "inference.py": lambda: whole_process(
            "inference.py", f"--input_data_pattern={evaluation}", here, f"--output_file={ours}"
        ),
        "inference.py, the starter's work": starter(f"infer({checkpoint!r}, {evaluation!r}, {starters!r})"),
        "train.py --help": lambda: whole_process("train.py", "--help", status=1),
        "train.py --modle=LogisticModel": lambda: whole_process("train.py", "--modle=LogisticModel", status=1),
    }


def print_table(costs: dict[str, list[Cost]]) -> None:
    """Prints medians, and medians of the rounds' differences from the floor and ratios to the starter's work."""
    columns = ("process", "CPU, s", "wall, s", f"CPU beyond {FLOOR}, s", "CPU / the starter's", "wall / the starter's")
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for name, values in costs.items():
        cpu, wall = (statistics.median(column) for column in zip(*values, strict=True))
        beyond = statistics.median(ours[0] - floor[0] for ours, floor in zip(values, costs[FLOOR], strict=True))
        ratios = ["", ""]
        if f"{name}, the starter's work" in costs:
            peer = costs[f"{name}, the starter's work"]
            ratios = [
                f"{statistics.median(ours[i] / other[i] for ours, other in zip(values, peer, strict=True)):.2f}"
                for i in range(2)
            ]
        print(f"| {name} | {cpu:.2f} | {wall:.2f} | {beyond:+.2f} | {' | '.join(ratios)} |")


def print_agreement(directory: str, evaluation: str) -> None:
    """Prints whether both ways find the same: GAP, and the rows of the submission."""
    checkpoint = newest_checkpoint(f"{directory}/run")
    command = f"import starter; starter.evaluate({checkpoint!r}, {evaluation!r})"
    old = float(start_python(["-c", command], subprocess.PIPE).communicate()[0].split()[-1])
    gap = json.loads(Path(EVALUATION.path(f"{directory}/run")).read_text())["gap"]
    rows, old_rows = (Path(f"{directory}/{name}.csv").read_text().splitlines() for name in ("ours", "old"))
    equal = sum(row == old_row for row, old_row in zip(rows, old_rows, strict=True))
    print(f"GAP differs by {abs(gap - old):.1e}; {equal} of {len(rows)} rows of the submission are equal.\n")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        training, evaluation = f"{directory}/train*", f"{directory}/validate*"
        real_data = os.environ.get("YT8M_REAL_DATA", "")
        if real_data:
            shards = f"{real_data}/yt8m-2018-video/validate"
            training, evaluation = f"{shards}000[0-7].tfrecord", f"{shards}003[2-9].tfrecord"
        else:
            for prefix in ("train", "validate"):
                write_video_shards(directory, prefix=prefix, num_shards=8, num_videos=2304, num_classes=3862)
        programs = processes(directory, training, evaluation)
        costs: dict[str, list[Cost]] = {name: [] for name in programs}
        for _ in range(arguments.rounds + 1):  # the first fills the page cache, and is not counted
            for name, program in programs.items():
                costs[name].append(program())
        print_agreement(directory, evaluation)
        print_table({name: values[1:] for name, values in costs.items()})


if __name__ == "__main__":
    main()
