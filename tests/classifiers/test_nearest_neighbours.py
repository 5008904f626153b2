"""Nearest neighbours against brute force, scikit-learn and a case by hand, and a run that remembers its data."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.neighbors
import tensorflow as tf
from programs import run

from yt8m.classifiers import nearest_neighbours
from yt8m.classifiers.nearest_neighbours import NearestNeighboursModel, nearest
from yt8m.data.synthetic import write_frame_shards, write_video_shards
from yt8m.errors import UserError
from yt8m.layers.normalisation import l2_normalise

RNG = np.random.default_rng
PRIOR = np.array([0.5, 0.25, 0.125, 0.0], np.float32)


def filled(vectors: np.ndarray, labels: np.ndarray, **hparams: Any) -> NearestNeighboursModel:
    """A model that remembers videos, given to it in batches of 7."""
    model = NearestNeighboursModel(labels.shape[1], **hparams)
    model.build((None, vectors.shape[1]))
    batches = range(0, len(vectors), 7)
    model.remember([(tf.constant(vectors[i : i + 7]), tf.constant(labels[i : i + 7])) for i in batches])
    return model


def brute_force(
    x: np.ndarray, vectors: np.ndarray, labels: np.ndarray, k: int, sigma: float, a: float, prior: np.ndarray
) -> np.ndarray:
    """One video by the definition, in float64."""
    squares = [(sum((float(p) - float(q)) ** 2 for p, q in zip(x, m, strict=True)), j) for j, m in enumerate(vectors)]
    votes, total = a * prior.astype(np.float64), a
    for square, j in sorted(squares)[:k]:
        votes, total = votes + np.exp(-square / sigma) * labels[j], total + np.exp(-square / sigma)
    return votes / total


@pytest.mark.parametrize(("k", "block_size"), [(1, 4096), (5, 4096), (5, 8), (5, 3), (100, 4096), (100, 8)])
def test_neighbours_vote_as_the_definition_says(k: int, block_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest_neighbours, "_BLOCK_SIZE", block_size)
    vectors, queries = RNG(0).normal(size=(30, 4)).astype(np.float32), RNG(1).normal(size=(6, 4)).astype(np.float32)
    labels = RNG(2).random((30, 4)) < 0.3
    assert not np.all(labels.any(axis=1))  # a video without labels votes against all
    model = filled(vectors, labels, num_neighbours=k, bandwidth=2.0, prior_weight=0.5)
    model.start_at_prior(PRIOR)
    expected = [brute_force(x, vectors, labels, k, 2.0, 0.5, PRIOR) for x in queries]
    outputs = tf.function(model)(tf.constant(queries))
    np.testing.assert_allclose(outputs["predictions"], expected, rtol=1e-5, atol=2e-7)
    np.testing.assert_allclose(tf.sigmoid(outputs["logits"]), expected, rtol=1e-5, atol=2e-7)


@pytest.mark.parametrize("k", [1, 5, 100])
def test_a_video_that_is_left_out_is_predicted_by_the_others(k: int) -> None:
    vectors, labels = RNG(0).normal(size=(30, 4)).astype(np.float32), RNG(2).random((30, 4)) < 0.3
    options = {"num_neighbours": k, "bandwidth": 2.0, "prior_weight": 0.5}
    found = filled(vectors, labels, leave_one_out=True, **options)(tf.constant(vectors))["predictions"]
    for i in range(30):
        others = filled(np.delete(vectors, i, axis=0), np.delete(labels, i, axis=0), **options)
        np.testing.assert_allclose(found[i : i + 1], others(tf.constant(vectors[i : i + 1]))["predictions"], rtol=1e-4)
    new = tf.constant(RNG(1).normal(size=(6, 4)).astype(np.float32))  # a video that it never saw
    plain, leaving_out = (filled(vectors, labels, leave_one_out=each, **options)(new) for each in (False, True))
    np.testing.assert_allclose(leaving_out["predictions"], plain["predictions"], rtol=1e-6)


def test_a_vote_by_hand() -> None:
    # Of x = 0 the neighbours 1 and -2 have squared distances 1 and 4, so weights 1/2 and 1/16 with sigma = 1 / log 2.
    # With a = 7/16 all votes are 1: p = (1/2 + 7/16 * 1/2, 1/2 + 1/16 + 7/16 * 1/4) of classes 0 and 1.
    vectors = np.array([[3.0], [-2.0], [1.0]], np.float32)
    labels = np.array([[1, 0, 0, 1], [0, 1, 0, 0], [1, 1, 0, 0]], bool)
    model = filled(vectors, labels, num_neighbours=2, bandwidth=1 / np.log(2), prior_weight=7 / 16)
    model.start_at_prior(PRIOR)
    expected = [1 / 2 + 7 / 32, 9 / 16 + 7 / 64, 7 / 128, 0.0]
    np.testing.assert_allclose(model(tf.zeros([1, 1]))["predictions"], [expected], rtol=1e-6, atol=2e-7)


@pytest.mark.parametrize("block_size", [4096, 50])
def test_neighbours_are_those_of_scikit_learn(block_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest_neighbours, "_BLOCK_SIZE", block_size)
    memory, queries = (RNG(seed).normal(size=(n, 16)).astype(np.float32) for seed, n in ((3, 130), (4, 20)))
    squares, numbers = nearest(tf.constant(queries), tf.constant(memory), 9)
    theirs = sklearn.neighbors.NearestNeighbors(n_neighbors=9, algorithm="kd_tree").fit(memory.astype(np.float64))
    distances, expected = theirs.kneighbors(queries)
    np.testing.assert_array_equal(numbers, expected)
    np.testing.assert_allclose(squares, distances**2, rtol=1e-5)


def test_a_share_of_equal_votes_is_at_most_one_and_ties_go_to_the_first() -> None:
    vectors, labels = np.ones((9, 3), np.float32), np.ones((9, 2), bool)
    model = filled(vectors, labels, num_neighbours=7, bandwidth=1.0, prior_weight=0.0)
    predictions = model(tf.constant([[1.0, 1.0, 1.3], [9.0, 9.0, 99.0]]))["predictions"]
    np.testing.assert_allclose(predictions, [[1, 1], [0, 0]], atol=2e-7)  # weights of the far ones are 0 in float32
    assert np.all((predictions >= 0) & (predictions <= 1))
    np.testing.assert_array_equal(nearest(tf.ones([1, 3]), tf.constant(vectors), 4)[1], [[0, 1, 2, 3]])


def test_an_empty_memory_predicts_the_prior_and_a_new_one_takes_its_place() -> None:
    model = filled(np.ones((5, 3), np.float32), np.ones((5, 4), bool), prior_weight=1.0)
    model.start_at_prior(PRIOR)
    model.remember([])
    np.testing.assert_allclose(model(tf.ones([2, 3]))["predictions"], [PRIOR, PRIOR], atol=2e-7)
    model.remember([(tf.ones([1, 3]), tf.constant([[False, True, False, False]]))])
    np.testing.assert_allclose(model(tf.ones([1, 3]))["predictions"], [(PRIOR + np.eye(4)[1]) / 2], atol=2e-7)


@pytest.fixture(scope="module", name="place")
def make_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("neighbours")
    write_video_shards(place, prefix="train", num_videos=40, num_shards=2, num_classes=4)
    return place


def train(place: Path, name: str, *arguments: str) -> dict[str, np.ndarray]:
    """Trains a run and returns what its checkpoint holds of the classifier."""
    line = [f"--train_data_pattern={place}/train*.tfrecord", f"--train_dir={place}/{name}", "--num_classes=4"]
    run("train", *line, "--batch_size=16", "--num_epochs=3", *arguments)
    checkpoint = tf.train.load_checkpoint(str(place / name))
    names = [name for name in checkpoint.get_variable_to_shape_map() if name.startswith("model/classifier/")]
    values = {name.split("/")[2]: checkpoint.get_tensor(name) for name in names}
    return values | {"step": checkpoint.get_tensor("global_step/.ATTRIBUTES/VARIABLE_VALUE")}


def test_a_run_remembers_every_training_video_once(place: Path) -> None:
    memory = train(place, "run", "--model=NearestNeighboursModel", "--hparams=num_neighbours=1")
    assert memory["step"] == 1
    vectors, labels = [], []
    for file in sorted(place.glob("train*.tfrecord")):
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            feature = tf.train.Example.FromString(record).features.feature
            vectors.append(feature["mean_rgb"].float_list.value)
            labels.append(sorted(set(feature["labels"].int64_list.value)))
    np.testing.assert_allclose(memory["vectors"], l2_normalise(tf.constant(vectors)), atol=1e-6)
    assert [[c for c in row if c >= 0] for row in memory["classes"].tolist()] == labels
    on_two = train(place, "on_two", "--model=NearestNeighboursModel", "--num_gpu=2")
    for name, value in memory.items():
        np.testing.assert_array_equal(on_two[name], value)


def test_a_run_that_remembers_is_resumed_and_evaluated(place: Path) -> None:
    name = ["--model=NearestNeighboursModel", "--hparams=num_neighbours=1"]
    first = train(place, "resumed", *name)
    again = train(place, "resumed", *name, "--class_prior_examples=0")
    for key, value in first.items():
        np.testing.assert_array_equal(again[key], value)
    run("eval", f"--train_dir={place}/resumed", f"--eval_data_pattern={place}/train*.tfrecord", "--run_once")
    output = f"--output_file={place}/out.csv"
    run("inference", f"--train_dir={place}/resumed", f"--input_data_pattern={place}/train*.tfrecord", output)
    assert len((place / "out.csv").read_text().splitlines()) == 41


def test_it_follows_a_pooling_without_weights_only(tmp_path: Path) -> None:
    write_frame_shards(tmp_path, prefix="train", num_videos=12, num_classes=4)
    frames = ["--record_format=frame", "--feature_names=rgb", "--hparams=classifier=NearestNeighboursModel"]
    memory = train(tmp_path, "average", *frames, "--model=AveragePoolModel")
    assert memory["vectors"].shape == (12, 1024)
    refused = r"^--model=DbofModel: its classifier remembers pooled vectors, and training would change them"
    with pytest.raises(UserError, match=refused):
        train(tmp_path, "refused", *frames, "--model=DbofModel", "--hparams=cluster_size=8", "--hparams=hidden_size=8")
    assert not (tmp_path / "refused").exists()
