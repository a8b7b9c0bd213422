"""Unpacking a layer by folder descriptors: each entry is reached from the layer's own folder, one name at a time,
following no link.

A layer is a tar archive made by a stranger. Its names are never joined to a path, because a path is resolved again at
every use, and a link planted by an earlier entry would be followed by a later one (CVE-2025-4517, CVE-2025-4138 in
tarfile's own filters).

What an entry may be: files, folders, links within the layer, pipes (they hold nothing until a process opens them), and
the character device 0:0, which is no device but the overlay's whiteout. Other devices are refused: a container gets its
devices from its configuration, never from an image.
"""

# Plain system calls, relative to a descriptor; pathlib has none of these.

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from operator import itemgetter
from typing import IO

from vmcontainer_kernel.container.images.compression import uncompressed
from vmcontainer_kernel.container.images.tarball import Data, Entry, Tape, entries, refusal
from vmcontainer_kernel.container.images.tree import FOLDER, Parts, Way, is_whiteout, open_beneath, set_opaque
from vmcontainer_kernel.container.record import Record
from vmcontainer_kernel.errors import ImageError

__all__ = ["MAX_ENTRIES", "MAX_UNPACKED_BYTES", "Unpacked", "unpack"]

MAX_UNPACKED_BYTES = 64 << 30
MAX_ENTRIES = 2_000_000
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_WHITEOUT, _OPAQUE = b".wh.", b".wh..wh..opq"
_NAME_BYTES = 4095  # a path longer than PATH_MAX could not be named in the container
_NO_NAMES = (b".", b"..")
_SHORT = 256  # NAME_MAX is 255
_KEPT_BYTES = 256 << 20  # of names and attributes of folders, which are kept until the end
_SMALL_BYTES = 64 << 10
_TOLD = 100


class Unpacked(Record):
    """What came of a layer: the digest of its uncompressed archive, and extended attributes that could not be set."""

    diff_id: str
    left_out: tuple[str, ...] = ()


def unpack(
    stream: IO[bytes],
    media_type: str,
    folder: str | os.PathLike[str],
    *,
    max_bytes: int = MAX_UNPACKED_BYTES,
    max_entries: int = MAX_ENTRIES,
) -> Unpacked:
    """Write a layer's files below `folder`, which is empty; raise `ImageError` naming the first entry that is not a
    plain part of it (image-spec, layer.md). What was written until then is the caller's to remove.
    """
    import hashlib

    digest = hashlib.sha256()
    top = os.open(folder, FOLDER)
    tree = _Tree(top, max_entries)
    try:
        with uncompressed(stream, media_type, max_bytes, digest) as chunks:
            tape = Tape(chunks)
            for entry, data in entries(tape, max_entries):
                if entry.size > max_bytes:
                    raise refusal(entry.name, f"is larger than {max_bytes >> 20} MiB")
                tree.write(entry, data)
            tape.drain()
        tree.finish()
    finally:
        tree.close()
        os.close(top)
    return Unpacked(f"sha256:{digest.hexdigest()}", tuple(tree.left_out))


def _parts(name: bytes, entry: Entry) -> Parts:
    if name.startswith(b"/"):
        raise refusal(entry.name, "has an absolute name")
    if b"\0" in name or len(name) > _NAME_BYTES:
        raise refusal(entry.name, "has a name that no file can have")
    parts = tuple([part for part in name.split(b"/") if part not in (b"", b".")])
    if b".." in parts:
        raise refusal(entry.name, "climbs out with '..'")
    return parts


