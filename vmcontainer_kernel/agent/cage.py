"""What holds a QEMU: the supervisor starts it with far less than it may do itself.

    spawn {argv, log, cage} ─▶ group made, limits set ─▶ fork ─▶ join the group, lose rights, exec
    machine.update ──────────▶ other limits                └─ end ─▶ which limits struck; group removed

Whoever takes over a QEMU from inside its guest is then a user who owns nothing, holds a few descriptors, cannot gain
rights, and shares its memory, processors and processes with nobody. QEMU's own seccomp sandbox comes on top.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from typing import Any

from ..container import linux
from ..container.cgroups import Cgroup, Cgroups
from ..container.ids import DYNAMIC_IDS
from ..container.light import suppress
from ..container.record import Record
from ..container.spec import Cpu, Memory, Resources, Seccomp, SeccompArg, SeccompRule
from ..errors import HostError, LabError, NotFound, UserError
from .jobs import Job, Stdio
from .protocol import get_bool, get_int, get_map, get_str, get_strs
from .server import Call, Server
from .spawn import Command, start

__all__ = ["Cage", "CageVerbs", "Identity", "find_identity", "keep_the_file", "niceness", "read_resources"]

_RLIMIT_DATA, _RLIMIT_CORE = 2, 4
# Stacks of threads count in full (RLIMIT_DATA of getrlimit(2)), though little of them is touched.
_PUNCH_HOLE, _KEEP_SIZE = 2, 1  # linux/falloc.h
_DATA_ROOM_BYTES = 1 << 30
_LOG_LIMIT_BYTES = 1 << 20
_LOG_KEPT_BYTES = 64 << 10
_USUAL_SHARES = 1024
_TRIES = 10
_RIGHTS_TO_CHANGE_IDS = ("CHOWN", "KILL", "SETGID", "SETUID")
_MAPS = ("uid_map", "gid_map")


class Identity(Record):
    """The ids a QEMU gets; `uid` 0 is to keep our own."""

    uid: int
    groups: tuple[int, ...] = ()


class Cage(Record):
    """How one QEMU is held: its machine's name, its limits, its ids, whether it needs this computer's network, and a
    filter of system calls.
    """

    name: str
    resources: Resources
    identity: Identity
    network: bool = True
    filter: bytes = b""


def read_resources(document: Mapping[str, Any]) -> Resources:
    """Read limits: memory_bytes, cpu_shares, cpu_quota_us, cpu_period_us, pids; what is absent stays as it is."""
    memory = get_int(document, "memory_bytes", None)
    return Resources(
        memory=Memory(limit_bytes=memory, swap_bytes=memory),
        cpu=Cpu(
            shares=get_int(document, "cpu_shares", None),
            quota_us=get_int(document, "cpu_quota_us", None),
            period_us=get_int(document, "cpu_period_us", None),
        ),
        pids_limit=get_int(document, "pids", None),
    )


def find_identity(groups: list[int], devices: list[str], proc: str = "/proc") -> Identity:
    """Return ids that nobody uses, and the groups it needs besides: `groups`, and those that may use `devices`.

    Our own ids, if they cannot be changed, if this user namespace has no others, or if a device is root's alone.
    """
    held = linux.capabilities_permitted()
    needed = [linux.CAPABILITIES.index(name) for name in _RIGHTS_TO_CHANGE_IDS]
    if os.geteuid() != 0 or not all(held >> number & 1 for number in needed):
        return Identity(0)
    also = {gid for gid in groups if _is_mapped(gid, f"{proc}/self/gid_map")}
    for device in devices:
        status = os.stat(device)  # noqa: PTH116
        if status.st_mode & 0o006 != 0o006:
            also.add(status.st_gid if status.st_mode & 0o060 == 0o060 else 0)
    if 0 in also:
        return Identity(0)
    taken = _users_of_processes(proc)
    start_at = int.from_bytes(os.urandom(2)) % len(DYNAMIC_IDS)
    for uid in (*DYNAMIC_IDS[start_at:], *DYNAMIC_IDS[:start_at]):
        if uid not in taken and all(_is_mapped(uid, f"{proc}/self/{one}") for one in _MAPS) and not _has_name(uid):
            return Identity(uid, tuple(sorted(also)))
    return Identity(0)


def _users_of_processes(proc: str) -> set[int]:
    found = set()
    with os.scandir(proc) as entries:
        for entry in entries:
            with suppress(OSError):  # it has ended
                if entry.name.isdigit():
                    found.add(entry.stat().st_uid)
    return found


def _is_mapped(number: int, path: str) -> bool:
    """Tell whether an id exists in this user namespace (user_namespaces(7))."""
    with open(path) as file:
        rows = [[int(word) for word in line.split()] for line in file]
    return any(inside <= number < inside + count for inside, _, count in rows)


def _has_name(uid: int) -> bool:
    import pwd

    try:
        return bool(pwd.getpwuid(uid))
    except KeyError:
        return False


def niceness(shares: int | None) -> int:
    """Return the nice value that comes nearest to a weight: each step is a fifth less (sched(7)); never below 0."""
    from math import log

    return min(19, max(0, round(log(_USUAL_SHARES / max(2, shares or _USUAL_SHARES), 1.25))))


def keep_the_file() -> bytes:
    """Return the filter for a QEMU whose guest's memory is a private mapping of a file that others map too.

    When the balloon takes a page, QEMU gives it back twice: it punches a hole into the file, as if the mapping were
    shared, and drops the page from its mapping (ram_block_discard_range of system/physmem.c; newer versions warn). The
    first would put zeros into the memory of every other clone, whenever a guest likes; so it is left out, and QEMU is
    told that it was done. A disk's holes have other lengths, or are asked for with a second call for the zeros
    (``handle_aiocb_write_zeroes`` of block/file-posix.c): that is refused, and QEMU writes zeros.
    """
    from ..container.seccomp.compiler import compile_filter

    page = os.sysconf("SC_PAGE_SIZE")
    hole = (SeccompArg(1, _PUNCH_HOLE | _KEEP_SIZE, "SCMP_CMP_EQ"), SeccompArg(3, page, "SCMP_CMP_EQ"))
    plain = (SeccompArg(1, 0, "SCMP_CMP_EQ"),)
    rules = (
        SeccompRule(("fallocate",), "SCMP_ACT_ERRNO", 0, hole),
        SeccompRule(("fallocate",), "SCMP_ACT_ERRNO", errno.EOPNOTSUPP, plain),
    )
    return compile_filter(Seccomp("SCMP_ACT_ALLOW", rules=rules))


# -- in the child


def enter(cage: Cage, group: Cgroup | None) -> None:
    """Take on what the cage says, in the child that is about to become QEMU."""
    os.umask(0o077)
    linux.prlimit(_RLIMIT_CORE, 0, 0)
    if group:
        _join(group)
    else:
        _limit_alone(cage.resources)
    if os.geteuid() == 0:
        with suppress(PermissionError):  # root without CAP_SYS_ADMIN: in an ordinary container
            linux.unshare(linux.CLONE_NEWIPC | (0 if cage.network else linux.CLONE_NEWNET))
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    if cage.filter:
        linux.seccomp(cage.filter, 0)
    if cage.identity.uid:
        os.setgroups(list(cage.identity.groups))
        os.setresgid(cage.identity.uid, cage.identity.uid, cage.identity.uid)
        os.setresuid(cage.identity.uid, cage.identity.uid, cage.identity.uid)
        linux.capset(0, 0, 0)


def _join(group: Cgroup) -> None:
    group.join()
    if group.has_version_2:
        folder = group.open_for_birth()
        members = os.open("cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=folder)
        os.write(members, b"0")
        os.close(members)
        os.close(folder)


def _limit_alone(resources: Resources) -> None:
    """Do what can be done without a control group: bound this process's own memory, and be nice."""
    if resources.memory.limit_bytes is not None:
        most = resources.memory.limit_bytes + _DATA_ROOM_BYTES
        with suppress(PermissionError):  # the limit that we have ourselves is lower
            linux.prlimit(_RLIMIT_DATA, most, most)
    os.nice(niceness(resources.cpu.shares))
    _weigh_session("self", niceness(resources.cpu.shares))


