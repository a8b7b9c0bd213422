"""Control groups, version 1, version 2 and both at once (hybrid), behind one interface: limit, count, freeze, kill,
remove.

Version 1 has a tree for each controller, version 2 one tree for all. `Cgroups` knows in which tree each controller of
this node is; a container's `Cgroup` is the same relative path in each of those trees:

    v1  /sys/fs/cgroup/memory/vmcontainer/SESSION/NAME   /sys/fs/cgroup/pids/vmcontainer/SESSION/NAME   …
    v2  /sys/fs/cgroup/vmcontainer/SESSION/NAME
"""

# Plain system calls: a path object costs a forked child copied pages, and hides which call it is.
# ruff: noqa: PTH102, PTH106

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from pathlib import Path
from typing import Any

from vmcontainer_kernel.container.record import Record
from vmcontainer_kernel.container.spec import Resources
from vmcontainer_kernel.errors import ContainerError, HostError

__all__ = ["Cgroup", "Cgroups", "Place"]

_WANTED = ("memory", "pids", "cpu", "cpuacct", "freezer")
_CORE_OF_V2 = (
    "cpuacct",
    "freezer",
)  # cpu.stat and cgroup.freeze are in every version 2 group (cgroup-v2.rst, "Core Interface Files")
_ENABLED_IN_V2 = ("memory", "pids", "cpu")
_NO_LIMIT_BYTES = 2**62  # version 1 shows "no limit" as the highest page-aligned number
_REMOVE_S = 5.0


class Place(Record):
    """Where a controller is: the mount point of its tree, and the tree's version."""

    root: str
    version: int


def _read(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 65536).decode()
    finally:
        os.close(fd)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:  # write(2) knows no path
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(fd)


def _table(path: str) -> dict[str, int]:
    """Read a file of ``name number`` lines; a file this kernel lacks has none."""
    try:
        lines = _read(path).splitlines()
    except FileNotFoundError:
        return {}
    return {name: int(value) for name, _, value in (line.partition(" ") for line in lines) if value.isdecimal()}


def _limit(path: str) -> int | None:
    text = _read(path).strip()
    return None if text == "max" or int(text) >= _NO_LIMIT_BYTES else int(text)


def find_places(mountinfo: str, *, controllers_of_v2: str | None = None) -> dict[str, Place]:
    """Return the place of each controller from the text of mountinfo (proc(5), cgroups(7)).

    `controllers_of_v2`: the text of cgroup.controllers; None reads it from the tree. A controller is in one tree only,
    v1 if mounted there.
    """
    places: dict[str, Place] = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        root = before.split()[4].replace("\\040", " ")
        fstype, _, options = after.split(" ", 2)
        if fstype == "cgroup":
            names = options.replace(" ", ",").split(",")
            places |= {name: Place(root, 1) for name in _WANTED if name in names}
        elif fstype == "cgroup2":
            text = controllers_of_v2 if controllers_of_v2 is not None else _read(f"{root}/cgroup.controllers")
            found = text.split()
            names = [*found, *(_CORE_OF_V2 if found else ())]
            places = {name: Place(root, 2) for name in _WANTED if name in names} | places
    return places


