"""From a specification to the list of steps: the order in which a container is made, in one place to read."""

from __future__ import annotations

from vmcontainer_kernel.container import namespaces, process, rootfs
from vmcontainer_kernel.container.cgroups import Cgroup
from vmcontainer_kernel.container.seccomp.install import seccomp_steps
from vmcontainer_kernel.container.spec import Spec
from vmcontainer_kernel.container.step import Step

__all__ = ["plan", "surroundings"]


def plan(spec: Spec, bundle: str, layers: tuple[str, ...], group: Cgroup | None, *, tty: bool = False) -> list[Step]:
    """Return every step of the child, in order, without doing anything; `group`: None where there are none."""
    user_namespace = "user" in spec.linux.kinds
    judged = seccomp_steps(spec.linux.seccomp)
    identity = process.identity_steps(spec.process, user_namespace=user_namespace, tty=tty, seccomp=judged)
    return [*surroundings(spec, bundle, layers, group), *identity]


def surroundings(spec: Spec, bundle: str, layers: tuple[str, ...], group: Cgroup | None) -> list[Step]:
    """Return the steps that make what is around the process: all that does not depend on which program it runs."""
    return [
        *namespaces.first_steps(spec),
        *rootfs.root_steps(spec, bundle, layers),
        *rootfs.mount_steps(spec),
        *rootfs.protection_steps(spec),
        *namespaces.content_steps(spec),
        # As late as possible: the parent makes the groups while the child does all of the above.
        *namespaces.cgroup_steps(spec, group),
        *rootfs.group_steps(spec, group.shown() if group else {}),
        *rootfs.closing_steps(spec),
    ]
