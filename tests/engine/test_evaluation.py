"""From a model to its metrics and its submission: every video once, on one device and on two."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import ClassVar

import keras
import numpy as np
import pytest
import tensorflow as tf

from yt8m.classifiers.base import Outputs, outputs_from_logits
from yt8m.distribution import build_strategy
from yt8m.engine.evaluation import Evaluator
from yt8m.engine.prediction import predict
from yt8m.errors import UserError
from yt8m.metrics import Accumulator, BatchResults
from yt8m.registry import METRICS

from losses import cross_entropy_loss
from oracles import metrics as oracles

NUM_CLASSES, NUM_VIDEOS = 6, 23


class ShowsItsInput(keras.Model):
    """Predicts the sigmoid of the features themselves, so that what comes out is known."""

    def call(self, batch: dict[str, tf.Tensor], training: bool = False) -> Outputs:
        return outputs_from_logits(batch["mean_rgb"])


@pytest.fixture(name="videos")
def make_videos() -> dict[str, np.ndarray]:
    """Videos whose features are their logits."""
    rng = np.random.default_rng(5)
    return {
        "id": np.array([f"v{i:02}".encode() for i in range(NUM_VIDEOS)]),
        "mean_rgb": rng.normal(size=(NUM_VIDEOS, NUM_CLASSES)).astype(np.float32),
        "labels": rng.random((NUM_VIDEOS, NUM_CLASSES)) < 0.3,
        "key": np.arange(NUM_VIDEOS),
    }


def evaluate(
    videos: dict[str, np.ndarray], batch_size: int = 4, num_devices: int = 1, names: Sequence[str] = ()
) -> dict[str, float]:
    """Evaluates the model above."""
    batches = tf.data.Dataset.from_tensor_slices(videos).batch(batch_size)
    strategy = build_strategy(num_devices)
    with strategy.scope():
        model = ShowsItsInput()
    evaluator = Evaluator(
        strategy,
        model,
        cross_entropy_loss,
        batch_spec=batches.element_spec,
        build_metrics=lambda: [METRICS[name](NUM_CLASSES, 3) for name in names or METRICS.names()],
        top_k=3,
    )
    return evaluator.evaluate(batches).summary


def test_metrics_and_loss_are_those_of_the_definition(videos: dict[str, np.ndarray]) -> None:
    summary = evaluate(videos)
    probabilities = 1 / (1 + np.exp(-videos["mean_rgb"].astype(np.float64)))
    terms = np.where(videos["labels"], np.log(probabilities), np.log(1 - probabilities))
    assert summary["num_examples"] == NUM_VIDEOS
    assert summary["loss"] == pytest.approx(-terms.sum(axis=1).mean(), rel=1e-6)
    predictions = probabilities.astype(np.float32)
    assert summary["gap"] == pytest.approx(oracles.gap(predictions.tolist(), videos["labels"].tolist(), 3), abs=1e-9)


def test_what_is_said_of_a_class_that_was_not_rated_changes_nothing(videos: dict[str, np.ndarray]) -> None:
    is_rated = np.random.default_rng(2).random((NUM_VIDEOS, NUM_CLASSES)) < 0.5
    videos["labels"] &= is_rated
    videos["label_weights"] = is_rated.astype(np.float32)
    of_rated = [name for name in METRICS.names() if METRICS.entry(name).facts.get("of_rated")]
    results = []
    for wrong in (0.0, 50.0, -50.0):
        said = np.where(is_rated, videos["mean_rgb"], wrong).astype(np.float32)
        results.append(evaluate(videos | {"mean_rgb": said}, names=of_rated))
    assert results[0] == results[1] == results[2]
    p = 1 / (1 + np.exp(-videos["mean_rgb"].astype(np.float64)))
    terms = np.where(videos["labels"], np.log(p), np.log(1 - p)) * is_rated
    assert results[0]["loss"] == pytest.approx(-terms.sum(axis=1).mean(), rel=1e-6)
    rated = list(zip(*np.nonzero(is_rated), strict=True))
    ratings = [(f"v:{v}", c, float(videos["labels"][v, c])) for v, c in rated]
    submission = [(c, [f"v:{v}" for v in np.argsort(-p[:, c])]) for c in range(NUM_CLASSES)]
    assert results[0]["segment_map"] == pytest.approx(oracles.segment_map(ratings, submission, 0), abs=1e-12)


@pytest.mark.parametrize(("batch_size", "num_devices"), [(1, 1), (23, 1), (1, 2), (5, 2), (23, 2)])
def test_batches_and_devices_change_nothing(videos: dict[str, np.ndarray], batch_size: int, num_devices: int) -> None:
    other = evaluate(videos, batch_size, num_devices)
    reference = evaluate(videos)
    # These are made of the predictions' values, which the model rounds otherwise in another batch, not of their order.
    for name in ("loss", "ece"):
        assert other.pop(name) == pytest.approx(reference.pop(name), rel=1e-6)
    assert other == reference


def test_a_prediction_that_is_no_number_names_its_video(videos: dict[str, np.ndarray]) -> None:
    videos["mean_rgb"][7, 2] = np.nan
    with pytest.raises(UserError, match="v07"):
        evaluate(videos)


def test_predictions_come_best_first_in_the_order_of_the_input(videos: dict[str, np.ndarray]) -> None:
    batches = tf.data.Dataset.from_tensor_slices(videos).batch(4)
    ids, classes, scores = (
        np.concatenate(part) for part in zip(*predict([ShowsItsInput()], [1.0], batches, 3), strict=True)
    )
    np.testing.assert_array_equal(ids, videos["id"])
    np.testing.assert_array_equal(classes, np.argsort(-videos["mean_rgb"], axis=1)[:, :3])
    assert (np.diff(scores, axis=1) <= 0).all()


def test_all_predictions_travel_only_where_somebody_needs_them(videos: dict[str, np.ndarray]) -> None:
    batches = tf.data.Dataset.from_tensor_slices(videos).batch(4)
    seen: list[set[str]] = []

    class Spy(Accumulator):
        """Notes what it is given."""

        values: ClassVar[Mapping[str, str]] = {"spied": "how many batches"}

        def __init__(self, num_classes: int = NUM_CLASSES, top_k: int = 3): ...

        def add_batch(self, results: BatchResults) -> None:
            seen.append(set(results))

        def result(self) -> Iterator[tuple[str, int]]:
            yield "spied", len(seen)

    class NeedsAll(Spy):
        """Needs more."""

        needs_all_predictions: ClassVar[bool] = True

    for kind in (Spy, NeedsAll):
        evaluator = Evaluator(
            build_strategy(),
            ShowsItsInput(),
            cross_entropy_loss,
            batch_spec=batches.element_spec,
            build_metrics=partial(list, [kind()]),
            top_k=3,
        )
        assert evaluator.evaluate(batches.take(1)).summary == {"spied": len(seen)}
    assert seen[1] - seen[0] == {"predictions", "labels"}
