r"""Reads shards in full, counts what is in them, and reports every damaged record and every id that occurs twice.

    python -m tools.check_dataset --data_pattern='DIR/train*.tfrecord' --vocabulary=vocabulary.csv --csv=report.csv \
        --frame_features --feature_names=rgb,audio --feature_sizes=1024,128

Ends with status 1 if anything is damaged.
"""

import os

from absl import flags

from yt8m.arguments import check_size, typed_as
from yt8m.cli import program, run_flags


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of this program."""
    run_flags.define_examination_flags(values)
    flags.DEFINE_integer(
        "num_processes", os.cpu_count() or 1, "Processes that read shards side by side, at most.", flag_values=values
    )


def check_flags(values: flags.FlagValues) -> None:
    """Checks the flags of this program.

    Raises:
        UserError: if one makes no sense.
    """
    with typed_as("--"):
        check_size(1, num_processes=values.num_processes)


if __name__ == "__main__":
    # Before TensorFlow is loaded, so that --help and mistyped flags are answered at once.
    program.parse_flags(define_flags, check_flags)

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np

from yt8m.data.examination import DatasetContents, examine_dataset
from yt8m.data.shards import without_advice
from yt8m.data.vocabulary import class_names
from yt8m.errors import UserError
from yt8m.files import check_outputs, write_text
from yt8m.progress import progress
from yt8m.schema import PATCH_SIZE

import readers

COLUMNS = ("Part", "Key", "Name", "Value")  # of --csv
_COMMONEST = 5


def main(values: flags.FlagValues) -> None:
    """Prints what shards hold, and a line for every damaged record or file.

    Raises:
        UserError: if no file matches the patterns, or a record or a file is damaged.
    """
    check_flags(values)
    files = readers.find_files(values.data_pattern, "data_pattern")
    check_outputs({"csv": values.csv}, [*files, values.vocabulary])
    spec = run_flags.data_spec_from_flags(values)
    if spec.record_format == "segment":
        raise UserError(
            "--segment_labels: records are checked as they are stored, whole videos. Give --frame_features instead; "
            "segment_eval_inference.py and train.py check the ratings."
        )
    names = class_names(values.vocabulary) if values.vocabulary else {}
    with progress("checking shards", len(files)) as advance:
        contents = examine_dataset(files, spec, values.labels_required, values.num_processes, lambda: advance(1))
    report(contents, names, values)


def report(contents: DatasetContents, names: Mapping[int, str], values: flags.FlagValues) -> None:
    """Prints what shards hold, and writes it to `--csv` if that is given.

    Args:
        contents: what was found.
        names: of the classes, by index.
        values: the flags of a report.

    Raises:
        UserError: if a record or a file is damaged.
    """
    for line in text_report(contents, names):
        print(line)
    if values.csv:
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows([COLUMNS, *rows(contents, names)])
        write_text(values.csv, table.getvalue())
    if contents.damages:
        raise UserError(f"{values.data_pattern}: damaged in {len(contents.damages)} places, listed above.")


def text_report(contents: DatasetContents, names: Mapping[int, str]) -> Iterator[str]:
    """Yields the lines of the report.

    Args:
        contents: what was found.
        names: of the classes, by index; those that are not there are left out.
    """
    spec, counts = contents.spec, contents.class_counts
    yield (
        f"{len(contents.shards)} files, {contents.num_records} sound records, {contents.num_unlabelled} of them with "
        "no label"
    )
    yield f"{counts.sum()} labels of {(counts > 0).sum()} of {spec.num_classes} classes"
    yield f"features: {', '.join(_shapes(contents))}"
    if contents.labels_per_video:
        yield f"labels per video: {_spread(contents.labels_per_video)}"
    if contents.frames_per_video:
        longer = sum(count for length, count in contents.frames_per_video.items() if length > spec.max_frames)
        yield (
            f"frames per video: {_spread(contents.frames_per_video)}; {contents.frames_per_video[0]} without any, "
            f"{longer} with more than --max_frames={spec.max_frames}"
        )
    present = np.flatnonzero(counts)
    if present.size:
        commonest = [
            f"{_named(c, names)} {counts[c]}" for c in np.argsort(-counts, kind="stable")[:_COMMONEST].tolist()
        ]
        yield f"classes: {present[0]} to {present[-1]}; commonest: {', '.join(commonest)}"
    yield f"ids: {contents.num_records - contents.num_repeated} different"
    if contents.num_repeated:
        yield f"{contents.num_repeated} records have the id of an earlier one; the first such ids:"
    for duplicate in contents.duplicates:
        yield f"  {duplicate.id}: {_listing(duplicate.places)}"
    yield from map(without_advice, contents.damages)


def rows(contents: DatasetContents, names: Mapping[int, str]) -> Iterator[tuple[str, object, str, object]]:
    """Yields part, key, name and value of all that was counted.

    Args:
        contents: what was found.
        names: of the classes, by index.
    """
    yield "records", "sound", "", contents.num_records
    yield "records", "without a label", "", contents.num_unlabelled
    yield "records", "with the id of an earlier one", "", contents.num_repeated
    yield "records", "damages", "", len(contents.damages)
    for shape in _shapes(contents):
        yield "feature", shape, "", ""
    for file, num_bytes, num_records, num_damages in contents.shards:
        yield "bytes of shard", file, "", num_bytes
        yield "records of shard", file, "", num_records
        yield "damages of shard", file, "", num_damages
    for class_index, count in enumerate(contents.class_counts.tolist()):
        yield "videos of class", class_index, names.get(class_index, ""), count
    for part, histogram in (
        ("videos with labels", contents.labels_per_video),
        ("videos with frames", contents.frames_per_video),
    ):
        for key, count in sorted(histogram.items()):
            yield part, key, "", count
    for duplicate in contents.duplicates:
        yield "duplicate id", duplicate.id, _listing(duplicate.places), len(duplicate.places)
    for damage in contents.damages:
        yield "damage", damage.file, damage.fault, "" if damage.record is None else damage.record


def _shapes(contents: DatasetContents) -> list[str]:
    """What records hold of each feature: `rgb (1024 bytes per frame)`."""
    spec, layout = contents.spec, contents.layout
    columns = zip(layout.stored_names, spec.feature_sizes, layout.stored_as_floats, strict=True)
    if spec.record_format == "clip":
        pictures = {name: f"a JPEG per frame, {size} channels" for name, size, _ in columns if size != PATCH_SIZE}
        return [f"{name} ({pictures.get(name, 'a patch of sound per frame')})" for name in layout.stored_names]
    per = "frame" if spec.record_format == "frame" else "video"
    return [f"{name} ({size} {'floats' if as_floats else 'bytes'} per {per})" for name, size, as_floats in columns]


def _spread(histogram: Counter[int]) -> str:
    """Smallest, largest, median and mean of what a histogram counts."""
    keys = np.array(sorted(histogram))
    counts = np.array([histogram[key] for key in keys.tolist()])
    median = keys[np.searchsorted(counts.cumsum(), (counts.sum() + 1) // 2)]
    return f"{keys[0]} to {keys[-1]}, median {median}, mean {(keys * counts).sum() / counts.sum():.2f}"


def _named(class_index: int, names: Mapping[int, str]) -> str:
    return f"{class_index} {names[class_index]}:" if names.get(class_index) else f"{class_index}:"


def _listing(places: list[tuple[str, int]]) -> str:
    return "; ".join(f"{file}, record {number}" for file, number in places)


if __name__ == "__main__":
    program.run(main)
