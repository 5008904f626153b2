"""One program writes a run at a time."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from yt8m.errors import UserError
from yt8m.runs.lock import check_unlocked, locked

HOST = socket.gethostname()


def write_lock(directory: Path, **changes: Any) -> None:
    holder = {"host": HOST, "process": os.getppid(), "started": ""} | changes
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


def test_a_living_process_is_named_and_its_lock_stays(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        write_lock(tmp_path, process=other.pid)
        with pytest.raises(
            UserError, match=rf"is being written by process {other.pid} on {HOST}\. Wait .* delete .*/lock"
        ):
            check_unlocked(str(tmp_path))
        with pytest.raises(UserError, match="is being written"), locked(str(tmp_path)):
            pass
        other.communicate(b"\n")
    check_unlocked(str(tmp_path))  # it is gone now


def test_a_number_that_another_process_has_now_is_no_holder(tmp_path: Path) -> None:
    write_lock(tmp_path, process=os.getppid(), started="1")
    check_unlocked(str(tmp_path))


def test_of_another_machine_nobody_knows(tmp_path: Path) -> None:
    write_lock(tmp_path, host="elsewhere", process=1)
    with pytest.raises(UserError, match="by process 1 on elsewhere"):
        check_unlocked(str(tmp_path))


@pytest.mark.parametrize("text", ["", "{", "3", "{}", '{"host": "a", "process": "b", "started": ""}'])
def test_a_damaged_lock_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "lock.json").write_text(text)
    with locked(str(tmp_path)):
        pass
    assert not list(tmp_path.iterdir())
