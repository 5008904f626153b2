"""A run as data: everything that `train_dir/config.json` holds.

Every part checks its numbers and words when it is made, and raises an `ArgumentError` that begins with the field's own
name: it may come from a flag or from a file.
"""

import dataclasses
import json
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

from yt8m import config_formats
from yt8m.arguments import (
    LARGEST_FLOAT,
    ArgumentError,
    check_at_least,
    check_count,
    check_one_of,
    check_positive,
    check_share,
    check_size,
)
from yt8m.errors import UserError
from yt8m.registry import LOSSES, MODELS, PARTS, Registry, models_that_read
from yt8m.schema import DataSpec

OnBadRecord = Literal["error", "skip"]
LearningRateSchedule = Literal["staircase", "cosine", "polynomial"]
Decayed = Literal["kernels", "all"]
Clipped = Literal["variable", "global"]
# Flag value -> Keras dtype policy.
PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
RECORDS_TEACH = "records"  # value of `teacher`
LARGEST_SEED = 2**32 - 1  # of NumPy's global generator, which Keras seeds too


@dataclass(frozen=True)
class ModelConfig:
    """An architecture.

    Attributes:
        name: the registered name.
        hparams: every hyper-parameter of the constructor with its value, defaults included, so that a later change of a
            default leaves old runs as they were.
        precision: the type that layers compute in; weights and outputs are float32 always.

    Raises:
        UserError: if `precision` is none of PRECISIONS.
    """

    name: str = "LogisticModel"
    hparams: dict[str, Any] = field(default_factory=dict)
    precision: str = "float32"

    def __post_init__(self) -> None:
        check_one_of(PRECISIONS, precision=self.precision)


@dataclass(frozen=True)
class LossTerm:
    """A registered loss in the weighted sum that is trained on.

    Attributes:
        name: the registered name.
        weight: its factor in the sum.
        hparams: every hyper-parameter of the loss with its value, defaults included.

    Raises:
        ArgumentError: if the weight is negative or not finite.
    """

    name: str = "CrossEntropyLoss"
    weight: float = 1.0
    hparams: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_at_least(0, weight=self.weight)

    def __str__(self) -> str:
        return self.name if self.weight == 1 else f"{self.weight:.12g}*{self.name}"


@dataclass(frozen=True)
class LossConfig:
    """What is minimised, apart from the penalties of the weights: `sum_i weight_i * loss_i`.

    Attributes:
        terms: the losses, each at most once.

    Raises:
        ArgumentError: if there is none, or one of them twice.
    """

    terms: tuple[LossTerm, ...] = (LossTerm(),)

    def __post_init__(self) -> None:
        names = [term.name for term in self.terms]
        if not names or len(set(names)) < len(names):
            raise ArgumentError(f"terms={'+'.join(names)}: expected at least one loss, and each at most once.")

    def __str__(self) -> str:
        """The value of `--label_loss` that names these terms."""
        return "+".join(map(str, self.terms))

    @property
    def settings(self) -> dict[str, Any]:
        """The hyper-parameters as `--hparams` names them: `loss.HingeLoss.margin`."""
        return {f"loss.{term.name}.{name}": value for term in self.terms for name, value in term.hparams.items()}


