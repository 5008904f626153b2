"""Weights of examples: read, drawn, boosted, and what a step makes of them."""

import math
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from programs import run

from yt8m.batch import EXAMPLE_WEIGHTS
from yt8m.data.example_weights import WEIGHTS_HEADER, bootstrap_counts, read_example_weights, with_example_weights
from yt8m.data.record_writing import video_record, write_records
from yt8m.data.video_labels import LABELS_HEADER
from yt8m.errors import UserError
from yt8m.metrics.boosting import boosted_weights
from yt8m.output.submission import HEADER

IDS = tf.constant([f"v{number}" for number in range(20_000)])


# ---- bagging


def test_bootstrap_counts_are_those_of_a_poisson_variable() -> None:
    counts = bootstrap_counts(IDS, 1).numpy()
    for k in range(5):
        share = math.exp(-1) / math.factorial(k)
        spread = math.sqrt(share * (1 - share) / len(counts))
        assert abs(np.mean(counts == k) - share) < 5 * spread
    assert counts.max() <= 10


def test_bootstrap_counts_are_a_function_of_seed_and_id() -> None:
    counts = bootstrap_counts(IDS, 1).numpy()
    np.testing.assert_array_equal(bootstrap_counts(IDS[::-1][:50], 1), counts[::-1][:50])
    other = bootstrap_counts(IDS, 2).numpy()
    assert abs(np.corrcoef(counts, other)[0, 1]) < 5 / math.sqrt(len(counts))


def test_given_and_drawn_weights_multiply() -> None:
    weights = {"v0": 0.5, "v1": 0.0, "v2": 3.0}
    batches = tf.data.Dataset.from_tensor_slices({"id": list(weights)}).batch(3)
    (batch,) = batches.map(with_example_weights(weights, 7))
    np.testing.assert_allclose(batch[EXAMPLE_WEIGHTS], bootstrap_counts(IDS[:3], 7).numpy() * [0.5, 0.0, 3.0])


