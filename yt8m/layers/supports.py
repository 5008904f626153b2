"""Support predictions: predictions on the way, supervised by the same labels, and a short code of them as a feature."""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from yt8m.arguments import check_at_least
from yt8m.layers.normalisation import l2_normalise


class PredictionCode(keras.layers.Layer):
    """A short code of a video's predictions, of unit length.

        s = L2(relu(p W + b))

    Args:
        code_size: the width of s.

    Raises:
        UserError: if `code_size` is below 1.

    Source: Wang, Zhang & Wu 2017, "The monkeytyping solution to the YouTube-8M video understanding challenge".
    """

    def __init__(self, code_size: int, **kwargs: Any):
        super().__init__(autocast=False, **kwargs)
        check_at_least(1, code_size=code_size)
        self.dense = keras.layers.Dense(code_size, activation="relu", dtype="float32")

    def build(self, input_shape: Any) -> None:
        """Creates the kernel W `(C, code_size)` and the bias b, for predictions of `input_shape` `(B, C)`."""
        self.dense.build(input_shape)

    def call(self, predictions: tf.Tensor) -> tf.Tensor:
        """Maps `predictions` `(B, C)` float to their code, `(B, code_size)` float32."""
        return l2_normalise(self.dense(tf.cast(predictions, tf.float32)))


def supported_outputs(logits: tf.Tensor, support_logits: Sequence[tf.Tensor], support_weight: float) -> dict[str, Any]:
    """Returns the outputs of a model with S support predictions, for BranchCrossEntropyLoss.

        loss = (1 - w) BCE(p, y) + w sum_s BCE(p_s, y)

    Args:
        logits: `(B, C)` float32, those of p.
        support_logits: S tensors `(B, C)` float32, those of each p_s.
        support_weight: w.

    Returns:
        `predictions` and `logits` `(B, C)`, `branch_logits` `(B, S, C)` and `branch_weights` `(1, 1 + S)`.

    Source: wangheda/youtube-8m, where the labels of the support predictions are those of the video, repeated.
    """
    return {
        "predictions": tf.sigmoid(logits),
        "logits": logits,
        "branch_logits": tf.stack(list(support_logits), axis=1),
        "branch_weights": tf.constant([[1.0 - support_weight, *[support_weight] * len(support_logits)]]),
    }


def chained_outputs(
    features: Sequence[tf.Tensor],
    classifiers: Iterable[keras.Model],
    codes: Iterable[PredictionCode],
    support_weight: float,
    random_key: tf.Tensor | None,
    training: bool,
) -> dict[str, Any]:
    """Runs a chain of classifiers, each of which also sees a code of every prediction before its own.

        p_l = classifier_l([x_l, s_0, ..., s_(l-1)]),   s_l = code_l(p_l),   p = p_L

    Args:
        features: x_l of each of the L + 1 steps, `(B, E)` float each.
        classifiers: the L + 1 classifiers.
        codes: the L codes.
        support_weight: the weight of each p_l before the last in the loss, see `supported_outputs`.
        random_key: `(B,)` int64, each video's source of randomness; may be None at evaluation.
        training: whether to apply dropout and to normalise by the moments of the batch.

    Returns:
        `supported_outputs` of p and the L support predictions.

    Source: Wang, Zhang & Wu 2017, "The monkeytyping solution to the YouTube-8M video understanding challenge".
    """
    *links, last = zip(features, classifiers, strict=True)
    seen: list[tf.Tensor] = []
    supports = []
    for (x, classifier), code in zip(links, codes, strict=True):
        outputs = classifier(_beside(x, seen), random_key=random_key, training=training)
        supports.append(outputs["logits"])
        seen.append(code(outputs["predictions"]))
    x, classifier = last
    outputs = classifier(_beside(x, seen), random_key=random_key, training=training)
    return supported_outputs(outputs["logits"], supports, support_weight)


def _beside(x: tf.Tensor, codes: list[tf.Tensor]) -> tf.Tensor:
    return tf.concat([tf.cast(x, tf.float32), *codes], axis=-1)
