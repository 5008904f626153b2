"""What is in a batch of B videos, once for all: readers make it, models and the loop take it.

| key | shape and type | what |
| --- | --- | --- |
| `id` | `(B,)` string | the videos' names |
| a feature's name | `(B, T, size)` uint8 or float32, or `(B, size)` float32 | as stored: of frames, or of the video |
| `num_frames` | `(B,)` int32 | how many of the T frames a video has; the rest is padding. Only where there are frames |
| `labels` | `(B, C)` bool | multi-hot |
| `label_weights` | `(B, C)` float32 | what a label counts in the loss; may be missing |
| `key` | `(B,)` int64 | the video's own source of randomness: see yt8m/randomness.py |
| `position` | `(7,)` int64 | in training: the place in the data after this batch, a row of yt8m/positions.py |
"""

from collections.abc import Mapping

import tensorflow as tf

from yt8m.registry import RECORD_FORMATS
from yt8m.schema import DataSpec

ID = "id"
NUM_FRAMES = "num_frames"
LABELS = "labels"
LABEL_WEIGHTS = "label_weights"
KEY = "key"
POSITION = "position"

NOT_FOR_THE_MODEL = (ID, LABELS, LABEL_WEIGHTS, POSITION)

Batch = dict[str, tf.Tensor]


def model_inputs(batch: Mapping[str, tf.Tensor]) -> Batch:
    """Returns what a model may look at: everything but ids and labels."""
    return {name: value for name, value in batch.items() if name not in NOT_FOR_THE_MODEL}


def blank_batch(spec: DataSpec) -> Batch:
    """Returns one video, all zero, as a model sees it: enough for Keras to learn every shape."""
    video: Batch = RECORD_FORMATS[spec.record_format]().blank(spec)
    return video | {KEY: tf.zeros([1], tf.int64)}
