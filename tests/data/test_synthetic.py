"""Made-up shards: the documented layout, the same for the same seed, and something to learn in them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from yt8m.data.synthetic import write_frame_shards, write_video_shards
from yt8m.schema import QUANTISATION_OFFSET, QUANTISATION_STEP, DataSpec

from readers import evaluation_batches

NUM_CLASSES = 12
FRAMES = DataSpec(("rgb", "audio"), (1024, 128), NUM_CLASSES, record_format="frame")
VIDEOS = DataSpec(("mean_rgb", "mean_audio"), (1024, 128), NUM_CLASSES)


def read(files: list[str], spec: DataSpec, labels_required: bool = True) -> dict[str, np.ndarray]:
    (batch,) = evaluation_batches(files, spec, 10000, labels_required=labels_required).as_numpy_iterator()
    return batch


def test_frame_level_shards(tmp_path: Path) -> None:
    files = write_frame_shards(tmp_path / "new", num_videos=50, num_shards=3, num_classes=NUM_CLASSES, max_frames=20)
    assert [Path(file).name for file in files] == [f"train{i:04d}.tfrecord" for i in range(3)]
    batch = read(files, FRAMES)
    assert len(set(batch["id"])) == 50
    assert batch["num_frames"].min() >= 1
    assert 10 < batch["num_frames"].max() <= 20
    labels_of_a_video = batch["labels"].sum(axis=1)
    assert labels_of_a_video.min() >= 1
    assert labels_of_a_video.max() > 1


def test_a_seed_makes_the_same_videos_and_another_seed_others(tmp_path: Path) -> None:
    shards = [
        Path(write_frame_shards(tmp_path / name, num_videos=5, num_shards=1, max_frames=5, seed=seed)[0]).read_bytes()
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert shards[0] == shards[1]
    assert shards[0] != shards[2]


def test_a_test_split_has_no_labels_feature(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"num_videos": 4, "num_shards": 1, "max_frames": 3}
    for write in (write_frame_shards, write_video_shards):
        (file,) = write(tmp_path / write.__name__, prefix="test", labelled=False, **sizes)
        for serialized in tf.data.TFRecordDataset(file).as_numpy_iterator():
            assert "labels" not in tf.train.SequenceExample.FromString(serialized).context.feature


def test_video_level_shards_hold_the_means_of_the_frame_level_ones(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"num_videos": 6, "num_shards": 2, "num_classes": NUM_CLASSES, "max_frames": 9, "seed": 4}
    frames = read(write_frame_shards(tmp_path / "f", **sizes), FRAMES)
    videos = read(write_video_shards(tmp_path / "v", **sizes), VIDEOS)
    np.testing.assert_array_equal(frames["id"], videos["id"])
    np.testing.assert_array_equal(frames["labels"], videos["labels"])
    for row, length in enumerate(frames["num_frames"]):
        mean = frames["rgb"][row, :length].mean(axis=0) * QUANTISATION_STEP + QUANTISATION_OFFSET
        np.testing.assert_allclose(videos["mean_rgb"][row], mean, atol=1e-5)


@pytest.mark.parametrize("feature", VIDEOS.feature_names)
def test_other_videos_of_a_class_are_recognised_by_either_modality(tmp_path: Path, feature: str) -> None:
    """The nearest class mean names a right class several times as often as the commonest class is right."""
    sizes: dict[str, Any] = {"num_shards": 1, "num_classes": NUM_CLASSES, "max_frames": 10}
    train = read(write_video_shards(tmp_path / "train", num_videos=400, seed=0, **sizes), VIDEOS)
    test = read(write_video_shards(tmp_path / "test", num_videos=100, seed=1, **sizes), VIDEOS)
    means = np.stack([train[feature][train["labels"][:, c]].mean(axis=0) for c in range(NUM_CLASSES)])
    means -= train[feature].mean(axis=0)
    scores = (test[feature] - train[feature].mean(axis=0)) @ (means / np.linalg.norm(means, axis=1)[:, np.newaxis]).T
    hit_at_one = test["labels"][np.arange(100), scores.argmax(axis=1)].mean()
    commonest = test["labels"][:, train["labels"].sum(axis=0).argmax()].mean()
    assert commonest + 0.2 < hit_at_one < 1.0
    assert train["labels"].sum(axis=0)[0] > 2 * train["labels"].sum(axis=0)[-1]
