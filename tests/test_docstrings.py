"""What every docstring of the product has to say, as far as a program can tell. Only the source text is read."""

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tools.rooms import ROOT, imported_modules, product_files

Function = ast.FunctionDef | ast.AsyncFunctionDef

_SHAPE = r"(?:`\([^`]*\)`|\bany shape\b|\bscalar\b|\bshape of\b)"
_TENSOR = re.compile(r"(?:list\[)?(?:tf\.Tensor|np\.ndarray)\]?(?: \| None)?")
_ENTRIES = re.compile(r"^(?:Args|Attributes):\n((?:(?: .*)?\n)+)", re.MULTILINE)
_ENTRY = re.compile(r"^    (\w+): ((?:.|\n(?!    \w+: ))*)", re.MULTILINE)
_ERRORS = ("UserError", "ArgumentError", "ValueError")
# Words that by themselves explain nothing.
_EMPTY_WORDS = set(
    re.findall(
        r"\w+",
        "a all an and any are as at by each every for from given has here how i if in is it its many much of on one or "
        "own some such that the them there these they this those to used was what where whether which with",
    )
)


@dataclass(frozen=True)
class Documented:
    """A public function, method or class, and the class that a method belongs to."""

    path: Path
    node: Function | ast.ClassDef
    owner: ast.ClassDef | None = None

    @property
    def name(self) -> str:
        return f"{self.owner.name}.{self.node.name}" if self.owner else self.node.name

    @property
    def place(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.node.lineno} {self.name}"

    @property
    def text(self) -> str:
        return ast.get_docstring(self.node) or ""

    @property
    def entries(self) -> dict[str, str]:
        """The descriptions of arguments and attributes, by name."""
        sections = _ENTRIES.findall(self.text + "\n")
        return dict(entry for section in sections for entry in _ENTRY.findall(section))


def documented(path: Path) -> Iterator[Documented]:
    """Yields what is public in a file, from the outside in."""

    def walk(body: list[ast.stmt], owner: ast.ClassDef | None) -> Iterator[Documented]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name[0] != "_":
                yield Documented(path, node, owner)
                if isinstance(node, ast.ClassDef):
                    yield from walk(node.body, node)

    return walk(ast.parse(path.read_text()).body, None)


@cache
def product() -> tuple[Documented, ...]:
    return tuple(item for path in product_files() for item in documented(path))


@cache
def classes() -> dict[str, ast.ClassDef]:
    return {item.node.name: item.node for item in product() if isinstance(item.node, ast.ClassDef)}


def method(owner: ast.ClassDef, name: str) -> Function | None:
    return next((node for node in owner.body if isinstance(node, Function) and node.name == name), None)


def overridden(item: Documented) -> Iterator[Documented]:
    """Yields the methods of the product that a method replaces, the nearest class first."""
    above = [classes().get(ast.unparse(base)) for base in (item.owner.bases if item.owner else ())]
    for owner in filter(None, above):
        node = method(owner, item.node.name)
        yield from () if node is None else [Documented(item.path, node, owner)]
        yield from overridden(Documented(item.path, item.node, owner))


def parameters(function: Function) -> list[ast.arg]:
    arguments = function.args
    passed_on = [arguments.kwarg] if arguments.kwarg and arguments.kwarg.arg == "inherited" else []
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *passed_on]
    return [argument for argument in named if argument.arg not in ("self", "cls")]


def own_nodes(function: Function) -> Iterator[ast.AST]:
    """Yields what a function does itself: not what functions inside it do later, nor what it tries and catches."""
    left: list[ast.AST] = list(function.body)
    while left:
        node = left.pop()
        yield node
        if isinstance(node, ast.Try) and any(catches_user_errors(handler) for handler in node.handlers):
            left += [*node.handlers, *node.orelse, *node.finalbody]
        elif not isinstance(node, Function | ast.Lambda):
            left += ast.iter_child_nodes(node)


def catches_user_errors(handler: ast.ExceptHandler) -> bool:
    return handler.type is not None and any(name in ast.unparse(handler.type) for name in _ERRORS)


def no_docstring(item: Documented) -> list[str]:
    return [] if item.text else ["has no docstring"]


def tensors_without_shape(item: Documented) -> list[str]:
    """A shape is in the argument's entry, or follows its name in the text: `frames` `(B, T, D)`."""
    if isinstance(item.node, ast.ClassDef):
        constructor = method(item.node, "__init__")
        tensors = parameters(constructor) if constructor else []
    else:
        tensors = parameters(item.node)
    sources = [item, *overridden(item)]

    def has_shape(name: str) -> bool:
        inline = re.compile(rf"\b{name}`?\s(?:\S+\s){{0,3}}?{_SHAPE}")
        return any(re.search(_SHAPE, source.entries.get(name, "")) or inline.search(source.text) for source in sources)

    tensors = [tensor for tensor in tensors if tensor.annotation and _TENSOR.fullmatch(ast.unparse(tensor.annotation))]
    return [f"does not say the shape of {tensor.arg}" for tensor in tensors if not has_shape(tensor.arg)]


def results_without_shape(item: Documented) -> list[str]:
    """A function that returns a tensor shows a shape after its first verb, or in `Returns`."""
    if isinstance(item.node, ast.ClassDef) or item.node.returns is None:
        return []
    is_tensor = _TENSOR.fullmatch(ast.unparse(item.node.returns))
    return ["does not say the shape of its result"] if is_tensor and not re.search(_SHAPE, item.text) else []


