"""What a worker of tools.beam_inference does: it predicts the videos of some shards, and writes them as a part."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock

import tensorflow as tf

from yt8m.config import OnBadRecord
from yt8m.engine.calibration import CalibratedModel, temperature_of
from yt8m.engine.prediction import Step, predict_batches, prediction_step
from yt8m.files import write_text
from yt8m.output.submission import SubmissionWriter
from yt8m.runs.directory import join, load_config
from yt8m.shard_cache import shard_cache
from yt8m.storage import enable, enable_records

import experiment

# Workers may have several threads; TensorFlow uses all cores for one part, and each part takes memory for its batches.
_one_part_at_a_time = Lock()


@dataclass(frozen=True)
class Prediction:
    """How shards are predicted: the same for all parts.

    Attributes:
        folder: where the parts go; all workers and who joins the parts see it.
        train_dir: the run.
        checkpoint: its checkpoint, without an ending.
        calibrated: whether logits are divided by the run's temperature.
        batch_size: videos per batch.
        top_k: classes per video.
        on_bad_record: `error` or `skip`.
        cache_dir: for copies of remote shards, on each worker.
        cache_max_gb: what they may take.
    """

    folder: str
    train_dir: str
    checkpoint: str
    calibrated: bool
    batch_size: int
    top_k: int
    on_bad_record: OnBadRecord
    cache_dir: str
    cache_max_gb: float

    def part(self, number: int) -> str:
        """Returns the path of the submission of a part."""
        return join(self.folder, f"part-{number:05d}.csv")

    def skipped(self, number: int) -> str:
        """Returns the path of the text that says what was left out of a part, if something was."""
        return join(self.folder, f"part-{number:05d}.skipped.txt")


def predict_part(part: tuple[int, Sequence[str]], prediction: Prediction) -> None:
    """Writes the submission of a part; if a worker does it again, after another one failed, with the same result.

    Args:
        part: its number, and its shards in their order.
        prediction: by which run, and where the part is written.

    Raises:
        UserError: if the run or a shard cannot be read, or the part not be written.
    """
    number, files = part
    with _one_part_at_a_time, shard_cache(prediction.cache_dir, prediction.cache_max_gb):
        for path in (prediction.train_dir, prediction.folder):
            enable(path)
        for file in files:
            enable_records(file)
        run = _loaded(prediction.train_dir, prediction.checkpoint, prediction.calibrated)
        data = experiment.evaluation_data_of(
            list(files),
            run.config,
            run.model,
            batch_size=prediction.batch_size,
            on_bad_record=prediction.on_bad_record,
            labels_required=False,
            decided_by=prediction.train_dir,
        )
        with data.explained(), SubmissionWriter(prediction.part(number)) as writer:
            for ids, classes, scores in predict_batches(run.step(data.batches, prediction.top_k), data.batches):
                writer.add(ids, classes, scores)
        skipped = data.options.skipped.report()
        if skipped:
            write_text(prediction.skipped(number), "".join(f"{line}\n" for line in skipped))


class _LoadedRun:
    """A run that a worker keeps for its next parts: its model, and the step that is traced for its batches."""

    def __init__(self, train_dir: str, checkpoint: str, calibrated: bool):
        self.config = load_config(train_dir)
        self.model = experiment.trained_model(self.config, train_dir, checkpoint)
        self._calibrated = CalibratedModel(self.model)
        self._calibrated.set_temperature(temperature_of(train_dir, checkpoint) if calibrated else 1.0)
        self._steps: dict[str, Step] = {}

    def step(self, batches: tf.data.Dataset, top_k: int) -> Step:
        """What predicts such batches."""
        signature = f"{top_k} {batches.element_spec}"
        if signature not in self._steps:
            self._steps[signature] = prediction_step([self._calibrated], [1.0], batches.element_spec, top_k)
        return self._steps[signature]


_loaded = lru_cache(1)(_LoadedRun)
