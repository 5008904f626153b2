"""Shards that programs write: whole or absent, and never a mixture of two settings."""

import contextlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf

from yt8m.errors import UserError, first_line
from yt8m.files import delete_abandoned, parse_json, partial_path, read_bytes, write_text

RECORDS = ".tfrecord"


def shard_path(output: str, number: int, suffix: str = RECORDS) -> str:
    """Returns the path of a shard: `DIR/train0003.tfrecord` of `DIR/train` and 3."""
    return f"{output}{number:04d}{suffix}"


def is_written(path: str) -> bool:
    """Tells whether a shard is there, which is whole then."""
    return bool(tf.io.gfile.exists(path))


def write_shard(path: str, records: Iterable[bytes]) -> int:
    """Writes serialized records to a shard under another name, and renames it when it is whole.

    Args:
        path: of the shard.
        records: if making one of them fails, nothing is left.

    Returns:
        How many records there are. Without any, no shard is written: an empty file is none.

    Raises:
        UserError: if the shard cannot be written.
    """
    delete_abandoned(path)
    partial, num_records = partial_path(path), 0
    try:
        with tf.io.TFRecordWriter(partial) as writer:
            for record in records:
                writer.write(record)
                num_records += 1
        if num_records:
            tf.io.gfile.rename(partial, path, overwrite=True)
    except (tf.errors.OpError, OSError) as error:
        raise UserError(f"{path} cannot be written ({first_line(error)}). Is there room and permission?") from error
    finally:
        with contextlib.suppress(tf.errors.OpError):
            tf.io.gfile.remove(partial)
    return num_records


def claim_output(output: str, settings: Mapping[str, Any], suffix: str = RECORDS) -> None:
    """Makes the folder of the shards and writes beside them how they are made, or compares it with what is there.

    Settings without a shard, as a program leaves them that failed early, bind nobody.

    Args:
        output: how the paths of the shards begin: `DIR/train`.
        settings: by flag, all that decides what the shards hold.
        suffix: how their paths end.

    Raises:
        UserError: if the shards that are there were made with other settings, or nothing can be written.
    """
    path = f"{output}_settings.json"
    settings = parse_json(json.dumps(settings))  # as it will be read again
    folder, _, prefix = output.rpartition("/")
    is_begun = _has_shards(folder or ".", prefix)
    if is_begun and not tf.io.gfile.exists(path):
        raise UserError(
            f"--output={output}: there are shards {output}*, and no {path} says how they were made. Choose another "
            "--output, or move them away."
        )
    if not is_begun:
        try:
            tf.io.gfile.makedirs(folder or ".")
        except tf.errors.OpError as error:
            raise UserError(f"--output={output}: the folder cannot be made ({first_line(error)}).") from error
        write_text(path, json.dumps(settings, indent=2) + "\n")
        return
    try:
        found = parse_json(read_bytes(path))
        differences = [name for name in settings if found.get(name) != settings[name]]
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path} cannot be read ({error}). Choose another --output.") from error
    if differences:
        name = differences[0]
        raise UserError(
            f"--{name}={settings[name]}: the shards {output}*{suffix} were made with {found.get(name)}. Choose "
            f"another --output, or delete them and {path}."
        )


def _has_shards(folder: str, prefix: str) -> bool:
    """Whether any shard is there, whatever its kind."""
    if not tf.io.gfile.isdir(folder):
        return False
    is_shard = re.compile(re.escape(prefix) + r"\d{4,}\.[a-z]+").fullmatch
    return any(is_shard(name) for name in tf.io.gfile.listdir(folder))
