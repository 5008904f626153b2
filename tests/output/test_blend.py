"""Blending submissions: the same rows as a loop over videos, files in any order, and errors that name videos."""

import random
import zlib
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from programs import run
from scipy.optimize import minimize_scalar, nnls
from scipy.special import expit, logit

from yt8m.data.video_labels import LABELS_HEADER, read_labels
from yt8m.errors import UserError
from yt8m.metrics import metrics_of_matrix
from yt8m.output import blend as blending
from yt8m.output import submission
from yt8m.output.blend import AlignedSubmissions, LeastSquares, nonnegative_least_squares, tempered
from yt8m.output.submission import HEADER

Rows = dict[str, list[tuple[int, float]]]


def write(path: Path, rows: Rows) -> str:
    texts = (f"{name},{' '.join(f'{c} {p:g}' for c, p in pairs)}\n" for name, pairs in rows.items())
    path.write_text(HEADER + "".join(texts))
    return str(path)


def read(path: Path) -> Rows:
    lines = path.read_text().splitlines()[1:]
    fields = ((line.split(",")[0], line.split(",")[1].split()) for line in lines)
    return {name: list(zip(map(int, words[::2]), map(float, words[1::2]), strict=True)) for name, words in fields}


def made_up_rows(seed: int, num_videos: int = 50, num_classes: int = 30, longest: int = 12) -> Rows:
    source = random.Random(seed)

    def pairs() -> list[tuple[int, float]]:
        # Two digits: many scores tie, within a video and between members.
        classes = source.sample(range(num_classes), source.randint(0, longest))
        return sorted(((c, round(source.random(), 2)) for c in classes), key=lambda pair: -pair[1])

    return {f"v{i:03d}": pairs() for i in range(num_videos)}


def blend_by_loop(members: list[Rows], weights: list[float], top_k: int) -> str:
    """A video at a time, a pair at a time."""
    text = HEADER
    for name in members[0]:
        sums: dict[int, float] = defaultdict(float)
        for weight, member in zip(weights, members, strict=True):
            for c, p in member[name]:
                sums[c] += float(np.float32(p)) * weight
        best = sorted(sums.items(), key=lambda pair: (-pair[1], pair[0]))[:top_k]
        text += f"{name},{' '.join(f'{c} {p:g}' for c, p in best)}\n"
    return text


def blend(tmp_path: Path, *arguments: str, members: list[Rows]) -> str:
    paths = [write(tmp_path / f"m{number}.csv", rows) for number, rows in enumerate(members)]
    run("tools.blend", f"--input_files={','.join(paths)}", f"--output_file={tmp_path}/blend.csv", *arguments)
    return (tmp_path / "blend.csv").read_text()


# ---- the blend


@pytest.mark.parametrize("top_k", [1, 5, 20])
def test_the_same_bytes_as_a_loop_over_videos(tmp_path: Path, top_k: int) -> None:
    members = [made_up_rows(seed) for seed in range(4)]
    weights = [0.5, 0.25, 0.125, 0.125]  # exact in binary, so that the order of sums does not matter
    text = blend(tmp_path, "--weights=4,2,1,1", f"--top_k={top_k}", members=members)
    assert text == blend_by_loop(members, weights, top_k)


def test_a_hand_worked_case(tmp_path: Path) -> None:
    # Class 1: (0.75 + 0.25) / 2; class 2: (0 + 0.5) / 2; class 7 and 3 tie at 0.125, of which 3 is kept.
    members: list[Rows] = [{"a": [(1, 0.75), (7, 0.25)]}, {"a": [(2, 0.5), (1, 0.25), (3, 0.25)]}]
    assert blend(tmp_path, "--top_k=3", members=members) == HEADER + "a,1 0.5 2 0.25 3 0.125\n"


def test_one_file_blends_to_itself(tmp_path: Path) -> None:
    members = [made_up_rows(0)]
    assert blend(tmp_path, members=members) == blend_by_loop(members, [1.0], 20)


def test_files_in_other_orders_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = [made_up_rows(seed) for seed in range(3)]
    expected = blend(tmp_path, members=members)
    monkeypatch.setattr(submission, "_CHARACTERS_PER_BLOCK", 1000)
    monkeypatch.setattr(blending, "_VIDEOS_PER_TEMPORARY_FILE", 16)
    assert blend(tmp_path, members=members) == expected
    shuffled = [dict(random.Random(seed).sample(list(rows.items()), len(rows))) for seed, rows in enumerate(members)]
    text = blend(tmp_path, members=[members[0], *shuffled[1:]])
    assert text == expected


