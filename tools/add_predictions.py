"""Copies shards with the predictions of a teacher in their records, for train.py --teacher=records.

python -m tools.add_predictions --input_data_pattern='DIR/train*.tfrecord' --submission_file=teacher.csv \
    --output_dir=NEW
"""

from absl import flags

from yt8m.cli import program


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of this program."""
    define = flags.DEFINE_string
    define("input_data_pattern", "", "Shards to copy: comma-separated patterns.", flag_values=values)
    define("submission_file", "", "Predictions for their videos: VideoId,LabelConfidencePairs.", flag_values=values)
    define("output_dir", "", "Folder of the copies, which keep the names of the shards.", flag_values=values)


if __name__ == "__main__":
    # Before TensorFlow is loaded, so that --help and mistyped flags are answered at once.
    program.parse_flags(define_flags)

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from yt8m.data.formats.base import RecordFaultError
from yt8m.data.record_faults import id_of
from yt8m.data.shards import Damage, Shard, require_shards, stored_records
from yt8m.errors import UserError, first_line
from yt8m.files import partial_path
from yt8m.output.submission import read_submission
from yt8m.progress import with_progress
from yt8m.runs.directory import join, make_directory
from yt8m.schema import TEACHER_CLASSES_KEY, TEACHER_SCORES_KEY

import readers

LOG = logging.getLogger("yt8m.add_predictions")


def main(values: flags.FlagValues) -> None:
    """Writes the copies. They get their names when all of them are whole.

    Raises:
        UserError: if a flag is missing, a file cannot be read or written, there is a file of a copy's name already, or
            a video has no row.
    """
    if not values.submission_file or not values.output_dir:
        raise UserError("--submission_file and --output_dir are needed: predictions to read, a folder to write to.")
    shards = require_shards(readers.find_files(values.input_data_pattern, "input_data_pattern"))
    targets = [join(values.output_dir, Path(shard.file).name) for shard in shards]
    taken = [target for i, target in enumerate(targets) if target in targets[:i] or tf.io.gfile.exists(target)]
    if taken:
        raise UserError(
            f"--output_dir={values.output_dir}: {taken[0]} is there already, or two shards have that name. Choose a "
            "new folder; it is for copies of shards of one folder."
        )
    teacher = Predictions(values.submission_file)
    make_directory(values.output_dir)
    written = {partial_path(target): target for target in targets}
    try:
        copies = zip(shards, written, strict=True)
        for shard, path in with_progress(copies, "copying shards", len(shards)):
            with tf.io.TFRecordWriter(path, shard.compression) as writer:
                for record in taught_records(shard, teacher):
                    writer.write(record)
        for path, target in written.items():
            tf.io.gfile.rename(path, target)
    except tf.errors.OpError as error:
        raise UserError(
            f"--output_dir={values.output_dir}: a copy cannot be written ({first_line(error)}). Choose a folder with "
            "permission and room for it."
        ) from error
    finally:
        for path in filter(tf.io.gfile.exists, written):
            tf.io.gfile.remove(path)
    LOG.info("%s holds %d shards with the predictions of %s.", values.output_dir, len(shards), values.submission_file)


class Predictions:
    """The pairs of a submission by video, as it is stored, with 8 bytes per pair.

    Args:
        path: the submission.

    Raises:
        UserError: if it cannot be read, has a video twice, or a score that is no probability.
    """

    def __init__(self, path: str):
        ids, num_pairs, self._classes, self._scores = read_submission(path)
        self._path = path
        self._rows = {video_id: row for row, video_id in enumerate(ids)}
        if len(self._rows) < len(ids):
            twice = next(video_id for row, video_id in enumerate(ids) if self._rows[video_id] != row)
            raise UserError(f"{path}: video {twice} has two rows; expected one row per video.")
        if np.any((self._scores < 0) | (self._scores > 1)):
            raise UserError(f"{path}: a score is not in [0, 1]. Give the predictions themselves, as probabilities.")
        self._ends = np.concatenate([[0], np.cumsum(num_pairs)])

    def of(self, video_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the classes of a video, `(k,)` int32, and their scores, `(k,)` float32.

        Raises:
            UserError: if it has no row.
        """
        row = self._rows.get(video_id)
        if row is None:
            raise UserError(
                f"{self._path}: there is no row for video {video_id} of --input_data_pattern. Predict all of its "
                "shards with inference.py, or copy those that were predicted."
            )
        pairs = slice(self._ends[row], self._ends[row + 1])
        return self._classes[pairs], self._scores[pairs]


def taught_records(shard: Shard, teacher: Predictions) -> Iterator[bytes]:
    """Yields the records of a shard with the predictions for their videos; earlier ones are replaced.

    Raises:
        UserError: if a record is damaged, or its video has no row.
    """
    for item in stored_records(shard):
        if isinstance(item, Damage):
            raise UserError(str(item))
        try:
            classes, scores = teacher.of(id_of(item.serialized))
        except RecordFaultError as fault:
            raise UserError(str(Damage(item.file, item.number, str(fault)))) from fault
        # An Example is a SequenceExample without feature lists: both keep ids and labels in field 1.
        record = tf.train.SequenceExample.FromString(item.serialized)
        record.context.feature[TEACHER_CLASSES_KEY].int64_list.value[:] = classes.tolist()
        record.context.feature[TEACHER_SCORES_KEY].float_list.value[:] = scores.tolist()
        yield record.SerializeToString(deterministic=True)


if __name__ == "__main__":
    program.run(main)
