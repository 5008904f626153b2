"""Shared by the programs that search settings: which flags of train.py are searched, and within which bounds."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yt8m.errors import UserError, did_you_mean

_TABLES = ("flags", "hparams")
_EXAMPLE = "low = 0.001, high = 0.1, perhaps log = true and step = 8, or choices = [128, 256]"

Number = int | float


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included.

    Attributes:
        low: the smallest.
        high: the largest; whole numbers if both are.
        log: whether orders of magnitude are equally likely, not numbers.
        step: the distance of two numbers; None for any number, or any whole one.
    """

    low: Number
    high: Number
    log: bool = False
    step: Number | None = None

    def ends(self) -> list[Any]:
        """Returns the smallest and the largest value."""
        return [self.low, self.high]


@dataclass(frozen=True)
class Choice:
    """One of some values.

    Attributes:
        values: texts, numbers or truth values.
    """

    values: tuple[Any, ...]

    def ends(self) -> list[Any]:
        """Returns all values: no two are alike."""
        return list(self.values)


@dataclass(frozen=True)
class SearchSpace:
    """What is searched.

    Attributes:
        settings: by name, as in `flags.base_learning_rate` or `hparams.classifier.dropout`.
        eval_data_pattern: the validation shards, if the file names them.
    """

    settings: Mapping[str, Range | Choice]
    eval_data_pattern: str = ""

    @classmethod
    def read(cls, path: str) -> "SearchSpace":
        """Reads a file in TOML.

        Raises:
            UserError: if it cannot be read, searches nothing, or a bound makes no sense.
        """
        if not path:
            raise UserError("--space is missing: give a TOML file of the settings to search; docs/tuning.md has one.")
        try:
            content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"--space={path} cannot be read: {error}. Expected TOML, as in docs/tuning.md.") from error
        pattern = content.pop("eval_data_pattern", "")
        unknown = sorted(content.keys() - set(_TABLES))
        if unknown or not isinstance(pattern, str):
            raise UserError(
                f"--space={path}: '{(unknown or ['eval_data_pattern'])[0]}' is not expected there. It has the tables "
                "[flags.NAME] and [hparams.NAME], and perhaps the text eval_data_pattern."
            )
        settings = {
            f"{table}.{name}": value for table in _TABLES for name, value in _flattened(content.get(table, {})).items()
        }
        if not settings:
            raise UserError(f"--space={path} searches nothing. Add a table, as in [flags.base_learning_rate].")
        return cls({name: _setting(path, name, value) for name, value in settings.items()}, pattern)

    def arguments(self, values: Mapping[str, Any]) -> list[str]:
        """Returns the arguments of train.py that give each setting its value in `values`.

        Numbers have four significant digits, so that a recipe can be read and is what was tried.
        """
        return [_argument(name, values[name]) for name in self.settings]

    def to_data(self) -> dict[str, Any]:
        """Returns what JSON can hold and two equal spaces have in common."""
        return {name: {**vars(setting), "kind": type(setting).__name__} for name, setting in self.settings.items()}


def _flattened(table: Mapping[str, Any]) -> dict[str, Any]:
    """Names of inner tables are joined by dots: [hparams.classifier.dropout] is a hyper-parameter of the classifier."""
    flat: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, dict) and any(isinstance(inner, dict) for inner in value.values()):
            flat |= {f"{name}.{inner}": setting for inner, setting in _flattened(value).items()}
        else:
            flat[name] = value
    return flat


def _setting(path: str, name: str, table: Any) -> Range | Choice:
    where = f"--space={path}, [{name}]"
    if not isinstance(table, dict):
        raise UserError(f"{where}: expected a table with {_EXAMPLE}.")
    known = {"low", "high", "log", "step", "choices"}
    unknown = sorted(table.keys() - known)
    if unknown:
        raise UserError(f"{where}: there is no '{unknown[0]}'.{did_you_mean(unknown[0], known)} Expected {_EXAMPLE}.")
    choices = table.get("choices")
    if choices is not None:
        if len(table) > 1 or not isinstance(choices, list) or not choices or not all(map(_is_plain, choices)):
            raise UserError(f"{where}: expected choices alone, a list of texts, numbers or truth values.")
        return Choice(tuple(choices))
    numbers = [table.get("low"), table.get("high"), table.get("step", 1)]
    if any(type(number) not in (int, float) for number in numbers) or type(table.get("log", False)) is not bool:
        raise UserError(f"{where}: expected {_EXAMPLE}.")
    if not table["low"] < table["high"] or (table.get("log") and (table["low"] <= 0 or "step" in table)):
        raise UserError(
            f"{where}: expected low below high, and with log a low above 0 and no step; it has "
            f"{', '.join(f'{key} = {value}' for key, value in table.items())}."
        )
    return Range(**table)


def _is_plain(value: Any) -> bool:
    return type(value) in (str, int, float, bool)


def _argument(name: str, value: Any) -> str:
    table, _, rest = name.partition(".")
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"--{rest}={text}" if table == "flags" else f"--hparams={rest}={text}"
