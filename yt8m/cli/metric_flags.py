"""From `--metrics` to groups of metrics with all their settings."""

from typing import Any

from absl import flags

from yt8m.arguments import typed_as
from yt8m.cli.model_flags import complete_hparams, parse_assignments
from yt8m.errors import UserError
from yt8m.registry import METRICS

_ALWAYS = "default"  # the log line and the choice of the best weights need it
_RATED_FORMAT, _OF_RATED = "segment", "segment_map"


def metrics_from_flags(values: flags.FlagValues) -> dict[str, dict[str, Any]]:
    """Resolves the groups of metrics that `--metrics` and `--macro` choose, as `resolve_metrics` does."""
    return resolve_metrics(values.metrics, values.macro)


def resolve_metrics(text: str, macro: bool) -> dict[str, dict[str, Any]]:
    """Resolves the names of groups of metrics and every one of their settings.

    Args:
        text: names separated by commas, each with its settings, if any: `default,ap_at_n:n=100`.
        macro: whether `macro` joins them, as the flag of that name says.

    Returns:
        The settings of each group, by name; `default` is always among them, first.

    Raises:
        UserError: if there is no such group, it has no such setting, or it is named twice.
    """
    given: dict[str, list[str]] = {}
    for group in (group.strip() for group in text.split(",") if group.strip()):
        name, *assignments = group.split(":")
        name = METRICS.resolve(name)
        if name in given:
            raise UserError(f"--metrics={text} names {name} twice. Give each group once, with all its settings.")
        given[name] = assignments
    if macro:
        given.setdefault("macro", [])
    chosen = {_ALWAYS: given.pop(_ALWAYS, [])} | given
    return {name: _settings(name, assignments) for name, assignments in chosen.items()}


def fitting_metrics(metrics: dict[str, dict[str, Any]], record_format: str) -> dict[str, dict[str, Any]]:
    """Returns the groups of metrics that examples of a record format are evaluated by.

    Where only some classes of an example were rated, as of segments, segment MAP is one of them.

    Args:
        metrics: the settings of each group that was chosen, by name.
        record_format: of the run.

    Raises:
        UserError: if a group would count classes that were not rated.
    """
    if record_format != _RATED_FORMAT:
        return metrics
    unfit = [name for name in metrics if not METRICS.entry(name).facts.get("of_rated")]
    if unfit:
        fit = [name for name in METRICS.names() if METRICS.entry(name).facts.get("of_rated")]
        raise UserError(
            f"--metrics: {unfit[0]} would count the classes that a segment was not rated for. Choose among "
            f"{', '.join(fit)}."
        )
    return metrics | {_OF_RATED: metrics.get(_OF_RATED, {})}


def _settings(name: str, assignments: list[str]) -> dict[str, Any]:
    hyper_parameters = METRICS.entry(name).defaults
    example = next((f"{setting}={value}" for setting, value in hyper_parameters.items()), "name=value")
    with typed_as(f"--metrics={name}:"):
        return complete_hparams(METRICS, name, parse_assignments(assignments, f"--metrics={name}:", example))
