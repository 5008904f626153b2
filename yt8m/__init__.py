"""The rooms below the models: facts of the data, layers, metrics, the training loop and the files it writes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Closes the process's stderr, that of its C++ parts included, for a while; exceptions come through."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


# Before any room imports TensorFlow: people read our messages, not the start-up notes of its C++ side, which calls some
# of them errors. What goes wrong later reaches us as an exception. Since 2.21 some notes come before the level counts.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with _without_stderr():
    import tensorflow  # noqa: F401
