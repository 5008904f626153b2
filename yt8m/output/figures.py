"""Figures of runs as SVG, to be put into a page. matplotlib comes with requirements-report.txt."""

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter

from yt8m.engine.calibration import Reliability
from yt8m.engine.clusters import VideoShares
from yt8m.runs.history import Curve

# Paul Tol's bright colours, which colour-blind people can tell apart.
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#777777")

_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text, in a font of the reader's
    "svg.hashsalt": "report",  # the same figure is the same file
    "text.parse_math": False,  # a name with two dollars is no formula
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "axes.prop_cycle": cycler(color=COLOURS),
}
_WIDTH = 10.0  # inches, of the page
_DRAWN_POINTS = 400  # of a curve: more than a page has pixels for
_SMOOTHED_STEPS = 15  # reports that a smoothed training curve averages over


def training_figure(runs: Mapping[str, Mapping[str, Curve]]) -> str:
    """Draws loss, GAP, learning rate and speed of training by step, one colour per run.

    Args:
        runs: by the run's name, its curves by TensorBoard tag.
    """
    panels = {
        "label_loss": "Loss",
        "model/Training_GAP": "GAP of the training batch",
        "learning_rate": "Learning rate",
        "global_step/Examples/Second": "Examples per second",
    }
    with _figure(1, len(panels), 2.5) as (figure, axes, svg):
        for axis, (tag, title) in zip(axes, panels.items(), strict=True):
            for number, curves in enumerate(runs.values()):
                if tag in curves:
                    colour, (steps, values) = COLOURS[number % len(COLOURS)], _thinned(*curves[tag])
                    if tag in ("learning_rate", "global_step/Examples/Second"):
                        axis.plot(steps, values, color=colour)
                    else:
                        axis.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
                        axis.plot(steps, _smoothed(values), color=colour)
            _finish(axis, title, "step")
        _legend(figure, runs)
    return svg()


def evaluation_figure(runs: Mapping[str, Mapping[str, Curve]]) -> str:
    """Draws the metrics of all evaluations by step, one colour per run.

    Args:
        runs: by the run's name, its curves by metric.
    """
    panels = {"gap": "GAP", "map": "MAP", "hit_at_one": "Hit@1", "loss": "Loss"}
    with _figure(1, len(panels), 2.5) as (figure, axes, svg):
        for axis, (name, title) in zip(axes, panels.items(), strict=True):
            for number, curves in enumerate(runs.values()):
                if name in curves:
                    axis.plot(*curves[name], marker="o", markersize=3, color=COLOURS[number % len(COLOURS)])
            _finish(axis, title, "step")
        _legend(figure, runs)
    return svg()


def precision_recall_figure(
    overall: Mapping[str, tuple[np.ndarray, np.ndarray]],
    of_classes: Mapping[str, Mapping[int, Mapping[str, Any]]],
    names: Mapping[int, str],
) -> str:
    """Draws precision against recall: of all pairs (video, class) as one pool, and of the most frequent classes.

    Args:
        overall: by the run's name, `precision` and `recall` `(N,)`.
        of_classes: by the run's name and the class, arrays `precision` and `recall` `(N,)`.
        names: names of classes, where known.
    """
    classes = list(dict.fromkeys(c for curves in of_classes.values() for c in curves))[:7]
    rows = 1 + (len(classes) > 3)
    with _figure(rows, 4, 2.6 * rows) as (figure, axes, svg):
        for number, (precision, recall) in enumerate(overall.values()):
            curve = _thinned(recall, precision)
            axes[0].plot(*curve, color=COLOURS[number % len(COLOURS)])
        _finish(axes[0], "All pairs of video and class", "recall", "precision")
        for axis, c in zip(axes[1:], classes, strict=False):
            for number, curves in enumerate(of_classes.values()):
                if c in curves:
                    # Where nothing is predicted there is no precision: such thresholds are left out.
                    known = curves[c]["true_positive_counts"] + curves[c]["false_positive_counts"] > 0
                    precision, recall = curves[c]["precision"][known], curves[c]["recall"][known]
                    axis.plot(recall, precision, color=COLOURS[number % len(COLOURS)])
            _finish(axis, _shortened(names.get(c, f"class {c}"), 26), "recall")
        for axis in axes[: 1 + len(classes)]:
            axis.set(xlim=(0, 1), ylim=(0, 1.02))
        for axis in axes[1 + len(classes) :]:
            axis.set_axis_off()
        _legend(figure, overall)
    return svg()


def reliability_figure(runs: Mapping[str, Reliability]) -> str:
    """Draws how often predictions come true against their mean, bin by bin, and how many are in each bin.

    Args:
        runs: the reliability of each run's predictions, by the run's name.
    """
    with _figure(1, 2, 3.2) as (figure, axes, svg):
        axes[0].plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":")
        for number, diagram in enumerate(runs.values()):
            colour, known = COLOURS[number % len(COLOURS)], diagram.num_predictions > 0
            means, counts = diagram.mean_predictions[known], diagram.num_predictions[known]
            axes[0].plot(means, diagram.frequencies[known], marker="o", markersize=4, color=colour)
            axes[1].plot(means, counts, marker="o", markersize=4, color=colour)
        axes[0].set(xlim=(0, 1), ylim=(0, 1))
        axes[1].set(xlim=(0, 1), yscale="log")
        _finish(axes[0], "Share of predictions that come true", "mean prediction")
        _finish(axes[1], "Number of predictions", "mean prediction")
        _legend(figure, runs)
    return svg()


