"""Blends submissions of the same videos into one, with given or learned weights.

python -m tools.blend --input_files=a.csv,b.csv,c.csv --output_file=blend.csv [--weights=2,1,1]
python -m tools.blend --input_files=a.csv,b.csv,c.csv --output_file=blend.csv --eval_data_pattern='DIR/validate*'

A class that a file does not list for a video counts as 0 there. Where labels are given and no weights, the weights are
learned; the GAP of each file, of their mean and of the blend is printed.
"""

from absl import flags

from yt8m.cli import program
from yt8m.cli.ensemble_flags import define_label_flags


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of this program."""
    define = flags.DEFINE_string
    define("input_files", "", "The submissions to blend, separated by commas; patterns too.", flag_values=values)
    define("output_file", "", "The blend to write: VideoId,LabelConfidencePairs.", flag_values=values)
    flags.DEFINE_list("weights", [], "A weight per file; without it equal or learned ones.", flag_values=values)
    flags.DEFINE_integer("top_k", 20, "Classes per video of the blend.", flag_values=values)
    define_label_flags(values)


if __name__ == "__main__":
    # Before TensorFlow is loaded, so that --help and mistyped flags are answered at once.
    program.parse_flags(define_flags)

import numpy as np

from tools.labelled import add_block, labels_from_flags, metrics_line
from yt8m.cli.ensemble_flags import weights_of_members
from yt8m.data.video_labels import VideoLabels
from yt8m.errors import UserError
from yt8m.files import check_outputs
from yt8m.metrics import EvaluationMetrics, hits_of_lists
from yt8m.output.blend import AlignedSubmissions, LeastSquares, PairTable, write_block
from yt8m.output.submission import SubmissionWriter
from yt8m.packages import PARQUET

import readers


def main(values: flags.FlagValues) -> None:
    """Writes the blend, and prints weights and scores.

    Raises:
        UserError: if a flag is missing or wrong, a file cannot be read, or the files have different videos.
    """
    # 1. What to blend, by which weights, and by which labels.
    if not values.output_file:
        raise UserError("--output_file is missing: give the CSV to write, as in OUT/blend.csv.")
    if values.output_file.endswith(PARQUET):
        raise UserError(f"--output_file={values.output_file}: a blend is written as CSV. Give it a name that says so.")
    paths = input_paths(values.input_files)
    weights = np.array(weights_of_members(values.weights, len(paths), "weights", "--input_files"))
    check_outputs({"output_file": values.output_file}, [*paths, values.labels_file])
    labels = labels_from_flags(values)

    # 2. The same videos in every file.
    members = AlignedSubmissions(paths)
    if labels is not None and not any(video_id in labels for video_id in members.ids):
        raise UserError(f"No video of {paths[0]} is in {labels.source}: expected the labels of these videos.")
    if labels is not None and not values.weights:
        weights = learned_weights(members, labels)

    # 3. One pass that blends, and scores where there are labels.
    scored = {path: np.eye(len(paths))[m] for m, path in enumerate(paths)}
    scored |= {"equal weights": np.full(len(paths), 1 / len(paths)), "blend": weights}
    metrics = {name: EvaluationMetrics(values.num_classes, values.top_k) for name in scored}
    with SubmissionWriter(values.output_file) as writer:
        for table in members:
            write_block(writer, table.best(table.scores @ weights, values.top_k))
            if labels is None:
                continue
            labelled = with_labels(table, labels)
            for name, combination in scored.items():
                add_block(metrics[name], labelled.best(labelled.scores @ combination, values.top_k), labels)

    # 4. The weights as they can be typed again.
    print(f"--weights={','.join(f'{weight:.6g}' for weight in weights)}")
    if labels is not None:
        for name, result in metrics.items():
            print(metrics_line(name, result))


def input_paths(text: str) -> list[str]:
    """Returns the files of `--input_files` in their order; a pattern is replaced by its matches, sorted.

    Raises:
        UserError: if there is none, a pattern matches no file, or a file is there twice.
    """
    paths = [path for part in text.split(",") if part.strip() for path in readers.find_files(part, "input_files")]
    if not paths:
        raise UserError("--input_files is missing: give the submissions to blend, as in a.csv,b.csv.")
    twice = [path for path in paths if paths.count(path) > 1]
    if twice:
        raise UserError(
            f"--input_files names {twice[0]} twice. Give each file once; --weights says how much it counts."
        )
    return paths


def learned_weights(members: AlignedSubmissions, labels: VideoLabels) -> np.ndarray:
    """Returns the weights `(M,)` of least squares on the videos that have labels.

    Raises:
        UserError: if all weights are 0.
    """
    equations = LeastSquares(members.num_members)
    for table in members:
        labelled = with_labels(table, labels)
        hits = hits_of_lists(labelled.rows, labelled.classes, *labels.of(labelled.ids), labels.num_classes)
        equations.add(labelled.scores, hits)
    return equations.weights()


def with_labels(table: PairTable, labels: VideoLabels) -> PairTable:
    """Returns the part of a table whose videos have labels."""
    is_labelled = np.array([video_id in labels for video_id in table.ids], bool)
    kept = is_labelled[table.rows]
    numbers = np.cumsum(is_labelled) - 1
    ids = [video_id for video_id in table.ids if video_id in labels]
    return PairTable(ids, numbers[table.rows[kept]], table.classes[kept], table.scores[kept])


if __name__ == "__main__":
    program.run(main)
