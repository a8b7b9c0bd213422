"""Copying files in and out of a container, as tar archives, by descriptors only.

    out: root ──openat2(RESOLVE_IN_ROOT)──▶ file or folder ──fd by fd──▶ archive
    in:  archive ──▶ one name at a time below an open folder, O_NOFOLLOW

No path string of a container is ever resolved from outside it, so no link in it leads out, not even one that is
exchanged meanwhile (CVE-2018-15664, CVE-2019-14271). Only files, folders and symbolic links are copied; set-user-id
bits, owners and devices stay where they are.
"""

# Plain system calls: what is opened relative to what is the whole point here.
# ruff: noqa: PTH119

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tarfile
from collections.abc import Iterator
from typing import IO, Any, Final, NoReturn

from vmcontainer_kernel.container import linux
from vmcontainer_kernel.errors import ContainerError, NotFound, UserError

__all__ = ["DAMAGED", "Plain", "arrival", "entries", "open_in_root", "pack", "unpack"]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DEPTH = 256
DAMAGED: Final = (tarfile.TarError, ValueError, ArithmeticError, RecursionError, EOFError)
"""What tarfile raises of what is no archive: headers in headers, thousands of them; times that are no number."""
_LONG_NAMES = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_NAMES_BYTES = 64 << 10  # a name and a link's target have up to 4 KiB each
_UNSIZED_BYTES = 4 << 20  # files of /proc say that they are empty


def open_in_root(root_fd: int, path: str, flags: int) -> int:
    """Open a path as a process of the container would, with `root_fd` as its root; no magic link of /proc is taken."""
    if "\0" in path:
        raise UserError(f"{path!r} holds a NUL byte, where the kernel would take it to end")
    try:
        return linux.openat2(root_fd, path, flags, linux.RESOLVE_IN_ROOT | linux.RESOLVE_NO_MAGICLINKS)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise NotFound(f"there is no {path} there", hint="paths begin at /") from None
        if error.errno == errno.ELOOP:
            raise UserError(f"{path} goes through a link of /proc, or through too many links") from None
        raise ContainerError(f"{path} cannot be opened: {error.strerror}", where="copy") from error


# -- out


def pack(root_fd: int, path: str, out: IO[bytes]) -> list[str]:
    """Write the file or folder at `path` as an archive whose names begin with its own; return what was left out."""
    fd = open_in_root(root_fd, path, os.O_PATH)
    try:
        name = os.path.basename(path.rstrip("/")) or "root"
        name = "root" if name in (".", "..") else name
        with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as archive:
            return _Packer(archive).top(fd, name)
    finally:
        os.close(fd)


class _Packer:
    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self._left_out: list[str] = []

    def top(self, path_fd: int, name: str) -> list[str]:
        """Add what an O_PATH descriptor is for: it is opened again by its own link, which leads nowhere else."""
        mode = os.fstat(path_fd).st_mode
        own = f"/proc/self/fd/{path_fd}"
        if stat.S_ISDIR(mode):
            self._folder(os.open(own, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), name, 0)
        elif stat.S_ISREG(mode):
            self._file(os.open(own, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), name)
        else:
            raise UserError(f"{name} is no file or folder", hint="devices, pipes and sockets are not copied")
        return self._left_out

    def _folder(self, fd: int, name: str, depth: int) -> None:
        try:
            if depth > _DEPTH:
                raise UserError(f"{name[:80]}… is more than {_DEPTH} folders deep", hint="copy a part of it")
            self._archive.addfile(_described(os.fstat(fd), name, tarfile.DIRTYPE))
            for inner in sorted(os.listdir(fd)):
                self._entry(fd, inner, f"{name}/{inner}", depth)
        finally:
            os.close(fd)

    def _entry(self, parent: int, inner: str, name: str, depth: int) -> None:
        try:
            status = os.stat(inner, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                self._folder(os.open(inner, _FOLDER, dir_fd=parent), name, depth + 1)
            elif stat.S_ISREG(status.st_mode):
                self._file(os.open(inner, _FILE, dir_fd=parent), name)
            elif stat.S_ISLNK(status.st_mode):
                link = _described(status, name, tarfile.SYMTYPE)
                link.linkname = os.readlink(inner, dir_fd=parent)
                self._archive.addfile(link)
            else:
                self._left_out.append(name)
        except (FileNotFoundError, PermissionError):  # gone meanwhile, or not ours to read
            self._left_out.append(name)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):  # exchanged meanwhile
                raise
            self._left_out.append(name)

    def _file(self, fd: int, name: str) -> None:
        with open(fd, "rb", buffering=0) as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                self._left_out.append(name)
                return
            entry = _described(status, name, tarfile.REGTYPE)
            entry.size = status.st_size
            self._archive.addfile(entry, _Sized(file, entry))


class _Sized:
    """A file that gives exactly the bytes its entry promises, should it change meanwhile."""

    def __init__(self, file: IO[bytes], entry: tarfile.TarInfo) -> None:
        self._file, self._left = file, entry.size
        self._ahead = b""
        if not entry.size:
            while len(self._ahead) < _UNSIZED_BYTES and (data := file.read(65536)):
                self._ahead += data
            entry.size = self._left = len(self._ahead)

    def read(self, count: int = -1, /) -> bytes:
        count = self._left if count < 0 else min(count, self._left)
        data = self._ahead[:count] or self._file.read(count)
        self._ahead = self._ahead[len(data) :]
        self._left -= count
        return data.ljust(count, b"\0") if not data else self._filled(data, count)

    def _filled(self, data: bytes, count: int) -> bytes:
        while len(data) < count and (more := self._file.read(count - len(data))):
            data += more
        return data.ljust(count, b"\0")


