"""Kernel ridge regression against scikit-learn, derivatives against finite differences, and a run that is solved."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.kernel_ridge
import tensorflow as tf
from programs import run

from yt8m.classifiers import cholesky
from yt8m.classifiers.cholesky import factorise, inverse_diagonal, solve_factorised
from yt8m.classifiers.kernel_ridge import (
    KernelRidgeModel,
    evenly_spaced,
    kernel,
    logits_of_frequencies,
    mean_squared_derivatives,
    solve,
)
from yt8m.data.synthetic import write_frame_shards, write_video_shards
from yt8m.errors import UserError
from yt8m.output.submission import read_submission

RNG = np.random.default_rng
VECTORS = RNG(0).normal(size=(40, 5)).astype(np.float32)
LABELS = RNG(1).random((40, 3)) < 0.4
QUERIES = RNG(2).normal(size=(7, 5)).astype(np.float32)


def filled(vectors: np.ndarray, labels: np.ndarray, **hparams: Any) -> KernelRidgeModel:
    """A model that was given videos in batches of 7."""
    model = KernelRidgeModel(labels.shape[1], **hparams)
    model.build((None, vectors.shape[1]))
    batches = range(0, len(vectors), 7)
    model.remember([(tf.constant(vectors[i : i + 7]), tf.constant(labels[i : i + 7])) for i in batches])
    return model


def function_of(model: KernelRidgeModel, queries: np.ndarray) -> np.ndarray:
    """The function f of a model at `queries` `(B, E)`."""
    distances = np.sum(((queries[:, None] * model.scales.numpy() - model.centres.numpy()) ** 2), axis=2)
    return np.exp(-distances / model.bandwidth) @ model.coefficients.numpy() + model.prior.numpy()


@pytest.mark.parametrize("size", [1, 2, 5, 40, 41])
@pytest.mark.parametrize("block_size", [1, 3, 40, 512])
def test_a_matrix_is_factorised_in_its_place(size: int, block_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cholesky, "_BLOCK_SIZE", block_size)
    root = RNG(size).normal(size=(size, size))
    matrix, right = root @ root.T + np.eye(size), RNG(3).normal(size=(size, 4))
    factor, solution = matrix.copy(), right.copy()
    factorise(factor)
    np.testing.assert_allclose(np.tril(factor), np.linalg.cholesky(matrix), atol=1e-10)
    solve_factorised(factor, solution)
    np.testing.assert_allclose(matrix @ solution, right, atol=1e-9)
    np.testing.assert_allclose(inverse_diagonal(factor), np.diag(np.linalg.inv(matrix)), rtol=1e-9)


@pytest.mark.parametrize("block_size", [512, 9])
def test_the_function_is_that_of_scikit_learn(block_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cholesky, "_BLOCK_SIZE", block_size)
    model = filled(VECTORS, LABELS, bandwidth=0.8, penalty=0.05, scale_rounds=0)
    mean_square = 2 * np.var(VECTORS.astype(np.float64), axis=0).sum()
    theirs = sklearn.kernel_ridge.KernelRidge(alpha=0.05, kernel="rbf", gamma=1 / (0.8 * mean_square))
    expected = theirs.fit(VECTORS.astype(np.float64), LABELS.astype(np.float64)).predict(QUERIES.astype(np.float64))
    np.testing.assert_allclose(function_of(model, QUERIES), expected, atol=2e-4)
    inside = (expected > 1e-3) & (expected < 0.899)
    assert 5 < inside.sum() < inside.size
    np.testing.assert_allclose(model(tf.constant(QUERIES))["predictions"].numpy()[inside], expected[inside], atol=2e-4)


def test_fewer_centres_have_the_least_penalised_squared_error() -> None:
    centres, targets = VECTORS[evenly_spaced(40, 9)], LABELS.astype(np.float32)
    a, _ = solve(VECTORS, targets, centres, 4.0, 0.1)

    def error(a: np.ndarray) -> float:
        to_centres = kernel(VECTORS, centres, 4.0).numpy().astype(np.float64)
        between = kernel(centres, centres, 4.0).numpy().astype(np.float64)
        return float(((targets - to_centres @ a) ** 2).sum() + 0.1 * np.sum(a * (between @ a)))

    least = error(a)
    for seed in range(20):
        step = RNG(seed).normal(size=a.shape)
        for length in (1e-2, -1e-2):
            assert error(a + length * step) > least
        slope = (error(a + 1e-4 * step) - error(a - 1e-4 * step)) / 2e-4
        assert abs(slope) < 1e-5 * least  # a minimum, not only a low place


def test_all_videos_as_centres_and_the_sums_over_them_have_one_solution() -> None:
    targets = LABELS.astype(np.float32)
    of_sums, _ = solve(np.concatenate([VECTORS, VECTORS]), np.concatenate([targets, targets]), VECTORS, 2.0, 0.2)
    exact, _ = solve(VECTORS, targets, VECTORS, 2.0, 0.1)  # every video twice is half the penalty
    np.testing.assert_allclose(of_sums, exact, atol=1e-3)


@pytest.mark.parametrize("block_size", [1024, 7])
@pytest.mark.parametrize("num_centres", [40, 11])
def test_predictions_without_a_video_are_those_of_a_solution_without_it(
    num_centres: int, block_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cholesky, "_BLOCK_SIZE", block_size)
    targets = LABELS.astype(np.float32)
    centres = VECTORS[evenly_spaced(40, num_centres)]
    _, left_out = solve(VECTORS, targets, centres, 4.0, 0.1, with_left_out=True)
    assert left_out is not None
    for i in (0, 7, 39):
        others, kept = np.delete(VECTORS, i, axis=0), np.delete(targets, i, axis=0)
        # Few centres stay what they are. Of all videos as centres one without an error has the coefficient 0.
        of_others = others if num_centres == 40 else centres
        a, _ = solve(others, kept, of_others, 4.0, 0.1)
        expected = kernel(VECTORS[i : i + 1], of_others, 4.0).numpy() @ a
        np.testing.assert_allclose(left_out[i : i + 1], expected, atol=2e-4)


def test_stacking_is_a_regression_over_vectors_and_what_the_first_one_says_of_unseen_videos() -> None:
    options = {"bandwidth": 0.8, "penalty": 0.05, "scale_rounds": 0}
    model = filled(VECTORS, LABELS, stacking=0.5, **options)

    scaled = VECTORS.astype(np.float64) / np.sqrt(2 * np.var(VECTORS.astype(np.float64), axis=0).sum())
    scaled_queries = QUERIES * (scaled[0, 0] / VECTORS[0, 0])

    def ridge(x: np.ndarray, y: np.ndarray, queries: np.ndarray) -> np.ndarray:
        theirs = sklearn.kernel_ridge.KernelRidge(alpha=0.05, kernel="rbf", gamma=1 / 0.8)
        return np.asarray(theirs.fit(x, y).predict(queries))

    left_out = np.concatenate(
        [ridge(np.delete(scaled, i, 0), np.delete(LABELS, i, 0).astype(float), scaled[i : i + 1]) for i in range(40)]
    )
    says = ridge(scaled, LABELS.astype(float), scaled_queries)
    distance = np.mean(np.sum((left_out[:, None] - left_out) ** 2, axis=2))
    weight = np.sqrt(0.5 / distance)
    wide, wide_queries = np.hstack([scaled, weight * left_out]), np.hstack([scaled_queries, weight * says])
    expected = ridge(wide, LABELS.astype(float), wide_queries)
    inside = (expected > 1e-3) & (expected < 0.899)
    assert 5 < inside.sum() < inside.size
    found = model(tf.constant(QUERIES))["predictions"].numpy()
    np.testing.assert_allclose(found[inside], expected[inside], atol=5e-4)
    assert np.abs(found - filled(VECTORS, LABELS, **options)(tf.constant(QUERIES))["predictions"].numpy()).max() > 0.01


@pytest.mark.parametrize("stacking", [0.0, 0.5])
def test_a_training_video_that_is_left_out_is_predicted_by_the_others(stacking: float) -> None:
    options = {"bandwidth": 2.0, "penalty": 0.1, "scale_rounds": 0, "stacking": stacking}
    leaving_out, plain = (filled(VECTORS, LABELS, leave_one_out=each, **options) for each in (True, False))
    new = tf.constant(QUERIES)
    np.testing.assert_array_equal(leaving_out(new)["predictions"], plain(new)["predictions"])

    found = leaving_out(tf.constant(VECTORS))["predictions"].numpy()
    x, c = leaving_out.centres.numpy(), leaving_out.num_classes
    targets = LABELS.astype(np.float32)
    if stacking:  # what the first one says of the other videos stays
        x = leaving_out.stacked_centres.numpy()
        assert x.shape == (40, 5 + c)
    for i in range(40):
        others = np.delete(x, i, axis=0)
        a, _ = solve(others, np.delete(targets, i, axis=0), others, 2.0, 0.1)
        expected = logits_of_frequencies(kernel(x[i : i + 1], others, 2.0) @ a)
        np.testing.assert_allclose(found[i], tf.sigmoid(expected)[0], atol=2e-4)
    assert np.abs(found - plain(tf.constant(VECTORS))["predictions"].numpy()).max() > 0.1


def test_who_leaves_out_one_needs_all_videos_as_centres() -> None:
    with pytest.raises(UserError, match=r"^num_centres=39: with leave_one_out all 40 videos have to be centres\."):
        filled(VECTORS, LABELS, leave_one_out=True, num_centres=39)


def test_two_videos_by_hand() -> None:
    # Squared distance 4, mean squared distance 2, so 2 between the scaled videos: with sigma = 2 / log 2, k = 1/2.
    # (1 + 1/4) a_0 + 1/2 a_1 = 1 and 1/2 a_0 + 5/4 a_1 = 0 give a = (20, -8) / 21; half-way between them k = 2^-1/4.
    model = filled(
        np.array([[-1.0], [1.0]], np.float32), np.array([[True], [False]]), bandwidth=2 / np.log(2), penalty=0.25
    )
    np.testing.assert_allclose(model.coefficients, [[20 / 21], [-8 / 21]], atol=1e-6)
    np.testing.assert_allclose(model(tf.zeros([1, 1]))["predictions"], [[12 / 21 * 2**-0.25]], atol=1e-6)


def test_derivatives_are_those_of_finite_differences() -> None:
    x, a, bandwidth = VECTORS.astype(np.float64), RNG(4).normal(size=(40, 3)), 3.0

    def values(queries: np.ndarray) -> np.ndarray:
        return np.exp(-np.sum((queries[:, None] - x) ** 2, axis=2) / bandwidth) @ a

    derivatives = np.stack([(values(x + 1e-5 * axis) - values(x - 1e-5 * axis)) / 2e-5 for axis in np.eye(5)], axis=1)
    # With one class a sign does not matter, so the estimate is exact.
    one = mean_squared_derivatives(VECTORS, a[:, :1].astype(np.float32), bandwidth)
    np.testing.assert_allclose((2 / bandwidth) ** 2 * one, (derivatives[:, :, 0] ** 2).mean(axis=0), rtol=1e-3)
    # With three there are 300 draws of signs for each video: every centre counts 300 times with a 300th of its weight.
    often, parts = np.tile(VECTORS, (300, 1)), np.tile(a / 300, (300, 1)).astype(np.float32)
    all_three = mean_squared_derivatives(often, parts, bandwidth)
    expected = (derivatives**2).sum(axis=2).mean(axis=0)
    np.testing.assert_allclose((2 / bandwidth) ** 2 * all_three, expected, rtol=0.05)


def test_scales_tell_features_that_matter_from_others() -> None:
    vectors = RNG(6).normal(size=(300, 6)).astype(np.float32)
    labels = np.stack([vectors[:, 0] > 0, vectors[:, 1] > 0.5], axis=1)  # features 2 to 5 say nothing
    model = filled(vectors, labels, scale_rounds=2)
    scales = model.scales.numpy()
    assert min(scales[:2]) > 4 * max(scales[2:])
    np.testing.assert_allclose(2 * np.sum(scales**2 * np.var(vectors, axis=0)), 1, rtol=1e-5)

    unseen = RNG(7).normal(size=(300, 6)).astype(np.float32)
    truth = np.stack([unseen[:, 0] > 0, unseen[:, 1] > 0.5], axis=1)
    equal = filled(vectors, labels, scale_rounds=0)
    right = [np.mean((m(tf.constant(unseen))["predictions"].numpy() > 0.5) == truth) for m in (model, equal)]
    assert right[0] > right[1] + 0.02


def test_predictions_keep_the_order_of_the_function_and_are_its_value_in_between() -> None:
    f = np.unique(np.array([*np.linspace(-0.4, 1.6, 2001), 1e-6, 1e-5], np.float32))
    p = tf.sigmoid(logits_of_frequencies(tf.constant(f))).numpy().astype(np.float64)
    assert np.all(np.diff(p[f < 1.4]) > 0)
    assert np.all((p > 0) & (p <= 1))
    inside = (f >= 1e-6) & (f <= 0.9)
    np.testing.assert_allclose(p[inside], f[inside], rtol=1e-5)


@pytest.mark.parametrize("stacking", [0.0, 0.5])
def test_without_videos_or_labels_the_prior_is_predicted(stacking: float) -> None:
    prior = np.array([0.5, 0.25, 0.0], np.float32)
    for vectors in (VECTORS[:0], VECTORS[:1], np.ones((9, 5), np.float32)):
        model = KernelRidgeModel(3, stacking=stacking)
        model.build((None, 5))
        model.start_at_prior(prior)
        model.remember([(tf.constant(vectors), tf.zeros([len(vectors), 3], tf.bool))])
        far = model(1e3 * tf.ones([2, 5]))
        np.testing.assert_allclose(far["predictions"], np.tile(prior, (2, 1)), atol=2e-6)
        assert np.all(np.isfinite(model(tf.ones([2, 5]))["logits"]))


def test_a_penalty_that_rounding_hides_is_refused() -> None:
    twins = np.repeat(VECTORS, 30, axis=0)
    with pytest.raises(UserError, match=r"^penalty=1e-12: with 1200 centres .* Try 1e-11\.$"):
        filled(twins, np.repeat(LABELS, 30, axis=0), penalty=1e-12, scale_rounds=0)


def train(place: Path, name: str, *arguments: str) -> dict[str, np.ndarray]:
    """Trains a run and returns what its checkpoint holds of the classifier."""
    line = [f"--train_data_pattern={place}/train*.tfrecord", f"--train_dir={place}/{name}", "--num_classes=4"]
    run("train", *line, "--batch_size=16", *arguments)
    checkpoint = tf.train.load_checkpoint(str(place / name))
    names = [name for name in checkpoint.get_variable_to_shape_map() if name.startswith("model/classifier/")]
    return {name.split("/")[2]: checkpoint.get_tensor(name) for name in names}


def test_a_run_is_solved_on_one_and_two_devices_resumed_and_evaluated(tmp_path: Path) -> None:
    write_video_shards(tmp_path, prefix="train", num_videos=40, num_shards=2, num_classes=4)
    model = "--model=KernelRidgeModel"
    settings = (model, "--hparams=stacking=0.5", "--hparams=leave_one_out=true")
    first = train(tmp_path, "run", *settings)
    assert first["centres"].shape == (40, 1024)
    assert first["coefficients"].shape == first["left_out"].shape == (40, 4)
    assert first["stacked_centres"].shape == (40, 1024 + 4)
    for other in (train(tmp_path, "run", *settings), train(tmp_path, "on_two", *settings, "--num_gpu=2")):
        for name, value in first.items():
            np.testing.assert_array_equal(other[name], value)
    shards = f"_data_pattern={tmp_path}/train*.tfrecord"
    run("eval", f"--train_dir={tmp_path}/run", f"--eval{shards}", "--run_once")

    # What a run predicts of its training videos is what its checkpoint holds of them, in the order of the shards.
    table = f"{tmp_path}/left_out.csv"
    run("inference", f"--train_dir={tmp_path}/run", f"--input{shards}", f"--output_file={table}", "--top_k=4")
    found = read_submission(table)
    scores = np.zeros((40, 4))
    scores[np.repeat(np.arange(40), found.num_pairs), found.classes] = found.scores
    expected = tf.sigmoid(logits_of_frequencies(first["prior"] + first["left_out"]))
    np.testing.assert_allclose(scores, expected, atol=2e-6)
    stacked = train(tmp_path, "some", model, "--hparams=num_centres=10", "--hparams=stacking=0.5")
    assert stacked["stacked_centres"].shape == (10, 1024 + 4)
    assert stacked["stacked_coefficients"].shape == (10, 4)


def test_a_run_says_which_hyper_parameter_is_too_small(tmp_path: Path) -> None:
    write_frame_shards(tmp_path, prefix="train", num_videos=12, num_classes=4)
    for copy in ("b", "c", "d"):  # of the same videos, whose kernel has no inverse
        shutil.copy(next(tmp_path.glob("train*")), tmp_path / f"train_{copy}.tfrecord")
    frames = ["--record_format=frame", "--feature_names=rgb", "--hparams=classifier=KernelRidgeModel"]
    for penalty, refused in (
        ("0", r"--hparams=classifier\.penalty=0\.0: expected a number above 0"),
        ("1e-30", r"^--hparams=classifier\.penalty=1e-30: with \d+ centres .* Try 1e-29\.$"),
    ):
        with pytest.raises(UserError, match=refused):
            train(tmp_path, "refused", *frames, "--model=AveragePoolModel", f"--hparams=classifier.penalty={penalty}")
        assert not (tmp_path / "refused").exists()
