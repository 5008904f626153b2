"""One program writes a run at a time: a file that names the process which does."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import tensorflow as tf

from yt8m.errors import UserError
from yt8m.files import write_text
from yt8m.runs.directory import LOCK


def check_unlocked(train_dir: str) -> None:
    """Checks that no other process writes a run; writes nothing.

    The lock of a process of this machine that is gone, killed as it may be, does not count.

    Raises:
        UserError: names host and process.
    """
    holder = _holder(train_dir)
    if holder is None or holder == _myself() or _is_gone(holder):
        return
    raise UserError(
        f"train_dir={train_dir} is being written by process {holder['process']} on {holder['host']}. Wait for its end, "
        f"or choose another --train_dir. If that process is gone, delete {LOCK.path(train_dir)}."
    )


@contextmanager
def locked(train_dir: str) -> Iterator[None]:
    """While this lasts, other processes are refused.

    Args:
        train_dir: the run's directory, which exists.

    Raises:
        UserError: if another process writes the run.
    """
    check_unlocked(train_dir)
    write_text(LOCK.path(train_dir), json.dumps(_myself()) + "\n")
    try:
        yield
    finally:
        if _holder(train_dir) == _myself():
            with suppress(tf.errors.OpError):  # the run is whole all the same
                tf.io.gfile.remove(LOCK.path(train_dir))


def _myself() -> dict[str, Any]:
    process = os.getpid()
    return {"host": socket.gethostname(), "process": process, "started": _start_of(process)}


def _start_of(process: int) -> str:
    """When a process of this machine started, in the kernel's count: numbers of processes are used again.

    Empty for one that is gone, or that has ended and waits for its parent to notice.
    """
    try:
        # The second field is a name in brackets, which may hold anything; after it come the state and 18 others.
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        state, *others = status.rpartition(")")[2].split()
        return "" if state == "Z" else others[18]
    except (OSError, ValueError, IndexError):
        return ""


def _holder(train_dir: str) -> dict[str, Any] | None:
    """Who holds the lock; None where there is none, or one that says nothing."""
    try:
        with tf.io.gfile.GFile(LOCK.path(train_dir)) as file:
            holder = json.loads(file.read())
    except (tf.errors.OpError, ValueError):
        return None
    is_whole = isinstance(holder, dict) and holder.keys() == {"host", "process", "started"}
    return holder if is_whole and type(holder["process"]) is int else None


def _is_gone(holder: dict[str, Any]) -> bool:
    """Whether a process of this machine has ended; of other machines nobody knows."""
    if holder["host"] != socket.gethostname():
        return False
    if holder["started"]:
        return bool(_start_of(holder["process"]) != holder["started"])
    try:
        os.kill(holder["process"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False