class _Tree:
    """A folder that is being filled; `_way` leads to the folder last written to, as the next entry is mostly in it or
    near it.
    """

    def __init__(self, top: int, max_folders: int) -> None:
        self.left_out: list[str] = []
        self._top = top
        self._way = Way(top)
        self._folders: dict[Parts, Entry] = {}
        self._implied = max_folders
        self._kept_bytes = 0
        self._is_root = os.geteuid() == 0
        status = os.fstat(top)
        # What is made here is ours, and of our group, as the folder itself is (inode(7), S_ISGID).
        self._born = (status.st_uid, status.st_gid) if status.st_gid == os.getegid() else None
        self._near: tuple[bytes, Parts] = b"", ()

    def close(self) -> None:
        self._way.close()

    def _split(self, entry: Entry) -> Parts:
        """Return the checked names that lead to an entry. Its folder's are mostly those of the entry before."""
        folder, _, name = entry.name.rpartition(b"/")
        near = folder and folder == self._near[0]  # the root's own names, absolute ones among them, are no such case
        if near and 0 < len(name) < _SHORT and name not in _NO_NAMES and b"\0" not in name:
            return (*self._near[1], name)
        parts = _parts(entry.name, entry)
        if any(part.startswith(_WHITEOUT) for part in parts[:-1]):
            raise refusal(entry.name, "is below a whiteout")
        if parts and parts[-1] == name and len(folder) < _NAME_BYTES - _SHORT:
            self._near = folder, parts[:-1]
        return parts

    def write(self, entry: Entry, data: Data) -> None:
        parts = self._split(entry)
        try:
            if parts:
                self._write(entry, data, parts)
            elif entry.kind != "folder":
                raise refusal(entry.name, "is the layer's root, but no folder")
            if entry.kind == "folder":
                self._keep(parts, entry)
        except OSError as error:
            raise _explained(error, entry) from error

    def _keep(self, parts: Parts, entry: Entry) -> None:
        """Remember a folder until `finish`; two million of the longest names would take gigabytes."""
        self._kept_bytes += len(entry.name) + sum(len(key) + len(value) for key, value in entry.xattrs)
        if self._kept_bytes > _KEPT_BYTES:
            raise refusal(entry.name, "and the folders before it have names and attributes that are too long")
        self._folders[parts] = entry

    def _write(self, entry: Entry, data: Data, parts: Parts) -> None:
        parent, name = self._open(parts[:-1], entry), parts[-1]
        if name.startswith(_WHITEOUT):
            self._hide(entry, parent, name)
        elif entry.kind == "file":
            self._write_file(entry, data, parent, name)
        elif entry.kind == "folder":
            self._make_folder(parent, name)
        elif entry.kind == "link":
            self._link(entry, parent, name)
        else:
            _replacing(lambda: _make_special(entry, parent, name), parent, name)
            self._finish(parent, name, entry)

    def _open(self, parts: Parts, entry: Entry) -> int:
        if parts == self._way.parts:
            return self._way.fd
        return self._way.to(parts, lambda parent, name: self._imply(parent, name, entry))

    def _imply(self, parent: int, name: bytes, entry: Entry) -> None:
        """Make a folder that the archive did not list."""
        self._implied -= 1
        if self._implied < 0:
            raise refusal(entry.name, "needs too many folders")
        os.mkdir(name, dir_fd=parent)
        os.chmod(name, 0o755, dir_fd=parent)  # whatever the umask; nobody else is here to put a link in its place

    def _write_file(self, entry: Entry, data: Data, parent: int, name: bytes) -> None:
        try:
            fd = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
        except FileExistsError:
            _make_room(parent, name)
            fd = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
        try:
            for offset, length in ((0, entry.size),) if entry.pieces is None else entry.pieces:
                if length and _copy(data, fd, offset, length) != length:
                    raise refusal(entry.name, "ends too early")
            if entry.pieces is not None:
                os.ftruncate(fd, entry.size)
            self._own(fd, entry)
            os.fchmod(fd, entry.mode)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)

    def _own(self, fd: int, entry: Entry, *, path: str | None = None) -> None:
        """Set owner and attributes, in this order: a new owner takes file capabilities away. An ordinary user owns
        everything, and it is root's in his containers.
        """
        if self._is_root and path is None and (entry.uid, entry.gid) != self._born:
            os.fchown(fd, entry.uid, entry.gid)
        for key, value in entry.xattrs:
            if key.startswith((b"trusted.overlay.", b"user.overlay.")) or not key or b"\0" in key:
                raise refusal(entry.name, f"has the attribute {os.fsdecode(key)!r}, which is the overlay's own")
            try:
                os.setxattr(path or fd, key, value, follow_symlinks=path is None)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP):
                    raise
                if len(self.left_out) < _TOLD:
                    self.left_out.append(f"{refusal(entry.name, '').where}: {os.fsdecode(key)}: {error.strerror}")

    def _make_folder(self, parent: int, name: bytes) -> None:
        try:
            os.mkdir(name, 0o755, dir_fd=parent)
        except FileExistsError:
            status = os.lstat(name, dir_fd=parent)
            if stat.S_ISDIR(status.st_mode):
                return
            os.unlink(name, dir_fd=parent)
            os.mkdir(name, 0o755, dir_fd=parent)
            if is_whiteout(status):
                self._make_opaque(parent, name)

    def _link(self, entry: Entry, parent: int, name: bytes) -> None:
        parts = _parts(entry.link, entry)
        try:
            folder = open_beneath(self._top, parts[:-1])
        except FileNotFoundError:
            folder = -1
        try:
            if folder < 0 or not parts or _kind(folder, parts[-1]) in (0, stat.S_IFCHR, stat.S_IFDIR):
                raise refusal(entry.name, "is a hard link to no file of this layer")

            def link() -> None:
                os.link(parts[-1], name, src_dir_fd=folder, dst_dir_fd=parent, follow_symlinks=False)

            _replacing(link, parent, name)
        finally:
            if folder >= 0:
                os.close(folder)

    def _hide(self, entry: Entry, parent: int, name: bytes) -> None:
        """Write the layer format's whiteout in the overlay's own form (overlayfs.rst, "whiteouts and opaque
        directories"). It hides what is in the layers below, not what this layer has, before it or after.
        """
        if name == _OPAQUE:
            set_opaque(parent)
            return
        hidden = name.removeprefix(_WHITEOUT)
        if hidden in (b"", b".", b"..") or hidden.startswith(_WHITEOUT):
            raise refusal(entry.name, "is a whiteout of nothing")
        kind = _kind(parent, hidden)
        if kind == stat.S_IFDIR:
            self._make_opaque(parent, hidden)
        elif not kind:
            os.mknod(hidden, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent)

    def _make_opaque(self, parent: int, name: bytes) -> None:
        fd = os.open(name, FOLDER, dir_fd=parent)
        try:
            set_opaque(fd)
        finally:
            os.close(fd)

    def _finish(self, parent: int, name: bytes, entry: Entry) -> None:
        """Set owner, mode and time of what cannot be opened; it was made just now, in a folder only we write to."""
        if self._is_root:
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        self._own(parent, entry, path=f"/proc/self/fd/{parent}/{os.fsdecode(name)}")
        if entry.kind != "symlink":  # chmod would follow a link
            os.chmod(name, entry.mode, dir_fd=parent)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def finish(self) -> None:
        """Set what belongs to folders, last and those below before their own: writing into one changes its time, and
        its mode may forbid writing.
        """
        for parts, entry in sorted(self._folders.items(), key=itemgetter(0), reverse=True):
            try:
                self._finish_folder(parts, entry)
            except OSError as error:
                raise _explained(error, entry) from error

    def _finish_folder(self, parts: Parts, entry: Entry) -> None:
        try:
            fd = self._way.to(parts)
        except (FileNotFoundError, NotADirectoryError):  # replaced by a later entry
            return
        self._own(fd, entry)
        # An ordinary user could not read, nor remove, a folder of his own without these bits.
        os.fchmod(fd, entry.mode | (0 if self._is_root else 0o700))
        os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))


