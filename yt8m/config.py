"""A run as data: everything that `train_dir/config.json` holds."""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from yt8m.errors import UserError
from yt8m.schema import DataSpec

OnBadRecord = Literal["error", "skip"]
LearningRateSchedule = Literal["staircase", "cosine"]
PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}  # flag value -> Keras dtype policy
LARGEST_SEED = 2**32 - 1  # of NumPy's global generator, which Keras seeds too


@dataclass(frozen=True)
class ModelConfig:
    """An architecture.

    Attributes:
        name: the registered name.
        hparams: every hyper-parameter of the constructor with its value, defaults included, so that a later change of a
            default leaves old runs as they were.
        precision: the type that layers compute in; weights and outputs are float32 always.
    """

    name: str = "LogisticModel"
    hparams: dict[str, Any] = field(default_factory=dict)
    precision: str = "float32"

    def __post_init__(self) -> None:
        check_one_of(self, "precision", PRECISIONS)


@dataclass(frozen=True)
class OptimizationConfig:
    """How weights follow from gradients.

    Attributes:
        label_loss: registered name of the loss.
        regularization_penalty: factor of the models' own weight penalties.
        optimizer: name of the optimizer.
        base_learning_rate: the rate before any decay.
        learning_rate_schedule: `staircase` multiplies it by `learning_rate_decay` every `learning_rate_decay_examples`
            examples; `cosine` lets it fall to 0 at the end of the run along half a cosine.
        learning_rate_decay: see above.
        learning_rate_decay_examples: see above.
        learning_rate_warmup: the share of the run in which the rate climbs from 0, whatever the schedule.
        clip_gradient_norm: largest L2 norm of the gradient of one variable; 0 does not clip.
        class_prior_examples: how many training examples the class prior is taken from at which the output biases start;
            0 leaves the biases at zero.
        weights_halflife: half-life in steps of an average of the weights, which is evaluated in their place; 0: none.
    """

    label_loss: str = "CrossEntropyLoss"
    regularization_penalty: float = 1.0
    optimizer: str = "AdamOptimizer"
    base_learning_rate: float = 0.01
    learning_rate_schedule: LearningRateSchedule = "staircase"
    learning_rate_decay: float = 0.95
    learning_rate_decay_examples: int = 4_000_000
    learning_rate_warmup: float = 0.0
    clip_gradient_norm: float = 1.0
    class_prior_examples: int = 10_000
    weights_halflife: float = 0.0

    def __post_init__(self) -> None:
        check_positive(self, "base_learning_rate", "learning_rate_decay", "learning_rate_decay_examples")
        check_not_negative(
            self, "regularization_penalty", "clip_gradient_norm", "class_prior_examples", "weights_halflife"
        )
        check_one_of(self, "learning_rate_schedule", get_args(LearningRateSchedule))
        if not 0 <= self.learning_rate_warmup < 1:
            raise UserError(
                f"--learning_rate_warmup={self.learning_rate_warmup}: expected a share in [0, 1) of the run."
            )


@dataclass(frozen=True)
class TrainingConfig:
    """Which examples are seen in which order, and how long.

    Attributes:
        train_data_pattern: comma-separated patterns of the training shards.
        batch_size: examples a step, over all devices and workers.
        num_epochs: passes over the data; 0 repeats it until `max_steps`.
        max_steps: the step to stop at; 0 stops at the end of the data.
        seed: decides initial weights, order, sampled frames and dropout.
        num_readers: shards that are read side by side.
        on_bad_record: `error` stops at a damaged record, `skip` counts it and goes on.
    """

    train_data_pattern: str = ""
    batch_size: int = 1024
    num_epochs: int = 5
    max_steps: int = 0
    seed: int = 0
    num_readers: int = 8
    on_bad_record: OnBadRecord = "error"

    def __post_init__(self) -> None:
        check_positive(self, "batch_size", "num_readers")
        check_not_negative(self, "num_epochs", "max_steps")
        if not self.num_epochs and not self.max_steps:
            raise UserError("--num_epochs=0 and --max_steps=0 would train for ever. Give one of them a positive value.")
        check_one_of(self, "on_bad_record", get_args(OnBadRecord))
        if not 0 <= self.seed <= LARGEST_SEED:
            raise UserError(f"--seed={self.seed}: expected a whole number from 0 to {LARGEST_SEED}.")


