"""How far a long piece of work has come: a bar on terminals, nothing elsewhere.

Bars are drawn on stderr, because stdout may carry a table, and below the log, whose lines stay whole.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

Item = TypeVar("Item")
Advance = Callable[[int], None]


class _Screen:
    """All bars of this process: they share the lower end of its terminal, and those of parts are below the whole."""

    def __init__(self) -> None:
        self._bars: Any = None
        self._num_open = 0

    def clear(self) -> None:
        """Takes all bars away, and shows the cursor again."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    @contextmanager
    def bar(self, what: str, total: int, done: int) -> Iterator[Advance]:
        if self._bars is None:
            self._bars = _new_bars()
            self._bars.start()
        bars = self._bars
        task = bars.add_task(what, total=total or None, completed=done)
        self._num_open += 1
        try:
            yield lambda count: bars.advance(task, count)
        finally:
            self._num_open -= 1
            bars.remove_task(task)
            if not self._num_open:
                self.clear()


_screen = _Screen()


def clear_progress() -> None:
    """Takes away what an error left on the screen, in the middle of whatever was shown."""
    _screen.clear()


def progress_is_shown() -> bool:
    """Tells whether there is a terminal on which `progress` shows something."""
    return sys.stderr.isatty()


@contextmanager
def progress(what: str, total: int = 0, done: int = 0) -> Iterator[Advance]:
    """Shows a bar while the block lasts, if stderr is a terminal.

    Args:
        what: what is being done, in a word or two.
        total: how many there are to do; 0 if that is not known: then there is a count and no time left.
        done: how many of them were done before.

    Yields:
        a function that is told how many more are done.
    """
    if not progress_is_shown():
        yield lambda count: None
        return
    with _screen.bar(what, total, done) as advance:
        yield advance


def with_progress(
    items: Iterable[Item], what: str, total: int = 0, count: Callable[[Item], int] = lambda item: 1
) -> Iterator[Item]:
    """Yields `items`, and shows a bar meanwhile, as `progress` does.

    Args:
        items: what is worked on, one after another.
        what: what is being done.
        total: how many there are; 0 if that is not known.
        count: tells how many an item counts for, such as the videos of a batch.
    """
    with progress(what, total) as advance:
        for item in items:
            yield item
            advance(count(item))


def _new_bars() -> Any:
    from rich.console import Console  # slow to import, and only terminals need it
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    # What is printed goes on going to stdout: a table that is on its way into a file belongs there.
    return Progress(*columns, *times, console=Console(stderr=True), redirect_stdout=False, transient=True)
