"""From a model and a finite pass over the data to its metrics."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf

from yt8m.batch import ID, LABEL_WEIGHTS, LABELS, loss_inputs, model_inputs, videos_in
from yt8m.distribution import Strategy, replica_rows
from yt8m.metrics import Accumulator, rated_predictions, top_k_pairs
from yt8m.progress import with_progress
from yt8m.scores import check_finite


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        metrics: the accumulators, with all videos in them.
    """

    metrics: Sequence[Accumulator]

    @cached_property
    def summary(self) -> dict[str, float | int]:
        """The value of every metric, by name."""
        return {name: value for accumulator in self.metrics for name, value in accumulator.result()}

    @property
    def per_class(self) -> dict[str, np.ndarray]:
        """Columns `(C,)` by name: what the metrics say of every class."""
        return {name: column for accumulator in self.metrics for name, column in accumulator.per_class().items()}

    @property
    def curves(self) -> dict[int, Mapping[str, Any]]:
        """Precision-recall curves by class, as TensorBoard's plugin takes them."""
        return {index: curve for accumulator in self.metrics for index, curve in accumulator.curves().items()}


class Evaluator:
    """Evaluates a model, again and again while its weights change.

    Args:
        strategy: where the replicas are.
        model: maps a batch to `predictions` and the outputs that `loss` needs.
        loss: `(labels, outputs, label_weights) -> (B,)`.
        batch_spec: shapes and types of a batch.
        build_metrics: makes accumulators that hold no videos yet.
        top_k: predictions per video that count.
    """

    def __init__(
        self,
        strategy: Strategy,
        model: Callable[..., dict[str, Any]],
        loss: Callable[..., tf.Tensor],
        *,
        batch_spec: dict[str, tf.TypeSpec],
        build_metrics: Callable[[], Sequence[Accumulator]],
        top_k: int,
    ):
        self._strategy = strategy
        self._model = model
        self._loss = loss
        self._build_metrics = build_metrics
        self._needs_all_predictions = any(accumulator.needs_all_predictions for accumulator in build_metrics())
        self._top_k = top_k
        self._step = tf.function(self._evaluate_batch, input_signature=[batch_spec], autograph=False)

    def evaluate(self, batches: tf.data.Dataset, num_videos: int = 0) -> Evaluation:
        """Evaluates the model as it is now on every video of a finite data set.

        Args:
            batches: one pass over the data.
            num_videos: how many videos that is, about, for those who watch a bar; 0 if it is not known.

        Raises:
            UserError: if a prediction is not finite; the message names the video.
        """
        metrics = self._build_metrics()
        for batch in with_progress(batches, "evaluating", num_videos, videos_in):
            for replica in self._step(batch):
                results = {name: value.numpy() for name, value in replica.items()}
                check_finite(results["scores"], results["ids"])
                for accumulator in metrics:
                    accumulator.add_batch(results)
        return Evaluation(metrics)

    def _evaluate_batch(self, batch: dict[str, tf.Tensor]) -> tuple[dict[str, tf.Tensor], ...]:
        with self._strategy.scope():
            results = self._strategy.run(self._evaluate_rows, args=(batch,))
        columns = [self._strategy.experimental_local_results(value) for value in results.values()]
        return tuple(dict(zip(results, row, strict=True)) for row in zip(*columns, strict=True))

    def _evaluate_rows(self, batch: dict[str, tf.Tensor]) -> dict[str, Any]:
        rows = replica_rows(batch)
        outputs = self._model(model_inputs(rows), training=False)
        losses = self._loss(rows[LABELS], loss_inputs(rows, outputs), rows.get(LABEL_WEIGHTS))
        predictions = rated_predictions(outputs["predictions"], rows.get(LABEL_WEIGHTS))
        results = top_k_pairs(predictions, rows[LABELS], self._top_k)
        results |= {"ids": rows[ID], "losses": losses}
        if self._needs_all_predictions:
            results |= {"predictions": predictions, "labels": rows[LABELS]}
            results |= {LABEL_WEIGHTS: rows[LABEL_WEIGHTS]} if LABEL_WEIGHTS in rows else {}
            results |= {name: outputs[name] for name in ("clip_predictions",) if name in outputs}
        return results