@dataclass(frozen=True)
class RunConfig:
    """A whole run. Data and model make the architecture, which may not change when the run is resumed."""

    data: DataSpec = field(default_factory=DataSpec)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimization: OptimizationConfig = field(default_factory=OptimizationConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def to_json(self) -> str:
        """Returns the text of `config.json`."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str) -> "RunConfig":
        """Reads the text of a `config.json`.

        Args:
            text: what `to_json` returned.
            source: the path of the text, for the error message.

        Raises:
            UserError: if the text is not JSON, or holds a field that this version does not know.
        """
        try:
            parts = json.loads(text)
            data: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in parts["data"].items()}
            return cls(
                data=DataSpec(**data),
                model=ModelConfig(**parts["model"]),
                optimization=OptimizationConfig(**parts["optimization"]),
                training=TrainingConfig(**parts["training"]),
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"{source} is not the configuration of a run: {error!r}. It is written by train.py; "
                "restore it, or train into another --train_dir."
            ) from error


def architecture_differences(old: RunConfig, new: RunConfig) -> list[tuple[str, Any, Any]]:
    """Returns (field, old value, new value) for every part of the architecture that differs."""
    old_fields, new_fields = _architecture(old), _architecture(new)
    return [
        (name, old_fields.get(name), new_fields.get(name))
        for name in sorted(old_fields.keys() | new_fields.keys())
        if old_fields.get(name) != new_fields.get(name)
    ]


def fixed_differences(old: RunConfig, new: RunConfig) -> list[tuple[str, Any, Any]]:
    """Returns (field, old value, new value) for all that may not change when a run is resumed and did.

    That is the architecture, and the optimizer: another one would take what its predecessor remembers for its own.
    """
    before, now = (config.optimization.optimizer for config in (old, new))
    is_same = before.removesuffix("Optimizer") == now.removesuffix("Optimizer")
    return architecture_differences(old, new) + ([] if is_same else [("optimizer", before, now)])


def schedule_differences(old: RunConfig, new: RunConfig) -> list[tuple[str, Any, Any]]:
    """Returns (field, old value, new value) for every setting that may change on the way and did."""
    pairs = [(old.optimization, new.optimization), (old.training, new.training)]
    return [
        (name, value, getattr(after, name))
        for before, after in pairs
        for name, value in dataclasses.asdict(before).items()  # type: ignore[call-overload]
        if value != getattr(after, name)
    ]


def _architecture(config: RunConfig) -> dict[str, Any]:
    model = {"model": config.model.name, "precision": config.model.precision, **flat_hparams(config.model.hparams)}
    return {**dataclasses.asdict(config.data), **model}


def flat_hparams(hparams: dict[str, Any]) -> dict[str, Any]:
    """Names the hyper-parameters of a classifier as `--hparams` does: `classifier.num_mixtures`."""
    own = {name: value for name, value in hparams.items() if name != "classifier_hparams"}
    inner = hparams.get("classifier_hparams") or {}
    return own | {f"classifier.{name}": value for name, value in inner.items()}


def check_positive(settings: Any, *names: str) -> None:
    """Checks numbers that have to be above 0.

    Args:
        settings: has the numbers as attributes, which are named like the flags that set them.
        names: which of them to check.

    Raises:
        UserError: names the first that is not, NaN included.
    """
    for name in (name for name in names if not getattr(settings, name) > 0):
        raise UserError(f"--{name}={getattr(settings, name)}: expected a number above 0.")


def check_not_negative(settings: Any, *names: str) -> None:
    """Checks numbers that have to be 0 or more; arguments and error as of `check_positive`."""
    for name in (name for name in names if not getattr(settings, name) >= 0):
        raise UserError(f"--{name}={getattr(settings, name)}: expected 0 or more.")


def check_one_of(settings: Any, name: str, known: Iterable[str]) -> None:
    """Checks a word that has to be a known one; `settings` and error as of `check_positive`."""
    word = getattr(settings, name)
    if word not in known:
        raise UserError(f"--{name}={word}: expected one of {', '.join(known)}.")
