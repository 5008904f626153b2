"""Where files live: local paths, and storage that is reached by a scheme, `s3://bucket/x`.

    files of records      s3 gs az http https: obstore; they are copied before they are read (yt8m/shard_cache.py)
    run directories, CSVs gs: TensorFlow itself; s3 az hdfs http https viewfs har oss: tensorflow-io

obstore runs beside every TensorFlow, tensorflow-io only beside 2.17.
"""

import fnmatch
import importlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from urllib.parse import unquote

import tensorflow as tf

from yt8m.errors import UserError, first_line
from yt8m.files import AtomicFile

# The schemes that tensorflow-io 0.37.1 registers with TensorFlow.
TENSORFLOW_IO_SCHEMES = ("s3", "http", "https", "az", "hdfs", "viewfs", "har", "oss")
OBSTORE_SCHEMES = ("s3", "gs", "az", "http", "https")
_HTTP = ("http", "https")

# Requests are repeated by obstore; what breaks off in the middle of a file is begun again here.
_ATTEMPTS = 5
_SECONDS_BEFORE_SECOND_ATTEMPT = 0.5  # twice as long before each further one
_RETRIES_OF_A_REQUEST = 6
_CHUNK_BYTES = 8 << 20


def scheme(path: str) -> str:
    """Returns the scheme of a path in lower case, `s3` of `s3://bucket/x`, or an empty string for a local path."""
    before, separator, _ = path.partition("://")
    return before.lower() if separator else ""


def enable(path: str) -> None:
    """Loads tensorflow-io if a path needs it. Call it before TensorFlow opens the path.

    Raises:
        UserError: if the path needs tensorflow-io and it cannot be loaded here, or there is no such scheme.
    """
    if scheme(path) not in TENSORFLOW_IO_SCHEMES:
        known = tf.io.gfile.get_registered_schemes()
        if scheme(path) not in known:
            shown = ", ".join(f"{name}://" for name in sorted({*known, *TENSORFLOW_IO_SCHEMES} - {""}))
            raise UserError(f"{path}: there is no storage '{scheme(path)}://'. Known: local paths, {shown}.")
        return
    try:
        importlib.import_module("tensorflow_io")
    except (ImportError, NotImplementedError, tf.errors.OpError) as error:
        raise UserError(
            f"{path}: {scheme(path)}:// needs tensorflow-io, which does not load with TensorFlow "
            f"{tf.__version__}. Use Python 3.11 or 3.12 with TensorFlow 2.17 and tensorflow-io 0.37.1 "
            "(requirements.txt), or keep all but the files of records on a local disk or gs://."
        ) from error


def enable_records(path: str) -> None:
    """Loads tensorflow-io if files of records need it: those that obstore reaches are copied, and the copies are read.

    Raises:
        UserError: as `enable` does.
    """
    if scheme(path) not in OBSTORE_SCHEMES:
        enable(path)


def matching_files(pattern: str) -> list[str]:
    """Returns the files of records that match a glob pattern, sorted; folders are left out.

    A URL of http:// or https:// is taken as it is, because http servers offer no listing.

    Raises:
        UserError: if the pattern's storage needs a package that is missing, or cannot be listed.
    """
    if scheme(pattern) in _HTTP:
        return [pattern]
    if scheme(pattern) in OBSTORE_SCHEMES:
        return _matching_objects(pattern)
    enable(pattern)
    return [path for path in sorted(tf.io.gfile.glob(pattern)) if not tf.io.gfile.isdir(path)]


def _matching_objects(pattern: str) -> list[str]:
    root, key = _root_and_key(pattern)
    parts = key.split("/")
    folder = "/".join(parts[: next((i for i, part in enumerate(parts) if set("*?[") & set(part)), len(parts) - 1)])
    with _reading(pattern):
        listed = [item["path"] for page in _obstore().list(_store(root), prefix=folder or None) for item in page]
    # As in a shell, `*` does not reach across a slash.
    return sorted(
        f"{root}/{name}"
        for name in listed
        if name.count("/") == key.count("/") and all(map(fnmatch.fnmatchcase, name.split("/"), parts))
    )


def version_of(path: str) -> tuple[str, int]:
    """Returns a text that changes with the content of a remote file, and its size in bytes.

    Raises:
        UserError: if there is no such file, or it cannot be reached.
    """
    with _reading(path):
        if scheme(path) not in OBSTORE_SCHEMES:
            status = tf.io.gfile.stat(path)
            return f"{status.mtime_nsec} {status.length}", status.length
        root, key = _root_and_key(path)
        found = _obstore().head(_store(root), key)
        return f"{found['e_tag']} {found['last_modified']} {found['size']}", found["size"]


