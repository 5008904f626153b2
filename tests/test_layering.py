"""The house stands: imports go down only, and some words appear in some rooms alone."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RANKS = {
    "train": 4,
    "eval": 4,
    "inference": 4,
    "segment_eval_inference": 4,
    "tools": 4,
    "experiment": 3,
    "attention_models": 2,
    "attention_vlad_models": 2,
    "bag_models": 2,
    "frame_level_models": 2,
    "nextvlad_models": 2,
    "rankpool_models": 2,
    "video_level_models": 2,
    "vlad_models": 2,
    "readers": 2,
    "losses": 2,
    "rankpool_ops": 1,
    "yt8m": 0,
}
MODEL_FILES = (
    "attention_models",
    "attention_vlad_models",
    "bag_models",
    "nextvlad_models",
    "rankpool_models",
    "video_level_models",
    "vlad_models",
)
SIDEWAYS = {("frame_level_models", name) for name in MODEL_FILES}
PRODUCT = sorted(
    path for path in [*ROOT.glob("*.py"), *ROOT.glob("tools/*.py"), *ROOT.glob("yt8m/**/*.py")] if path.is_file()
)


def room(path: Path) -> str:
    """The name by which others import a file: its own at the top level, else that of its folder."""
    relative = path.relative_to(ROOT)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imported(path: Path) -> Iterator[str]:
    """The rooms that a file imports, with the words behind them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_only(path: Path) -> None:
    own = room(path)
    assert own in RANKS, f"{path.name} has no room: give it a rank"
    for name in {module.split(".")[0] for module in imported(path)} & RANKS.keys():
        allowed = RANKS[name] < RANKS[own] or (own, name) in SIDEWAYS or (own == name and own in ("tools", "yt8m"))
        assert allowed, f"{path.name} imports {name}, which does not lie below it"


def names_used(path: Path) -> set[str]:
    """Every dotted name that code, not text, uses: `tf.distribute.Strategy`, `absl.flags`."""
    tree = ast.parse(path.read_text())
    dotted = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    from_modules = {
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    return dotted | from_modules | set(imported(path))


@pytest.mark.parametrize(
    ("prefix", "homes"),
    [
        ("absl.flags", {"train.py", "eval.py", "inference.py", "segment_eval_inference.py", "tools", "yt8m/cli.py"}),
        ("absl.app", {"yt8m/cli.py"}),
        ("tf.distribute", {"yt8m/distribution.py"}),
    ],
)
def test_some_names_are_used_in_some_rooms_alone(prefix: str, homes: set[str]) -> None:
    users = {
        str(path.relative_to(ROOT)) for path in PRODUCT if any(name.startswith(prefix) for name in names_used(path))
    }
    strangers = {user for user in users if user not in homes and user.split("/")[0] not in homes}
    assert users, f"nobody uses {prefix}: is the list out of date?"
    assert not strangers
