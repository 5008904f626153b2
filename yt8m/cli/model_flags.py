"""From the names people type to the hyper-parameters of a model."""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from yt8m.config import ModelConfig
from yt8m.errors import UserError
from yt8m.registry import FRAME_LEVEL_MODELS, VIDEO_LEVEL_MODELS, Registry
from yt8m.schema import DataSpec


@dataclass(frozen=True)
class ModelFlag:
    """A flag of an older code base: a named way to set one hyper-parameter.

    Attributes:
        name: the flag.
        hparam: the hyper-parameter it sets.
        kind: its type: int, float, bool or str.
        models: the models it is for. Empty: any model that has the hyper-parameter.
    """

    name: str
    hparam: str
    kind: type
    models: tuple[str, ...] = ()


_DBOF = ("DbofModel",)
_BAGS_LF = ("DbofModelLF", "GatedDbofModelLF", "SoftDbofModelLF")
_NETVLAD = ("NetVLADModelLF",)
_KMIEC = ("AttentionEnhancedVLADModel", "AttentionSimilarityVLADModel", "SecondOrderVLADModel")
_VLAD = (*_NETVLAD, *_KMIEC, "NonLocalVLADModel")
_NETFV = ("NetFVModelLF",)
_MOE = ("MoeModel",)
_LSTM = ("LstmModel",)
_GRU = ("GruModel",)

MODEL_FLAGS = (
    ModelFlag("iterations", "iterations", int),
    ModelFlag("sample_random_frames", "sample_random_frames", bool),
    ModelFlag("video_level_classifier_model", "classifier", str),
    ModelFlag("moe_num_mixtures", "num_mixtures", int),
    ModelFlag("moe_l2", "l2_penalty", float, _MOE),
    ModelFlag("moe_prob_gating", "prob_gating", bool, _MOE),
    ModelFlag("moe_prob_gating_input", "prob_gating_input", str, _MOE),
    ModelFlag("moe_low_rank_gating", "low_rank_gates", int, _MOE),
    ModelFlag("hidden_size", "hidden_size", int),
    ModelFlag("gating", "gating", bool),
    ModelFlag("gating_remove_diag", "gating_remove_diag", bool),
    ModelFlag("dbof_add_batch_norm", "add_batch_norm", bool, _DBOF + _BAGS_LF),
    ModelFlag("dbof_cluster_size", "cluster_size", int, _DBOF + _BAGS_LF),
    ModelFlag("dbof_hidden_size", "hidden_size", int, _DBOF + _BAGS_LF),
    ModelFlag("dbof_pooling_method", "pooling_method", str, _DBOF),
    ModelFlag("dbof_activation", "activation", str, (*_DBOF, "DbofModelLF")),
    ModelFlag("dbof_relu", "relu", bool, _BAGS_LF),
    ModelFlag("softdbof_maxpool", "max_pool", bool, ("GatedDbofModelLF", "SoftDbofModelLF")),
    ModelFlag("netvlad_cluster_size", "cluster_size", int, _VLAD),
    ModelFlag("netvlad_hidden_size", "hidden_size", int, _VLAD),
    ModelFlag("netvlad_add_batch_norm", "add_batch_norm", bool, _VLAD + _NETFV),
    ModelFlag("netvlad_relu", "relu", bool, _VLAD),
    ModelFlag("netvlad_dimred", "dimred", int, _NETVLAD),
    ModelFlag("lightvlad", "lightvlad", bool, _NETVLAD),
    ModelFlag("vlagd", "vlagd", bool, _NETVLAD),
    ModelFlag("fv_cluster_size", "cluster_size", int, _NETFV),
    ModelFlag("fv_hidden_size", "hidden_size", int, _NETFV),
    ModelFlag("fv_relu", "relu", bool, _NETFV),
    ModelFlag("fv_couple_weights", "couple_weights", bool, _NETFV),
    ModelFlag("fv_coupling_factor", "coupling_factor", float, _NETFV),
    ModelFlag("lstm_cells", "lstm_cells", int, _LSTM),
    ModelFlag("lstm_layers", "lstm_layers", int, _LSTM),
    ModelFlag("lstm_random_sequence", "random_sequence", bool, _LSTM),
    ModelFlag("lstm_backward", "backward", bool, _LSTM),
    ModelFlag("gru_cells", "gru_cells", int, _GRU),
    ModelFlag("gru_layers", "gru_layers", int, _GRU),
    ModelFlag("gru_random_sequence", "random_sequence", bool, _GRU),
    ModelFlag("gru_backward", "backward", bool, _GRU),
)


