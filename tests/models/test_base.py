"""What frame-level models inherit: outputs of their own, terms of the loss, the name plate of the door."""

import re
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from yt8m.errors import UserError
from yt8m.layers.pooling import masked_mean
from yt8m.models.base import FrameLevelModel, Pooled, build_classifier
from yt8m.registry import CLIP_MODELS, FRAME_LEVEL_MODELS
from yt8m.schema import DataSpec

import frame_level_models

SPEC = DataSpec(("rgb", "audio"), (3, 2), 4, record_format="frame")


class MeanModel(FrameLevelModel):
    """Pools to the mean, with terms of the loss, and predicts every frame too."""

    pooling_loss, classifier_loss = 2.0, 3.0

    def pool(self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool) -> Pooled:
        return Pooled(masked_mean(frames, valid), losses={"pooling": tf.fill(tf.shape(valid)[:1], self.pooling_loss)})

    def classify(
        self, vector: tf.Tensor, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool
    ) -> dict[str, Any]:
        outputs = super().classify(vector, frames, valid, random_key, training)
        losses = {"classifier": tf.fill(tf.shape(valid)[:1], self.classifier_loss)}
        return {**outputs, "frame_logits": tf.where(valid, frames[:, :, 0], 0.0), "losses": losses}


class PlainModel(FrameLevelModel):
    """Pools to the mean."""

    def pool(self, frames: tf.Tensor, valid: tf.Tensor, random_key: tf.Tensor | None, training: bool) -> tf.Tensor:
        return masked_mean(frames, valid)


def make_batch() -> dict[str, tf.Tensor]:
    generator = np.random.default_rng(0)
    sizes = zip(SPEC.feature_names, SPEC.feature_sizes, strict=True)
    features = {name: tf.constant(generator.integers(0, 256, (3, 4, size)), tf.uint8) for name, size in sizes}
    return features | {"num_frames": tf.constant([4, 2, 0]), "key": tf.range(3, dtype=tf.int64)}


def test_terms_of_the_loss_are_those_of_pooling_and_classification() -> None:
    losses = MeanModel(SPEC)(make_batch(), training=True)["losses"]
    assert {name: term.numpy().tolist() for name, term in losses.items()} == {
        "pooling": [2.0] * 3,
        "classifier": [3.0] * 3,
    }


def test_there_are_none_at_evaluation() -> None:
    assert "losses" not in MeanModel(SPEC)(make_batch(), training=False)
    assert "losses" not in PlainModel(SPEC)(make_batch(), training=True)


@pytest.mark.parametrize("training", [False, True])
def test_a_model_adds_outputs_to_those_of_the_classifier(training: bool) -> None:
    batch, model = make_batch(), MeanModel(SPEC, "LogisticModel")
    outputs, plain = model(batch, training=training), PlainModel(SPEC, "LogisticModel")
    plain.build()
    for weight, other in zip(plain.weights, model.weights, strict=True):
        weight.assign(other)
    assert outputs["frame_logits"].shape == (3, 4)
    np.testing.assert_array_equal(outputs["frame_logits"][1:, 2:], 0.0)
    for name in ("predictions", "logits"):
        np.testing.assert_array_equal(outputs[name], plain(batch)[name])


def test_frames_are_classified_in_float32_whatever_the_policy() -> None:
    seen: dict[str, Any] = {}

    class Recorder(PlainModel):
        def classify(self, vector: tf.Tensor, frames: tf.Tensor, *inputs: Any) -> dict[str, Any]:
            seen.update(vector=vector.dtype, frames=frames.dtype)
            return super().classify(vector, frames, *inputs)

    Recorder(SPEC, dtype="mixed_bfloat16")(make_batch())
    assert seen == {"vector": tf.bfloat16, "frames": tf.float32}


def test_a_classifier_out_of_range_is_named_as_the_models_own() -> None:
    with pytest.raises(UserError, match=r"^classifier\.num_mixtures=0: expected at least 1"):
        build_classifier("MoeModel", 4, {"num_mixtures": 0})
    with pytest.raises(UserError, match=r"^classifier=MoeModle: .*Did you mean MoeModel\?"):
        build_classifier("MoeModle", 4)


def test_the_name_plate_of_the_door_says_where_models_are() -> None:
    plate = str(frame_level_models.__doc__).split("\n\n", 1)[1]
    known = {**FRAME_LEVEL_MODELS.entries, **CLIP_MODELS.entries}
    listed = []
    for line in plate.replace(",\n", ", ").splitlines():
        models = [name for name in known if re.search(rf"\b{name}\b", line)]
        place = re.search(r"yt8m/models/\w+|$", line)[0] or "frame_level_models"  # type: ignore[index]
        assert {known[name].module for name in models} == {place.replace("/", ".")}, line
        listed += models
    assert len(listed) == len(set(listed)) >= 20
