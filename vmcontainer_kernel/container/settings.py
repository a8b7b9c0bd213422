"""Settings the kernel takes as files of procfs: sysctl(8) of the container's own namespaces, and how soon its process
is killed when memory runs out.

A file is written only when it is known to be procfs itself: what an image or a volume puts in its place would see, or
swallow, what was written (CVE-2019-16884, CVE-2025-52881).
"""

# Plain system calls: a path object costs a forked child copied pages, and hides which call it is.
# ruff: noqa: PTH115

from __future__ import annotations

import errno
import os

from vmcontainer_kernel.container import linux
from vmcontainer_kernel.container.light import partial
from vmcontainer_kernel.container.spec import Process, Spec
from vmcontainer_kernel.container.step import Scene, Step
from vmcontainer_kernel.errors import ContainerError

__all__ = ["oom_steps", "sysctl_steps", "write_proc"]

_SWAP = {ord("."): "/", ord("/"): "."}
_RESOLVE = linux.RESOLVE_NO_SYMLINKS | linux.RESOLVE_NO_MAGICLINKS


def write_proc(at: int, path: str, text: str) -> None:
    """Write a file of the procfs that is at "proc" below the descriptor `at`; no link may be on the way."""
    fd = linux.openat2(at, f"proc/{path}", os.O_WRONLY, _RESOLVE)
    try:
        if not linux.is_procfs(fd):
            raise ContainerError(f"/proc/{path} is not the kernel's file", where=f"/proc/{path}")
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def oom_steps(process: Process) -> list[Step]:
    """Return the step that says how soon this process is killed when memory runs out.

    It comes first: while the files of /proc are this process's own, and the node's root is in place.
    """
    value = process.oom_score_adj
    if value is None:
        return []
    return [
        Step(
            "oom_score_adj",
            f'write("/proc/self/oom_score_adj", "{value}")',
            "who is killed first when memory runs out: 1000 is first, -1000 never",
            "proc_pid_oom_score_adj(5)",
            partial(_set_oom, value),
        )
    ]


def _set_oom(value: int, _: Scene) -> None:
    fd = linux.openat2(linux.AT_FDCWD, "/", os.O_PATH, _RESOLVE)
    try:
        write_proc(fd, f"{os.readlink('/proc/self')}/oom_score_adj", str(value))
    except PermissionError as error:
        raise ContainerError(
            f"process.oomScoreAdj: {value} is lower than this node's own, and lowering it needs CAP_SYS_RESOURCE",
            hint="ask for a higher one, or run it in a guest: --on vm",
            where="process.oomScoreAdj",
        ) from error
    finally:
        os.close(fd)


def sysctl_steps(spec: Spec) -> list[Step]:
    """Return the step that changes settings of the container's own namespaces."""
    if not spec.linux.sysctl:
        return []
    mounted = any(one.destination == "/proc" and one.type == "proc" for one in spec.mounts)
    return [
        Step(
            "sysctl",
            "; ".join(f'write("/proc/sys/{_path(name)}", "{value}")' for name, value in spec.linux.sysctl),
            "these settings belong to the container's own IPC, network and UTS namespaces",
            "sysctl(8), namespaces(7)",
            partial(_set_all, spec.linux.sysctl, mounted=mounted),
        )
    ]


def _path(name: str) -> str:
    return name.translate(_SWAP)


def _set_all(settings: tuple[tuple[str, str], ...], scene: Scene, *, mounted: bool) -> None:
    at = linux.openat2(linux.AT_FDCWD, "/", os.O_PATH, _RESOLVE) if mounted else scene.old_root_fd
    for name, value in settings:
        try:
            write_proc(at, f"sys/{_path(name)}", value)
        except OSError as error:
            reasons = {errno.ENOENT: "this kernel has no such setting", errno.EINVAL: f"it does not take {value!r}"}
            reason = reasons.get(error.errno or 0, error.strerror)
            raise ContainerError(f"linux.sysctl.{name}: {reason}", where=f"linux.sysctl.{name}") from None
    if mounted:
        os.close(at)
