"""Shards on a server: copied whole, read as local ones are, however badly the server behaves."""

import gzip
import os
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from attacks.damaged_records import framed

from yt8m import storage
from yt8m.data.record_writing import video_record, write_records
from yt8m.data.shards import Damage, open_shard
from yt8m.errors import UserError
from yt8m.schema import DataSpec
from yt8m.shard_cache import ShardCache, local_path, shard_cache

import readers

pytest.importorskip("obstore", reason="needs the packages of requirements-remote.txt")

SPEC = DataSpec(("mean_rgb",), (4,), num_classes=5)
RECORDS_PER_SHARD = 7


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder, in whole files as Python's own server does, or in ranges; may fail now and then."""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        server.requests.append(f"{'RANGE' if 'Range' in self.headers else self.command} {self.path}")
        if server.fails_every and len(server.requests) % server.fails_every == 0:
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE)
        elif server.breaks_off and self.command == "GET" and server.breaks_off.pop():
            content = Path(self.translate_path(self.path)).read_bytes()
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        elif server.has_ranges and "Range" in self.headers:
            self.send_range()
        elif self.command == "HEAD":
            super().do_HEAD()
        else:
            super().do_GET()

    do_HEAD = do_GET  # noqa: N815  Python's name

    def send_range(self) -> None:
        content = Path(self.translate_path(self.path)).read_bytes()
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        self.send_response(HTTPStatus.PARTIAL_CONTENT)
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[first : last + 1])


class Server(ThreadingHTTPServer):
    """A server of a folder on loopback.

    Attributes:
        folder: what it serves.
        requests: what it was asked for.
        has_ranges: whether it can send a part of a file.
        fails_every: every request of which number is answered by an error; 0 for none.
        breaks_off: for each of the next files, last first, whether half of it is sent.
    """

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.folder = folder
        self.requests: list[str] = []
        self.has_ranges = True
        self.fails_every = 0
        self.breaks_off: list[bool] = []

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


