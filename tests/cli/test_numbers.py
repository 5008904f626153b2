"""Numbers that nobody can have meant, in every place that takes one: named as they were typed, or legal; never more."""

import dataclasses
import importlib
import json
import math
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from absl import flags

from yt8m.arguments import LARGEST_FLOAT, typed_as
from yt8m.catalogue import HyperParameter
from yt8m.cli.loss_flags import resolve_loss
from yt8m.cli.metric_flags import resolve_metrics
from yt8m.cli.model_flags import known_model_flags
from yt8m.cli.program import start
from yt8m.cli.run_flags import config_from_flags, hparams_as_typed
from yt8m.config import RunConfig
from yt8m.errors import UserError
from yt8m.registry import LOSSES, METRICS, MODELS, VIDEO_LEVEL_MODELS
from yt8m.schema import DataSpec

import experiment

HOSTILE = ("0", "-1", "-1e-3", "inf", "-inf", "nan", "1e39", str(10**14), str(-(10**14)), str(2**63), str(10**400))
# The sizes of models that are large by default, and are built many times here.
SMALL: dict[str, Any] = {"cluster_size": 8, "hidden_size": 8, "projection_size": 8, "lstm_cells": 8, "gru_cells": 8}
SMALL |= {"backbone": "SmallCnn", "inception_width": 0.02, "width": 0.02}

SPECS = {
    "video": DataSpec(("mean_rgb", "mean_audio"), (8, 4), 3),
    "frame": DataSpec(("rgb", "audio"), (8, 4), 3, record_format="frame"),
    "clip": DataSpec(("rgb", "flow"), (3, 2), 3, record_format="clip", max_frames=2, clip_size=16),
}
DATA = {
    level: [
        f"--record_format={level}",
        f"--feature_names={','.join(spec.feature_names)}",
        f"--feature_sizes={','.join(map(str, spec.feature_sizes))}",
        f"--num_classes={spec.num_classes}",
        f"--max_frames={spec.max_frames}",
        f"--clip_size={spec.clip_size}",
    ]
    for level, spec in SPECS.items()
}


def parsed(program: str, *arguments: str) -> flags.FlagValues:
    """Parses the command line of a program."""
    values = flags.FlagValues()
    importlib.import_module(program).define_flags(values)
    values([program, *arguments])
    return values


def numeric_flags(program: str) -> list[str]:
    """The names of a program's flags that hold numbers."""
    values = parsed(program)
    return [name for name in values if values[name].flag_type() in ("int", "float")]


def is_legal(value: str, kind: type) -> bool:
    """Whether a value could be in the range of some number: small as a whole number, finite as a float32."""
    return -1 <= int(value) <= 0 if kind is int else abs(float(value)) <= LARGEST_FLOAT


def complaint(*blocks: Callable[[], object]) -> str:
    """The line with which one of the functions refuses what it was given, empty if none does."""
    try:
        for block in blocks:
            block()
    except UserError as error:
        return str(error)
    return ""


def is_refused(typed: str, *blocks: Callable[[], object]) -> bool:
    """Whether one of the functions refuses a value with a line that begins with what was typed."""
    message = complaint(*blocks)
    if message:
        assert "\n" not in message
        assert message.startswith(f"{typed}=")
        assert "expected" in message or "for ever" in message
    return bool(message)


PROGRAMS = ("train", "eval", "inference", "segment_eval_inference")


@pytest.mark.parametrize(
    ("program", "flag"),
    [(program, flag) for program in PROGRAMS for flag in numeric_flags(program) if flag not in known_model_flags()],
)
def test_a_number_of_a_program(program: str, flag: str) -> None:
    for value in HOSTILE:
        try:
            values = parsed(program, f"--{flag}={value}")
        except flags.IllegalFlagValueError:
            continue
        typed = "--max_steps" if flag == "max_step" else f"--{flag}"
        checks: list[Callable[[], object]] = [partial(start, lambda _: None, values)]
        if program == "train":
            checks.append(partial(config_from_flags, values))
        refused = is_refused(typed, *checks)
        # eval.py and inference.py take flags of training for old command lines, and compare them or leave them alone.
        if program == "train" or flag not in parsed("train") or flag in ("batch_size", "top_k"):
            assert refused or is_legal(value, type(values[flag].value))


@pytest.mark.parametrize("flag", [flag for flag, it in known_model_flags().items() if it.kind in (int, float)])
def test_a_number_of_an_old_flag(flag: str) -> None:
    name = known_model_flags()[flag].models[-1]
    level = next(level for level, models in MODELS.items() if name in models)
    for value in HOSTILE:
        try:
            values = parsed("train", *DATA[level], f"--model={name}", f"--{flag}={value}")
        except flags.IllegalFlagValueError:
            continue
        assert is_refused(f"--{flag}", partial(build, values)) or is_legal(value, known_model_flags()[flag].kind)


