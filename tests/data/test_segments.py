"""Segment MAP: against its definition, by hand, and as people run the scorer of the 2019 challenge."""

import shlex
from pathlib import Path
from unittest.mock import Mock

import pytest
import tensorflow as tf
from absl import flags
from hypothesis import given, settings
from hypothesis import strategies as st

from yt8m.data.ratings import RATINGS_HEADER, SegmentRatings, format_ratings, read_ratings
from yt8m.data.record_writing import Rating, frame_record, video_record, write_records
from yt8m.data.records import parse_ratings
from yt8m.data.synthetic import write_frame_shards
from yt8m.errors import UserError
from yt8m.metrics import SegmentMeanAveragePrecision
from yt8m.output.submission import SEGMENT_HEADER, read_rankings
from yt8m.segments import segment_name

import readers
import segment_eval_inference
from oracles import metrics as oracles

Submission = list[tuple[int, list[str]]]
Rated = list[tuple[str, int, float]]  # segment, class, score
Problem = tuple[Rated, Submission, int]

# Class 3: raters saw it in a:0, b:0 and c:5, and not in a:5. Ranked are x:0, which nobody rated, then a:0, a:5, b:0.
# Without x:0 the positives a:0 and b:0 have ranks 1 and 3; c:5 is missing: AP = (1/1 + 2/3) / 3 = 5/9.
# Class 7: one positive, no ranking: AP = 0.   Class 8: no positive: not in the mean.   Class 9: nobody rated it.
# MAP = (5/9 + 0) / 2 = 5/18.  Of 2 segments x:0 and a:0 count: AP of class 3 = (1/1) / 3, MAP = 1/6.
VIDEOS: dict[str, list[Rating]] = {
    "a": [(0, 3, 1.0), (5, 3, 0.0), (5, 7, 1.0)],
    "b": [(0, 3, 1.0), (0, 8, 0.0)],
    "c": [(5, 3, 1.0)],
}
RATINGS: SegmentRatings = {
    3: {"a:0": True, "a:5": False, "b:0": True, "c:5": True},
    7: {"a:5": True},
    8: {"b:0": False},
}
SUBMISSION = SEGMENT_HEADER + "3,x:0 a:0 a:5 b:0\n8,b:0\n9,a:0 b:0\n"
CACHE = RATINGS_HEADER + "a:0,3,1\na:5,3,0\nb:0,3,1\nc:5,3,1\na:5,7,1\nb:0,8,0\n# 6 rated pairs\n"


def map_of(ratings: SegmentRatings, submission: Submission, top_n: int) -> float:
    metric = SegmentMeanAveragePrecision(ratings, top_n)
    for class_index, ranking in submission:
        metric.add(class_index, ranking)
    return metric.result()


def shard(path: Path, videos: dict[str, list[Rating]]) -> str:
    """Writes a shard of the videos with their ratings."""
    return write_records(path, [frame_record(name, [1], {}, ratings=ratings) for name, ratings in videos.items()])


def score(*arguments: str) -> float:
    """Runs the program in this process."""
    values = flags.FlagValues()
    segment_eval_inference.define_flags(values)
    values(["segment_eval_inference.py", *arguments])
    return segment_eval_inference.evaluate(values)


