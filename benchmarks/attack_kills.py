"""kill -9 before every change of a file that training, evaluation, prediction, packing and unpacking make, one by one.

    PYTHONPATH=. python benchmarks/attack_kills.py [--every 5] [--random 20] [--only train,eval] [--seed 0]

For each command an unbroken run counts its changes: files and folders made, written, closed, renamed, removed, by
TensorFlow's C++ too (kill_before.c). Then, for every n-th change, the command is started anew and killed before that
change, and started again. Now every file has to be, byte for byte, that of the unbroken run, and no other may be
there; in between, no complete checkpoint may be missing, and best/ has to hold weights with their own evaluation.
Random rounds are killed one to three times, after random times. A round takes some seconds: TensorFlow is loaded once,
and each command is a fork of that process. Needs a C compiler. Ends with status 1 if anything was lost or left over.
"""

import argparse
import ctypes
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "tests"))
HOOK = "YT8M_KILL_HOOK"
KILLED = -signal.SIGKILL
Contents = dict[str, str]


@dataclass(frozen=True)
class Attack:
    """Commands that are killed and started again.

    Attributes:
        commands: program and flags, run one after another by one process; `CASE` and `DATA` are folders.
        before: what is in the folder CASE: a copy of that folder, if it has a name.
        is_training: whether checkpoints and `best/` in CASE/run have to be whole at the kill, too.
    """

    commands: Sequence[Sequence[str]]
    before: str = ""
    is_training: bool = False


TRAIN = (
    "train",
    "--train_data_pattern=DATA/train*.tfrecord",
    "--eval_data_pattern=DATA/validate*.tfrecord",
    "--train_dir=CASE/run",
    "--num_classes=4",
    "--batch_size=10",
    "--num_epochs=0",
    "--max_steps=7",
    "--export_model_steps=2",
    "--log_steps=1",
    "--keep_checkpoints=2",
    "--weights_halflife=2",
)
PREDICT = ("inference", "--input_data_pattern=DATA/validate*.tfrecord", "--batch_size=10")
ATTACKS = {
    "train": Attack([TRAIN], is_training=True),
    "train --start_new_model": Attack([(*TRAIN, "--start_new_model", "--seed=5")], before="trained"),
    "eval": Attack(
        [("eval", "--eval_data_pattern=DATA/validate*.tfrecord", "--train_dir=CASE/run", "--run_once")], "trained"
    ),
    "inference": Attack(
        [(*PREDICT, "--train_dir=CASE/run", "--output_file=CASE/a.csv", "--output_model_tgz=CASE/a.tgz")], "trained"
    ),
    "inference of an archive": Attack(
        [(*PREDICT, "--train_dir=", "--input_model_tgz=CASE/a.tgz", "--output_file=CASE/b.csv")], "packed"
    ),
    "inference with unpacking": Attack(
        [
            (
                *PREDICT,
                "--train_dir=",
                "--input_model_tgz=CASE/a.tgz",
                "--untar_model_dir=CASE/un/packed",
                "--output_file=CASE/b.csv",
            )
        ],
        "packed",
    ),
}


