"""What is asked of a container against what this node and this user can give; checked before anything is done."""

from __future__ import annotations

import os

from vmcontainer_kernel.container import linux, signals
from vmcontainer_kernel.container.cgroups import fallback_rlimits
from vmcontainer_kernel.container.ladder import ID_RANGES, Footing
from vmcontainer_kernel.container.options import Options
from vmcontainer_kernel.container.spec import Capabilities, Spec, User
from vmcontainer_kernel.errors import HostError, UserError

__all__ = ["check_name", "check_options", "check_user", "possible", "without_groups"]

_NAME_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


_LIMITS = (
    *("cpus", "cpu-shares", "cpuset-cpus", "cpuset-mems", "blkio-weight"),
    *("device-read-bps", "device-write-bps", "device-read-iops", "device-write-iops"),
)


def check_name(name: str, whose: str = "container") -> None:
    """Raise `UserError` if `name` can be no container's, or volume's: it names a folder, a group and a host."""
    if not name or len(name) > 63 or not _NAME_LETTERS.issuperset(name) or not name[0].isalnum():
        raise UserError(
            f"{name!r} cannot be a {whose}'s name",
            hint="letters, digits, '_', '.' and '-', at most 63, a letter or digit first",
        )


def check_options(
    options: Options, user: User, footing: Footing, *, grouped: bool, running: bool = False, guest: bool = False
) -> None:
    """Refuse what this node cannot keep, before anything is done; `running`: limits of a process that runs. `guest`:
    the node is a machine's, whose files are nobody's but that machine's.
    """
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
        _refuse_limits(options, rootless=footing.ids is not None, running=running)
    check_user(user, options.user, footing)
    if (options.hostname or options.domainname) and ("uts" in options.without or options.uts):
        raise UserError("a host name of its own needs a UTS namespace of its own", where="hostname")
    if "root" in options.without and not guest:
        raise UserError(
            "without root a container would write to this computer's own files",
            hint="in a machine it writes to that machine's: --on vm",
            where="without",
        )
    if "user" in options.without or (options.userns == "host" and footing.ids):
        why = (
            "an ordinary user can make the other namespaces only inside one"
            if footing.ids
            else "root's containers have none"
        )
        raise UserError(f"the user namespace cannot be left out: {why}", where="without")


def check_user(user: User, asked: str, footing: Footing) -> None:
    """Refuse a user or group that the container's user namespace does not have."""
    ids = footing.ids
    lacking = ids.lacks((user.uid,), (user.gid, *user.additional_gids)) if ids else ""
    if not ids or not lacking:
        return
    if ids.several:
        last = sum(one.size for one in ids.uids) - 1
        raise HostError(
            f"this user's containers have the ids up to {last}, and {asked} is {lacking}",
            hint="root can set more aside (subuid(5)); or run it in a guest: --on vm",
            where="user",
        )
    why = footing.reason_against(ID_RANGES)
    raise HostError(
        f"an ordinary user's container has one user, root, not {asked or lacking}" + (f": {why}" if why else ""),
        hint="the rung of one id (vmcontainer doctor); run it in a guest: --on vm",
        where="user",
    )


def _refuse_limits(options: Options, *, rootless: bool, running: bool) -> None:
    """Refuse limits that only groups keep; of an ordinary user's process that is yet to start, memory and processes
    can be limited otherwise (`without_groups`).
    """
    asked = [f"--{word}" for word in _LIMITS if getattr(options, word.replace("-", "_"), None)]
    asked += ["--memory-reservation"] if options.memory_reservation_bytes else []
    if not rootless or running:
        asked += ["--memory"] if options.memory_bytes else []
        asked += ["--pids-limit"] if options.pids_limit else []
    if asked:
        who = "an ordinary user" if rootless else "this process"
        raise HostError(
            f"{' '.join(asked)}: {who} may not make control groups on this node, and limits are kept by them",
            hint="run it in a guest, where you are root: --on vm",
            where="cgroups(7)",
        )


def without_groups(spec: Spec) -> tuple[Spec, tuple[str, ...]]:
    """Let each process of an ordinary user have limits of its own, where there are no groups; tell what that is not."""
    limited = fallback_rlimits(spec.linux.resources)
    if not limited.loss:
        return spec, ()
    rlimits = (*spec.process.rlimits, *limited.rlimits)
    return spec.replace(process=spec.process.replace(rlimits=rlimits)), (limited.loss,)


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
