"""Gates: every feature of a vector is multiplied by a number in [0, 1] that is computed from the whole vector."""

import math
from typing import Any

import keras
import tensorflow as tf

from yt8m.arguments import check_at_least
from yt8m.layers.dense import NormalisedDense
from yt8m.layers.normalisation import MaskedBatchNormalization


class GateLogits(keras.layers.Layer):
    """The logits of a gate, before its sigmoid.

        z = BN(x W)   or, without normalisation,   x W + b

    With `remove_diagonal` x W - diag(W) * x takes the place of x W, so that no feature influences its own gate.

    Args:
        units: the width of z.
        add_batch_norm: whether to batch-normalise z; if not, a bias is added.
        remove_diagonal: whether to leave out the diagonal of W; x must then be as wide as z.

    Raises:
        UserError: if `units` is below 1.

    Source: Miech, Laptev & Sivic 2017, "Learnable pooling with Context Gating".
    """

    def __init__(self, units: int, add_batch_norm: bool = True, remove_diagonal: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        check_at_least(1, units=units)
        self.units = units
        self.remove_diagonal = remove_diagonal
        self.batch_norm = MaskedBatchNormalization(dtype=self.dtype_policy) if add_batch_norm else None

    def build(self, input_shape: Any) -> None:
        """Creates the kernel W `(D, units)`, and batch normalisation or a bias b `(units,)`."""
        normal = keras.initializers.RandomNormal(stddev=1.0 / math.sqrt(self.units))
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units), initializer=normal, name="kernel")
        if self.batch_norm is None:
            self.bias = self.add_weight(shape=(self.units,), initializer=normal, name="bias")
        else:
            self.batch_norm.build((*input_shape[:-1], self.units))

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Maps `x` `(B, D)` float to logits `(B, units)`."""
        kernel = tf.convert_to_tensor(self.kernel)
        z = tf.matmul(x, kernel)
        if self.remove_diagonal:
            z -= tf.linalg.diag_part(kernel) * x
        return z + self.bias if self.batch_norm is None else self.batch_norm(z, training=training)


class ContextGating(keras.layers.Layer):
    """Scales every feature by a gate computed from all features.

        y = x * sigmoid(BN(x W))

    Args:
        add_batch_norm: whether to batch-normalise the gate's logits; if not, a bias is added.
        remove_diagonal: whether to leave out the diagonal of W, so that no feature influences its own gate.

    Source: Miech, Laptev & Sivic 2017, "Learnable pooling with Context Gating".
    """

    def __init__(self, add_batch_norm: bool = True, remove_diagonal: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.add_batch_norm = add_batch_norm
        self.remove_diagonal = remove_diagonal

    def build(self, input_shape: Any) -> None:
        """Creates the gate's kernel W `(D, D)`, and batch normalisation or a bias `(D,)`."""
        self.gate = GateLogits(input_shape[-1], self.add_batch_norm, self.remove_diagonal, dtype=self.dtype_policy)
        self.gate.build(input_shape)

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns `x` `(B, D)` float times its gate, `(B, D)`."""
        return x * tf.sigmoid(self.gate(x, training=training))


class GatedLinearUnit(ContextGating):
    """Gated linear unit: multiplies a linear map of the input by a gate computed from the input.

        y = (x U + b) * sigmoid(BN(x W))

    Args:
        add_batch_norm: whether to batch-normalise the gate's logits; if not, a bias is added.
        remove_diagonal: whether to leave out the diagonal of W, so that no feature influences its own gate.

    Source: Dauphin et al. 2017, "Language modeling with gated convolutional networks".
    """

    def build(self, input_shape: Any) -> None:
        """Creates U `(D, D)` and b `(D,)` of the linear map, and the gate's kernel W `(D, D)` with BN or a bias."""
        super().build(input_shape)
        self.linear = NormalisedDense(input_shape[-1], add_batch_norm=False, dtype=self.dtype_policy)
        self.linear.build(input_shape)

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns the linear map of `x` `(B, D)` float times its gate, `(B, D)`."""
        return self.linear(x) * tf.sigmoid(self.gate(x, training=training))


class BottleneckGate(keras.layers.Layer):
    """A gate whose weight matrix A B has low rank.

        g = sigmoid(BN(x A B))

    Args:
        units: the rank, which is the width of x A.
        add_batch_norm: whether to batch-normalise the gate's logits; if not, a bias is added.

    Raises:
        UserError: if `units` is below 1.

    Source: antoine77340/Youtube-8M-WILLOW, GatedDBoF.
    """

    def __init__(self, units: int, add_batch_norm: bool = True, **kwargs: Any):
        super().__init__(**kwargs)
        check_at_least(1, units=units)
        self.units = units
        self.add_batch_norm = add_batch_norm

    def build(self, input_shape: Any) -> None:
        """Creates the kernels A `(D, units)` and B `(units, D)`, and batch normalisation or a bias `(D,)`.

        All but the normalisation are initialised from a normal distribution of standard deviation 1 / sqrt(units).
        """
        stddev, size = 1.0 / math.sqrt(self.units), input_shape[-1]
        normal = keras.initializers.RandomNormal(stddev=stddev)
        self.narrowing = self.add_weight(shape=(size, self.units), initializer=normal, name="narrowing")
        self.widening = NormalisedDense(
            size, add_batch_norm=self.add_batch_norm, kernel_stddev=stddev, bias_stddev=stddev, dtype=self.dtype_policy
        )
        self.widening.build((*input_shape[:-1], self.units))

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns the gate of `x` `(B, D)` float, `(B, D)` in [0, 1]."""
        return tf.sigmoid(self.widening(tf.matmul(x, tf.convert_to_tensor(self.narrowing)), training=training))


