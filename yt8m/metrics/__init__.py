"""Exact metrics of the YouTube-8M competitions, streaming and independent of batch size and order."""

from yt8m.metrics.accumulator import Accumulator, BatchResults
from yt8m.metrics.average_precision import GlobalAveragePrecision, average_precision
from yt8m.metrics.default import EvaluationMetrics, batch_metrics, metrics_of_matrix
from yt8m.metrics.listed import hits_of_lists, listed_pairs
from yt8m.metrics.macro import MacroMetrics
from yt8m.metrics.mean_average_precision import MeanAveragePrecision
from yt8m.metrics.precision_recall import PrecisionRecallCurves
from yt8m.metrics.segment_map import SegmentMeanAveragePrecision
from yt8m.metrics.top_k import rated_predictions, top_k_pairs, top_k_predictions

__all__ = [
    "Accumulator",
    "BatchResults",
    "EvaluationMetrics",
    "GlobalAveragePrecision",
    "MacroMetrics",
    "MeanAveragePrecision",
    "PrecisionRecallCurves",
    "SegmentMeanAveragePrecision",
    "average_precision",
    "batch_metrics",
    "hits_of_lists",
    "listed_pairs",
    "metrics_of_matrix",
    "rated_predictions",
    "top_k_pairs",
    "top_k_predictions",
]
