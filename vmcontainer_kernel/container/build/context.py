"""A folder to copy from: the context, or the root of an image. Read by descriptors: no link leads out of it.

    source ──openat2(RESOLVE_BENEATH, or RESOLVE_IN_ROOT for an image)──▶ file or folder ──fd by fd──▶ Items

A link that leads out of the context is an error (EXDEV); links within a folder that is copied are copied as links.
"""

# Plain system calls, relative to a descriptor; pathlib has none of these.
# ruff: noqa: PTH208

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
import stat
import tarfile
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import IO

from vmcontainer_kernel.container import linux
from vmcontainer_kernel.container.build.ignore import Ignore, has_wildcard, matcher
from vmcontainer_kernel.container.images.tree import open_beneath
from vmcontainer_kernel.container.record import Record
from vmcontainer_kernel.errors import NotFound, UserError

__all__ = ["Item", "Place", "Signature", "digest", "pack", "signature"]

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
Signature = tuple[int, int, int, int]


class Item(Record):
    """A file, link or folder that was found: its path in the place, and below the source it was found by (empty: it is
    the source itself); `fd`, `name`: the open folder it is in, or itself for no name; open until the next is asked for.
    """

    path: str
    below: str
    fd: int
    name: str
    status: os.stat_result

    def open(self) -> int:
        """Open a regular file for reading; one that is open already by its own link, which leads nowhere else."""
        try:
            if not self.name:
                return os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            return os.open(self.name, _FILE, dir_fd=self.fd)
        except OSError as error:
            raise _unreadable(self.path, error) from error

    def link(self) -> str:
        """Return where a symbolic link leads."""
        return os.readlink(self.name, dir_fd=self.fd)


def _unreadable(path: str, error: OSError) -> UserError:
    hint = "ls -l shows its mode" if error.errno == errno.EACCES else "was it exchanged meanwhile? build again"
    return UserError(f"{path} cannot be read: {error.strerror}", hint=hint)


def signature(status: os.stat_result) -> Signature:
    """Return what changes whenever a file is written to or exchanged."""
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


