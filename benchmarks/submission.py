"""Rows of a submission from the k best pairs of each video, compared with older pipelines: one pair at a time.

    PYTHONPATH=. python benchmarks/submission.py [--videos 4096] [--classes 3862] [--rounds 9]

The old way starts from the scores of all classes and finds the best itself; the time of its formatting alone is a row
of its own. Programs take turns, round by round; times are medians.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from timing import interleaved, print_table

from yt8m.metrics import top_k_predictions
from yt8m.output.submission import SubmissionWriter, format_rows

TOP_K, BATCH_SIZE = 20, 512
Batch = tuple[list[bytes], np.ndarray, np.ndarray]


def old_best(predictions: np.ndarray) -> Iterator[list[tuple[int, np.float32]]]:
    """Each video's best pairs by a partial sort of its scores and a sort of what that found."""
    for row in predictions:
        best = np.argpartition(row, -TOP_K)[-TOP_K:]
        yield sorted(((c, row[c]) for c in best), key=lambda pair: -pair[1])


def old_row(video_id: bytes, pairs: list[tuple[int, np.float32]]) -> str:
    return video_id.decode() + "," + " ".join("%i %g" % pair for pair in pairs) + "\n"  # noqa: UP031


def old_way(ids: list[bytes], predictions: np.ndarray) -> str:
    return "".join(old_row(video_id, pairs) for video_id, pairs in zip(ids, old_best(predictions), strict=True))


def batches(pairs: Batch) -> Iterator[Batch]:
    ids, classes, scores = pairs
    for start in range(0, len(ids), BATCH_SIZE):
        rows = slice(start, start + BATCH_SIZE)
        yield ids[rows], classes[rows], scores[rows]


def format_all(pairs: Batch) -> str:
    return "".join(format_rows(*batch) for batch in batches(pairs))


def write_file(path: str, pairs: Batch) -> None:
    with SubmissionWriter(path) as writer:
        for batch in batches(pairs):
            writer.add(*batch)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--videos", type=int, default=4096)
    parser.add_argument("--classes", type=int, default=3862)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    logits = np.random.default_rng(0).normal(-7, 2, (arguments.videos, arguments.classes))
    predictions = (1 / (1 + np.exp(-logits))).astype(np.float32)
    ids = [b"%04x" % i for i in range(arguments.videos)]
    scores, classes = (values.numpy() for values in top_k_predictions(tf.constant(predictions), TOP_K))
    pairs = ids, classes, scores
    best = list(old_best(predictions))
    same = "the same" if format_all(pairs) == old_way(ids, predictions) else "DIFFERENT"
    print(f"{arguments.videos} videos, {arguments.classes} classes, k = {TOP_K}; {same} bytes\n")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "submission.csv")
        seconds = interleaved(
            {
                "old way, with its search for the best": lambda: old_way(ids, predictions),
                "old way, formatting alone": lambda: "".join(map(old_row, ids, best)),
                "format_rows, from the k best": lambda: format_all(pairs),
                "SubmissionWriter, from the k best to the file": lambda: write_file(path, pairs),
            },
            arguments.rounds,
        )
    print_table(seconds, arguments.videos)


if __name__ == "__main__":
    main()
