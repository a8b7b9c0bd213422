"""The groups of one session on one node: made, opened, ended.

    v1  /sys/fs/cgroup/memory/vmcontainer/SESSION/NAME   /sys/fs/cgroup/pids/vmcontainer/SESSION/NAME   …
    v2  /sys/fs/cgroup/vmcontainer/SESSION/NAME

An OCI configuration may name another path (``cgroupsPath``): an absolute one begins at the top of each tree as this
process sees it, a relative one where this process may make groups.
"""

# ruff: noqa: PTH102, PTH106

from __future__ import annotations

import errno
import os

from vmcontainer_kernel.container.cgroups import trees
from vmcontainer_kernel.container.cgroups.files import read, write
from vmcontainer_kernel.container.cgroups.group import Cgroup
from vmcontainer_kernel.container.cgroups.limits import ALWAYS, controllers, writes
from vmcontainer_kernel.container.light import suppress
from vmcontainer_kernel.container.spec import Resources
from vmcontainer_kernel.errors import ContainerError, HostError, LabError, SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmcontainer_kernel.container.cgroups.trees import Place

__all__ = ["Cgroups"]

_NO_RESOURCES = Resources()
_ENABLED = ("memory", "pids", "cpu", "io")  # in version 2's groups; the others when a limit needs them
_NOT_ENABLED = ("cpuacct", "freezer", "devices")  # every version 2 group has them
_REST = "vmcontainer.rest"
_TOP = "vmcontainer"


