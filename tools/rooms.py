"""Prints the rooms of the code and who imports whom, read from the imports: python -m tools.rooms

A room is a program, a door at the top level, a wing of `yt8m/`, or its ground floor. CONTRIBUTING.md shows the result.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ("train", "eval", "inference", "segment_eval_inference", "tools")
COMPOSER = "experiment"
DOORS = ("frame_level_models", "video_level_models", "readers", "losses", "rankpool_ops")
GROUND = "ground"


def product_files(root: Path = ROOT) -> list[Path]:
    """Returns every file of the product: the top level, the tools and `yt8m/`."""
    return sorted([*root.glob("*.py"), *root.glob("tools/*.py"), *root.glob("yt8m/**/*.py")])


def room_of(module: str) -> str:
    """Returns the room of a module: `models` of `yt8m.models.vlad`, `ground` of `yt8m.errors`, else its first word."""
    first, *rest = module.split(".")
    if first != "yt8m":
        return first
    return rest[0] if rest and (ROOT / "yt8m" / rest[0]).is_dir() else GROUND


def module_of(path: Path) -> str:
    """Returns the dotted name under which a file is imported."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported_modules(path: Path) -> Iterator[str]:
    """Yields the dotted name of every module that a file imports, and of every name that it imports from one."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms(files: list[Path]) -> set[str]:
    """Returns the rooms that files are in."""
    return {room_of(module_of(path)) for path in files}


def arrows(files: list[Path]) -> dict[tuple[str, str], list[str]]:
    """Returns for every pair (room, room that it imports) the modules that do so."""
    found: dict[tuple[str, str], set[str]] = {}
    known = rooms(files)
    for path in files:
        module = module_of(path)
        for name in imported_modules(path):
            arrow = room_of(module), room_of(name)
            if arrow[1] in known and arrow[0] != arrow[1]:
                found.setdefault(arrow, set()).add(module)
    return {arrow: sorted(modules) for arrow, modules in sorted(found.items())}


def picture() -> str:
    """Returns the rooms by floor, each with the rooms that it imports but the ground floor, which all import."""
    files = product_files()
    pairs = arrows(files)
    wings = sorted(rooms(files) - {*PROGRAMS, COMPOSER, *DOORS, GROUND})
    floors = {"programs": PROGRAMS, "composer": (COMPOSER,), "doors": DOORS, "wings": wings, "ground": (GROUND,)}
    text = []
    for floor, names in floors.items():
        text.append(floor)
        for name in names:
            below = [to for of, to in pairs if of == name and to != GROUND]
            text.append(f"  {name:<22}  -> {', '.join(below)}" if below else f"  {name}")
    return "\n".join(text)


if __name__ == "__main__":
    print(picture())
