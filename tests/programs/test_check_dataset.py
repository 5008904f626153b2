"""tools.check_dataset: its counts against those of the records' own protocol buffers, and a broken corpus."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import run

from yt8m.data import examination
from yt8m.data.examination import examine_dataset
from yt8m.data.record_writing import frame_record, video_record, write_records
from yt8m.errors import UserError
from yt8m.schema import DataSpec

FRAMES = ("--frame_features", "--feature_names=rgb,audio", "--feature_sizes=3,2", "--num_classes=10", "--max_frames=5")
SPEC = DataSpec(("rgb", "audio"), (3, 2), 10, "frame", max_frames=5)


def record(name: str, labels: list[int] | None = None, length: int = 2, width: int = 3) -> bytes:
    frames = {"rgb": np.zeros((length, width), np.uint8), "audio": np.zeros((length, 2), np.uint8)}
    return frame_record(name, [1] if labels is None else labels, frames)


def without_labels() -> bytes:
    return frame_record("x", None, {"rgb": np.zeros((2, 3), np.uint8), "audio": np.zeros((2, 2), np.uint8)})


@pytest.fixture(name="corpus")
def make_corpus(tmp_path: Path) -> Path:
    """Two sound shards that share ids, and shards with each kind of damage."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    lengths = {"a0": 1, "a1": 7, "a2": 0, "a3": 4}
    records = [record(name, [number, 3], length) for number, (name, length) in enumerate(lengths.items())]
    write_records(folder / "a", [*records, record("a4", [])])
    write_records(folder / "b", [record("b0", [9]), record("a3"), record("a1"), record("b1"), record("a3")], "GZIP")
    write_records(
        folder / "c",
        [record("c0"), record("c1", [10]), without_labels(), record("c3", width=4), record(""), record("c5")],
    )
    whole = Path(write_records(folder / "d", [record("d0"), record("d1"), record("d2")])).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    (folder / "d").write_bytes(flipped)
    (folder / "e").write_bytes(whole[:-5])
    (folder / "f").touch()
    (folder / "g").write_text("VideoId,LabelConfidencePairs\n")
    (folder / "h").write_text("<!DOCTYPE html>\n")
    (folder / "i").write_bytes(record("i0"))
    write_records(folder / "j", [video_record("j0", [1], {"rgb": np.zeros(3)})])
    return folder


def check(pattern: str, *more: str) -> None:
    run("tools.check_dataset", f"--data_pattern={pattern}", "--num_processes=1", *FRAMES, *more)


