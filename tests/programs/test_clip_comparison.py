"""tools.clip_comparison: poolings over time compared on clips, one sequence of them left out."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from made_videos import write_video
from programs import run

from tools import clip_comparison
from tools.clip_features import list_clips
from tools.left_out import classify_left_out, paired_test, share_interval
from yt8m.errors import UserError
from yt8m.layers.backbones import networks

TOOL = "tools.clip_comparison"
SIZE = 32
ROWS = {"average", "maximum", "rank_pool", "rank_pool_reverse", "rank_pool_both", "approximate", "shuffled"}


@pytest.fixture(scope="module", name="weights")
def make_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Weights of a small network, which nobody trained."""
    path = str(tmp_path_factory.mktemp("weights") / "small.weights.h5")
    keras.utils.set_random_seed(0)
    networks()["SmallCnn"].build(SIZE, 1.0).save_weights(path)
    return path


@pytest.fixture(scope="module", name="clips")
def make_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of three sequences, whose frames have another shape in each. Class 1 is class 0 backwards."""
    folder = tmp_path_factory.mktemp("clips")
    for sequence, (height, width) in enumerate([(24, 32), (32, 24), (48, 64)], start=1):
        frames = np.zeros((32, height, width, 3), np.uint8)
        frames[:] = (7 * np.arange(32, dtype=np.uint8))[:, np.newaxis, np.newaxis, np.newaxis]
        frames[:, : 8 * sequence, :8] = np.random.default_rng(sequence).integers(0, 256, 3)
        write_video(folder / f"{sequence}_{sequence}_0.avi", frames)
        write_video(folder / f"1{sequence}_{sequence}_1.avi", frames[::-1])
    return folder


def compare(clips: Path, weights: str, output: Path, *more: str) -> dict:
    given = (f"--clips={clips}", f"--output={output}", "--backbone=SmallCnn", f"--backbone_weights={weights}")
    run(TOOL, *given, f"--size={SIZE}", *more)
    return json.loads(output.read_text())


def test_where_the_order_alone_decides(
    clips: Path, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = f"--features={tmp_path}/kept.npz"
    report = compare(clips, weights, tmp_path / "a.json", kept)
    assert set(report) >= ROWS
    assert (report["clips"], report["classes"], report["sequences"]) == (6, 2, 3)
    # A clip and the same backwards have one average and one maximum: what they are said to be is left to rounding.
    assert max(report["average"], report["maximum"]) < 0.9
    assert (report["rank_pool"], report["rank_pool_both"], report["approximate"]) == (1.0, 1.0, 1.0)
    assert report["shuffled"] < 0.9
    # Rank pooling alone knows k clips, which by the toss of a coin happens to one of the two with 2 / 2^k.
    k = round(6 * (1 - report["average"]))
    assert report["paired_tests"]["rank_pool, average"] == {"only_first": k, "only_second": 0, "p": 2 / 2**k}
    assert report["predictions"]["2_2_0.avi"]["rank_pool"] == 0
    printed = capsys.readouterr().out
    assert "| rank_pool | 1.000 | 0.541 to 1.000 |" in printed
    assert f"{k} clips are recognised by rank_pool alone, 0 by average alone: p = {2 / 2**k:.3g}" in printed

    # The same again, without a network.
    monkeypatch.setattr(clip_comparison, "FrameNetwork", None)
    again = compare(clips, weights, tmp_path / "b.json", kept)
    del report["seconds"], again["seconds"]
    assert again == report
    with pytest.raises(UserError, match=r"^--features=.*kept\.npz: it was kept of other clips, weights or flags"):
        compare(clips, weights, tmp_path / "b.json", kept, "--size=16")


def problem(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Descriptors that tell three classes apart and others that do not, as kernels, with labels and sequences."""
    rng = np.random.default_rng(seed)
    labels, sequences = np.tile(np.arange(3), 5), np.repeat(np.arange(5), 3)
    good = np.eye(3)[labels] + 0.3 * rng.standard_normal((2, 15, 3))
    bad = rng.standard_normal((2, 15, 3))
    return (*(np.einsum("vnd,wmd->vnwm", x, x) for x in (good, bad)), labels, sequences)


