"""Training and inference on s3:// and az://, against servers that imitate them and that this file starts itself."""

import base64
import datetime
import hashlib
import hmac
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tensorflow as tf
from programs import run

from yt8m import storage
from yt8m.data.synthetic import write_video_shards

obstore = pytest.importorskip("obstore", reason="needs the packages of requirements-remote.txt")

ROOT = Path(__file__).parents[2]
SPEC = ("--feature_names=mean_rgb,mean_audio", "--feature_sizes=1024,128", "--num_classes=4")
TRAINING = ("--num_epochs=1", "--batch_size=20", "--num_readers=2", *SPEC)
NUM_SHARDS = 3
SECONDS_TO_START = 120

# Of the emulator, in public documentation: everybody's account and key.
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

MOTO = ("YT8M_MOTO_SERVER", "moto_server", "pip install 'moto[server]==5.2.5' in an environment of its own")
AZURITE = ("YT8M_AZURITE", "azurite-blob", "npm install azurite@3.37.0 in a folder of its own")


def executable(variable: str, name: str, installation: str) -> str:
    """The path of a server's program: what a variable names, or what is on PATH."""
    path = os.environ.get(variable) or shutil.which(name)
    if not path:
        pytest.skip(f"needs {name}: {installation}; then let {variable} name the program")
    return path


@contextmanager
def serving(command: list[str], port: int, folder: Path) -> Iterator[None]:
    """Starts a server, waits until it listens, and ends it."""
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            end = time.monotonic() + SECONDS_TO_START
            while time.monotonic() < end and process.poll() is None:
                with socket.socket() as attempt:
                    if attempt.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.2)
            else:
                pytest.fail(f"{command[0]} does not listen: {(folder / 'server.log').read_text()}")
            yield
        finally:
            process.kill()  # on SIGTERM it would wait for clients that keep their connections
            process.wait()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture(scope="module", name="environment")
def make_environment() -> Iterator[pytest.MonkeyPatch]:
    """Variables for this module's tests and the programs that they start."""
    with pytest.MonkeyPatch.context() as patch:
        storage._store.cache_clear()
        yield patch
    storage._store.cache_clear()


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory, environment: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of moto's S3."""
    program, port = executable(*MOTO), free_port()
    address = f"http://127.0.0.1:{port}"
    names = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1", "S3_ENDPOINT": address}
    for name, value in names.items():
        environment.setenv(name, value)
    with serving([program, "-H", "127.0.0.1", "-p", str(port)], port, tmp_path_factory.mktemp("moto")):
        urllib.request.urlopen(urllib.request.Request(f"{address}/videos", method="PUT")).close()
        yield "s3://videos"


@pytest.fixture(scope="module")
def az(tmp_path_factory: pytest.TempPathFactory, environment: pytest.MonkeyPatch) -> Iterator[str]:
    """A container of Azurite's storage."""
    program, port, folder = executable(*AZURITE), free_port(), tmp_path_factory.mktemp("azurite")
    address = f"http://127.0.0.1:{port}"
    environment.setenv("TF_AZURE_USE_DEV_STORAGE", "1")
    environment.setenv("AZURITE_BLOB_STORAGE_URL", address)
    options = ["--blobPort", str(port), "--location", str(folder), "--skipApiVersionCheck", "--silent"]
    with serving([program, *options], port, folder):
        make_container(f"{address}/{AZURE_ACCOUNT}/videos")
        yield f"az://{AZURE_ACCOUNT}/videos"


def make_container(address: str) -> None:
    """Asks for a new container. Source: Azure Storage's reference, "Authorize with Shared Key", version 2015-02-21."""
    path = address.partition("//")[2].partition("/")[2]
    date = datetime.datetime.now(datetime.UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    signed = f"PUT{12 * chr(10)}x-ms-date:{date}\nx-ms-version:2021-12-02\n/{AZURE_ACCOUNT}/{path}\nrestype:container"
    signature = hmac.new(base64.b64decode(AZURE_KEY), signed.encode(), hashlib.sha256).digest()
    headers = {
        "x-ms-date": date,
        "x-ms-version": "2021-12-02",
        "Authorization": f"SharedKey {AZURE_ACCOUNT}:{base64.b64encode(signature).decode()}",
    }
    request = urllib.request.Request(f"{address}?restype=container", method="PUT", headers=headers)
    urllib.request.urlopen(request).close()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards on disk, a run that was trained on them, and its predictions: what the others are held against."""
    place = tmp_path_factory.mktemp("local")
    write_video_shards(place, num_videos=60, num_shards=NUM_SHARDS, num_classes=4)
    train_and_predict(f"{place}/train*.tfrecord", place)
    return place


def train_and_predict(pattern: str, place: Path) -> None:
    cache = f"--cache_dir={place}/cache"
    run("train", f"--train_data_pattern={pattern}", f"--train_dir={place}/run", cache, *TRAINING)
    output = f"--output_file={place}/predictions.csv"
    run("inference", f"--input_data_pattern={pattern}", f"--train_dir={place}/run", cache, output)


def upload(local: Path, root: str) -> None:
    bucket, _ = storage._root_and_key(f"{root}/x")
    for path in local.glob("train*.tfrecord"):
        obstore.put(storage._store(bucket), f"shards/{path.name}", path.read_bytes())


@pytest.mark.parametrize("store", ["s3", "az"])
def test_remote_shards_train_and_predict_as_local_ones(
    store: str, local: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root = request.getfixturevalue(store)
    upload(local, root)
    train_and_predict(f"{root}/shards/train*.tfrecord", tmp_path)
    assert len(list((tmp_path / "cache").rglob("train*.tfrecord.*"))) == NUM_SHARDS
    assert (tmp_path / "predictions.csv").read_bytes() == (local / "predictions.csv").read_bytes()


def program(name: str, *arguments: str, status: int = 0) -> str:
    """Runs a program in a process of its own: with tensorflow-io in it, this one would abort when it ends."""
    done = subprocess.run(
        [sys.executable, name, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == status, done.stderr
    return done.stderr


@pytest.mark.slow
@pytest.mark.skipif(
    not tf.__version__.startswith("2.17."), reason="needs tensorflow-io, which loads with TensorFlow 2.17"
)
def test_a_run_on_s3_is_that_on_a_disk(s3: str, local: Path, tmp_path: Path) -> None:
    upload(local, s3)
    remote_run = f"--train_dir={s3}/runs/first"
    program("train.py", f"--train_data_pattern={local}/train*.tfrecord", remote_run, *TRAINING)
    written = [item["path"] for page in obstore.list(storage._store(s3), prefix="runs/first") for item in page]
    assert not [name for name in written if name.endswith(".partial")]
    pattern, cache = f"--input_data_pattern={s3}/shards/train*.tfrecord", f"--cache_dir={tmp_path}"
    program("inference.py", remote_run, pattern, cache, f"--output_file={s3}/predictions.csv")
    predictions = bytes(obstore.get(storage._store(s3), "predictions.csv").bytes())
    assert predictions == (local / "predictions.csv").read_bytes()
    missing = f"--teacher={s3}/missing.csv"
    said = program(
        "train.py",
        f"--train_data_pattern={local}/train*.tfrecord",
        f"--train_dir={tmp_path}/run",
        missing,
        "--label_loss=DistillationLoss",
        *TRAINING,
        status=1,
    )
    assert said.splitlines()[-1] == (
        f"error: {s3}/missing.csv cannot be read (Object {s3}/missing.csv does not exist). Expected a submission."
    )