def test_a_block_has_fewer_videos_the_more_and_the_longer_the_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sizes(num_files: int, num_pairs: int) -> list[int]:
        rows = {f"v{i}": [(c, 0.5) for c in range(num_pairs)] for i in range(9)}
        paths = [write(tmp_path / f"{m}.csv", rows) for m in range(num_files)]
        return [len(table.ids) for table in AlignedSubmissions(paths)]

    monkeypatch.setattr(submission, "_CHARACTERS_PER_BLOCK", 4 * len("v0,0 0.5 1 0.5"))
    assert sizes(1, 2) == [4, 4, 1]
    assert sizes(2, 2) == [2, 2, 2, 2, 1]
    assert sizes(4, 9) == [1] * 9


def test_a_file_without_videos_blends_to_one_without(tmp_path: Path) -> None:
    assert blend(tmp_path, members=[{}, {}]) == HEADER


# ---- errors that name videos


def test_missing_and_other_videos_are_named(tmp_path: Path) -> None:
    rows = made_up_rows(0, num_videos=8)
    fewer = {name: pairs for name, pairs in rows.items() if name not in ("v001", "v003", "v004", "v006")}
    with pytest.raises(UserError, match=r"m1.csv lacks 4 videos \(v001, v003, v004, \.\.\.\) of .*m0.csv"):
        blend(tmp_path, members=[rows, fewer])
    with pytest.raises(UserError, match=r"m1.csv has 4 videos \(v001, v003, v004, \.\.\.\) that .*m0.csv lacks"):
        blend(tmp_path, members=[fewer, rows])
    other = {("x" if name == "v002" else name): pairs for name, pairs in rows.items()}
    with pytest.raises(UserError, match=r"lacks 1 video \(v002\) of .* and has 1 video \(x\) that .* lacks"):
        blend(tmp_path, members=[rows, other])
    assert not list(tmp_path.glob("blend*"))


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("again", [0, 4])
def test_a_video_that_occurs_twice_is_named(tmp_path: Path, number: int, again: int) -> None:
    paths = [write(tmp_path / f"m{m}.csv", made_up_rows(0, num_videos=5)) for m in range(2)]
    lines = Path(paths[number]).read_text().splitlines(keepends=True)
    Path(paths[number]).write_text("".join([*lines, lines[1 + again]]))
    with pytest.raises(UserError, match=rf"m{number}.csv, line 7: video v00{again} has a row already"):
        run("tools.blend", f"--input_files={','.join(paths)}", f"--output_file={tmp_path}/blend.csv")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,1 nan", "line 2: video a has the score nan; expected a finite number"),
        ("a,1 -inf 2 inf", "has the score -inf"),
        ("a,1 1e39", r"has the score 1e\+39"),
        ("a,1 0.5 1 0.25", "video a has class 1 twice"),
        ("a,-1 0.5", "has class -1; expected an index"),
        ("a,99999999999 0.5", "has class 99999999999; expected an index"),
        ("a,1", "line 2: found 'a,1', expected <id>,<class> <score>"),
    ],
)
def test_hostile_rows(tmp_path: Path, row: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(f"{HEADER}{row}\n")
    with pytest.raises(UserError, match=message):
        run("tools.blend", f"--input_files={tmp_path}/a.csv", f"--output_file={tmp_path}/blend.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output_file=OUT"], "--input_files is missing"),
        (["--input_files=IN"], "--output_file is missing"),
        (["--input_files=IN,IN", "--output_file=OUT"], "names .* twice"),
        (["--input_files=IN", "--output_file=IN"], "--output_file=.* which is read"),
        (["--input_files=IN", "--output_file=OUT", "--weights=1,2"], "--weights=1,2: expected 1 number"),
        (["--input_files=IN", "--output_file=OUT", "--weights=-1"], "none below 0"),
        (["--input_files=IN", "--output_file=OUT", "--weights=0"], "not all 0"),
        (["--input_files=IN", "--output_file=OUT", "--weights=x"], "expected 1 number"),
        (["--input_files=IN", "--output_file=OUT", "--temperatures=1,2"], "--temperatures=1,2: expected 1 number"),
        (["--input_files=IN", "--output_file=OUT", "--temperatures=0"], "all above 0"),
        (["--input_files=IN", "--output_file=OUT", "--temperatures=inf"], "all above 0"),
        (["--input_files=IN", "--output_file=OUT", "--temperatures=x"], "expected 1 number"),
        (["--input_files=IN", "--output_file=OUT", "--eval_data_pattern=x", "--labels_file=y"], "Give one of the two"),
        (["--input_files=IN", "--output_file=OUT", "--labels_file=LABELS"], "No video of .* is in .*labels.csv"),
    ],
)
def test_wrong_command_lines(tmp_path: Path, arguments: list[str], message: str) -> None:
    write(tmp_path / "a.csv", {"a": [(1, 0.5)]})
    (tmp_path / "labels.csv").write_text(LABELS_HEADER + "b,1\n")
    places = {"IN": "a.csv", "OUT": "blend.csv", "LABELS": "labels.csv"}
    for place, name in places.items():
        arguments = [argument.replace(place, str(tmp_path / name)) for argument in arguments]
    with pytest.raises(UserError, match=message):
        run("tools.blend", *arguments)


