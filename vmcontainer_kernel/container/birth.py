"""The parent's part of a container's birth, for whoever asks for it: what must be opened or made in the node's own
namespaces is opened here and handed to the child, which could not do so from within its own.
"""

from __future__ import annotations

import errno
import os

from vmcontainer_kernel.container import linux, mappings, mounts, namespaces
from vmcontainer_kernel.container.cgroups import Cgroup
from vmcontainer_kernel.container.launch import Clone, Entry, Gate, Stdio, clone_child
from vmcontainer_kernel.container.light import partial
from vmcontainer_kernel.container.reports import Launch
from vmcontainer_kernel.container.spec import Linux, Mount, Spec
from vmcontainer_kernel.container.step import Step
from vmcontainer_kernel.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["adopt", "bear", "is_plain"]


def bear(
    spec: Spec,
    bundle: str,
    steps: Sequence[Step],
    stdio: Stdio,
    set_up: Callable[[int, Gate], None],
    *,
    group_fd: int = -1,
    extra: Sequence[int] = (),
    clone: Clone | None = None,
) -> tuple[Launch, int]:
    """Start the process of a container that executes `steps` of `planning.plan`; as `launch.clone_child`. `clone` is
    for what `is_plain` only.

    New user namespaces get their ids before `set_up(pid, gate)` is called: it makes the groups, lets `adopt` see to
    them (one go-ahead, if the plan has a group) and answers hooks.
    """
    handed: dict[str, int] = {}
    try:
        handed |= namespaces.open_joined(spec.linux)
        for where, one in mounts.named(spec):
            if mounts.is_id_mapped(one):
                handed[where] = _open_id_mapped(one, where, bundle, spec.linux)
        map_ids = partial(mappings.write_maps, config=spec.linux) if "user" in spec.linux.new_kinds else None
        entry = Entry(tuple(namespaces.entry_steps(spec)), tuple(handed.items()), map_ids)
        return clone_child(namespaces.clone_flags(spec), steps, stdio, group_fd, set_up, extra, entry, clone)
    finally:
        for fd in handed.values():
            os.close(fd)


def adopt(spec: Spec, group: Cgroup | None, pid: int) -> None:
    """Move the process of a new container into its version 1 groups, if it cannot do that itself: to one in a user
    namespace their files are somebody else's.
    """
    if group is None or "user" not in spec.linux.kinds:
        return
    for path in group.directories:
        fd = os.open(f"{path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, str(pid).encode())
        finally:
            os.close(fd)


def is_plain(spec: Spec) -> bool:
    """Tell whether nothing has to be handed to the child, and it makes all its namespaces by clone(2)."""
    mapped = any(mounts.is_id_mapped(one) for _, one in mounts.named(spec))
    return not mapped and not namespaces.entry_steps(spec)


def _open_id_mapped(one: Mount, where: str, bundle: str, config: Linux) -> int:
    """Return a detached mount whose files have other owners (mount_setattr(2), "ID-mapped mounts"): only who is
    privileged where its file system is mounted may make one.
    """
    path, recursive, spread = mounts.source(one, bundle)
    tree = mounts.open_source(path, where, spread, recursive=recursive)
    own = config.replace(uid_mappings=one.uid_mappings, gid_mappings=one.gid_mappings) if one.uid_mappings else config
    user_namespace = mappings.open_user_namespace(own)
    try:
        linux.mount_setattr(
            tree, "", linux.MOUNT_ATTR_IDMAP, idmap_fd=user_namespace, recursive="ridmap" in one.options
        )
    except OSError as error:
        os.close(tree)
        hints = {
            errno.EINVAL: "its file system cannot do that with this kernel, or is mapped already",
            errno.EPERM: "only root of the node may; run it in a guest: --on vm",
        }
        raise HostError(
            f"{where}: {path} cannot be shown with other owners: {error.strerror}",
            hint=hints.get(error.errno or 0, ""),
            where=where,
        ) from None
    finally:
        os.close(user_namespace)
    return tree