def build(values: flags.FlagValues) -> None:
    """Builds the model of a command line, as train.py does."""
    config = config_from_flags(values)
    with hparams_as_typed(values):
        experiment.build_model(config)


def numbers_of(entries: Any) -> Iterator[tuple[str, HyperParameter]]:
    """The names of entries, each with one of their hyper-parameters that is a number."""
    for entry in entries:
        for hyper_parameter in entry.hyper_parameters.values():
            if {int, float} & {*hyper_parameter.types}:
                yield entry.name, hyper_parameter


def cases(entries: Any) -> list[Any]:
    """The cases of `numbers_of`, with names."""
    return [pytest.param(name, it.name, id=f"{name}.{it.name}") for name, it in numbers_of(entries)]


@pytest.mark.parametrize(
    ("name", "hparam"), cases(entry for models in MODELS.values() for entry in models.entries.values())
)
def test_a_number_of_a_model(name: str, hparam: str) -> None:
    level = next(level for level, models in MODELS.items() if name in models)
    known = MODELS[level].entry(name).hyper_parameters
    small = [f"--hparams={size}={SMALL[size]}" for size in SMALL if size in known]
    for value in HOSTILE:
        values = parsed("train", *DATA[level], f"--model={name}", *small, f"--hparams={hparam}={value}")
        assert is_refused(f"--hparams={hparam}", partial(build, values)) or is_legal(value, known[hparam].types[0])


@pytest.mark.parametrize(("name", "hparam"), cases(VIDEO_LEVEL_MODELS.entries.values()))
def test_a_number_of_a_classifier(name: str, hparam: str) -> None:
    kind = VIDEO_LEVEL_MODELS.entry(name).hyper_parameters[hparam].types[0]
    for value in HOSTILE:
        setting = f"--hparams=classifier.{hparam}"
        values = parsed(
            "train", *DATA["frame"], "--model=AveragePoolModel", f"--hparams=classifier={name}", f"{setting}={value}"
        )
        assert is_refused(setting, partial(build, values)) or is_legal(value, kind)


@pytest.mark.parametrize(("name", "hparam"), cases(LOSSES.entries.values()))
def test_a_number_of_a_loss(name: str, hparam: str) -> None:
    kind = LOSSES.entry(name).hyper_parameters[hparam].types[0]
    run = config_from_flags(parsed("train", *DATA["video"]))

    def build_loss(value: str) -> None:
        loss = resolve_loss(name, [f"loss.{hparam}={value}"])
        experiment.build_loss(dataclasses.replace(run, loss=loss))

    for value in HOSTILE:
        assert is_refused(f"--hparams=loss.{name}.{hparam}", partial(build_loss, value)) or is_legal(value, kind)


@pytest.mark.parametrize(("name", "hparam"), cases(METRICS.entries.values()))
def test_a_number_of_a_metric(name: str, hparam: str) -> None:
    kind = METRICS.entry(name).hyper_parameters[hparam].types[0]

    def build_metric(value: str) -> None:
        settings = resolve_metrics(f"{name}:{hparam}={value}", macro=False)[name]
        with typed_as(f"--metrics={name}:"):
            METRICS[name](3, 2, **settings)

    for value in HOSTILE:
        assert is_refused(f"--metrics={name}:{hparam}", partial(build_metric, value)) or is_legal(value, kind)


def leaves(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a number in JSON: what holds it, and under which key."""
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        if isinstance(value, dict | list):
            yield from leaves(value)
        elif type(value) in (int, float):
            yield content, key


def build_description(text: str) -> None:
    """Builds the model that a `config.json` describes, as eval.py does."""
    config = RunConfig.from_json(text, "config.json")
    config.check_hyper_parameters("config.json")
    with typed_as("config.json: "):
        experiment.build_model(config)


@pytest.mark.parametrize(
    "number", [-1, -(10**14), 10**14, 2**63, 10**400, math.nan, math.inf, 1.5, True, "8", None, [1]]
)
def test_a_number_of_a_description(number: Any) -> None:
    model = ["--model=LstmModel", "--hparams=lstm_cells=8", "--label_loss=HingeLoss"]
    content = json.loads(config_from_flags(parsed("train", *DATA["frame"], *model)).to_json())
    places = list(leaves(content))
    assert len(places) > 20
    for holder, key in places:
        before, holder[key] = holder[key], number
        message = complaint(partial(build_description, json.dumps(content)))
        if message:
            assert re.match(rf"config\.json.*\b({key}|format|feature_sizes)\b", message)
            assert "\n" not in message
        else:
            assert type(number) in (int, float)
            assert type(before) is float or number == -1
            assert abs(number) <= LARGEST_FLOAT
        holder[key] = before
