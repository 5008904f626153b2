"""From a model and a finite pass over the data to its metrics."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from yt8m.batch import model_inputs
from yt8m.distribution import Strategy, replica_rows
from yt8m.metrics import EvaluationMetrics, MacroMetrics, top_k_pairs


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        summary: `gap`, `hit_at_one`, `perr`, `map`, `map_all_classes`, `loss` (mean over the videos), `num_examples`,
            and `macro_ap`, `macro_auc` if asked for.
        metrics: the accumulators, for what is told class by class.
    """

    summary: dict[str, float]
    metrics: EvaluationMetrics


class Evaluator:
    """Evaluates a model, again and again while its weights change.

    Args:
        strategy: where the replicas are.
        model: the model.
        loss: `(labels, outputs, label_weights) -> (B,)`.
        batch_spec: shapes and types of a batch.
        num_classes: C.
        top_k: predictions a video that count.
        macro: whether to look at every prediction of every class too.
    """

    def __init__(
        self,
        strategy: Strategy,
        model: keras.Model,
        loss: Callable[..., tf.Tensor],
        *,
        batch_spec: dict[str, tf.TypeSpec],
        num_classes: int,
        top_k: int,
        macro: bool = False,
    ):
        self._strategy = strategy
        self._model = model
        self._loss = loss
        self._num_classes = num_classes
        self._top_k = top_k
        self._macro = macro
        self._step = tf.function(self._evaluate_batch, input_signature=[batch_spec])

    def evaluate(self, batches: tf.data.Dataset) -> Evaluation:
        """Evaluates the model as it is now on every video of a finite data set."""
        metrics = EvaluationMetrics(self._num_classes, self._top_k)
        macro = MacroMetrics(self._num_classes) if self._macro else None
        loss_sum = 0.0
        for batch in batches:
            for share in self._step(batch):
                arrays = {name: value.numpy() for name, value in share.items()}
                loss_sum += float(arrays.pop("losses").sum(dtype=np.float64))
                ids = arrays.pop("ids")
                if macro is not None:
                    macro.add(arrays.pop("predictions"), arrays.pop("labels"), ids)
                metrics.add(arrays, ids)
        summary = metrics.result() | (macro.result() if macro is not None else {})
        return Evaluation(summary | {"loss": loss_sum / max(summary["num_examples"], 1)}, metrics)

    def _evaluate_batch(self, batch: dict[str, tf.Tensor]) -> tuple[dict[str, tf.Tensor], ...]:
        with self._strategy.scope():
            results = self._strategy.run(self._evaluate_rows, args=(batch,))
        columns = [self._strategy.experimental_local_results(value) for value in results.values()]
        return tuple(dict(zip(results, row, strict=True)) for row in zip(*columns, strict=True))

    def _evaluate_rows(self, batch: dict[str, tf.Tensor]) -> dict[str, Any]:
        rows = replica_rows(batch)
        outputs = self._model(model_inputs(rows), training=False)
        losses = self._loss(rows["labels"], outputs, rows.get("label_weights"))
        results = top_k_pairs(outputs["predictions"], rows["labels"], self._top_k)
        results |= {"ids": rows["id"], "losses": losses}
        if self._macro:
            results |= {"predictions": outputs["predictions"], "labels": rows["labels"]}
        return results