class Cgroups:
    """The groups of one session on one node."""

    def __init__(self, places: dict[str, Place], session: str) -> None:
        self.places = places
        self.versions = {name: place.version for name, place in places.items()}
        self.session = session
        self.base = f"{_TOP}/{session}"
        self._prepared: set[tuple[str, str]] = set()
        self._moved: dict[str, str] = {}

    @classmethod
    def detect(cls, session: str, proc: str = "/proc") -> Cgroups | None:
        """Return this node's groups, or None where this process may not make any."""
        places = trees.writable_places(proc)
        return cls(places, session) if places else None

    @staticmethod
    def missing_reason(proc: str = "/proc") -> str:
        """Say why `detect` finds no tree with limits; "" if it does."""
        return trees.missing_reason(proc)

    @property
    def kind(self) -> str:
        """Which versions carry the controllers that every container needs: v1, v2 or hybrid."""
        versions = {version for name, version in self.versions.items() if name in ALWAYS} or set(self.versions.values())
        return "hybrid" if len(versions) > 1 else f"v{versions.pop()}"

    @property
    def roots(self) -> list[Place]:
        """The distinct trees, in a fixed order."""
        return list(dict.fromkeys(self.places.values()))

    def check(self, resources: Resources) -> None:
        """Raise `HostError` if a limit is asked for that no controller here can keep."""
        writes(resources, self.versions)

    # -- names and folders

    @property
    def parent(self) -> str:
        """The folder of the tree below which this process makes groups: "" for its top, else "/…"."""
        return next((place.parent for place in self.places.values()), "")

    def path(self, name: str) -> str:
        """Return the path of a container's group, relative to each tree (the specification's cgroupsPath)."""
        return f"{self.parent}/{self.base}/{name}"

    def below(self, cgroups_path: str) -> str:
        """Return a configuration's cgroupsPath as one from the tree's top, which it may neither leave nor be; a
        relative one is below `parent`.
        """
        parts = [part for part in cgroups_path.split("/") if part not in ("", ".")]
        if ".." in parts or "\0" in cgroups_path or not parts:
            raise SpecError(
                f"linux.cgroupsPath: {cgroups_path!r} is no group inside of the tree", where="linux.cgroupsPath"
            )
        return f"{'' if cgroups_path.startswith('/') else self.parent}/{'/'.join(parts)}"

    def _folder(self, controller: str, name: str, cgroups_path: str = "") -> str:
        """Return a group's folder in a controller's tree."""
        place = self.places[controller]
        if cgroups_path:
            return f"{place.root}{self.below(cgroups_path)}"
        return f"{place.root}{place.parent}/{self.base}/{name}"

    def group(self, name: str, resources: Resources = _NO_RESOURCES, cgroups_path: str = "") -> Cgroup:
        """Return a container's group, which need not exist yet: folders in the trees that its limits, counters and its
        end need, and in no other.
        """
        rows = writes(resources, self.versions)
        paths = {key: self._folder(key, name, cgroups_path) for key in controllers(rows, self.versions)}
        return Cgroup(name, paths, self.places, rows, resources)

    def open(self, name: str, cgroups_path: str = "") -> Cgroup:
        """Return a group as it exists, with the trees that limits of its own have brought."""
        paths = {key: self._folder(key, name, cgroups_path) for key in self.places}
        there = {key: path for key, path in paths.items() if key in ALWAYS or os.path.isdir(path)}  # noqa: PTH112
        return Cgroup(name, there, self.places)

    # -- making

    def create(self, name: str, resources: Resources, cgroups_path: str = "") -> Cgroup:
        """Make a container's group (`group`, `make`)."""
        group = self.group(name, resources, cgroups_path)
        self.make(group)
        return group

    def make(self, group: Cgroup) -> None:
        """Make a group's folder in each tree and set its limits; if one cannot be set, nothing stays.

        An empty group that exists already is taken; one with processes is a `ContainerError`, as they would be ended
        with the container. All thinking is done before, in `group`: just after a clone each page that is touched for
        the first time is copied.
        """
        made: list[str] = []
        try:
            for key, path in group.paths.items():
                if path not in made:
                    self._make(key, path, made)
                elif key not in ALWAYS:  # version 2's one folder: the controller comes to it
                    self._prepare(key, self.places[key], path, made)
            group.apply(group.rows, group.resources)
        except BaseException as error:
            for path in reversed(made):
                with suppress(OSError):
                    os.rmdir(path)
            self._prepared.clear()
            if isinstance(error, OSError):
                raise _not_made(error) from error
            raise

    def _make(self, controller: str, path: str, made: list[str]) -> None:
        """Make the folder in one tree; tell in `made` that it is new."""
        place = self.places[controller]
        self._prepare(controller, place, path, made)
        try:
            os.mkdir(path, 0o755)
            made.append(path)
        except FileExistsError:
            if read(f"{path}/cgroup.procs").strip():
                raise ContainerError(
                    f"the control group {path} has processes already",
                    hint="choose another cgroupsPath, or end them",
                    where="linux.cgroupsPath",
                ) from None
        if controller == "cpuset" and place.version == 1:
            _fill_cpuset(path)

    def _prepare(self, controller: str, place: Place, path: str, made: list[str]) -> None:
        """Make the folders above a group, and on version 2 give its controllers to the groups in each of them."""
        parent = path.rpartition("/")[0]
        if (controller, parent) in self._prepared:
            return
        wanted = (controller,) if place.version == 1 or controller not in ALWAYS else _ENABLED
        names = tuple(name for name in wanted if self.places.get(name) == place and name not in _NOT_ENABLED)
        try:
            self._make_above(controller, place, parent, names, made)
        except FileNotFoundError:  # a session that ended has just removed the uppermost folder, as nothing was in it
            self._make_above(controller, place, parent, names, made)
        self._prepared.add((controller, parent))

    def _make_above(self, controller: str, place: Place, parent: str, names: tuple[str, ...], made: list[str]) -> None:
        folder = place.root
        for part in ("", *parent[len(place.root) :].strip("/").split("/")):
            folder = f"{folder}/{part}" if part else folder
            with suppress(FileExistsError):
                os.mkdir(folder, 0o755)
                made.append(folder)
                if controller == "cpuset" and place.version == 1:
                    _fill_cpuset(folder)
            if folder.startswith(f"{place.root}{place.parent}/{_TOP}"):
                _weigh(folder)
            if place.version == 2 and len(folder) >= len(place.root + place.parent):
                self._enable(folder, names)

    def _enable(self, folder: str, names: tuple[str, ...]) -> None:
        """Let the groups below use controllers (cgroup-v2.rst, "Enabling and Disabling")."""
        text = " ".join(f"+{name}" for name in names)
        try:
            write(f"{folder}/cgroup.subtree_control", text)
        except OSError as error:
            if error.errno == errno.EBUSY:  # a group with processes has none below that use controllers
                self._move_processes(folder)
                write(f"{folder}/cgroup.subtree_control", text)
                return
            raise HostError(
                f"the control groups below {folder} cannot be given {', '.join(names)}:"
                f" {os.strerror(error.errno or 0)}",
                hint="have them handed over (systemd: Delegate=yes), or use a guest: --on vm",
            ) from error

    def _move_processes(self, folder: str) -> None:
        """Move the processes of a folder that we were handed, this one among them, into a group below it."""
        rest = f"{folder}/{_REST}"
        with suppress(FileExistsError):
            os.mkdir(rest, 0o755)
        self._moved[folder] = rest
        while pids := read(f"{folder}/cgroup.procs").split():
            for pid in pids:
                with suppress(ProcessLookupError):
                    write(f"{rest}/cgroup.procs", pid)

    # -- changing

    def update(self, group: Cgroup, resources: Resources) -> Cgroup:
        """Change the limits of a running container; what is None stays. Return the group, which may have got a folder
        in one more tree.
        """
        group.check_use(resources)
        rows = writes(resources, self.versions)
        extra = [name for name in controllers(rows, self.versions) if name not in group.paths]
        if not extra:
            group.apply(rows, resources)
            return group
        path = group.directories[0]
        first = next(key for key, one in group.paths.items() if one == path)
        below = path[len(self.places[first].root) :]
        made: list[str] = []
        paths = {name: f"{self.places[name].root}{below}" for name in extra}
        for name, folder in paths.items():
            if folder in group.directories:  # version 2's one folder: the controller comes to it
                self._prepare(name, self.places[name], folder, made)
            else:
                self._make(name, folder, made)
        larger = Cgroup(group.name, group.paths | paths, self.places)
        larger.apply(rows, resources)
        for folder in made:
            for pid in group.pids():
                with suppress(ProcessLookupError):
                    write(f"{folder}/cgroup.procs", str(pid))
        return larger

    # -- the end

    def names(self) -> list[str]:
        """Return the groups this session has in any tree."""
        found: set[str] = set()
        for place in self.roots:
            folder = f"{place.root}{place.parent}/{self.base}"
            with suppress(FileNotFoundError), os.scandir(folder) as entries:
                found.update(entry.name for entry in entries if entry.is_dir())
        return sorted(found)

    def close(self) -> None:
        """Kill and remove all groups of this session, then its folder; the second net after a crash."""
        for name in self.names():
            group = self.open(name)
            group.kill()
            group.remove()
        for place in self.roots:
            top = f"{place.root}{place.parent}"
            for path in (f"{top}/{self.base}", f"{top}/{_TOP}"):
                with suppress(OSError):  # another session's groups are still there
                    os.rmdir(path)
        for folder, rest in self._moved.items():
            with suppress(OSError, LabError):
                _move_back(folder, rest)
        self._moved.clear()
        self._prepared.clear()


