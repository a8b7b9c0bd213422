"""Namespaces: which ones a container gets, and the steps which give each its content.

A new namespace begins as a copy or empty: the user namespace maps no ids, the mount namespace shares the node's mounts
and their propagation, the UTS namespace has the node's name, the network namespace has a loopback that is down. These
steps set them up.
"""

from __future__ import annotations

import os
from functools import partial

from vmcontainer_kernel.container import linux
from vmcontainer_kernel.container.cgroups import Cgroup
from vmcontainer_kernel.container.spec import IdMapping, Linux, Spec
from vmcontainer_kernel.container.step import Scene, Step

__all__ = ["cgroup_steps", "clone_flags", "content_steps", "first_steps", "flag_text", "write_maps"]


def clone_flags(spec: Spec) -> int:
    """Return the CLONE_NEW* flags for clone(2): all but cgroup, which is made once the process is in its group
    (cgroup_namespaces(7)).
    """
    return sum(linux.NAMESPACE_FLAGS[kind] for kind in spec.linux.kinds if kind != "cgroup")


def flag_text(kinds: tuple[str, ...]) -> str:
    """Return flags as they are written in C."""
    short = {"mount": "NS", "network": "NET"}
    return "|".join(f"CLONE_NEW{short.get(kind, kind.upper())}" for kind in linux.NAMESPACE_FLAGS if kind in kinds)


def write_maps(pid: int, config: Linux) -> None:
    """Give the user namespace of a process its ids (user_namespaces(7)); the caller is the parent."""
    # setgroups goes first: with it, a member of a group that is denied something could drop the group (CVE-2014-8989).
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", _map(config.uid_mappings)),
        ("gid_map", _map(config.gid_mappings)),
    ):
        fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)


def _map(mappings: tuple[IdMapping, ...]) -> str:
    return "".join(f"{one.container_id} {one.host_id} {one.size}\n" for one in mappings)


def _await(scene: Scene) -> None:
    scene.await_parent()


def first_steps(spec: Spec) -> list[Step]:
    """Return the steps that come before any mount."""
    steps = []
    if "user" in spec.linux.kinds:
        inside = " ".join(_map(spec.linux.uid_mappings).split())
        steps.append(
            Step(
                "user",
                f'write("/proc/PID/uid_map", "{inside}")',
                "until ids are mapped nobody in the new user namespace is root; the parent maps them, as only it may",
                "user_namespaces(7)",
                _await,
            )
        )
    private = partial(linux.mount, None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
    steps.append(
        Step(
            "private",
            'mount(NULL, "/", NULL, MS_REC|MS_PRIVATE)',
            "mounts of the container must not appear on the node, nor the node's new ones in the container",
            "mount_namespaces(7)",
            lambda _: private(),
        )
    )
    return steps


def cgroup_steps(spec: Spec, group: Cgroup | None) -> list[Step]:
    """Return the steps that move this process into its group, and hide the groups above it."""
    steps = []
    if group is not None:
        steps.append(
            Step(
                "cgroup",
                f'write("{spec.linux.cgroups_path}/tasks", "0") in each v1 tree; in v2 it is born there (clone3)',
                "limits hold from here on; the parent has made the group while this process was mounting",
                "cgroups(7)",
                partial(_join, group),
            )
        )
    if "cgroup" in spec.linux.kinds:
        steps.append(
            Step(
                "cgroup namespace",
                "unshare(CLONE_NEWCGROUP)",
                "the group becomes / for the container: the namespace's root is the group its maker is in",
                "cgroup_namespaces(7)",
                lambda _: linux.unshare(linux.CLONE_NEWCGROUP),
            )
        )
    return steps


def _join(group: Cgroup, scene: Scene) -> None:
    scene.await_parent()
    group.join(scene.old_root_fd)


def content_steps(spec: Spec) -> list[Step]:
    """Return the steps that give the UTS and network namespaces their content."""
    steps = []
    if spec.hostname:
        steps.append(
            Step(
                "hostname",
                f'sethostname("{spec.hostname}")',
                "its own name, in its own UTS namespace",
                "uts_namespaces(7)",
                lambda _: linux.sethostname(spec.hostname),
            )
        )
    if "network" in spec.linux.kinds:
        steps.append(
            Step(
                "loopback",
                'ioctl(socket, SIOCSIFFLAGS, {"lo", IFF_UP})',
                "a new network namespace has one interface, lo, and it is down",
                "network_namespaces(7), netdevice(7)",
                lambda _: linux.link_up("lo"),
            )
        )
    return steps
