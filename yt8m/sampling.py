"""Sampling of a video's frames by index, before the frames are decoded."""

from dataclasses import dataclass
from typing import Literal, get_args

import tensorflow as tf

from yt8m.arguments import ArgumentError, check_at_least, check_one_of
from yt8m.randomness import uniform

Method = Literal["random", "random_without_replacement", "random_sequence", "uniform", "shuffled"]


@dataclass(frozen=True)
class FrameSampling:
    """A method of sampling N of a video's T frames.

    Attributes:
        method: `random`: N independent draws, with replacement;
            `random_without_replacement`: min(T, N) different frames in temporal order;
            `random_sequence`: N consecutive frames from a random start, the last frame repeated if T < N;
            `uniform`: frames floor(i * T / N) for i = 0 ... N - 1;
            `shuffled`: all T frames in random order (N is not used).
        num_frames: the number of frames, N.

    Raises:
        UserError: if `method` is none of these, or `num_frames` is below 1 (below 0 for `shuffled`).

    Source: google/youtube-8m, model_utils (random, random_sequence); pomonam/LearnablePoolingMethods (uniform).
    """

    method: Method
    num_frames: int = 0

    def __post_init__(self) -> None:
        check_one_of(get_args(Method), method=self.method)
        check_at_least(0 if self.method == "shuffled" else 1, num_frames=self.num_frames)


def named_sampling(sampling: str, num_frames: int) -> FrameSampling | None:
    """Returns the sampling that a hyper-parameter names, or None for all frames.

    Args:
        sampling: `all`, or a method of FrameSampling.
        num_frames: the number of frames to sample; not used for `all`.

    Raises:
        UserError: if `sampling` is neither `all` nor a method, or `num_frames` is below 1.
    """
    if sampling == "all":
        return None
    check_one_of(("all", *get_args(Method)), sampling=sampling)
    return FrameSampling(sampling, num_frames)  # type: ignore[arg-type]


def random_frames(iterations: int, one_by_one: bool, sampling: str = "random") -> FrameSampling | None:
    """Returns the sampling of training examples, or None for all frames.

    Args:
        iterations: the number of frames to sample; 0 for all frames.
        one_by_one: whether to use `sampling`; if False, `random_sequence`, as with the starter code's flag
            --nosample_random_frames.
        sampling: `all`, or a method of FrameSampling.

    Raises:
        UserError: if `sampling` is neither `all` nor a method, `iterations` is negative, or `one_by_one` is False and
            `sampling` is neither `random` nor `random_sequence`.
    """
    if not one_by_one and sampling not in ("random", "random_sequence"):
        raise ArgumentError(
            f"sample_random_frames=False, sampling={sampling}: the first is random_sequence. Give one of the two."
        )
    chosen = named_sampling(sampling if one_by_one else "random_sequence", iterations or 1)
    return chosen if iterations else None


def fixed_sampling(evaluation_sampling: str, num_frames: int) -> FrameSampling | None:
    """Returns the sampling at evaluation, which must not be random, or None for all frames.

    Args:
        evaluation_sampling: `all`, or `uniform` for equally spaced frames.
        num_frames: the number of frames for `uniform`.

    Raises:
        UserError: if `evaluation_sampling` is neither, or `num_frames` is below 1 for `uniform`.
    """
    check_one_of(("all", "uniform"), evaluation_sampling=evaluation_sampling)
    return named_sampling(evaluation_sampling, num_frames)


def sample_indices(sampling: FrameSampling, num_frames: tf.Tensor, keys: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Samples frame indices for every video of a batch.

    Args:
        sampling: the method, and the number of frames N.
        num_frames: `(B,)` int32, the number of frames T of each video, may be 0.
        keys: `(B,)` int64, each video's source of randomness.

    Returns:
        indices: `(B, N)` int32 in [0, max(T, 1)); for `shuffled` N is the largest T of the batch.
        num_sampled: `(B,)` int32, the number of sampled frames; indices after that are 0 and stand for padding.
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
    """Returns all frame indices in random order, `(B, width)`, padding last, and the lengths `(B, 1)`."""
    draws = uniform(keys, width, "order")
    draws = tf.where(tf.range(tf.shape(draws)[1])[tf.newaxis, :] < lengths, draws, 2.0)
    return tf.argsort(draws, axis=1, stable=True), lengths


def _random_subset(lengths: tf.Tensor, keys: tf.Tensor, count: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the first `count` frames of a random order, sorted by time, and their number `(B, 1)`."""
    width = tf.maximum(tf.reduce_max(lengths), count)
    order, _ = _random_order(lengths, keys, width)
    num_sampled = tf.minimum(lengths, count)
    is_sampled = tf.range(count)[tf.newaxis, :] < num_sampled
    return tf.sort(tf.where(is_sampled, order[:, :count], tf.int32.max), axis=1), num_sampled
