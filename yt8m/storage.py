"""Where files live: local paths, gs:// (in TensorFlow itself) and the schemes that tensorflow-io adds."""

import importlib

import tensorflow as tf

from yt8m.errors import UserError

# The schemes that tensorflow-io 0.37.1 registers with TensorFlow.
TENSORFLOW_IO_SCHEMES = ("s3", "http", "https", "az", "hdfs", "viewfs", "har", "oss")
_WITHOUT_LISTING = ("http", "https")


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
            f"{tf.__version__}. "
            "Use Python 3.11 or 3.12 with TensorFlow 2.17 and tensorflow-io 0.37.1 (requirements.txt), or copy the "
            "files to a local disk or to gs://."
        ) from error


def matching_files(pattern: str) -> list[str]:
    """Returns the files that match a glob pattern, sorted; folders are left out.

    A URL of http:// or https:// is taken as it is, because http servers offer no listing.

    Raises:
        UserError: if the pattern's scheme needs tensorflow-io and it cannot be loaded here.
    """
    enable(pattern)
    if scheme(pattern) in _WITHOUT_LISTING:
        return [pattern]
    return [path for path in sorted(tf.io.gfile.glob(pattern)) if not tf.io.gfile.isdir(path)]
