"""Paths: which scheme they have, what is loaded for it, and what is said where that cannot be loaded."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest
from absl import flags

from yt8m.cli.program import start
from yt8m.errors import UserError
from yt8m.storage import enable, matching_files, scheme


def test_scheme() -> None:
    paths = ["s3://b/x", "HTTPS://h/x", "gs://b/x", "/a/b", "a/b", "C:x"]
    assert [scheme(path) for path in paths] == ["s3", "https", "gs", "", "", ""]


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes which modules are loaded, instead of loading them."""
    names: list[str] = []

    def load(name: str) -> ModuleType:
        names.append(name)
        return ModuleType(name)

    monkeypatch.setattr(importlib, "import_module", load)
    return names


def test_tensorflow_io_is_loaded_for_its_schemes_only(loads: list[str], tmp_path: Path) -> None:
    for path in (str(tmp_path), "gs://bucket/x", "relative/path"):
        enable(path)
    assert not loads
    enable("s3://bucket/x")
    assert loads == ["tensorflow_io"]


def test_files_of_records_do_without_it(loads: list[str]) -> None:
    values = flags.FlagValues()
    flags.DEFINE_string("train_data_pattern", "", "Patterns.", flag_values=values)
    values(["program", "--train_data_pattern=s3://bucket/a*,https://host/b"])
    start(lambda _: None, values)
    assert not loads


@pytest.mark.parametrize("text", ["s3://bucket/run", "local/a*, s3://bucket/b*"])
def test_a_program_loads_it_for_any_of_its_paths_before_it_starts(loads: list[str], text: str) -> None:
    values = flags.FlagValues()
    flags.DEFINE_string("place", "", "A path, or patterns.", flag_values=values)
    values(["program", f"--place={text}"])
    loaded_before: list[str] = []
    start(lambda _: loaded_before.extend(loads), values)
    assert loaded_before == ["tensorflow_io"]


def test_urls_are_taken_as_they_are(loads: list[str]) -> None:
    assert matching_files("https://host/x*.tfrecord") == ["https://host/x*.tfrecord"]
    assert not loads


@pytest.mark.parametrize("error", [ImportError("no such module"), NotImplementedError("undefined symbol")])
def test_without_tensorflow_io_its_paths_are_an_error(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(name: str) -> ModuleType:
        raise error

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(UserError, match=r"^s3://b/x: s3:// needs tensorflow-io.* Python 3\.11 or 3\.12 .*2\.17"):
        enable("s3://b/x")


def test_matching_files_are_sorted_and_no_folders(tmp_path: Path) -> None:
    for name in ("x2", "x1", "y"):
        (tmp_path / name).touch()
    (tmp_path / "x3").mkdir()
    assert [Path(path).name for path in matching_files(f"{tmp_path}/x*")] == ["x1", "x2"]
    assert matching_files(f"{tmp_path}/z*") == []
