"""tools.extract_features: from video files to records that frame-level models read."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from made_videos import write_sound, write_video, write_weights
from programs import run

from yt8m.data.whitening import WhiteningFile
from yt8m.errors import UserError
from yt8m.layers.backbones import networks
from yt8m.layers.frames import dequantise
from yt8m.layers.vggish import vggish
from yt8m.schema import DataSpec

from readers import evaluation_batches

TOOL = "tools.extract_features"
SIZE, WIDTH = 32, 64


@pytest.fixture(scope="module", name="weights")
def make_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_weights(tmp_path_factory.mktemp("weights"), SIZE)


@pytest.fixture(scope="module", name="videos")
def make_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos of 10 frames per second whose frames need no scaling, in two classes."""
    folder = tmp_path_factory.mktemp("videos")
    for name, length in (("jump/a", 12), ("run/b", 25), ("run/c", 40)):
        (folder / name).parent.mkdir(exist_ok=True)
        write_video(folder / f"{name}.mkv", noise(length))
    return folder


def noise(length: int) -> np.ndarray:
    return np.random.default_rng(length).integers(0, 256, (length, SIZE, SIZE, 3), np.uint8)


def extract(videos: Path, weights: str, *more: str) -> None:
    run(
        TOOL,
        f"--videos={videos}",
        "--backbone=SmallCnn",
        f"--backbone_weights={weights}",
        f"--size={SIZE}",
        "--num_processes=1",
        *more,
    )


def read(shard: Path, size: int, name: str = "rgb") -> dict[str, np.ndarray]:
    """The frames of every video of a shard by its id, dequantised."""
    spec = DataSpec((name,), (size,), 2, "frame")
    (batch,) = evaluation_batches([str(shard)], spec, 8, labels_required=True)
    frames = dequantise(batch[name]).numpy()
    counts = batch["num_frames"].numpy()
    return {i.decode(): x[:n] for i, x, n in zip(batch["id"].numpy(), frames, counts, strict=True)}


def expected(length: int, step: int, weights: str) -> np.ndarray:
    """The features of every frame that is seen, by the network itself."""
    kind = networks()["SmallCnn"]
    network = kind.build(SIZE, 1.0)
    network.load_weights(weights)
    frames = tf.constant(noise(length)[::step], tf.float32)
    return network(kind.scale(frames)).numpy().mean(axis=(1, 2))


def test_features_are_those_of_the_network(videos: Path, weights: str, tmp_path: Path) -> None:
    extract(videos, weights, f"--output={tmp_path}/x", "--fps=2")
    found = read(tmp_path / "x0000.tfrecord", WIDTH)
    assert {name: len(frames) for name, frames in found.items()} == {"jump/a": 3, "run/b": 5, "run/c": 8}
    for name, length in (("jump/a", 12), ("run/b", 25), ("run/c", 40)):
        np.testing.assert_allclose(found[name], expected(length, 5, weights), atol=1e-5)
    with pytest.raises(UserError, match=r"^--fps=1\.0: the shards .* were made with 2\.0"):
        extract(videos, weights, f"--output={tmp_path}/x", "--fps=1")


def test_a_pca_is_fitted_and_used(videos: Path, weights: str, tmp_path: Path) -> None:
    pca = f"{tmp_path}/pca.npz"
    extract(videos, weights, f"--fit_pca={pca}", "--pca_size=5", "--fps=10")
    assert not list(tmp_path.glob("*.tfrecord"))
    extract(videos, weights, f"--output={tmp_path}/x", f"--pca={pca}", "--fps=10")
    found = read(tmp_path / "x0000.tfrecord", 5)
    all_frames = np.concatenate([expected(length, 1, weights) for length in (12, 25, 40)])
    whitening = WhiteningFile.read(pca, {"rgb": WIDTH}).whitenings["rgb"]
    np.testing.assert_allclose(whitening.mean, all_frames.mean(0), atol=1e-5)
    inside = np.clip(whitening(expected(40, 1, weights)), -2, 2)
    np.testing.assert_allclose(found["run/c"], inside, atol=4 / 510 + 2e-3)
    record = next(iter(tf.data.TFRecordDataset(f"{tmp_path}/x0000.tfrecord"))).numpy()
    frames = tf.train.SequenceExample.FromString(record).feature_lists.feature_list["rgb"].feature
    assert len(frames[0].bytes_list.value[0]) == 5


