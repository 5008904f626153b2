"""Which frames of a video a model sees: chosen by index, before anything is decoded."""

from dataclasses import dataclass
from typing import Literal, get_args

import tensorflow as tf

from yt8m.arguments import ArgumentError, check_at_least, check_one_of
from yt8m.randomness import uniform

Method = Literal["random", "random_without_replacement", "random_sequence", "uniform", "shuffled"]


@dataclass(frozen=True)
class FrameSampling:
    """How a model's frames are chosen.

    Attributes:
        method: of T frames take
            `random`: `num_frames` independent draws, with replacement;
            `random_without_replacement`: min(T, `num_frames`) different ones in order of time;
            `random_sequence`: `num_frames` in a row from a random start, the last one repeated when T is smaller;
            `uniform`: frame floor(i * T / `num_frames`) for i = 0 ... `num_frames` - 1;
            `shuffled`: all T in random order (`num_frames` is not used).
        num_frames: how many.

    Raises:
        UserError: if there is no such method, or fewer than one frame is asked for.

    Source: google/youtube-8m, model_utils (random, random_sequence); pomonam/LearnablePoolingMethods (uniform).
    """

    method: Method
    num_frames: int = 0

    def __post_init__(self) -> None:
        check_one_of(get_args(Method), method=self.method)
        check_at_least(0 if self.method == "shuffled" else 1, num_frames=self.num_frames)


def named_sampling(sampling: str, num_frames: int) -> FrameSampling | None:
    """Reads how a hyper-parameter names the frames that a model sees.

    Args:
        sampling: `all`, or a method.
        num_frames: how many, unless it is all.

    Returns:
        The sampling, or None for all frames.

    Raises:
        UserError: if there is no such method, or fewer than one frame is asked for.
    """
    if sampling == "all":
        return None
    check_one_of(("all", *get_args(Method)), sampling=sampling)
    return FrameSampling(sampling, num_frames)  # type: ignore[arg-type]


def random_frames(iterations: int, one_by_one: bool, sampling: str = "random") -> FrameSampling | None:
    """The frames of a training example: `iterations` of them as `sampling` says; 0 iterations mean all frames.

    The starter's `--nosample_random_frames` means `random_sequence`; here it is `one_by_one=False`.

    Raises:
        UserError: if there is no such sampling, or it is not the starter's.
    """
    if not one_by_one and sampling not in ("random", "random_sequence"):
        raise ArgumentError(
            f"sample_random_frames=False, sampling={sampling}: the first is random_sequence. Give one of the two."
        )
    chosen = named_sampling(sampling if one_by_one else "random_sequence", iterations or 1)
    return chosen if iterations else None


def fixed_sampling(evaluation_sampling: str, num_frames: int) -> FrameSampling | None:
    """The frames of an evaluated example: all frames, or `num_frames` equally spaced ones. None means all.

    Raises:
        UserError: if it is neither `all` nor `uniform`.
    """
    check_one_of(("all", "uniform"), evaluation_sampling=evaluation_sampling)
    return named_sampling(evaluation_sampling, num_frames)


def sample_indices(sampling: FrameSampling, num_frames: tf.Tensor, keys: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Chooses frames of every video of a batch.

    Args:
        sampling: how, and how many (N).
        num_frames: `(B,)` int32, the true lengths T; a video without frames gets none.
        keys: `(B,)` int64, the videos' random keys.

    Returns:
        indices: `(B, N)` int32 in [0, max(T, 1)); N is the longest video of the batch for `shuffled`.
        num_sampled: `(B,)` int32, how many of a row's indices count; the rest are 0.
    """
    lengths = tf.cast(num_frames, tf.int32)[:, tf.newaxis]
    if sampling.method == "shuffled":
        indices, num_sampled = _random_order(lengths, keys, tf.maximum(tf.reduce_max(num_frames), 0))
    elif sampling.method == "random_without_replacement":
        indices, num_sampled = _random_subset(lengths, keys, sampling.num_frames)
    else:
        choose = {"random": _random, "random_sequence": _random_sequence, "uniform": _uniform}[sampling.method]
        indices = choose(lengths, keys, sampling.num_frames)
        num_sampled = tf.where(lengths > 0, sampling.num_frames, 0)
    is_sampled = tf.range(tf.shape(indices)[1])[tf.newaxis, :] < num_sampled
    return tf.where(is_sampled, indices, 0), num_sampled[:, 0]


def _random(lengths: tf.Tensor, keys: tf.Tensor, count: int) -> tf.Tensor:
    draws = uniform(keys, count, "frames") * tf.cast(lengths, tf.float32)
    return tf.minimum(tf.cast(draws, tf.int32), tf.maximum(lengths - 1, 0))


def _random_sequence(lengths: tf.Tensor, keys: tf.Tensor, count: int) -> tf.Tensor:
    starts = tf.cast(uniform(keys, 1, "start") * tf.cast(tf.maximum(lengths - count, 0) + 1, tf.float32), tf.int32)
    return tf.minimum(starts + tf.range(count)[tf.newaxis, :], tf.maximum(lengths - 1, 0))


def _uniform(lengths: tf.Tensor, keys: tf.Tensor, count: int) -> tf.Tensor:
    return tf.range(count)[tf.newaxis, :] * lengths // count


def _random_order(lengths: tf.Tensor, keys: tf.Tensor, width: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Sorts frames by a random number each; padding gets a number above all others."""
    draws = uniform(keys, width, "order")
    draws = tf.where(tf.range(tf.shape(draws)[1])[tf.newaxis, :] < lengths, draws, 2.0)
    return tf.argsort(draws, axis=1, stable=True), lengths


def _random_subset(lengths: tf.Tensor, keys: tf.Tensor, count: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The first `count` frames of a random order, put back into the order of time."""
    width = tf.maximum(tf.reduce_max(lengths), count)
    order, _ = _random_order(lengths, keys, width)
    num_sampled = tf.minimum(lengths, count)
    is_sampled = tf.range(count)[tf.newaxis, :] < num_sampled
    return tf.sort(tf.where(is_sampled, order[:, :count], tf.int32.max), axis=1), num_sampled
