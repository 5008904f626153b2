"""The house stands: programs -> experiment -> doors -> wings -> ground, and between wings a short list of arrows."""

import ast
from pathlib import Path

import pytest

from tools.rooms import (
    COMPOSER,
    DOORS,
    GROUND,
    PROGRAMS,
    ROOT,
    arrows,
    imported_modules,
    module_of,
    picture,
    product_files,
    room_of,
)

PRODUCT = product_files()
WINGS = {path.name for path in (ROOT / "yt8m").iterdir() if path.is_dir() and path.name != "__pycache__"}
BETWEEN_WINGS = {
    ("models", "layers"),
    ("classifiers", "layers"),
    ("engine", "metrics"),
    ("engine", "runs"),
    ("output", "runs"),
    ("output", "engine"),
}
BETWEEN_DOORS = {("frame_level_models", "rankpool_ops")}  # the simplest models pool in one step, by rank for one


def floor(room: str) -> int:
    """The height of a room: imports go to a lower floor."""
    floors = [{GROUND}, WINGS, set(DOORS), {COMPOSER}, set(PROGRAMS)]
    return next(height for height, rooms in enumerate(floors) if room in rooms)


def test_every_file_has_a_room() -> None:
    known = {GROUND, COMPOSER, *WINGS, *DOORS, *PROGRAMS}
    assert {room_of(module_of(path)) for path in PRODUCT} <= known
    assert len([path for path in PRODUCT if path.parent == ROOT]) == 10


@pytest.mark.parametrize("arrow", arrows(PRODUCT), ids=" -> ".join)
def test_imports_go_down_and_between_wings_as_listed(arrow: tuple[str, str]) -> None:
    goes_down = floor(arrow[1]) < floor(arrow[0])
    assert goes_down or arrow in BETWEEN_WINGS | BETWEEN_DOORS, f"{arrows(PRODUCT)[arrow]} may not import {arrow[1]}"


def test_the_picture_in_the_contributors_guide_is_the_one_that_the_imports_draw() -> None:
    assert picture() in (ROOT / "CONTRIBUTING.md").read_text(), "put the output of python -m tools.rooms there"


def names_used(path: Path) -> set[str]:
    """Every dotted name that code, not text, uses: `tf.distribute.Strategy`, `absl.flags`."""
    attributes = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute))
    return {ast.unparse(node) for node in attributes} | set(imported_modules(path))


@pytest.mark.parametrize(
    ("prefix", "homes"),
    [("absl.flags", {*PROGRAMS, "cli"}), ("absl.app", {"cli"}), ("tf.distribute", {GROUND})],
)
def test_some_names_are_used_in_some_rooms_alone(prefix: str, homes: set[str]) -> None:
    users = {room_of(module_of(path)) for path in PRODUCT if any(name.startswith(prefix) for name in names_used(path))}
    assert users, f"nobody uses {prefix}: is the list out of date?"
    assert users <= homes


def test_tf_distribute_has_one_file() -> None:
    users = [path for path in PRODUCT if any(name.startswith("tf.distribute") for name in names_used(path))]
    assert [path.name for path in users] == ["distribution.py"]
