"""Mixup: the shares by scipy, the mixtures by hand and by the videos they are of, and runs on one and two devices."""

from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from programs import run

from yt8m.batch import EXAMPLE_WEIGHTS, MIXUP_SHARE, PARTNER_LABEL_WEIGHTS, PARTNER_LABELS
from yt8m.config import OptimizationConfig
from yt8m.data.mixup import mixed, partners
from yt8m.data.synthetic import write_clip_shards, write_frame_shards, write_video_shards
from yt8m.distribution import one_device_strategy
from yt8m.engine.step import TrainState, TrainStep
from yt8m.errors import UserError
from yt8m.randomness import symmetric_beta, uniform
from yt8m.schema import DataSpec

import readers
from losses import cross_entropy_loss
from video_level_models import LogisticModel, VideoLevelModel

SPEC = DataSpec(("mean_rgb", "mean_audio"), (1024, 128), 4)
KEYS = tf.range(4000, dtype=tf.int64)
LEVELS = {
    "video": (),
    "frame": ("--frame_features", "--feature_names=rgb", "--feature_sizes=1024", "--model=FrameLevelLogisticModel"),
}


@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0, 5.0])
def test_shares_have_the_beta_distribution(alpha: float) -> None:
    shares = symmetric_beta(KEYS, alpha, "share").numpy()
    u = uniform(KEYS, 1, "share")[:, 0].numpy().astype(np.float64)
    # By the distribution function: where it is steep a share is exact, where it is flat the function is.
    np.testing.assert_allclose(shares, scipy.stats.beta(alpha, alpha).ppf(u), atol=2e-5)
    assert np.all((shares >= 0) & (shares <= 1))


def test_a_mixture_by_hand() -> None:
    batch = {
        "id": tf.constant(["a", "b"]),
        "key": tf.constant([5, 6], tf.int64),
        "x": tf.constant([[1.0, 2.0], [3.0, 4.0]]),
        "labels": tf.constant([[True, False], [False, True]]),
        "label_weights": tf.constant([[1.0, 2.0], [3.0, 4.0]]),
    }
    others = {name: value[::-1] for name, value in batch.items()}
    found = mixed(batch, others, ["x"], 0.4)
    s = symmetric_beta(batch["key"], 0.4, "mixup share").numpy()
    assert 0 < s[0] != s[1]
    np.testing.assert_allclose(found["x"], [[3 - 2 * s[0], 4 - 2 * s[0]], [1 + 2 * s[1], 2 + 2 * s[1]]], rtol=1e-6)
    np.testing.assert_array_equal(found[MIXUP_SHARE], s)
    np.testing.assert_array_equal(found[PARTNER_LABELS], batch["labels"][::-1])
    np.testing.assert_array_equal(found[PARTNER_LABEL_WEIGHTS], batch["label_weights"][::-1])
    for name in ("id", "key", "labels", "label_weights"):
        np.testing.assert_array_equal(found[name], batch[name])


