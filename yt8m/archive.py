"""A run as one file: its description and its newest checkpoint in a .tgz, to hand on and to predict from."""

import io
import tarfile

import tensorflow as tf

from yt8m.checkpoints import CONFIG_FILE, has_run, join, load_config, require_checkpoint
from yt8m.errors import UserError


def pack_run(train_dir: str, archive: str) -> None:
    """Writes the description and the newest checkpoint of a run into a gzipped tar file.

    Raises:
        UserError: if the directory holds no run with a checkpoint, or the file cannot be written.
    """
    load_config(train_dir)
    checkpoint = require_checkpoint(train_dir)
    files = [join(train_dir, CONFIG_FILE), *sorted(tf.io.gfile.glob(f"{checkpoint}.*")), join(train_dir, "checkpoint")]
    temporary = f"{archive}.writing"
    try:
        with tf.io.gfile.GFile(temporary, "wb") as target, tarfile.open(fileobj=target, mode="w|gz") as tar:
            for path in files:
                _add(tar, path)
        tf.io.gfile.rename(temporary, archive, overwrite=True)
    except tf.errors.OpError as error:
        raise UserError(
            f"--output_model_tgz={archive} cannot be written: {error.message} Choose a place that you may write to."
        ) from error


def _add(tar: tarfile.TarFile, path: str) -> None:
    with tf.io.gfile.GFile(path, "rb") as file:
        info = tarfile.TarInfo(path.rsplit("/", 1)[-1])
        info.size = file.size()
        tar.addfile(info, file)


def unpack_run(archive: str, directory: str) -> None:
    """Unpacks what `pack_run` wrote.

    An archive may come from a stranger: only plain files are taken, and only into the directory itself, so that no
    member can write elsewhere.

    Raises:
        UserError: if the file cannot be read, holds anything but plain files without a path, or holds no run.
    """
    try:
        with tf.io.gfile.GFile(archive, "rb") as source, tarfile.open(fileobj=io.BytesIO(source.read())) as tar:
            members = tar.getmembers()
            _check_members(archive, members)
            tf.io.gfile.makedirs(directory)
            for member in members:
                tar.extract(member, directory, filter="data")
    except (tf.errors.OpError, tarfile.TarError, EOFError, OSError) as error:
        raise UserError(
            f"--input_model_tgz={archive} cannot be unpacked: {error}. Give what --output_model_tgz wrote."
        ) from error
    if not has_run(directory):
        raise UserError(f"--input_model_tgz={archive} holds no run: expected {CONFIG_FILE} and a checkpoint.")


def _check_members(archive: str, members: list[tarfile.TarInfo]) -> None:
    for member in members:
        if not member.isfile() or "/" in member.name or "\\" in member.name or member.name.startswith("."):
            raise UserError(
                f"--input_model_tgz={archive} holds '{member.name}', which is no plain file of a run. "
                "Nothing was unpacked. Give what --output_model_tgz wrote."
            )
