"""How programs are compared: by turns, so that what else the machine does falls on all of them alike."""

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from yt8m.cli.startup import keep_freed_memory

keep_freed_memory()  # as the programs do


def interleaved(programs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Returns each program's seconds, one value per round; all take a turn in every round."""
    return {name: [wall for _, wall in values] for name, values in interleaved_clocks(programs, rounds).items()}


def interleaved_clocks(programs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Returns each program's CPU seconds of all threads, and seconds, one pair per round, as `interleaved` does."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            cpu, wall = time.process_time(), time.perf_counter()
            program()
            seconds[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return seconds


def print_table(seconds: dict[str, list[float]], num_videos: int) -> None:
    """Prints medians, and how many times faster than the first program each is: the median of the rounds' ratios."""
    (reference, *_) = seconds.values()
    width = max(map(len, seconds))
    print(f"| {'way':<{width}} | seconds | videos/s | times faster |\n| --- | --- | --- | --- |")
    for name, values in seconds.items():
        median = statistics.median(values)
        faster = statistics.median(old / new for old, new in zip(reference, values, strict=True))
        print(f"| {name:<{width}} | {median:7.3f} | {num_videos / median:8.0f} | {faster:12.1f} |")


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def peak_gigabytes() -> float:
    """How large this process has been; what getrusage says begins with the size of the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e6