@dataclass(frozen=True)
class OptimizationConfig:
    """How weights follow from gradients.

    Attributes:
        regularization_penalty: factor of the models' own weight penalties.
        optimizer: name of the optimizer.
        base_learning_rate: the rate before any decay.
        learning_rate_schedule: `staircase` multiplies it by `learning_rate_decay` every `learning_rate_decay_examples`
            examples; `cosine` lets it fall to 0 at the end of the run along half a cosine; `polynomial` along
            (1 - share of the run) ** `learning_rate_power`.
        learning_rate_decay: the factor of one `staircase` decay.
        learning_rate_decay_examples: the number of training examples between two `staircase` decays.
        learning_rate_power: the exponent of `polynomial`; 1 falls along a line.
        learning_rate_warmup: the share of the run in which the rate climbs from 0, whatever the schedule.
        clip_gradient_norm: largest L2 norm of a gradient; 0 does not clip.
        clip_gradient_scope: whose norm that is: of the gradient of each `variable`, or of all together, `global`.
        weight_decay: what AdamW and Lion subtract, times the learning rate, as a share of a weight in each step.
        weight_decay_of: which weights decay: `kernels` are the matrices and tensors that are multiplied with features,
            so neither biases, scales and shifts of normalisations nor cluster centres; or `all`.
        class_prior_examples: how many training examples the class prior is taken from at which the output biases start;
            0 leaves the biases at zero.
        weights_halflife: half-life in steps of an average of the weights, which is evaluated in their place; 0: none.

    Raises:
        UserError: if a number is out of range, or a word is none of those that are known.
    """

    regularization_penalty: float = 1.0
    optimizer: str = "AdamOptimizer"
    base_learning_rate: float = 0.01
    learning_rate_schedule: LearningRateSchedule = "staircase"
    learning_rate_decay: float = 0.95
    learning_rate_decay_examples: int = 4_000_000
    learning_rate_power: float = 1.0
    learning_rate_warmup: float = 0.0
    clip_gradient_norm: float = 1.0
    clip_gradient_scope: Clipped = "variable"
    weight_decay: float = 0.004
    weight_decay_of: Decayed = "kernels"
    class_prior_examples: int = 10_000
    weights_halflife: float = 0.0

    def __post_init__(self) -> None:
        check_positive(
            base_learning_rate=self.base_learning_rate,
            learning_rate_decay=self.learning_rate_decay,
            learning_rate_power=self.learning_rate_power,
        )
        check_count(1, learning_rate_decay_examples=self.learning_rate_decay_examples)
        check_count(0, class_prior_examples=self.class_prior_examples)
        check_at_least(
            0,
            regularization_penalty=self.regularization_penalty,
            clip_gradient_norm=self.clip_gradient_norm,
            weight_decay=self.weight_decay,
            weights_halflife=self.weights_halflife,
        )
        check_one_of(get_args(LearningRateSchedule), learning_rate_schedule=self.learning_rate_schedule)
        check_one_of(get_args(Clipped), clip_gradient_scope=self.clip_gradient_scope)
        check_one_of(get_args(Decayed), weight_decay_of=self.weight_decay_of)
        check_share(learning_rate_warmup=self.learning_rate_warmup)


@dataclass(frozen=True)
class TrainingConfig:
    """Which examples are seen in which order, and how long.

    Attributes:
        train_data_pattern: comma-separated patterns of the training shards.
        batch_size: examples per step, over all devices and workers.
        accumulate_steps: the parts in which a device computes the gradient of its share of a batch, one after another.
        num_epochs: passes over the data; 0 repeats it until `max_steps`.
        max_steps: the step to stop at; 0 stops at the end of the data.
        seed: decides initial weights, order, sampled frames and dropout.
        num_readers: shards that are read side by side.
        on_bad_record: `error` stops at a damaged record, `skip` counts it and goes on.
        teacher: the CSV or the run whose predictions a loss learns from, or `records` if the training records carry
            them; empty for none.
        example_weights: a CSV of the videos' weights in the loss; empty for none.
        bagging_seed: decides how often a video counts in a bootstrap sample; 0: every video counts once.
        mixup: alpha of the distribution Beta(alpha, alpha) of the shares by which videos are mixed; 0: none are.
        init_from: the run with whose weights a new run starts; empty for none.

    Raises:
        UserError: if a number is out of range, `num_epochs` and `max_steps` are both 0, or `on_bad_record` is neither.
    """

    train_data_pattern: str = ""
    batch_size: int = 1024
    accumulate_steps: int = 1
    num_epochs: int = 5
    max_steps: int = 0
    seed: int = 0
    num_readers: int = 8
    on_bad_record: OnBadRecord = "error"
    teacher: str = ""
    example_weights: str = ""
    bagging_seed: int = 0
    mixup: float = 0.0
    init_from: str = ""

    def __post_init__(self) -> None:
        check_size(1, batch_size=self.batch_size, accumulate_steps=self.accumulate_steps, num_readers=self.num_readers)
        check_count(0, num_epochs=self.num_epochs, max_steps=self.max_steps, bagging_seed=self.bagging_seed)
        check_at_least(0, mixup=self.mixup)
        if not self.num_epochs and not self.max_steps:
            raise ArgumentError(
                "num_epochs=0: it would train for ever without max_steps. Give one of them a positive value."
            )
        check_one_of(get_args(OnBadRecord), on_bad_record=self.on_bad_record)
        if not 0 <= self.seed <= LARGEST_SEED:
            raise ArgumentError(f"seed={self.seed}: expected a whole number from 0 to {LARGEST_SEED}.")


