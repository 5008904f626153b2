"""Writes a page about one run or several side by side: curves, classes, calibration, mistakes, clusters, settings.

python -m tools.report --train_dir=RUN1,RUN2 [--vocabulary=vocabulary.csv] [--eval_data_pattern='DIR/validate*'] \
    [--dataset_csv=report.csv] --output=report.html
"""

from absl import flags

from yt8m.cli import program, run_flags


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of this program."""
    run_flags.define_program_flags(values, batch_size=256)
    run_flags.define_calibrated_flag(values)
    run_flags.define_vocabulary_flag(values)
    define = flags.DEFINE_string
    define("eval_data_pattern", "", "Shards with labels to look at: comma-separated patterns.", flag_values=values)
    define("dataset_csv", "", "The table that tools.check_dataset wrote, to be shown too.", flag_values=values)
    define("output", "report.html", "The page to write.", flag_values=values)
    flags.DEFINE_integer("num_mistakes", 30, "Mistakes that are listed per run.", lower_bound=0, flag_values=values)


if __name__ == "__main__":
    # Before TensorFlow is loaded, so that --help and mistyped flags are answered at once.
    program.parse_flags(define_flags)

import csv
import io
import logging
from typing import TYPE_CHECKING

from tools.check_dataset import COLUMNS
from yt8m.cli.ensemble_flags import run_directories
from yt8m.data.vocabulary import class_names
from yt8m.engine.calibration import CalibratedModel, temperature_of
from yt8m.engine.clusters import ClusterView
from yt8m.engine.inspection import inspect
from yt8m.errors import UserError
from yt8m.files import AtomicFile, check_outputs, read_bytes
from yt8m.packages import optional_package
from yt8m.runs.directory import checkpoint_step, load_config, paths_of_run, require_checkpoint
from yt8m.runs.history import class_table, evaluation_curves, training_curves

import experiment
import readers

if TYPE_CHECKING:
    from yt8m.output.report import RunView

LOG = logging.getLogger("yt8m.report")

_CLASS_COLUMNS = {"num_positives", "average_precision"}  # which eval.py writes unless --metrics leaves them out


def main(values: flags.FlagValues) -> None:
    """Writes the page.

    Raises:
        UserError: if a run, a shard or the vocabulary cannot be read, the page cannot be written, or a package of
            requirements-report.txt is not installed.
    """
    # 1. What is asked for, and that there is a way to draw it.
    for package in ("jinja2", "matplotlib"):
        optional_package(package, "The page is drawn", "requirements-report.txt")
    from yt8m.output.report import report_page

    if not values.output:
        raise UserError("--output is empty: give the page to write, as in --output=report.html.")
    train_dirs = run_directories(values.train_dir)
    names = class_names(values.vocabulary) if values.vocabulary else {}
    pattern = values.eval_data_pattern
    files = readers.find_files(pattern, "eval_data_pattern") if pattern else []
    read = [path for train_dir in train_dirs for path in paths_of_run(train_dir)]
    check_outputs({"output": values.output}, [*files, values.vocabulary, values.dataset_csv, *read])
    dataset = dataset_counts(values.dataset_csv) if values.dataset_csv else {}

    # 2. The page is there when it is whole.
    with AtomicFile(values.output, "", "output") as file:
        runs = [look_at(train_dir, values) for train_dir in train_dirs]
        file.write(report_page(runs, names, pattern, dataset))
    LOG.info("%s shows %s.", values.output, ", ".join(train_dirs))


def dataset_counts(path: str) -> dict[str, list[tuple[str, str, str]]]:
    """Reads the table of tools.check_dataset: by part, key, name and number of each row.

    Raises:
        UserError: if it cannot be read, or is another table.
    """
    try:
        rows = list(csv.reader(io.StringIO(read_bytes(path).decode()), strict=True))
    except (ValueError, csv.Error) as error:
        raise UserError(f"--dataset_csv={path} cannot be read ({error}).") from error
    if not rows or tuple(rows.pop(0)) != COLUMNS or any(len(row) != len(COLUMNS) for row in rows):
        raise UserError(
            f"--dataset_csv={path} is no table of tools.check_dataset: expected the columns {','.join(COLUMNS)}."
        )
    parts: dict[str, list[tuple[str, str, str]]] = {}
    for part, key, name, value in rows:
        parts.setdefault(part, []).append((key, name, value))
    return parts


def look_at(train_dir: str, values: flags.FlagValues) -> "RunView":
    """Reads what a run left, and looks at labelled videos if the flags name some.

    Raises:
        UserError: if the run or a shard cannot be read.
    """
    from yt8m.output.report import RunView

    # 1. What the run's directory tells.
    config, checkpoint = load_config(train_dir), require_checkpoint(train_dir)
    step = checkpoint_step(checkpoint)
    course = training_curves(train_dir), evaluation_curves(train_dir)
    if not values.eval_data_pattern:
        table = class_table(train_dir)
        return RunView(train_dir, config, step, *course, table if table.keys() >= _CLASS_COLUMNS else {})

    # 2. The model as eval.py evaluates it.
    model = experiment.trained_model(config, train_dir, checkpoint)
    data = experiment.evaluation_data(
        config,
        model,
        values.eval_data_pattern,
        "eval_data_pattern",
        batch_size=values.batch_size,
        on_bad_record=values.on_bad_record,
        labels_required=True,
        decided_by=train_dir,
    )
    calibrated = CalibratedModel(model)
    calibrated.set_temperature(temperature_of(train_dir, checkpoint) if values.calibrated else 1.0)

    # 3. One pass for the numbers, and a second look at the first videos for the clusters.
    with data.explained():
        inspection = inspect(
            calibrated,
            data.batches,
            num_classes=config.data.num_classes,
            top_k=values.top_k,
            num_mistakes=values.num_mistakes,
            num_videos=data.num_videos,
        )
        clusters = ClusterView(model, data.batches)()
    data.report_skipped()
    metrics = inspection.metrics
    classes = {"num_positives": metrics.positives(), "average_precision": metrics.per_class_ap()}
    return RunView(train_dir, config, step, *course, classes, inspection, clusters)


if __name__ == "__main__":
    program.run(main)
