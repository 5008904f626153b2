"""The contents of a batch of B videos, a dictionary of tensors: readers make it, models and the training loop read it.

| name | shape and dtype | content |
| --- | --- | --- |
| `id` | `(B,)` string | the videos' ids; of segments their names, `<id>:<second>` |
| a feature's name | `(B, T, size)` uint8 or float32, or `(B, size)` float32 | stored features of frames, or a video |
| a feature's name | `(B, T, S, S, channels)` uint8 | frames of a clip: pictures or flow |
| a feature's name | `(B, T, 6144)` uint8 | the sound of a clip: a patch per frame |
| `num_frames` | `(B,)` int32 | the number of real frames; later ones are padding. Not in video-level batches |
| `labels` | `(B, C)` bool | multi-hot labels |
| `label_weights` | `(B, C)` float32 | the weight of each class in the loss, 0 where it was not rated; may be missing |
| `example_weights` | `(B,)` float32 | the weight of each video in the training loss; may be missing |
| `mixup_share` | `(B,)` float32 | in training with mixup: the share of this video in its features, in [0, 1] |
| `partner_labels` | `(B, C)` bool | in training with mixup: the labels of the video that has the rest |
| `partner_label_weights` | `(B, C)` float32 | with mixup and `label_weights`: those of that video |
| `key` | `(B,)` int64 | the example's source of randomness, `random_key` in code: see yt8m/randomness.py |
| `teacher_predictions` | `(B, C)` float32 | in training with a teacher: its predictions, in [0, 1] |
| `position` | `(7,)` int64 | in training: the place in the data after this batch, a row of yt8m/positions.py |

In this table, and wherever the code says so, a segment is a video of its own.

At evaluation with N > 1 clips per video, features of clips are `(B, N, T, S, S, channels)` or `(B, N, T,
6144)`, and `num_frames` is `(B, N)`.
"""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from yt8m.registry import RECORD_FORMATS
from yt8m.schema import DataSpec

ID = "id"
NUM_FRAMES = "num_frames"
LABELS = "labels"
LABEL_WEIGHTS = "label_weights"
EXAMPLE_WEIGHTS = "example_weights"
MIXUP_SHARE = "mixup_share"
PARTNER_LABELS = "partner_labels"
PARTNER_LABEL_WEIGHTS = "partner_label_weights"
KEY = "key"
TEACHER_PREDICTIONS = "teacher_predictions"
POSITION = "position"

NOT_FOR_THE_MODEL = (
    ID,
    LABELS,
    LABEL_WEIGHTS,
    EXAMPLE_WEIGHTS,
    MIXUP_SHARE,
    PARTNER_LABELS,
    PARTNER_LABEL_WEIGHTS,
    TEACHER_PREDICTIONS,
    POSITION,
)
FOR_THE_LOSS = (KEY, TEACHER_PREDICTIONS)

Batch = dict[str, tf.Tensor]


def videos_in(batch: Mapping[str, tf.Tensor]) -> int:
    """Returns the number B of the videos of a batch."""
    return int(batch[ID].shape[0])


def model_inputs(batch: Mapping[str, tf.Tensor]) -> Batch:
    """Returns the batch without `id`, labels, weights, teacher and `position`: all that a model may read."""
    return {name: value for name, value in batch.items() if name not in NOT_FOR_THE_MODEL}


def loss_inputs(batch: Mapping[str, tf.Tensor], outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a loss may look at beside labels and their weights: a model's outputs, and some of the batch."""
    return {**outputs, **{name: batch[name] for name in FOR_THE_LOSS if name in batch}}


def blank_batch(spec: DataSpec) -> Batch:
    """Returns a batch of one video, all zeros, without labels, from which Keras infers the shapes of a model."""
    video: Batch = RECORD_FORMATS[spec.record_format]().blank(spec)
    return video | {KEY: tf.zeros([1], tf.int64)}