@dataclass(frozen=True)
class RunConfig:
    """The whole configuration of a run. Data and model are the architecture, which must not change on a resume.

    Attributes:
        data: the features, their sizes and the number of classes.
        model: the registered model and its hyper-parameters.
        loss: the weighted sum of losses that is minimised.
        optimization: the optimizer, the learning rate and its schedule.
        training: the shards, their order and the length of the training.
    """

    data: DataSpec = field(default_factory=DataSpec)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimization: OptimizationConfig = field(default_factory=OptimizationConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    @property
    def settings(self) -> dict[str, Any]:
        """All settings by name, hyper-parameters as `--hparams` names them: architecture first, then the training."""
        return {**_architecture(self), **_schedule(self)}

    def to_json(self) -> str:
        """Returns the text of `config.json`."""
        return json.dumps({"format": config_formats.CURRENT} | dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str) -> "RunConfig":
        """Reads the text of a `config.json` of this or an older format.

        Args:
            text: what `to_json` returned.
            source: the path of the text, for the error message.

        Raises:
            UserError: if the text is not JSON, is of a later format than this version knows, lacks a field or has one
                too many for its format, or a field is of another type or out of range.
        """
        try:
            run = _from_json(cls, config_formats.upgrade(json.loads(text)), "")
        except (UserError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            reason = repr(error) if isinstance(error, TypeError | KeyError | AttributeError) else str(error)
            raise UserError(
                f"{source} is not the configuration of a run: {reason.removesuffix('.')}. It is written by train.py; "
                "restore it, or train into another --train_dir."
            ) from error
        return cast(RunConfig, run)

    def check_hyper_parameters(self, source: str) -> None:
        """Checks that the model, its classifier and the losses have the hyper-parameters that the run has values for.

        They differ where the run is of another version of the model: a default of today may not be what it was trained
        with. A value has to be of its type, and finite.

        Args:
            source: the path of the run's `config.json`, for the error message.

        Raises:
            UserError: names the first hyper-parameter that either side lacks, or whose value cannot be.
        """
        try:
            right = models_that_read(self.data.record_format)
            models = next((models for models in MODELS.values() if self.model.name in models), right)
            _check_same_settings(models, self.model.name, self.model.hparams)
            for term in self.loss.terms:
                _check_same_settings(LOSSES, term.name, term.hparams)
        except UserError as error:
            raise UserError(f"{source}: {error}") from error


def _from_json(kind: Any, value: Any, where: str) -> Any:
    """Makes of JSON what a field of a run of that type holds. Of a part every field has to be there, and no other.

    Raises:
        ValueError: if it is of another type; the message begins with `where`.
    """
    if get_origin(kind) is tuple and isinstance(value, list):
        return tuple(_from_json(get_args(kind)[0], item, where) for item in value)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and isinstance(value, dict):
        kinds = get_type_hints(kind)
        for what, names in (("lacks", kinds.keys() - value.keys()), ("has the unknown field", value.keys() - kinds)):
            if names:
                raise ValueError(f"'{where}' {what} {', '.join(sorted(names))}")
        return kind(**{name: _from_json(kinds[name], value[name], f"{where}.{name}".strip(".")) for name in kinds})
    expected = {Literal: str, None: kind}.get(get_origin(kind), get_origin(kind))
    if expected is float and type(value) is int and abs(value) <= LARGEST_FLOAT:
        return float(value)
    if type(value) is not expected:
        raise ValueError(f"'{where}' is {reprlib.repr(value)}; expected a value of type {expected.__name__}")
    return value


def _check_same_settings(registry: Registry, name: str, hparams: Mapping[str, Any]) -> None:
    known = registry.entry(name).defaults
    missing, unknown = sorted(known.keys() - hparams.keys()), sorted(hparams.keys() - known.keys())
    if missing:
        raise UserError(
            f"{name} has no value for its hyper-parameter '{missing[0]}', which is newer than the run. Add "
            f"the one that leaves the model as it was; today's default is {known[missing[0]]!r}."
        )
    if unknown:
        raise UserError(
            f"{name} has no hyper-parameter '{unknown[0]}' in this version. It has: {', '.join(known)}. Open "
            "the run with the version that wrote it."
        )
    registry.check_values(name, hparams)
    for part, models in PARTS.items():
        if hparams.get(part) is not None:
            _check_same_settings(models, hparams[part], hparams[f"{part}_hparams"] or {})


def architecture_differences(resumed: RunConfig, new: RunConfig) -> list[tuple[str, Any, Any]]:
    """Returns (field, resumed value, new value) for every part of the architecture that differs."""
    before, now = _architecture(resumed), _architecture(new)
    return [
        (name, before.get(name), now.get(name))
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]


def fixed_differences(resumed: RunConfig, new: RunConfig) -> list[tuple[str, Any, Any]]:
    """Returns (field, resumed value, new value) for all that may not change when a run is resumed and did.

    That is the architecture, the optimizer, because another one would take what its predecessor remembers for its own,
    and the run whose weights it started from: a resumed run has weights of its own.
    """
    before, now = (config.optimization.optimizer for config in (resumed, new))
    is_same = before.removesuffix("Optimizer") == now.removesuffix("Optimizer")
    starts = [("init_from", resumed.training.init_from, new.training.init_from)]
    return [
        *architecture_differences(resumed, new),
        *([] if is_same else [("optimizer", before, now)]),
        *(start for start in starts if start[1] != start[2]),
    ]


def schedule_differences(resumed: RunConfig, new: RunConfig) -> list[tuple[str, Any, Any]]:
    """Returns (field, resumed value, new value) for every setting that may change on the way and did: the loss too."""
    before, now = _schedule(resumed), _schedule(new)
    return [(name, value, now[name]) for name, value in before.items() if name in now and now[name] != value]


def _schedule(config: RunConfig) -> dict[str, Any]:
    loss = {"label_loss": str(config.loss), **config.loss.settings}
    return {**loss, **dataclasses.asdict(config.optimization), **dataclasses.asdict(config.training)}


def _architecture(config: RunConfig) -> dict[str, Any]:
    model = {"model": config.model.name, "precision": config.model.precision, **flat_hparams(config.model.hparams)}
    return {**dataclasses.asdict(config.data), **model}


def flat_hparams(hparams: dict[str, Any]) -> dict[str, Any]:
    """Names the hyper-parameters of a model's parts as `--hparams` does: `classifier.num_mixtures`."""
    flat: dict[str, Any] = {}
    for name, value in hparams.items():
        part = name.removesuffix("_hparams")
        if part in PARTS and name != part:
            flat |= {f"{part}.{inner}": setting for inner, setting in flat_hparams(value or {}).items()}
        else:
            flat[name] = value
    return flat