# ---- learned weights


@given(st.integers(0, 10_000), st.integers(1, 6))
def test_weights_are_those_of_scipy(seed: int, num_members: int) -> None:
    generator = np.random.default_rng(seed)
    matrix = generator.random((40, num_members))
    target = matrix @ generator.normal(size=num_members) + generator.normal(size=40)
    found = nonnegative_least_squares(matrix.T @ matrix, matrix.T @ target)
    np.testing.assert_allclose(found, nnls(matrix, target)[0], rtol=1e-8, atol=1e-8)


def test_of_equal_members_one_has_the_weight_of_all() -> None:
    matrix = np.random.default_rng(0).random((40, 2))[:, [0, 1, 1]]
    found = nonnegative_least_squares(matrix.T @ matrix, matrix.T @ matrix @ [0.5, 0.3, 0.3])
    np.testing.assert_allclose(sorted(found), [0.0, 0.5, 0.6], atol=1e-9)


def numbers(line: str, flag: str) -> np.ndarray:
    return np.array([float(word) for word in line.removeprefix(f"--{flag}=").split(",")])


def weights_by_scipy(matrix: np.ndarray, target: np.ndarray, pull: float) -> np.ndarray:
    """The pull towards equal weights as rows of the problem: sqrt(q s) w[m] is to be sqrt(q s) / M."""
    count = matrix.shape[1]
    root = np.sqrt(pull * np.mean(np.sum(matrix**2, axis=0)))
    weights = nnls(np.vstack([matrix, root * np.eye(count)]), np.append(target, np.full(count, root / count)))[0]
    return weights / weights.sum()


def chosen_pull(cube: np.ndarray, labels: np.ndarray, top_k: int) -> float:
    """The pull of the best GAP, in a loop over the parts of a cross-validation of `cube` `(N, C, M)`."""
    parts = np.array([zlib.crc32(f"v{i}".encode()) % 4 for i in range(len(cube))])
    gaps = {}
    for pull in (1.0, 0.3, 0.1, 0.03, 0.01, 0.0):
        blended = np.zeros(labels.shape)
        for part in range(4):
            others = cube[parts != part].reshape(-1, cube.shape[2])
            weights = weights_by_scipy(others, labels[parts != part].ravel().astype(float), pull)
            blended[parts == part] = cube[parts == part] @ weights
        gaps[pull] = metrics_of_matrix(blended.astype(np.float32), labels, top_k).result()["gap"]
    return max(gaps, key=lambda pull: gaps[pull])


