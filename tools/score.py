"""Scores a submission of 2017 or 2018 by the labels of its videos, as eval.py scores a run.

python -m tools.score --submission_file=solution.csv --eval_data_pattern='DIR/validate*.tfrecord'
"""

from absl import flags

from yt8m.cli import program
from yt8m.cli.ensemble_flags import define_label_flags


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of this program."""
    flags.DEFINE_string(
        "submission_file", "", "The submission to score: VideoId,LabelConfidencePairs.", flag_values=values
    )
    flags.DEFINE_integer("top_k", 20, "Predictions per video that count.", flag_values=values)
    define_label_flags(values)


if __name__ == "__main__":
    # Before TensorFlow is loaded, so that --help and mistyped flags are answered at once.
    program.parse_flags(define_flags)

from tools.labelled import add_block, labels_from_flags, metrics_line
from yt8m.errors import UserError
from yt8m.metrics import EvaluationMetrics
from yt8m.output.blend import check_same_videos
from yt8m.output.submission import read_blocks
from yt8m.progress import with_progress


def main(values: flags.FlagValues) -> None:
    """Prints the metrics of a submission."""
    print(metrics_line(values.submission_file, score(values)))


def score(values: flags.FlagValues) -> EvaluationMetrics:
    """Returns the metrics of a submission.

    Raises:
        UserError: if a flag is missing, a file cannot be read, or the submission has other videos than the labels or a
            video twice; the message names them.
    """
    if not values.submission_file:
        raise UserError("--submission_file is missing: give the CSV to score, VideoId,LabelConfidencePairs.")
    labels = labels_from_flags(values)
    if labels is None:
        raise UserError("The labels are missing: give --eval_data_pattern, or a CSV of them by --labels_file.")
    metrics = EvaluationMetrics(labels.num_classes, values.top_k)
    scored: set[str] = set()
    others: list[str] = []
    blocks = read_blocks(values.submission_file)
    for block in with_progress(blocks, "scoring", count=lambda it: len(it.ids)):
        # 1. One row per video, and the videos that have labels, no others.
        for video_id in block.ids:
            if video_id in scored:
                raise UserError(f"{values.submission_file}: video {video_id} has two rows; expected one per video.")
            scored.add(video_id)
        others += [video_id for video_id in block.ids if video_id not in labels]

        # 2. After the first other video the rest is only read to name what is missing.
        if not others:
            add_block(metrics, block, labels)
    missing = [video_id for video_id in labels.ids if video_id not in scored]
    check_same_videos(values.submission_file, missing, len(missing), others, len(others), labels.source)
    return metrics


if __name__ == "__main__":
    program.run(main)
