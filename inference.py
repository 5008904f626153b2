"""Predicts: python inference.py --train_dir=RUN --input_data_pattern='DIR/test*.tfrecord' --output_file=solution.csv"""

from absl import flags

from yt8m.cli import program, run_flags


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of this program; those of a run may be repeated and are compared with it."""
    run_flags.define_run_flags(values)
    run_flags.define_program_flags(values, batch_size=512)
    define = flags.DEFINE_string
    define("input_data_pattern", "", "Shards to predict: comma-separated patterns.", flag_values=values)
    define(
        "output_file",
        "",
        "The submission to write: VideoId,LabelConfidencePairs, or Class,Segments of segments; x.parquet: as Parquet.",
        flag_values=values,
    )
    flags.DEFINE_integer("segment_max_pred", 100_000, "Segments: how many of a class to write.", flag_values=values)
    define("segment_label_ids_file", "", "Segments: a CSV of the classes to write; without it all.", flag_values=values)
    define("input_model_tgz", "", "Predict with the run in this archive, not in --train_dir.", flag_values=values)
    define(
        "untar_model_dir", "", "Where to unpack it; without it, a place that is deleted afterwards.", flag_values=values
    )
    flags.DEFINE_float(
        "untar_max_gb",
        0.0,
        "Gigabytes that may come out of it; 0: 20 times its size, at least 1.",
        lower_bound=0.0,
        flag_values=values,
    )
    define("output_model_tgz", "", "Also write the run into this archive.", flag_values=values)
    flags.DEFINE_list(
        "ensemble_weights",
        [],
        "With --train_dir=RUN1,RUN2,...: how much each run counts in the mean of predictions; without it, equally.",
        flag_values=values,
    )
    run_flags.define_calibrated_flag(values)
    flags.DEFINE_boolean("run_once", True, "Taken for old command lines; it always runs once.", flag_values=values)


if __name__ == "__main__":
    # Before TensorFlow is loaded, so that --help and mistyped flags are answered at once.
    program.parse_flags(define_flags)

import logging
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import keras
import numpy as np

from yt8m.cli.ensemble_flags import run_directories, weights_of_members
from yt8m.config import RunConfig
from yt8m.data.vocabulary import listed_classes
from yt8m.engine.calibration import CalibratedModel, temperature_of
from yt8m.engine.prediction import predict, predict_classes
from yt8m.errors import UserError
from yt8m.files import AtomicFile, check_outputs, delete_abandoned, partial_path
from yt8m.output.archive import pack_run, unpack_run
from yt8m.output.rankings import SegmentRankings
from yt8m.output.submission import SEGMENT_HEADER, submission_writer
from yt8m.packages import PARQUET, pyarrow
from yt8m.progress import with_progress
from yt8m.runs.directory import load_config, paths_of_run, require_checkpoint

import experiment

LOG = logging.getLogger("yt8m.inference")

_SECONDS_BETWEEN_LINES = 10.0


def main(values: flags.FlagValues) -> None:
    """Writes the best classes of every video, or the best segments of every class, as a submission.

    Raises:
        UserError: if `--output_file` is missing, or the run, a shard or an output cannot be used.
    """
    if not values.output_file:
        raise UserError("--output_file is missing: give the CSV to write, as in OUT/kaggle_solution.csv.")
    if values.output_file.endswith(PARQUET):
        pyarrow()  # if it is missing, that is said now, not when the models are there
    with _run_directories(values) as train_dirs:
        # 1. The runs say what they are; the command line may repeat it, but not say otherwise.
        weights = weights_of_members(values.ensemble_weights, len(train_dirs), "ensemble_weights", "--train_dir")
        configs = [load_config(train_dir) for train_dir in train_dirs]
        for config in configs:
            run_flags.check_repeated_flags(values, config)
        configs = [run_flags.at_evaluation(values, config) for config in configs]

        # 2. The models, with the weights of their newest checkpoints, and the temperatures of these.
        checkpoints = [require_checkpoint(train_dir) for train_dir in train_dirs]
        models = list(map(experiment.trained_model, configs, train_dirs, checkpoints))
        _check_same_batches(train_dirs, configs, models)
        calibrated = [CalibratedModel(model) for model in models]
        for member, train_dir, checkpoint in zip(calibrated, train_dirs, checkpoints, strict=True):
            member.set_temperature(temperature_of(train_dir, checkpoint) if values.calibrated else 1.0)

        # 3. The shards, in their order.
        data = experiment.evaluation_data(
            configs[0],
            models[0],
            values.input_data_pattern,
            "input_data_pattern",
            batch_size=values.batch_size,
            on_bad_record=values.on_bad_record,
            labels_required=False,
            decided_by=train_dirs[0],
        )

        # 4. Before hours of work: nothing that is read is written over.
        outputs = {"output_file": values.output_file, "output_model_tgz": values.output_model_tgz}
        read = [path for train_dir in train_dirs for path in paths_of_run(train_dir)]
        check_outputs(outputs, [*data.files, values.input_model_tgz, values.segment_label_ids_file, *read])

        # 5. The file, which is there when it is whole. The best classes of a video go straight into it; what the best
        # segments of a class are is known when all have been seen.
        if data.spec.record_format == "segment":
            if values.output_file.endswith(PARQUET):
                raise UserError(f"--output_file={values.output_file}: rankings of segments are a CSV. Choose x.csv.")
            classes = _classes_of_segments(values.segment_label_ids_file, data.spec.num_classes)
            rankings = SegmentRankings(classes, values.segment_max_pred)
            with data.explained(), AtomicFile(values.output_file, SEGMENT_HEADER, "output_file") as file:
                for ids, scores in _logged(predict_classes(calibrated, weights, data.batches, classes), "segments"):
                    rankings.add(ids.tolist(), scores)
                for row in rankings.rows():
                    file.write(row)
        else:
            writing = submission_writer(values.output_file, configs[0].data.num_classes)
            with data.explained(), writing as writer:
                predicted = predict(calibrated, weights, data.batches, values.top_k)
                for best in _logged(predicted, "videos", data.num_videos):
                    writer.add(*best)
        data.report_skipped()

        # 6. The run as one file, if it is to be handed on.
        if values.output_model_tgz:
            pack_run(train_dirs[0], values.output_model_tgz)


def _classes_of_segments(path: str, num_classes: int) -> list[int]:
    if path:
        return listed_classes(path, num_classes)
    LOG.warning(
        "Segments are ranked for all %d classes. The challenge of 2019 asks for the 1000 of its segment_label_ids.csv: "
        "give it by --segment_label_ids_file.",
        num_classes,
    )
    return list(range(num_classes))


def _logged(batches: Iterator[tuple[np.ndarray, ...]], what: str, total: int = 0) -> Iterator[tuple[np.ndarray, ...]]:
    """Passes batches on, ids first, and shows and logs how many examples there were, of `total` if that is known."""
    start = logged = time.monotonic()
    num_examples = 0
    for batch in with_progress(batches, f"predicting {what}", total, lambda it: len(it[0])):
        yield batch
        num_examples += len(batch[0])
        now = time.monotonic()
        if now - logged >= _SECONDS_BETWEEN_LINES:
            logged = now
            LOG.info("num examples processed: %d elapsed seconds: %.2f", num_examples, now - start)
    LOG.info("Done with inference: %d %s in %.2f seconds.", num_examples, what, time.monotonic() - start)


@contextmanager
def _run_directories(values: flags.FlagValues) -> Iterator[list[str]]:
    """The runs to predict with: --train_dir, or what an archive holds, unpacked to stay or only while it is needed."""
    if not values.input_model_tgz:
        train_dirs = run_directories(values.train_dir)
        if len(train_dirs) > 1 and values.output_model_tgz:
            raise UserError("--output_model_tgz packs one run, and --train_dir names several. Leave it out.")
        yield train_dirs
    elif values.untar_model_dir:
        unpack_run(values.input_model_tgz, values.untar_model_dir, values.untar_max_gb)
        yield [values.untar_model_dir]
    else:
        place = Path(tempfile.gettempdir(), "yt8m-model")
        delete_abandoned(str(place))
        directory = partial_path(str(place))
        Path(directory).mkdir(mode=0o700)
        try:
            unpack_run(values.input_model_tgz, directory, values.untar_max_gb)
            yield [directory]
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def _check_same_batches(train_dirs: list[str], configs: list[RunConfig], models: list[keras.Model]) -> None:
    """Checks that the batches of the first run are those that the models of all runs read.

    How a model scales the features of a batch is its own affair.
    """
    needs = [
        asdict(replace(config.data, feature_weights=()))
        | {"frames at evaluation": model.frame_sampling(training=False) or "all"}
        for config, model in zip(configs, models, strict=True)
    ]
    for train_dir, other in zip(train_dirs, needs, strict=True):
        different = [name for name, value in needs[0].items() if value != other[name]]
        if different:
            name = different[0]
            raise UserError(
                f"--train_dir: {name} of {train_dirs[0]} is {needs[0][name]}, of {train_dir} {other[name]}. Runs that "
                "are averaged in one pass read the same batches. Predict with each, and blend with tools.blend."
            )


if __name__ == "__main__":
    program.run(main)
