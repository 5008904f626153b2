"""Files that are written: whole or not at all, through links and into pipes, and over nothing that is read."""

import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import tensorflow as tf

from yt8m.errors import UserError, first_line
from yt8m.files import AtomicFile, check_outputs, open_text, write_text


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_file_is_there_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with AtomicFile(str(path), "header ") as file:
        file.write("rest")
        assert path.read_text() == "old"
    assert path.read_text() == "header rest"
    with pytest.raises(KeyError), AtomicFile(str(path), "other"):
        raise KeyError
    assert path.read_text() == "header rest"
    assert names(tmp_path) == ["a"]


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    target, link, dangling = tmp_path / "folder" / "target", tmp_path / "link", tmp_path / "dangling"
    target.write_text("old")
    link.symlink_to("folder/target")
    dangling.symlink_to("folder/new")
    write_text(str(link), "new")
    write_text(str(dangling), "newer")
    assert link.is_symlink()
    assert dangling.is_symlink()
    assert target.read_text() == "new"
    assert (tmp_path / "folder" / "new").read_text() == "newer"
    assert names(tmp_path / "folder") == ["new", "target"]


@pytest.mark.parametrize("content", ["text\n", b"bytes\n"])
def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path, content: str | bytes) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()
    with AtomicFile(str(pipe), content) as file:
        file.write(content)
    reader.join(10)
    raw = content if isinstance(content, bytes) else content.encode()
    assert received == [raw + raw]
    assert pipe.is_fifo()
    assert names(tmp_path) == ["pipe"]


@pytest.fixture(name="small_files")
def limit_files() -> Iterator[None]:
    """No file may grow beyond 64 KiB: what a full disk looks like to a program."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.usefixtures("small_files")
def test_a_file_that_cannot_grow_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    def write_much() -> None:
        with AtomicFile(f"{tmp_path}/a", "header", "output_file") as file:
            for _ in range(100):
                file.write("x" * (1 << 14))

    with pytest.raises(UserError, match=r"^--output_file=.*/a cannot be written \(.+\)\. Expected .* room") as error:
        write_much()
    assert "\n" not in str(error.value)
    assert not names(tmp_path)


def test_what_is_read_is_not_written_over(tmp_path: Path) -> None:
    shard, link, twin = tmp_path / "shard", tmp_path / "link", tmp_path / "twin"
    shard.touch()
    link.symlink_to(shard)
    twin.hardlink_to(shard)
    for path in (shard, link, twin, tmp_path / "." / "shard"):
        with pytest.raises(UserError, match=rf"^--output_file={path} is {shard}, which is read"):
            check_outputs({"output_file": str(path)}, [str(shard)])
    check_outputs({"output_file": f"{shard}2", "other": ""}, [str(shard), ""])


def test_two_outputs_are_two_files(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    for other in (tmp_path / "a", tmp_path / "folder" / ".." / "a"):
        with pytest.raises(UserError, match=rf"^--one={tmp_path}/a and --two=.*a are one file"):
            check_outputs({"one": f"{tmp_path}/a", "two": str(other)}, [])
    with pytest.raises(UserError, match="are one file"):
        check_outputs({"one": f"{tmp_path}/link/b", "two": f"{tmp_path}/folder/b"}, [])
    check_outputs({"one": "gs://bucket/a", "two": f"{tmp_path}/a"}, ["gs://bucket/b"])


def test_a_pipe_may_be_named_twice(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    check_outputs({"one": f"{tmp_path}/pipe"}, [f"{tmp_path}/pipe"])


def test_where_a_server_says_nothing_the_kind_of_the_error_speaks() -> None:
    assert first_line(tf.errors.NotFoundError(None, None, ": No response body.")) == "it is not there"
    assert first_line(tf.errors.PermissionDeniedError(None, None, ": No response body.")) == "access is denied"
    assert first_line(tf.errors.UnknownError(None, None, ": No response body.")) == "UnknownError"
    assert first_line(tf.errors.NotFoundError(None, None, "a; No such file\nat a node")) == "a; No such file"


def test_a_text_that_is_not_there_is_not_one_without_lines(tmp_path: Path) -> None:
    with pytest.raises(tf.errors.NotFoundError), open_text(str(tmp_path / "missing")):
        pass
