"""The pinned files follow from the choices: `make pins` was run after the last change."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PINS = {
    "requirements.txt": "requirements.in",
    "requirements-newest.txt": "requirements.in",
    "requirements-dev.txt": "requirements-dev.in",
    "requirements-video.txt": "requirements-video.in",
    "requirements-remote.txt": "requirements-remote.in",
    "requirements-parquet.txt": "requirements-parquet.in",
    "requirements-export.txt": "requirements-export.in",
    "requirements-beam.txt": "requirements-beam.in",
    "requirements-report.txt": "requirements-report.in",
    "requirements-tune.txt": "requirements-tune.in",
}


def lines(name: str) -> list[str]:
    """The lines of a file that ask for a package."""
    return [line for line in (ROOT / name).read_text().splitlines() if re.match("[a-z]", line)]


def package(line: str) -> str:
    return re.split(r"[\[ =<>;]", line)[0]


@pytest.mark.parametrize("name", PINS)
def test_every_version_is_pinned_and_says_who_needs_it(name: str) -> None:
    assert [line for line in lines(name) if not re.match(r"\S+==\S+( ; .+?)? +# via ", line)] == []


@pytest.mark.parametrize(("name", "choices"), PINS.items())
def test_what_is_pinned_directly_is_what_was_chosen(name: str, choices: str) -> None:
    pinned = {package(line) for line in lines(name) if f"-r {choices}" in line}
    chosen = {package(line) for line in lines(choices)}
    only_before_3_13 = {"tensorflow-io"} if name == "requirements-newest.txt" else set()
    assert pinned == chosen - only_before_3_13


@pytest.mark.parametrize("choices", sorted(set(PINS.values())))
def test_every_choice_has_its_reason(choices: str) -> None:
    all_lines = (ROOT / choices).read_text().splitlines()
    for before, line in pairwise(all_lines):
        if line in lines(choices):
            assert before.startswith("# ") or package(before) == package(line), line


def test_the_newest_versions_are_those_of_the_newest_python() -> None:
    newest = {line.split(" ")[0] for line in lines("requirements-newest.txt")}
    on_newest = {line.split(" ")[0] for line in lines("requirements.txt") if "< '3.13'" not in line}
    assert newest == on_newest
