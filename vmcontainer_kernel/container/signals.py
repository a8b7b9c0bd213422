"""Signals to a container's processes, and why its first process may not hear them."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

__all__ = ["FATAL_BY_DEFAULT", "is_deaf", "to_group", "to_process"]

FATAL_BY_DEFAULT = frozenset(
    (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)
)


def to_process(pid: int, signum: int) -> None:
    """Signal one process; it is no error if it has ended (kill(2): ESRCH)."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)


def to_group(pid: int, signum: int) -> None:
    """Signal the process group `pid` leads; before its setsid there is none, and the process itself is signalled."""
    try:
        os.killpg(pid, signum)
    except ProcessLookupError:
        to_process(pid, signum)


def is_deaf(pid: int, signum: int) -> bool:
    """Tell whether a process neither handles nor ignores a signal (proc_pid_status(5): SigCgt, SigIgn)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    masks = {
        name: int(value, 16)
        for name, _, value in (line.partition(":\t") for line in lines)
        if name in ("SigIgn", "SigCgt")
    }
    return not any(mask >> (signum - 1) & 1 for mask in masks.values())