def loop_over_frames(x: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """The mixture of the frames `(T, D)` of two videos, frame by frame; the shorter one starts again at its end."""
    if not len(x) or not len(other):
        return x if len(x) else other
    count = max(len(x), len(other))
    return np.array([share * x[t % len(x)] + (1 - share) * other[t % len(other)] for t in range(count)])


@pytest.mark.parametrize("stored", [tf.uint8, tf.float32])
def test_frames_are_mixed_one_by_one(stored: tf.DType) -> None:
    lengths, widths = {"own": [2, 5, 3, 0, 0], "partners": [5, 2, 0, 4, 0]}, {"own": 5, "partners": 7}
    random = np.random.default_rng(0)
    videos = {whose: [random.integers(0, 256, (n, 3)) for n in numbers] for whose, numbers in lengths.items()}
    own, partners_own = (
        {
            "key": tf.range(5, dtype=tf.int64),
            "num_frames": tf.constant(lengths[whose], tf.int32),
            # Padding is whatever it is: here it would show.
            "x": tf.constant([[*frames, *[[99] * 3] * (widths[whose] - len(frames))] for frames in of_them], stored),
            "labels": tf.zeros([5, 2], tf.bool),
        }
        for whose, of_them in videos.items()
    )
    found = mixed(own, partners_own, ["x"], 0.4)
    assert found["x"].dtype == stored
    assert found["x"].shape == (5, 5, 3)
    np.testing.assert_array_equal(found["num_frames"], [5, 5, 3, 4, 0])
    for b, share in enumerate(found[MIXUP_SHARE].numpy()):
        expected = loop_over_frames(videos["own"][b], videos["partners"][b], share)
        np.testing.assert_allclose(found["x"][b, : len(expected)], expected, atol=0.501 if stored == tf.uint8 else 1e-4)
        np.testing.assert_array_equal(found["x"][b, len(expected) :], 0)


def test_videos_without_frames_mix_with_others_and_with_each_other() -> None:
    empty = {
        "key": tf.range(2, dtype=tf.int64),
        "num_frames": tf.zeros([2], tf.int32),
        "x": tf.zeros([2, 0, 3], tf.uint8),
        "labels": tf.zeros([2, 2], tf.bool),
    }
    one = empty | {"num_frames": tf.constant([1, 0], tf.int32), "x": tf.fill([2, 1, 3], tf.constant(7, tf.uint8))}
    assert mixed(empty, empty, ["x"], 1.0)["x"].shape == (2, 0, 3)
    np.testing.assert_array_equal(mixed(empty, one, ["x"], 1.0)["x"], [[[7] * 3], [[0] * 3]])


def test_partners_are_a_permutation_that_the_place_in_the_data_decides() -> None:
    first, again, later = (partners(3, tf.constant(n, tf.int64), 20).numpy() for n in (40, 40, 60))
    np.testing.assert_array_equal(np.sort(first), np.arange(20))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != later)


@pytest.fixture(scope="module", name="place")
def make_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("mixup")
    write_video_shards(place, prefix="train", num_videos=50, num_shards=2, num_classes=4)
    return place


def batches(place: Path, mixup: float, worker: int = 0, num_workers: int = 1) -> list[dict[str, np.ndarray]]:
    order = readers.training_order([str(file) for file in sorted(place.glob("train*.tfrecord"))], SPEC, seed=2)
    mixed = readers.training_batches(order, SPEC, 15, num_epochs=1, mixup=mixup, worker=worker, num_workers=num_workers)
    return list(mixed.as_numpy_iterator())


def test_a_batch_is_mixed_of_the_videos_of_the_same_batch_without_mixup(place: Path) -> None:
    pairs = list(zip(batches(place, 0.0), batches(place, 0.4), strict=True))
    assert [len(plain["id"]) for plain, _ in pairs] == [15, 15, 15, 5]
    for plain, found in pairs:
        chosen = partners(2, tf.constant(plain["position"][-1]), len(plain["id"])).numpy()
        share = found[MIXUP_SHARE][:, None]
        for name in SPEC.feature_names:
            np.testing.assert_allclose(found[name], share * plain[name] + (1 - share) * plain[name][chosen], atol=1e-5)
        np.testing.assert_array_equal(found[PARTNER_LABELS], plain["labels"][chosen])
        for name in ("id", "key", "labels", "position"):
            np.testing.assert_array_equal(found[name], plain[name])


def test_workers_have_their_shares_of_the_same_mixtures(place: Path) -> None:
    alone = batches(place, 0.4)
    for whole, *shares in zip(alone, *(batches(place, 0.4, worker, 2) for worker in range(2)), strict=True):
        for name in whole.keys() - {"position"}:
            np.testing.assert_array_equal(np.concatenate([share[name] for share in shares]), whole[name])