@cache
def checks(path: Path) -> set[str]:
    """Returns the checks of yt8m/arguments.py that a file imports: all of them raise."""
    module = "yt8m.arguments."
    return {name.removeprefix(module) for name in imported_modules(path) if name.startswith(f"{module}c")}


def raises_unsaid(item: Documented) -> list[str]:
    function: Function | None
    if isinstance(item.node, ast.ClassDef):
        function = method(item.node, "__init__") or method(item.node, "__post_init__")
    else:
        function = item.node
    if function is None or "Raises:" in item.text:
        return []
    for node in own_nodes(function):
        raised = node.exc if isinstance(node, ast.Raise) else None
        if isinstance(raised, ast.Call) and ast.unparse(raised.func) in _ERRORS:
            return [f"raises {ast.unparse(raised.func)} and does not say so"]
        if isinstance(node, ast.Call) and ast.unparse(node.func) in checks(item.path):
            return [f"calls {ast.unparse(node.func)} and does not say what it raises"]
    return []


def arguments_without_entry(item: Documented) -> list[str]:
    if isinstance(item.node, ast.ClassDef):
        constructor = method(item.node, "__init__")
        names = {argument.arg for argument in parameters(constructor)} if constructor else set()
        is_data = any(
            re.search("dataclass|NamedTuple", ast.unparse(x)) for x in item.node.decorator_list + item.node.bases
        )
        fields = [node.target for node in item.node.body if isinstance(node, ast.AnnAssign)] if is_data else []
        names |= {field.id for field in fields if isinstance(field, ast.Name) and not field.id.startswith("_")}
    elif "\nArgs:" not in item.text:
        return []
    else:
        names = {argument.arg for argument in parameters(item.node)}
    return [f"has no entry for {name}" for name in sorted(names - item.entries.keys())]


def empty_entries(item: Documented) -> list[str]:
    def words(text: str) -> set[str]:
        return {word.removesuffix("s") for word in re.findall("[a-z]+", text.lower().replace("_", " "))}

    empty = {word.removesuffix("s") for word in _EMPTY_WORDS}
    # Only what is passed on to another class is explained there.
    entries = [(name, re.sub(r"\b[Ss]ee [`\w./]+|\bas of [`\w.]+", "", text)) for name, text in item.entries.items()]
    return [
        f"{name}: {text.strip()!r} explains nothing" for name, text in entries if not words(text) - words(name) - empty
    ]


RULES: tuple[Callable[[Documented], list[str]], ...] = (
    no_docstring,
    tensors_without_shape,
    results_without_shape,
    raises_unsaid,
    arguments_without_entry,
    empty_entries,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_docstring_of_the_product(rule: Callable[[Documented], list[str]]) -> None:
    faults = [f"{item.place} {fault}" for item in product() for fault in rule(item)]
    assert not faults, "\n" + "\n".join(faults)


GOOD = '''
import numpy as np
import tensorflow as tf
from yt8m.arguments import check_at_least
from yt8m.errors import UserError

class Pool:
    """Pools frames.

    Args:
        cluster_size: the number of clusters, K.

    Raises:
        UserError: if `cluster_size` is below 1.
    """

    def __init__(self, cluster_size: int, **kwargs):
        check_at_least(1, cluster_size=cluster_size)

    def call(self, frames: tf.Tensor, valid: tf.Tensor | None) -> tf.Tensor:
        """Maps `frames` `(B, T, D)` to `(B, D)`; `valid` `(B, T)` bool is the padding mask."""
        return pool(frames)

def best(video: str) -> np.ndarray:
    """Returns the scores of a video, `(C,)` float."""
    return read(video)

def scores(values: np.ndarray, top_k: int) -> np.ndarray:
    """Returns the best scores, `(B, top_k)`.

    Args:
        values: `(B, C)` float.
        top_k: the number of classes per video.

    Raises:
        ValueError: if there are none.
    """
    try:
        raise UserError("caught below")
    except UserError:
        raise ValueError("none")
'''


@pytest.mark.parametrize(
    ("rule", "said", "unsaid", "fault"),
    [
        (no_docstring, '    """Maps', '    # """Maps', "Pool.call has no docstring"),
        (tensors_without_shape, "`valid` `(B, T)` bool", "`valid`", "Pool.call does not say the shape of valid"),
        (tensors_without_shape, "values: `(B, C)` float.", "values: all.", "scores does not say the shape of values"),
        (results_without_shape, "a video, `(C,)` float.", "a video.", "best does not say the shape of its result"),
        (raises_unsaid, "    Raises:\n        ValueError: if there are none.\n", "", "scores raises ValueError"),
        (arguments_without_entry, "        cluster_size: the number of clusters, K.\n", "", "Pool has no entry for"),
        (arguments_without_entry, "        top_k: the number of classes per video.\n", "", "scores has no entry for"),
        (empty_entries, "top_k: the number of classes per video.", "top_k: the top k.", "scores top_k: 'the top k.'"),
        (
            empty_entries,
            "cluster_size: the number of clusters, K.",
            "cluster_size: see `Other`.",
            "Pool cluster_size: ''",
        ),
    ],
)
def test_a_docstring_that_does_not_say_it(
    tmp_path: Path, rule: Callable[[Documented], list[str]], said: str, unsaid: str, fault: str
) -> None:
    def faults(text: str) -> list[str]:
        path = tmp_path / f"{len(text)}.py"
        path.write_text(text)
        return [f"{item.name} {found}" for item in documented(path) for found in rule(item)]

    assert said in GOOD
    assert not faults(GOOD)
    (found,) = faults(GOOD.replace(said, unsaid))
    assert found.startswith(fault)
