r"""Counts what shards hold as tools.check_dataset does, by many workers: a pipeline of Apache Beam.

    python -m tools.beam_statistics --data_pattern='DIR/train*.tfrecord' --csv=report.csv \
        --frame_features --feature_names=rgb,audio --feature_sizes=1024,128 \
        -- --direct_running_mode=multi_processing --direct_num_workers=2

What follows `--` are options of Beam. Numbers, messages and exit status are those of tools.check_dataset.
"""

import sys

from absl import flags

from yt8m.cli import program, run_flags

define_flags = run_flags.define_examination_flags

if __name__ == "__main__":
    # Before TensorFlow is loaded, so that --help and mistyped flags are answered at once.
    OPTIONS = program.parse_flags(define_flags, num_arguments=sys.maxsize)

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from tools.beam_pipeline import check_options, load_beam, load_result, run_pipeline, save_result, shared_folder, spread
from tools.check_dataset import report
from tools.examined_shards import ShardReader, contents_of, merged, places_of_ids
from yt8m.data.diagnosis import find_layout
from yt8m.data.examination import NAMED_IDS, DatasetContents, duplicate_at, readable_shards
from yt8m.data.vocabulary import class_names
from yt8m.errors import UserError
from yt8m.files import check_outputs
from yt8m.runs.directory import join

import readers


def main(values: flags.FlagValues, options: Sequence[str] = ()) -> None:
    """Prints what shards hold, and a line for every damaged record or file.

    Args:
        values: the flags.
        options: of Beam.

    Raises:
        UserError: if Beam is not installed, no file matches the patterns, or a record or a file is damaged.
    """
    # 1. The shards, and how their first records store what the flags name.
    check_options(options)
    beam = load_beam()
    if not values.csv:
        raise UserError("--csv is missing: give the CSV to write. Workers return what they found beside it.")
    files = readers.find_files(values.data_pattern, "data_pattern")
    check_outputs({"csv": values.csv}, [*files, values.vocabulary])
    spec = run_flags.data_spec_from_flags(values)
    names = class_names(values.vocabulary) if values.vocabulary else {}
    layout = find_layout(readable_shards(files), spec, values.labels_required, skip=True)
    nothing = DatasetContents(spec, layout, np.zeros(spec.num_classes, np.int64))
    reader = ShardReader(spec, layout, values.labels_required, values.cache_dir, values.cache_max_gb)

    # 2. Workers read shards; what they count is added up, and ids are brought together by their hashes.
    with shared_folder(values.csv) as folder:
        results = {name: join(folder, name) for name in ("contents", "num_repeated", "duplicates")}

        def saved(name: str) -> Any:
            return f"Save {name}" >> beam.Map(partial(save_result, path=results[name]))

        def build(pipeline: Any) -> None:
            examined = pipeline | beam.Create(list(enumerate(files))) | spread(reader)
            contents = examined | "Counts" >> beam.Map(partial(contents_of, nothing=nothing))
            contents | "All counts" >> beam.CombineGlobally(partial(merged, nothing=nothing)) | saved("contents")
            repeated = (
                examined
                | "Ids" >> beam.FlatMap(places_of_ids)
                | beam.GroupByKey()
                | "Places" >> beam.Map(lambda item: sorted(item[1]))
                | "Repeated" >> beam.Filter(lambda places: len(places) > 1)
            )
            later = repeated | "Later ones" >> beam.Map(lambda places: len(places) - 1)
            later | "All later ones" >> beam.CombineGlobally(sum) | saved("num_repeated")
            repeated | "First" >> beam.combiners.Top.Smallest(NAMED_IDS) | saved("duplicates")

        run_pipeline(build, options)
        found = load_result(results["contents"])
        found.num_repeated = load_result(results["num_repeated"])
        places_of_duplicates = load_result(results["duplicates"])

    # 3. In the order of the shards again, with the names of some ids that occur twice.
    found.shards.sort()
    found.damages.sort(key=lambda damage: damage.file)
    for places in places_of_duplicates:
        found.duplicates.append(duplicate_at([(files[shard], number) for shard, number in places]))
    report(found, names, values)


if __name__ == "__main__":
    program.run(lambda values: main(values, OPTIONS))
