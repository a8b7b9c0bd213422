"""Where each controller of this node is, and where in its tree this process may make groups.

Version 1 has a tree for each controller (or a few), version 2 one tree for all; a controller is in one tree only. Root
makes groups at the top of what it sees of a tree. An ordinary user may do so only below a folder that was handed over
(cgroup-v2.rst, "Delegation"), as systemd does with user@UID.service, and only if this process is below it too.
"""

from __future__ import annotations

import os

from vmcontainer_kernel.container.cgroups.files import read
from vmcontainer_kernel.container.record import Record

__all__ = ["Place", "Tree", "find_places", "find_trees", "missing_reason", "writable_places"]

CONTROLLERS = (
    *("memory", "pids", "cpu", "cpuacct", "freezer", "devices", "cpuset", "hugetlb", "rdma"),
    *("blkio", "net_cls", "net_prio"),  # version 1's only; version 2's name of blkio is io
    "io",
)
_CORE_OF_V2 = ("cpuacct", "freezer")
"""cpu.stat and cgroup.freeze are in every version 2 group (cgroup-v2.rst, "Core Interface Files")."""


class Place(Record):
    """Where a controller is: the mount point of its tree, the tree's version, and the folder below which this process
    makes groups: "" for the tree's top, else "/…".
    """

    root: str
    version: int
    parent: str = ""


class Tree(Record):
    """A mounted tree: its mount point, its version, what part of it is mounted (proc(5), mountinfo, field 4), and its
    version 1 controllers.
    """

    root: str
    version: int
    mounted: str = "/"
    names: tuple[str, ...] = ()


def find_trees(mountinfo: str) -> list[Tree]:
    """Return every mounted tree, from the text of mountinfo (proc(5), cgroups(7))."""
    trees = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fstype, _, rest = after.partition(" ")
        if fstype in ("cgroup", "cgroup2"):
            words = before.split()
            root, mounted = (word.replace("\\040", " ") for word in (words[4], words[3]))
            options = rest.replace(" ", ",").split(",")
            names = tuple(name for name in CONTROLLERS if name in options) if fstype == "cgroup" else ()
            trees.append(Tree(root, 1 if fstype == "cgroup" else 2, mounted, names))
    return trees


def find_places(mountinfo: str, *, controllers_of_v2: str | None = None) -> dict[str, Place]:
    """Return the place of each controller, as root has it.

    `controllers_of_v2`: the text of cgroup.controllers; None reads it from the tree.
    """
    return _places([(tree, "") for tree in find_trees(mountinfo)], controllers_of_v2, privileged=True)


def _places(found: list[tuple[Tree, str]], controllers_of_v2: str | None, *, privileged: bool) -> dict[str, Place]:
    places: dict[str, Place] = {}
    for tree, parent in found:
        place = Place(tree.root, tree.version, parent)
        if tree.version == 1:
            places |= dict.fromkeys(tree.names, place)  # wins: mounted there, it is not in version 2
        else:
            text = controllers_of_v2
            names = (read(f"{tree.root}{parent}/cgroup.controllers") if text is None else text).split()
            # Version 2 judges devices by a program, which only root may attach (cgroup-v2.rst, "Device controller").
            core = (*_CORE_OF_V2, *(("devices",) if privileged else ())) if names else ()
            places = dict.fromkeys((name for name in CONTROLLERS if name in (*names, *core)), place) | places
    return places


def writable_places(proc: str = "/proc") -> dict[str, Place]:
    """Return the places where this process may make groups; `proc`: the root of proc(5)."""
    root = os.geteuid() == 0
    trees = find_trees(read(f"{proc}/self/mountinfo"))
    if root:
        found = [(tree, "") for tree in trees if os.access(tree.root, os.W_OK)]
    else:
        own = _own_groups(read(f"{proc}/self/cgroup"))
        parents = [(tree, _delegated(tree, _seen(own, tree))) for tree in trees]
        found = [(tree, parent) for tree, parent in parents if parent is not None]
    return _places(found, None, privileged=root)


def _own_groups(text: str) -> dict[str, str]:
    """Return controller → this process's group; "" is version 2 (cgroups(7), /proc/PID/cgroup)."""
    rows = (line.split(":", 2) for line in text.splitlines())
    return {name: path for _, names, path in rows for name in names.split(",")}


def _seen(own: dict[str, str], tree: Tree) -> str:
    """Return this process's group below the mount point; "" where that is the tree's top or out of sight."""
    path = own.get(tree.names[0] if tree.names else "", "/")
    below = tree.mounted.rstrip("/")
    if path == below or not path.startswith(f"{below}/"):
        return ""
    return path[len(below) :].rstrip("/")


def _delegated(tree: Tree, own: str) -> str | None:
    """Return the nearest folder from our own group upwards which we may divide, or None.

    To move a process one must be allowed to write in the common parent of its old and its new group, so a folder beside
    our own branch is of no use. One without processes of its own is better: only such a one may have controllers below
    it (cgroup-v2.rst, "No Internal Process Constraint").
    """
    needed = ("cgroup.procs", "cgroup.subtree_control") if tree.version == 2 else ("tasks",)
    path, occupied = own, None
    while True:
        folder = f"{tree.root}{path}"
        if not all(os.access(name, os.W_OK) for name in (folder, *(f"{folder}/{one}" for one in needed))):
            return occupied
        if tree.version == 1 or not read(f"{folder}/cgroup.procs").strip():
            return path
        occupied = path if occupied is None else occupied
        if not path:
            return occupied
        path = path.rpartition("/")[0]


def missing_reason(proc: str = "/proc") -> str:
    """Say why this process may make no groups, for a report; "" if it may."""
    trees = find_trees(read(f"{proc}/self/mountinfo"))
    if not trees:
        return "no control group tree is mounted"
    places = writable_places(proc)
    if "memory" in places or "pids" in places:
        return ""
    if not any(tree.names for tree in trees) and not _has_controllers(trees):
        return "the control group tree has no controllers here"
    if os.geteuid() == 0:
        return f"{trees[0].root} is mounted read-only, as in an ordinary container"
    own = _own_groups(read(f"{proc}/self/cgroup")).get("", "/")
    if all(tree.version == 1 for tree in trees):
        return f"uid {os.geteuid()} may not write to version 1's trees, and they are not meant to be handed over"
    return f"uid {os.geteuid()} may not divide its own group {own}: it was not handed over (systemd: Delegate=yes)"


def _has_controllers(trees: list[Tree]) -> bool:
    return any(tree.version == 2 and read(f"{tree.root}/cgroup.controllers").strip() for tree in trees)