def _weigh_session(process: object, nice: int) -> None:
    """Give a process's whole session a nice value: where Linux shares processors out among sessions, those of its
    threads count only against each other (sched(7), "The autogroup feature").
    """
    from time import sleep

    path = f"/proc/{process}/autogroup"
    for _ in range(_TRIES):
        try:
            with open(path) as file:
                if int(file.read().split()[-1]) == nice:
                    return
            with open(path, "w") as file:
                file.write(str(nice))
        except BlockingIOError:  # an ordinary user may do so ten times a second, all users together
            sleep(0.05)
        except (OSError, ValueError, IndexError):  # this kernel has no such groups, or /proc is covered
            return


# -- in the supervisor


class BoundedLog:
    """What a helper writes, in a file that never grows beyond 1 MiB: it then starts again with the last 64 KiB."""

    def __init__(self, fd: int) -> None:
        self._fd, self._written = fd, 0
        self._kept = b""

    def add(self, kind: int, data: bytes) -> None:
        """Take bytes of a stream."""
        self._kept = (self._kept + data)[-_LOG_KEPT_BYTES:]
        with suppress(OSError):  # a full disk, or a pipe that nobody reads, costs the log and holds nobody up
            if self._written + len(data) > _LOG_LIMIT_BYTES:
                os.ftruncate(self._fd, 0)
                self._written, data = 0, self._kept
            self._written += os.write(self._fd, data)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


