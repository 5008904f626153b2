r"""Reads shards in full, counts records and labels, and reports every damaged record.

    python -m tools.check_dataset --data_pattern='DIR/train*.tfrecord' \
        --frame_features --feature_names=rgb,audio --feature_sizes=1024,128

Ends with status 1 if anything is damaged.
"""

from absl import flags

from yt8m.cli import program, run_flags


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of this program."""
    run_flags.define_data_flags(values)
    run_flags.define_cache_flags(values)
    flags.DEFINE_string("data_pattern", "", "Shards to check: comma-separated patterns.", flag_values=values)
    flags.DEFINE_boolean("labels_required", True, "Whether a record without labels is damage.", flag_values=values)


if __name__ == "__main__":
    # Before TensorFlow is loaded, so that --help and mistyped flags are answered at once.
    program.parse_flags(define_flags)

import numpy as np

from yt8m.batch import ID, LABELS
from yt8m.errors import UserError

import readers


def main(values: flags.FlagValues) -> None:
    """Prints the numbers of files, records and labels, and a line for every damaged record or file.

    Raises:
        UserError: if no file matches the patterns, or a record or a file is damaged.
    """
    files = readers.find_files(values.data_pattern, "data_pattern")
    options = readers.ReadOptions(on_bad_record="skip")
    spec = run_flags.data_spec_from_flags(values)
    batches = readers.evaluation_batches(files, spec, 256, options=options, labels_required=values.labels_required)
    counts = np.zeros(spec.num_classes, np.int64)
    num_records = num_unlabelled = 0
    for batch in batches.as_numpy_iterator():
        counts += batch[LABELS].sum(axis=0)
        num_records += len(batch[ID])
        num_unlabelled += int((~batch[LABELS].any(axis=1)).sum())
    print(f"{len(files)} files, {num_records} sound records, {num_unlabelled} of them with no label")
    print(f"{counts.sum()} labels of {(counts > 0).sum()} of {spec.num_classes} classes")
    for line in options.skipped.report():
        print(line)
    if options.skipped.damages:
        raise UserError(f"{values.data_pattern}: damaged in {len(options.skipped.damages)} places, listed above.")


if __name__ == "__main__":
    program.run(main)
