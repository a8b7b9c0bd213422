"""From a specification to the list of steps: the order in which a container is made, in one place to read.

    surroundings ──▶ (connected) ──▶ late steps: names, root's last touch, rights given up, program

What is around the process comes first, and depends on little of what is asked for; a container made ahead (`spares`)
has that much done and waits. All that may still differ comes late, with nothing of the container's running yet.
"""

from __future__ import annotations

from vmcontainer_kernel.container import hooks, masks, namespaces, rootfs, settings
from vmcontainer_kernel.container.cgroups import Cgroup
from vmcontainer_kernel.container.process import identity_steps, placed, program_steps, rights_steps
from vmcontainer_kernel.container.seccomp.install import ordered
from vmcontainer_kernel.container.spec import Process, Spec
from vmcontainer_kernel.container.step import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["begun", "exec_plan", "finishing", "late_steps", "plan", "rights_given_up", "surroundings"]


def plan(
    spec: Spec,
    bundle: str,
    layers: tuple[str, ...],
    group: Cgroup | None,
    *,
    tty: bool = False,
    networked: bool = False,
    seccomp: Sequence[Step] | None = None,
) -> list[Step]:
    """Return every step of the child, in order, without doing anything; `group`: None where there are none.

    `networked`: the parent connects its network namespace, and the program is to find it connected. `seccomp`: the
    filter's steps if they are made already and `spec` is without; compiling takes longer than all the rest.
    """
    connected = [_network_step()] if networked else []
    return [
        *surroundings(spec, bundle, layers, group, tty=tty),
        *connected,
        *late_steps(spec, tty=tty, seccomp=seccomp),
    ]


def late_steps(spec: Spec, *, tty: bool = False, seccomp: Sequence[Step] | None = None) -> list[Step]:
    """Return the steps after the surroundings: they depend on the names, the process and the filter of `spec`, and on
    whether its root is read-only, and on nothing that was mounted.
    """
    judged, last = ordered(spec, hooks.start_steps(spec.hooks), seccomp)
    among, before = placed(spec.process, judged)
    return [*rights_given_up(spec, tty=tty, seccomp=among), *program_steps(spec.process, last, before)]


def rights_given_up(spec: Spec, *, tty: bool = False, seccomp: Sequence[Step] = ()) -> list[Step]:
    """Return of the late steps those before the program's own; `seccomp`: the filter's, if it is loaded among them."""
    rights = rights_steps(
        spec.process,
        user_namespace="user" in spec.linux.kinds,
        tty=tty,
        seccomp=seccomp,
        personality=spec.linux.personality,
    )
    return [*finishing(spec), *rights]


def finishing(spec: Spec) -> list[Step]:
    """Return the steps that take rights and come last of those: names, the program's folder, what the root is like."""
    return [*namespaces.name_steps(spec), *rootfs.closing_steps(spec)]


def exec_plan(process: Process, *, user_namespace: bool, tty: bool, seccomp: Sequence[Step]) -> list[Step]:
    """Return every step of one more process, which has joined the container's namespaces: nothing is mounted, it only
    takes on an identity.
    """
    return identity_steps(process, user_namespace=user_namespace, tty=tty, seccomp=seccomp)


def _network_step() -> Step:
    return Step(
        "network",
        "read(sync)",
        "the parent connects the network namespace, which needs rights on the other end; the program finds it done",
        "network_namespaces(7), veth(4)",
        lambda scene: scene.await_parent(),
    )


def begun(spec: Spec) -> list[Step]:
    """Return what comes before the plan, to be told: the steps of a helper, if one has to be, and the clone."""
    return [*namespaces.entry_steps(spec), namespaces.clone_step(spec)]


def surroundings(
    spec: Spec,
    bundle: str,
    layers: tuple[str, ...],
    group: Cgroup | None,
    *,
    tty: bool = False,
) -> list[Step]:
    """Return the steps that make what is around the process: all that does not depend on which program it runs, as
    whom and with which rights.
    """
    return [
        *settings.oom_steps(spec.process),
        *namespaces.first_steps(spec),
        *rootfs.root_steps(spec, bundle, layers, tty=tty),
        *rootfs.mount_steps(spec),
        *namespaces.content_steps(spec),
        *settings.sysctl_steps(spec),
        # As late as possible: the parent makes the groups while the child does all of the above.
        *namespaces.cgroup_steps(spec, group),
        *rootfs.group_steps(spec, group.shown() if group else {}),
        *hooks.create_steps(spec.hooks, bundle),
        rootfs.detach_step(),
        *masks.protection_steps(spec),
    ]