class CagedJob(Job):
    """A helper under way, with its group; its answer tells which limits struck."""

    cage: Cage | None = None
    group: Cgroup | None = None

    @property
    def hidden(self) -> bool:
        """Whether it is a machine made ahead, which is nobody's yet: its name begins with a dot."""
        return self.cage is not None and self.cage.name.startswith(".")

    @property
    def answer(self) -> dict[str, Any]:
        """How it ended."""
        if self.group:
            with suppress(OSError):
                self.events = self.group.events()
        return super().answer


class CageVerbs:
    """``spawn``, ``machine.stats`` and ``machine.update``: of the host's agent only."""

    def __init__(self, server: Server, cgroups: Cgroups | None) -> None:
        self._server, self._cgroups = server, cgroups
        server.verbs |= {"spawn": self.spawn, "machine.stats": self.stats, "machine.update": self.update}

    def spawn(self, call: Call) -> None:
        """Run a helper with passed descriptors, its output in a file: argv, log, cage. It answers when the helper ends.

        `cage`, of a QEMU: name, place (what its group is called, else as it), resources (`read_resources`), groups and
        devices (`find_identity`), network (false: it has none of this computer's), private (its guest's memory is a
        private mapping of a file: `keep_the_file`).
        """
        given = get_map(call.arguments, "cage", None)
        cage, group, warnings = (None, None, ()) if given is None else self._make(given)
        log = _open_log(get_str(call.arguments, "log"))
        stdio = Stdio.make(tty=False, stdin=False)
        before: Callable[[], None] | None = (lambda: enter(cage, group)) if cage else None
        try:
            command = Command(get_strs(call.arguments, "argv"), dict(os.environ), "/", fds=call.fds, before=before)
            launch = start(command, stdio.child)
        except BaseException:
            stdio.close_ours()
            log.close()
            _remove(group)
            raise
        finally:
            stdio.close_child()

        def ended(_: Job) -> None:
            log.close()
            _remove(group)

        job = CagedJob(
            call.request,
            launch,
            stdio,
            self._server.send,
            log=log,
            unsent=True,
            role="machine",
            warnings=warnings,
            on_end=ended,
        )
        job.cage, job.group = cage, group
        self._server.add(job)

    def _make(self, document: dict[str, Any]) -> tuple[Cage, Cgroup | None, tuple[str, ...]]:
        name = get_str(document, "name")
        place = get_str(document, "place", name)
        for one in (name, place):
            if not one or "/" in one or "\0" in one:
                raise UserError(f"{one!r} cannot be a machine's name", where="cage.name")
        cage = Cage(
            name,
            read_resources(get_map(document, "resources", {})),
            find_identity([int(gid) for gid in document.get("groups", [])], get_strs(document, "devices", [])),
            get_bool(document, "network", True),
            keep_the_file() if get_bool(document, "private", False) else b"",
        )
        try:
            if self._cgroups is None:
                raise HostError(Cgroups.missing_reason())
            return cage, self._cgroups.create(f"vm:{place}", cage.resources), ()
        except (LabError, OSError) as error:
            if cage.resources.cpu.quota_us is not None:
                raise _no_cap(error) from None
            return cage, None, (_without_group(error),)

    def _find(self, name: str) -> CagedJob:
        for job in self._server.jobs.values():
            if isinstance(job, CagedJob) and job.cage and job.cage.name == name and job.wait_status is None:
                return job
        raise NotFound(f"there is no machine {name} on this node", hint="%vm ls shows those there are")

    def stats(self, call: Call) -> dict[str, Any]:
        """Return what machines' QEMUs use, as the host counts it, and how they are held: names (empty: all)."""
        names = get_strs(call.arguments, "names", [])
        jobs = [job for job in self._server.jobs.values() if isinstance(job, CagedJob) and job.cage]
        return {"machines": [_row(job) for job in jobs if job.cage and (not names or job.cage.name in names)]}

    def update(self, call: Call) -> dict[str, Any]:
        """Change the limits of a machine's QEMU while it runs, or its name: name, resources, rename."""
        job = self._find(get_str(call.arguments, "name"))
        if job.cage:
            job.cage = job.cage.replace(name=get_str(call.arguments, "rename", job.cage.name))
        resources = read_resources(get_map(call.arguments, "resources", {}))
        if resources == Resources():
            return {"warnings": []}
        if job.group and self._cgroups:
            job.group = self._cgroups.update(job.group, resources)
            return {"warnings": []}
        if resources.cpu.quota_us is not None:
            raise _no_cap(HostError(Cgroups.missing_reason()))
        if resources.cpu.shares is not None:
            try:
                os.setpriority(os.PRIO_PGRP, job.pid, niceness(resources.cpu.shares))
                _weigh_session(job.pid, niceness(resources.cpu.shares))
            except PermissionError:
                hint = "an ordinary user may give a machine less (nice), and not take that back"
                raise HostError("the machine's weight cannot be raised here", hint=hint) from None
        return {"warnings": ["no control group can be made here: the weight is a nice value"]}