class Cgroups:
    """The groups of one session on one node."""

    def __init__(self, places: dict[str, Place], session: str) -> None:
        self.places = places
        self.session = session
        self.base = f"vmcontainer/{session}"
        self._prepared = False

    @classmethod
    def detect(cls, session: str, mountinfo: Path = Path("/proc/self/mountinfo")) -> Cgroups | None:
        """Return this node's groups, or None where this process may not make any."""
        places = find_places(mountinfo.read_text())
        writable = {name: place for name, place in places.items() if os.access(place.root, os.W_OK)}
        return cls(writable, session) if writable else None

    @property
    def kind(self) -> str:
        """Which versions carry the controllers: v1, v2 or hybrid."""
        versions = {place.version for place in self.places.values()}
        return "hybrid" if len(versions) > 1 else f"v{versions.pop()}"

    @property
    def roots(self) -> list[Place]:
        """The distinct trees, in a fixed order."""
        return list(dict.fromkeys(self.places.values()))

    def check(self, resources: Resources) -> None:
        """Raise `HostError` if a limit is asked for that no controller here can keep."""
        limits = {"memory": resources.memory.limit_bytes, "cpu": resources.cpu.quota_us, "pids": resources.pids_limit}
        for name in (name for name, limit in limits.items() if limit is not None):
            if name not in self.places:
                raise HostError(
                    f"this node has no {name} controller, so the {name} limit cannot be kept",
                    hint="run it in a guest, which has all controllers: --on vm",
                )

    def path(self, name: str) -> str:
        """Return the path of a container's group, relative to each tree (the specification's cgroupsPath)."""
        return f"/{self.base}/{name}"

    def create(self, name: str, resources: Resources) -> Cgroup:
        """Make a container's group in each tree and set its limits; what exists already is kept."""
        self._prepare()
        group = Cgroup(
            name, {key: f"{place.root}/{self.base}/{name}" for key, place in self.places.items()}, self.places
        )
        for path in group.directories:
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o755)
        group.limit(resources)
        return group

    def _prepare(self) -> None:
        if self._prepared:
            return
        for place in self.roots:
            path = place.root
            for part in ("", *self.base.split("/")):
                path = f"{path}/{part}" if part else path
                with contextlib.suppress(FileExistsError):
                    os.mkdir(path, 0o755)
                if place.version == 2:
                    self._enable(path, place)
        self._prepared = True

    def _enable(self, path: str, place: Place) -> None:
        """Let the groups below use the controllers (cgroup-v2.rst, "Enabling and Disabling"; EBUSY: processes in an
        inner group).
        """
        names = [name for name in _ENABLED_IN_V2 if self.places.get(name) == place]
        try:
            _write(f"{path}/cgroup.subtree_control", " ".join(f"+{name}" for name in names))
        except OSError as error:
            raise HostError(
                f"the control groups below {path} cannot be given controllers: {os.strerror(error.errno or 0)}",
                hint="this process shares its group with others, as inside another container; use a guest: --on vm",
            ) from error

    def names(self) -> list[str]:
        """Return the groups this session has in any tree."""
        found: set[str] = set()
        for place in self.roots:
            with contextlib.suppress(FileNotFoundError), os.scandir(f"{place.root}/{self.base}") as entries:
                found.update(entry.name for entry in entries if entry.is_dir())
        return sorted(found)

    def open(self, name: str) -> Cgroup:
        """Return a group that exists already."""
        return Cgroup(
            name, {key: f"{place.root}/{self.base}/{name}" for key, place in self.places.items()}, self.places
        )

    def close(self) -> None:
        """Kill and remove all groups of this session, then its folder; the second net after a crash."""
        for name in self.names():
            group = self.open(name)
            group.kill()
            group.remove()
        for place in self.roots:
            for path in (f"{place.root}/{self.base}", f"{place.root}/vmcontainer"):
                with contextlib.suppress(OSError):  # another session's groups are still there
                    os.rmdir(path)
        self._prepared = False


