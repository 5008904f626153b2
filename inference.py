"""Predicts: python inference.py --train_dir=RUN --input_data_pattern='DIR/test*.tfrecord' --output_file=solution.csv"""

from absl import flags

from yt8m.cli import program, run_flags


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of this program; those of a run may be repeated and are compared with it."""
    run_flags.define_run_flags(values)
    run_flags.define_program_flags(values, batch_size=512)
    define = flags.DEFINE_string
    define("input_data_pattern", "", "Shards to predict: comma-separated patterns.", flag_values=values)
    define("output_file", "", "The submission to write: VideoId,LabelConfidencePairs.", flag_values=values)
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
    flags.DEFINE_boolean("run_once", True, "Taken for old command lines; it always runs once.", flag_values=values)


if __name__ == "__main__":
    # Before TensorFlow is loaded, so that --help and mistyped flags are answered at once.
    program.parse_flags(define_flags)

import logging
import tempfile
import time
from collections.abc import Iterable

import numpy as np

from yt8m.engine.prediction import predict
from yt8m.engine.weight_averages import load_weights
from yt8m.errors import UserError
from yt8m.output.archive import pack_run, unpack_run
from yt8m.output.submission import SubmissionWriter
from yt8m.runs.directory import load_config, require_checkpoint

import experiment

LOG = logging.getLogger("yt8m.inference")

_SECONDS_BETWEEN_LINES = 10.0


def main(values: flags.FlagValues) -> None:
    """Writes the best classes of every video as a submission."""
    if not values.output_file:
        raise UserError("--output_file is missing: give the CSV to write, as in OUT/kaggle_solution.csv.")
    if not values.input_model_tgz:
        _infer(values, values.train_dir)
    elif values.untar_model_dir:
        unpack_run(values.input_model_tgz, values.untar_model_dir, values.untar_max_gb)
        _infer(values, values.untar_model_dir)
    else:
        with tempfile.TemporaryDirectory() as directory:
            unpack_run(values.input_model_tgz, directory, values.untar_max_gb)
            _infer(values, directory)


def _infer(values: flags.FlagValues, train_dir: str) -> None:
    config = load_config(train_dir)
    run_flags.check_repeated_flags(values, config)
    model = experiment.build_model(config)
    load_weights(model, require_checkpoint(train_dir))
    data = experiment.evaluation_data(
        config,
        model,
        values.input_data_pattern,
        "input_data_pattern",
        batch_size=values.batch_size,
        on_bad_record=values.on_bad_record,
        labels_required=False,
    )
    with data.explained(), SubmissionWriter(values.output_file) as writer:
        _write(writer, predict(model, data.batches, values.top_k))
    data.report_skipped()
    if values.output_model_tgz:
        pack_run(train_dir, values.output_model_tgz)


def _write(writer: SubmissionWriter, predictions: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
    start = said = time.monotonic()
    num_videos = 0
    for ids, classes, scores in predictions:
        writer.add(ids, classes, scores)
        num_videos += len(ids)
        now = time.monotonic()
        if now - said >= _SECONDS_BETWEEN_LINES:
            said = now
            LOG.info("num examples processed: %d elapsed seconds: %.2f", num_videos, now - start)
    LOG.info("Done with inference: %d videos in %.2f seconds.", num_videos, time.monotonic() - start)


if __name__ == "__main__":
    program.run(main)
