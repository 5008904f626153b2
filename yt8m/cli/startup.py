"""How memory is asked for: buffers of tensors are used again instead of being given back and fetched page by page."""

import ctypes
import platform

# Parameters of mallopt, from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> None:
    """Tells glibc's malloc to keep what is freed for the next one who asks; elsewhere it does nothing.

    By default a buffer of more than 32 MB, a batch of 128 whole videos for example, is a fresh mapping each time, and
    the kernel clears its pages one by one at first touch. On a virtual machine that takes longer than decoding it.
    The price: a process stays as large as it was at its largest.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT)
