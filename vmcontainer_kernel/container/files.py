"""Removing a folder that a container has written to: nothing in it can lead the removal elsewhere, however it is named,
linked or nested. And how much room there is for what it writes.
"""

# Plain system calls: a path object costs a forked child copied pages, and hides which call it is.
# ruff: noqa: PTH101, PTH106

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from vmcontainer_kernel.errors import ContainerError

__all__ = ["remove_tree", "room_bytes"]

_LEFT_BYTES = 1 << 30

_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def room_bytes(path: Path | str) -> int:
    """Return how much of a stranger's may be written to a folder's disk: what is free there, but for what is left to
    others, a twentieth of the disk or 1 GiB.
    """
    disk = os.statvfs(path)
    if not disk.f_blocks:  # ramfs: it counts nothing (fs/libfs.c, simple_statfs)
        return 1 << 62
    return max(0, disk.f_bavail * disk.f_frsize - min(disk.f_blocks * disk.f_frsize // 20, _LEFT_BYTES))


def remove_tree(path: Path | str) -> None:
    """Remove a folder and all in it; links are removed, not followed, and a mount stops it with `ContainerError`.

    It works on two descriptors whatever the depth: a full folder inside a folder is first moved up to the top. The
    kernel refuses to move or remove a mount point (EBUSY) or to move across mounts (EXDEV), so another file system is
    never entered.
    """
    try:
        top = os.open(path, _OPEN_FOLDER)
    except FileNotFoundError:
        return
    try:
        _empty_all(top)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EXDEV):
            raise
        raise ContainerError(
            f"something is mounted in {path}, so it is not removed",
            hint="findmnt shows what; unmount it, then remove again",
            where=str(error.filename or path),
        ) from error
    finally:
        os.close(top)
    os.rmdir(path)


def _empty_all(top: int) -> None:
    serial = 0
    while folders := _empty(top, top, 0)[0]:
        for name in folders:
            _unlock(name, top)
            fd = os.open(name, _OPEN_FOLDER, dir_fd=top)
            try:
                serial = _empty(fd, top, serial)[1]
            finally:
                os.close(fd)
            os.rmdir(name, dir_fd=top)


def _empty(fd: int, top: int, serial: int) -> tuple[list[str], int]:
    """Remove what is in `fd`; full folders are moved to `top`, or returned if `fd` is it."""
    full = []
    with os.scandir(fd) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in found:
        if not is_folder:
            os.unlink(name, dir_fd=fd)
        elif not _rmdir(name, fd):
            if fd == top:
                full.append(name)
                continue
            _unlock(name, fd)
            serial = _move(name, fd, top, serial)
    return full, serial


def _rmdir(name: str, fd: int) -> bool:
    try:
        os.rmdir(name, dir_fd=fd)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


def _move(name: str, fd: int, top: int, serial: int) -> int:
    while True:
        serial += 1
        # rename(2) onto a full folder fails; onto an empty one it replaces that one, which is as good.
        with contextlib.suppress(FileExistsError):
            try:
                os.rename(name, f".{serial}", src_dir_fd=fd, dst_dir_fd=top)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.ENOTDIR):
                    raise
                continue
            return serial


def _unlock(name: str, fd: int) -> None:
    """Give an ordinary user the rights to empty a folder of his own that the container took from him."""
    if os.geteuid() == 0:
        return
    handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    try:
        if stat.S_IMODE(os.fstat(handle).st_mode) & 0o700 != 0o700:
            os.chmod(f"/proc/self/fd/{handle}", 0o700)
    finally:
        os.close(handle)
