"""Fits the temperature of a run on held-out videos, and keeps it with the run: eval.py and inference.py then use it.

python -m tools.calibrate --train_dir=RUN --eval_data_pattern='DIR/validate*.tfrecord'
"""

from absl import flags

from yt8m.cli import program, run_flags


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of this program."""
    run_flags.define_program_flags(values, batch_size=1024)
    flags.DEFINE_string(
        "eval_data_pattern", "", "Held-out shards with labels: comma-separated patterns.", flag_values=values
    )


if __name__ == "__main__":
    # Before TensorFlow is loaded, so that --help and mistyped flags are answered at once.
    program.parse_flags(define_flags)

import tensorflow as tf

from yt8m.engine.calibration import collect_logits, save_calibration
from yt8m.engine.reliability import reliability_image, reliability_svg
from yt8m.engine.reports import EventWriter
from yt8m.files import write_text
from yt8m.runs.directory import (
    CALIBRATION,
    RELIABILITY,
    checkpoint_step,
    evaluation_directory,
    load_config,
    make_directory,
    require_checkpoint,
)

import experiment


def main(values: flags.FlagValues) -> None:
    """Writes the temperature of the newest checkpoint and its reliability diagrams.

    Raises:
        UserError: if the run or a shard cannot be read, or no temperature fits.
    """
    # 1. The run and the held-out videos.
    config, checkpoint = load_config(values.train_dir), require_checkpoint(values.train_dir)
    model = experiment.trained_model(config, values.train_dir, checkpoint)
    data = experiment.evaluation_data(
        config,
        model,
        values.eval_data_pattern,
        "eval_data_pattern",
        batch_size=values.batch_size,
        on_bad_record=values.on_bad_record,
        labels_required=True,
        decided_by=values.train_dir,
    )

    # 2. One pass, then the temperature.
    with data.explained():
        logits = collect_logits(model, data.batches, data.num_videos)
    data.report_skipped()
    temperature = logits.temperature()
    before, after = logits.reliability(1.0), logits.reliability(temperature)
    calibration = {
        "temperature": temperature,
        "num_videos": logits.num_videos,
        "cross_entropy_before": logits.cross_entropy(1.0),
        "cross_entropy": logits.cross_entropy(temperature),
        "calibration_error_before": before.calibration_error,
        "calibration_error": after.calibration_error,
    }

    # 3. What people look at comes before the file that changes what eval.py and inference.py do.
    directory = evaluation_directory(values.train_dir)
    make_directory(directory)
    write_text(RELIABILITY.path(values.train_dir), reliability_svg({"before": before, "after": after}))
    events = EventWriter(directory)
    with events.of_step(checkpoint_step(checkpoint)):
        tf.summary.image("reliability/before", reliability_image(before))
        tf.summary.image("reliability/after", reliability_image(after))
    events.close()
    save_calibration(values.train_dir, checkpoint, calibration)
    print(f"{CALIBRATION.path(values.train_dir)} | " + " | ".join(f"{n}: {v:.6g}" for n, v in calibration.items()))


if __name__ == "__main__":
    program.run(main)
