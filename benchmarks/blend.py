"""Blends submissions with tools.blend, and with pandas the obvious way: one table of all pairs, grouped and summed.

    PYTHONPATH=. python benchmarks/blend.py [--files 10] [--videos 100000] [--pairs 20] [--classes 3862] [--ways ...]

Each way is a process of its own, so that its peak memory is its own; TensorFlow takes 0.5 GB of that of tools.blend.
The ways: `same order`, `other orders` (every file but the first is shuffled) and `pandas`.
"""

import argparse
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from yt8m.output.submission import HEADER, format_rows

WAYS = ("same order", "other orders", "pandas")
TOP_K = 20
_VIDEOS_PER_WRITE = 2000


def write_submission(path: Path, arguments: argparse.Namespace, seed: int, shuffled: bool) -> None:
    """Members agree on most classes of a video, as models do: they draw from the same 1.5 * pairs classes."""
    generator = np.random.default_rng(seed)
    rows = []
    for start in range(0, arguments.videos, _VIDEOS_PER_WRITE):
        size = min(_VIDEOS_PER_WRITE, arguments.videos - start)
        pool = arguments.pairs * 3 // 2
        common = (np.arange(start, start + size)[:, np.newaxis] * 31 + np.arange(pool) * 97) % arguments.classes
        kept = generator.permuted(np.tile(np.arange(pool), (size, 1)), axis=1)[:, : arguments.pairs]
        scores = -np.sort(-(generator.random((size, arguments.pairs)) ** 3), axis=1)
        ids = [f"{number:06x}" for number in range(start, start + size)]
        rows += format_rows(ids, np.take_along_axis(common, kept, axis=1), scores).splitlines(keepends=True)
    if shuffled:
        random.Random(seed).shuffle(rows)
    path.write_text(HEADER + "".join(rows))


def blend_with_pandas(paths: list[str], output: str) -> None:
    tables = []
    for path in paths:
        table = pd.read_csv(path)
        fields = table["LabelConfidencePairs"].str.split(" ")
        long = pd.DataFrame({"VideoId": table["VideoId"], "class": fields.str[::2], "score": fields.str[1::2]})
        long = long.explode(["class", "score"])
        tables.append(long.astype({"class": int, "score": float}))
    pairs = pd.concat(tables)
    pairs["score"] /= len(paths)
    sums = pairs.groupby(["VideoId", "class"], sort=False)["score"].sum().reset_index()
    best = sums.sort_values(["VideoId", "score"], ascending=[True, False]).groupby("VideoId").head(TOP_K)
    best["pair"] = best["class"].astype(str) + " " + best["score"].map("{:g}".format)
    rows = best.groupby("VideoId")["pair"].agg(" ".join).rename("LabelConfidencePairs")
    rows.reset_index().to_csv(output, index=False)


def run_way(way: str, paths: list[str], output: str) -> None:
    if way == "pandas":
        blend_with_pandas(paths, output)
        return
    from absl import flags

    from tools import blend

    values = flags.FlagValues()
    blend.define_flags(values)
    values(["blend", f"--input_files={','.join(paths)}", f"--output_file={output}", f"--top_k={TOP_K}"])
    blend.main(values)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=10)
    parser.add_argument("--videos", type=int, default=100_000)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--classes", type=int, default=3862)
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        way, output, *paths = arguments.child
        start = time.perf_counter()
        run_way(way, paths, output)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(f"| {way:<12} | {time.perf_counter() - start:7.1f} | {peak:14.2f} |", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, shuffled in (("same", False), ("other", True)):
            for number in range(arguments.files):
                path = Path(folder) / f"{name}{number}.csv"
                write_submission(path, arguments, number, shuffled and number > 0)
        print("| way          | seconds | peak memory, GB |\n| --- | --- | --- |", file=sys.stderr)
        for way in arguments.ways:
            name = "other" if way == "other orders" else "same"
            paths = [f"{folder}/{name}{number}.csv" for number in range(arguments.files)]
            subprocess.run([sys.executable, __file__, "--child", way, f"{folder}/{way}.csv", *paths], check=True)


if __name__ == "__main__":
    main()
