"""The registered classifier that remembers the training videos: a vote of the nearest ones."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from yt8m.arguments import check_at_least, check_positive
from yt8m.classifiers.base import Outputs
from yt8m.registry import VIDEO_LEVEL_MODELS

_BLOCK_SIZE = 4096  # remembered videos whose distances are in memory at a time
_NO_CLASS = -1
_SAME_VIDEO = 1e-5  # squared distance by squared length; above what rounding leaves of 0
_SMALLEST_PROBABILITY = 1e-7


@VIDEO_LEVEL_MODELS.register()
class NearestNeighboursModel(keras.Model):
    """The k nearest training videos vote for their labels; nothing is trained.

        p_c = (sum_j w_j y_jc + a prior_c) / (sum_j w_j + a),   w_j = exp(-|x - x_j|^2 / sigma)

    j = 1 ... k are the nearest of all remembered videos x_j in Euclidean distance, y_jc is 1 if c is a label of video
    j, and prior_c is the class's frequency in training, which counts like a neighbours of weight 1: a video far from
    all others is predicted to be like any video. With a = 0 p_c is the weighted share of the neighbours with label c.

    The search is exact: every remembered video is compared, in float32, in blocks of 4096. For N videos of E features
    with up to L labels the model holds N (E + L) numbers of 4 bytes, and so does its checkpoint; for a batch of B the
    search takes about B (2 * 4096 + 2 k) numbers more, and the vote B (k L + C).

    Args:
        num_classes: the number of classes, C.
        num_neighbours: k; of fewer remembered videos all vote.
        bandwidth: sigma, in squared distances, which of vectors of unit length are up to 4. The larger it is, the more
            equal the votes.
        prior_weight: a, the weight of the prior beside those of the neighbours.
        leave_one_out: whether a remembered video does not vote for itself: the model then predicts its training videos
            as if it had not seen them, by which it may teach others. It does so for any video whose squared distance is
            at most 1e-5 of its squared length.

    Raises:
        UserError: if `num_neighbours` is below 1, `bandwidth` is not above 0, or `prior_weight` is below 0.

    Source: the weights are those of the baseline in Gong et al. 2013, "Deep convolutional ranking for multilabel image
    annotation"; that they are divided by their sum follows Guillaumin et al. 2009, "TagProp".
    """

    def __init__(
        self,
        num_classes: int,
        *,
        num_neighbours: int = 50,
        bandwidth: float = 0.2,
        prior_weight: float = 1e-4,
        leave_one_out: bool = False,
        **kwargs: Any,
    ):
        check_at_least(1, num_neighbours=num_neighbours)
        check_positive(bandwidth=bandwidth)
        check_at_least(0, prior_weight=prior_weight)
        super().__init__(autocast=False, **kwargs)
        self.num_classes = num_classes
        self.num_neighbours = num_neighbours
        self.bandwidth = bandwidth
        self.prior_weight = prior_weight
        self.leave_one_out = leave_one_out

    def build(self, vector_shape: Any) -> None:
        """Creates the memory, which is empty, for vectors of `vector_shape` `(B, E)`.

        These are the vectors `(N, E)`, the labels as ids `(N, L)`, filled up with -1, and the prior `(C,)`.
        """
        # Variables of TensorFlow's, because Keras has none whose size a checkpoint decides.
        size = vector_shape[1]
        self.vectors = tf.Variable(tf.zeros([0, size]), shape=[None, size], trainable=False, name="vectors")
        self.classes = tf.Variable(tf.zeros([0, 0], tf.int32), shape=[None, None], trainable=False, name="classes")
        self.prior = self.add_weight(
            name="prior", shape=(self.num_classes,), initializer="zeros", trainable=False, dtype="float32"
        )

    def remember(self, examples: Iterable[tuple[tf.Tensor, tf.Tensor]]) -> None:
        """Replaces the memory.

        Args:
            examples: batches of vectors `(B, E)` float and their labels `(B, C)` bool.
        """
        vectors, rows, classes, count = [self.vectors[:0].numpy()], [], [], 0
        for batch, labels in examples:
            videos, labels_of_videos = np.nonzero(labels)
            vectors.append(np.asarray(batch, np.float32))
            rows.append(videos + count)
            classes.append(labels_of_videos)
            count += len(labels)
        self.vectors.assign(np.concatenate(vectors))
        self.classes.assign(_padded(np.concatenate([*rows, []]), np.concatenate([*classes, []]), count))

    def call(self, vector: tf.Tensor, random_key: tf.Tensor | None = None, training: bool = False) -> Outputs:
        """Maps `vector` `(B, E)` float to `predictions` and `logits`, `(B, C)` float32 each.

        `random_key` `(B,)` int64 is each example's source of randomness, of which nothing is drawn. Predictions are
        kept 1e-7 away from 0 and 1, so that logits are finite.
        """
        count = self.num_neighbours + self.leave_one_out
        vector = tf.cast(vector, tf.float32)
        squares, neighbours = nearest(vector, self.vectors, count)
        weights = tf.exp(-squares / self.bandwidth)
        if self.leave_one_out:
            others = squares > _SAME_VIDEO * tf.reduce_sum(vector**2, axis=1, keepdims=True)
            first = tf.cumsum(tf.cast(others, tf.int32), axis=1) <= self.num_neighbours
            weights = tf.where(others & first, weights, 0.0)
        votes = self._votes(weights, tf.gather(self.classes, neighbours)) + self.prior_weight * self.prior
        all_votes = tf.reduce_sum(weights, axis=1, keepdims=True) + self.prior_weight
        p = tf.math.divide_no_nan(votes, all_votes)
        p = tf.clip_by_value(p, _SMALLEST_PROBABILITY, 1.0 - _SMALLEST_PROBABILITY)
        return {"predictions": p, "logits": tf.math.log(p / (1.0 - p))}

    def _votes(self, weights: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        """Sums the weights `(B, k)` of the neighbours by their classes `(B, k, L)`, to `(B, C)`."""
        places = tf.where(classes != _NO_CLASS)
        voted = tf.stack([places[:, 0], tf.cast(tf.gather_nd(classes, places), tf.int64)], axis=1)
        shape = tf.stack([tf.shape(weights, tf.int64)[0], self.num_classes])
        return tf.scatter_nd(voted, tf.gather_nd(weights, places[:, :2]), shape)

    def start_at_prior(self, prior: np.ndarray) -> None:
        """Takes `prior` `(C,)` float, each class's frequency in training, which an empty memory predicts."""
        self.prior.assign(prior)


