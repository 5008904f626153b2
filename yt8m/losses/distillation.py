"""Distillation: a student learns from labels and from the predictions of a teacher."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from yt8m.arguments import check_fraction, check_positive
from yt8m.batch import TEACHER_PREDICTIONS
from yt8m.losses.base import class_cross_entropies, logits_of, sum_over_classes
from yt8m.registry import LOSSES


@LOSSES.register("DistillationLoss", needs_teacher=True)
def distillation_loss(
    labels: tf.Tensor,
    outputs: Mapping[str, Any],
    label_weights: tf.Tensor | None = None,
    *,
    temperature: float = 1.0,
    teacher_share: float = 0.5,
    keep_labels: bool = False,
) -> tf.Tensor:
    """Binary cross entropy with the labels, and with a teacher's softened predictions, summed over classes.

        loss[b] = sum_c w[b, c] * ((1 - s) * H(y[b, c], z[b, c]) + s * T^2 * H(q_T[b, c], z[b, c] / T))
        H(y, z) = - y log sigmoid(z) - (1 - y) log (1 - sigmoid(z))
        q_T = q^(1/T) / (q^(1/T) + (1 - q)^(1/T)): the teacher's q with its logit divided by T

    With `keep_labels` the target of the second term is max(q_T, y): 1 for every label, also of a class that the teacher
    predicts poorly because it has few videos.

    T^2 keeps the size of the gradient. Where no teacher is asked, at evaluation, the loss is that of the labels alone,
    H(y, z): it then compares with CrossEntropyLoss.

    Args:
        labels: `(B, C)` bool, y.
        outputs: `logits` z or `predictions` `(B, C)` float; `teacher_predictions` `(B, C)` float32, q in [0, 1].
        label_weights: `(B, C)` float, w; 1 if None.
        temperature: T, by which logits are divided; above 1 it shows more of what the teacher holds for unlikely.
        teacher_share: s, the share of the teacher's term, in [0, 1].
        keep_labels: whether labels are 1 for the teacher too.

    Returns:
        `(B,)` float32, in nats.

    Raises:
        ArgumentError: if the temperature is not above 0 or the share outside [0, 1].

    Source: Hinton, Vinyals & Dean 2015, "Distilling the Knowledge in a Neural Network", with a sigmoid per class for
    the softmax.
    """
    check_positive(temperature=temperature)
    check_fraction(teacher_share=teacher_share)
    of_labels = class_cross_entropies(labels, outputs)
    if TEACHER_PREDICTIONS not in outputs:
        return sum_over_classes(of_labels, label_weights)
    # In this form 0 and 1 stay what they are: of a teacher's k best classes, all others have 0.
    teacher = tf.cast(outputs[TEACHER_PREDICTIONS], tf.float32)
    if keep_labels:
        teacher = tf.maximum(teacher, tf.cast(labels, tf.float32))
    for_label, against = teacher ** (1.0 / temperature), (1.0 - teacher) ** (1.0 / temperature)
    softened = for_label / (for_label + against)
    of_teacher = temperature**2 * class_cross_entropies(softened, {"logits": logits_of(outputs) / temperature})
    return sum_over_classes((1.0 - teacher_share) * of_labels + teacher_share * of_teacher, label_weights)
