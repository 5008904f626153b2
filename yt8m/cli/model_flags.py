"""From the names people type to the hyper-parameters of a model."""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from yt8m.arguments import typed_as
from yt8m.catalogue import Entry
from yt8m.config import LossTerm, ModelConfig
from yt8m.errors import UserError
from yt8m.registry import MODELS, PARTS, RECORD_FORMATS, VIDEO_LEVEL_MODELS, Registry, models_that_read
from yt8m.schema import DataSpec

_CLASSIFIER = "classifier."


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
    for entry in (entry for registry in MODELS.values() for entry in registry.entries.values()):
        for name, hyper_parameter in entry.flags.items():
            kind = entry.hyper_parameters[hyper_parameter].types[0]
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
        assignments: `name=value` texts, `classifier.name=value` for the classifier, and so for other parts; they win
            over model flags.
        precision: the type that layers compute in.

    Raises:
        UserError: if there is no such model, if it takes the other kind of records, if it lacks a hyper-parameter, or
            if a value cannot be; the message names it as it was typed.
    """
    registry = _registry_of(model, data.record_format)
    name, given = given_hparams(model, data, model_flags, assignments)
    with typed_as("--hparams=", typed_names(model, data, model_flags, assignments)):
        hparams = _with_parts(registry, name, given)
    with typed_as("--"):
        return ModelConfig(name, hparams, precision)


def _with_parts(registry: Registry, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all hyper-parameters of a model, and those of the models that are parts of it under `PART_hparams`.

    Args:
        registry: has the model.
        name: its registered name.
        given: hyper-parameters by name, those of parts as `part.name`.

    Raises:
        UserError: if there is no such part, or a hyper-parameter is unknown or cannot be.
    """
    own, of_parts = _split(given)
    hparams = complete_hparams(registry, name, own)
    for part, inner in of_parts.items():
        if part not in hparams and inner:
            raise UserError(f"--hparams: {name} has no {part} to pass '{next(iter(inner))}' to.")
        if part in hparams:
            chosen = PARTS[part].resolve(hparams[part])
            if hparams[part] == registry.entry(name).defaults[part]:  # its settings in this model are made for it
                inner = {**(hparams[f"{part}_hparams"] or {}), **inner}
            with typed_as(f"{part}."):
                hparams |= {part: chosen, f"{part}_hparams": _with_parts(PARTS[part], chosen, inner)}
    return hparams


def given_hparams(
    model: str, data: DataSpec, model_flags: Mapping[str, Any], assignments: Sequence[str], classifier: str = ""
) -> tuple[str, dict[str, Any]]:
    """Returns a model's registered name and the hyper-parameters that were given, as `resolve_model` takes them.

    Args:
        model: a name or alias.
        data: tells whether the model is to read frames.
        model_flags: flags of older code bases that were given, with their values.
        assignments: `name=value` texts; they win over model flags.
        classifier: the classifier that flags may mean where they name none; by default that of the model.

    Raises:
        UserError: as `resolve_model` does, but a name in `assignments` is not looked up.
    """
    entry = _registry_of(model, data.record_format).entry(model)
    assigned = parse_assignments(assignments)
    targets = _targets(model_flags, entry, str(assigned.get("classifier", classifier)))
    return entry.name, {hparam: model_flags[flag] for flag, hparam in targets.items()} | assigned


def typed_names(
    model: str, data: DataSpec, model_flags: Mapping[str, Any], assignments: Sequence[str]
) -> dict[str, str]:
    """Returns the flags of older code bases that gave a hyper-parameter its value, by hyper-parameter.

        {"cluster_size": "--netvlad_cluster_size"}      # all others were typed as --hparams=NAME

    Raises:
        UserError: as `given_hparams` does.
    """
    entry, assigned = _registry_of(model, data.record_format).entry(model), parse_assignments(assignments)
    targets = _targets(model_flags, entry, str(assigned.get("classifier", "")))
    return {hparam: f"--{flag}" for flag, hparam in targets.items() if hparam not in assigned}


def loss_of_model(model: ModelConfig, data: DataSpec) -> str:
    """Returns the loss that a model is trained with where none is given: the one that its registration names, if any.

    Else it is the one that the registration of its frame-level model or its classifier names, if any.
    """
    entry: Entry | None = _registry_of(model.name, data.record_format).entry(model.name)
    hparams: Mapping[str, Any] = model.hparams
    while entry is not None and "loss" not in entry.facts:
        part = next((part for part in PARTS if part in hparams), None)
        entry = PARTS[part].entry(hparams[part]) if part else None
        hparams = hparams[f"{part}_hparams"] if part else {}
    return LossTerm().name if entry is None else str(entry.facts["loss"])


def complete_hparams(registry: Registry, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Adds defaults to the hyper-parameters that were given for an entry of a registry.

    Raises:
        UserError: if the entry has no such hyper-parameter, or a value cannot be.
    """
    registry.check_hyper_parameters(name, given)
    registry.check_values(name, given)
    defaults = registry.entry(name).defaults
    # TensorFlow takes no whole number beyond an int64, not even where it makes a float of it.
    as_typed = {key: float(value) if type(defaults[key]) is float else value for key, value in given.items()}
    return {**defaults, **as_typed}


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
    except (ValueError, SyntaxError, MemoryError, RecursionError):  # the latter two of very many brackets
        return text


def _split(hparams: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Divides hyper-parameters into those of a model and those of each of its parts."""
    own = dict(hparams)
    of_parts: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
    for name, value in hparams.items():
        part, _, rest = name.partition(".")
        if rest and part in PARTS:
            of_parts[part][rest] = value
            del own[name]
    return own, of_parts


def _registry_of(model: str, record_format: str) -> Registry:
    right = models_that_read(record_format)
    formats = [name for name in RECORD_FORMATS.names() if model in models_that_read(name)]
    if formats and record_format not in formats:
        raise UserError(
            f"--model={model} reads records of --record_format={' or '.join(formats)}, not {record_format}: change "
            f"that (--frame_features means frame), or choose one of {', '.join(right.names())}."
        )
    return right


def _targets(given: Mapping[str, Any], entry: Entry, classifier: str) -> dict[str, str]:
    """Returns the hyper-parameter of the model, or of its classifier, that each of the given model flags sets."""
    if "classifier" in entry.hyper_parameters:
        named = given.get("video_level_classifier_model") or classifier or entry.hyper_parameters["classifier"].default
        of_classifier = VIDEO_LEVEL_MODELS.entry(named).flags
    else:
        of_classifier = {}
    targets = {flag: _CLASSIFIER + of_classifier[flag] for flag in given if flag in of_classifier}
    targets |= {flag: entry.flags[flag] for flag in given if flag in entry.flags}
    for flag in given:
        if flag not in targets:
            wanted = known_model_flags()[flag].hyper_parameter
            raise UserError(
                f"--{flag}: {entry.name} has no hyper-parameter '{wanted}' of that kind. "
                f"It has: {', '.join(entry.hyper_parameters)}."
            )
    return targets
