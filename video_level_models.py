"""Registered models over one vector per video; also the classifiers that follow the pooling of frame-level models.

LogisticModel, MoeModel     here: those of google/youtube-8m
ChainModel                  yt8m/classifiers/chain.py
ResidualMlpModel            yt8m/classifiers/residual_mlp.py
MonnModel                   yt8m/classifiers/monn.py
SvmModel                    yt8m/classifiers/svm.py
NearestNeighboursModel      yt8m/classifiers/nearest_neighbours.py
KernelRidgeModel            yt8m/classifiers/kernel_ridge.py
"""

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from yt8m.arguments import ArgumentError, check_at_least, check_one_of, check_share
from yt8m.batch import KEY, LABELS
from yt8m.classifiers.base import CLASSIFIER_DROPOUT, Outputs, l2_regulariser, outputs_from_logits, prior_logits
from yt8m.layers.dropout import KeyedDropout
from yt8m.layers.frames import read_vectors
from yt8m.layers.gating import GateLogits
from yt8m.layers.mixture import gated_logits, mixture_logits
from yt8m.layers.normalisation import l2_normalise
from yt8m.registry import VIDEO_LEVEL_MODELS
from yt8m.schema import DataSpec


@VIDEO_LEVEL_MODELS.register()
class LogisticModel(keras.Model):
    """Logistic regression per class.

        p = sigmoid(x W + b)

    Args:
        num_classes: the number of classes, C.
        l2_penalty: lambda in the penalty lambda / 2 * sum of W^2.
        dropout: the dropout rate of x, in [0, 1).

    Raises:
        UserError: if `l2_penalty` is below 0, or `dropout` is outside [0, 1).

    Source: google/youtube-8m, LogisticModel.
    """

    def __init__(self, num_classes: int, *, l2_penalty: float = 1e-8, dropout: float = 0.0, **kwargs: Any):
        check_at_least(0, l2_penalty=l2_penalty)
        check_share(dropout=dropout)
        super().__init__(autocast=False, **kwargs)
        self.dropout = KeyedDropout(dropout, CLASSIFIER_DROPOUT)
        # In float32 under every policy: bfloat16 logits have three digits, and scores that tie cannot be ranked.
        self.dense = keras.layers.Dense(num_classes, kernel_regularizer=l2_regulariser(l2_penalty), dtype="float32")

    def build(self, vector_shape: Any) -> None:
        """Creates the kernel W `(E, C)` and the bias b `(C,)`, for vectors of `vector_shape` `(B, E)`."""
        self.dense.build(vector_shape)

    def call(self, vector: tf.Tensor, random_key: tf.Tensor | None = None, training: bool = False) -> Outputs:
        """Maps `vector` `(B, E)` float to `predictions` and `logits`, `(B, C)` float32 each.

        `random_key` `(B,)` int64 is each example's source of randomness, for dropout; may be None at evaluation.
        """
        return outputs_from_logits(self.dense(self.dropout(vector, random_key=random_key, training=training)))

    def start_at_prior(self, prior: np.ndarray) -> None:
        """Sets b = log(p / (1 - p)), so that the prediction for the zero vector is `prior` `(C,)`, p.

        p is each class's frequency in training.
        """
        self.dense.bias.assign(prior_logits(prior))


