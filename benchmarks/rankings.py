r"""The rankings of a submission of 2019, as inference.py keeps and writes them: time, and memory at its largest.

    PYTHONPATH=. python benchmarks/rankings.py --videos 5000

Scores are drawn; no model runs. Compared is a heap of (score, name) per class, as the starter keeps them.
"""

import argparse
import heapq
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from yt8m.output.rankings import SegmentRankings

SEGMENTS_PER_VIDEO = 60


def batches(num_videos: int, num_classes: int) -> Iterator[tuple[list[bytes], np.ndarray]]:
    """Yields names and scores of eight videos at a time."""
    rng = np.random.default_rng(0)
    for first in range(0, num_videos, 8):
        videos = range(first, min(first + 8, num_videos))
        names = [f"{v:05x}:{5 * n}".encode() for v in videos for n in range(SEGMENTS_PER_VIDEO)]
        yield names, rng.random((len(names), num_classes), np.float32)


def main() -> None:
    """Prints a line per way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=1000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--max_segments", type=int, default=100_000)
    parser.add_argument("--heaps", action="store_true", help="the starter's way instead")
    options = parser.parse_args()
    drawing = time.process_time()
    for _ in batches(options.videos, options.classes):
        pass
    drawing = time.process_time() - drawing
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder, Path(folder, "x.csv").open("w") as file:
        rows = (by_heaps if options.heaps else by_keys)(options)
        for row in rows:
            file.write(row)
    seconds = time.process_time() - start - drawing
    pairs = options.videos * SEGMENTS_PER_VIDEO * options.classes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{pairs:,} pairs: {seconds:.0f} s of CPU, {seconds / pairs * 1e9:.0f} ns per pair, {peak:.2f} GB at most")


def by_keys(options: argparse.Namespace) -> Iterator[str]:
    """As inference.py does it."""
    rankings = SegmentRankings(range(options.classes), options.max_segments)
    for names, scores in batches(options.videos, options.classes):
        rankings.add(names, scores)
    yield from rankings.rows()


def by_heaps(options: argparse.Namespace) -> Iterator[str]:
    """As the starter does it, apart from the file of scores that it writes and reads in between."""
    heaps: list[list[tuple[float, str]]] = [[] for _ in range(options.classes)]
    for names, scores in batches(options.videos, options.classes):
        for name, row in zip((name.decode() for name in names), scores.tolist(), strict=True):
            for heap, score in zip(heaps, row, strict=True):
                if len(heap) < options.max_segments:
                    heapq.heappush(heap, (score, name))
                else:
                    heapq.heappushpop(heap, (score, name))
    for class_index, heap in enumerate(heaps):
        heap.sort(reverse=True)
        yield f"{class_index},{' '.join(name for _, name in heap)}\n"


if __name__ == "__main__":
    main()
