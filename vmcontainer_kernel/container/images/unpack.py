"""Unpacking a layer by folder descriptors: each entry is reached from the layer's own folder, one name at a time,
following no link.

A layer is a tar archive made by a stranger. Its names are never joined to a path, because a path is resolved again at
every use, and a link planted by an earlier entry would be followed by a later one (CVE-2025-4517, CVE-2025-4138 in
tarfile's own filters).
"""

from __future__ import annotations

import errno
import os
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING

from vmcontainer_kernel.errors import ImageError

if TYPE_CHECKING:
    import tarfile

__all__ = ["unpack"]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
_CHUNK_BYTES = 1 << 20


def unpack(stream: IO[bytes], media_type: str, folder: Path) -> None:
    """Write a layer's files below `folder`; raise `ImageError` naming the first entry that is not a plain part of it
    (image-spec, layer.md).
    """
    import tarfile

    if not media_type.endswith((".tar", ".tar+gzip", ".tar.gzip")):
        raise ImageError(
            f"layers of type {media_type} are not supported", hint="copy the image with gzip layers (skopeo copy)"
        )
    top = os.open(folder, _FOLDER)
    folders: list[tuple[list[str], tarfile.TarInfo]] = []
    try:
        with tarfile.open(fileobj=stream, mode="r:" if media_type.endswith(".tar") else "r:gz") as archive:
            for entry in archive:
                _write(archive, entry, top)
                if entry.isdir():
                    folders.append((_parts(entry.name, entry), entry))
        # Folders last and the deepest first: writing into one changes its time, and its mode may forbid writing.
        for parts, entry in sorted(folders, key=lambda folder: -len(folder[0])):
            _finish_folder(top, parts, entry)
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error) as error:
        raise ImageError(f"the layer is no readable tar archive: {error}") from error
    finally:
        os.close(top)


def _write(archive: tarfile.TarFile, entry: tarfile.TarInfo, top: int) -> None:
    parts = _parts(entry.name, entry)
    try:
        if not parts:
            if not entry.isdir():
                raise _refusal(entry, "is the layer's root, but no folder")
            return
        parent = _open_folder(top, parts[:-1])
        try:
            _write_one(archive, entry, top, parent, parts[-1])
        finally:
            os.close(parent)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise _refusal(entry, "leads through a link or a file") from error
        if error.errno == errno.ENOSPC:
            raise ImageError(
                "the disk is full",
                hint="free some space in the cache (vmcontainer doctor shows where it is)",
                where=entry.name,
            ) from error
        raise _refusal(entry, f"cannot be written: {error.strerror}") from error


def _refusal(entry: tarfile.TarInfo, why: str) -> ImageError:
    return ImageError(
        f"layer entry {entry.name!r} {why}",
        hint="the image is damaged or hostile; nothing of this layer was kept",
        where=entry.name,
    )


def _parts(name: str, entry: tarfile.TarInfo) -> list[str]:
    if name.startswith("/"):
        raise _refusal(entry, "has an absolute name")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise _refusal(entry, "climbs out with '..'")
    if "\0" in name:
        raise _refusal(entry, "has a NUL byte in its name")
    return parts


def _open_folder(top: int, parts: list[str]) -> int:
    """Walk down one name at a time, making folders the archive did not list; never through a link (O_NOFOLLOW)."""
    fd = os.dup(top)
    for part in parts:
        try:
            below = os.open(part, _FOLDER, dir_fd=fd)
        except FileNotFoundError:
            os.mkdir(part, 0o755, dir_fd=fd)
            below = os.open(part, _FOLDER, dir_fd=fd)
        finally:
            os.close(fd)
        fd = below
    return fd


def _write_one(archive: tarfile.TarFile, entry: tarfile.TarInfo, top: int, parent: int, name: str) -> None:
    if name.startswith(_WHITEOUT):
        _write_whiteout(name, parent)
        return
    if entry.isdir():
        _make_folder(parent, name)
        return
    _make_room(parent, name)
    if entry.isreg():
        _write_file(archive, entry, parent, name)
    elif entry.issym():
        os.symlink(entry.linkname, name, dir_fd=parent)
    elif entry.islnk():
        _link(entry, top, parent, name)
        return
    else:
        raise _refusal(entry, "is a device or a pipe")
    _finish(parent, name, entry)


def _make_room(parent: int, name: str) -> None:
    """A later entry of the same name replaces an earlier one (layer.md); a full folder is not replaced."""
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        os.rmdir(name, dir_fd=parent)


def _make_folder(parent: int, name: str) -> None:
    try:
        os.mkdir(name, 0o755, dir_fd=parent)
    except FileExistsError:
        os.close(os.open(name, _FOLDER, dir_fd=parent))  # it must be a folder, not a link to one


def _write_file(archive: tarfile.TarFile, entry: tarfile.TarInfo, parent: int, name: str) -> None:
    source = archive.extractfile(entry)
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
    with open(fd, "wb") as target:
        while source and (chunk := source.read(_CHUNK_BYTES)):
            target.write(chunk)
        if target.tell() != entry.size:
            raise _refusal(entry, "ends too early")


def _link(entry: tarfile.TarInfo, top: int, parent: int, name: str) -> None:
    parts = _parts(entry.linkname, entry)
    if not parts:
        raise _refusal(entry, "is a hard link to nothing")
    folder = _open_folder(top, parts[:-1])
    try:
        os.link(parts[-1], name, src_dir_fd=folder, dst_dir_fd=parent, follow_symlinks=False)
    finally:
        os.close(folder)


def _write_whiteout(name: str, parent: int) -> None:
    """Write the layer format's whiteout in the overlay's own form (overlayfs.rst, "whiteouts and opaque
    directories").
    """
    if name == _OPAQUE:
        # An ordinary user's overlay reads the user.* attribute instead (mount option userxattr, implied in a user
        # namespace).
        key = "trusted.overlay.opaque" if os.geteuid() == 0 else "user.overlay.opaque"
        os.setxattr(f"/proc/self/fd/{parent}", key, b"y")
        return
    hidden = name.removeprefix(_WHITEOUT)
    if hidden in ("", ".", ".."):
        raise OSError(errno.EINVAL, "not a name", name)
    os.mknod(hidden, 0o020000, os.makedev(0, 0), dir_fd=parent)


def _finish(parent: int, name: str, entry: tarfile.TarInfo) -> None:
    """Set owner, mode and time; an ordinary user owns everything, and it is root's in his containers."""
    if os.geteuid() == 0:
        os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
    if not entry.issym():  # chmod would follow a link; this was made above, in a folder only we write to
        os.chmod(name, entry.mode & 0o7777, dir_fd=parent)
    os.utime(name, ns=_times(entry), dir_fd=parent, follow_symlinks=False)


def _finish_folder(top: int, parts: list[str], entry: tarfile.TarInfo) -> None:
    try:
        fd = _open_folder(top, parts)
    except OSError:  # replaced by a later entry
        return
    try:
        if os.geteuid() == 0:
            os.fchown(fd, entry.uid, entry.gid)
        # An ordinary user could not read, nor remove, a folder of his own without these bits.
        os.fchmod(fd, (entry.mode & 0o7777) | (0 if os.geteuid() == 0 else 0o700))
        os.utime(fd, ns=_times(entry))
    finally:
        os.close(fd)


def _times(entry: tarfile.TarInfo) -> tuple[int, int]:
    return int(entry.mtime * 1_000_000_000), int(entry.mtime * 1_000_000_000)