def refusal(*arguments: str) -> str:
    """What the program says when it ends with an error."""
    with pytest.raises(UserError) as caught:
        score(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder laid out as in the starter's example: DATA/3/frame/validate and OUT."""
    data, out = tmp_path / "DATA/3/frame/validate", tmp_path / "OUT"
    data.mkdir(parents=True)
    out.mkdir()
    shard(data / "validate0000.tfrecord", {name: VIDEOS[name] for name in ("a", "b")})
    shard(data / "validate0001.tfrecord", {"c": VIDEOS["c"]})
    (out / "kaggle_solution_validation.csv").write_text(SUBMISSION)
    return tmp_path


# ---- the metric


@pytest.mark.parametrize(("top_n", "expected"), [(0, 5 / 18), (4, 5 / 18), (100_000, 5 / 18), (2, 1 / 6), (1, 0.0)])
def test_hand_worked_map(top_n: int, expected: float) -> None:
    metric = SegmentMeanAveragePrecision(RATINGS, top_n)
    metric.add(3, ["x:0", "a:0", "a:5", "b:0"])
    metric.add(8, ["b:0"])
    metric.add(9, ["a:0", "b:0"])
    assert metric.result() == pytest.approx(expected)
    assert metric.per_class_ap() == pytest.approx({3: expected * 2, 7: 0.0})
    assert metric.num_classes == 2
    assert metric.num_ranked_pairs == {1: 1, 2: 2}.get(top_n, 4)


def test_map_of_no_ratings_and_of_no_ranking_is_0() -> None:
    assert map_of({}, [(3, ["a:0"])], 0) == 0.0
    assert map_of({3: {"a:0": False}}, [(3, ["a:0"])], 0) == 0.0
    assert map_of(RATINGS, [], 0) == 0.0


def test_a_negative_top_n_is_refused() -> None:
    with pytest.raises(UserError, match=r"^top_n=-1: expected"):
        SegmentMeanAveragePrecision(RATINGS, -1)


SEGMENTS = [f"{video}:{start}" for video in "ab" for start in (0, 5, 10)]


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Ratings, some of them of one pair and at odds with each other, a submission and a cap."""
    rating = st.tuples(st.sampled_from(SEGMENTS), st.integers(0, 3), st.sampled_from([0.0, 1.0]))
    ranking = st.lists(st.sampled_from([*SEGMENTS, "x:0", "x:5"]), unique=True)
    rankings = draw(st.dictionaries(st.integers(0, 4), ranking))
    return draw(st.lists(rating, max_size=20)), list(rankings.items()), draw(st.integers(0, 6))


def merged(rated: Rated) -> SegmentRatings:
    """Ratings as a program holds them: a class is to be seen in a segment if one rating says so."""
    ratings: SegmentRatings = {}
    for segment, class_index, value in sorted(rated, key=lambda rating: rating[2]):
        ratings.setdefault(class_index, {})[segment] = value > 0
    return ratings


@given(problems(), st.data())
@settings(deadline=None)
def test_map_equals_the_definition_in_any_order_of_rows(problem: Problem, data: st.DataObject) -> None:
    rated, submission, top_n = problem
    result = map_of(merged(rated), submission, top_n)
    assert result == pytest.approx(oracles.segment_map(rated, submission, top_n), abs=1e-12)
    assert 0.0 <= result <= 1.0
    assert map_of(merged(rated), data.draw(st.permutations(submission)), top_n) == result


@given(problems())
@settings(deadline=None, max_examples=10)
def test_program_equals_the_definition(tmp_path_factory: pytest.TempPathFactory, problem: Problem) -> None:
    """From records to the number, through every part: shards, merging, CSV, metric, cache."""
    place = tmp_path_factory.mktemp("program")
    # One pair that is never in doubt, because shards without any rating are refused.
    rated, submission, top_n = [*problem[0], ("z:0", 5, 1.0)], [*problem[1], (5, ["z:0"])], problem[2]
    videos = {name: [(int(s[2:]), c, value) for s, c, value in rated if s[0] == name] for name in "abz"}
    rows = [f"{class_index},{' '.join(ranking)}\n" for class_index, ranking in submission]
    (place / "s.csv").write_text(SEGMENT_HEADER + "".join(rows))
    arguments = [f"--submission_file={place}/s.csv", f"--top_n={top_n}", f"--label_cache={place}/cache"]
    expected = pytest.approx(oracles.segment_map(rated, submission, top_n), abs=1e-12)
    assert score(*arguments, f"--eval_data_pattern={shard(place / 'shard', videos)}") == expected
    assert score(*arguments) == expected


# ---- ratings in records


def test_ratings_of_shards(tmp_path: Path) -> None:
    files = [shard(tmp_path / "a", VIDEOS), write_records(tmp_path / "b", [frame_record("d", [1], {})])]
    assert readers.segment_ratings(files) == RATINGS
    assert readers.segment_ratings(files[::-1]) == RATINGS


@pytest.mark.parametrize("names", [[], ["a", "b", "c"]])
def test_parsing_directly_and_in_a_graph(names: list[str]) -> None:
    serialized = tf.constant([frame_record(name, [1], {}, ratings=VIDEOS[name]) for name in names], tf.string)
    rated = [(name, *rating) for name in names for rating in VIDEOS[name]]
    expected = [list(column) for column in zip(*rated, strict=True)] or [[], [], [], []]
    for parse in (parse_ratings, tf.function(parse_ratings)):
        columns = parse(serialized)
        assert [columns[name].numpy().tolist() for name in ("start", "class", "score")] == expected[1:]
        assert [name.decode() for name in columns["id"].numpy().tolist()] == expected[0]


def test_ratings_are_read_from_more_records_than_a_batch_and_beside_frames(tmp_path: Path) -> None:
    plain = write_frame_shards(tmp_path, num_videos=3, num_shards=1, max_frames=4)
    records = list(tf.data.TFRecordDataset(plain).as_numpy_iterator())
    for i in range(150):
        record = tf.train.SequenceExample.FromString(records[i % 3])
        rated = tf.train.SequenceExample.FromString(frame_record(f"v{i}", None, {}, ratings=[(5, i, i % 2)]))
        record.MergeFrom(rated)
        record.context.feature["id"].CopyFrom(rated.context.feature["id"])
        records.append(record.SerializeToString())
    gzipped = write_records(tmp_path / "gzipped", records, "GZIP")
    assert readers.segment_ratings([gzipped]) == {i: {f"v{i}:5": i % 2 == 1} for i in range(150)}


def test_a_pair_rated_twice_counts_once_whatever_the_order(tmp_path: Path) -> None:
    for i, scores in enumerate(([0.0, 1.0], [1.0, 0.0], [1.0, 1.0])):
        assert readers.segment_ratings([shard(tmp_path / f"{i}", {"a": [(0, 3, s) for s in scores]})]) == {
            3: {"a:0": True}
        }


def changed(change: str) -> bytes:
    """A record with two ratings of which one thing was changed by a line of Python that calls its parts `context`."""
    record = tf.train.SequenceExample.FromString(frame_record("v", [1], {}, ratings=[(0, 3, 1.0), (5, 3, 0.0)]))
    exec(change, {"context": record.context.feature})
    return record.SerializeToString()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "del context['segment_scores']",
            "'segment_labels' holds 2, 'segment_start_times' holds 2, 'segment_scores' holds 0; expected one entry per "
            "rating in each. Is this a test shard, whose ratings are kept back?",
        ),
        ("context['segment_labels'].int64_list.value.append(4)", "'segment_labels' holds 3, "),
        ("context['segment_scores'].int64_list.value[:] = [1, 0]", "'segment_scores' holds integers, expected floats."),
        (
            "context['segment_labels'].float_list.value[:] = [1, 0]",
            "'segment_labels' holds floats, expected integers.",
        ),
        ("context['segment_labels'].int64_list.value[1] = -3", "'segment_labels' holds -3, expected integers in "),
        (
            "context['segment_start_times'].int64_list.value[1] = -5",
            "'segment_start_times' holds -5, expected integers in ",
        ),
        (
            "context['segment_scores'].float_list.value[0] = float('nan')",
            "'segment_scores' holds nan, expected floats in [0, 1].",
        ),
        ("context['segment_scores'].float_list.value[0] = 2", "'segment_scores' holds 2.0, expected floats in [0, 1]."),
        ("del context['id']", "it has no id. Expected a string named 'id' or 'video_id' or "),
    ],
)
def test_unsound_ratings_are_named(tmp_path: Path, change: str, message: str) -> None:
    file = write_records(tmp_path / "bad", [frame_record("a", [1], {}, ratings=VIDEOS["a"]), changed(change)])
    with pytest.raises(UserError) as caught:
        readers.segment_ratings([shard(tmp_path / "good", VIDEOS), file])
    assert str(caught.value).startswith(f"{file}, record 1: {message}")


def test_damaged_shards_are_named(tmp_path: Path) -> None:
    page, cut = tmp_path / "page", tmp_path / "cut"
    page.write_text("<!DOCTYPE html>\n" * 9)
    cut.write_bytes(Path(shard(tmp_path / "good", VIDEOS)).read_bytes()[:-5])
    for file, message in ((page, "it is no file of TFRecords"), (cut, "the file ends in the middle of this record")):
        with pytest.raises(UserError, match=rf"{file}.*: {message}"):
            readers.segment_ratings([str(file)])


def test_an_id_that_cannot_stand_in_a_submission_is_named(tmp_path: Path) -> None:
    for name, fault in (
        ("a b", "Video 'a b' cannot be part of a submission"),
        ("a,b", "its id 'a,b' has a comma"),
        ("a:b", "Video 'a:b' cannot be part of a submission"),
    ):
        with pytest.raises(UserError, match=fault):
            readers.segment_ratings([shard(tmp_path / "bad", {name: [(0, 3, 1.0)]})])


@pytest.mark.parametrize("record", [frame_record("a", [1], {}), video_record("a", [1], {})], ids=["frame", "video"])
def test_shards_without_ratings_are_refused(tmp_path: Path, record: bytes) -> None:
    file = write_records(tmp_path / "plain", [record])
    with pytest.raises(UserError, match=rf"No record of {file} .* holds ratings of segments \('segment_labels'\)"):
        readers.segment_ratings([file])


# ---- the cache


def test_the_cache_is_a_plain_csv() -> None:
    assert RATINGS_HEADER + format_ratings(RATINGS) == CACHE


@pytest.mark.parametrize("cut", range(len(CACHE)))
def test_a_cache_cut_anywhere_is_refused(tmp_path: Path, cut: int) -> None:
    (tmp_path / "cache").write_text(CACHE[:cut])
    with pytest.raises(UserError, match=r"cache, line \d+: found .* expected .* Delete it: it is made again"):
        read_ratings(str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (b"a:0,3,1\na:5,3,0\n", "line 1: found 'a:0,3,1', expected the header Segment,Class,Score"),
        (CACHE.replace("a:5,3,0", "a:5,3,2").encode(), "line 3: found 'a:5,3,2', expected <id>:<second>,<class>,"),
        (CACHE.replace("b:0,3,1\n", "\n").encode(), "line 4: found ''"),
        (CACHE.replace("b:0,3,1\n", "").encode(), "line 7: found '# 6 rated pairs', expected .* '# 5 rated pairs'"),
        (f"{CACHE}more".encode(), "line 9: found 'more'"),
        (b"\x1f\x8b\xff\xfe", "is not text in UTF-8"),
    ],
)
def test_a_damaged_cache_is_refused_with_its_line(tmp_path: Path, damaged: bytes, message: str) -> None:
    (tmp_path / "cache").write_bytes(damaged)
    with pytest.raises(UserError, match=rf"cache.*{message}"):
        read_ratings(str(tmp_path / "cache"))


# ---- the CSV

NAMES = st.builds(
    segment_name,
    st.text(st.characters(categories=("L", "N", "P", "S"), exclude_characters=",:"), min_size=1, max_size=11),
    st.integers(0, 300),
)


@given(st.dictionaries(st.integers(0, 3861), st.lists(NAMES, unique=True, max_size=6), max_size=4))
@settings(deadline=None)
def test_read_of_write_is_the_same(tmp_path_factory: pytest.TempPathFactory, rankings: dict[int, list[str]]) -> None:
    path = tmp_path_factory.getbasetemp() / "rankings.csv"
    path.write_text(SEGMENT_HEADER + "".join(f"{c},{' '.join(ranking)}\n" for c, ranking in rankings.items()))
    assert dict(read_rankings(str(path))) == rankings


def test_reads_other_line_ends_and_spaces_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"Class,Segments\r\n3,a:0 a:5 \r\n4,\r\n5,b:10")
    assert list(read_rankings(str(tmp_path / "a.csv"))) == [(3, ["a:0", "a:5"]), (4, []), (5, ["b:10"])]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "line 1: .*found '', expected the header Class,Segments"),
        ("VideoId,LabelConfidencePairs\n", "line 1: .*found 'VideoId,LabelConfidencePairs', expected the header Class"),
        ("3,a:0\n", "line 1: .*found '3,a:0', expected the header Class,Segments"),
        ("Class,Segments\n3,a:0\nfour,a:0\n", "line 3: found 'four,a:0', expected <class>,<id>:<second>"),
        ("Class,Segments\n3 a:0\n", "line 2: found '3 a:0', expected <class>,<id>:<second>"),
        ("Class,Segments\n\n3,a:0\n", "line 2: found '', expected <class>,<id>:<second>"),
        ("Class,Segments\n3,a:0\n4,a:0 a\n", "line 3: class 4 has 'a' among its segments, expected <id>:<second>"),
        ("Class,Segments\n3,a:0 b:5,c:0\n", "line 2: class 3 has 'b:5,c:0' among its segments"),
        ("Class,Segments\n3,a:0 :5\n", "line 2: class 3 has ':5' among its segments"),
        ("Class,Segments\n3,a:05\n", "line 2: class 3 has 'a:05' among its segments"),
        ("Class,Segments\n3,a:0\tb:0 c:0\n", r"line 2: class 3 has 'a:0\\tb:0' among its segments"),
        ("Class,Segments\n3,a:0 b:0 a:0\n", "line 2: class 3 has segment a:0 twice"),
        ("Class,Segments\n3,a:0\n4,a:0\n3,b:0\n", "line 4: class 3 has a row already"),
    ],
)
def test_what_is_no_submission_of_segments_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(UserError, match=rf"a\.csv, {message}"):
        list(read_rankings(str(tmp_path / "a.csv")))


def test_the_header_is_looked_at_before_a_row_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing\.csv cannot be read"):
        read_rankings(str(tmp_path / "missing.csv"))


def test_the_sample_submission_of_the_challenge(real_data: Path) -> None:
    rankings = dict(read_rankings(str(real_data / "csv/sample_submission_2019.csv")))
    classes = (real_data / "csv/segment_label_ids.csv").read_text().split()[1:]
    assert sorted(rankings) == sorted(map(int, classes))
    assert len(rankings) == 1000
    assert {tuple(ranking) for ranking in rankings.values()} == {("002G:35", "002G:40", "002G:60")}


# ---- the program


def starter_command(place: Path) -> list[str]:
    """The command of the starter's README, with its folders put into one place."""
    command = (
        "--eval_data_pattern=DATA/3/frame/validate/validate*.tfrecord --label_cache=OUT/validate.label_cache "
        "--submission_file=OUT/kaggle_solution_validation.csv --top_n=100000"
    )
    return shlex.split(command.replace("DATA", f"{place}/DATA").replace("OUT", f"{place}/OUT"))


def test_the_starters_command(
    place: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    values = flags.FlagValues()
    segment_eval_inference.define_flags(values)
    values(["segment_eval_inference.py", *starter_command(place)])
    # Whatever main returned would be taken for the exit status.
    assert segment_eval_inference.main(values) is None  # type: ignore[func-returns-value]
    assert capsys.readouterr().out == "Num classes: 2 | mAP@100000: 0.277778\n"
    assert "Rated pairs: 6, 4 of them in the submission." in caplog.text
    assert (place / "OUT/validate.label_cache").read_text() == CACHE
    assert len(list((place / "OUT").iterdir())) == 2


def test_the_cache_is_used_instead_of_the_shards(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = starter_command(place)
    first = score(*command)
    monkeypatch.setattr(readers, "segment_ratings", Mock(side_effect=AssertionError("the shards were read")))
    assert score(*command) == first == pytest.approx(5 / 18)
    assert score(*command[1:]) == first
    changed_cache = CACHE.replace("c:5,3,1\n", "").replace("6 rated", "5 rated")
    (place / "OUT/validate.label_cache").write_text(changed_cache)
    assert score(*command) == pytest.approx((1 + 2 / 3) / 2 / 2)


def test_without_a_cache_none_is_made(place: Path) -> None:
    pattern, _, submission, _ = starter_command(place)
    assert score(pattern, submission) == pytest.approx(5 / 18)
    assert [path.name for path in (place / "OUT").iterdir()] == ["kaggle_solution_validation.csv"]


def test_a_submission_of_other_videos_is_warned_of(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    (place / "OUT/kaggle_solution_validation.csv").write_text(SEGMENT_HEADER + "3,x:0\n")
    assert score(*starter_command(place)) == 0.0
    assert "ranks no segment that was rated" in caplog.text


def test_wrong_commands_are_answered_in_one_line(place: Path) -> None:
    pattern, cache, submission, top_n = starter_command(place)
    assert refusal(pattern, cache).startswith("--submission_file is missing")
    assert "gone.csv cannot be read" in refusal(pattern, cache, f"--submission_file={place}/gone.csv")
    assert refusal(submission) == "--eval_data_pattern is empty. Give one or more file patterns, separated by commas."
    assert f"--label_cache={place}/OUT/validate.label_cache does not exist yet" in refusal(cache, submission, top_n)
    assert "--eval_data_pattern: no file matches" in refusal(f"{pattern}x", cache, submission)
    assert "--top_n=-1: expected" in refusal(pattern, submission, "--top_n=-1")
    assert refusal(f"--eval_data_pattern={place}/OUT/*.csv", submission).startswith(f"{place}/OUT/kaggle_solution")
    assert [path.name for path in (place / "OUT").iterdir()] == ["kaggle_solution_validation.csv"]


def test_an_unwritable_cache_is_found_before_shards_are_read(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "segment_ratings", Mock(side_effect=AssertionError("work has started")))
    pattern, _, submission, _ = starter_command(place)
    said = refusal(pattern, submission, f"--label_cache={place}/gone/cache")
    assert said.startswith(f"--label_cache={place}/gone/cache cannot be written")


def test_a_folder_is_no_cache(place: Path) -> None:
    pattern, _, submission, _ = starter_command(place)
    assert "OUT cannot be read" in refusal(pattern, submission, f"--label_cache={place}/OUT")


def test_a_failure_leaves_no_cache(place: Path) -> None:
    pattern, cache, submission, _ = starter_command(place)
    (place / "DATA/3/frame/validate/validate0002.tfrecord").write_text("<!DOCTYPE html>\n" * 9)
    assert "it is no file of TFRecords" in refusal(pattern, cache, submission)
    assert [path.name for path in (place / "OUT").iterdir()] == ["kaggle_solution_validation.csv"]


def test_blank_lines_at_the_end_of_a_submission_are_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(SEGMENT_HEADER + "3,a:0\n\n\n")
    assert list(read_rankings(str(tmp_path / "a.csv"))) == [(3, ["a:0"])]
    (tmp_path / "a.csv").write_text(SEGMENT_HEADER + "3,a:0\n\n4,a:0\n")
    with pytest.raises(UserError, match="line 3: "):
        list(read_rankings(str(tmp_path / "a.csv")))
