"""A place in the order of training, as numbers, and the text in which it is kept: see yt8m/data/order.py."""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

_LARGEST = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Position:
    """A place in the order of training: between two examples.

    Attributes:
        epoch: number of the pass over the data.
        group: number of the group of shards in the epoch.
        round: number of the round of blocks in the group.
        block: how many blocks of that round are before the window.
        window: number of the window in the epoch; group, round and block say where it begins.
        record: how many of the window's shuffled records are before the place.
        examples: how many examples of the run are before the place.
    """

    epoch: int = 0
    group: int = 0
    round: int = 0
    block: int = 0
    window: int = 0
    record: int = 0
    examples: int = 0

    @classmethod
    def from_row(cls, row: Iterable[int]) -> "Position":
        """Reads the numbers in the order of the attributes, as a batch carries them."""
        return cls(*map(int, row))

    def start_of_epoch(self) -> "Position":
        """Returns the place where the epoch begins, with as many examples seen."""
        return Position(epoch=self.epoch, examples=self.examples)


def format_position(position: Position, fingerprint: str) -> str:
    """Returns the text in which a position is kept."""
    return json.dumps({"order": fingerprint, **dataclasses.asdict(position)}, indent=2) + "\n"


def parse_position(text: str) -> tuple[Position, str]:
    """Reads the text of `format_position`: the position, and the fingerprint of the order that it is a place in.

    Raises:
        ValueError: if it is another text.
    """
    try:
        numbers = json.loads(text)
        fingerprint = numbers.pop("order")
        position = Position(**numbers)
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError("it holds no position") from error
    if not isinstance(fingerprint, str) or not all(
        type(value) is int and 0 <= value < _LARGEST for value in dataclasses.astuple(position)
    ):
        raise ValueError("it holds no position")
    return position, fingerprint