@pytest.mark.parametrize("pull", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("num_members", [1, 2, 6])
def test_learned_weights_are_pulled_towards_equal_ones(num_members: int, pull: float) -> None:
    generator = np.random.default_rng(num_members)
    matrix, hits = generator.random((60, num_members)), generator.random(60) < 0.4
    parts = [LeastSquares(num_members) for _ in range(2)]
    for equations, part in zip(parts, (slice(0, 25), slice(25, 60)), strict=True):
        equations.add(matrix[part], hits[part])
    found = sum(parts, LeastSquares(num_members)).weights(pull)
    np.testing.assert_allclose(found, weights_by_scipy(matrix, hits.astype(float), pull), rtol=1e-6, atol=1e-9)


def test_members_that_are_equal_have_equal_weights() -> None:
    matrix, equations = np.random.default_rng(0).random((40, 2))[:, [0, 1, 1]], LeastSquares(3)
    equations.add(matrix, matrix[:, 0] > 0.5)
    found = equations.weights(0.1)
    np.testing.assert_allclose(found[1], found[2], atol=1e-12)


def test_the_pull_is_the_best_of_a_cross_validation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of members that are alike it is strong, where one is far better it is weak."""
    chosen = []
    for seed, qualities in ((0, (0.3, 0.3, 0.3, 0.3)), (1, (0.6, 0.1, 0.02, 0.0))):
        generator = np.random.default_rng(seed)
        labels = generator.random((60, 8)) < 0.2
        dense = [q * labels + (1 - q) * generator.random((60, 8)) for q in qualities]
        dense = [np.round(member, 3).astype(np.float32).astype(float) for member in dense]
        rows = [{f"v{i}": list(enumerate(map(float, row))) for i, row in enumerate(member)} for member in dense]
        lines = (f"v{i},{' '.join(map(str, np.flatnonzero(row)))}\n" for i, row in enumerate(labels))
        (tmp_path / "labels.csv").write_text(LABELS_HEADER + "".join(lines))
        line = [f"--labels_file={tmp_path}/labels.csv", "--num_classes=8", "--temperatures=1,1,1,1", "--top_k=5"]
        blend(tmp_path, *line, members=rows)
        printed = numbers(capsys.readouterr().out.splitlines()[0], "weights")

        cube = np.stack(dense, axis=-1)
        chosen.append(chosen_pull(cube, labels, 5))
        expected = weights_by_scipy(cube.reshape(-1, 4), labels.ravel().astype(float), chosen[-1])
        np.testing.assert_allclose(printed, expected, rtol=2e-5, atol=1e-5)
    assert chosen[0] > chosen[1]


@given(st.floats(0.01, 100.0), st.floats(1e-6, 1 - 1e-6))
def test_a_temperature_divides_the_logit(temperature: float, p: float) -> None:
    found = tempered(np.array([[p, p, 0.0, 1.0]]), np.array([temperature, 1.0, temperature, temperature]))
    np.testing.assert_allclose(found, [[expit(logit(p) / temperature), p, 0.0, 1.0]], rtol=1e-9, atol=1e-300)


def temperature_by_scipy(scores: np.ndarray, labels: np.ndarray, top_k: int) -> float:
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    z = logit(np.clip(np.take_along_axis(scores, order, 1), 1e-7, 1 - 1e-7))
    y = np.take_along_axis(labels, order, 1)
    inverse = minimize_scalar(
        lambda b: np.sum(np.logaddexp(0, b * z) - y * b * z),
        bounds=(0.01, 100),
        method="bounded",
        options={"xatol": 1e-9},
    )
    return 1 / inverse.x


def test_temperatures_are_learned_from_the_classes_that_are_listed_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Labels are drawn by p; the logits of one member are 3 times as far from 0, those of the other half as far."""
    generator = np.random.default_rng(1)
    logits = generator.normal(-1, 1.5, (300, 12))
    labels = generator.random(logits.shape) < expit(logits)
    # Six digits as they are written; the last four classes are never listed.
    members = [np.round(expit(k * logits[:, :8]), 6).astype(np.float32).astype(float) for k in (3.0, 0.5)]
    rows = [
        {f"v{i}": [(c, float(p)) for c, p in enumerate(row) if p > 0] for i, row in enumerate(member)}
        for member in members
    ]
    lines = (f"v{i},{' '.join(map(str, np.flatnonzero(row)))}\n" for i, row in enumerate(labels))
    (tmp_path / "labels.csv").write_text(LABELS_HEADER + "".join(lines))
    line = [f"--labels_file={tmp_path}/labels.csv", "--num_classes=12", "--top_k=5"]
    text = blend(tmp_path, *line, members=rows)
    weights, temperatures, *_ = capsys.readouterr().out.splitlines()

    expected = [temperature_by_scipy(member, labels, top_k=5) for member in members]
    calibrated = [
        np.where(p > 0, expit(logit(np.clip(p, 1e-300, 1 - 1e-16)) / temperature), 0)
        for p, temperature in zip(members, expected, strict=True)
    ]
    np.testing.assert_allclose(numbers(temperatures, "temperatures"), expected, rtol=1e-4)
    assert 2 < expected[0] < 4
    assert 0.3 < expected[1] < 0.8
    matrix = np.stack([member.ravel() for member in calibrated], 1)
    is_listed = (members[0] > 0).ravel() | (members[1] > 0).ravel()
    cube = np.pad(np.stack(calibrated, axis=-1), ((0, 0), (0, 4), (0, 0)))
    pull = chosen_pull(cube, labels, 5)
    of_scipy = weights_by_scipy(matrix[is_listed], labels[:, :8].ravel()[is_listed].astype(float), pull)
    np.testing.assert_allclose(numbers(weights, "weights"), of_scipy, rtol=1e-3)

    # What is printed can be typed again: the same blend without labels.
    again = blend(tmp_path, weights, temperatures, "--top_k=5", members=rows)
    classes = [[pair[0] for pair in pairs] for pairs in read(tmp_path / "blend.csv").values()]
    assert [line.split(",")[0] for line in text.splitlines()] == [line.split(",")[0] for line in again.splitlines()]
    assert np.mean([np.argmax(row) in best[:1] for row, best in zip(logits[:, :8], classes, strict=True)]) == 1.0


def test_scores_that_are_no_probabilities_have_no_temperature(tmp_path: Path) -> None:
    members: list[Rows] = [{"a": [(1, 3.5), (2, -1.0)]}, {"a": [(1, 0.5)]}]
    with pytest.raises(UserError, match="A score is -1, and its file has a temperature"):
        blend(tmp_path, "--temperatures=2,1", members=members)
    assert blend(tmp_path, "--temperatures=1,2", members=members) == HEADER + "a,1 2 2 -0.5\n"
    (tmp_path / "labels.csv").write_text(LABELS_HEADER + "a,1\n")
    assert blend(tmp_path, f"--labels_file={tmp_path}/labels.csv", members=members).startswith(HEADER + "a,1 ")


def test_learned_weights_and_printed_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One member knows the labels, another one is noise; weights and GAP are those of dense matrices."""
    generator = np.random.default_rng(0)
    labels = generator.random((40, 10)) < 0.2
    scores = [0.6 * labels + 0.4 * generator.random((40, 10)), generator.random((40, 10))]
    dense = [np.round(member, 3).astype(np.float32).astype(float) for member in scores]
    rows = [{f"v{i}": list(enumerate(map(float, row))) for i, row in enumerate(member)} for member in dense]
    lines = (f"v{i},{' '.join(map(str, np.flatnonzero(row)))}\n" for i, row in enumerate(labels))
    (tmp_path / "labels.csv").write_text(LABELS_HEADER + "".join(lines))
    line = [f"--labels_file={tmp_path}/labels.csv", "--num_classes=10", "--temperatures=1,1"]
    blend(tmp_path, *line, members=rows)
    first, *lines_of_scores = capsys.readouterr().out.splitlines()
    cube = np.stack(dense, axis=-1)
    expected = weights_by_scipy(cube.reshape(-1, 2), labels.ravel().astype(float), chosen_pull(cube, labels, 20))
    np.testing.assert_allclose(numbers(first, "weights"), expected, rtol=2e-5)
    combinations = [*dense, (dense[0] + dense[1]) / 2, expected[0] * dense[0] + expected[1] * dense[1]]
    gaps = [metrics_of_matrix(np.asarray(p, np.float32), labels).result()["gap"] for p in combinations]
    assert [line.split("GAP: ")[1].split(" ")[0] for line in lines_of_scores] == [f"{gap:.6f}" for gap in gaps]
    assert gaps[3] > gaps[1]


def test_weights_are_learned_from_those_videos_that_have_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # On the labelled video only the first member is right; on the other one, whose label nobody gives, the second.
    members: list[Rows] = [{"a": [(1, 1.0)], "b": [(2, 1.0)]}, {"a": [(2, 1.0)], "b": [(1, 1.0)]}]
    (tmp_path / "labels.csv").write_text(LABELS_HEADER + "a,1\n")
    text = blend(tmp_path, f"--labels_file={tmp_path}/labels.csv", members=members)
    # One video tells nothing of others, so the strongest pull, q = 1, is taken. By hand: (1 + q) w = (1, 0) + q / 2.
    assert capsys.readouterr().out.startswith("--weights=0.75,0.25\n")
    assert text == HEADER + "a,1 0.75 2 0.25\nb,2 0.75 1 0.25\n"


def test_no_weights_can_be_learned_where_no_label_is_listed(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(LABELS_HEADER + "a,3\n")
    with pytest.raises(UserError, match="No weights can be learned"):
        blend(tmp_path, f"--labels_file={tmp_path}/labels.csv", members=[{"a": [(1, 1.0)]}])


# ---- labels


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,1\n", "line 1: found 'a,1', expected the header VideoId,Labels"),
        (LABELS_HEADER + "a\n", "line 2: found 'a', expected <id>,<class> <class>"),
        (LABELS_HEADER + "a,x\n", "line 2"),
        (LABELS_HEADER + "a,-1\n", "line 2"),
        (LABELS_HEADER + "a,5\n", "video a has the label 5; expected 0 to 4"),
        (LABELS_HEADER + "a,1\na,1\n", "video a occurs twice"),
    ],
)
def test_damaged_labels(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_labels(str(tmp_path / "labels.csv"), 5)


def test_labels_of_some_videos(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(LABELS_HEADER + "a,3 1\nb,\nc,2 2\n")
    num_labels, classes = read_labels(str(tmp_path / "labels.csv"), 5).of(["c", "b", "a"])
    assert num_labels.tolist() == [1, 0, 2]
    assert classes.tolist() == [2, 1, 3]
