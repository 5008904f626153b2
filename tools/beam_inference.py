r"""Predicts as inference.py does, by many workers: a pipeline of Apache Beam on this machine, Flink, Spark or Dataflow.

    python -m tools.beam_inference --train_dir=RUN --input_data_pattern='DIR/test*.tfrecord' \
        --output_file=solution.csv -- --direct_running_mode=multi_processing --direct_num_workers=2

What follows `--` are options of Beam. The rows are those of inference.py, in its order.
"""

import sys

from absl import flags

from yt8m.arguments import check_size, typed_as
from yt8m.cli import program, run_flags
from yt8m.errors import UserError


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of this program."""
    run_flags.define_program_flags(values, batch_size=512)
    run_flags.define_calibrated_flag(values)
    define = flags.DEFINE_string
    define("input_data_pattern", "", "Shards to predict: comma-separated patterns.", flag_values=values)
    define(
        "output_file",
        "",
        "The submission to write: VideoId,LabelConfidencePairs. All workers have to see its folder.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "num_parts", 256, "Parts of the shards; a worker that is free takes the next one.", flag_values=values
    )


def check_flags(values: flags.FlagValues) -> None:
    """Checks the flags of this program.

    Raises:
        UserError: if one is missing or makes no sense.
    """
    with typed_as("--"):
        check_size(1, num_parts=values.num_parts)
    if not values.output_file:
        raise UserError("--output_file is missing: give the CSV to write, as in OUT/kaggle_solution.csv.")
    if values.output_file.endswith(".parquet"):
        raise UserError(f"--output_file={values.output_file}: workers write text. Give a CSV, or use inference.py.")
    if not values.input_data_pattern:
        raise UserError("--input_data_pattern is missing: give the shards to read, as in 'DIR/test*.tfrecord'.")


if __name__ == "__main__":
    # Before TensorFlow is loaded, so that --help and mistyped flags are answered at once.
    OPTIONS = program.parse_flags(define_flags, check_flags, num_arguments=sys.maxsize)

import logging
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import tensorflow as tf

from tools.beam_pipeline import check_options, load_beam, run_pipeline, shared_folder, spread
from tools.predicted_parts import Prediction, predict_part
from yt8m.files import check_outputs
from yt8m.output.submission import SubmissionWriter, read_rows
from yt8m.runs.directory import load_config, paths_of_run, require_checkpoint

import readers

LOG = logging.getLogger("yt8m.beam_inference")

_ROWS_AT_ONCE = 4096


def main(values: flags.FlagValues, options: Sequence[str] = ()) -> None:
    """Writes the best classes of every video as a submission.

    Args:
        values: the flags.
        options: of Beam.

    Raises:
        UserError: if a flag is missing, Beam is not installed, or the run, a shard or the output cannot be used.
    """
    # 1. The run and the shards; nothing that is read is written over.
    check_flags(values)
    check_options(options)
    load_beam()
    if load_config(values.train_dir).data.record_format == "segment":
        raise UserError(
            f"--train_dir={values.train_dir} predicts segments, and their ranking needs all shards: use inference.py."
        )
    checkpoint = require_checkpoint(values.train_dir)
    files = readers.find_files(values.input_data_pattern, "input_data_pattern")
    check_outputs({"output_file": values.output_file}, [*files, *paths_of_run(values.train_dir)])

    # 2. The submission is opened before hours of work, and the parts go beside it.
    with SubmissionWriter(values.output_file) as writer, shared_folder(values.output_file) as folder:
        prediction = Prediction(
            folder,
            values.train_dir,
            checkpoint,
            values.calibrated,
            values.batch_size,
            values.top_k,
            values.on_bad_record,
            values.cache_dir,
            values.cache_max_gb,
        )
        parts = list(enumerate(divided(files, values.num_parts)))

        # 3. Workers write a submission per part.
        def build(pipeline: Any) -> None:
            pipeline | load_beam().Create(parts) | spread(partial(predict_part, prediction=prediction))

        run_pipeline(build, options)

        # 4. One after another they are the submission of all shards.
        num_videos = 0
        for number, _ in parts:
            rows = read_rows(prediction.part(number))
            while block := [text for _, text in islice(rows, _ROWS_AT_ONCE)]:
                writer.add_rows([text.partition(",")[0] for text in block], "".join(f"{text}\n" for text in block))
                num_videos += len(block)
            if tf.io.gfile.exists(prediction.skipped(number)):
                with tf.io.gfile.GFile(prediction.skipped(number)) as skipped:
                    LOG.warning("%s", skipped.read().rstrip())
    LOG.info("Done with inference: %d videos of %d shards, predicted in %d parts.", num_videos, len(files), len(parts))


def divided(files: Sequence[str], num_parts: int) -> list[list[str]]:
    """Returns the files in at most so many parts of consecutive ones, none of them empty, as equal as can be."""
    return [list(map(str, part)) for part in np.array_split(np.array(files), min(num_parts, len(files)))]


if __name__ == "__main__":
    program.run(lambda values: main(values, OPTIONS))