@pytest.mark.slow
def test_sound_beside_pictures(weights: str, tmp_path: Path) -> None:
    network = vggish()
    assert network.count_params() == 72_141_184
    network.save_weights(tmp_path / "sound.weights.h5")
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "silent.mkv", noise(12))
    (tmp_path / "list.csv").write_text("path,labels\nvideos/silent.mkv,0\n")
    sound = f"--audio_weights={tmp_path}/sound.weights.h5"
    extract(tmp_path / "list.csv", weights, f"--output={tmp_path}/x", sound, "--fps=5")
    audio = read(tmp_path / "x0000.tfrecord", 128, "audio")["videos/silent"]
    silence = network(np.full((1, 96, 64), np.log(0.01), np.float32)).numpy()
    np.testing.assert_allclose(audio, np.repeat(silence, 6, 0), atol=1e-5)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--backbone_weights="], r"^--backbone_weights is missing: give the file of the weights of SmallCnn"),
        (["--backbone_weights=gone.weights.h5"], r"^--backbone_weights=gone\.weights\.h5: there is no such file"),
        (["--backbone=SmallCmn"], r"^--backbone=SmallCmn: there is no such choice\. Did you mean SmallCnn\?"),
        (["--fit_pca=pca.npz"], r"^--fit_pca writes no records\. Leave out --output"),
        (["--fps=0"], r"^--fps=0\.0: expected a number above 0"),
        (["--crop=1.5"], r"^--crop=1\.5: expected a number in \[0, 1\]"),
        (["--size=0"], r"^--size=0: expected a whole number"),
        (["--pca_size=0"], r"^--pca_size=0: expected a whole number"),
        (["--pca=gone.npz"], r"^--pca=gone\.npz cannot be read"),
        (["--audio_weights=gone.weights.h5"], r"^--audio_weights=gone\.weights\.h5: there is no such file"),
        (["--videos="], r"^--videos is missing"),
        (["--output="], r"^--output is missing"),
    ],
)
def test_flags_that_cannot_be(videos: Path, weights: str, tmp_path: Path, more: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        extract(videos, weights, f"--output={tmp_path}/out/x", *more)
    assert not (tmp_path / "out").exists()


def test_bad_videos_are_skipped_in_both_steps(videos: Path, weights: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"path,labels,id\n{videos}/run/c.mkv,1,c\nsound.wav,1,sound\n")
    write_sound(tmp_path / "sound.wav")
    csv = tmp_path / "list.csv"
    with pytest.raises(UserError, match=r"sound\.wav: it holds no stream of pictures, only audio\. Repair it"):
        extract(csv, weights, f"--fit_pca={tmp_path}/pca.npz", "--pca_size=3", "--fps=10")
    assert not (tmp_path / "pca.npz").exists()
    extract(csv, weights, f"--fit_pca={tmp_path}/pca.npz", "--pca_size=3", "--fps=10", "--on_bad_video=skip")
    extract(csv, weights, f"--output={tmp_path}/x", f"--pca={tmp_path}/pca.npz", "--on_bad_video=skip")
    assert list(read(tmp_path / "x0000.tfrecord", 3)) == ["c"]
    with pytest.raises(UserError, match=r"^--pca_size=64: the videos have 40 frames"):
        extract(csv, weights, f"--fit_pca={tmp_path}/pca.npz", "--fps=10", "--on_bad_video=skip")


def test_frames_are_squeezed_or_cut(weights: str, tmp_path: Path) -> None:
    """A picture twice as wide as high, its outer quarters white: with a crop of 1 only the black middle is seen."""
    picture = np.zeros((1, SIZE, 2 * SIZE, 3), np.uint8)
    picture[:, :, : SIZE // 2] = picture[:, :, -SIZE // 2 :] = 255
    write_video(tmp_path / "x.mkv", picture)
    (tmp_path / "list.csv").write_text("path,labels\nx.mkv,0\n")
    kind = networks()["SmallCnn"]
    network = kind.build(SIZE, 1.0)
    network.load_weights(weights)
    halves = np.zeros((1, SIZE, SIZE, 3), np.float32)
    halves[:, :, : SIZE // 4] = halves[:, :, -SIZE // 4 :] = 255
    for crop, seen in (("1", np.zeros((1, SIZE, SIZE, 3), np.float32)), ("0", halves)):
        extract(tmp_path / "list.csv", weights, f"--output={tmp_path}/{crop}", f"--crop={crop}")
        found = read(tmp_path / f"{crop}0000.tfrecord", WIDTH)["x"]
        np.testing.assert_allclose(found, network(kind.scale(tf.constant(seen))).numpy().mean((1, 2)), atol=1e-4)
