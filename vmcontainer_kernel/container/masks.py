"""What the kernel's file systems leave open is closed: paths that show or change the whole node are covered or made
read-only. Done when the old root is gone, so that a path may be followed as the container will follow it.
"""

# Plain system calls: a path object costs a forked child copied pages, and hides which call it is.

from __future__ import annotations

import errno
import os
import stat

from vmcontainer_kernel.container import devices, inside, linux
from vmcontainer_kernel.container.light import partial
from vmcontainer_kernel.container.spec import Spec
from vmcontainer_kernel.container.step import Scene, Step
from vmcontainer_kernel.errors import ContainerError

__all__ = ["protection_steps"]

_EMPTY = linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC


def protection_steps(spec: Spec) -> list[Step]:
    """Return the steps that close what the kernel's file systems leave open."""
    steps = []
    if spec.linux.masked_paths:
        steps.append(
            Step(
                "mask",
                f"mount /dev/null or an empty tmpfs over {' '.join(spec.linux.masked_paths)}",
                "these show or change the whole node; no namespace divides them",
                "config-linux.md, Masked Paths",
                partial(_mask, spec.linux.masked_paths),
            )
        )
    if spec.linux.readonly_paths:
        steps.append(
            Step(
                "read-only paths",
                f"mount_setattr(…, MOUNT_ATTR_RDONLY) on {' '.join(spec.linux.readonly_paths)}",
                "root may write here, and these settings are the node's",
                "config-linux.md, Readonly Paths",
                partial(_protect, spec.linux.readonly_paths),
            )
        )
    return steps


def _find(path: str) -> int:
    """Return a descriptor of what is at `path`, or -1."""
    try:
        return inside.find(path)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise
        return -1


def _mask(paths: tuple[str, ...], _: Scene) -> None:
    for path in paths:
        fd = _find(path)
        if fd < 0:
            continue
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            os.fchdir(fd)
            linux.mount("tmpfs", ".", "tmpfs", _EMPTY, "size=0,mode=555")
        else:
            _mask_file(fd)
        os.close(fd)


def _mask_file(place: int) -> None:
    null = linux.open_tree(linux.AT_FDCWD, "/dev/null")
    try:
        # A false one would show some other file there (CVE-2025-31133).
        if not devices.is_device(null, "null"):
            raise ContainerError("/dev/null in the container is not the null device", where="mask")
        linux.move_mount(null, place)
    finally:
        os.close(null)


def _protect(paths: tuple[str, ...], _: Scene) -> None:
    for path in paths:
        fd = _find(path)
        if fd < 0:
            continue
        tree = linux.open_tree(fd, "", linux.OPEN_TREE_CLONE | linux.AT_RECURSIVE | linux.AT_EMPTY_PATH)
        linux.mount_setattr(tree, "", linux.MOUNT_ATTR_RDONLY, recursive=True)
        linux.move_mount(tree, fd)
        os.close(tree)
        os.close(fd)
