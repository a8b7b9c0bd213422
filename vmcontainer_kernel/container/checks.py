"""What is asked of a container against what this node and this user can give; checked before anything is done."""

from __future__ import annotations

import os

from vmcontainer_kernel.container import linux, signals
from vmcontainer_kernel.container.options import Options
from vmcontainer_kernel.container.spec import Capabilities, Spec, User
from vmcontainer_kernel.errors import HostError, UserError

__all__ = ["check_name", "check_options", "possible"]

_NAME_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


_LIMITS = (
    *("cpus", "cpu-shares", "cpuset-cpus", "cpuset-mems", "pids-limit", "blkio-weight"),
    *("device-read-bps", "device-write-bps", "device-read-iops", "device-write-iops"),
)


def check_name(name: str) -> None:
    """Raise `UserError` if `name` can be no container's: it names a folder, a group and a host."""
    if not name or len(name) > 63 or not _NAME_LETTERS.issuperset(name) or not name[0].isalnum():
        raise UserError(
            f"{name!r} cannot be a container's name",
            hint="letters, digits, '_', '.' and '-', at most 63, a letter or digit first",
        )


def check_options(options: Options, user: User, *, grouped: bool, rootless: bool) -> None:
    """Refuse what this node cannot keep, before anything is done."""
    total_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    cpus = os.cpu_count() or 1
    if (options.memory_bytes or 0) > total_bytes:
        raise UserError(
            f"memory: {options.memory_bytes} bytes are more than this node has ({total_bytes})",
            hint="ask for less",
            where="memory",
        )
    if (options.cpus or 0) > cpus:
        raise UserError(f"cpus: {options.cpus} are more than this node has ({cpus})", hint="ask for less", where="cpus")
    if options.stop_signal:
        signals.number_of(options.stop_signal)
    if not grouped:
        _refuse_limits(options, rootless=rootless)
    if rootless and (user.uid or user.gid):
        raise HostError(
            f"an ordinary user's container has one user, root, not {options.user}",
            hint="his user namespace maps one id (user_namespaces(7)); run it in a guest: --on vm",
            where="user",
        )
    if "user" in options.without:
        why = (
            "an ordinary user can make the other namespaces only inside one"
            if rootless
            else "root's containers have none"
        )
        raise UserError(f"the user namespace cannot be left out: {why}", where="without")


def _bytes_of(options: Options, word: str) -> int | None:
    found: int | None = getattr(options, f"{word.replace('-', '_')}_bytes")
    return found


def _refuse_limits(options: Options, *, rootless: bool) -> None:
    asked = [f"--{word}" for word in _LIMITS if getattr(options, word.replace("-", "_"), None)]
    asked += [f"--{word}" for word in ("memory", "memory-reservation") if _bytes_of(options, word)]
    if asked:
        who = "an ordinary user" if rootless else "this process"
        raise HostError(
            f"{' '.join(asked)}: {who} may not make control groups on this node, and limits are kept by them",
            hint="run it in a guest, where you are root: --on vm",
            where="cgroups(7)",
        )


def possible(spec: Spec, options: Options, *, rootless: bool) -> Spec:
    """Keep of the default capabilities those this process has itself; refuse an added one it lacks."""
    if rootless or spec.process.capabilities is None:
        return spec
    held, asked = linux.capabilities_permitted(), spec.process.capabilities
    missing = [name for name in options.cap_add if name != "ALL" and not held >> linux.CAPABILITIES.index(name) & 1]
    if missing:
        hint = "this node was started without it; run it in a guest: --on vm"
        raise HostError(f"cap-add: this process has no {' '.join(missing)} to give", hint=hint, where="capabilities(7)")
    masks = (asked.bounding, asked.effective, asked.permitted, asked.inheritable, asked.ambient)
    return spec.replace(process=spec.process.replace(capabilities=Capabilities(*(mask & held for mask in masks))))
