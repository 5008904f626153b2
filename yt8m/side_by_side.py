"""Work on many files by several processes, whose results come in the order of the files."""

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import TypeVar

from yt8m.errors import UserError

Result = TypeVar("Result")
_WAITING_PER_PROCESS = 2  # files that are worked on or done and not yet asked for


def in_order(work: Callable[[str], Result], paths: Iterable[str], num_processes: int) -> Iterator[Result]:
    """Yields `work(path)` for every path, in order, computed by several processes, a few paths ahead.

    Args:
        work: a function of a module, or a `partial` of one, that other processes can import.
        paths: of the files.
        num_processes: how many; 1 works in this process.

    Yields:
        The results.

    Raises:
        UserError: if a process dies.
    """
    if num_processes == 1:
        yield from map(work, paths)
        return
    left = iter(paths)
    waiting: deque[tuple[str, Future[Result]]] = deque()
    context = multiprocessing.get_context("spawn")  # a fork of a process with TensorFlow's threads may hang
    pool = ProcessPoolExecutor(num_processes, context, initializer=_ignore_interrupts)
    try:
        while True:
            for path in islice(left, _WAITING_PER_PROCESS * num_processes - len(waiting)):
                waiting.append((path, pool.submit(work, path)))
            if not waiting:
                return
            result = waiting[0][1].result()
            waiting.popleft()
            yield result
    except BrokenProcessPool as error:  # whether a result was waited for or another file was given out
        unfinished = [path for path, _ in waiting] or [path]
        raise UserError(
            f"A process died while it worked on {unfinished[0]} or one of the next {len(unfinished) - 1} files. Is "
            "there memory enough? Try fewer --num_processes; shards that are finished are kept."
        ) from error
    except BaseException:  # also if nobody wants the rest: what is being worked on is of no use
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _ignore_interrupts() -> None:
    """Ctrl-C on a terminal reaches all processes; the first one ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
