"""Namespaces: which ones a container gets, how it comes into them, and the steps which give each its content.

A new namespace begins as a copy or empty: the user namespace maps no ids, the mount namespace shares the node's mounts
and their propagation, the UTS namespace has the node's name, the network namespace has a loopback that is down. These
steps set them up.

One clone(2) makes all new ones. Some must be entered before it, by a helper which then clones the container's first
process: those joined by path (a pid namespace takes in children only, pid_namespaces(7)), and a time namespace, whose
clocks can be set only as long as it is empty (time_namespaces(7)).
"""

from __future__ import annotations

import os

from vmcontainer_kernel.container import linux
from vmcontainer_kernel.container.cgroups import Cgroup
from vmcontainer_kernel.container.light import partial
from vmcontainer_kernel.container.spec import Linux, Spec, TimeOffset
from vmcontainer_kernel.container.step import Scene, Step
from vmcontainer_kernel.errors import ContainerError, SpecError

__all__ = [
    "cgroup_steps",
    "clone_flags",
    "clone_step",
    "content_steps",
    "entry_steps",
    "first_steps",
    "flag_text",
    "name_steps",
    "open_joined",
]

_LATER = ("cgroup", "time")
_TIME_OFFSETS = "/proc/self/timens_offsets"


def _has_helper(config: Linux) -> bool:
    return "time" in config.new_kinds or len(config.new_kinds) < len(config.kinds)


def clone_flags(spec: Spec) -> int:
    """Return the CLONE_NEW* flags for clone(2): all new ones but those made before it or after it (cgroup: once the
    process is in its group, cgroup_namespaces(7)).
    """
    left_out = (*_LATER, "user") if _has_helper(spec.linux) else _LATER
    return sum(linux.NAMESPACE_FLAGS[kind] for kind in spec.linux.new_kinds if kind not in left_out)


def clone_step(spec: Spec) -> Step:
    """Return the step that begins the container's first process; `launch` does it, so here it is only told."""
    flags = clone_flags(spec)
    kinds = tuple(kind for kind, flag in linux.NAMESPACE_FLAGS.items() if flags & flag)
    return Step(
        "clone",
        f"clone({flag_text(kinds)}|SIGCHLD)",
        "one call makes the process and its namespaces; all further steps are the new process's own",
        "clone(2), namespaces(7)",
        lambda _: None,
    )


def flag_text(kinds: tuple[str, ...]) -> str:
    """Return flags as they are written in C."""
    short = {"mount": "NS", "network": "NET"}
    return "|".join(f"CLONE_NEW{short.get(kind, kind.upper())}" for kind in linux.NAMESPACE_FLAGS if kind in kinds)


def open_joined(config: Linux) -> dict[str, int]:
    """Open the namespaces to be joined, by type; `SpecError` if a path leads to none of that type."""
    found: dict[str, int] = {}
    try:
        for index, one in enumerate(config.namespaces):
            if one.path:
                found[one.type] = _open_namespace(one.type, one.path, f"linux.namespaces[{index}].path")
    except BaseException:
        for fd in found.values():
            os.close(fd)
        raise
    return found


def _open_namespace(kind: str, path: str, where: str) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise SpecError(f"{where}: {path} cannot be opened: {error.strerror}", where=where) from None
    try:
        flag = linux.namespace_type(fd)
    except OSError:
        flag = 0
    if flag != linux.NAMESPACE_FLAGS[kind]:
        os.close(fd)
        raise SpecError(f"{where}: {path} is not a {kind} namespace", where=where)
    return fd


def entry_steps(spec: Spec) -> list[Step]:
    """Return the steps a helper does before it clones the container's first process; none if none is needed."""
    config = spec.linux
    if not _has_helper(config):
        return []
    steps = []
    joined = [one for one in config.namespaces if one.path]
    if joined:
        steps.append(_join_step({one.type: one.path for one in joined}))
    if "user" in config.new_kinds:
        steps.append(_unshare_user_step(config))
    if "time" in config.new_kinds:
        steps.append(_time_step(config.time_offsets))
    return steps


def _join_step(paths: dict[str, str]) -> Step:
    return Step(
        "join",
        "; ".join(f'setns(open("{path}"), {flag_text((kind,))})' for kind, path in paths.items()),
        "these namespaces are shared with other processes, as in a pod",
        "setns(2)",
        _join_namespaces,
    )


def _join_namespaces(scene: Scene) -> None:
    """Join what our rights reach, then the user namespace, which may own the rest (user_namespaces(7))."""
    left = {kind: fd for kind, fd in scene.handed.items() if kind in linux.NAMESPACE_FLAGS and kind != "user"}
    for kind, fd in [*left.items()]:
        try:
            linux.setns(fd, linux.NAMESPACE_FLAGS[kind])
            del left[kind]
        except PermissionError:
            if "user" not in scene.handed:
                raise
    if "user" in scene.handed:
        linux.setns(scene.handed["user"], linux.CLONE_NEWUSER)
        _become_root()
    for kind, fd in left.items():
        linux.setns(fd, linux.NAMESPACE_FLAGS[kind])


