"""Segments from records to a score, through the programs: train, fine-tune, evaluate, predict, score."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from programs import run

from yt8m.data.record_writing import Rating, frame_record, write_records
from yt8m.engine.weight_averages import load_weights
from yt8m.errors import UserError
from yt8m.output.submission import read_rankings
from yt8m.runs.directory import load_config, newest_checkpoint, require_checkpoint

import experiment
import segment_eval_inference
from oracles import metrics as oracles

NUM_CLASSES = 5
RATED = (1, 3, 4)  # classes 0 and 2 are of videos alone
DATA = ["--feature_names=rgb,audio", "--feature_sizes=6,2", f"--num_classes={NUM_CLASSES}"]
MODEL = ["--frame_features", "--model=FrameLevelLogisticModel", *DATA]
QUICK = ["--batch_size=8", "--base_learning_rate=0.1", "--class_prior_examples=0", "--num_readers=2"]


class Video:
    """A made video: in each 5 seconds a class is to be seen, in one of its features, or none; raters say of which."""

    def __init__(self, number: int):
        rng = np.random.default_rng([7, number])
        self.id = f"v{number:02d}"
        self.num_frames = int(rng.integers(3, 24))
        starts = range(0, self.num_frames, 5)
        self.shown = {start: int(rng.integers(0, NUM_CLASSES + 1)) for start in starts}
        rgb = rng.integers(0, 60, (self.num_frames, 6)).astype(np.uint8)
        for start, shown in self.shown.items():
            rgb[start : start + 5, shown] += 150
        self.frames = {"rgb": rgb, "audio": rng.integers(0, 60, (self.num_frames, 2)).astype(np.uint8)}
        self.ratings: list[Rating] = [
            (start, c, float(shown == c)) for start, shown in self.shown.items() for c in RATED if rng.random() < 0.6
        ]

    def record(self, rated: bool = True) -> bytes:
        """The record, with ratings and the labels of the whole video, as in the data set."""
        labels = sorted({shown for shown in self.shown.values() if shown < NUM_CLASSES})
        return frame_record(self.id, labels, self.frames, ratings=self.ratings if rated else None)


VIDEOS = [Video(number) for number in range(40)]
RATINGS = [(f"{v.id}:{start}", c, score) for v in VIDEOS for start, c, score in v.ratings]


@pytest.fixture(scope="module", name="place")
def make_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of videos, of the same with ratings, and the list of classes that segments have."""
    place = tmp_path_factory.mktemp("segments")
    for number in range(4):
        part = VIDEOS[number::4]
        write_records(place / f"video{number}.tfrecord", [video.record(rated=False) for video in part])
        write_records(place / f"segment{number}.tfrecord", [video.record() for video in part])
    (place / "classes.csv").write_text("Index\n" + "".join(f"{c}\n" for c in RATED))
    return place


def train(place: Path, name: str, *arguments: str, data: str = "segment") -> str:
    """Trains a run and returns its directory."""
    pattern = f"--train_data_pattern={place}/{data}*.tfrecord"
    run("train", *MODEL, *QUICK, pattern, f"--train_dir={place / name}", *arguments)
    return str(place / name)


@pytest.fixture(scope="module", name="of_videos")
def make_run_of_videos(place: Path) -> str:
    """A run on whole videos."""
    return train(place, "videos", "--num_epochs=4", data="video")


@pytest.fixture(scope="module", name="of_segments")
def make_run_of_segments(place: Path, of_videos: str) -> str:
    """A run on segments that began with the weights of the one on videos."""
    start = f"--init_from={of_videos}"
    return train(place, "segments", "--segment_labels", "--num_epochs=6", start, "--regularization_penalty=0")


def predict(place: Path, train_dir: str, name: str, *arguments: str) -> dict[int, list[str]]:
    """Predicts segments and reads the rankings."""
    output = place / f"{name}.csv"
    arguments = (f"--train_dir={train_dir}", f"--output_file={output}", *arguments)
    run("inference", f"--input_data_pattern={place}/segment*.tfrecord", *arguments)
    return dict(read_rankings(str(output)))


def score(place: Path, name: str, top_n: int = 0) -> float:
    """What segment_eval_inference.py says of a submission."""
    values = flags.FlagValues()
    segment_eval_inference.define_flags(values)
    pattern = f"--eval_data_pattern={place}/segment*.tfrecord"
    values(["x", pattern, f"--submission_file={place / name}.csv", f"--top_n={top_n}"])
    return segment_eval_inference.evaluate(values)


def evaluate(place: Path, train_dir: str, *arguments: str) -> dict[str, float]:
    """Evaluates a run and returns the metrics."""
    pattern = f"--eval_data_pattern={place}/segment*.tfrecord"
    run("eval", pattern, f"--train_dir={train_dir}", "--run_once", *arguments)
    return json.loads(Path(train_dir, "eval", "metrics.json").read_text())


def test_the_whole_way_from_videos_to_a_score(place: Path, of_videos: str, of_segments: str) -> None:
    listed = f"--segment_label_ids_file={place}/classes.csv"
    scores = {}
    for name, train_dir in (("before", of_videos), ("after", of_segments)):
        # The starter's commands: the first run is of videos and is evaluated on segments none the less.
        rankings = predict(place, train_dir, name, "--segment_labels", listed)
        assert tuple(rankings) == RATED
        every = sorted(f"{v.id}:{start}" for v in VIDEOS for start in range(0, v.num_frames, 5))
        assert all(sorted(ranking) == every for ranking in rankings.values())
        # Ids that are compared as bytes, a header that is read as a class, or a line end in a name: any would give 0.
        scores[name] = score(place, name)
        assert scores[name] == pytest.approx(oracles.segment_map(RATINGS, list(rankings.items()), 0), abs=1e-12)
        metrics = evaluate(place, train_dir, "--segment_labels")
        assert metrics["segment_map"] == pytest.approx(scores[name], abs=1e-12)
        assert metrics["map"] == pytest.approx(scores[name], abs=1e-12)  # no segment has more ratings than top_k
        assert metrics["num_examples"] == len({segment for segment, _, _ in RATINGS})
    assert scores["after"] > max(scores["before"], 0.9)


