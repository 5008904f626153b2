"""One program writes a run at a time."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from yt8m.errors import UserError
from yt8m.runs.lock import check_unlocked, locked

HOST = socket.gethostname()
ROOT = Path(__file__).parents[2]


def write_lock(directory: Path, **changes: Any) -> None:
    holder = {"host": HOST, "process": os.getppid(), "started": "1", "beat": 0} | changes
    (directory / "lock.json").write_text(json.dumps(holder))


def test_a_lock_is_there_while_the_run_is_written_and_then_gone(tmp_path: Path) -> None:
    check_unlocked(str(tmp_path))
    with locked(str(tmp_path)):
        assert json.loads((tmp_path / "lock.json").read_text())["process"] == os.getpid()
        check_unlocked(str(tmp_path))  # to this process it is no hindrance
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyError), locked(str(tmp_path)):
        raise KeyError
    assert not list(tmp_path.iterdir())


HOLDING = """
import sys
from yt8m.runs.lock import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    input()
"""


def test_a_living_process_is_named_and_its_lock_stays(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDING, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        message = rf"is being written by process {other.pid} on {HOST}\. Wait for its end"
        with pytest.raises(UserError, match=message):
            check_unlocked(str(tmp_path))
        with pytest.raises(UserError, match="is being written"), locked(str(tmp_path)):
            pass
        other.kill()  # as a machine that is taken away: nothing is put in order
        other.wait()
        assert (tmp_path / "lock.json").exists()
        check_unlocked(str(tmp_path))


def test_a_number_that_another_process_has_now_is_no_holder(tmp_path: Path) -> None:
    write_lock(tmp_path, process=os.getppid(), started="1")
    check_unlocked(str(tmp_path))


def test_a_process_elsewhere_holds_the_run_while_its_lock_changes(tmp_path: Path) -> None:
    write_lock(tmp_path, host="elsewhere", process=1)
    check_unlocked(str(tmp_path), seconds_per_beat=0.01)  # the machine was taken away: nobody writes its lock again
    later = threading.Timer(0.3, write_lock, [tmp_path], {"host": "elsewhere", "process": 1, "beat": 1})
    later.start()
    with pytest.raises(UserError, match="by process 1 on elsewhere"):
        check_unlocked(str(tmp_path), seconds_per_beat=0.2)
    later.join()


def test_a_process_elsewhere_that_ends_meanwhile_gives_way(tmp_path: Path) -> None:
    write_lock(tmp_path, host="elsewhere", process=1)
    later = threading.Timer(0.1, (tmp_path / "lock.json").unlink)
    later.start()
    check_unlocked(str(tmp_path), seconds_per_beat=0.3)
    later.join()


def test_a_lock_is_written_again_and_again(tmp_path: Path) -> None:
    with locked(str(tmp_path), seconds_per_beat=0.01):
        deadline = time.monotonic() + 10
        while json.loads((tmp_path / "lock.json").read_text())["beat"] < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert json.loads((tmp_path / "lock.json").read_text())["beat"] >= 3
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "{", "3", "{}", '{"host": "a", "process": "b", "started": "", "beat": 0}'])
def test_a_damaged_lock_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "lock.json").write_text(text)
    with locked(str(tmp_path)):
        pass
    assert not list(tmp_path.iterdir())
