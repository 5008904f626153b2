"""Graphs that leave TensorFlow: layers that have another way of computing the same ask here which one to take."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_PORTABLE = ContextVar("portable", default=False)


@contextmanager
def portable_graphs() -> Iterator[None]:
    """Lets layers be traced, inside the block, without operations that LiteRT and ONNX lack, such as lists of tensors.

    The numbers are the same up to rounding. Memory and time may not be, and there may be no gradient.
    """
    token = _PORTABLE.set(True)
    try:
        yield
    finally:
        _PORTABLE.reset(token)


def is_portable() -> bool:
    """Tells whether what is traced now is to run elsewhere than in TensorFlow."""
    return _PORTABLE.get()