class Place:
    """An open folder. `root`: it is an image's, so that links in it begin at its own top, and nothing is ignored."""

    def __init__(self, fd: int, ignore: Ignore | None = None, *, root: bool = False) -> None:
        self._fd, self._ignore, self._root = fd, ignore or Ignore(), root

    @property
    def _name(self) -> str:
        return "image" if self._root else "folder that is built from"

    def find(self, source: str) -> list[str]:
        """Return the paths that a source names, itself or all that match it, sorted; raise `NotFound` for none."""
        found = self._match(source) if has_wildcard(source) else [source]
        found = [path for path in found if path == "" or not self._ignore.ignores(path)]
        if not found:
            hint = "is it left out by .dockerignore?" if self._ignore.rules else "paths begin at that folder"
            raise NotFound(f"there is no {source} in the {self._name}", hint=hint)
        return found

    def _match(self, source: str) -> list[str]:
        paths = [""]
        for part in source.split("/"):
            rule = matcher(part.replace("**", "*"))
            names = [(path, name) for path in paths for name in self._names(path)] if has_wildcard(part) else []
            paths = (
                [posixpath.join(path, name) for path, name in names if rule.fullmatch(name)]
                if has_wildcard(part)
                else [posixpath.join(path, part) for path in paths]
            )
        return sorted(path for path in paths if self._exists(path))

    def _names(self, path: str) -> list[str]:
        try:
            fd = self._open(path, os.O_RDONLY | os.O_DIRECTORY)
        except NotFound:
            return []
        try:
            return os.listdir(fd)
        finally:
            os.close(fd)

    def _exists(self, path: str) -> bool:
        try:
            os.close(self._open(path, os.O_PATH | os.O_NOFOLLOW))
        except NotFound:
            return False
        return True

    def _open(self, path: str, flags: int) -> int:
        way = linux.RESOLVE_IN_ROOT if self._root else linux.RESOLVE_BENEATH
        try:
            return linux.openat2(self._fd, path or ".", flags, way | linux.RESOLVE_NO_MAGICLINKS)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                raise NotFound(f"there is no {path} in the {self._name}", hint="paths begin at that folder") from None
            if error.errno in (errno.EXDEV, errno.ELOOP):
                problem = f"{path} is or goes through a link that leads out of the {self._name}"
                raise UserError(problem, hint="copy what it leads to into the folder") from None
            raise _unreadable(path, error) from error

    def items(self, path: str) -> Generator[Item, None, None]:
        """Give a file, or a folder and all that is in it and not ignored, sorted, folders before what is in them.

        The source itself is followed if it is a link, as cp(1) does.
        """
        fd = self._open(path, os.O_PATH)
        try:
            status = os.fstat(fd)
            if stat.S_ISDIR(status.st_mode):
                yield Item(path, "", fd, "", status)
                yield from self._walk(fd, path)
            elif stat.S_ISREG(status.st_mode):
                yield Item(path, "", fd, "", status)
            else:
                raise UserError(f"{path} is no file or folder", hint="devices, pipes and sockets are not copied")
        except OSError as error:
            raise _unreadable(path, error) from error
        finally:
            os.close(fd)

    def _walk(self, top: int, path: str) -> Iterator[Item]:
        """Go down folder by folder; only one of them is open at a time, so there may be any number."""
        todo = [""]
        while todo:
            below = todo.pop()
            fd = open_beneath(top, tuple(os.fsencode(part) for part in (".", *below.split("/")) if part))
            try:
                folders = []
                for item, ignored in self._folder(fd, path, below):
                    if stat.S_ISDIR(item.status.st_mode):
                        folders.append(item.below)
                    if not ignored:
                        yield item
                todo += reversed(folders)
            finally:
                os.close(fd)

    def _folder(self, fd: int, path: str, below: str) -> Iterator[tuple[Item, bool]]:
        """Give what is in a folder, and whether it is ignored; an ignored folder may hold what a rule takes back."""
        for name in sorted(os.listdir(fd)):
            inner = posixpath.join(below, name)
            where = posixpath.join(path, inner)
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            ignored = self._ignore.ignores(where)
            if not (ignored and (not stat.S_ISDIR(status.st_mode) or self._ignore.prunes(where))):
                yield Item(where, inner, fd, name, status), ignored


def digest(place: Place, sources: Sequence[str], seen: dict[str, Signature]) -> str:
    """Return the digest of what the sources name: content, modes, names, links; `seen` is told each file's signature,
    so that a later change is noticed.
    """
    total = hashlib.sha256()
    for source in sources:
        for path in place.find(source):
            for item in place.items(path):
                total.update(_described(item, seen).encode("utf-8", "surrogateescape") + b"\n")
    return f"sha256:{total.hexdigest()}"


def _described(item: Item, seen: dict[str, Signature]) -> str:
    mode = item.status.st_mode
    head = f"{stat.S_IFMT(mode):o} {stat.S_IMODE(mode):o} {item.path!r} {item.below!r}"
    if stat.S_ISREG(mode):
        with open(item.open(), "rb") as file:
            seen[item.path] = signature(os.fstat(file.fileno()))
            return f"{head} {hashlib.file_digest(file, 'sha256').hexdigest()}"
    return f"{head} {item.link()!r}" if stat.S_ISLNK(mode) else head


def pack(place: Place, target: IO[bytes], progress: Callable[[int], None]) -> None:
    """Write all of a place as an archive that `container.transfer.unpack` reads, its files below ``context/``."""
    done_bytes = 0
    with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for item in place.items(""):
            mode = item.status.st_mode
            entry = tarfile.TarInfo(posixpath.join("context", item.below).rstrip("/"))
            entry.mode, entry.mtime = stat.S_IMODE(mode), int(item.status.st_mtime)
            if stat.S_ISDIR(mode):
                entry.type = tarfile.DIRTYPE
                archive.addfile(entry)
            elif stat.S_ISLNK(mode):
                entry.type, entry.linkname = tarfile.SYMTYPE, item.link()
                archive.addfile(entry)
            elif stat.S_ISREG(mode):
                with open(item.open(), "rb") as file:
                    entry.size = os.fstat(file.fileno()).st_size
                    archive.addfile(entry, file)
                done_bytes += entry.size
                progress(done_bytes)
