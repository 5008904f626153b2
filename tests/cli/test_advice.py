"""A message advises flags that exist: of the program that says it, or of some program where several say it."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

from yt8m.catalogue import ROOT

PROGRAMS = [
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    for path in (*ROOT.glob("*.py"), *ROOT.glob("tools/*.py"))
    if "def define_flags(" in path.read_text()
]
OTHERS = {"help", "flagfile", "name"}  # two of absl, and `--name=value`, the form of them all
MESSAGE = re.compile("Error$|^Damage$")
FLAG = re.compile(r"(?<![\w-])--(?:no)?([a-z][a-z0-9_]*)")


def flags_of(program: str) -> set[str]:
    """The names of the flags that a program takes."""
    values = flags.FlagValues()
    importlib.import_module(program).define_flags(values)
    return set(values)


def advised_flags(path: Path) -> set[str]:
    """The flags that the messages of a module name: the texts of its errors and of the damage that it reports."""
    messages = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and MESSAGE.search(node.func.id)
    ]
    constants = [[node.value for node in ast.walk(message) if isinstance(node, ast.Constant)] for message in messages]
    texts = ["".join(value for value in values if isinstance(value, str)) for values in constants]
    # A message may send to training, by name.
    return {name for text in texts if "train.py" not in text for name in FLAG.findall(text)}


ALL_FLAGS = set().union(*map(flags_of, PROGRAMS)) | OTHERS


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_advises_its_own_flags(program: str) -> None:
    path = ROOT / (program.replace(".", "/") + ".py")
    assert advised_flags(path) <= flags_of(program) | OTHERS


@pytest.mark.parametrize("path", sorted(ROOT.glob("yt8m/**/*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_advises_flags_of_some_program(path: Path) -> None:
    assert advised_flags(path) <= ALL_FLAGS


@pytest.mark.parametrize("program", PROGRAMS)
def test_flags_are_parsed_before_tensorflow_is_loaded(program: str) -> None:
    """Mistyped flags are answered at once, and TensorFlow is loaded where its notes are held back."""
    tree = ast.parse((ROOT / (program.replace(".", "/") + ".py")).read_text())
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    parses = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "parse_flags"]
    early = [ast.unparse(node) for node in imports if node.lineno < parses[0]]
    code = "import sys; sys.path.insert(0, '.'); " + "; ".join(early) + "; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
