"""A page about some runs, in one HTML file that needs nothing else. jinja2 comes with requirements-report.txt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from yt8m.config import RunConfig
from yt8m.engine.clusters import VideoShares
from yt8m.engine.inspection import Inspection, Mistake
from yt8m.output import figures
from yt8m.runs.history import Curve

_TEMPLATE = Path(__file__).with_name("report.html")
_SUMMARY = {
    "gap": "GAP",
    "hit_at_one": "Hit@1",
    "map": "MAP",
    "perr": "PERR",
    "loss": "Loss",
    "num_examples": "Videos",
}


@dataclass(frozen=True)
class RunView:
    """What the page shows of a run.

    Attributes:
        name: the run's directory.
        config: its description.
        step: the step of its newest checkpoint.
        training: the curves of training, by TensorBoard tag.
        evaluations: the curves of all evaluations, by metric.
        classes: `num_positives` and `average_precision`, `(C,)` each; empty if the run was never evaluated by class.
        inspection: what a pass over labelled videos found; None if there was none.
        clusters: how frames of some videos are assigned to clusters; empty for models without.
    """

    name: str
    config: RunConfig
    step: int
    training: Mapping[str, Curve]
    evaluations: Mapping[str, Curve]
    classes: Mapping[str, np.ndarray]
    inspection: Inspection | None = None
    clusters: Sequence[VideoShares] = ()


# What tools.check_dataset counted: by part of its table, the key, the name and the number of each row.
DatasetCounts = Mapping[str, Sequence[tuple[str, str, str]]]


def report_page(
    runs: Sequence[RunView], class_names: Mapping[int, str], evaluated_on: str, dataset: DatasetCounts
) -> str:
    """Returns the text of the page.

    Args:
        runs: at least one, with different names.
        class_names: names of classes, where known.
        evaluated_on: which shards were looked at for the page; empty if none were.
        dataset: what shards hold; empty if nobody counted.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    inspected = {run.name: run.inspection for run in runs if run.inspection is not None}
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        runs=runs,
        colours=[figures.COLOURS[number % len(figures.COLOURS)] for number in range(len(runs))],
        evaluated_on=evaluated_on,
        summary=_summary(runs),
        figures={name: Markup(svg) for name, svg in _figures(runs, inspected, class_names).items()},
        clusters={run.name: Markup(figures.cluster_figure(run.clusters, class_names)) for run in runs if run.clusters},
        calibration_errors={
            name: inspection.logits.reliability(1.0).calibration_error for name, inspection in inspected.items()
        },
        classes=_class_rows(runs, class_names),
        mistakes={name: _mistake_rows(found.mistakes, class_names) for name, found in inspected.items()},
        settings=_setting_rows(runs),
        dataset=dataset,
    )


def _summary(runs: Sequence[RunView]) -> list[tuple[str, list[str]]]:
    """The newest evaluation of each run: a row per metric, a cell per run."""
    found = []
    for run in runs:
        newest = {name: curve.values[-1] for name, curve in run.evaluations.items()}
        found.append(newest | (dict(run.inspection.metrics.result()) if run.inspection else {}))
        if run.inspection:
            found[-1].pop("loss", None)  # that of another evaluation
    rows = [
        (title, [f"{f[name]:,.4f}".removesuffix(".0000") if name in f else "" for f in found])
        for name, title in _SUMMARY.items()
    ]
    return [row for row in rows if any(row[1])]


def _figures(
    runs: Sequence[RunView], inspected: Mapping[str, Inspection], class_names: Mapping[int, str]
) -> dict[str, str]:
    """The figures for which there is something to draw, by name."""
    drawn = {}
    if any(run.training for run in runs):
        drawn["training"] = figures.training_figure({run.name: run.training for run in runs})
    if any("gap" in run.evaluations for run in runs):
        drawn["evaluation"] = figures.evaluation_figure({run.name: run.evaluations for run in runs})
    by_class = {run.name: run.classes for run in runs if run.classes}
    if by_class:
        drawn["frequency"] = figures.frequency_figure(
            {name: (table["num_positives"], table["average_precision"]) for name, table in by_class.items()}
        )
    if inspected:
        drawn["precision_recall"] = figures.precision_recall_figure(
            {name: found.logits.precision_recall() for name, found in inspected.items()},
            {name: found.metrics.precision_recall_curves(num_curves=7) for name, found in inspected.items()},
            class_names,
        )
        drawn["reliability"] = figures.reliability_figure(
            {name: found.logits.reliability(1.0) for name, found in inspected.items()}
        )
    return drawn


def _class_rows(runs: Sequence[RunView], class_names: Mapping[int, str]) -> list[dict[str, Any]]:
    """A row per class that some run has videos of, the most frequent class first."""
    num_classes = max(len(run.classes["num_positives"]) if run.classes else 0 for run in runs)
    rows = []
    for c in range(num_classes):
        known = [run.classes if run.classes and c < len(run.classes["num_positives"]) else None for run in runs]
        positives = max(int(table["num_positives"][c]) for table in known if table)
        aps = [float(table["average_precision"][c]) if table else np.nan for table in known]
        if positives:
            rows.append({"index": c, "name": class_names.get(c, ""), "positives": positives, "aps": aps})
    return sorted(rows, key=lambda row: -row["positives"])


def _mistake_rows(mistakes: Sequence[Mistake], class_names: Mapping[int, str]) -> list[dict[str, Any]]:
    def name(c: int) -> str:
        return class_names.get(c) or f"class {c}"

    return [
        {
            "score": mistake.score,
            "id": mistake.video_id,
            "predicted": name(mistake.predicted),
            "labels": ", ".join(map(name, mistake.labels)),
        }
        for mistake in mistakes
    ]


def _setting_rows(runs: Sequence[RunView]) -> list[dict[str, Any]]:
    """A row per setting: its name, its value in each run, and whether the runs differ in it."""
    columns = [run.config.settings for run in runs]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [{"name": name, "values": [_shown(column.get(name, "")) for column in columns]} for name in names]
    return [row | {"differs": len(set(row["values"])) > 1} for row in rows]


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
