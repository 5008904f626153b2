"""From `--label_loss` and `--hparams=loss.NAME=VALUE` to the terms of a loss with all their hyper-parameters."""

import math
from collections.abc import Sequence
from typing import Any

from yt8m.arguments import LARGEST_FLOAT, typed_as
from yt8m.cli.model_flags import complete_hparams, parse_assignments
from yt8m.config import LossConfig, LossTerm
from yt8m.errors import UserError, did_you_mean
from yt8m.registry import LOSSES

_PREFIX = "loss."


def split_loss_assignments(assignments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Parts `--hparams` into those of the loss, `loss.name=value`, and the others."""
    of_loss = [assignment for assignment in assignments if assignment.strip().startswith(_PREFIX)]
    return of_loss, [assignment for assignment in assignments if assignment not in of_loss]


def resolve_loss(text: str, assignments: Sequence[str]) -> LossConfig:
    """Resolves the names of losses and every one of their hyper-parameters.

    Args:
        text: a name, or a weighted sum of names: `CrossEntropyLoss+0.05*HingeLoss`.
        assignments: `loss.name=value` texts for the one term that has such a hyper-parameter, or
            `loss.HingeLoss.name=value`.

    Raises:
        UserError: if there is no such loss, a weight is no number, a loss is named twice, or no term or more than one
            has a hyper-parameter.
    """
    terms = [_parse_term(term.strip(), text) for term in text.split("+")]
    names = [name for name, _ in terms]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(
            f"--label_loss={text} names {twice[0]} twice. Give each loss once, with the sum of its weights."
        )
    given = loss_hparams(names, assignments)
    return LossConfig(tuple(LossTerm(name, weight, _settings(name, given[name])) for name, weight in terms))


def _settings(name: str, given: dict[str, Any]) -> dict[str, Any]:
    with typed_as(f"--hparams={_PREFIX}{name}."):
        return complete_hparams(LOSSES, name, given)


def _parse_term(term: str, text: str) -> tuple[str, float]:
    """Returns the registered name and the weight of `HingeLoss` or `0.05*HingeLoss`."""
    weight, times, name = term.rpartition("*")
    try:
        factor = float(weight) if times else 1.0
    except ValueError:
        factor = math.nan
    if not name or not 0 <= factor <= LARGEST_FLOAT:
        raise UserError(
            f"--label_loss={text}: '{term}' is no term of a loss; expected a name or a weight of 0 or more and a name, "
            "as in CrossEntropyLoss+0.05*HingeLoss."
        )
    return LOSSES.resolve(name.strip()), factor


def check_teacher(loss: LossConfig, teacher: str) -> None:
    """Checks that a teacher is given if, and only if, a term of the loss learns from one.

    Raises:
        UserError: if it is missing, or of no use.
    """
    learning = [term.name for term in loss.terms if LOSSES.entry(term.name).facts.get("needs_teacher")]
    if learning and not teacher:
        raise UserError(
            f"--label_loss={loss}: {learning[0]} learns from a teacher. Give --teacher, a CSV of predictions for the "
            "training videos, the train_dir of a run, or 'records' if the training records carry predictions."
        )
    if teacher and not learning:
        raise UserError(
            f"--teacher={teacher}: no term of --label_loss={loss} learns from a teacher. Choose DistillationLoss, or "
            "leave it out."
        )


def loss_hparams(names: Sequence[str], assignments: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Returns for each of the losses of these names the hyper-parameters that were given for it.

    Raises:
        UserError: if one is of none of these losses, or of more than one.
    """
    given: dict[str, dict[str, Any]] = {name: {} for name in names}
    for setting, value in parse_assignments(assignments).items():
        *addressed, hparam = setting.removeprefix(_PREFIX).split(".")
        name = _addressed_loss(setting, ".".join(addressed), names) if addressed else _only_loss_with(hparam, names)
        LOSSES.check_hyper_parameters(name, {hparam: value})
        given[name][hparam] = value
    return given


def _addressed_loss(setting: str, name: str, names: Sequence[str]) -> str:
    if name not in LOSSES or LOSSES.resolve(name) not in names:
        raise UserError(
            f"--hparams={setting}: {name} is no term of the loss {'+'.join(names)}.{did_you_mean(name, names)} "
            "Add it to --label_loss, or leave the setting out."
        )
    return LOSSES.resolve(name)


def _only_loss_with(hparam: str, names: Sequence[str]) -> str:
    known = {name: list(LOSSES.entry(name).hyper_parameters) for name in names}
    having = [name for name in names if hparam in known[name]]
    if len(having) > 1:
        choices = " or ".join(f"{_PREFIX}{name}.{hparam}" for name in having)
        raise UserError(f"--hparams={_PREFIX}{hparam}: {' and '.join(having)} both have it. Say which: {choices}.")
    if not having:
        all_known = [hparam for own in known.values() for hparam in own]
        raise UserError(
            f"--hparams: the loss {'+'.join(names)} has no hyper-parameter '{hparam}'."
            f"{did_you_mean(hparam, all_known)} It has: {', '.join(all_known) or 'none'}."
        )
    return having[0]