def weights_of(train_dir: str) -> list[np.ndarray]:
    """The weights that a run is evaluated with."""
    model = experiment.build_model(load_config(train_dir))
    load_weights(model, require_checkpoint(train_dir))
    return model.get_weights()


def test_a_class_that_no_segment_was_rated_for_is_not_taken_for_absent(of_videos: str, of_segments: str) -> None:
    unrated = [c for c in range(NUM_CLASSES) if c not in RATED]
    pairs = list(zip(weights_of(of_videos), weights_of(of_segments), strict=True))
    assert pairs
    for before, after in pairs:
        np.testing.assert_array_equal(after[..., unrated], before[..., unrated])
        assert np.all(np.any(after[..., RATED] != before[..., RATED], axis=tuple(range(before.ndim - 1))))


def test_a_run_on_segments_says_so_and_needs_no_flag(place: Path, of_segments: str) -> None:
    config = json.loads(Path(of_segments, "config.json").read_text())
    assert config["data"]["record_format"] == "segment"
    assert config["training"]["init_from"] == str(place / "videos")
    assert predict(place, of_segments, "again") == predict(place, of_segments, "flag", "--segment_labels")
    assert evaluate(place, of_segments) == evaluate(place, of_segments, "--segment_labels", "--frame_features")
    # Whole videos are still there for the asking, with the labels that all videos have.
    assert evaluate(place, of_segments, "--nosegment_labels")["num_examples"] == len(VIDEOS)


def test_a_ranking_keeps_the_best_and_no_more(place: Path, of_segments: str) -> None:
    whole, cut = predict(place, of_segments, "whole"), predict(place, of_segments, "cut", "--segment_max_pred=7")
    assert cut == {c: ranking[:7] for c, ranking in whole.items()}
    assert score(place, "cut") == pytest.approx(score(place, "whole", top_n=7), abs=1e-12)


def test_a_run_starts_with_the_predictions_of_the_one_that_it_starts_from(place: Path, of_videos: str) -> None:
    flags_of_start = ("--segment_labels", "--max_steps=1", "--base_learning_rate=1e-30", f"--init_from={of_videos}")
    started = train(place, "started", *flags_of_start, "--weights_halflife=9")
    assert str(newest_checkpoint(started)).endswith("ckpt-1")  # its steps are its own
    assert predict(place, started, "started") == predict(place, of_videos, "source", "--segment_labels")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=MaxPoolModel"], r"--model=FrameLevelLogisticModel, this run has MaxPoolModel\. Make them the same"),
        (["--num_classes=7"], r"--num_classes=5, this run has 7\. Make them the same"),
        (["--feature_names=rgb", "--feature_sizes=6"], r"--feature_names=rgb,audio, this run has rgb\. Make"),
        (["--feature_weights=1,0.5"], r"--feature_weights=, this run has 1\.0,0\.5\. Make"),
    ],
)
def test_a_run_of_another_model_is_no_start(place: Path, of_videos: str, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(place, "refused", "--segment_labels", f"--init_from={of_videos}", *arguments)
    assert not (place / "refused").exists()


def test_weights_of_other_shapes_are_no_start_and_other_dropout_is(place: Path) -> None:
    mixture = ("--model=AveragePoolModel", "--max_steps=1")
    other = train(place, "mixture", *mixture, data="video")
    with pytest.raises(
        UserError, match=r"do not fit into AveragePoolModel .* hyper-parameters: classifier.num_mix.*=2"
    ):
        train(place, "refused", *mixture, f"--init_from={other}", "--hparams=classifier.num_mixtures=3")
    assert not (place / "refused").exists()
    train(place, "dropout", *mixture, "--segment_labels", f"--init_from={other}", "--hparams=classifier.dropout=0.5")


def test_a_start_that_is_gone_or_would_be_overwritten_is_refused(place: Path, of_videos: str) -> None:
    with pytest.raises(UserError, match=r"^--init_from=nowhere holds no run with a checkpoint\. Give the --train_dir"):
        train(place, "refused", "--init_from=nowhere")
    with pytest.raises(UserError, match=r"is in --train_dir=.*, which is about to be overwritten"):
        train(place, "videos", f"--init_from={of_videos}", "--start_new_model", data="video")
    with pytest.raises(UserError, match=r"holds a run with init_from=; you asked for elsewhere"):
        train(place, "videos", "--init_from=elsewhere", data="video")
    assert Path(of_videos, "config.json").exists()


def test_resuming_a_run_on_segments_changes_nothing(place: Path, of_videos: str) -> None:
    same = ("--segment_labels", f"--init_from={of_videos}", "--segment_context=2", "--seed=3")
    for name, stops in (("unbroken", (11,)), ("broken", (4, 5, 11))):
        for stop in stops:
            train(place, name, *same, "--num_epochs=0", f"--max_steps={stop}")
    for file in ("data/11.json", "config.json"):
        assert Path(place, "broken", file).read_text() == Path(place, "unbroken", file).read_text()
    first, second = (tf.train.load_checkpoint(f"{place}/{name}/ckpt-11") for name in ("unbroken", "broken"))
    for name in first.get_variable_to_shape_map():
        if name != "_CHECKPOINTABLE_OBJECT_GRAPH":
            np.testing.assert_array_equal(first.get_tensor(name), second.get_tensor(name), err_msg=name)
