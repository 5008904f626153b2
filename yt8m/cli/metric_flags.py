"""From `--metrics` to groups of metrics with all their settings."""

from typing import Any

from yt8m.cli.model_flags import complete_hparams, parse_assignments
from yt8m.registry import METRICS

_ALWAYS = "default"  # the log line and the choice of the best weights need it


def resolve_metrics(text: str, macro: bool) -> dict[str, dict[str, Any]]:
    """Resolves the names of groups of metrics and every one of their settings.

    Args:
        text: names separated by commas, each with its settings, if any: `default,ap_at_n:n=100`.
        macro: whether `macro` joins them, as the flag of that name says.

    Returns:
        The settings of each group, by name; `default` is always among them, first.

    Raises:
        UserError: if there is no such group, or it has no such setting.
    """
    groups = [group.strip() for group in text.split(",") if group.strip()]
    chosen = {}
    for group in [_ALWAYS, *groups, *(["macro"] if macro else [])]:
        name, *assignments = group.split(":")
        chosen[METRICS.resolve(name)] = complete_hparams(METRICS, name, parse_assignments(assignments))
    return chosen