# ---- the file


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,1\n", "line 1: found 'a,1', expected the header VideoId,Weight"),
        (WEIGHTS_HEADER + "a\n", "line 2: found 'a'"),
        (WEIGHTS_HEADER + "a,-1\n", "expected <id>,<number of at least 0>"),
        (WEIGHTS_HEADER + "a,nan\n", "line 2"),
        (WEIGHTS_HEADER + "a,1\na,1\n", "line 3: video a has a weight already"),
        (WEIGHTS_HEADER + "a,0\n", "no video has a weight above 0"),
    ],
)
def test_damaged_weights(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "w.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_example_weights(str(tmp_path / "w.csv"))


# ---- boosting


def test_a_hand_worked_round() -> None:
    # e = 1/4, so a video that is wrong weighs (3/4) / (1/4) = 3 times as much; 3 + 1 + 1 + 1 = 6 is scaled to 4.
    found = boosted_weights(np.ones(4), np.array([1.0, 0, 0, 0]), 5.0)
    np.testing.assert_allclose(found, [2, 2 / 3, 2 / 3, 2 / 3])
    # Cut at 1.6, the other three share 2.4.
    np.testing.assert_allclose(boosted_weights(np.ones(4), np.array([1.0, 0, 0, 0]), 1.6), [1.6, 0.8, 0.8, 0.8])


@given(st.integers(0, 1000), st.floats(1.1, 6))
def test_weights_have_mean_1_and_none_is_above_the_largest(seed: int, largest: float) -> None:
    generator = np.random.default_rng(seed)
    before = generator.exponential(size=50)
    errors = generator.random(50) ** 4
    found = boosted_weights(before, errors, largest)
    np.testing.assert_allclose(found.mean(), 1)
    assert (found >= 0).all()
    assert found.max() <= largest * (1 + 1e-12)
    below = found < largest * (1 - 1e-9)
    mean_error = before @ errors / before.sum()
    expected = before * ((1 - mean_error) / mean_error) ** errors
    ratios = found[below] / expected[below]
    np.testing.assert_allclose(ratios, ratios[0])


@pytest.mark.parametrize("error", [0.0, 0.5, 1.0])
def test_errors_that_cannot_be_boosted(error: float) -> None:
    with pytest.raises(UserError, match=r"boosting needs one above 0 and below 0\.5"):
        boosted_weights(np.ones(4), np.full(4, error), 5.0)


def test_weights_from_predictions_and_labels(tmp_path: Path) -> None:
    # PERR: a 1, b 0, c 1/2, d 1, e has no labels: errors 0, 1, 1/2, 0, 0, mean 0.3; factors 1, 7/3, sqrt(7/3), 1, 1.
    rows = "a,1 0.9\nb,2 0.9 1 0.8\nc,1 0.9 2 0.8 3 0.7\nd,3 0.1\ne,1 0.5\n"
    (tmp_path / "p.csv").write_text(HEADER + rows)
    (tmp_path / "labels.csv").write_text(LABELS_HEADER + "a,1\nb,1\nc,1 3\nd,3\ne,\n")
    files = (f"--submission_file={tmp_path}/p.csv", f"--labels_file={tmp_path}/labels.csv")
    run("tools.boosting_weights", *files, f"--output_file={tmp_path}/w.csv")
    found = read_example_weights(f"{tmp_path}/w.csv")
    expected = np.array([1, 7 / 3, math.sqrt(7 / 3), 1, 1])
    assert list(found) == list("abcde")
    np.testing.assert_allclose(list(found.values()), expected * 5 / expected.sum(), rtol=1e-5)


# ---- training


def train(place: Path, name: str, copies: list[int], *arguments: str) -> dict[str, np.ndarray]:
    """Trains one step on all videos at once, each so many times, and returns the trained weights by name."""
    generator = np.random.default_rng(0)
    features = generator.normal(size=(4, 8)).astype(np.float32)
    labels = [[0], [1], [0, 2], []]
    records = [
        video_record(f"v{i}", labels[i], {"mean_rgb": features[i]})
        for i, count in enumerate(copies)
        for _ in range(count)
    ]
    write_records(place / f"{name}.tfrecord", records)
    spec = ("--feature_names=mean_rgb", "--feature_sizes=8", "--num_classes=3", "--class_prior_examples=0")
    size = (f"--batch_size={len(records)}", "--max_steps=1", "--optimizer=MomentumOptimizer", "--base_learning_rate=1")
    shards = f"--train_data_pattern={place}/{name}.tfrecord"
    run("train", shards, f"--train_dir={place}/{name}", *spec, *size, *arguments)
    checkpoint = tf.train.load_checkpoint(f"{place}/{name}/ckpt-1")
    names = [n for n in checkpoint.get_variable_to_shape_map() if n.startswith("optimizer/_trainable_variables/")]
    return {n: checkpoint.get_tensor(n) for n in names}


def test_a_weight_counts_as_often_as_copies_do(tmp_path: Path) -> None:
    """The mean divides by the number of videos, which is four in both."""
    (tmp_path / "w.csv").write_text(WEIGHTS_HEADER + "v0,2\nv1,1\nv2,0\nv3,1\n")
    weighted = train(tmp_path, "weighted", [1, 1, 1, 1], f"--example_weights={tmp_path}/w.csv")
    copied = train(tmp_path, "copied", [2, 1, 0, 1])
    plain = train(tmp_path, "plain", [1, 1, 1, 1])
    assert weighted
    for name, value in weighted.items():
        np.testing.assert_allclose(value, copied[name], atol=1e-6)
    assert any(np.abs(value - plain[name]).max() > 1e-3 for name, value in weighted.items())


def test_a_video_without_a_weight_is_named(tmp_path: Path) -> None:
    (tmp_path / "w.csv").write_text(WEIGHTS_HEADER + "v0,2\nv1,1\nv3,1\n")
    with pytest.raises(UserError, match="--example_weights: it has no row for video v2"):
        train(tmp_path, "a", [1, 1, 1, 1], f"--example_weights={tmp_path}/w.csv")
