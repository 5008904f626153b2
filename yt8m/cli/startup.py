"""What a process does before it works: signals, TensorFlow in silence, and memory that is kept."""

import ctypes
import gc
import importlib
import os
import platform
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

_PROJECT, _INSTALLED = str(Path(__file__).absolute().parents[2]), "site-packages"
# Parameters of mallopt, from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_LARGEST_INT = 2**31 - 1
_PIPE_SIZE = 1 << 16


def load_tensorflow() -> None:
    """Imports TensorFlow without the start-up notes of its C++ side, which calls some of them errors.

    What goes wrong later reaches us as an exception. Since 2.21 some notes come before the log level counts.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _stderr_held_back(), _garbage_collection_paused(), _pandas_left_out():
        importlib.import_module("tensorflow")


@contextmanager
def _pandas_left_out() -> Iterator[None]:
    """Lets the block do without pandas, unless it is loaded already.

    Keras loads it where it is installed, for a way of training that is not ours, and pandas loads pyarrow, with its own
    threads and memory. A program that needs one of them imports it later.
    """
    if "pandas" in sys.modules:
        yield
        return
    sys.modules["pandas"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["pandas"]


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Lets no object that the block makes be looked through for garbage, now or later.

    What an import makes, 600,000 objects, stays until the process ends. To go through all of them again and
    again takes a third of the time of `import tensorflow`, and as long again at the end of the process.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
    gc.freeze()


@contextmanager
def _stderr_held_back() -> Iterator[None]:
    """Drops what the block writes to stderr, C++ included; if the block fails or the process dies in it, shows it.

    A child process holds the text: it is there to show it even when this process is killed.
    """
    shown = os.dup(2)
    held, writable = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writable)
        _show_at_the_end(held)
    os.close(held)
    os.dup2(writable, 2)
    os.close(writable)
    failed = False
    try:
        yield
    except Exception:
        failed = True
        raise
    finally:
        if not failed:  # all went well, or somebody asked this process to end: nobody needs the text
            os.kill(child, signal.SIGKILL)
        os.dup2(shown, 2)
        os.close(shown)
        os.waitpid(child, 0)


def _show_at_the_end(held: int) -> None:
    """Reads until the other process writes no more, then shows what came, and ends this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to both; the other one decides
    text = b"".join(iter(lambda: os.read(held, _PIPE_SIZE), b""))
    os.write(2, text)
    os._exit(0)


def end_on_signals() -> None:
    """Lets SIGINT and SIGTERM end the process as `sys.exit` does: without a traceback, and files are put in order.

    While TensorFlow is at work, that waits until it comes back to the program: its C++ asks Python for such things as
    the length of a shape, takes an exception for an answer, reserves too little memory and writes beyond it.
    """

    def end(number: int, frame: FrameType | None) -> None:
        sys.settrace(None)  # if it is a second signal
        calls = []  # from the innermost one to that of the program itself
        while frame is not None and not _is_own(frame):
            calls.append(frame)
            frame = frame.f_back
        packages = {call.f_globals.get("__name__", "").partition(".")[0] for call in calls}
        # An import of TensorFlow takes seconds, and no C++ waits for its answer.
        importing = any(call.f_code.co_filename.startswith("<frozen importlib") for call in calls)
        if frame is None or importing or not packages & {"tensorflow", "keras"}:
            sys.exit(128 + number)

        def end_in_own_code(reached: FrameType, event: str, argument: object) -> None:
            if _is_own(reached) and reached.f_code is not end.__code__:
                sys.exit(128 + number)

        frame.f_trace = end_in_own_code  # at its next line
        sys.settrace(end_in_own_code)  # or where another function of the program begins

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)


def _is_own(frame: FrameType) -> bool:
    """Whether it is a function of the program that is being called, not of a package that is installed."""
    file = frame.f_code.co_filename
    return frame.f_globals.get("__name__") == "__main__" or (file.startswith(_PROJECT) and _INSTALLED not in file)


def keep_freed_memory() -> None:
    """Tells glibc's malloc to keep what is freed for the next one who asks; elsewhere it does nothing.

    By default a buffer of more than 32 MB, a batch of 128 whole videos for example, is a fresh mapping each time, and
    the kernel clears its pages one by one at first touch. On a virtual machine that takes longer than decoding it.
    The price: a process stays as large as it was at its largest.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT)
