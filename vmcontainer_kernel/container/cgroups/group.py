"""One container's control group: the same folder in each tree that its limits, counters and its end need."""

# Plain system calls: a path object costs a forked child copied pages, and hides which call it is.
# ruff: noqa: PTH106, PTH116

from __future__ import annotations

import errno
import os
import time

from vmcontainer_kernel.container.cgroups import limits
from vmcontainer_kernel.container.cgroups.files import read, table, write
from vmcontainer_kernel.container.csignal import signal
from vmcontainer_kernel.container.light import suppress
from vmcontainer_kernel.container.spec import Resources
from vmcontainer_kernel.errors import ContainerError, HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from vmcontainer_kernel.container.cgroups.limits import Write
    from vmcontainer_kernel.container.cgroups.trees import Place
    from vmcontainer_kernel.container.cgroups.watch import Watch

__all__ = ["Cgroup"]

_NO_RESOURCES = Resources()
_REMOVE_S = 5.0
_FREEZE_S = 5.0
# Two limits one of which must not exceed the other (memory and memsw, quota and burst, weight and idle) are refused in
# one order or the other, depending on what was there before.
_ASK_AGAIN = (errno.EINVAL, errno.EBUSY)


class Cgroup:
    """A container's group; `paths`: controller → folder; `rows`: what its `resources` are to write there."""

    def __init__(
        self,
        name: str,
        paths: dict[str, str],
        places: Mapping[str, Place],
        rows: Sequence[Write] = (),
        resources: Resources = _NO_RESOURCES,
    ) -> None:
        self.name, self.rows, self.resources = name, rows, resources
        self.paths = paths
        self.versions = {key: places[key].version for key in paths}
        self.directories = list(dict.fromkeys(paths.values()))
        self._version_2 = {path for key, path in paths.items() if self.versions[key] == 2}

    def shown(self) -> dict[str, str]:
        """Return what to show below /sys/fs/cgroup: controller → folder on version 1, "" → folder on version 2."""
        return {"" if self.versions[key] == 2 else key: path for key, path in self.paths.items()}

    def describe(self) -> list[dict[str, str]]:
        """Return what making the group does, in order, as a container's steps are described: step, call, why, source.

        It is the parent's part, done while the new process mounts.
        """
        trees = ", ".join(self.directories)
        made = {
            "step": "group",
            "call": f"mkdir({trees})",
            "why": "one folder in each tree that limits, counts, stops or ends the container",
            "source": "cgroups(7)",
        }
        files: dict[tuple[str, str], list[Write]] = {}  # one row each, however many texts it takes
        for row in self.rows:
            files.setdefault((self.paths.get(row.controller, ""), row.file), []).append(row)
        return [
            made,
            *(
                {
                    "step": file,
                    "call": "; ".join(f'write("{folder}/{file}", "{row.text}")' for row in rows),
                    "why": rows[0].field,
                    "source": "cgroups(7)",
                }
                for (folder, file), rows in files.items()
            ),
        ]

    # -- limits

    def limit(self, resources: Resources) -> None:
        """Set the limits that are not None.

        Raises `HostError` naming the field if the kernel lacks the file or refuses the text.
        """
        self.apply(limits.writes(resources, self.versions), resources)

    def apply(self, rows: Sequence[Write], resources: Resources) -> None:
        """Carry out what `limits.writes` said of `resources`."""
        later: list[Write] = []
        for row in rows:
            if row.file == limits.DEVICE_PROGRAM:
                from vmcontainer_kernel.container.cgroups import program

                program.attach(self.paths["devices"], resources.devices)
            elif not self._write(row):
                later.append(row)
        for row in later:
            self._write(row, last=True)

    def turn_into(self, other: Cgroup) -> bool:
        """Set the limits of `other`, the same group as it is wanted; False if that cannot be done by setting limits,
        or they are refused.
        """
        if other.rows == self.rows:
            return True
        files = {(row.controller, row.file) for row in other.rows}
        if other.paths != self.paths or not files.issuperset((row.controller, row.file) for row in self.rows):
            return False
        try:
            other.apply([row for row in other.rows if row not in self.rows], other.resources)
        except HostError:
            return False
        return True

    def _write(self, row: Write, *, last: bool = False) -> bool:
        """Write one text; False if it is to be tried again after the others."""
        folder = self.paths.get(row.controller) or next(iter(self._version_2))  # cgroup.max.*: version 2's core
        choices = [(row.file, row.text), *([row.other] if row.other else [])]
        for file, text in choices:
            try:
                write(f"{folder}/{file}", text)
                if row.doubtful and read(f"{folder}/{file}").strip() != text:
                    raise OSError(errno.EOPNOTSUPP, "")
                return True
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno in _ASK_AGAIN and not last:
                    return False
                raise _refused(row, error) from error
        if not row.needless:
            raise HostError(
                f"this kernel has no {row.file}, so {row.field} cannot be kept",
                hint="leave it out, or run it in a guest: --on vm",
                where=row.field,
            )
        return True

    def check_use(self, resources: Resources) -> None:
        """Raise `ContainerError` if the memory limit is below what is in use and `checkBeforeUpdate` asks to check."""
        memory = resources.memory
        if not memory.check_before_update or memory.limit_bytes is None or memory.limit_bytes < 0:
            return
        name = "memory.current" if self.versions["memory"] == 2 else "memory.usage_in_bytes"
        used_bytes = int(read(f"{self.paths['memory']}/{name}"))
        if used_bytes > memory.limit_bytes:
            raise ContainerError(
                f"{used_bytes} bytes are in use, more than the new limit of {memory.limit_bytes}",
                hint="give more, or leave checkBeforeUpdate out to have the kernel kill what does not fit",
                where="linux.resources.memory.limit",
            )

    # -- members

    @property
    def has_version_2(self) -> bool:
        """Whether a part of the group is in the version 2 tree."""
        return bool(self._version_2)

    def open_for_birth(self) -> int:
        """Return a descriptor of the version 2 group for `linux.clone`, or -1 if there is none."""
        for path in self._version_2:
            return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return -1

    def join(self, root_fd: int | None = None) -> None:
        """Move the calling, single-threaded process into the version 1 groups; `root_fd`: the root their paths begin
        at, if not /.

        A write of "0" to ``tasks`` takes the kernel no lock that waits for all processors, as any write to
        ``cgroup.procs`` does (RCU, 5 to 12 ms; kernel/cgroup/cgroup.c, cgroup_procs_write_start). Version 2 has no such
        way, but lets a process be born in its group.
        """
        for path in (path for path in self.directories if path not in self._version_2):
            name = f"{path}/tasks"
            fd = os.open(name if root_fd is None else name.lstrip("/"), os.O_WRONLY | os.O_CLOEXEC, dir_fd=root_fd)
            try:
                os.write(fd, b"0")
            finally:
                os.close(fd)

    def pids(self, *, recursive: bool = True) -> list[int]:
        """Return the processes in the group, and in the groups that the container made below it."""
        found: set[int] = set()
        for path in self.directories[:1]:
            for folder in _below(path) if recursive else [path]:
                with suppress(OSError):  # gone; or threaded (EOPNOTSUPP), whose parent lists its processes
                    found.update(int(line) for line in read(f"{folder}/cgroup.procs").split())
        return sorted(found)

    def signal(self, signum: int) -> None:
        """Send a signal to every process of the group."""
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signum)

    # -- freezing

    def freeze(self) -> None:
        """Stop every process of the group where it is, and wait until all have stopped."""
        self._set_frozen(frozen=True)
        try:
            _until(self.is_frozen, _FREEZE_S)
        except TimeoutError:
            self._set_frozen(frozen=False)
            raise ContainerError(
                f"the processes of {self.name} do not stop within {_FREEZE_S:g} s, so they go on",
                hint="one of them waits in the kernel: see /proc/PID/stack; try again",
                where="cgroup freeze",
            ) from None

    def thaw(self) -> None:
        """Let a frozen group go on."""
        self._set_frozen(frozen=False)

    def is_frozen(self) -> bool:
        """Tell whether all processes have stopped: version 1 says FREEZING until then (freezer-subsystem.rst)."""
        path = self.paths.get("freezer")
        if path is None:
            return False
        if self.versions["freezer"] == 2:
            return table(f"{path}/cgroup.events").get("frozen") == 1
        try:
            return read(f"{path}/freezer.state").strip() == "FROZEN"
        except FileNotFoundError:  # not made yet, or gone
            return False

    def _set_frozen(self, *, frozen: bool) -> None:
        if "freezer" not in self.paths:
            raise HostError("this node has no freezer, so a container cannot be paused")
        if self.versions["freezer"] == 2:
            write(f"{self.paths['freezer']}/cgroup.freeze", "1" if frozen else "0")
        else:
            write(f"{self.paths['freezer']}/freezer.state", "FROZEN" if frozen else "THAWED")

    # -- the end

    def kill(self) -> None:
        """End every process of the group and of those below it, forking and frozen ones too."""
        for path in self._version_2:
            with suppress(FileNotFoundError):  # cgroup.kill came with Linux 5.14
                write(f"{path}/cgroup.kill", "1")
        with suppress(OSError):
            # Version 1 has no cgroup.kill: first forbid forks, so that the list of processes cannot outrun us.
            write(f"{self.paths['pids']}/pids.max", "0") if "pids" in self.paths else None
        seen: set[int] = set()
        while not seen.issuperset(pids := self.pids()):
            seen.update(pids)
            self.signal(signal.SIGKILL)
        with suppress(OSError, HostError):
            self.thaw()  # a frozen version 1 task takes its SIGKILL only when thawed

    def remove(self) -> None:
        """Remove the group and those below it; wait up to 5 s for the last processes to exit, then raise
        `ContainerError` naming them.
        """
        for path in self.directories:
            try:
                _until(lambda path=path: _remove_tree(path), _REMOVE_S)  # type: ignore[misc]
            except TimeoutError:
                raise ContainerError(
                    f"the control group {path} still holds processes {self.pids()}",
                    hint="they do not die of SIGKILL: see their state in /proc/PID/stack",
                    where="cgroup remove",
                ) from None

    # -- looking

    def stats(self, before: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what is used and allowed, as the kernel view's ``containers[]`` has it (`stats.stats`); of what was
        told a moment `before` only what changes all the time is read again (`stats.renewed`).
        """
        from vmcontainer_kernel.container.cgroups import stats

        if before:
            return stats.renewed(before, self.paths, self.versions)
        return stats.stats(self.paths, self.versions)

    def oci_stats(self) -> dict[str, Any]:
        """Return the same as runc's ``events --stats`` shows it (`stats.oci_stats`)."""
        from vmcontainer_kernel.container.cgroups import stats

        return stats.oci_stats(self.paths, self.versions)

    def events(self) -> dict[str, int]:
        """Return how often the memory limit killed and the pids limit denied, since the group was made."""
        oom = table(self.memory_events_path) if "memory" in self.paths else {}
        denied = table(f"{self.paths['pids']}/pids.events") if "pids" in self.paths else {}
        return {"oom_kills": oom.get("oom_kill", 0), "pids_denied": denied.get("max", 0)}

    @property
    def memory_events_path(self) -> str:
        """The file that counts how often the memory limit struck."""
        return f"{self.paths['memory']}/" + ("memory.events" if self.versions["memory"] == 2 else "memory.oom_control")

    def watch(self) -> Watch:
        """Return something to wait on until a limit strikes; the caller closes it."""
        from vmcontainer_kernel.container.cgroups.watch import Watch

        return Watch(self)


def _refused(row: Write, error: OSError) -> HostError:
    hints = {
        errno.EBUSY: "more than that is in use already",
        errno.EPERM: "a group above allows less",
        errno.EACCES: "this user may not set it",
        errno.ENODEV: "there is no such device",
        errno.EOPNOTSUPP: "this kernel keeps the file for old programs only",
    }
    return HostError(
        f"the kernel refuses {row.field}: {os.strerror(error.errno or 0)} (writing {row.text!r} to {row.file})",
        hint=hints.get(error.errno or 0, "see the value's limits in the kernel's cgroup-v1 or cgroup-v2 documentation"),
        where=row.field,
    )


def _until(done: Callable[[], bool], limit_s: float) -> None:
    """Ask until it is done, at first often; raise TimeoutError."""
    deadline, pause_s = time.monotonic() + limit_s, 0.0005
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.05)


def _below(path: str) -> list[str]:
    """Return a group's folder and all below it, the deepest last."""
    found = [path]
    for folder in found:
        with suppress(OSError):
            # Two links and one for each folder in it: most groups have none, and are not read (kernfs).
            if os.stat(folder).st_nlink > 2:
                with os.scandir(folder) as entries:
                    found += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    return found


def _remove_tree(path: str) -> bool:
    """Remove a group, and if it has groups those first; False while one of them holds processes."""
    if _rmdir(path):
        return True
    return all([_rmdir(folder) for folder in reversed(_below(path))])


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