def _weigh(folder: str) -> None:
    """Give a folder of many groups the weight of one busy process for each processor. To the scheduler a group is one
    (sched-design-CFS.rst): twenty machines would get together what any single program beside them gets.
    """
    busy = os.cpu_count() or 1
    for name, usual, most in (("cpu.shares", 1024, 262_144), ("cpu.weight", 100, 10_000)):
        with suppress(FileNotFoundError):  # of the other version, or of another controller's tree
            write(f"{folder}/{name}", str(min(usual * busy, most)))


def _fill_cpuset(path: str) -> None:
    """Give a new version 1 cpuset its parent's processors and memory: it begins with none, and then takes no process
    (cpusets.rst).
    """
    parent = path.rpartition("/")[0]
    for name in ("cpuset.cpus", "cpuset.mems"):
        if not read(f"{path}/{name}").strip():
            write(f"{path}/{name}", read(f"{parent}/{name}").strip())


def _move_back(folder: str, rest: str) -> None:
    """Undo `_move_processes`: a group takes processes again when those below use no controllers."""
    given = read(f"{folder}/cgroup.subtree_control").split()
    write(f"{folder}/cgroup.subtree_control", " ".join(f"-{name}" for name in given))
    for pid in read(f"{rest}/cgroup.procs").split():
        with suppress(ProcessLookupError):
            write(f"{folder}/cgroup.procs", pid)
    os.rmdir(rest)


def _not_made(error: OSError) -> HostError:
    hints = {
        errno.EACCES: "this user may make groups only where they were handed over (systemd: Delegate=yes)",
        errno.EROFS: "the tree is read-only, as in an ordinary container; run it in a guest: --on vm",
        errno.EAGAIN: "a group above allows no more groups (cgroup.max.descendants): remove containers",
        errno.ENAMETOOLONG: "choose a shorter cgroupsPath",
    }
    return HostError(
        f"the control group {error.filename} cannot be made: {os.strerror(error.errno or 0)}",
        hint=hints.get(error.errno or 0, "run it in a guest: --on vm"),
        where="linux.cgroupsPath",
    )
