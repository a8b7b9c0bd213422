"""Packing a folder into a layer: what the overlay keeps of a container becomes an archive that any engine reads.

The same files give the same bytes: names are sorted, times are whole seconds, names of users are left out.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any, Protocol

from vmcontainer_kernel.container.images.tree import FOLDER, Found, is_opaque, is_whiteout, walk
from vmcontainer_kernel.errors import ImageError

if TYPE_CHECKING:
    import tarfile

__all__ = ["Owners", "Target", "pack"]

Owners = Callable[[int, int], tuple[int, int]]
"""Turns the user and group ids on disk into those of the archive."""

_MARK = "overlay."
_CANNOT = ("trusted.overlay.redirect", "user.overlay.redirect", "trusted.overlay.metacopy", "user.overlay.metacopy")
_KEPT = ("user.", "security.capability")


class Target(Protocol):
    """What an archive is written to."""

    def write(self, data: bytes, /) -> Any:
        """Take the next bytes."""


def pack(
    folder: str | os.PathLike[str], target: Target, *, owners: Owners | None = None, time_s: int | None = None
) -> None:
    """Write the files below `folder` to `target` as a tar archive (pax); whiteouts as layer.md has them.

    `time_s`: the newest time a file may have, so that what was made just now is reproducible. Sockets are left out, as
    tar has none. Raises `ImageError` for a device and for what the overlay keeps in a form of its own.
    """
    import tarfile

    top = os.open(folder, FOLDER)
    names: dict[tuple[int, int], str] = {}
    try:
        with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as archive:  # type: ignore[call-overload]
            for found in walk(top):
                _add(archive, found, names, owners, time_s)
    except OSError as error:
        raise ImageError(
            f"the layer cannot be packed: {error.strerror}",
            hint="pause the container, so that nothing changes meanwhile",
            where=str(error.filename or folder),
        ) from error
    finally:
        os.close(top)


def _add(
    archive: tarfile.TarFile, found: Found, names: dict[tuple[int, int], str], owners: Owners | None, time_s: int | None
) -> None:
    if stat.S_ISSOCK(found.status.st_mode):
        return
    path = os.fsdecode(b"/".join(found.parts))
    entry = _entry(archive, found, path, names)
    status = found.status
    entry.mode = stat.S_IMODE(status.st_mode)
    entry.uid, entry.gid = owners(status.st_uid, status.st_gid) if owners else (status.st_uid, status.st_gid)
    entry.mtime = int(status.st_mtime) if time_s is None else min(int(status.st_mtime), time_s)
    if entry.isreg() and stat.S_ISREG(status.st_mode):
        fd = os.open(found.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=found.fd)
        with open(fd, "rb") as file:
            entry.pax_headers = _xattrs(fd, path)
            _add_data(archive, entry, file)
        return
    if not found.name:
        entry.pax_headers = _xattrs(found.fd, path)
    archive.addfile(entry)
    if not found.name and is_opaque(found.fd):
        archive.addfile(archive.tarinfo(f"{path}/.wh..wh..opq" if path else ".wh..wh..opq"))


def _entry(archive: tarfile.TarFile, found: Found, path: str, names: dict[tuple[int, int], str]) -> tarfile.TarInfo:
    import tarfile

    mode, status = found.status.st_mode, found.status
    entry = archive.tarinfo(path or ".")
    if not found.name:
        entry.type = tarfile.DIRTYPE
    elif is_whiteout(status):
        entry.name = path[: len(path) - len(os.fsdecode(found.name))] + ".wh." + os.fsdecode(found.name)
    elif status.st_nlink > 1 and (first := names.setdefault((status.st_dev, status.st_ino), path)) != path:
        entry.type, entry.linkname = tarfile.LNKTYPE, first
    elif stat.S_ISLNK(mode):
        entry.type, entry.linkname = tarfile.SYMTYPE, os.readlink(os.fsdecode(found.name), dir_fd=found.fd)
    elif stat.S_ISFIFO(mode):
        entry.type = tarfile.FIFOTYPE
    elif stat.S_ISREG(mode):
        entry.size = status.st_size
    else:
        raise ImageError(f"/{path} is a device, which images do not have", hint="remove it first", where=path)
    return entry


def _add_data(archive: tarfile.TarFile, entry: tarfile.TarInfo, file: IO[bytes]) -> None:
    entry.size = os.fstat(file.fileno()).st_size
    archive.addfile(entry, file)


def _xattrs(fd: int, path: str) -> dict[str, str]:
    """Return the attributes that belong to the file, as pax has them; the overlay's own are none of them."""
    found: dict[str, str] = {}
    for key in sorted(os.listxattr(fd)):
        if key in _CANNOT:
            raise ImageError(f"/{path} is kept as {key}, which layers do not have", where=path)
        if not key.startswith(_KEPT) or key.partition(".")[2].startswith(_MARK):
            continue
        value = os.getxattr(fd, key)
        if key == "security.capability" and value[3:4] == b"\x03":
            # Version 3 adds the id of the user namespace's root, which means nothing elsewhere (capabilities(7)).
            value = value[:3] + b"\x02" + value[4:20]
        found[f"SCHILY.xattr.{key}"] = value.decode(errors="surrogateescape")
    return found