def test_the_loss_is_that_of_mixed_labels_with_the_weights_of_each() -> None:
    # A step of gradient descent on cross entropy: the gradient by the bias is the mean of w (p - y), p = 1/2 at first.
    spec = DataSpec(("x",), (2,), 3)
    labels = np.array([[[1, 0, 0], [0, 1, 1]], [[0, 0, 1], [1, 1, 0]]], np.float64)  # own, partner's
    weights = np.array([[[1, 1, 1], [1, 2, 0]], [[3, 1, 1], [1, 1, 1]]], np.float64)
    shares, of_videos = np.array([[0.75], [0.5]]), np.array([[1.0], [2.0]])
    batch = {
        "id": tf.constant(["a", "b"]),
        "key": tf.constant([5, 6], tf.int64),
        "x": tf.constant([[1.0, 2.0], [3.0, 4.0]]),
        "labels": tf.constant(labels[0] > 0),
        "label_weights": tf.constant(weights[0], tf.float32),
        EXAMPLE_WEIGHTS: tf.constant(of_videos[:, 0], tf.float32),
        MIXUP_SHARE: tf.constant(shares[:, 0], tf.float32),
        PARTNER_LABELS: tf.constant(labels[1] > 0),
        PARTNER_LABEL_WEIGHTS: tf.constant(weights[1], tf.float32),
        "position": tf.zeros([7], tf.int64),
    }
    model = VideoLevelModel(spec, LogisticModel(3, l2_penalty=0.0))
    model.build()
    model.classifier.dense.kernel.assign(tf.zeros([2, 3]))
    data = tf.data.Dataset.from_tensors(batch)
    step = TrainStep(
        one_device_strategy(),
        TrainState(model, OptimizationConfig(optimizer="SGD", base_learning_rate=1.0), run_examples=1),
        cross_entropy_loss,
        regularization_penalty=1.0,
        clip_gradient_norm=0.0,
        top_k=1,
        batch_spec=data.element_spec,
    )
    measures = step.run(iter(data), 1)
    of_each = [
        np.sum(weights[i] * (0.5 - labels[i]) * part * of_videos, axis=0) for i, part in enumerate((shares, 1 - shares))
    ]
    np.testing.assert_allclose(model.classifier.dense.bias, -(of_each[0] + of_each[1]) / 2, rtol=1e-6)
    loss = np.sum(np.log(2) * (shares * weights[0] + (1 - shares) * weights[1]) * of_videos) / 2
    assert measures is not None
    np.testing.assert_allclose(measures.scalars["label_loss"], loss, rtol=1e-6)


def train(place: Path, name: str, *arguments: str) -> dict[str, np.ndarray]:
    line = [f"--train_data_pattern={place}/train*.tfrecord", f"--train_dir={place}/{name}", "--num_classes=4"]
    run("train", *line, "--batch_size=15", "--num_epochs=1", "--class_prior_examples=0", *arguments)
    checkpoint = tf.train.load_checkpoint(str(place / name))
    names = [name for name in checkpoint.get_variable_to_shape_map() if "_trainable_variables" in name]
    return {name: checkpoint.get_tensor(name) for name in names}


@pytest.mark.parametrize("level", ["video", "frame"])
def test_one_device_and_two_train_on_the_same_mixtures(place: Path, tmp_path: Path, level: str) -> None:
    if level == "frame":
        place = tmp_path
        write_frame_shards(place, prefix="train", num_videos=20, num_shards=2, num_classes=4, max_frames=7)
    one, two, plain = (
        train(place, "one", "--mixup=0.4", *LEVELS[level]),
        train(place, "two", "--mixup=0.4", "--num_gpu=2", *LEVELS[level]),
        train(place, "plain", *LEVELS[level]),
    )
    for name, weights in one.items():
        np.testing.assert_allclose(two[name], weights, atol=1e-6)
    assert any(np.abs(plain[name] - weights).max() > 1e-3 for name, weights in one.items())


def test_what_cannot_be_mixed_is_refused(place: Path, tmp_path: Path) -> None:
    write_clip_shards(tmp_path, prefix="train", num_videos=2, num_shards=1)
    clips = ("--record_format=clip", "--feature_names=rgb", "--feature_sizes=3", "--model=C3dModel")
    with pytest.raises(UserError, match=r"^--mixup=0\.4: it mixes vectors of videos or frames, and --record_format=cl"):
        train(tmp_path, "clips", "--mixup=0.4", *clips)
    with pytest.raises(UserError, match=r"^--mixup=0\.4: with --bagging_seed=1 it has no meaning"):
        train(place, "bag", "--mixup=0.4", "--bagging_seed=1")
    with pytest.raises(UserError, match=r"^--mixup=-1\.0: expected at least 0"):
        train(place, "negative", "--mixup=-1")
