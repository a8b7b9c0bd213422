"""What is left of limits where no group can be made: the limits that each process has of its own (setrlimit(2))."""

from __future__ import annotations

from vmcontainer_kernel.container.record import Record
from vmcontainer_kernel.container.spec import Resources, Rlimit

__all__ = ["Fallback", "fallback_rlimits"]


class Fallback(Record):
    """Limits of a process instead of a group's, and in words what is lost by it ("" if nothing)."""

    rlimits: tuple[Rlimit, ...]
    loss: str


def fallback_rlimits(resources: Resources) -> Fallback:
    """Return what setrlimit(2) can keep of `resources`.

    RLIMIT_AS bounds the addresses of each process, not the memory of all; RLIMIT_NPROC counts the processes of each
    user in the user namespace (before Linux 5.14: wherever they run), and does not bind the node's root. CPU time is
    not limited at all: RLIMIT_CPU would kill after so many seconds instead of slowing down.
    """
    rlimits, losses = [], []
    limit_bytes, pids = resources.memory.limit_bytes, resources.pids_limit
    if limit_bytes is not None and limit_bytes >= 0:
        rlimits.append(Rlimit("RLIMIT_AS", limit_bytes, limit_bytes))
        losses.append("the memory limit holds for the addresses of each process, not for the memory of all together")
    if pids is not None and pids >= 0:
        rlimits.append(Rlimit("RLIMIT_NPROC", pids, pids))
        losses.append("the process limit holds for each user of the container by himself")
    rest = resources.replace(
        memory=resources.memory.replace(limit_bytes=None, swap_bytes=None), pids_limit=None, devices=()
    )
    names = [name for name in Resources._fields if getattr(rest, name) != getattr(Resources(), name)]
    if names:
        losses.append(f"{', '.join(names)}: not limited at all")
    if not losses:
        return Fallback((), "")
    return Fallback(tuple(rlimits), "no control group can be made here: " + "; ".join(losses))
