"""Processes of this machine, told apart although their numbers are used again."""

import socket
from pathlib import Path


def start_of(process: int) -> str:
    """When a process of this machine started, in the kernel's count: numbers of processes are used again.

    Empty for one that is gone, or that has ended and waits for its parent to notice.
    """
    try:
        # The second field is a name in brackets, which may hold anything; after it come the state and 18 others.
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        state, *others = status.rpartition(")")[2].split()
        return "" if state == "Z" else others[18]
    except (OSError, ValueError, IndexError):
        return ""


def host() -> str:
    """The name of this machine."""
    return socket.gethostname()
