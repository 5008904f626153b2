"""A run's model as it is exported: from whole videos to predictions in one graph."""

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from yt8m.batch import ID, NUM_FRAMES, Batch, blank_batch, model_inputs
from yt8m.engine.calibration import CalibratedModel
from yt8m.randomness import keys_from_ids
from yt8m.registry import FRAME_LEVEL_MODELS, models_that_read
from yt8m.sampling import sample_indices
from yt8m.schema import DataSpec


class ServedModel:
    """A model that does what reading does elsewhere: it chooses the frames of videos itself.

        predictions = sigmoid(logits / temperature),   of the frames that the model wants at evaluation

    Frames after `max_frames` are cut off.

    Args:
        model: the run's model, with its weights.
        temperature: of its calibration, by which logits are divided; 1 leaves predictions as they are.
    """

    def __init__(self, model: keras.Model, temperature: float = 1.0):
        self.spec: DataSpec = model.spec
        self.sampling = model.frame_sampling(training=False)
        self.has_frames = models_that_read(self.spec.record_format) is FRAME_LEVEL_MODELS
        self.needs_ids = self.has_frames and self.sampling is not None and self.sampling.method == "shuffled"
        self.model = model
        self._calibrated = CalibratedModel(model)
        self._calibrated.set_temperature(temperature)

    def frame_sampling(self, training: bool) -> None:
        """Returns None, as models do that read all frames."""

    def signature(self, as_floats: bool = False) -> dict[str, tf.TensorSpec]:
        """Returns shapes and types of the features of a batch: any number of videos, of any number of frames.

        Args:
            as_floats: whether features of frames are floats, as some records have them, and not bytes.
        """
        video = blank_batch(self.spec)
        has_times = NUM_FRAMES in video
        num_videos = (
            [None, self.spec.eval_clips] if self.spec.eval_clips > 1 and has_times and not self.has_frames else [None]
        )
        specs = {NUM_FRAMES: tf.TensorSpec(num_videos, tf.int32, NUM_FRAMES)} if has_times else {}
        for name in self.spec.feature_names:
            shape = [*num_videos, None, *video[name].shape[2:]] if has_times else [None, *video[name].shape[1:]]
            dtype = tf.float32 if as_floats and self.has_frames else video[name].dtype
            specs[name] = tf.TensorSpec(shape, dtype, name)
        return specs | ({ID: tf.TensorSpec([None], tf.string, ID)} if self.needs_ids else {})

    def outputs(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Maps whole videos, a batch like `signature`, to `predictions` and `logits`, `(B, C)` float32 each."""
        return self.outputs_of_chosen(self._chosen_frames(dict(batch)) if self.has_frames else batch)

    def outputs_of_chosen(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Does the same for a `batch` of frames that were chosen when it was read."""
        outputs = self._calibrated(model_inputs(batch), training=False)
        return {name: outputs[name] for name in ("predictions", "logits") if name in outputs}

    def mediapipe_outputs(self, rgb_and_audio: tf.Tensor, num_frames: tf.Tensor) -> dict[str, tf.Tensor]:
        """Maps what MediaPipe's graph feeds to `predictions` `(B, C)` float32.

        Args:
            rgb_and_audio: `(B, T, D)` float32, the features `rgb` and `audio` of every frame side by side.
            num_frames: `(B, 1)` int32.
        """
        sizes = dict(zip(self.spec.feature_names, self.spec.feature_sizes, strict=True))
        rgb, audio = tf.split(rgb_and_audio, [sizes["rgb"], sizes["audio"]], axis=2)
        batch = {"rgb": rgb, "audio": audio, NUM_FRAMES: num_frames[:, 0]}
        return {"predictions": self.outputs(batch)["predictions"]}

    def _chosen_frames(self, batch: dict[str, Any]) -> Batch:
        names = self.spec.feature_names
        num_frames = tf.minimum(batch[NUM_FRAMES], self.spec.max_frames)
        if self.sampling is None:
            frames = {name: batch[name][:, : self.spec.max_frames] for name in names}
            return frames | {NUM_FRAMES: num_frames}
        keys = keys_from_ids(batch[ID]) if self.needs_ids else tf.zeros_like(num_frames, tf.int64)
        indices, num_chosen = sample_indices(self.sampling, num_frames, keys)
        frames = {name: tf.gather(batch[name], indices, axis=1, batch_dims=1) for name in names}
        return frames | {NUM_FRAMES: num_chosen}
