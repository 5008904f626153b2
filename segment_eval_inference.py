"""Scores a submission of 2019 by the segments that raters looked at.

python segment_eval_inference.py --eval_data_pattern='DIR/validate*.tfrecord' --submission_file=solution.csv
"""

from absl import flags

from yt8m.cli import program, run_flags


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of this program."""
    define = flags.DEFINE_string
    define("eval_data_pattern", "", "Frame-level shards with ratings: comma-separated patterns.", flag_values=values)
    define("label_cache", "", "File that keeps the ratings; if it exists, it is read instead.", flag_values=values)
    define("submission_file", "", "The submission to score: Class,Segments.", flag_values=values)
    flags.DEFINE_integer("top_n", 0, "Segments of a class that count; 0: all of them.", flag_values=values)
    run_flags.define_cache_flags(values)


if __name__ == "__main__":
    # Before TensorFlow is loaded, so that --help and mistyped flags are answered at once.
    program.parse_flags(define_flags)

import logging

from yt8m.arguments import typed_as
from yt8m.data.ratings import (
    RATINGS_HEADER,
    SegmentRatings,
    format_ratings,
    has_ratings,
    num_rated_pairs,
    read_ratings,
)
from yt8m.errors import UserError
from yt8m.files import AtomicFile
from yt8m.metrics import SegmentMeanAveragePrecision
from yt8m.output.submission import read_rankings

import readers

LOG = logging.getLogger("yt8m.segment_eval_inference")


def main(values: flags.FlagValues) -> None:
    """Scores a submission."""
    evaluate(values)


def evaluate(values: flags.FlagValues) -> float:
    """Prints and returns the segment MAP of a submission.

    Raises:
        UserError: if the submission, the ratings or the place for the cache are missing or damaged.
    """
    if not values.submission_file:
        raise UserError("--submission_file is missing: give the CSV to score, with the header Class,Segments.")
    rankings = read_rankings(values.submission_file)
    ratings = _ratings(values.eval_data_pattern, values.label_cache)
    with typed_as("--"):
        metric = SegmentMeanAveragePrecision(ratings, values.top_n)
    for class_index, ranking in rankings:
        metric.add(class_index, ranking)
    LOG.info("Rated pairs: %d, %d of them in the submission.", num_rated_pairs(ratings), metric.num_ranked_pairs)
    if not metric.num_ranked_pairs:
        LOG.warning("The submission ranks no segment that was rated: is it of other videos than the ratings?")
    print(f"Num classes: {metric.num_classes} | mAP@{values.top_n or 'all'}: {metric.result():.6f}")
    return metric.result()


def _ratings(pattern: str, cache: str) -> SegmentRatings:
    """Reads the cache if there is one, else the shards, and then makes the cache."""
    if cache and has_ratings(cache):
        LOG.info("Reading ratings from --label_cache=%s; delete it to read the shards again.", cache)
        return read_ratings(cache)
    if cache and not pattern:
        raise UserError(f"--label_cache={cache} does not exist yet: give the shards to make it, --eval_data_pattern.")
    files = readers.find_files(pattern, "eval_data_pattern")
    if not cache:
        return readers.segment_ratings(files)
    with AtomicFile(cache, RATINGS_HEADER, "label_cache") as file:
        ratings = readers.segment_ratings(files)
        file.write(format_ratings(ratings))
    return ratings


if __name__ == "__main__":
    program.run(main)
