"""Blends submissions of the same videos into one, with given or learned weights.

python -m tools.blend --input_files=a.csv,b.csv,c.csv --output_file=blend.csv [--weights=2,1,1]
python -m tools.blend --input_files=a.csv,b.csv,c.csv --output_file=blend.csv --eval_data_pattern='DIR/validate*'

A class that a file does not list for a video counts as 0 there. Where labels are given and no weights, temperatures and
weights are learned; the GAP of each file, of their mean and of the blend is printed.
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
    flags.DEFINE_list(
        "temperatures",
        [],
        "By what the logits of each file are divided; without it 1 or learned ones.",
        flag_values=values,
    )
    flags.DEFINE_integer("top_k", 20, "Classes per video of the blend.", flag_values=values)
    define_label_flags(values)


if __name__ == "__main__":
    # Before TensorFlow is loaded, so that --help and mistyped flags are answered at once.
    program.parse_flags(define_flags)

import logging
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from tools.labelled import add_block, labels_from_flags, metrics_line
from yt8m.cli.ensemble_flags import weights_of_members
from yt8m.data.video_labels import VideoLabels
from yt8m.engine.calibration import LogitHistogram
from yt8m.errors import UserError
from yt8m.files import check_outputs
from yt8m.metrics import EvaluationMetrics, hits_of_lists
from yt8m.output.blend import PULLS, AlignedSubmissions, LeastSquares, PairTable, tempered, write_block
from yt8m.output.submission import SubmissionWriter
from yt8m.packages import PARQUET
from yt8m.progress import with_progress

import readers

LOG = logging.getLogger("yt8m.blend")

_NUM_PARTS = 4  # of the cross-validation that learns weights
_SMALLEST_PROBABILITY = 1e-7  # scores nearer to 0 or 1 count as this near when a temperature is learned


def main(values: flags.FlagValues) -> None:
    """Writes the blend, and prints weights, temperatures and scores.

    Raises:
        UserError: if a flag is missing or wrong, a file cannot be read, or the files have different videos.
    """
    # 1. What to blend, by which weights and temperatures, and by which labels.
    if not values.output_file:
        raise UserError("--output_file is missing: give the CSV to write, as in OUT/blend.csv.")
    if values.output_file.endswith(PARQUET):
        raise UserError(f"--output_file={values.output_file}: a blend is written as CSV. Give it a name that says so.")
    paths = input_paths(values.input_files)
    weights = np.array(weights_of_members(values.weights, len(paths), "weights", "--input_files"))
    temperatures = given_temperatures(values.temperatures, len(paths))
    check_outputs({"output_file": values.output_file}, [*paths, values.labels_file])
    labels = labels_from_flags(values)

    # 2. The same videos in every file.
    members = AlignedSubmissions(paths)
    if labels is not None and not any(video_id in labels for video_id in members.ids):
        raise UserError(f"No video of {paths[0]} is in {labels.source}: expected the labels of these videos.")
    if labels is not None and not values.weights:
        if not values.temperatures:
            temperatures = learned_temperatures(members, labels, values.top_k)
        weights = learned_weights(members, labels, temperatures, values.top_k)

    # 3. One pass that blends, and scores where there are labels.
    ones, mean = np.ones(len(paths)), np.full(len(paths), 1 / len(paths))
    scored = {path: (np.eye(len(paths))[m], ones) for m, path in enumerate(paths)}
    scored |= {"equal weights": (mean, ones), "blend": (weights, temperatures)}
    metrics = {name: EvaluationMetrics(values.num_classes, values.top_k) for name in scored}
    with SubmissionWriter(values.output_file) as writer:
        for table in with_progress(members, "blending", len(members.ids), lambda it: len(it.ids)):
            blended = tempered(table.scores, temperatures) @ weights
            write_block(writer, table.best(blended, values.top_k))
            if labels is None:
                continue
            labelled = with_labels(table, labels)
            for name, (by_weights, by_temperatures) in scored.items():
                combined = tempered(labelled.scores, by_temperatures) @ by_weights
                add_block(metrics[name], labelled.best(combined, values.top_k), labels)

    # 4. Weights and temperatures as they can be typed again.
    print(f"--weights={','.join(f'{weight:.6g}' for weight in weights)}")
    if np.any(temperatures != 1.0):
        print(f"--temperatures={','.join(f'{temperature:.6g}' for temperature in temperatures)}")
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


def given_temperatures(given: Sequence[str], count: int) -> np.ndarray:
    """Returns the temperatures `(M,)` that the user typed, 1 each if none.

    Raises:
        UserError: if there are not M = `count` numbers above 0.
    """
    try:
        temperatures = np.array([float(word) for word in given] if given else [1.0] * count)
    except ValueError:
        temperatures = np.array([])
    if len(temperatures) != count or not np.all((temperatures > 0) & np.isfinite(temperatures)):
        raise UserError(
            f"--temperatures={','.join(given)}: expected {count} number{'s' if count > 1 else ''} separated by commas, "
            "one for each of --input_files, all above 0."
        )
    return temperatures


def learned_temperatures(members: AlignedSubmissions, labels: VideoLabels, top_k: int) -> np.ndarray:
    """Returns the temperature of each member, `(M,)`, that has the least cross entropy on its `top_k` best classes.

    A blend adds up what members list first, so that is what has to be calibrated: over all classes nearly every pair is
    a class that is far from the top. A member of which nothing can be learned has 1.
    """
    histograms = [LogitHistogram() for _ in range(members.num_members)]
    are_probabilities = np.ones(members.num_members, bool)
    for table in with_progress(members, "learning temperatures", len(members.ids), lambda it: len(it.ids)):
        labelled = with_labels(table, labels)
        are_probabilities &= np.all((labelled.scores >= 0) & (labelled.scores <= 1), axis=0)
        for histogram, scores in zip(histograms, labelled.scores.T, strict=True):
            best = labelled.best(scores, top_k)
            rows = np.repeat(np.arange(len(best.ids)), best.num_pairs)
            hits = hits_of_lists(rows, best.classes, *labels.of(best.ids), labels.num_classes)
            is_listed = best.scores > 0
            p = np.clip(best.scores[is_listed], _SMALLEST_PROBABILITY, 1 - _SMALLEST_PROBABILITY)
            histogram.add((np.log(p) - np.log1p(-p))[:, np.newaxis], hits[is_listed, np.newaxis])
    temperatures = np.ones(members.num_members)
    for m in np.flatnonzero(are_probabilities):
        try:
            temperatures[m] = histograms[m].temperature()
        except UserError:
            LOG.warning(
                "File %d keeps its scores: no temperature has the least cross entropy on the %d best classes of its "
                "videos, which are always right or without relation to the labels.",
                m + 1,
                top_k,
            )
    return temperatures


def learned_weights(
    members: AlignedSubmissions, labels: VideoLabels, temperatures: np.ndarray, top_k: int
) -> np.ndarray:
    """Returns the weights `(M,)` of least squares on the videos that have labels, for `temperatures` `(M,)`.

    How strongly they are pulled towards equal ones is chosen by GAP@`top_k`, in a cross-validation of four parts: each
    part is blended with weights that were learned on the three others. Of equal GAP the strongest pull is taken.

    Raises:
        UserError: if no member gives a label a score.
    """
    # 1. The equations of each part.
    parts = [LeastSquares(members.num_members) for _ in range(_NUM_PARTS)]
    for table, scores, part_of_pair in _in_parts(members, labels, temperatures, "learning weights"):
        hits = hits_of_lists(table.rows, table.classes, *labels.of(table.ids), labels.num_classes)
        for part, equations in enumerate(parts):
            equations.add(scores[part_of_pair == part], hits[part_of_pair == part])
    nothing = LeastSquares(members.num_members)
    equations = sum(parts, nothing)
    if not equations.know_a_label:
        raise UserError(
            "No weights can be learned: no member gives a label of a labelled video a score above 0. "
            "Are the labels those of these videos, with the same numbers of classes?"
        )

    # 2. The pull that is best for videos on which weights were not learned.
    others = [sum((other for other in parts if other is not part), nothing) for part in parts]
    weights = {pull: np.stack([part.weights(pull) for part in others]) for pull in PULLS}
    metrics = {pull: EvaluationMetrics(labels.num_classes, top_k) for pull in PULLS}
    for table, scores, part_of_pair in _in_parts(members, labels, temperatures, "choosing their pull"):
        for pull, of_parts in weights.items():
            combined = np.einsum("um,um->u", scores, of_parts[part_of_pair])
            add_block(metrics[pull], table.best(combined, top_k), labels)
    return equations.weights(max(PULLS, key=lambda pull: metrics[pull].result()["gap"]))


def _in_parts(
    members: AlignedSubmissions, labels: VideoLabels, temperatures: np.ndarray, what: str
) -> Iterator[tuple[PairTable, np.ndarray, np.ndarray]]:
    """Yields what has labels: tables, their scores with `temperatures`, `(U, M)`, and the part of each pair, `(U,)`."""
    for table in with_progress(members, what, len(members.ids), lambda it: len(it.ids)):
        labelled = with_labels(table, labels)
        # By the id, so that the order of rows does not matter.
        parts = np.array([zlib.crc32(video_id.encode()) % _NUM_PARTS for video_id in labelled.ids], np.int64)
        yield labelled, tempered(labelled.scores, temperatures), parts[labelled.rows]


def with_labels(table: PairTable, labels: VideoLabels) -> PairTable:
    """Returns the part of a table whose videos have labels."""
    is_labelled = np.array([video_id in labels for video_id in table.ids], bool)
    kept = is_labelled[table.rows]
    numbers = np.cumsum(is_labelled) - 1
    ids = [video_id for video_id in table.ids if video_id in labels]
    return PairTable(ids, numbers[table.rows[kept]], table.classes[kept], table.scores[kept])


if __name__ == "__main__":
    program.run(main)