class BottleneckGating(keras.layers.Layer):
    """Context gating with a weight matrix A B of low rank.

        y = x * sigmoid(BN(x A B))

    Args:
        add_batch_norm: whether to batch-normalise the gate's logits; if not, a bias is added.
        ratio: the width of x divided by the width of x A, which is rounded down and at least 1.

    Raises:
        UserError: if `ratio` is below 1.

    Source: the gate is that of antoine77340/Youtube-8M-WILLOW, GatedDBoF.
    """

    def __init__(self, add_batch_norm: bool = True, ratio: int = 8, **kwargs: Any):
        super().__init__(**kwargs)
        check_at_least(1, ratio=ratio)
        self.add_batch_norm = add_batch_norm
        self.ratio = ratio

    def build(self, input_shape: Any) -> None:
        """Creates the gate's kernels A `(D, D / ratio)` and B `(D / ratio, D)`, and BN or a bias `(D,)`."""
        width = max(1, input_shape[-1] // self.ratio)
        self.gate = BottleneckGate(width, self.add_batch_norm, dtype=self.dtype_policy)
        self.gate.build(input_shape)

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns `x` `(B, D)` float times its gate, `(B, D)`."""
        return x * self.gate(x, training=training)


class SqueezeExcitation(keras.layers.Layer):
    """Squeeze-and-excitation gate: context gating through a narrow hidden layer.

        y = x * sigmoid(relu(BN(x W1)) W2)

    Args:
        add_batch_norm: whether to batch-normalise the hidden layer; if not, a bias is added.
        ratio: the width of x divided by that of the hidden layer, which is rounded down and at least 1.

    Raises:
        UserError: if `ratio` is below 1.

    Source: Hu et al. 2018, "Squeeze-and-excitation networks"; Lin, Xiao & Fan 2018, "NeXtVLAD", whose code, like
    this layer, has no batch normalisation after W2, although a figure of the paper shows one.
    """

    def __init__(self, add_batch_norm: bool = True, ratio: int = 8, **kwargs: Any):
        super().__init__(**kwargs)
        check_at_least(1, ratio=ratio)
        self.add_batch_norm = add_batch_norm
        self.ratio = ratio

    def build(self, input_shape: Any) -> None:
        """Creates the gate's kernels W1 `(D, D / ratio)` and W2 `(D / ratio, D)`, and BN or a bias after W1."""
        size = input_shape[-1]
        width = max(1, size // self.ratio)
        self.squeeze = NormalisedDense(
            width, add_batch_norm=self.add_batch_norm, kernel_stddev=math.sqrt(2.0 / size), dtype=self.dtype_policy
        )
        self.squeeze.build(input_shape)
        self.excitation = self.add_weight(shape=(width, size), initializer="he_normal", name="excitation")

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns `x` `(B, D)` float times its gate, `(B, D)`."""
        hidden = tf.nn.relu(self.squeeze(x, training=training))
        return x * tf.sigmoid(tf.matmul(hidden, tf.convert_to_tensor(self.excitation)))


GATINGS = {
    "context": ContextGating,
    "squeeze_excitation": SqueezeExcitation,
    "bottleneck": BottleneckGating,
    "glu": GatedLinearUnit,
}
