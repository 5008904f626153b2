"""Random numbers that are a function of the example, not of the device, the batch or the step.

Every number is a pure function of the example's random key (int64), a salt that names the purpose, and a counter. So
one device, eight devices and a resumed run draw the same frames and the same dropout for the same example.
"""

import math
import zlib

import tensorflow as tf

# The increment and the two multipliers of SplitMix64 (Steele, Lea & Flood 2014, "Fast Splittable Pseudorandom Number
# Generators"), written as the signed 64-bit integers that TensorFlow multiplies on every device.
_INCREMENT = 0x9E3779B97F4A7C15 - (1 << 64)
_MULTIPLIER_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MULTIPLIER_2 = 0x94D049BB133111EB - (1 << 64)


def _shift_right(x: tf.Tensor, bits: int) -> tf.Tensor:
    """Logical right shift of int64: the sign bit is masked away after the arithmetic shift."""
    mask = tf.constant((1 << (64 - bits)) - 1, tf.int64)
    return tf.bitwise.bitwise_and(tf.bitwise.right_shift(x, tf.constant(bits, tf.int64)), mask)


def mix(x: tf.Tensor) -> tf.Tensor:
    """Hashes `x` int64 of any shape by the finaliser of SplitMix64, a bijection on int64: the same shape.

    Source: Steele, Lea & Flood 2014, "Fast Splittable Pseudorandom Number Generators".
    """
    x = (x ^ _shift_right(x, 30)) * tf.constant(_MULTIPLIER_1, tf.int64)
    x = (x ^ _shift_right(x, 27)) * tf.constant(_MULTIPLIER_2, tf.int64)
    return x ^ _shift_right(x, 31)


def keys_from_positions(seed: int | tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
    """Returns the random keys of training examples, int64 of the shape of `positions`.

        key = mix(position * increment of SplitMix64 + mix(seed))

    Args:
        seed: any int64 number.
        positions: int64 of any shape, the examples' indices in the training stream.
    """
    return mix(positions * tf.constant(_INCREMENT, tf.int64) + mix(tf.convert_to_tensor(seed, tf.int64)))


def keys_from_ids(ids: tf.Tensor) -> tf.Tensor:
    """Returns random keys, int64 hashes of the videos' ids, whatever their file and position.

    Args:
        ids: string of any shape, which the keys have too.
    """
    return tf.strings.to_hash_bucket_fast(ids, (1 << 63) - 1)


def uniform(keys: tf.Tensor, count: tf.Tensor | int, salt: str) -> tf.Tensor:
    """Draws uniform numbers for every example.

    Args:
        keys: `(B,)` int64, each example's random key.
        count: the numbers to draw per example.
        salt: a name of the purpose: different names draw independent numbers from the same key.

    Returns:
        `(B, count)` float32 in [0, 1), a multiple of 2**-24.
    """
    purpose = tf.constant(zlib.crc32(salt.encode()), tf.int64)
    start = mix(keys + mix(purpose))[:, tf.newaxis]
    counters = tf.range(1, tf.cast(count, tf.int64) + 1, dtype=tf.int64)[tf.newaxis, :]
    bits = mix(start + counters * tf.constant(_INCREMENT, tf.int64))
    return tf.cast(_shift_right(bits, 40), tf.float32) * tf.constant(2.0**-24)


def normal(keys: tf.Tensor, count: tf.Tensor | int, salt: str) -> tf.Tensor:
    """Draws standard normal numbers for every example.

        n = sqrt(-2 log(1 - u)) cos(2 pi v),   u and v uniform in [0, 1)

    Args:
        keys: `(B,)` int64, each example's random key.
        count: the numbers to draw per example.
        salt: a name of the purpose: different names draw independent numbers from the same key.

    Returns:
        `(B, count)` float32, at most 5.8 from 0.

    Source: Box & Muller 1958, "A note on the generation of random normal deviates".
    """
    u, v = uniform(keys, count, f"{salt}, length"), uniform(keys, count, f"{salt}, angle")
    return tf.sqrt(-2.0 * tf.math.log1p(-u)) * tf.cos(2.0 * math.pi * v)


def symmetric_beta(keys: tf.Tensor, alpha: float, salt: str) -> tf.Tensor:
    """Draws a number from the distribution Beta(alpha, alpha) for every example.

        I(x; alpha, alpha) = u,   u uniform in [0, 1), I the distribution function

    Args:
        keys: `(B,)` int64, each example's random key.
        alpha: above 0; 1 is the uniform distribution, below 1 numbers near 0 and 1 are more frequent.
        salt: a name of the purpose: different names draw independent numbers from the same key.

    Returns:
        `(B,)` float32 in [0, 1], found by bisection to 2**-25.
    """
    u = uniform(keys, 1, salt)[:, 0]
    alphas, x = tf.fill(tf.shape(u), alpha), tf.fill(tf.shape(u), 0.5)
    for halvings in range(2, 26):
        x += tf.where(tf.math.betainc(alphas, alphas, x) <= u, 1.0, -1.0) * 2.0**-halvings
    return x


def permutation(key: tf.Tensor, count: tf.Tensor | int, salt: str) -> tf.Tensor:
    """Returns a random permutation of 0 ... count - 1, `(count,)` int32, drawn by the random `key` `()` int64.

    `salt` is a name of the purpose: different names draw independent permutations from the same key.
    """
    return tf.argsort(uniform(key[tf.newaxis], count, salt)[0], stable=True)