@VIDEO_LEVEL_MODELS.register(
    flags={
        "moe_num_mixtures": "num_mixtures",
        "moe_l2": "l2_penalty",
        "moe_prob_gating": "prob_gating",
        "moe_prob_gating_input": "prob_gating_input",
        "moe_low_rank_gating": "low_rank_gates",
    }
)
class MoeModel(keras.Model):
    """Mixture of M logistic experts per class, weighted by a softmax gate on the input.

        p_c = sum_{m <= M} softmax(x G_c)_m * sigmoid(x E_cm + b_cm)

    The softmax is over M + 1 gates without a bias; the last gate belongs to a dummy expert of probability 0. With
    `prob_gating` the prediction is

        p' = p * sigmoid(BN(p W))   or   p * sigmoid(BN(x W))

    Args:
        num_classes: the number of classes, C.
        num_mixtures: the number of experts per class, M.
        l2_penalty: lambda in the penalty lambda / 2 * sum of w^2 over G and E, not over b and W.
        dropout: the dropout rate of x, in [0, 1).
        low_rank_gates: the rank of G, as a product of two matrices; -1 for a full matrix.
        prob_gating: whether probabilities are multiplied by a gate, p' in place of p.
        prob_gating_input: the input of that gate: `prob`, p; or `input`, x.
        prob_gating_remove_diag: whether W has no diagonal, so that p_c does not influence its own gate.

    Raises:
        UserError: if `prob_gating_input` is neither, a number is out of range, or the diagonal is to be removed with
            `prob_gating_input=input`.

    Source: google/youtube-8m, MoeModel; gated probabilities and G of low rank: Miech, Laptev & Sivic 2017 and
    antoine77340/Youtube-8M-WILLOW, MoeModel.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        num_mixtures: int = 2,
        l2_penalty: float = 1e-8,
        dropout: float = 0.0,
        low_rank_gates: int = -1,
        prob_gating: bool = False,
        prob_gating_input: str = "prob",
        prob_gating_remove_diag: bool = False,
        **kwargs: Any,
    ):
        check_at_least(1, num_mixtures=num_mixtures)
        check_at_least(0, l2_penalty=l2_penalty)
        check_share(dropout=dropout)
        check_one_of(("prob", "input"), prob_gating_input=prob_gating_input)
        _check_gates(low_rank_gates, prob_gating_input, prob_gating_remove_diag)
        super().__init__(autocast=False, **kwargs)
        self.dropout = KeyedDropout(dropout, CLASSIFIER_DROPOUT)
        self.num_classes = num_classes
        self.num_mixtures = num_mixtures
        regulariser = l2_regulariser(l2_penalty)
        self.narrow_gates = None
        if low_rank_gates > 0:
            self.narrow_gates = keras.layers.Dense(
                low_rank_gates, use_bias=False, kernel_regularizer=regulariser, dtype="float32"
            )
        # Mixture by mixture, each with all classes in a row, so that the blend works on long rows.
        self.gates = keras.layers.Dense(
            (num_mixtures + 1) * num_classes, use_bias=False, kernel_regularizer=regulariser, dtype="float32"
        )
        self.experts = keras.layers.Dense(num_mixtures * num_classes, kernel_regularizer=regulariser, dtype="float32")
        self.prob_gate_takes_input = prob_gating_input == "input"
        self.prob_gate = None
        if prob_gating:
            self.prob_gate = GateLogits(num_classes, remove_diagonal=prob_gating_remove_diag, dtype="float32")

    def build(self, vector_shape: Any) -> None:
        """Creates the weights for vectors of `vector_shape` `(B, E)`.

        These are the kernels of the gates `(E, (M + 1) C)` and of the experts `(E, M C)`, the experts' bias `(M C,)`,
        and optionally the kernel of the gate of the probabilities, `(C, C)` or `(E, C)`.
        """
        gated_shape = vector_shape
        if self.narrow_gates is not None:
            self.narrow_gates.build(vector_shape)
            gated_shape = (vector_shape[0], self.narrow_gates.units)
        self.gates.build(gated_shape)
        self.experts.build(vector_shape)
        if self.prob_gate is not None:
            self.prob_gate.build(vector_shape if self.prob_gate_takes_input else (vector_shape[0], self.num_classes))

    def call(self, vector: tf.Tensor, random_key: tf.Tensor | None = None, training: bool = False) -> Outputs:
        """Maps `vector` `(B, E)` float to `predictions` and `logits`, `(B, C)` float32 each.

        `random_key` `(B,)` int64 is each example's source of randomness, for dropout; may be None at evaluation.
        """
        vector = self.dropout(vector, random_key=random_key, training=training)
        gated = vector if self.narrow_gates is None else self.narrow_gates(vector)
        gates = tf.reshape(self.gates(gated), (-1, self.num_mixtures + 1, self.num_classes))
        experts = tf.reshape(self.experts(vector), (-1, self.num_mixtures, self.num_classes))
        logits = mixture_logits(gates, experts)
        if self.prob_gate is not None:
            gate_input = vector if self.prob_gate_takes_input else tf.sigmoid(logits)
            logits = gated_logits(logits, self.prob_gate(gate_input, training=training))
        return outputs_from_logits(logits)

    def start_at_prior(self, prior: np.ndarray) -> None:
        """Sets the experts' biases so that the prediction for the zero vector is `prior` `(C,)`, p.

            b = log(q / (1 - q)),   q = p (M + 1) / M,   doubled with `prob_gating`

        p is each class's frequency in training. For the zero vector each of the M + 1 gates is 1 / (M + 1), and the
        gate of probabilities starts at 1/2.
        """
        share = (self.num_mixtures + 1) / self.num_mixtures * (1.0 if self.prob_gate is None else 2.0)
        self.experts.bias.assign(np.tile(prior_logits(np.asarray(prior) * share), self.num_mixtures))


def _check_gates(low_rank_gates: int, prob_gating_input: str, remove_diag: bool) -> None:
    if low_rank_gates == 0 or low_rank_gates < -1:
        raise ArgumentError(f"low_rank_gates={low_rank_gates}: expected a rank of at least 1, or -1 for full gates.")
    if remove_diag and prob_gating_input == "input":
        raise ArgumentError(
            "prob_gating_remove_diag=True: gates that are computed from the input have no diagonal. "
            "Leave it out, or take prob_gating_input=prob."
        )


class VideoLevelModel(keras.Model):
    """Concatenates the features of a video-level batch, scales the vector to unit length and classifies it.

    Args:
        spec: the features' names and sizes.
        classifier: an instance of a registered video-level model.

    Source: google/youtube-8m, train.py: features are concatenated, then L2-normalised as a whole.
    """

    def __init__(self, spec: DataSpec, classifier: keras.Model, **kwargs: Any):
        super().__init__(autocast=False, **kwargs)
        self.spec = spec
        self.classifier = classifier

    def build(self, batch_shape: Any = None) -> None:
        """Creates the classifier's weights for vectors `(B, D)`; `batch_shape` is ignored."""
        self.classifier.build((None, self.spec.total_size))

    def call(self, batch: Mapping[str, tf.Tensor], training: bool = False) -> Outputs:
        """Maps a batch of features `(B, size)` by name to `predictions` and `logits`, `(B, C)` float32 each."""
        return self.classifier(self._vector(batch), random_key=batch.get(KEY), training=training)

    def _vector(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        return l2_normalise(read_vectors(batch, self.spec))

    def frame_sampling(self, training: bool) -> None:
        """Returns None: a video-level batch has no frames to sample."""

    def start_at_prior(self, prior: np.ndarray) -> None:
        """Sets the classifier's bias from `prior` `(C,)`, each class's frequency p in training.

        For the zero vector the classifier then predicts p.
        """
        self.classifier.start_at_prior(prior)

    def remember(self, batches: Iterable[Mapping[str, tf.Tensor]]) -> None:
        """Gives a classifier that remembers the vectors and the labels of all training `batches`."""
        self.classifier.remember((self._vector(batch), batch[LABELS]) for batch in batches)