def read_range(path: str, start: int, end: int) -> bytes | None:
    """Returns the bytes from `start` to before `end` of a remote file; None where its server has whole files only.

    Raises:
        UserError: if it cannot be read.
    """
    with _reading(path):
        if scheme(path) not in OBSTORE_SCHEMES:
            with tf.io.gfile.GFile(path, "rb") as file:
                file.seek(start)
                return bytes(file.read(end - start))
        root, key = _root_and_key(path)
        try:
            return bytes(_obstore().get_range(_store(root), key, start=start, end=end))
        except _exceptions().NotSupportedError:
            return None


def copy(path: str, target: str, num_bytes: int, may_go_on: Callable[[], bool]) -> None:
    """Copies a remote file to a local one, which is whole or not there; what breaks off is begun again a few times.

    Args:
        path: the remote file.
        target: the local file, in an existing folder.
        num_bytes: the size that the copy must have.
        may_go_on: asked between two pieces; the copy is given up when it returns False.

    Raises:
        UserError: if it cannot be read or written.
        InterruptedError: if it was given up.
    """
    for attempt in range(_ATTEMPTS):
        try:
            with _reading(path), AtomicFile(target, b"") as file:
                copied = 0
                for chunk in _chunks(path):
                    if not may_go_on():
                        raise InterruptedError(path)
                    file.write(bytes(chunk))
                    copied += len(chunk)
                if copied != num_bytes:
                    raise ConnectionError(f"{copied} of {num_bytes} bytes came")
            return
        except UserError:
            if attempt == _ATTEMPTS - 1:
                raise
            time.sleep(_SECONDS_BEFORE_SECOND_ATTEMPT * 2**attempt)


def _chunks(path: str) -> Iterator[bytes]:
    if scheme(path) in OBSTORE_SCHEMES:
        root, key = _root_and_key(path)
        yield from _obstore().get(_store(root), key).stream(min_chunk_size=_CHUNK_BYTES)
    else:
        with tf.io.gfile.GFile(path, "rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk


@contextmanager
def _reading(path: str) -> Iterator[None]:
    try:
        yield
    except InterruptedError:
        raise
    except (OSError, ValueError, tf.errors.OpError, *_obstore_errors()) as error:
        raise UserError(
            f"{path} cannot be read ({first_line(error)}). Check the address, the credentials in the environment "
            "(docs/data.md) and the network."
        ) from error


def _root_and_key(path: str) -> tuple[str, str]:
    """Splits a path where the store ends: `s3://bucket`, `az://account/container`, or a server, and the rest."""
    kind, _, rest = path.partition("://")
    num_names = 2 if kind.lower() == "az" else 1
    *names, key = rest.split("/", num_names) if rest.count("/") >= num_names else [rest, ""]
    if kind.lower() in _HTTP:
        # A query is part of the server's own name of the file, as in a signed address.
        return (path, "") if "?" in key else (f"{kind}://{names[0]}", unquote(key))
    return f"{kind}://{'/'.join(names)}", key


@cache
def _store(root: str) -> Any:
    """Opens a store; addresses and credentials are those of the environment, with tensorflow-io's names too."""
    from_url = importlib.import_module("obstore.store").from_url
    kind, _, name = root.partition("://")
    options: dict[str, Any] = {
        "retry_config": {"max_retries": _RETRIES_OF_A_REQUEST},
        "client_options": {"allow_http": True},
    }
    if kind.lower() == "s3" and "S3_ENDPOINT" in os.environ:
        options["config"] = {"endpoint": os.environ["S3_ENDPOINT"]}
    if kind.lower() == "az":
        account, _, name = name.partition("/")
        root = f"az://{name}"
        options["config"] = {"account_name": account}
        if os.environ.get("TF_AZURE_USE_DEV_STORAGE"):
            options["config"] = {"use_emulator": "true"}
    return from_url(root, **options)


def _obstore() -> Any:
    try:
        return importlib.import_module("obstore")
    except ImportError as error:
        raise UserError(
            "Files of records on s3://, gs://, az:// and http(s):// need the package obstore: "
            "pip install -r requirements-remote.txt"
        ) from error


def _exceptions() -> Any:
    return importlib.import_module("obstore.exceptions")


def _obstore_errors() -> tuple[type[Exception], ...]:
    try:
        return (_exceptions().BaseError,)
    except ImportError:
        return ()
