"""From the names people type to the hyper-parameters of a model."""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from yt8m.catalogue import Entry
from yt8m.config import LossTerm, ModelConfig
from yt8m.errors import UserError
from yt8m.registry import FRAME_LEVEL_MODELS, VIDEO_LEVEL_MODELS, Registry, models_that_read
from yt8m.schema import DataSpec

_CLASSIFIER = "classifier."
_KINDS: dict[str, type] = {"int": int, "float": float, "bool": bool, "str": str}


@dataclass(frozen=True)
class ModelFlag:
    """A flag of an older code base: a named way to set one hyper-parameter.

    Attributes:
        name: the flag.
        hyper_parameter: the hyper-parameter that it sets.
        kind: its type: int, float, bool or str.
        models: the models that have it.
    """

    name: str
    hyper_parameter: str
    kind: type
    models: tuple[str, ...]


def known_model_flags() -> dict[str, ModelFlag]:
    """Returns the flags that registered models declare beside their classes, by name."""
    flags: dict[str, ModelFlag] = {}
    for entry in (*VIDEO_LEVEL_MODELS.entries.values(), *FRAME_LEVEL_MODELS.entries.values()):
        for name, hyper_parameter in entry.flags.items():
            kind = _KINDS[entry.hyper_parameters[hyper_parameter].kind.split(" | ")[0]]
            models = flags[name].models if name in flags else ()
            flags[name] = ModelFlag(name, hyper_parameter, kind, (*models, entry.name))
    return flags


def resolve_model(
    model: str, data: DataSpec, model_flags: Mapping[str, Any], assignments: Sequence[str], precision: str
) -> ModelConfig:
    """Resolves the name of a model and every one of its hyper-parameters.

    Args:
        model: a name or alias.
        data: tells whether the model is to read frames.
        model_flags: flags of older code bases that were given, with their values.
        assignments: `name=value` texts, `classifier.name=value` for the classifier; they win over model flags.
        precision: the type that layers compute in.

    Raises:
        UserError: if there is no such model, if it takes the other kind of records, or if it lacks a hyper-parameter.
    """
    registry = _registry_of(model, data.record_format)
    name, given = given_hparams(model, data, model_flags, assignments)
    own, inner = _split(given)
    hparams = complete_hparams(registry, name, own)
    if "classifier" in hparams:
        classifier = VIDEO_LEVEL_MODELS.resolve(hparams["classifier"])
        inner = complete_hparams(VIDEO_LEVEL_MODELS, classifier, inner)
        hparams |= {"classifier": classifier, "classifier_hparams": inner}
    elif inner:
        raise UserError(f"--hparams: {name} has no classifier to pass '{next(iter(inner))}' to.")
    return ModelConfig(name, hparams, precision)


def given_hparams(
    model: str, data: DataSpec, model_flags: Mapping[str, Any], assignments: Sequence[str]
) -> tuple[str, dict[str, Any]]:
    """Returns a model's registered name and the hyper-parameters that were given, as `resolve_model` takes them.

    Raises:
        UserError: as `resolve_model` does, but a name in `assignments` is not looked up.
    """
    entry = _registry_of(model, data.record_format).entry(model)
    return entry.name, _hparams_from_model_flags(model_flags, entry) | parse_assignments(assignments)


def loss_of_model(model: str, data: DataSpec) -> str:
    """Returns the loss that a model is trained with where none is given: the one that its registration names, if any.

    Raises:
        UserError: as `resolve_model` does of the model's name.
    """
    return str(_registry_of(model, data.record_format).entry(model).facts.get("loss", LossTerm().name))


def complete_hparams(registry: Registry, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Adds defaults to the hyper-parameters that were given for an entry of a registry.

    Raises:
        UserError: if the entry has no such hyper-parameter, or a value is not of its default's type.
    """
    registry.check_hyper_parameters(name, given)
    defaults = registry.entry(name).defaults
    for key, value in given.items():
        expected = type(defaults[key])
        is_whole_float = expected is float and type(value) is int
        if defaults[key] is not None and type(value) is not expected and not is_whole_float:
            raise UserError(
                f"--{registry.settings_flag}: {key}={value!r} of {name}: expected a value of type {expected.__name__}, "
                f"such as {defaults[key]!r}."
            )
    return {**defaults, **given}


def parse_assignments(
    assignments: Sequence[str], typed: str = "--hparams=", example: str = "cluster_size=64"
) -> dict[str, Any]:
    """Reads `name=value` texts; a value is a Python literal where it is one, and else a string.

    Args:
        assignments: the texts.
        typed: what the user typed before each, for the message.
        example: one that would be right.

    Raises:
        UserError: if there is no equals sign.
    """
    hparams = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise UserError(f"{typed}{assignment}: expected name=value, as in {typed}{example}.")
        hparams[name.strip()] = _literal(text.strip())
    return hparams


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError):
        return text


def _split(hparams: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parts the hyper-parameters of a model from those of its classifier."""
    own = {name: value for name, value in hparams.items() if not name.startswith(_CLASSIFIER)}
    return own, {name.removeprefix(_CLASSIFIER): hparams[name] for name in hparams if name not in own}


def _registry_of(model: str, record_format: str) -> Registry:
    right = models_that_read(record_format)
    other = VIDEO_LEVEL_MODELS if right is FRAME_LEVEL_MODELS else FRAME_LEVEL_MODELS
    if model in other and model not in right:
        kind, advice = ("frame-level", "add") if right is VIDEO_LEVEL_MODELS else ("video-level", "leave out")
        raise UserError(
            f"--model={model} reads {kind} records: {advice} --frame_features, or choose one of "
            f"{', '.join(right.names())}."
        )
    return right


def _hparams_from_model_flags(given: Mapping[str, Any], entry: Entry) -> dict[str, Any]:
    """Maps the model flags that were given to hyper-parameters of the model or of its classifier."""
    classifier = None
    if "classifier" in entry.hyper_parameters:
        name = given.get("video_level_classifier_model") or entry.hyper_parameters["classifier"].default
        classifier = VIDEO_LEVEL_MODELS.entry(name)
    hparams = {}
    for flag, value in given.items():
        if flag in entry.flags:
            hparams[entry.flags[flag]] = value
        elif classifier is not None and flag in classifier.flags:
            hparams[_CLASSIFIER + classifier.flags[flag]] = value
        else:
            wanted = known_model_flags()[flag].hyper_parameter
            raise UserError(
                f"--{flag}: {entry.name} has no hyper-parameter '{wanted}' of that kind. "
                f"It has: {', '.join(entry.hyper_parameters)}."
            )
    return hparams
