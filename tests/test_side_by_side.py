"""Work by several processes: its order, and its end."""

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from yt8m.errors import UserError
from yt8m.side_by_side import in_order


def length(path: str) -> int:
    """The size of a file; the larger, the later."""
    size = Path(path).stat().st_size
    time.sleep(size / 100)
    return size


def die(path: str) -> int:
    return os._exit(3) if Path(path).name == "2" else 0


@pytest.fixture(name="files")
def make_files(tmp_path: Path) -> list[str]:
    for number in range(8):
        (tmp_path / str(number)).write_bytes(bytes(8 - number))
    return [str(tmp_path / str(number)) for number in range(8)]


@pytest.mark.parametrize("num_processes", [1, 2])
def test_results_come_in_order(files: list[str], num_processes: int) -> None:
    assert list(in_order(length, files, num_processes)) == [8, 7, 6, 5, 4, 3, 2, 1]


def test_a_process_that_dies_is_an_error_that_names_the_place(files: list[str]) -> None:
    with pytest.raises(UserError, match=r"^A process died while it worked on .* or one of the next \d files\."):
        list(in_order(die, files, 2))
    assert not multiprocessing.active_children()


def test_a_process_that_died_before_the_next_file_is_given_out(
    files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def submit(pool: ProcessPoolExecutor, work: object, path: str) -> None:
        raise BrokenProcessPool

    monkeypatch.setattr(ProcessPoolExecutor, "submit", submit)
    with pytest.raises(UserError, match=rf"^A process died while it worked on {files[0]} or one of the next 0 files\."):
        list(in_order(length, files, 2))


def test_who_asks_for_no_more_leaves_no_process_behind(files: list[str]) -> None:
    results = in_order(length, files, 2)
    assert next(results) == 8
    results.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()
