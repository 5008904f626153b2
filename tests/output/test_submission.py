"""The competition's CSV: the same bytes as pair-by-pair formatting, whole or not there at all, and read back."""

import csv
import resource
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from yt8m.errors import UserError
from yt8m.metrics import top_k_predictions
from yt8m.output import parquet_predictions, submission
from yt8m.output.submission import (
    HEADER,
    SubmissionWriter,
    format_rows,
    read_blocks,
    read_submission,
    submission_writer,
)
from yt8m.scores import name_of

from oracles import metrics as oracles

CLASSES = np.array([[3, 0], [2, 1]])
SCORES = np.array([[0.75, 0.5], [1.0, 1e-7]], np.float32)
TEXT = HEADER + "ab,3 0.75 0 0.5\nc,2 1 1 1e-07\n"

# Printable, without what a CSV or a line cannot hold.
IDS = st.text(st.characters(categories=("L", "N", "P", "S"), exclude_characters=',"'), min_size=1, max_size=11)
# 2**-126 is the smallest normal float32: below, six digits do not lead back to the number.
SCORE = st.floats(0, 1, width=32, allow_subnormal=False)


def write(path: Path, *batches: tuple[Sequence[bytes], np.ndarray, np.ndarray]) -> None:
    with SubmissionWriter(str(path)) as writer:
        for batch in batches:
            writer.add(*batch)


def write_and_then(path: Path, at_the_end: Callable[[], None]) -> None:
    with SubmissionWriter(str(path)) as writer:
        writer.add([b"ab", b"c"], CLASSES, SCORES)
        at_the_end()


# ---- the bytes


