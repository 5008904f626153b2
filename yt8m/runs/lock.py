"""One program writes a run at a time: a file that names the process which does, and shows that it is alive."""

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from yt8m.errors import UserError
from yt8m.files import parse_json, read_bytes, write_text
from yt8m.processes import host, start_of
from yt8m.runs.directory import LOCK

LOG = logging.getLogger("yt8m.lock")

SECONDS_PER_BEAT = 20.0
_BEATS_TO_WAIT = 3  # of a process elsewhere, before it is taken for gone: its clock need not agree with ours


def check_unlocked(train_dir: str, seconds_per_beat: float = SECONDS_PER_BEAT) -> None:
    """Checks that no other process writes a run; writes nothing.

    A process of this machine that is gone does not count. One elsewhere, as of a machine that was taken away, counts
    while its lock changes: it is watched for three beats.

    Args:
        train_dir: the run's directory, which may not exist yet.
        seconds_per_beat: how often a holder writes its lock.

    Raises:
        UserError: if another process writes the run; the message names host and process.
    """
    holder = _holder(train_dir)
    if holder is None or _identity(holder) == _identity(_myself()):
        return
    if holder["host"] == host():
        if start_of(holder["process"]) != holder["started"]:
            return
    elif not _beats(train_dir, holder, seconds_per_beat):
        return
    raise UserError(
        f"train_dir={train_dir} is being written by process {holder['process']} on {holder['host']}. Wait for its end, "
        "or choose another --train_dir."
    )


@contextlib.contextmanager
def locked(train_dir: str, seconds_per_beat: float = SECONDS_PER_BEAT) -> Iterator[None]:
    """While this lasts, other processes are refused.

    Args:
        train_dir: the run's directory, which exists.
        seconds_per_beat: how often the lock is written again.

    Raises:
        UserError: if another process writes the run.
    """
    check_unlocked(train_dir, seconds_per_beat)
    _write(train_dir, beat=0)
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(train_dir, ended, seconds_per_beat), daemon=True)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()
        with contextlib.suppress(tf.errors.OpError):  # the run is whole all the same
            tf.io.gfile.remove(LOCK.path(train_dir))


def _beat(train_dir: str, ended: threading.Event, seconds_per_beat: float) -> None:
    """Writes the lock again and again. Where that fails once, the next beat may succeed."""
    beat = 0
    while not ended.wait(seconds_per_beat):
        beat += 1
        with contextlib.suppress(UserError, tf.errors.OpError):
            _write(train_dir, beat)


def _beats(train_dir: str, holder: dict[str, Any], seconds_per_beat: float) -> bool:
    """Whether the lock of a process elsewhere changes within some beats."""
    LOG.info("Waiting to see whether process %d on %s still writes %s.", holder["process"], holder["host"], train_dir)
    for _ in range(_BEATS_TO_WAIT):
        time.sleep(seconds_per_beat)
        now = _holder(train_dir)
        if now != holder:
            return now is not None
    return False


def _write(train_dir: str, beat: int) -> None:
    write_text(LOCK.path(train_dir), json.dumps(_myself() | {"beat": beat}) + "\n")


def _myself() -> dict[str, Any]:
    process = os.getpid()
    return {"host": host(), "process": process, "started": start_of(process)}


def _identity(holder: dict[str, Any]) -> tuple[Any, ...]:
    return holder["host"], holder["process"], holder["started"]


def _holder(train_dir: str) -> dict[str, Any] | None:
    """Who holds the lock; None where there is none, or one that says nothing."""
    try:
        holder = parse_json(read_bytes(LOCK.path(train_dir)))
    except ValueError:
        return None
    is_whole = isinstance(holder, dict) and holder.keys() == {"host", "process", "started", "beat"}
    return holder if is_whole and type(holder["process"]) is int else None
