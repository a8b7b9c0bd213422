"""A layer as files, in the overlay's form: how to walk it by descriptors, and what the overlay's marks mean
(overlayfs.rst, "whiteouts and opaque directories").
"""

# Plain system calls, relative to a descriptor; pathlib has none of these.
# ruff: noqa: PTH208

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

from vmcontainer_kernel.container.record import Record

__all__ = [
    "FOLDER",
    "OPAQUE_XATTRS",
    "Found",
    "Parts",
    "is_opaque",
    "is_whiteout",
    "open_beneath",
    "set_opaque",
    "walk",
]

OPAQUE_XATTRS = ("trusted.overlay.opaque", "user.overlay.opaque")
"""The overlay reads the first; with the option userxattr, so in a user namespace, the second."""

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
Parts = tuple[bytes, ...]


class Found(Record):
    """A name in a folder: the folder's own parts and descriptor, the name (empty for the folder itself), its status."""

    folder: Parts
    fd: int
    name: bytes
    status: os.stat_result

    @property
    def parts(self) -> Parts:
        """The names that lead to it from the top."""
        return (*self.folder, self.name) if self.name else self.folder


def open_beneath(top: int, parts: Parts) -> int:
    """Open a folder one name at a time, never through a link (O_NOFOLLOW): what a container wrote cannot lead out."""
    fd = os.dup(top)
    for part in parts:
        try:
            below = os.open(part, FOLDER, dir_fd=fd)
        finally:
            os.close(fd)
        fd = below
    return fd


def walk(top: int) -> Iterator[Found]:
    """Give every folder, then the names in it, sorted, then the folders in it; the top is the first."""
    todo: list[Parts] = [()]
    while todo:
        parts = todo.pop()
        fd = open_beneath(top, parts)
        try:
            yield Found(parts, fd, b"", os.fstat(fd))
            folders = []
            for name in sorted(os.fsencode(name) for name in os.listdir(fd)):
                status = os.lstat(name, dir_fd=fd)
                if stat.S_ISDIR(status.st_mode):
                    folders.append((*parts, name))
                else:
                    yield Found(parts, fd, name, status)
            todo += reversed(folders)
        finally:
            os.close(fd)


def is_whiteout(status: os.stat_result) -> bool:
    """Tell whether this hides a name of the layers below: the character device 0:0."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(folder: int | str | bytes | os.PathLike[str]) -> bool:
    """Tell whether a folder hides what the layers below have in it."""
    for key in OPAQUE_XATTRS:
        with contextlib.suppress(OSError):
            if os.getxattr(folder, key) == b"y":
                return True
    return False


def set_opaque(fd: int) -> None:
    """Let a folder hide what the layers below have in it; for both ways of mounting, where both are allowed."""
    refused = None
    for key in OPAQUE_XATTRS:
        try:
            os.setxattr(fd, key, b"y")
        except OSError as error:  # trusted.* is root's; user.* is not on every file system
            if refused:
                raise
            refused = error