def frequency_figure(runs: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """Draws the AP of every class against the number of its videos, and the mean over classes about as frequent.

    Args:
        runs: by the run's name, the numbers of videos `(C,)` and the AP `(C,)`, NaN for classes without videos.
    """
    with _figure(1, 1, 3.6) as (figure, axes, svg):
        for number, (positives, ap) in enumerate(runs.values()):
            colour, known = COLOURS[number % len(COLOURS)], ~np.isnan(ap) & (positives > 0)
            axes[0].scatter(positives[known], ap[known], s=9, alpha=0.35, linewidths=0, color=colour)
            octaves = np.floor(np.log2(np.maximum(positives[known], 1))).astype(int)
            present = np.unique(octaves)
            centres = [np.exp(np.log(positives[known][octaves == o]).mean()) for o in present]
            means = [ap[known][octaves == o].mean() for o in present]
            axes[0].plot(centres, means, marker="o", markersize=5, color=colour)
        axes[0].set(xscale="log", ylim=(-0.02, 1.02))
        _finish(axes[0], "Average precision of a class", "videos of the class in the evaluation (logarithmic)")
        _legend(figure, runs)
    return svg()


def cluster_figure(videos: Sequence[VideoShares], names: Mapping[int, str]) -> str:
    """Draws to which cluster a model assigns each frame: a column of panels per video, a row per pooling.

    The darker, the larger the share.

    Args:
        videos: at least one, all with as many poolings.
        names: names of classes, where known.
    """
    poolings = len(videos[0].shares)
    with _figure(poolings, len(videos), 0.7 + 2.3 * poolings) as (figure, axes, svg):
        for v, video in enumerate(videos):
            for p, shares in enumerate(video.shares):
                axis = axes[p * len(videos) + v]
                axis.imshow(
                    shares.T, aspect="auto", cmap="Blues", vmin=0, interpolation="nearest", origin="lower"
                ) if shares.size else axis.set_axis_off()
                axis.grid(visible=False)
                axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
                axis.yaxis.set_major_locator(MaxNLocator(6, integer=True))
                axis.set_xlabel("frame" if p == poolings - 1 else "")
                axis.set_ylabel(f"cluster, of {shares.shape[1]}" if v == 0 else "")
            labels = ", ".join(names.get(int(c), f"class {c}") for c in video.labels)
            axes[v].set_title(f"{_shortened(video.video_id, 24)}\n{_shortened(labels, 30)}", fontsize=9)
        del figure
    return svg()


def tuning_figure(scores: Mapping[int, float], importances: Mapping[str, float]) -> str:
    """Draws the score of each trial of a search, the best so far, and what share of the scores each setting explains.

    Args:
        scores: GAP by the number of the trial.
        importances: by setting, in [0, 1]; if there are none, that panel is empty.
    """
    with _figure(1, 2, 3.0) as (_, axes, svg):
        numbers = sorted(scores)
        values = np.array([scores[number] for number in numbers])
        axes[0].step(numbers, np.maximum.accumulate(values), where="post", color=COLOURS[0])
        axes[0].scatter(numbers, values, s=14, color=COLOURS[1])
        _finish(axes[0], "GAP of each trial, and the best so far", "trial")
        names = sorted(importances, key=lambda name: importances[name])
        axes[1].barh([_shortened(name, 40) for name in names], [importances[name] for name in names])
        _finish(axes[1], "Importance of each setting", "share")
    return svg()


@contextmanager
def _figure(rows: int, columns: int, height: float) -> Iterator[tuple[Figure, list[Axes], Any]]:
    """A figure, its panels in reading order, and what gives its SVG after the block."""
    text: list[str] = []
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # glyphs that our font lacks: the reader's may have them
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        yield figure, list(axes.ravel()), lambda: text[0]
        text.append(_svg(figure))


def _svg(figure: Figure) -> str:
    """The element `svg`, as wide as what it is put into, without what two figures on a page would both name."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>',
        r'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="\1" role="img">',
        text,
        count=1,
    )
    return re.sub(r'<g id="[^"]*"', "<g", text)


def _finish(axis: Axes, title: str, x: str, y: str = "") -> None:
    axis.set_title(title)
    axis.set(xlabel=x, ylabel=y)
    if axis.get_xscale() == "linear":
        axis.xaxis.set_major_locator(MaxNLocator(4))
    for side in (axis.xaxis, axis.yaxis):
        if side.get_scale() == "log":
            side.set_major_formatter(StrMethodFormatter("{x:,.0f}"))  # by default a formula, and none is parsed
            side.set_minor_formatter(NullFormatter())


def _legend(figure: Figure, names: Mapping[str, Any]) -> None:
    """Names the runs above the panels, if there are several."""
    if len(names) > 1:
        lines = [Line2D([], [], color=COLOURS[n % len(COLOURS)]) for n in range(len(names))]
        labels = [_shortened(name, 40) for name in names]
        figure.legend(lines, labels, loc="outside upper left", ncols=min(len(labels), 3))


def _thinned(xs: np.ndarray, ys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Some points of a curve, its ends among them; all if there are few."""
    places = np.unique(np.linspace(0, max(len(xs) - 1, 0), _DRAWN_POINTS).astype(int))[: len(xs)]
    return xs[places], ys[places]


def _smoothed(values: np.ndarray) -> np.ndarray:
    """The mean over the neighbours of each point; at the ends over those that there are."""
    window = np.ones(min(_SMOOTHED_STEPS, len(values) // 4 * 2 + 1))
    return np.convolve(values, window, "same") / np.convolve(np.ones_like(values), window, "same")


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
