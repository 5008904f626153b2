"""Batches that a tf.data service makes: every record once per epoch; a run that is resumed ends in time."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from programs import run

from yt8m.batch import ID, KEY, LABELS, POSITION
from yt8m.data.synthetic import write_frame_shards, write_video_shards
from yt8m.errors import UserError
from yt8m.positions import Position
from yt8m.randomness import keys_from_positions
from yt8m.runs.directory import newest_checkpoint
from yt8m.sampling import FrameSampling
from yt8m.schema import DataSpec

import readers

NUM_VIDEOS, NUM_SHARDS = 90, 6
VIDEO = DataSpec(("mean_rgb", "mean_audio"), (1024, 128), 20)
FRAMES = DataSpec(("rgb", "audio"), (1024, 128), 20, "frame", max_frames=4)


@pytest.fixture(scope="module", name="service")
def serve() -> Iterator[str]:
    """A dispatcher and two workers in this process."""
    service = tf.data.experimental.service
    dispatcher = service.DispatchServer(service.DispatcherConfig(port=0))
    address = dispatcher.target
    config = service.WorkerConfig(dispatcher_address=address.removeprefix("grpc://"), heartbeat_interval_ms=100)
    workers = [service.WorkerServer(config) for _ in range(2)]
    yield address
    del workers, dispatcher


@pytest.fixture(scope="module", name="shards")
def make_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("shards")
    for write, kind in ((write_video_shards, "video"), (write_frame_shards, "frame")):
        write(place / kind, num_videos=NUM_VIDEOS, num_shards=NUM_SHARDS, num_classes=20)
    return place


def served(service: str, files: list[str], spec: DataSpec, **options: object) -> list[dict[str, np.ndarray]]:
    order = readers.training_order(files, spec, seed=3, options=readers.ReadOptions(num_readers=2, shuffle_window=16))
    options = {"num_epochs": 2, "examples_per_epoch": NUM_VIDEOS} | options
    return list(readers.served_batches(order, spec, 8, service, **options).as_numpy_iterator())  # type: ignore[arg-type]


@pytest.mark.parametrize("spec", [VIDEO, FRAMES], ids=["video", "frame"])
def test_every_record_comes_once_per_epoch_as_it_is_stored(service: str, shards: Path, spec: DataSpec) -> None:
    files = sorted(str(path) for path in (shards / spec.record_format).glob("train*"))
    batches = served(service, files, spec, sampling=FrameSampling("random", 2) if spec is FRAMES else None)
    stored = next(readers.evaluation_batches(files, spec, NUM_VIDEOS, labels_required=True).as_numpy_iterator())
    labels = dict(zip(stored[ID], stored[LABELS], strict=True))
    assert Counter(video for batch in batches for video in batch[ID]) == dict.fromkeys(labels, 2)
    for batch in batches:
        np.testing.assert_array_equal(batch[LABELS], [labels[video] for video in batch[ID]])
        assert set(batch) == {*stored, POSITION}

    # The number of examples seen counts up to the end, and the epoch with it.
    seen = np.cumsum([len(batch[ID]) for batch in batches])
    expected = [[count // NUM_VIDEOS, 0, 0, 0, 0, 0, count] for count in seen.tolist()]
    np.testing.assert_array_equal([batch[POSITION] for batch in batches], expected)
    assert seen[-1] == 2 * NUM_VIDEOS

    # Keys: of seed, epoch, file and record; no two are equal.
    keys = {int(key) for batch in batches for key in batch[KEY]}
    places = [
        (epoch * NUM_SHARDS + file) * 2**32 + record for epoch in range(2) for file in range(6) for record in range(15)
    ]
    assert keys == set(keys_from_positions(3, tf.constant(places, tf.int64)).numpy().tolist())


def test_a_resumed_run_takes_the_examples_that_are_left(service: str, shards: Path) -> None:
    files = sorted(str(path) for path in (shards / "video").glob("train*"))
    batches = served(service, files, VIDEO, start=Position(epoch=1, examples=NUM_VIDEOS + 37))
    assert sum(len(batch[ID]) for batch in batches) == NUM_VIDEOS - 37
    assert batches[-1][POSITION].tolist() == [2, 0, 0, 0, 0, 0, 2 * NUM_VIDEOS]
    assert served(service, files, VIDEO, start=Position(epoch=2, examples=2 * NUM_VIDEOS)) == []


def test_a_run_trains_and_is_resumed_with_and_without_the_service(
    service: str, shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    command = [
        f"--train_data_pattern={shards}/video/train*",
        f"--train_dir={tmp_path}/run",
        "--feature_names=mean_rgb,mean_audio",
        "--feature_sizes=1024,128",
        "--num_classes=20",
        "--batch_size=30",
    ]
    run("train", *command, "--max_steps=2", f"--tf_data_service={service}")
    assert "the order of the data is that in which they come; resuming is not exact" in caplog.text
    run("train", *command, "--max_steps=4", f"--tf_data_service={service}", "--bagging_seed=1")
    position = json.loads((tmp_path / "run/data/4.json").read_text())
    assert (position["order"], position["epoch"], position["examples"]) == ("tf.data service", 1, 120)
    assert "read from the start" not in caplog.text
    run("train", *command, "--max_steps=5")
    assert "number of readers or service: the data are read from the start of epoch 1" in caplog.text
    assert newest_checkpoint(f"{tmp_path}/run") == f"{tmp_path}/run/ckpt-5"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tf_data_service=localhost:1"], "expected the address of a dispatcher, grpc://HOST:PORT"),
        (["--tf_data_service=grpc://127.0.0.1:1"], r"nobody listens there .* Start a dispatcher"),
        (["--tf_data_service=SERVICE", "--mixup=0.5"], "--tf_data_service with --mixup=0.5: a video's partner"),
        (["--tf_data_service=SERVICE", "--on_bad_record=skip"], "with --on_bad_record=skip: its workers run no Python"),
    ],
)
def test_what_a_service_cannot_do_is_one_line(
    service: str, shards: Path, tmp_path: Path, flags: list[str], message: str
) -> None:
    spec = ["--feature_names=mean_rgb,mean_audio", "--feature_sizes=1024,128", "--num_classes=20"]
    given = [flag.replace("SERVICE", service) for flag in flags]
    with pytest.raises(UserError, match=message):
        run("train", f"--train_data_pattern={shards}/video/train*", f"--train_dir={tmp_path}/run", *spec, *given)
    assert not (tmp_path / "run").exists()


def test_damage_is_named_as_without_the_service(service: str, shards: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.tfrecord"
    damaged.write_bytes((shards / "video/train0000.tfrecord").read_bytes()[:-5])
    spec = ["--feature_names=mean_rgb,mean_audio", "--feature_sizes=1024,128", "--num_classes=20"]
    command = [f"--train_data_pattern={damaged}", f"--train_dir={tmp_path}/run", *spec, "--num_epochs=1"]
    with pytest.raises(UserError, match=r"damaged\.tfrecord, record 14: the file ends in the middle of this record"):
        run("train", *command, f"--tf_data_service={service}")
