"""Weights of training videos: given by a CSV, as boosting needs them, or drawn, as bagging does.

VideoId,Weight
<id>,<number of at least 0>
"""

import re
from collections.abc import Callable, Iterator

import tensorflow as tf

from yt8m.arguments import LARGEST_FLOAT
from yt8m.batch import EXAMPLE_WEIGHTS, ID, Batch
from yt8m.errors import UserError, first_line
from yt8m.files import open_text
from yt8m.randomness import keys_from_ids, keys_from_positions, uniform

WEIGHTS_HEADER = "VideoId,Weight\n"

_MISSING = "there is no example weight of video"
# P(X <= k) of a Poisson variable of mean 1, k = 0 ... 9; the next one is 1 in float32.
_POISSON = (
    0.36787944,
    0.73575888,
    0.91969860,
    0.98101184,
    0.99634015,
    0.99940582,
    0.99991676,
    0.99998975,
    0.99999887,
    0.99999989,
)


def read_example_weights(path: str) -> dict[str, float]:
    """Reads the weights of videos by id from a CSV.

    Raises:
        UserError: if the file cannot be read, has another format, or a video twice; the message names the line.
    """
    weights: dict[str, float] = {}
    for number, line in _lines(path):
        video_id, comma, word = line.partition(",")
        try:
            weight = float(word)
        except ValueError:
            comma = ""
        if not comma or not 0 <= weight <= LARGEST_FLOAT:
            raise UserError(f"{path}, line {number}: found {line[:60]!r}, expected <id>,<number of at least 0>.")
        if video_id in weights:
            raise UserError(f"{path}, line {number}: video {video_id} has a weight already; expected one per video.")
        weights[video_id] = weight
    if not any(weights.values()):
        raise UserError(f"{path}: no video has a weight above 0, so that nothing would be learned.")
    return weights


def _lines(path: str) -> Iterator[tuple[int, str]]:
    try:
        with open_text(path) as file:
            found = file.readline().rstrip("\r\n")
            if found != WEIGHTS_HEADER.rstrip():
                raise UserError(f"{path}, line 1: found {found[:60]!r}, expected the header {WEIGHTS_HEADER.rstrip()}.")
            for number, line in enumerate(file, start=2):
                yield number, line.rstrip("\r\n")
    except tf.errors.OpError as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}). Expected a CSV of example weights.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8; expected a CSV of example weights.") from error


def with_example_weights(weights: dict[str, float] | None, bagging_seed: int) -> Callable[[Batch], Batch]:
    """Returns a function for `Dataset.map` that adds `example_weights` `(B,)` float32 to a batch.

        weight[b] = weights[id[b]] * bootstrap_counts(id[b])

    A video without a given weight fails: see `missing_weight`.

    Args:
        weights: by id; None if all are 1.
        bagging_seed: of `bootstrap_counts`; 0 for none.
    """
    if weights is not None:
        initializer = tf.lookup.KeyValueTensorInitializer(list(weights), list(weights.values()), tf.string, tf.float32)
        table = tf.lookup.StaticHashTable(initializer, default_value=-1.0)

    @tf.autograph.experimental.do_not_convert
    def add(batch: Batch) -> Batch:
        ids = batch[ID]
        result = tf.ones(tf.shape(ids))
        if weights is not None:
            given = table.lookup(ids)
            missing = tf.boolean_mask(ids, given < 0)[:1]
            with tf.control_dependencies([tf.debugging.Assert(tf.size(missing) == 0, [_MISSING, missing])]):
                result *= given
        if bagging_seed:
            result *= bootstrap_counts(ids, bagging_seed)
        return batch | {EXAMPLE_WEIGHTS: result}

    return add


def bootstrap_counts(ids: tf.Tensor, seed: int) -> tf.Tensor:
    """Draws how often each video is in a bootstrap sample, `(B,)` float32 from `ids` `(B,)` string.

    A Poisson variable of mean 1, the limit of drawing N of N videos with replacement, as a function of seed and id: the
    same in every epoch and on every device.

    Source: Oza & Russell 2001, "Online Bagging and Boosting".
    """
    keys = keys_from_positions(seed, keys_from_ids(ids))
    draws = uniform(keys, 1, "bagging")
    return tf.reduce_sum(tf.cast(draws >= tf.constant(_POISSON), tf.float32), axis=1)


def missing_weight(error: Exception) -> UserError | None:
    """Returns a message that names the video if a batch failed for want of its weight, else None."""
    found = re.search(rf"\[{_MISSING}\] \[(.*?)\]", str(error))
    if found is None:
        return None
    return UserError(
        f"--example_weights: it has no row for video {found[1]}, which is among the training videos. Expected a weight "
        "for each; 0 leaves a video out."
    )