def _become_root() -> None:
    """Be user 0 of the new user namespace: files made from now on get an owner who exists there."""
    if os.getuid() or os.getgid():
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)


def _unshare_user_step(config: Linux) -> Step:
    return Step(
        "user",
        f"unshare(CLONE_NEWUSER); {_map_text(config)}",
        "before the other namespaces, so that it owns them; the parent maps the ids, as only it may",
        "user_namespaces(7)",
        partial(_unshare_user, root_mapped=_has_root(config)),
    )


def _map_text(config: Linux) -> str:
    inside = " ".join(f"{one.container_id} {one.host_id} {one.size}" for one in config.uid_mappings)
    return f'write("/proc/PID/uid_map", "{inside}")'


def _has_root(config: Linux) -> bool:
    mappings = (config.uid_mappings, config.gid_mappings)
    return all(any(one.container_id == 0 for one in mapping) for mapping in mappings)


def _unshare_user(scene: Scene, *, root_mapped: bool) -> None:
    linux.prctl(linux.PR_SET_DUMPABLE, 1)  # or /proc/PID/uid_map would not be the parent's to write (proc(5))
    linux.unshare(linux.CLONE_NEWUSER)
    os.write(scene.handed["answer"], b"map\n")
    scene.await_parent()
    if root_mapped:
        _become_root()


def _time_step(offsets: tuple[TimeOffset, ...]) -> Step:
    text = "; ".join(f"{one.clock} {one.secs} {one.nanosecs}" for one in offsets)
    return Step(
        "time",
        "unshare(CLONE_NEWTIME)" + (f'; write("{_TIME_OFFSETS}", "{text}")' if text else ""),
        "clocks of its own: they can be set as long as nobody is in it, and its first process is the next child",
        "time_namespaces(7)",
        partial(_unshare_time, offsets),
    )


def _unshare_time(offsets: tuple[TimeOffset, ...], _: Scene) -> None:
    linux.unshare(linux.CLONE_NEWTIME)
    if not offsets:
        return
    linux.prctl(linux.PR_SET_DUMPABLE, 1)  # a change of ids has made our files in /proc root's
    fd = os.open(_TIME_OFFSETS, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, "".join(f"{one.clock} {one.secs} {one.nanosecs}\n" for one in offsets).encode())
    except OSError as error:
        raise ContainerError(
            f"linux.timeOffsets: the kernel does not take them: {error.strerror}",
            hint="the clock would be before its start, or too far ahead",
            where="linux.timeOffsets",
        ) from None
    finally:
        os.close(fd)


def first_steps(spec: Spec) -> list[Step]:
    """Return the steps that come before any mount."""
    if "user" not in spec.linux.new_kinds or _has_helper(spec.linux):
        return []
    return [
        Step(
            "user",
            _map_text(spec.linux),
            "until ids are mapped nobody in the new user namespace is root; the parent maps them, as only it may",
            "user_namespaces(7)",
            partial(_await_maps, root_mapped=_has_root(spec.linux)),
        )
    ]


def _await_maps(scene: Scene, *, root_mapped: bool) -> None:
    scene.await_parent()
    if root_mapped:
        _become_root()


def cgroup_steps(spec: Spec, group: Cgroup | None) -> list[Step]:
    """Return the steps that move this process into its group, and hide the groups above it."""
    steps = []
    if group is not None:
        steps.append(_group_step(spec, group))
    if "cgroup" in spec.linux.new_kinds:
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


def _group_step(spec: Spec, group: Cgroup) -> Step:
    adopted = "user" in spec.linux.kinds
    call = f'write("{spec.linux.cgroups_path}/tasks", "0")'
    if adopted:
        call = f'the parent: write("{spec.linux.cgroups_path}/cgroup.procs", pid)'
    return Step(
        "cgroup",
        f"{call} in each v1 tree; in v2 it is born there (clone3)",
        "limits hold from here on; the parent has made the group while this process was mounting",
        "cgroups(7)",
        partial(_join_group, group, adopted=adopted),
    )


def _join_group(group: Cgroup, scene: Scene, *, adopted: bool) -> None:
    scene.await_parent()
    if not adopted:
        group.join(scene.old_root_fd)


def content_steps(spec: Spec) -> list[Step]:
    """Return the step that gives the network namespace its content."""
    if "network" not in spec.linux.new_kinds:
        return []
    return [
        Step(
            "loopback",
            'ioctl(socket, SIOCSIFFLAGS, {"lo", IFF_UP})',
            "a new network namespace has one interface, lo, and it is down",
            "network_namespaces(7), netdevice(7)",
            lambda _: linux.link_up("lo"),
        )
    ]


def name_steps(spec: Spec) -> list[Step]:
    """Return the steps that give the UTS namespace its content."""
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
    if spec.domainname:
        steps.append(
            Step(
                "domainname",
                f'setdomainname("{spec.domainname}")',
                "the name of its NIS domain, in its own UTS namespace",
                "uts_namespaces(7)",
                lambda _: linux.setdomainname(spec.domainname),
            )
        )
    return steps