def test_hand_written_rows(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", ([b"ab"], CLASSES[:1], SCORES[:1]), ([b"c"], CLASSES[1:], SCORES[1:]))
    assert (tmp_path / "a.csv").read_text() == TEXT


def test_same_bytes_as_pair_by_pair() -> None:
    generator = np.random.default_rng(1)
    # From saturated to tiny: every form that %g has.
    logits = generator.normal(size=(40, 50)) * 12 - 8
    predictions = (1 / (1 + np.exp(-logits))).astype(np.float32)
    ids = [f"{i:04x}" for i in range(40)]
    scores, classes = top_k_predictions(tf.constant(predictions), 20)
    rows = format_rows(ids, classes.numpy(), scores.numpy())
    assert HEADER + rows == oracles.submission_text(ids, predictions.tolist(), 20)


@pytest.mark.parametrize(
    "ids", [[b"x%", "é".encode()], ["x%", "é"], np.array([b"x%", "é".encode()], object), np.array(["x%", "é"])]
)
def test_ids_as_bytes_or_text(ids: list[bytes]) -> None:
    assert format_rows(ids, CLASSES[:, :1], SCORES[:, :1]) == "x%,3 0.75\né,2 1\n"


def test_ids_that_are_no_text_are_escaped() -> None:
    assert format_rows([b"a\xff"], CLASSES[:1, :1], SCORES[:1, :1]) == "a\\xff,3 0.75\n"


def test_an_empty_batch_has_no_rows() -> None:
    assert format_rows([], np.zeros((0, 20), int), np.zeros((0, 20))) == ""


# ---- whole or not at all


def test_an_existing_target_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "a.csv"
    target.write_text("old")
    with SubmissionWriter(str(target)) as writer:
        writer.add([b"ab", b"c"], CLASSES, SCORES)
        assert target.read_text() == "old"
        assert len(list(tmp_path.iterdir())) == 2
    assert target.read_text() == TEXT
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "a.csv"
    for before in (None, "old"):
        if before:
            target.write_text(before)
        with pytest.raises(error):
            write_and_then(target, Mock(side_effect=error))
        assert [path.read_text() for path in tmp_path.iterdir()] == ([before] if before else [])


def test_a_full_disk_is_an_error_that_names_the_target(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk; Python ignores its signal, so writing fails."""
    ids = [b"%05d" % i for i in range(20_000)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UserError, match=r"--output_file=.*a.csv cannot be written .*too large"):
            write(tmp_path / "a.csv", (ids, np.zeros((20_000, 1), int), np.zeros((20_000, 1))))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("target", ["missing/a.csv", "a_file/a.csv"])
def test_an_unwritable_target_is_found_before_work_starts(tmp_path: Path, target: str) -> None:
    (tmp_path / "a_file").touch()
    writer = SubmissionWriter(str(tmp_path / target), flag="out")
    with pytest.raises(UserError, match=rf"--out=.*{target} cannot be written"), writer:
        pytest.fail("work has started")
    assert [path.name for path in tmp_path.iterdir()] == ["a_file"]


def test_a_folder_is_no_target(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"), SubmissionWriter(str(tmp_path)):
        pytest.fail("work has started")
    assert not list(tmp_path.parent.glob("*.partial"))


def test_a_target_that_becomes_a_folder_is_an_error_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "a.csv"
    with pytest.raises(UserError, match="cannot be written"):
        write_and_then(target, lambda: (target / "full").mkdir(parents=True))
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_other_file_systems() -> None:
    path = "ram://submissions/a.csv"
    for _ in range(2):  # the second one replaces the first
        with SubmissionWriter(path) as writer:
            writer.add([b"ab", b"c"], CLASSES, SCORES)
    assert tf.io.gfile.GFile(path).read() == TEXT
    assert tf.io.gfile.listdir("ram://submissions") == ["a.csv"]
    assert read_submission(path).ids == ["ab", "c"]


def test_memory_is_bounded_but_for_the_ids(tmp_path: Path) -> None:
    num_batches, batch_size = 40, 250
    classes, scores = np.tile(np.arange(20), (batch_size, 1)), np.full((batch_size, 20), 0.123456, np.float32)
    with SubmissionWriter(str(tmp_path / "a.csv")) as writer:
        writer.add([b"first"], classes[:1], scores[:1])
        tracemalloc.start()
        try:
            for i in range(num_batches):
                writer.add([b"%05d" % (i * batch_size + j) for j in range(batch_size)], classes, scores)
            held, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    num_videos = num_batches * batch_size
    size = (tmp_path / "a.csv").stat().st_size
    assert size > 2_000_000
    assert held < 130 * num_videos
    assert peak < held + 1_000_000


# ---- what is refused


@pytest.mark.parametrize("split", [True, False], ids=["in two batches", "in one batch"])
def test_a_video_that_occurs_twice_is_named(tmp_path: Path, split: bool) -> None:
    batches = [([b"ab"], CLASSES[:1], SCORES[:1])] * 2 if split else [([b"ab", b"ab"], CLASSES, SCORES)]
    with pytest.raises(UserError, match="Video ab occurs twice"):
        write(tmp_path / "a.csv", ([b"c"], CLASSES[:1], SCORES[:1]), *batches)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_video_with_a_non_finite_prediction_is_named(tmp_path: Path, bad: float) -> None:
    predictions = np.array([[0.5, 0.25, 0.75], [0.5, bad, 0.75]], np.float32)
    scores, classes = top_k_predictions(tf.constant(predictions), 1)  # the bad one need not be among the best
    with pytest.raises(UserError, match="video cd is NaN or infinite"):
        write(tmp_path / "a.csv", ([b"ab", b"cd"], classes.numpy(), scores.numpy()))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [b"a,b", b"a\nb", b"a\rb", b'a"b', b"a\0b"])
def test_an_id_that_breaks_the_csv_is_named(tmp_path: Path, bad: bytes) -> None:
    with pytest.raises(UserError, match=r"Video '.*' has a comma, a quote or a line end in its id") as raised:
        write(tmp_path / "a.csv", ([b"ab", bad], CLASSES, SCORES))
    assert repr(bad.decode()) in str(raised.value)
    assert not list(tmp_path.iterdir())


@given(st.binary(min_size=1, max_size=6))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_id_is_refused_or_read_back_by_other_readers(tmp_path: Path, video_id: bytes) -> None:
    try:
        write(tmp_path / "a.csv", ([b"ab", b"x" + video_id], CLASSES, SCORES))
    except UserError:
        return
    expected = ["ab", name_of(b"x" + video_id)]
    table = pd.read_csv(tmp_path / "a.csv", dtype=str, keep_default_na=False)
    assert table["VideoId"].tolist() == expected
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        assert [row[0] for row in csv.reader(file)] == ["VideoId", *expected]


# ---- reading


@given(st.data())
@settings(deadline=None)
def test_read_of_write_is_the_same(data: st.DataObject) -> None:
    ids = data.draw(st.lists(IDS, max_size=6, unique=True))
    shape = len(ids), data.draw(st.integers(1, 5))
    classes = data.draw(hnp.arrays(np.int32, shape, elements=st.integers(0, 4799), unique=True))
    scores = data.draw(hnp.arrays(np.float32, shape, elements=SCORE))
    path = "ram://property.csv"
    with SubmissionWriter(path) as writer:
        writer.add(ids[:2], classes[:2], scores[:2])
        writer.add(ids[2:], classes[2:], scores[2:])
    read = read_submission(path)
    assert read.ids == ids
    assert read.num_pairs.tolist() == [shape[1]] * len(ids)
    assert read.classes.tolist() == classes.ravel().tolist()
    np.testing.assert_array_equal(read.scores, np.array([f"{s:g}" for s in scores.ravel().tolist()], np.float32))
    rewritten = format_rows(read.ids, read.classes.reshape(shape), read.scores.reshape(shape))
    assert HEADER + rewritten == tf.io.gfile.GFile(path).read()


def test_reads_rows_of_different_lengths(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(HEADER.replace("\n", "\r\n").encode() + b'NA,7 0.5 1 0.25\r\n0012,\n"q,3 1')
    read = read_submission(str(tmp_path / "a.csv"))
    assert read.ids == ["NA", "0012", '"q']
    assert read.num_pairs.tolist() == [2, 0, 1]
    assert (read.classes.tolist(), read.scores.tolist()) == ([7, 1, 3], [0.5, 0.25, 1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1: this is no submission"),
        (b"Class,Segments\n1,ab:0\n", "line 1: this is no submission"),
        (HEADER.encode() + b"ab,1 0.5\ncd,1 0.5 2\n", "line 3: found 'cd,1 0.5 2'"),
        (HEADER.encode() + b"ab 1 0.5\n", "line 2: found 'ab 1 0.5'"),
        (HEADER.encode() + b"ab,1 half\n", "line 2: found 'ab,1 half'"),
        (HEADER.encode() + b"ab,1,0.5\n", "line 2: found 'ab,1,0.5'"),
        (b"\x1f\x8b\xff\xfe", "is not text"),
    ],
)
def test_what_is_no_submission_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.csv.*{message}"):
        read_submission(str(tmp_path / "a.csv"))


def test_a_missing_submission_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing\.csv cannot be read"):
        read_submission(str(tmp_path / "missing.csv"))


# ---- as Parquet


@pytest.fixture(name="parquet", scope="module")
def parquet_package() -> object:
    return pytest.importorskip("pyarrow.parquet", reason="needs the packages of requirements-parquet.txt")


def test_parquet_is_read_bit_for_bit(tmp_path: Path, parquet: object) -> None:
    scores = np.random.default_rng(0).random((5, 20)).astype(np.float32)
    scores[0, :3] = np.float32(1e-45), np.nextafter(np.float32(1), np.float32(0)), 0
    classes = np.stack([np.random.default_rng(i).permutation(40_000)[:20] for i in range(5)])
    path = str(tmp_path / "a.parquet")
    with submission_writer(path, 40_000) as writer:
        writer.add([b"a", b"b", b"c"], classes[:3], scores[:3])
        writer.add(["d", "e"], classes[3:], scores[3:])
    read = read_submission(path)
    assert read.ids == ["a", "b", "c", "d", "e"]
    assert read.classes.tolist() == classes.ravel().tolist()
    assert read.scores.tobytes() == scores.tobytes()


@pytest.mark.parametrize(("suffix", "lengths"), [("csv", (2, 50, 0)), ("parquet", (5, 5, 5))])
def test_blocks_together_are_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parquet: object, suffix: str, lengths: tuple[int, ...]
) -> None:
    path = tmp_path / f"a.{suffix}"
    rng = np.random.default_rng(0)
    with submission_writer(str(path), 100) as writer:
        for batch, k in enumerate(lengths):
            classes = np.stack([rng.permutation(100)[:k] for _ in range(4)])
            scores = np.sort(rng.random((4, k), np.float32))[:, ::-1]
            writer.add([f"v{batch}{i}" for i in range(4)], classes, scores)
    whole = read_submission(str(path))
    monkeypatch.setattr(submission, "_CHARACTERS_PER_BLOCK", 150)
    monkeypatch.setattr(parquet_predictions, "_ROWS_AT_ONCE", 3)
    blocks = list(read_blocks(str(path)))
    assert max(len(block.ids) for block in blocks) > 1 < len(blocks)
    assert (
        [name for block in blocks for name in block.ids]
        == whole.ids
        == [f"v{b}{i}" for b in range(3) for i in range(4)]
    )
    for field in ("num_pairs", "classes", "scores"):
        np.testing.assert_array_equal(np.concatenate([getattr(b, field) for b in blocks]), getattr(whole, field))


def test_parquet_is_whole_or_not_there(tmp_path: Path, parquet: object) -> None:
    path = tmp_path / "a.parquet"
    path.write_text("before")
    with submission_writer(str(tmp_path / "b.parquet"), 4) as writer:
        writer.add([b"ab", b"c"], CLASSES, SCORES)
        with pytest.raises(UserError, match="Video ab occurs twice"):
            writer.add([b"ab", b"d"], CLASSES, SCORES)
    assert read_submission(str(tmp_path / "b.parquet")).ids == ["ab", "c"]
    (tmp_path / "b.parquet").unlink()
    assert path.read_text() == "before"
    with pytest.raises(UserError, match="has a comma"), submission_writer(str(path), 4) as writer:
        writer.add([b"a,b", b"c"], CLASSES, SCORES)
    with pytest.raises(UserError, match="is NaN or infinite"), submission_writer(str(path), 4) as writer:
        writer.add([b"ab", b"c"], CLASSES, SCORES * np.nan)
    assert [file.name for file in tmp_path.iterdir()] == ["a.parquet"]
    with pytest.raises(UserError, match=r"a\.parquet cannot be read as Parquet"):
        read_submission(str(path))


def test_parquet_of_something_else(tmp_path: Path, parquet: object) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    write_table = parquet.write_table  # type: ignore[attr-defined]
    write_table(pyarrow.table({"id": ["a"], "scores": [[0.5]]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="it has the columns id, scores; expected id, classes, scores"):
        read_submission(str(tmp_path / "a.parquet"))
    write_table(pyarrow.table({"id": ["a"], "classes": [[1, 2]], "scores": [[0.5]]}), tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"b\.parquet, row 1: classes and scores are no lists of numbers of one length"):
        read_submission(str(tmp_path / "b.parquet"))


def test_parquet_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"pip install -r requirements-parquet\.txt$"):
        submission_writer("a.parquet", 4)