def _described(status: os.stat_result, name: str, kind: bytes) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime = kind, status.st_mode & 0o777, int(status.st_mtime)
    return entry


# -- in


def arrival(root_fd: int, path: str) -> tuple[int, str]:
    """Return where a copy goes, as cp(1) decides: an open folder, and the name in it (empty: the archive's own)."""
    with contextlib.suppress(NotFound):
        fd = open_in_root(root_fd, path, os.O_PATH)
        is_folder = stat.S_ISDIR(os.fstat(fd).st_mode)
        os.close(fd)
        if is_folder:
            return open_in_root(root_fd, path, os.O_RDONLY | os.O_DIRECTORY), ""
    if path.endswith("/"):
        raise UserError(f"{path} is no folder there", hint="leave the last / out to name a new file")
    parent, name = os.path.split(path.rstrip("/"))
    if name in ("", ".", ".."):
        raise UserError(f"{path} cannot be the name of a copy")
    return open_in_root(root_fd, parent or "/", os.O_RDONLY | os.O_DIRECTORY), name


class Plain(tarfile.TarInfo):
    """An entry of an archive like those that `pack` writes; another kind is an error before anything of it is read.

    tarfile reads long names and attributes whole, fills the holes of sparse files, at any size that the archive claims,
    and takes a negative one for a way back (CVE-2025-8194).
    """

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        names = self.type in _LONG_NAMES
        if self.type == tarfile.XGLTYPE or self.size < 0 or (names and self.size > _NAMES_BYTES):
            raise tarfile.ReadError(f"an entry of type {self.type!r} and {self.size} bytes")
        found: tarfile.TarInfo = super()._proc_member(tar)  # type: ignore[misc]
        if found.size < 0:
            raise tarfile.ReadError(f"{found.size} bytes")
        return found

    def _refuse(self, *_: Any) -> NoReturn:
        raise tarfile.ReadError("a sparse file")

    _proc_sparse = _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse


def entries(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Give an archive's entries, and keep none: there may be millions."""
    while (entry := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]
        yield entry


def unpack(folder_fd: int, source: IO[bytes], name: str = "") -> int:
    """Write an archive below an open folder, its first name replaced by `name`; return how many entries there were.

    A file that is there is replaced; what is in the way otherwise is an error that names it.
    """
    count = 0
    try:
        with tarfile.open(fileobj=source, mode="r|", tarinfo=Plain) as archive:
            for entry in entries(archive):
                parts = [part for part in entry.name.split("/") if part not in ("", ".")]
                if not parts or ".." in parts or entry.name.startswith("/") or len(parts) > _DEPTH:
                    raise ContainerError(f"{entry.name!r} cannot be copied: its name leads out", where="copy")
                _write(archive, entry, folder_fd, [name, *parts[1:]] if name else parts)
                count += 1
    except DAMAGED as error:
        raise ContainerError(f"the copy came damaged: {error}", where="copy") from error
    return count


def _write(archive: tarfile.TarFile, entry: tarfile.TarInfo, top: int, parts: list[str]) -> None:
    parent = _below(top, parts[:-1])
    name = parts[-1]
    try:
        if entry.isdir():
            _make_folder(parent, name, entry)
        elif entry.isreg():
            _write_file(archive, entry, parent, name)
        elif entry.issym():
            _make_room(parent, name)
            os.symlink(entry.linkname, name, dir_fd=parent)
        else:
            raise ContainerError(f"{entry.name!r} is no file, folder or symbolic link", where="copy")
    except OSError as error:
        raise ContainerError(f"{'/'.join(parts)} cannot be written: {error.strerror}", where="copy") from error
    finally:
        os.close(parent)


def _below(top: int, parts: list[str]) -> int:
    fd = os.dup(top)
    for part in parts:
        try:
            inner = os.open(part, _FOLDER, dir_fd=fd)
        except OSError as error:
            raise ContainerError(
                f"{'/'.join(parts)} is no folder, but something is to be copied into it", where="copy"
            ) from error
        finally:
            os.close(fd)
        fd = inner
    return fd


def _make_folder(parent: int, name: str, entry: tarfile.TarInfo) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        os.close(os.open(name, _FOLDER, dir_fd=parent))  # or an error: it is something else
        return
    fd = os.open(name, _FOLDER, dir_fd=parent)
    os.fchmod(fd, (entry.mode & 0o777) | 0o700)
    os.close(fd)


def _make_room(parent: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=parent)


def _write_file(archive: tarfile.TarFile, entry: tarfile.TarInfo, parent: int, name: str) -> None:
    _make_room(parent, name)
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
    with open(fd, "wb") as file:
        data = archive.extractfile(entry)
        while data and (chunk := data.read(1 << 18)):
            file.write(chunk)
        file.flush()
        os.fchmod(fd, entry.mode & 0o777)
        os.utime(fd, (entry.mtime, entry.mtime))
