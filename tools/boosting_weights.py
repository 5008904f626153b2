"""Writes the weights of the training videos for the next round of boosting, from what the last model predicts for them.

python -m tools.boosting_weights --submission_file=train.csv --eval_data_pattern='DIR/train*.tfrecord' \
    --output_file=weights.csv [--example_weights=weights-before.csv]
"""

from absl import flags

from yt8m.cli import program
from yt8m.cli.ensemble_flags import define_label_flags


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of this program."""
    define = flags.DEFINE_string
    define("submission_file", "", "Predictions for the training videos.", flag_values=values)
    define("output_file", "", "The weights to write: VideoId,Weight.", flag_values=values)
    define("example_weights", "", "The weights that the last model was trained with, if any.", flag_values=values)
    flags.DEFINE_float("largest_weight", 5.0, "Weights above it are cut.", flag_values=values)
    define_label_flags(values)


if __name__ == "__main__":
    # Before TensorFlow is loaded, so that --help and mistyped flags are answered at once.
    program.parse_flags(define_flags)

import numpy as np

from tools.labelled import checked_pairs, labels_from_flags
from yt8m.arguments import LARGEST_FLOAT, ArgumentError
from yt8m.data.example_weights import WEIGHTS_HEADER, read_example_weights
from yt8m.errors import UserError
from yt8m.files import AtomicFile, check_outputs
from yt8m.metrics.boosting import boosted_weights
from yt8m.output.submission import read_blocks
from yt8m.progress import with_progress


def main(values: flags.FlagValues) -> None:
    """Writes the weights.

    Raises:
        UserError: if a flag is missing, a file cannot be read, or a video has no labels, no weight or two rows.
    """
    if not values.submission_file or not values.output_file:
        raise UserError("--submission_file and --output_file are needed: predictions to read, weights to write.")
    if not 1 < values.largest_weight <= LARGEST_FLOAT:
        raise ArgumentError(f"--largest_weight={values.largest_weight}: expected a number above 1, the mean weight.")
    inputs = [values.submission_file, values.labels_file, values.example_weights]
    check_outputs({"output_file": values.output_file}, inputs)
    labels = labels_from_flags(values)
    if labels is None:
        raise UserError("The labels are missing: give --eval_data_pattern, or a CSV of them by --labels_file.")
    weights = read_example_weights(values.example_weights) if values.example_weights else None
    errors: dict[str, float] = {}
    blocks = read_blocks(values.submission_file)
    for block in with_progress(blocks, "weighting", count=lambda it: len(it.ids)):
        unknown = [v for v in block.ids if v not in labels or (weights is not None and v not in weights)]
        if unknown or not errors.keys().isdisjoint(block.ids) or len(set(block.ids)) < len(block.ids):
            raise UserError(
                f"{values.submission_file}: "
                + (f"video {unknown[0]} has no labels or no weight." if unknown else "a video has two rows.")
                + " Expected the training videos, each once."
            )
        pairs = checked_pairs(block, labels, top_k=1)
        perr = pairs["equal_recall_hits"] / np.maximum(pairs["num_labels"], 1)
        errors |= dict(zip(block.ids, np.where(pairs["num_labels"] > 0, 1 - perr, 0.0), strict=True))
    before = np.array([1.0 if weights is None else weights[video_id] for video_id in errors])
    boosted = boosted_weights(before, np.array(list(errors.values())), values.largest_weight)
    with AtomicFile(values.output_file, WEIGHTS_HEADER, "output_file") as file:
        file.write("".join(f"{video_id},{weight:g}\n" for video_id, weight in zip(errors, boosted, strict=True)))


if __name__ == "__main__":
    program.run(main)
