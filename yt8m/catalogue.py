"""What is registered, read from the text of the source: names, hyper-parameters and flags, without importing anything.

`--help`, a mistyped flag and `tools/list_models` are answered from here, before TensorFlow is loaded, which takes
seconds. It understands what a registration needs and no more: classes and functions at the top level of a file, literal
defaults, and a `register` decorator with literal arguments.
"""

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

# A parameter of this name passes on to the class above whatever it is given: `def __init__(self, spec, **inherited)`.
PASSES_ON = "inherited"
_TYPES: dict[str, type] = {"int": int, "float": float, "bool": bool, "str": str, "Mapping[str, Any]": dict}
_TYPES["None"] = type(None)
_ARGUMENTS = re.compile(r"^Args:\n((?:(?: .*)?\n)+)", re.MULTILINE)
_ARGUMENT = re.compile(r"^    (\w+): ((?:.|\n(?!    \w+: ))*)", re.MULTILINE)


@dataclass(frozen=True)
class HyperParameter:
    """A setting of something registered.

    Attributes:
        name: the constructor's argument.
        default: its value where none is given.
        kind: its type as the signature has it: `int`, `str | None`.
        text: what the docstring says of it.
    """

    name: str
    default: Any
    kind: str = ""
    text: str = ""

    @property
    def types(self) -> tuple[type, ...]:
        """The types that a value may have: that of the default, or where that is None those of the signature."""
        if self.default is not None:
            return (type(self.default),)
        return tuple(_TYPES[name] for name in self.kind.split(" | "))


@dataclass(frozen=True)
class Entry:
    """Something registered.

    Attributes:
        name: its name on command lines.
        module: the module that defines it.
        text: its docstring.
        hyper_parameters: its settings by name, those of the classes above it included.
        aliases: its other names.
        flags: flags of older code bases that set a hyper-parameter: flag -> hyper-parameter.
        facts: whatever else its registration says.
    """

    name: str
    module: str
    text: str
    hyper_parameters: Mapping[str, HyperParameter]
    aliases: tuple[str, ...] = ()
    flags: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return self.text.partition("\n")[0]

    @property
    def defaults(self) -> dict[str, Any]:
        """The values of all hyper-parameters where none is given."""
        return {name: hyper_parameter.default for name, hyper_parameter in self.hyper_parameters.items()}


Definition = ast.ClassDef | ast.FunctionDef


def read_entries(registry: str, place: str) -> list[Entry]:
    """Returns what the modules of a place register.

    Args:
        registry: the variable that holds the registry, as in `@LOSSES.register()`.
        place: dotted name of a module, or of a package, all of whose modules are read.

    Raises:
        ValueError: if a default or an argument of a registration is not a literal.
    """
    return [
        _entry(definition, registration, module)
        for module, path in _modules(place)
        for definition in _definitions(path)
        for registration in _decorations(definition, f"{registry}.register")
    ]


def _modules(place: str) -> list[tuple[str, Path]]:
    path = ROOT / Path(*place.split("."))
    if path.is_dir():
        return [(f"{place}.{file.stem}", file) for file in sorted(path.glob("*.py")) if file.stem != "__init__"]
    return [(place, path.with_suffix(".py"))]


@cache
def _definitions(path: Path) -> list[Definition]:
    return [node for node in ast.parse(path.read_text()).body if isinstance(node, Definition)]


@cache
def known_classes() -> dict[str, ast.ClassDef]:
    """All classes of the product by name: a model's class above it may be in another file."""
    files = [*ROOT.glob("*.py"), *ROOT.glob("yt8m/*/*.py")]
    return {node.name: node for path in files for node in _definitions(path) if isinstance(node, ast.ClassDef)}


def _entry(definition: Definition, registration: Mapping[str, Any], module: str) -> Entry:
    facts = dict(registration)
    name, aliases = facts.pop("name", "") or definition.name, tuple(facts.pop("aliases", ()))
    facts.pop("defaults", None)
    facts.pop("flags", None)
    if isinstance(definition, ast.FunctionDef):
        hyper_parameters = _settings(definition, _texts(definition))
        flags = dict(registration.get("flags", {}))
    else:
        hyper_parameters, flags = _inherited(definition)
    return Entry(name, module, ast.get_docstring(definition) or "", hyper_parameters, aliases, flags, facts)


def _inherited(definition: ast.ClassDef) -> tuple[dict[str, HyperParameter], dict[str, str]]:
    """Returns the hyper-parameters and flags of a class, with those of the classes above it."""
    functions = (node for node in definition.body if isinstance(node, ast.FunctionDef))
    own = next((function for function in functions if function.name == "__init__"), None)
    names = [base.id for base in definition.bases if isinstance(base, ast.Name)]
    above = next((_inherited(known_classes()[name]) for name in names if name in known_classes()), ({}, {}))
    settings, flags, texts = {}, dict(above[1]), _texts(definition)
    if own is not None:
        settings = _settings(own, texts)
    if own is None or (own.args.kwarg is not None and own.args.kwarg.arg == PASSES_ON):
        settings |= {name: setting for name, setting in above[0].items() if name not in settings}
    for changes in _changes(definition):
        flags |= changes.get("flags", {})
        for name, default in changes.get("defaults", {}).items():
            settings[name] = HyperParameter(name, default, settings[name].kind, settings[name].text)
    explained = {name for name, text in texts.items() if not text.startswith("as in ")}
    for name in explained & settings.keys():
        settings[name] = HyperParameter(name, settings[name].default, settings[name].kind, texts[name])
    return settings, {flag: name for flag, name in flags.items() if name in settings}


def _changes(definition: ast.ClassDef) -> Iterator[Mapping[str, Any]]:
    """What the decorators of a class change: those that register it, and `hyper_parameters` of one that is shared."""
    for decorator in definition.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).endswith((".register", "hyper_parameters")):
            yield _literal_arguments(decorator, definition)


def _decorations(definition: Definition, decorator_name: str) -> Iterator[Mapping[str, Any]]:
    for decorator in definition.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == decorator_name:
            yield _literal_arguments(decorator, definition)


def _literal_arguments(call: ast.Call, definition: Definition) -> dict[str, Any]:
    arguments = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    if call.args:
        arguments["name"] = call.args[0]
    return {name: _literal(value, definition) for name, value in arguments.items()}


def _literal(node: ast.expr, definition: Definition) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise ValueError(
            f"{definition.name}, line {node.lineno}: {ast.unparse(node)} is not a literal. Defaults and registrations "
            "are read from the source before anything is imported: write the value itself."
        ) from error


def _settings(function: ast.FunctionDef, texts: Mapping[str, str]) -> dict[str, HyperParameter]:
    """The parameters of a function that have a default. Of a function that is registered: those after a `*`."""
    arguments = function.args
    pairs = list(zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True))
    if function.name == "__init__" and arguments.defaults:
        with_default = arguments.args[-len(arguments.defaults) :]
        pairs = [*zip(with_default, arguments.defaults, strict=True), *pairs]
    return {
        argument.arg: HyperParameter(
            argument.arg,
            _literal(default, function),
            ast.unparse(argument.annotation) if argument.annotation else "",
            texts.get(argument.arg, ""),
        )
        for argument, default in pairs
        if default is not None
    }


def _texts(definition: Definition) -> dict[str, str]:
    """What the section `Args` of a docstring says of each argument, on one line."""
    section = _ARGUMENTS.search(inspect.cleandoc(ast.get_docstring(definition) or "") + "\n")
    found = _ARGUMENT.findall(section[1]) if section else []
    return {name: " ".join(text.split()) for name, text in found}