class Place:
    """The folder of all rounds, and the processes that work in it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.case = folder / "case"
        self.log = folder / "log.txt"
        self.changes = folder / "changes.txt"

    def reset(self, before: str) -> None:
        """Puts the folder CASE into the state that a command finds."""
        shutil.rmtree(self.case, ignore_errors=True)
        if before:
            shutil.copytree(self.folder / before, self.case)
        (self.case / "tmp").mkdir(parents=True, exist_ok=True)

    def start(self, task: Callable[[], object], kill_at: int = 0) -> int:
        """Starts a task in a process of its own, which dies before that change; returns the process."""
        process = os.fork()
        if process:
            return process
        status = 1
        try:
            log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            changes = os.open(self.changes, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            tempfile.tempdir = str(self.case / "tmp")
            ctypes.CDLL(os.environ[HOOK]).arm(f"{self.case}/".encode(), kill_at, changes)
            task()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)

    def run(self, task: Callable[[], object], kill_at: int = 0) -> int:
        """Runs a task to its end; returns the status, that of a signal negative."""
        return end_of(self.start(task, kill_at))

    def command(self, commands: Sequence[Sequence[str]]) -> Callable[[], None]:
        """Returns the task that runs programs on their command lines."""

        def task() -> None:
            from programs import run

            for program, *flags in commands:
                run(
                    program, *(flag.replace("CASE", str(self.case)).replace("DATA", str(self.folder)) for flag in flags)
                )

        return task

    def contents(self) -> Contents:
        """What is in every file of CASE and which folders there are.

        Left out are event files, which are only ever added to, and what AutoGraph of TensorFlow leaves in TMPDIR.
        """
        paths = [path for path in self.case.rglob("*") if not re.search("tfevents|__autograph", path.name)]
        return {str(path.relative_to(self.case)): "" if path.is_dir() else digest(path) for path in paths}


def end_of(process: int) -> int:
    """Waits for a process; returns its status, that of a signal negative."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def digest(path: Path) -> str:
    """A hash of what a file holds; of an archive, which notes when it was made, of its files."""
    if path.suffix == ".tgz":
        with tarfile.open(path) as tar:
            files = [tar.extractfile(member) for member in tar]
            content = b"".join(file.read() for file in files if file is not None)
    else:
        content = path.read_bytes()
    return hashlib.sha256(content).hexdigest()


def newest_step(changes: Sequence[str]) -> int:
    """The step of the newest checkpoint that is whole, as its index has its name, after those changes."""
    names = [re.search(r"rename .*/run/ckpt-(\d+)\.index$", line) for line in changes]
    return max((int(name[1]) for name in names if name), default=0)


class Rounds:
    """Kills a command again and again, and counts what is found."""

    def __init__(self, place: Place, name: str, attack: Attack):
        self.place, self.name, self.attack = place, name, attack
        self.task = place.command(attack.commands)
        self.rounds = 0
        self.faults: list[str] = []
        place.reset(attack.before)
        start = time.monotonic()
        if place.run(self.task):
            sys.exit(f"{name} does not even run:\n{place.log.read_text()[-3000:]}")
        self.seconds = time.monotonic() - start
        self.changes = place.changes.read_text().splitlines()
        self.expected = place.contents()
        history = place.case / "run/eval/history.jsonl"
        lines = history.read_text().splitlines() if history.exists() else []
        self.gaps = {line["global_step"]: line["gap"] for line in map(json.loads, lines)}

    def before_change(self, number: int) -> None:
        """Kills the command before its change of that number, the first is 1."""
        self.place.reset(self.attack.before)
        status = self.place.run(self.task, kill_at=number)
        # Those of this process: a lock that beats, on a slow machine, adds changes.
        *before, last = self.place.changes.read_text().splitlines()
        moment = f"{self.name}, change {number}: {last.replace(str(self.place.case), '')}"
        if status != KILLED:
            self._add_fault(f"{moment}: ended with status {status} instead of being killed")
        if self.attack.is_training:
            self._check_training(moment, newest_step(before))
        self._go_on(moment)

    def at_random(self, generator: random.Random) -> None:
        """Kills the command one to three times, each after a random time."""
        self.place.reset(self.attack.before)
        times = [generator.uniform(0, self.seconds) for _ in range(generator.randint(1, 3))]
        for seconds in times:
            process = self.place.start(self.task)
            time.sleep(seconds)
            os.kill(process, signal.SIGKILL)
            end_of(process)
        self._go_on(f"{self.name}, after {', '.join(f'{seconds:.2f}' for seconds in times)} s")

    def _go_on(self, moment: str) -> None:
        self.rounds += 1
        print(".", end="", file=sys.stderr, flush=True)
        status = self.place.run(self.task)
        found = self.place.contents()
        if status:
            self._add_fault(f"{moment}: status {status} afterwards: {self.place.log.read_text().strip()[-300:]}")
        elif found != self.expected:
            left = sorted(found.keys() - self.expected.keys())
            lost = sorted(self.expected.keys() - found.keys())
            other = sorted(path for path in found.keys() & self.expected.keys() if found[path] != self.expected[path])
            self._add_fault(f"{moment}: left over {left}, lost {lost}, different {other}")

    def _check_training(self, moment: str, step: int) -> None:
        def task() -> None:
            import tensorflow as tf

            from yt8m.runs.checkpoints import best_gap
            from yt8m.runs.directory import checkpoint_step, newest_checkpoint

            run = str(self.place.case / "run")
            newest, best = newest_checkpoint(run), newest_checkpoint(f"{run}/best")
            if (checkpoint_step(newest) if newest else 0) != step:
                raise AssertionError(f"the newest checkpoint is {newest}, expected step {step}")
            for checkpoint in filter(None, (newest, best)):
                tf.train.load_checkpoint(checkpoint)
            if best and best_gap(run) != self.gaps[checkpoint_step(best)]:
                raise AssertionError(f"{best} has GAP {best_gap(run)}, expected {self.gaps[checkpoint_step(best)]}")

        if self.place.run(task):
            self._add_fault(f"{moment}: at the kill: {self.place.log.read_text().strip()[-300:]}")

    def _add_fault(self, text: str) -> None:
        self.faults.append(text)
        print(f"FAULT {text}", flush=True)