def _open_log(path: str) -> BoundedLog:
    # Without waiting: the other end of a named pipe might never be opened (fifo(7)).
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    return BoundedLog(os.open(path, flags, 0o600))


def _remove(group: Cgroup | None) -> None:
    if group:
        group.kill()
        group.remove()


def _row(job: CagedJob) -> dict[str, Any]:
    assert job.cage
    uid = job.cage.identity.uid or os.geteuid()
    row = {"name": job.cage.name, "pid": job.pid, "uid": uid, "group": list(job.group.directories) if job.group else []}
    with suppress(OSError):  # it has just ended
        if job.group:
            row |= {key: value for key, value in job.group.stats().items() if key in ("memory", "cpu", "pids")}
    return row


def _no_cap(error: Exception) -> HostError:
    reason = error.message if isinstance(error, LabError) else str(error)
    hint = "leave --cpu-quota out; --cpu-shares becomes a nice value"
    return HostError(f"a machine's CPU time cannot be capped here: {reason}", hint=hint, where="--cpu-quota")


def _without_group(error: Exception) -> str:
    reason = error.message if isinstance(error, LabError) else str(error)
    return (
        f"machines here have no control group ({reason}): each one's memory is bounded by a limit of its process, "
        "its weight is a nice value, and its CPU time is not capped"
    )
