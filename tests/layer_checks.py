"""What tests of pooling layers share: padded videos, random weights, and the steps that every oracle is given."""

from typing import Any

import numpy as np
import tensorflow as tf

from yt8m.layers.assignment import SoftAssignment
from yt8m.models.base import FrameLevelModel
from yt8m.schema import DataSpec

from oracles import models as oracles_models
from oracles import vlad as oracles

LENGTHS = (4, 2, 0, 1)
SIZE = 6
SPEC = DataSpec(("rgb", "audio"), (4, 2), 3, record_format="frame")
RNG = np.random.default_rng


def padded() -> tuple[tf.Tensor, tf.Tensor]:
    """Videos of LENGTHS whose padding is not zero, as after any bias."""
    frames = RNG(0).normal(size=(4, 4, SIZE)).astype(np.float32)
    return tf.constant(frames), tf.sequence_mask(LENGTHS, 4)


def true_frames(video: int) -> np.ndarray:
    return padded()[0].numpy()[video, : LENGTHS[video]].astype(np.float64)


def randomise(model: Any) -> Any:
    """Gives every weight, moving moments included, values that are neither 0 nor 1."""
    for index, weight in enumerate(model.weights):
        weight.assign(RNG(index).uniform(0.2, 1.2, weight.shape) * RNG(index).choice([-1, 1], weight.shape))
        if weight.name == "moving_variance":
            weight.assign(np.abs(weight.numpy()))
    return model


def pooled(layer: Any) -> np.ndarray:
    """Builds a layer, gives it random weights and pools the padded videos."""
    frames, valid = padded()
    layer.build(frames.shape)
    randomise(layer)
    return layer(frames, valid).numpy()


def norm(layer: Any, rows: np.ndarray) -> np.ndarray:
    """Batch normalisation as it is at evaluation."""
    rows = oracles_models.normalise(rows, layer.moving_mean.numpy(), layer.moving_variance.numpy())
    return rows * layer.gamma.numpy() + layer.beta.numpy()


def dense(layer: Any, row: np.ndarray) -> np.ndarray:
    """NormalisedDense as it is at evaluation."""
    y = oracles.affine(row, layer.kernel.numpy())
    return y + layer.bias.numpy() if layer.batch_norm is None else norm(layer.batch_norm, y)


def shares_of(assignment: SoftAssignment, frames: np.ndarray) -> np.ndarray:
    rows = [oracles.softmax(dense(assignment.projection, x)) for x in frames]
    return np.array(rows).reshape(-1, assignment.cluster_size)


def close(seen: Any, expected: Any, atol: float = 2e-5) -> None:
    np.testing.assert_allclose(seen, expected, rtol=0, atol=atol)


def make_batch() -> dict[str, tf.Tensor]:
    """Videos of LENGTHS as the reader gives them, with garbage in the padding."""
    features = {
        name: tf.constant(RNG(7).integers(0, 256, (4, 4, size)), tf.uint8)
        for name, size in zip(SPEC.feature_names, SPEC.feature_sizes, strict=True)
    }
    return features | {"num_frames": tf.constant(LENGTHS), "key": tf.range(4, dtype=tf.int64)}


def built(model: FrameLevelModel) -> Any:
    """Builds a model and gives it random weights."""
    model.build()
    return randomise(model)