def resolve_model(
    model: str, data: DataSpec, model_flags: Mapping[str, Any], assignments: Sequence[str], precision: str
) -> ModelConfig:
    """Resolves the name of a model and every one of its hyper-parameters.

    Args:
        model: a name or alias.
        data: tells whether the model is to read frames.
        model_flags: flags of `MODEL_FLAGS` that were given, with their values.
        assignments: `name=value` texts, `classifier.name=value` for the classifier; they win over model flags.
        precision: the type that layers compute in.

    Raises:
        UserError: if there is no such model, if it takes the other kind of records, or if it lacks a hyper-parameter.
    """
    registry = _registry_of(model, data.frame_features)
    name, given = given_hparams(model, data, model_flags, assignments)
    own, inner = _split(given)
    registry.check_hyper_parameters(name, own)
    hparams = _with_defaults(registry, name, own)
    if "classifier" in hparams:
        classifier = VIDEO_LEVEL_MODELS.resolve(hparams["classifier"])
        VIDEO_LEVEL_MODELS.check_hyper_parameters(classifier, inner)
        inner = _with_defaults(VIDEO_LEVEL_MODELS, classifier, inner)
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
    registry = _registry_of(model, data.frame_features)
    name = registry.resolve(model)
    return name, _hparams_from_model_flags(model_flags, name, registry) | _hparams_from_text(assignments)


def _split(hparams: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parts the hyper-parameters of a model from those of its classifier."""
    prefix = "classifier."
    own = {name: value for name, value in hparams.items() if not name.startswith(prefix)}
    return own, {name.removeprefix(prefix): hparams[name] for name in hparams if name.startswith(prefix)}


def _registry_of(model: str, frame_features: bool) -> Registry:
    right, other = VIDEO_LEVEL_MODELS, FRAME_LEVEL_MODELS
    if frame_features:
        right, other = other, right
    if model in other and model not in right:
        advice = "leave out --frame_features" if frame_features else "add --frame_features"
        kind = "video-level" if frame_features else "frame-level"
        raise UserError(f"--model={model} reads {kind} records: {advice}, or choose one of {', '.join(right.names())}.")
    return right


def _hparams_from_model_flags(given: Mapping[str, Any], name: str, registry: Registry) -> dict[str, Any]:
    """Maps the model flags that were given to hyper-parameters of the model or of its classifier."""
    has = registry.hyper_parameters(name)
    classifier = (
        VIDEO_LEVEL_MODELS.resolve(given.get("video_level_classifier_model") or has["classifier"])
        if "classifier" in has
        else ""
    )
    hparams = {}
    for flag in (flag for flag in MODEL_FLAGS if flag.name in given):
        if flag.hparam in has and (not flag.models or name in flag.models):
            hparams[flag.hparam] = given[flag.name]
        elif classifier and _takes(classifier, flag):
            hparams[f"classifier.{flag.hparam}"] = given[flag.name]
        else:
            raise UserError(
                f"--{flag.name}: {name} has no hyper-parameter '{flag.hparam}' of that kind. It has: {', '.join(has)}."
            )
    return hparams


def _takes(classifier: str, flag: ModelFlag) -> bool:
    in_family = not flag.models or classifier in flag.models
    return in_family and flag.hparam in VIDEO_LEVEL_MODELS.hyper_parameters(classifier)


def _hparams_from_text(assignments: Sequence[str]) -> dict[str, Any]:
    """Reads `name=value` texts; a value is a Python literal where it is one, and else a string."""
    hparams = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise UserError(f"--hparams={assignment}: expected name=value, as in --hparams=cluster_size=64.")
        hparams[name.strip()] = _literal(text.strip())
    return hparams


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError):
        return text


def _with_defaults(registry: Registry, name: str, given: dict[str, Any]) -> dict[str, Any]:
    """Adds the defaults and checks that a given value is of its default's type."""
    defaults = registry.hyper_parameters(name)
    for key, value in given.items():
        expected = type(defaults[key])
        is_whole_float = expected is float and type(value) is int
        if defaults[key] is not None and type(value) is not expected and not is_whole_float:
            raise UserError(
                f"--hparams: {key}={value!r} of {name}: expected a value of type {expected.__name__}, "
                f"such as {defaults[key]!r}."
            )
    return defaults | given
