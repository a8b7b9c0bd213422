"""Filling what is mounted with what it covers, a new tmpfs (mount option ``tmpcopyup``) or an empty volume
(``copyup``): folders, files, links and their owners and modes, by descriptors only.
"""

# Plain system calls: a path object costs a forked child copied pages, and hides which call it is.

from __future__ import annotations

import os
import stat

__all__ = ["copy_up"]

_CHUNK_BYTES = 1 << 20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def copy_up(covered: int, mounted: int) -> None:
    """Copy all that is in the folder behind the descriptor `covered` to the one behind `mounted`, if that is empty."""
    source, target = os.open(".", _FOLDER, dir_fd=covered), os.open(".", _FOLDER, dir_fd=mounted)
    if _is_empty(target):
        _copy_folder(source, target)
        return
    os.close(source)
    os.close(target)


def _is_empty(folder: int) -> bool:
    return not os.listdir(folder)


def _copy_folder(source: int, target: int) -> None:
    """Copy what is in a folder, then its owner and mode; close both."""
    for name in os.listdir(source):
        _copy(name, source, target)
    status = os.fstat(source)
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    os.close(source)
    os.close(target)


def _copy(name: str, source: int, target: int) -> None:
    status = os.stat(name, dir_fd=source, follow_symlinks=False)
    if stat.S_ISDIR(status.st_mode):
        os.mkdir(name, 0o700, dir_fd=target)
        _copy_folder(os.open(name, _FOLDER, dir_fd=source), os.open(name, _FOLDER, dir_fd=target))
        return
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    elif stat.S_ISREG(status.st_mode):
        _copy_file(name, source, target)
    else:
        os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target)
    os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)


def _copy_file(name: str, source: int, target: int) -> None:
    old = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=source)
    new = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=target)
    while os.sendfile(new, old, None, _CHUNK_BYTES):
        pass
    os.close(old)
    os.close(new)