class Cgroup:
    """One container's group: a folder in each tree."""

    def __init__(self, name: str, paths: dict[str, str], places: dict[str, Place]) -> None:
        self.name = name
        self.paths = paths
        self._version = {key: place.version for key, place in places.items()}
        self.directories = list(dict.fromkeys(paths.values()))

    def shown(self) -> dict[str, str]:
        """Return what to show below /sys/fs/cgroup: controller → folder on version 1, "" → folder on version 2."""
        return {"" if self._version[key] == 2 else key: path for key, path in self.paths.items()}

    def limit(self, resources: Resources) -> None:
        """Set the limits that are not None (cgroup-v1/memory.rst, cgroup-v1/pids.rst, sched-bwc.rst, cgroup-v2.rst)."""
        if resources.memory.limit_bytes is not None:
            self._limit_memory(resources.memory.limit_bytes)
        if resources.cpu.quota_us is not None:
            self._limit_cpu(resources.cpu.quota_us, resources.cpu.period_us or 100_000)
        if resources.pids_limit is not None:
            _write(f"{self.paths['pids']}/pids.max", str(resources.pids_limit))

    def _limit_memory(self, limit_bytes: int) -> None:
        path = self.paths["memory"]
        limit, swap = (
            ("memory.max", "memory.swap.max")
            if self._version["memory"] == 2
            else ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
        )
        _write(f"{path}/{limit}", str(limit_bytes))
        with contextlib.suppress(FileNotFoundError):  # no swap accounting in this kernel
            # A limit that swap softens is no limit: version 2 counts swap alone, version 1 memory and swap together.
            _write(f"{path}/{swap}", "0" if self._version["memory"] == 2 else str(limit_bytes))

    def _limit_cpu(self, quota_us: int, period_us: int) -> None:
        path = self.paths["cpu"]
        if self._version["cpu"] == 2:
            _write(f"{path}/cpu.max", f"{quota_us} {period_us}")
            return
        _write(f"{path}/cpu.cfs_period_us", str(period_us))
        _write(f"{path}/cpu.cfs_quota_us", str(quota_us))

    @property
    def has_version_2(self) -> bool:
        """Whether a part of the group is in the version 2 tree."""
        return 2 in self._version.values()

    def open_for_birth(self) -> int:
        """Return a descriptor of the version 2 group for `linux.clone`, or -1 if there is none."""
        for path in self._version_2_directories():
            return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return -1

    def join(self, root_fd: int | None = None) -> None:
        """Move the calling, single-threaded process into the version 1 groups; `root_fd`: the root their paths begin
        at, if not /.

        A write of "0" to ``tasks`` takes the kernel no lock that waits for all processors, as any write to
        ``cgroup.procs`` does (RCU, 5 to 12 ms; kernel/cgroup/cgroup.c, cgroup_procs_write_start). Version 2 has no such
        way, but lets a process be born in its group.
        """
        for path in (path for path in self.directories if path not in self._version_2_directories()):
            name = f"{path}/tasks"
            fd = os.open(name if root_fd is None else name.lstrip("/"), os.O_WRONLY | os.O_CLOEXEC, dir_fd=root_fd)
            try:
                os.write(fd, b"0")
            finally:
                os.close(fd)

    def pids(self) -> list[int]:
        """Return the processes in the group."""
        try:
            return [int(line) for line in _read(f"{self.directories[0]}/cgroup.procs").split()]
        except (FileNotFoundError, OSError):
            return []

    def stats(self) -> dict[str, Any]:
        """Return the memory, cpu and pids parts of the kernel view's ``containers[]``; bytes, seconds, counts; None is
        "no limit".
        """
        return {"memory": self._memory(), "cpu": self._cpu(), "pids": self._pids()}

    def _memory(self) -> dict[str, int | None]:
        path = self.paths.get("memory")
        if path is None:
            return {"usage_bytes": None, "limit_bytes": None, "oom_kills": None}
        usage, limit = (
            ("memory.current", "memory.max")
            if self._version["memory"] == 2
            else ("memory.usage_in_bytes", "memory.limit_in_bytes")
        )
        return {
            "usage_bytes": int(_read(f"{path}/{usage}")),
            "limit_bytes": _limit(f"{path}/{limit}"),
            "oom_kills": self.events()["oom_kills"],
        }

    def _cpu(self) -> dict[str, float | None]:
        if "cpu" not in self.paths:
            return {"usage_s": None, "limit_cpus": None, "throttled_s": None}
        path, table = self.paths["cpu"], _table(f"{self.paths['cpu']}/cpu.stat")
        if self._version["cpu"] == 2:
            quota, period = _read(f"{path}/cpu.max").split()
            limit = None if quota == "max" else int(quota) / int(period)
            return {
                "usage_s": table.get("usage_usec", 0) / 1e6,
                "limit_cpus": limit,
                "throttled_s": table.get("throttled_usec", 0) / 1e6,
            }
        quota_us, period_us = int(_read(f"{path}/cpu.cfs_quota_us")), int(_read(f"{path}/cpu.cfs_period_us"))
        usage_s = int(_read(f"{self.paths['cpuacct']}/cpuacct.usage")) / 1e9 if "cpuacct" in self.paths else None
        limit = None if quota_us < 0 else quota_us / period_us
        return {"usage_s": usage_s, "limit_cpus": limit, "throttled_s": table.get("throttled_time", 0) / 1e9}

    def _pids(self) -> dict[str, int | None]:
        path = self.paths.get("pids")
        if path is None:
            return {"current": None, "limit": None, "denied": None}
        current = int(_read(f"{path}/pids.current"))
        return {"current": current, "limit": _limit(f"{path}/pids.max"), "denied": self.events()["pids_denied"]}

    def events(self) -> dict[str, int]:
        """Return how often the memory limit killed and the pids limit denied, since the group was made."""
        oom = _table(self._memory_events()) if "memory" in self.paths else {}
        denied = _table(f"{self.paths['pids']}/pids.events") if "pids" in self.paths else {}
        return {"oom_kills": oom.get("oom_kill", 0), "pids_denied": denied.get("max", 0)}

    def _memory_events(self) -> str:
        return f"{self.paths['memory']}/" + ("memory.events" if self._version["memory"] == 2 else "memory.oom_control")

    def freeze(self) -> None:
        """Stop every process of the group where it is."""
        self._set_frozen(frozen=True)

    def thaw(self) -> None:
        """Let a frozen group go on."""
        self._set_frozen(frozen=False)

    def _set_frozen(self, *, frozen: bool) -> None:
        if "freezer" not in self.paths:
            raise HostError("this node has no freezer, so a container cannot be paused")
        if self._version["freezer"] == 2:
            _write(f"{self.paths['freezer']}/cgroup.freeze", "1" if frozen else "0")
        else:
            _write(f"{self.paths['freezer']}/freezer.state", "FROZEN" if frozen else "THAWED")

    def signal(self, signum: int) -> None:
        """Send a signal to every process of the group."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)

    def kill(self) -> None:
        """End every process of the group, forking and frozen ones too."""
        for path in self._version_2_directories():
            with contextlib.suppress(FileNotFoundError):  # cgroup.kill came with Linux 5.14
                _write(f"{path}/cgroup.kill", "1")
        with contextlib.suppress(OSError):
            # Version 1 has no cgroup.kill: first forbid forks, so that the list of processes cannot outrun us.
            _write(f"{self.paths['pids']}/pids.max", "0") if "pids" in self.paths else None
        seen: set[int] = set()
        while not seen.issuperset(pids := self.pids()):
            seen.update(pids)
            self.signal(signal.SIGKILL)
        with contextlib.suppress(OSError, HostError):
            self.thaw()  # a frozen version 1 task takes its SIGKILL only when thawed

    def _version_2_directories(self) -> set[str]:
        return {path for key, path in self.paths.items() if self._version[key] == 2}

    def remove(self) -> None:
        """Remove the group; wait up to 5 s for its last processes to exit, then raise `ContainerError` naming them."""
        deadline, pause_s = time.monotonic() + _REMOVE_S, 0.0005
        for path in self.directories:
            while not self._rmdir(path):
                if time.monotonic() > deadline:
                    raise ContainerError(
                        f"the control group {path} still holds processes {self.pids()}",
                        hint="they do not die of SIGKILL: see their state in /proc/PID/stack",
                        where="cgroup remove",
                    )
                time.sleep(pause_s)
                pause_s = min(pause_s * 2, 0.05)

    @staticmethod
    def _rmdir(path: str) -> bool:
        try:
            os.rmdir(path)
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise
            return False
        return True