def _explained(error: OSError, entry: Entry) -> ImageError:
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return refusal(entry.name, "leads through a link or a file")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ImageError(
            "the disk is full",
            hint="free some space in the cache (vmcontainer doctor shows where it is)",
            where=refusal(entry.name, "").where,
        )
    if error.errno == errno.ENOTEMPTY:
        return refusal(entry.name, "replaces a folder that is not empty")
    if error.errno == errno.EINVAL and max(entry.uid, entry.gid):
        return refusal(entry.name, f"belongs to {entry.uid}:{entry.gid}, an id that this user has not (subuid(5))")
    return refusal(entry.name, f"cannot be written: {error.strerror}")


def _replacing(make: Callable[[], None], parent: int, name: bytes) -> None:
    """A later entry of the same name replaces an earlier one (layer.md)."""
    try:
        make()
    except FileExistsError:
        _make_room(parent, name)
        make()


def _make_room(parent: int, name: bytes) -> None:
    try:
        os.unlink(name, dir_fd=parent)
    except IsADirectoryError:
        os.rmdir(name, dir_fd=parent)


def _make_special(entry: Entry, parent: int, name: bytes) -> None:
    if entry.kind == "symlink":
        if not entry.link or b"\0" in entry.link:
            raise refusal(entry.name, "is a link to nothing")
        os.symlink(entry.link, name, dir_fd=parent)
    elif entry.kind == "fifo":
        os.mkfifo(name, 0o600, dir_fd=parent)
    elif entry.kind == "char" and entry.device == (0, 0):
        os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent)
    else:
        raise refusal(entry.name, "is a device")


def _copy(data: Data, fd: int, offset: int, length: int) -> int:
    """Write the next `length` bytes of `data` at `offset`; return how many there were."""
    if offset:
        os.lseek(fd, offset, os.SEEK_SET)
    elif length <= _SMALL_BYTES:
        return os.write(fd, data.take(length))
    copied = 0
    for piece in data.pieces(length):
        copied += len(piece)
        written = 0
        while written < len(piece):
            written += os.write(fd, piece[written:] if written else piece)
    return copied


def _kind(folder: int, name: bytes) -> int:
    try:
        return stat.S_IFMT(os.lstat(name, dir_fd=folder).st_mode)
    except FileNotFoundError:
        return 0
