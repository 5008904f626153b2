"""Packs a run's config.json, newest checkpoint and calibration into one .tgz file, and unpacks it elsewhere."""

import filecmp
import gzip
import io
import shutil
import tarfile
import zlib
from pathlib import Path
from typing import IO, cast

import tensorflow as tf

from yt8m.errors import UserError, first_line
from yt8m.files import AtomicFile, delete_abandoned, partial_path
from yt8m.runs.directory import (
    CALIBRATION,
    CHECKPOINT_NAMES,
    CONFIG,
    checkpoint_files,
    format_checkpoint_names,
    has_run,
    load_config,
    require_checkpoint,
)

_GIGABYTE = 1e9
_USUAL_RATIO = 20  # weights hardly compress, so a larger ratio is suspicious and needs --untar_max_gb


def pack_run(train_dir: str, archive: str) -> None:
    """Writes the config.json, the newest checkpoint and, if there is one, the calibration of a run into a .tgz file.

    Args:
        train_dir: the run's directory.
        archive: the path of the .tgz file; an existing file is replaced only when the new one is complete.

    Raises:
        UserError: if `train_dir` holds no run with a checkpoint, or a file cannot be read or written.
    """
    load_config(train_dir)
    checkpoint = require_checkpoint(train_dir)
    with (
        AtomicFile(archive, b"", "output_model_tgz") as file,
        tarfile.open(fileobj=cast(IO[bytes], file), mode="w|gz") as tar,
    ):
        for path in (CONFIG.path(train_dir), *CALIBRATION.find(train_dir), *checkpoint_files(checkpoint)):
            _add(tar, path)
        _add_state(tar, checkpoint.rsplit("/", 1)[-1])


def _add(tar: tarfile.TarFile, path: str) -> None:
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            info = tarfile.TarInfo(path.rsplit("/", 1)[-1])
            info.size = file.size()
            tar.addfile(info, file)
    except tf.errors.OpError as error:
        raise UserError(
            f"{path} cannot be read ({first_line(error)}). Expected a file of a run. If the run goes on, pack it again."
        ) from error


def _add_state(tar: tarfile.TarFile, checkpoint: str) -> None:
    """Adds a `checkpoint` state file that names the packed checkpoint; the run's own may name a newer one by now."""
    text = format_checkpoint_names([checkpoint]).encode()
    info = tarfile.TarInfo(CHECKPOINT_NAMES.name)
    info.size = len(text)
    tar.addfile(info, io.BytesIO(text))


def unpack_run(archive: str, directory: str, max_gigabytes: float = 0.0) -> None:
    """Unpacks an archive of `pack_run` completely, or leaves the directory unchanged.

    The archive is not trusted: only regular files without a path in their name are unpacked, so that no member is
    written outside the directory, and only up to a total size. Existing files are never changed.

    Args:
        archive: the path of the archive, any that `tf.io.gfile` reads.
        directory: the local directory to unpack into.
        max_gigabytes: the largest unpacked size, in 10^9 bytes; 0 for 20 times the size of the archive, at least 1.

    Raises:
        UserError: if the archive cannot be read to its end, contains anything but regular files without a path, exceeds
            the limit, or contains no run; if the directory cannot be written or holds another run.
    """
    target = Path(directory).absolute()
    # In the nearest folder that is there, so that it can be renamed and no folder is left if it fails.
    folder = next((path for path in target.parents if path.is_dir()), target)
    partial = Path(partial_path(str(folder / target.name)))
    for parent in target.parents:  # a kill may have come when some of them had been made
        delete_abandoned(str(parent / target.name))
    try:
        partial.mkdir()
        _extract(archive, partial, max_gigabytes)
        _move(partial, target)
    except OSError as error:
        raise UserError(
            f"--untar_model_dir={directory} cannot be written ({error}). Choose a place that you may write to."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _extract(archive: str, directory: Path, max_gigabytes: float) -> None:
    try:
        max_bytes = max_gigabytes * _GIGABYTE or max(_GIGABYTE, _USUAL_RATIO * tf.io.gfile.stat(archive).length)
        with tf.io.gfile.GFile(archive, "rb") as source, gzip.GzipFile(fileobj=source) as stream:
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                for member in tar:
                    max_bytes -= member.size  # before anything of it is written
                    _check_member(archive, member, fits=max_bytes >= 0)
                    tar.extract(member, directory, filter="data")
            while stream.read(1 << 20):  # the checksum is at the end, and a tar file ends before that
                pass
    except (tf.errors.OpError, tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise UserError(
            f"--input_model_tgz={archive} cannot be unpacked: {error}. Give what --output_model_tgz wrote."
        ) from error
    if not has_run(str(directory)):
        raise UserError(f"--input_model_tgz={archive} holds no run: expected {CONFIG.name} and a checkpoint.")


def _check_member(archive: str, member: tarfile.TarInfo, fits: bool) -> None:
    if not fits:
        raise UserError(
            f"--input_model_tgz={archive} unpacks to far more than its size: its '{member.name}' of {member.size:,} "
            "bytes goes beyond the limit. Nothing was unpacked. If you trust it, allow more by --untar_max_gb."
        )
    if not member.isfile() or "/" in member.name or "\\" in member.name or member.name.startswith("."):
        raise UserError(
            f"--input_model_tgz={archive} holds '{member.name}', which is no plain file of a run. "
            "Nothing was unpacked. Give what --output_model_tgz wrote."
        )


def _move(source: Path, target: Path) -> None:
    """Renames `source` to `target`, or moves its files there if `target` exists; equal files may exist already."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
        return
    names = sorted(path.name for path in source.iterdir())
    if not any((target / name).exists() for name in names):
        for name in names:
            (source / name).rename(target / name)
        return
    _, different, missing = filecmp.cmpfiles(source, target, names, shallow=False)
    if different or missing:
        raise UserError(
            f"--untar_model_dir={target} holds another run: its {(different + missing)[0]} is not that of "
            "--input_model_tgz. Choose a new directory, or move that run away."
        )
