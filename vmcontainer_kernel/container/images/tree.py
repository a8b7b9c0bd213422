"""A layer as files, in the overlay's form: how to walk it by descriptors, and what the overlay's marks mean
(overlayfs.rst, "whiteouts and opaque directories").
"""

# Plain system calls, relative to a descriptor; pathlib has none of these.
# ruff: noqa: PTH208

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator

from vmcontainer_kernel.container.record import Record

__all__ = [
    "FOLDER",
    "OPAQUE_XATTRS",
    "Found",
    "Parts",
    "Way",
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
_KEPT_OPEN = 64  # a name may have 2000 parts, a process 1024 open files


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


class Way:
    """The open folders from a top to one below it: the next, mostly near it, is reached in a step or two.

    Each is opened in the one above it, never through a link. A folder on the way must not be replaced.
    """

    def __init__(self, top: int) -> None:
        self.parts: Parts = ()
        self._fds = [os.dup(top)]

    @property
    def fd(self) -> int:
        """The folder at the end."""
        return self._fds[-1]

    def to(self, parts: Parts, make: Callable[[int, bytes], None] | None = None) -> int:
        """Go to another folder and return its descriptor, which stays ours; `make` is called where a name is not there,
        with the folder above it.
        """
        pairs = enumerate(zip(parts, self.parts, strict=False))
        known = next((at for at, (part, other) in pairs if part != other), min(len(parts), len(self.parts)))
        while len(self._fds) > known + 1 or self._fds[-1] < 0:
            self._back()
        try:
            for part in parts[len(self._fds) - 1 :]:
                self._down(part, make)
        finally:
            self.parts = parts[: len(self._fds) - 1]
        return self._fds[-1]

    def _down(self, part: bytes, make: Callable[[int, bytes], None] | None) -> None:
        above = self._fds[-1]
        try:
            fd = os.open(part, FOLDER, dir_fd=above)
        except FileNotFoundError:
            if not make:
                raise
            make(above, part)
            fd = os.open(part, FOLDER, dir_fd=above)
        if len(self._fds) > _KEPT_OPEN:
            os.close(above)
            self._fds[-1] = -1
        self._fds.append(fd)

    def _back(self) -> None:
        fd = self._fds.pop()
        if fd >= 0:
            os.close(fd)

    def close(self) -> None:
        """Close all."""
        while self._fds:
            self._back()


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
