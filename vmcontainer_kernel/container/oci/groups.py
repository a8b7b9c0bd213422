"""The control groups of one container, found by the path that was written down when it was made."""

from __future__ import annotations

from vmcontainer_kernel.container.cgroups import Cgroup, Cgroups, writes
from vmcontainer_kernel.container.oci import log
from vmcontainer_kernel.container.spec import Resources, Spec
from vmcontainer_kernel.errors import HostError, UserError

__all__ = ["find", "make", "path_of", "thaw", "update", "wanted"]

_found: list[Cgroups | None] = []


def _all() -> Cgroups | None:
    """Return this node's groups; they are looked for once."""
    if not _found:
        _found.append(Cgroups.detect(""))
    return _found[0]


def path_of(spec: Spec, name: str) -> str:
    """Return where a container's groups are, below each tree's root; a path of ours if the configuration has none, ""
    where no group can be made.

    All processes in it are the container's, as all of them end with it: a group that others are in is refused.
    """
    groups = _all()
    if groups is None:
        _check_without(spec)
        return ""
    path = groups.below(spec.linux.cgroups_path or f"vmcontainer/{name}")
    if pids := groups.open(name, path).pids():
        raise UserError(f"the control group {path} is in use by processes {pids}", where="linux.cgroupsPath")
    return path


def _check_without(spec: Spec) -> None:
    """Raise `HostError` for the first limit, where no group can be made.

    Rules for devices are let pass, as they keep out nobody who could not make a device file anyway: an ordinary user.
    """
    try:
        writes(spec.linux.resources.replace(devices=()), {})
    except HostError as error:
        why = Cgroups.missing_reason()
        hint = "leave it out, or have a group handed over (docs/oci.md)"
        raise HostError(f"{error.where} cannot be kept: {why}", hint=hint, where=error.where) from None
    if spec.linux.cgroups_path:
        log.warn(f"linux.cgroupsPath: no control group is made: {Cgroups.missing_reason()}")


def find(path: str) -> Cgroup | None:
    """Return a container's group as it exists; None where there are none."""
    groups = _all() if path else None
    return groups.open("", path) if groups else None


def wanted(path: str, resources: Resources) -> Cgroup | None:
    """Return the group that a container with these resources gets, to be made; None where there are none."""
    groups = _all() if path else None
    return groups.group("", resources, path) if groups else None


def make(group: Cgroup) -> None:
    """Make a container's group in each tree and set its limits; nothing stays of one that cannot be made."""
    if groups := _all():
        groups.make(group)


def update(group: Cgroup, resources: Resources) -> None:
    """Change the limits of a container that runs; what is None stays."""
    if groups := _all():
        groups.update(group, resources)


def thaw(group: Cgroup) -> None:
    """Let a group go on, if it was frozen."""
    if group.is_frozen():
        group.thaw()