def prepare(place: Place) -> None:
    """Writes shards, and the folders in which commands other than training begin."""
    from yt8m.data.synthetic import write_video_shards

    for prefix, seed in (("train", 0), ("validate", 1)):
        task = lambda prefix=prefix, seed=seed: write_video_shards(  # noqa: E731  arguments as they are now
            place.folder, prefix=prefix, num_videos=40, num_shards=3, num_classes=4, seed=seed
        )
        if place.run(task):
            sys.exit(place.log.read_text())
    for name, commands in (("trained", [TRAIN]), ("packed", ATTACKS["inference"].commands)):
        place.reset("trained" if name == "packed" else "")
        if place.run(place.command(commands)):
            sys.exit(place.log.read_text())
        shutil.copytree(place.case, place.folder / name)


def load_hook() -> None:
    """Compiles kill_before.c and starts this program again with it preloaded (LD_PRELOAD)."""
    with tempfile.TemporaryDirectory() as folder:
        library = f"{folder}/kill_before.so"
        command = ["cc", "-O1", "-shared", "-fPIC", "-o", library, str(HERE / "kill_before.c"), "-ldl"]
        subprocess.run(command, check=True)
        environment = os.environ | {"LD_PRELOAD": library, HOOK: library, "TF_CPP_MIN_LOG_LEVEL": "3"}
        sys.exit(subprocess.run([sys.executable, *sys.argv], env=environment, check=False).returncode)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=5, help="kill before every n-th change")
    parser.add_argument("--first", type=int, default=1, help="the first change that is killed before")
    parser.add_argument("--random", type=int, default=20, help="rounds of random kills of training")
    parser.add_argument("--only", default=",".join(ATTACKS), help="the attacks, separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if HOOK not in os.environ:
        load_hook()
    for program in ("train", "eval", "inference"):  # all that a fork needs; no operation of TensorFlow may run here
        __import__(program)
    num_faults = 0
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder))
        prepare(place)
        generator = random.Random(arguments.seed)
        print(f"{'command':<26} changes rounds random faults", flush=True)
        for name in arguments.only.split(","):
            rounds = Rounds(place, name, ATTACKS[name])
            for number in range(arguments.first, len(rounds.changes) + 1, arguments.every):
                rounds.before_change(number)
            num_random = arguments.random if ATTACKS[name].is_training else 0
            for _ in range(num_random):
                rounds.at_random(generator)
            counts = (len(rounds.changes), rounds.rounds, num_random, len(rounds.faults))
            print(f"{name:<26} " + " ".join(f"{count:>7}" for count in counts), flush=True)
            num_faults += len(rounds.faults)
    sys.exit(num_faults > 0)


if __name__ == "__main__":
    main()