def _padded(rows: np.ndarray, classes: np.ndarray, count: int) -> np.ndarray:
    """Arranges classes by rows, which are in ascending order: `(count, L)` int32, filled up with `_NO_CLASS`."""
    rows = rows.astype(np.int64)
    lengths = np.bincount(rows, minlength=count)
    columns = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    padded = np.full((count, max(lengths, default=0)), _NO_CLASS, np.int32)
    padded[rows, columns] = classes
    return padded


def nearest(vectors: tf.Tensor, memory: tf.Tensor | tf.Variable, count: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Finds the nearest of N remembered vectors by comparing all of them, a block at a time.

        |x - m|^2 = |x|^2 - 2 x . m + |m|^2,   and 0 where rounding would make it less

    Args:
        vectors: `(B, E)` float32, x.
        memory: `(N, E)` float32, m; N may be 0.
        count: how many to find, k.

    Returns:
        Squared distances `(B, min(k, N))` float32 in ascending order, and the numbers of the vectors, `(B, min(k, N))`
        int32. Of equally near ones the first count.
    """
    memory = tf.convert_to_tensor(memory)
    num_videos, size = tf.shape(vectors)[0], tf.shape(memory)[0]

    def search(start: tf.Tensor, best: tf.Tensor, numbers: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        block = memory[start : start + _BLOCK_SIZE]
        # Without |x|^2, which all have: nearness is what TensorFlow looks for the largest of.
        nearness = 2.0 * tf.matmul(vectors, block, transpose_b=True) - tf.reduce_sum(block**2, axis=1)
        of_block, places = tf.math.top_k(nearness, tf.minimum(count, tf.shape(block)[0]))
        candidates = tf.concat([best, of_block], axis=1)
        candidate_numbers = tf.concat([numbers, start + places], axis=1)
        best, chosen = tf.math.top_k(candidates, tf.minimum(count, tf.shape(candidates)[1]))
        return start + _BLOCK_SIZE, best, tf.gather(candidate_numbers, chosen, batch_dims=1)

    none = tf.zeros([num_videos, 0]), tf.zeros([num_videos, 0], tf.int32)
    _, best, numbers = tf.while_loop(
        lambda start, *_: start < size,
        search,
        (tf.constant(0), *none),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, None]), tf.TensorShape([None, None])),
    )
    return tf.maximum(tf.reduce_sum(vectors**2, axis=1, keepdims=True) - best, 0.0), numbers
