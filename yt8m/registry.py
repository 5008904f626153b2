"""Names for classes and functions: `--model=MoeModel` finds the class that was registered under that name.

The signature of what is registered is the list of its hyper-parameters: names, defaults and documentation in one place.
A class with a parameter `**inherited` passes that on to the class above it, whose signature continues the list. What is
registered is known from the source (yt8m/catalogue.py); its module is imported when it is asked for, not before. So a
new file in a place that a registry looks at needs no other edit.
"""

import functools
import importlib
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from yt8m.arguments import LARGEST_SIZE, ArgumentError, check_finite
from yt8m.catalogue import Entry, read_entries
from yt8m.errors import UserError, did_you_mean

Registered = TypeVar("Registered", bound=Callable[..., Any])
Class = TypeVar("Class", bound=type)


class Registry:
    """Maps names and aliases to constructors; one flag chooses among them.

    Args:
        variable: the name of the variable that holds this registry.
        flag: the flag that chooses an entry, named in error messages, without dashes.
        what: what an entry is, for error messages: "model", "loss".
        places: the modules and packages that register entries.
        settings_flag: the flag that sets hyper-parameters of entries, for error messages.
    """

    def __init__(self, variable: str, flag: str, what: str, places: Sequence[str], settings_flag: str = "hparams"):
        self._variable = variable
        self._flag = flag
        self._what = what
        self._places = places
        self.settings_flag = settings_flag
        self._registered: dict[str, Any] = {}

    def register(
        self,
        name: str = "",
        aliases: Sequence[str] = (),
        defaults: Mapping[str, Any] | None = None,
        flags: Mapping[str, str] | None = None,
        **facts: Any,
    ) -> Callable[[Registered], Registered]:
        """Returns a decorator that registers a class or function. All arguments are literals: they are read as text.

        Args:
            name: the name on command lines; that of the class or function by default.
            aliases: other names.
            defaults: hyper-parameters of the class above whose default is another one here.
            flags: flags of older code bases that set a hyper-parameter: flag -> hyper-parameter.
            facts: whatever else there is to say of an entry of this registry.
        """
        del aliases, flags, facts  # yt8m/catalogue.py reads them

        def add(registered: Registered) -> Registered:
            if defaults:
                _change_defaults(registered, defaults)
            self._registered[name or registered.__name__] = registered
            return registered

        return add

    @functools.cached_property
    def entries(self) -> dict[str, Entry]:
        """What is registered, by name, in alphabetical order.

        Raises:
            ValueError: if a name is taken twice.
        """
        entries = [entry for place in self._places for entry in read_entries(self._variable, place)]
        names = [name for entry in entries for name in (entry.name, *entry.aliases)]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"There are two entries named {twice[0]} in {', '.join(self._places)}.")
        return {entry.name: entry for entry in sorted(entries, key=lambda entry: entry.name)}

    @functools.cached_property
    def _aliases(self) -> dict[str, str]:
        return {alias: entry.name for entry in self.entries.values() for alias in entry.aliases}

    def names(self) -> list[str]:
        """Returns the registered names in alphabetical order, without aliases."""
        return list(self.entries)

    def __contains__(self, name: str) -> bool:
        return name in self.entries or name in self._aliases

    def resolve(self, name: str) -> str:
        """Returns the registered name of a name or alias.

        Raises:
            UserError: if nothing has that name; the message offers the closest name and lists all.
        """
        if name in self.entries:
            return name
        if name in self._aliases:
            return self._aliases[name]
        hint = did_you_mean(name, [*self.entries, *self._aliases])
        raise UserError(
            f"--{self._flag}={name}: there is no such {self._what}.{hint} Known: {', '.join(self.names())}."
        )

    def entry(self, name: str) -> Entry:
        """Returns what is known of an entry without importing it; name and error as of `resolve`."""
        return self.entries[self.resolve(name)]

    def __getitem__(self, name: str) -> Any:
        entry = self.entry(name)
        importlib.import_module(entry.module)
        return self._registered[entry.name]

    def check_hyper_parameters(self, name: str, given: Mapping[str, Any]) -> None:
        """Checks the names of hyper-parameters; values are `check_values`'s.

        Args:
            name: the name or an alias of an entry.
            given: hyper-parameters for it, by name.

        Raises:
            UserError: if the entry has no hyper-parameter of one of these names (the message lists those it has), or
                if there is no such entry.
        """
        known = self.entry(name).hyper_parameters
        unknown = [parameter for parameter in given if parameter not in known]
        if unknown:
            raise UserError(
                f"--{self.settings_flag}: {self.resolve(name)} has no hyper-parameter '{unknown[0]}'."
                f"{did_you_mean(unknown[0], known)} It has: {', '.join(known) or 'none'}."
            )

    def check_values(self, name: str, given: Mapping[str, Any]) -> None:
        """Checks what any value of a hyper-parameter has to be, before anything is built of it.

        It is of its default's type, finite as a float32, and as a whole number at most `LARGEST_SIZE`. Narrower ranges
        are those of the constructors.

        Args:
            name: the name or an alias of an entry.
            given: some of its hyper-parameters, by name.

        Raises:
            ArgumentError: names the first that is not.
        """
        known = self.entry(name).hyper_parameters
        for parameter, value in given.items():
            types = known[parameter].types
            if type(value) not in types and not (float in types and type(value) is int):
                raise ArgumentError(
                    f"{parameter}={reprlib.repr(value)}: expected a value of type {types[0].__name__}, such as "
                    f"{known[parameter].default!r}."
                )
            if float in types:
                check_finite(**{parameter: value})
            elif int in types and value > LARGEST_SIZE:
                raise ArgumentError(f"{parameter}={value}: expected a whole number of at most {LARGEST_SIZE}.")