@pytest.fixture(name="server")
def serve(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "served"
    folder.mkdir()
    for shard in range(6):
        rows = [np.full(4, shard + row / 10, np.float32) for row in range(RECORDS_PER_SHARD)]
        records = [video_record(f"v{shard}-{row}", [row % 5], {"mean_rgb": rows[row]}) for row in range(len(rows))]
        write_records(folder / f"train{shard}.tfrecord", records)
    with Server(folder) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        storage._store.cache_clear()
        with shard_cache(str(tmp_path / "cache"), 1.0):
            yield server
        server.shutdown()


def training_ids(files: list[str], on_bad_record: str = "error") -> list[bytes]:
    options = readers.ReadOptions(num_readers=2, shuffle_window=8, on_bad_record=on_bad_record)  # type: ignore[arg-type]
    order = readers.training_order(files, SPEC, seed=1, options=options)
    batches = readers.training_batches(order, SPEC, 5, num_epochs=2)
    try:
        return [video for batch in batches.as_numpy_iterator() for video in batch["id"]]
    except tf.errors.OpError as error:
        raise readers.explain_failure(error, files, SPEC, True) or error from None


def files_of(server: Server) -> tuple[list[str], list[str]]:
    """The shards, as local paths and as addresses."""
    local = sorted(str(path) for path in server.folder.glob("*.tfrecord"))
    return local, [server.url(Path(path).name) for path in local]


@pytest.mark.parametrize("on_bad_record", ["error", "skip"])
@pytest.mark.parametrize("has_ranges", [True, False])
def test_remote_shards_are_read_in_the_order_of_local_ones(
    server: Server, has_ranges: bool, on_bad_record: str
) -> None:
    server.has_ranges = has_ranges
    local, remote = files_of(server)
    assert training_ids(remote, on_bad_record) == training_ids(local, on_bad_record)
    copied = [request for request in server.requests if request.startswith("GET")]
    if has_ranges:
        assert len(copied) == len(remote)
    assert readers.estimate_num_records(remote) == 6 * RECORDS_PER_SHARD


def test_a_server_that_fails_every_third_request_is_survived(server: Server) -> None:
    server.fails_every = 3
    local, remote = files_of(server)
    assert training_ids(remote) == training_ids(local)
    assert len(server.requests) > 3 * len(remote)


def test_a_file_that_breaks_off_is_begun_again(server: Server, tmp_path: Path) -> None:
    server.breaks_off = [False, True]
    copy = Path(local_path(server.url("train0.tfrecord")))
    assert copy.read_bytes() == (server.folder / "train0.tfrecord").read_bytes()
    assert not list((tmp_path / "cache").rglob("*.partial"))


def test_a_copy_serves_later_programs_until_the_file_changes(server: Server, tmp_path: Path) -> None:
    url, file = server.url("train0.tfrecord"), server.folder / "train0.tfrecord"
    first = ShardCache(str(tmp_path / "cache")).local_path(url)
    server.requests.clear()
    assert ShardCache(str(tmp_path / "cache")).local_path(url) == first
    assert server.requests == ["HEAD /train0.tfrecord"]
    content = file.read_bytes()[::-1]  # as long as before
    file.write_bytes(content)
    os.utime(file, (1e9, 1e9))
    assert Path(ShardCache(str(tmp_path / "cache")).local_path(url)).read_bytes() == content


def test_copies_that_were_not_used_for_longest_go(server: Server, tmp_path: Path) -> None:
    _, remote = files_of(server)
    size = (server.folder / "train0.tfrecord").stat().st_size
    theirs = [tmp_path / "small" / name for name in ("mine.tfrecord", "x.0123abcd", "http/mine.tfrecord")]
    (tmp_path / "small/http").mkdir(parents=True)
    for path in theirs:
        path.write_bytes(bytes(4 * size))
    cache = ShardCache(str(tmp_path / "small"), 3.5 * size / 1e9)
    for file in [*remote[:3], remote[0], remote[3]]:
        cache.local_path(file)
        kept = list((tmp_path / "small").rglob("train*"))
        assert sum(path.stat().st_size for path in kept) <= 3.5 * size
    assert sorted(path.name.partition(".")[0] for path in kept) == ["train0", "train2", "train3"]
    assert Path(cache.local_path(remote[1])).exists()  # made again
    assert all(path.exists() for path in theirs)
    with pytest.raises(UserError, match=r"--cache_max_gb=1e-07: .*train0\.tfrecord alone has .* GB\. Allow more\."):
        ShardCache(str(tmp_path / "tiny"), 1e-7).local_path(remote[0])


def test_an_address_that_leads_elsewhere_is_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be read \(.*illegal character sequence"):
        ShardCache(str(tmp_path / "inside")).local_path(server.url("x/../../../train0.tfrecord"))


def test_what_comes_next_is_copied_ahead(server: Server, tmp_path: Path) -> None:
    _, remote = files_of(server)
    cache = ShardCache(str(tmp_path / "ahead"))
    cache.announce(remote)
    cache.local_path(remote[0])
    cache._pool.shutdown()
    assert sorted(path.name[:6] for path in (tmp_path / "ahead").rglob("*.????????")) == [f"train{i}" for i in range(5)]


def test_a_program_that_ends_leaves_no_half_copy(server: Server, tmp_path: Path) -> None:
    cache = ShardCache(str(tmp_path / "ended"))
    cache.close()
    with pytest.raises(InterruptedError):
        storage.copy(server.url("train0.tfrecord"), str(tmp_path / "copy"), 1, lambda: False)
    assert not list(tmp_path.glob("copy*"))


def test_a_length_beyond_a_remote_file_is_named(server: Server) -> None:
    (server.folder / "train0.tfrecord").write_bytes(framed(b"x" * 100, length=1 << 36))
    with pytest.raises(UserError, match=r"http://.*/train0\.tfrecord, record 0: the file ends in the middle of this"):
        training_ids([server.url("train0.tfrecord")])


def test_what_cannot_be_reached_is_one_line(server: Server) -> None:
    damage = open_shard(server.url("missing.tfrecord"))
    assert isinstance(damage, Damage)
    assert "cannot be read" in str(damage)
    assert str(damage).startswith(f"{server.url('missing.tfrecord')}: cannot be read (")
    (server.folder / "x.gz").write_bytes(gzip.compress((server.folder / "train0.tfrecord").read_bytes()))
    assert len(training_ids([server.url("x.gz")])) == 2 * RECORDS_PER_SHARD


def test_a_pattern_matches_as_in_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    import obstore
    from obstore.store import MemoryStore

    store = MemoryStore()
    for name in ("a/train1.tfrecord", "a/train0.tfrecord", "a/x/train2.tfrecord", "b/train3.tfrecord", "a/notes"):
        obstore.put(store, name, b"x")
    monkeypatch.setattr(storage, "_store", lambda root: store)
    expected = {
        "s3://bucket/a/train*": ["a/train0.tfrecord", "a/train1.tfrecord"],
        "s3://bucket/*/train?.tfrecord": ["a/train0.tfrecord", "a/train1.tfrecord", "b/train3.tfrecord"],
        "s3://bucket/a/train1.tfrecord": ["a/train1.tfrecord"],
        "s3://bucket/c*": [],
    }
    for pattern, names in expected.items():
        assert storage.matching_files(pattern) == [f"s3://bucket/{name}" for name in names]


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("s3://bucket/a/b", ("s3://bucket", "a/b")),
        ("az://account/container/a/b", ("az://account/container", "a/b")),
        ("https://host:80/a%20b", ("https://host:80", "a b")),
        ("https://host/a?signature=1", ("https://host/a?signature=1", "")),
    ],
)
def test_a_store_ends_where_its_names_begin(path: str, parts: tuple[str, str]) -> None:
    assert storage._root_and_key(path) == parts


def test_without_obstore_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(UserError, match=r"need the package obstore: pip install -r requirements-remote\.txt"):
        storage.version_of("s3://bucket/x")