def test_a_broken_corpus(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "names.csv").write_text("Index,Name\n1,Game\n3,Car\n")
    with pytest.raises(UserError, match="damaged in 11 places, listed above"):
        check(f"{corpus}/*", f"--vocabulary={tmp_path}/names.csv", f"--csv={tmp_path}/report.csv")
    said = capsys.readouterr().out.replace(f"{corpus}/", "").splitlines()
    # a: 5; b: 5; c: c0 and c5; d: d0 and d2; e: d0 and d1.
    assert said[:8] == [
        "10 files, 16 sound records, 1 of them with no label",
        # a: 0, 1, 2, 3 and 3 four times, once twice in one record; b: 9 and 1 four times; c, d, e: 1 twice each
        "18 labels of 5 of 10 classes",
        "features: rgb (3 bytes per frame), audio (2 bytes per frame)",
        "labels per video: 0 to 2, median 1, mean 1.12",
        "frames per video: 0 to 7, median 2, mean 2.25; 1 without any, 1 with more than --max_frames=5",
        "classes: 0 to 9; commonest: 1 Game: 11, 3 Car: 4, 0: 1, 2: 1, 9: 1",
        "ids: 12 different",
        "4 records have the id of an earlier one; the first such ids:",
    ]
    assert said[8:11] == [
        "  a1: a, record 1; b, record 2",
        "  a3: a, record 3; b, record 1; b, record 4",
        "  d0: d, record 0; e, record 0",
    ]
    assert [line[:60] for line in said[11:]] == [
        "c, record 1: 'labels' holds class 10, expected 0 to 9. Does "[:60],
        "c, record 2: it has no feature 'labels', so it can be used f"[:60],
        "c, record 3: 'rgb' holds 4 bytes a frame (frame 0), expected"[:60],
        "c, record 4: it has no id. Expected a string named 'id' or '"[:60],
        "d, record 1: its checksum does not fit what is stored (byte "[:60],
        "e, record 2: the file ends in the middle of this record (byt"[:60],
        "f: it is empty.",
        "g: it is no file of TFRecords: it starts with 'VideoId,Label"[:60],
        "h: it is no file of TFRecords: it starts with '<!DOCTYPE htm"[:60],
        "i: it is a single serialized record, as MediaPipe writes fea"[:60],
        "j, record 0: it holds no features of frames, only rgb (3), a"[:60],
    ]
    with (tmp_path / "report.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == ["Part", "Key", "Name", "Value"]
    table = {(part, key): (name, value) for part, key, name, value in rows}
    assert table["records", "sound"] == ("", "16")
    assert table["videos of class", "1"] == ("Game", "11")
    assert table["videos of class", "4"] == ("", "0")
    assert table["videos with frames", "7"] == ("", "1")
    assert table["records of shard", f"{corpus}/b"] == ("", "5")
    assert table["duplicate id", "a3"][1] == "3"
    assert sum(part == "damage" for part, *_ in rows) == 11


def test_sound_shards_without_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_records(tmp_path / "x", [without_labels()])
    check(file, "--nolabels_required")
    assert capsys.readouterr().out.splitlines() == [
        "1 files, 1 sound records, 1 of them with no label",
        "0 labels of 0 of 10 classes",
        "features: rgb (3 bytes per frame), audio (2 bytes per frame)",
        "labels per video: 0 to 0, median 0, mean 0.00",
        "frames per video: 2 to 2, median 2, mean 2.00; 0 without any, 0 with more than --max_frames=5",
        "ids: 1 different",
    ]
    with pytest.raises(UserError, match=r"--csv=.* which is read"):
        check(file, f"--csv={file}")


def test_nothing_that_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(UserError, match=r"^None of the 1 files can be read\. .*x: it is empty\.$"):
        check(f"{tmp_path}/x")


@given(st.lists(st.lists(st.tuples(st.integers(0, 6), st.sets(st.integers(0, 9))), min_size=1, max_size=6), max_size=4))
@settings(max_examples=10, deadline=None)
def test_counts_are_those_of_the_records(
    tmp_path_factory: pytest.TempPathFactory, shards: list[list[tuple[int, set[int]]]]
) -> None:
    shards = [[(0, {1})], *shards]
    folder = tmp_path_factory.mktemp("x")
    files = [
        write_records(folder / str(i), [record(f"v{name}", sorted(labels), name) for name, labels in shard])
        for i, shard in enumerate(shards)
    ]
    found = examine_dataset(files, SPEC, True, 1)
    ids, contexts = [], []
    for serialized in tf.data.TFRecordDataset(files):
        contexts.append(tf.train.SequenceExample.FromString(serialized.numpy()).context.feature)
        ids.append(contexts[-1]["id"].bytes_list.value[0].decode())
    labels = [list(context["labels"].int64_list.value) for context in contexts]
    assert found.class_counts.tolist() == [sum(c in row for row in labels) for c in range(10)]
    assert found.labels_per_video == Counter(map(len, labels))
    assert found.frames_per_video == Counter(int(name[1:]) for name in ids)
    assert found.num_repeated == len(ids) - len(set(ids))
    assert {it.id: len(it.places) for it in found.duplicates} == {k: n for k, n in Counter(ids).items() if n > 1}
    assert [shard[2] for shard in found.shards] == list(map(len, shards))


@pytest.mark.slow
def test_two_processes_find_what_one_does(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "_BYTES_PER_PROCESS", 1)
    files = sorted(map(str, corpus.iterdir()))
    done: list[None] = []
    one, two = (examine_dataset(files, SPEC, True, n, lambda: done.append(None)) for n in (1, 2))
    assert len(done) == 2 * len(files)
    assert one.class_counts.tolist() == two.class_counts.tolist()
    assert (one.shards, one.damages, one.duplicates) == (two.shards, two.damages, two.duplicates)