def hyper_parameters(
    *, defaults: Mapping[str, Any] | None = None, flags: Mapping[str, str] | None = None
) -> Callable[[Class], Class]:
    """Returns a decorator for a class that registered ones share; arguments as of `Registry.register`."""
    del flags  # yt8m/catalogue.py reads them

    def change(shared: Class) -> Class:
        if defaults:
            _change_defaults(shared, defaults)
        return shared

    return change


def _change_defaults(constructor: Any, defaults: Mapping[str, Any]) -> None:
    construct = constructor.__init__

    @functools.wraps(construct)
    def with_defaults(self: Any, *args: Any, **given: Any) -> None:
        construct(self, *args, **{**defaults, **given})

    constructor.__init__ = with_defaults


_VIDEO_LEVEL_PLACES = ("video_level_models", "yt8m.classifiers")
VIDEO_LEVEL_MODELS = Registry("VIDEO_LEVEL_MODELS", "model", "video-level model", _VIDEO_LEVEL_PLACES)
_FRAME_LEVEL_PLACES = ("frame_level_models", "yt8m.models")
FRAME_LEVEL_MODELS = Registry("FRAME_LEVEL_MODELS", "model", "frame-level model", _FRAME_LEVEL_PLACES)
CLIP_MODELS = Registry("CLIP_MODELS", "model", "clip model", ("yt8m.models",))
LOSSES = Registry("LOSSES", "label_loss", "loss", ("losses", "yt8m.losses"))
METRICS = Registry("METRICS", "metrics", "group of metrics", ("yt8m.metrics",), settings_flag="metrics")
RECORD_FORMATS = Registry("RECORD_FORMATS", "record_format", "record format", ("yt8m.data.formats",))

# By the `level` of the formats that they read.
MODELS = {"video": VIDEO_LEVEL_MODELS, "frame": FRAME_LEVEL_MODELS, "clip": CLIP_MODELS}

# A hyper-parameter of this name names a model that is a part of another. `NAME_hparams` are the settings of that part,
# typed as `NAME.setting`.
PARTS = {"classifier": VIDEO_LEVEL_MODELS, "frame_model": FRAME_LEVEL_MODELS}


def models_that_read(record_format: str) -> Registry:
    """Returns the models that take batches of a record format: over frames, clips, or a vector per video.

    Raises:
        UserError: if there is no such format.
    """
    return MODELS[RECORD_FORMATS.entry(record_format).facts["level"]]
