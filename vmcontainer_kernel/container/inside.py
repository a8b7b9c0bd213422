"""Paths below the new root, reached so that none can lead out of it.

Between pivot_root and the moment the old root is detached, the old root lies *on top of* the new one. A lookup that
begins at / does not see it, but ``..`` out of a folder of / does: it arrives at the topmost mount there, which is the
node's root. So no lookup here may meet a ``..``: paths are taken apart first, and a link of the image is followed by
reading it and taking that apart, too. What is opened then is opened by openat2(2) with RESOLVE_NO_SYMLINKS: whoever
swaps a folder for a link meanwhile gets an error (CVE-2021-30465, CVE-2024-45310).
"""

# Plain system calls: a path object costs a forked child copied pages, and hides which call it is.
# ruff: noqa: PTH115

from __future__ import annotations

import errno
import os

from vmcontainer_kernel.container import linux
from vmcontainer_kernel.errors import ContainerError

__all__ = ["file", "find", "folder", "locate", "place"]

_RESOLVE = linux.RESOLVE_NO_SYMLINKS | linux.RESOLVE_NO_MAGICLINKS
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""One name at a time this is as strict as openat2, and cheaper to call from Python."""
_MOST_LINKS = 40


def find(path: str) -> int:
    """Return a descriptor (O_PATH) of what is at `path`; `FileNotFoundError` or `NotADirectoryError` if nothing is."""
    if "/.." not in path:
        try:
            return linux.openat2(linux.AT_FDCWD, path, os.O_PATH, _RESOLVE)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
    return linux.openat2(linux.AT_FDCWD, locate(path), os.O_PATH, _RESOLVE)


def locate(path: str) -> str:
    """Return `path` without links and ``..``; what is not there yet is kept as it is."""
    done: list[str] = []
    left, links = path.split("/")[::-1], 0
    while left:
        name = left.pop()
        if name == "..":
            del done[-1:]
        elif name not in ("", "."):
            target = _link("/".join(("", *done, name)))
            if target is None:
                done.append(name)
                continue
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            if target.startswith("/"):
                done.clear()
            left += target.split("/")[::-1]
    return "/" + "/".join(done)


def _link(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT, errno.ENOTDIR):
            raise
        return None


def folder(path: str, *, links: bool = True) -> int:
    """Return a descriptor of the folder `path`; make it, and those above it, if the image lacks it.

    `links`: whether a link may lead there; `NotADirectoryError` otherwise, as for a file.
    """
    fd = os.open("/", _FOLDER)
    for name in path.split("/"):
        if name in ("", "."):
            continue
        above = fd
        try:
            if name == "..":
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            fd = _step_into(name, above)
        except NotADirectoryError:  # a link, or a file
            clean = locate(path)
            if not links or clean == path:
                raise
            return folder(clean)
        finally:
            os.close(above)
    return fd


def _step_into(name: str, above: int) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=above)
    except FileNotFoundError:
        os.mkdir(name, 0o755, dir_fd=above)
        return os.open(name, _FOLDER, dir_fd=above)


def place(path: str) -> tuple[int, str]:
    """Return (descriptor of the folder, name) for something to be made at `path`; the name may exist, but is no link
    unless `path` ends in one that leads nowhere.
    """
    head, _, name = locate(path).rpartition("/")
    if not name:
        raise ContainerError(f"{path} leads to the root itself", where=path)
    return folder(head or "/"), name


def file(path: str) -> int:
    """Return a descriptor of the file `path`, to mount on; make an empty one if the image lacks it."""
    try:
        return find(path)
    except FileNotFoundError:
        at, name = place(path)
    try:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=at))
        return linux.openat2(at, name, os.O_PATH, _RESOLVE)
    finally:
        os.close(at)
