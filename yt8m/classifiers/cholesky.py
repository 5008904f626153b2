"""The Cholesky factorisation of a matrix that fits into memory once: in its place, block by block."""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

_BLOCK_SIZE = 1024


def blocks(size: int) -> Iterator[slice]:
    """Yields the slices of 1024, and what is left, that `size` rows fall into."""
    return (slice(start, min(start + _BLOCK_SIZE, size)) for start in range(0, size, _BLOCK_SIZE))


def factorise(matrix: np.ndarray) -> None:
    """Overwrites the lower triangle of A with that of L, A = L L^T; what is above the blocks of the diagonal stays.

    Args:
        matrix: A, `(M, M)` float, symmetric and positive definite.

    Raises:
        LinAlgError: if it is not positive definite in its precision.
    """
    all_blocks = list(blocks(len(matrix)))
    for number, here in enumerate(all_blocks):
        before = slice(0, here.start)
        row = tf.constant(matrix[here, before])
        for below in all_blocks[number:]:
            # TensorFlow's products, which are five times as fast here as those of NumPy.
            block = (matrix[below, here] - tf.matmul(matrix[below, before], row, transpose_b=True)).numpy()
            if below is here:
                corner = matrix[here, here] = np.linalg.cholesky(block)
            else:
                matrix[below, here] = tf.linalg.triangular_solve(corner, block.T).numpy().T


def solve_factorised(factor: np.ndarray, right: np.ndarray) -> None:
    """Overwrites B with the solution X of L L^T X = B.

    Args:
        factor: L, `(M, M)` float, as `factorise` leaves it.
        right: B, `(M, C)` float.
    """
    solve_forwards(factor, right)
    for here in reversed(list(blocks(len(factor)))):
        below = slice(here.stop, None)
        rest = right[here] - tf.matmul(factor[below, here], right[below], transpose_a=True)
        right[here] = tf.linalg.triangular_solve(factor[here, here], rest, adjoint=True)


def solve_forwards(factor: np.ndarray, right: np.ndarray) -> None:
    """Overwrites B with the solution X of L X = B.

    Args:
        factor: L, `(M, M)` float, as `factorise` leaves it.
        right: B, `(M, C)` float.
    """
    for here in blocks(len(factor)):
        before = slice(0, here.start)
        rest = right[here] - tf.matmul(factor[here, before], right[before])
        right[here] = tf.linalg.triangular_solve(factor[here, here], rest)


def inverse_diagonal(factor: np.ndarray) -> np.ndarray:
    """Returns the diagonal of the inverse of A = L L^T, `(M,)` float: the squared lengths of the columns of L^-1.

    Column j is 0 above j, so only L from there on counts.

    Args:
        factor: L, `(M, M)` float, as `factorise` leaves it.
    """
    diagonal = np.empty(len(factor), factor.dtype)
    for here in blocks(len(factor)):
        columns = np.eye(len(factor) - here.start, here.stop - here.start, dtype=factor.dtype)
        solve_forwards(factor[here.start :, here.start :], columns)
        diagonal[here] = np.einsum("ij,ij->j", columns, columns)
    return diagonal
