"""Names for classes and functions: `--model=MoeModel` finds the class that was registered under that name.

The signature of what is registered is the list of its hyper-parameters: names, defaults and documentation in one place.
A class with a parameter `**inherited` passes that on to the class above it, whose signature continues the list.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from yt8m.errors import UserError, did_you_mean

Entry = TypeVar("Entry", bound=Callable[..., Any])


class Registry:
    """Maps names and aliases to constructors; one flag chooses among them.

    Args:
        flag: the flag that chooses an entry, named in error messages, without dashes.
        what: what an entry is, for error messages: "model", "loss".
    """

    def __init__(self, flag: str, what: str):
        self._flag = flag
        self._what = what
        self._entries: dict[str, Callable[..., Any]] = {}
        self._aliases: dict[str, str] = {}

    def register(self, name: str = "", aliases: Sequence[str] = ()) -> Callable[[Entry], Entry]:
        """Returns a decorator that registers a class or function under a name, its own by default, and its aliases.

        Raises:
            ValueError: if a name is taken already.
        """

        def add(entry: Entry) -> Entry:
            entry_name = name or entry.__name__
            for taken in (n for n in (entry_name, *aliases) if n in self):
                raise ValueError(f"There is a {self._what} named {taken} already.")
            self._entries[entry_name] = entry
            self._aliases.update(dict.fromkeys(aliases, entry_name))
            return entry

        return add

    def names(self) -> list[str]:
        """Returns the registered names in alphabetical order, without aliases."""
        return sorted(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries or name in self._aliases

    def resolve(self, name: str) -> str:
        """Returns the registered name behind a name or alias.

        Raises:
            UserError: if nothing has that name; the message offers the closest name and lists all.
        """
        if name in self._entries:
            return name
        if name in self._aliases:
            return self._aliases[name]
        hint = did_you_mean(name, [*self._entries, *self._aliases])
        raise UserError(
            f"--{self._flag}={name}: there is no such {self._what}.{hint} Known: {', '.join(self.names())}."
        )

    def __getitem__(self, name: str) -> Callable[..., Any]:
        return self._entries[self.resolve(name)]

    def hyper_parameters(self, name: str) -> dict[str, Any]:
        """Returns the keyword arguments of an entry that have a default, with their defaults, in order.

        An entry that takes `**inherited` has those of the class above it too.
        """
        return _defaults(self[name])

    def check_hyper_parameters(self, name: str, given: Mapping[str, Any]) -> None:
        """Checks that an entry takes every given hyper-parameter.

        Raises:
            UserError: names the unknown hyper-parameter and lists those there are.
        """
        known = self.hyper_parameters(name)
        for unknown in (parameter for parameter in given if parameter not in known):
            raise UserError(
                f"--hparams: {self.resolve(name)} has no hyper-parameter '{unknown}'.{did_you_mean(unknown, known)} "
                f"It has: {', '.join(known) or 'none'}."
            )


def _defaults(entry: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(entry).parameters
    own = {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}
    if not isinstance(entry, type) or "inherited" not in parameters:
        return own
    above = next(base for base in entry.__mro__[1:] if "__init__" in vars(base))
    return own | {name: default for name, default in _defaults(above).items() if name not in own}


def import_modules(package: str, path: Iterable[str]) -> None:
    """Imports every module of a package, so that whatever they register is there: a new file needs no other edit."""
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")


VIDEO_LEVEL_MODELS = Registry("model", "video-level model")
FRAME_LEVEL_MODELS = Registry("model", "frame-level model")
LOSSES = Registry("label_loss", "loss")
