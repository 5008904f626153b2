"""Random numbers that belong to an example, not to a device, a batch or a moment.

Every draw is a pure function of an example's random key, of a salt that names the purpose, and of a counter. So one
device, eight devices and a resumed run draw the same frames and the same dropout for the same example.
"""

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
    """Scrambles int64 numbers with the finaliser of SplitMix64: a bijection in which every bit depends on every bit."""
    x = (x ^ _shift_right(x, 30)) * tf.constant(_MULTIPLIER_1, tf.int64)
    x = (x ^ _shift_right(x, 27)) * tf.constant(_MULTIPLIER_2, tf.int64)
    return x ^ _shift_right(x, 31)


def keys_from_positions(seed: int | tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
    """Returns int64 keys for examples at int64 `positions` of the training stream; a seed is any int64."""
    return mix(positions * tf.constant(_INCREMENT, tf.int64) + mix(tf.convert_to_tensor(seed, tf.int64)))


def keys_from_ids(ids: tf.Tensor) -> tf.Tensor:
    """Returns int64 keys for video ids: the same key for a video in any file and at any position."""
    return tf.strings.to_hash_bucket_fast(ids, (1 << 63) - 1)


def uniform(keys: tf.Tensor, count: tf.Tensor | int, salt: str) -> tf.Tensor:
    """Draws uniform numbers for every example.

    Args:
        keys: `(B,)` int64, one random key per example.
        count: how many numbers per example.
        salt: names the purpose; two purposes draw independent numbers from one key.

    Returns:
        `(B, count)` float32 in [0, 1), a multiple of 2**-24.
    """
    purpose = tf.constant(zlib.crc32(salt.encode()), tf.int64)
    start = mix(keys + mix(purpose))[:, tf.newaxis]
    counters = tf.range(1, tf.cast(count, tf.int64) + 1, dtype=tf.int64)[tf.newaxis, :]
    bits = mix(start + counters * tf.constant(_INCREMENT, tf.int64))
    return tf.cast(_shift_right(bits, 40), tf.float32) * tf.constant(2.0**-24)


def permutation(key: tf.Tensor, count: tf.Tensor | int, salt: str) -> tf.Tensor:
    """Returns the numbers 0 ... count - 1 as `(count,)` int32 in an order drawn by a scalar int64 key."""
    return tf.argsort(uniform(key[tf.newaxis], count, salt)[0], stable=True)
