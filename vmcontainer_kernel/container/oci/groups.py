"""The control groups of one container, found by the path that was written down when it was made."""

from __future__ import annotations

import os

from vmcontainer_kernel.container.cgroups import Cgroup, Cgroups
from vmcontainer_kernel.container.spec import Resources, Spec
from vmcontainer_kernel.errors import UserError

__all__ = ["find", "is_frozen", "make", "path_of", "thaw"]


def path_of(spec: Spec, name: str) -> str:
    """Return where a container's groups are, below each tree's root; a path of ours if the configuration has none.

    All processes in it are the container's, as all of them end with it: a group that others are in is refused.
    """
    path = os.path.normpath("/" + (spec.linux.cgroups_path or f"vmcontainer/{name}").lstrip("/"))
    if path == "/":
        raise UserError("a container cannot be in the root group", where="linux.cgroupsPath")
    group = find(path)
    if group and (pids := group.pids()):
        raise UserError(f"the control group {path} is in use by processes {pids}", where="linux.cgroupsPath")
    return path if group else ""


def _groups(path: str) -> tuple[Cgroups | None, str]:
    found = Cgroups.detect("") if path else None
    if found:
        found.base = os.path.dirname(path).strip("/")
    return found, os.path.basename(path)


def find(path: str) -> Cgroup | None:
    """Return a container's group, which may not exist yet; None where there are none."""
    found, name = _groups(path)
    return found.open(name) if found else None


def make(path: str, resources: Resources) -> None:
    """Make a container's group in each tree and set its limits."""
    found, name = _groups(path)
    if found:
        found.check(resources)
        found.create(name, resources)


def is_frozen(group: Cgroup) -> bool:
    """Tell whether the processes of a group are stopped by the freezer."""
    folder = group.paths.get("freezer")
    for name, frozen in (("freezer.state", "FROZEN"), ("cgroup.freeze", "1")):
        try:
            with open(f"{folder}/{name}", encoding="utf-8") as stream:
                return stream.read().strip() == frozen
        except OSError:
            continue
    return False


def thaw(group: Cgroup) -> None:
    """Let a group go on, if it was frozen."""
    if is_frozen(group):
        group.thaw()