def test_the_better_descriptor_is_chosen() -> None:
    good, bad, labels, sequences = problem(0)
    found = classify_left_out({"bad": bad, "good": good}, (1.0, 10.0), labels, sequences)
    assert found.accuracy(labels) >= 0.9
    assert {setting.descriptor for setting in found.chosen.values()} == {"good"}


@pytest.mark.parametrize("left_out", range(5))
def test_nothing_is_chosen_or_trained_by_the_sequence_that_is_left_out(left_out: int) -> None:
    good, bad, labels, sequences = problem(1)
    kernels = {"a": good + bad, "b": bad, "c": good}
    before = classify_left_out(kernels, (0.1, 1.0), labels, sequences)
    is_left_out = sequences == left_out
    after = classify_left_out(kernels, (0.1, 1.0), np.where(is_left_out, 2 - labels, labels), sequences)
    assert after.chosen[left_out] == before.chosen[left_out]
    np.testing.assert_array_equal(after.predictions[is_left_out], before.predictions[is_left_out])


def test_classes_of_one_sequence_and_two_sequences() -> None:
    """Class 2 is of the sequence 1 alone: without it there is one class to predict, and no choice to make."""
    kernel = np.eye(4)[np.newaxis, :, np.newaxis]
    labels, sequences = np.array([0, 0, 0, 2]), np.array([0, 0, 1, 1])
    found = classify_left_out({"a": kernel, "b": kernel}, (1.0,), labels, sequences)
    assert found.predictions[2:].tolist() == [0, 0]
    assert {setting.descriptor for setting in found.chosen.values()} == {"a"}


def test_tests_by_hand() -> None:
    """One knows five that the other does not, and misses one: 2 (1 + 6) / 2^6."""
    first = np.array([1, 1, 1, 1, 1, 0, 1, 0], bool)
    second = np.array([0, 0, 0, 0, 0, 1, 1, 0], bool)
    assert paired_test(first, second) == {"only_first": 5, "only_second": 1, "p": pytest.approx(14 / 64)}
    assert paired_test(first, first)["p"] == 1.0
    # None of ten: (1 - p)^10 = 0.025.
    assert share_interval(0, 10) == (0.0, pytest.approx(1 - 0.025**0.1, abs=1e-4))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["1_1_0.avi", "notes.txt"], r"'notes\.txt' is not named N_SEQ_CLASS\.avi, as 7_2_5\.avi is"),
        (["1_1_0.avi", "1_1.avi"], r"'1_1\.avi' is not named"),
        (["1_1_0.avi", "2_1_1.avi"], r"2 clips of 1 sequences; expected at least 2 sequences"),
        (["1_1_0.avi", "2_2_0.avi"], r"2 clips of 1 classes; expected at least 2 classes"),
        ([".hidden"], r"0 clips of 0 sequences"),
    ],
)
def test_folders_that_cannot_be_compared(names: list[str], message: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=f"^--clips=.*: {message}"):
        list_clips(str(tmp_path))


def test_a_clip_that_cannot_be_read(weights: str, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    for name in ("1_1_0.avi", "2_2_1.avi"):
        (tmp_path / "clips" / name).touch()
    with pytest.raises(UserError, match=r"1_1_0\.avi: it is empty\. Repair it, or move it elsewhere\."):
        compare(tmp_path / "clips", weights, tmp_path / "a.json")
    assert [path.name for path in tmp_path.iterdir()] == ["clips"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--clips="], r"^--clips is missing"),
        (["--clips=gone"], r"^--clips=gone: there is no such folder"),
        (["--output="], r"^--output is missing"),
        (["--size=0"], r"^--size=0: expected a whole number"),
        (["--backbone_weights="], r"^--backbone_weights is missing: give the file of the weights of SmallCnn"),
        (["--backbone=SmallCmn"], r"^--backbone=SmallCmn: there is no such choice"),
    ],
)
def test_wrong_flags(clips: Path, weights: str, tmp_path: Path, more: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compare(clips, weights, tmp_path / "a.json", *more)
    assert not list(tmp_path.iterdir())
