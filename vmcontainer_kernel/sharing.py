"""Files between this computer and a node, as archives (tar); and a folder lent to a machine for the time of a cell.

    %vm cp, %container cp      here ──send──▶ node        node ──fetch──▶ here
    %%vm --volume ./data:/mnt  send before the cell; after it, fetch, and write here what the guest changed

A lent folder is no shared one: neither side sees what the other does meanwhile. Debian's kernel for the cloud has no
9p, and virtiofs wants memory that a clone, which maps its template's privately, has not. What comes back is as little
trusted as the guest: it is bounded, compared with what was sent, and written by descriptors only (`transfer`).
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from .container import transfer
from .errors import ContainerError, NotFound, UserError
from .fetching import fetch
from .node import Node

__all__ = ["LENT_MAX_BYTES", "Lent", "changed", "contents", "lend", "pack", "parse_lent", "send", "take_back"]

LENT_MAX_BYTES: Final = 64 << 20
_CHUNK_BYTES: Final = 1 << 20
Contents = dict[str, tuple[Any, ...]]
Told = Callable[[int], None]


def _nobody(count: int) -> None:
    """Tell nobody."""


async def send(node: Node, verb: str, arguments: dict[str, Any], archive: IO[bytes], told: Told = _nobody) -> None:
    """Send an archive to a verb that unpacks it; `told` hears how many bytes have gone."""
    request = node.start(verb, {**arguments, "stdin": True})
    while (chunk := archive.read(_CHUNK_BYTES)) and not request.done.done():
        await request.feed(chunk)
        told(archive.tell())
    if not request.done.done():
        request.end_input()
    await request.done


def pack(path: Path, archive: IO[bytes]) -> None:
    """Write a file or folder of this computer as an archive, to be read from its beginning."""
    folder_fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        transfer.pack(folder_fd, path.name or "/", archive)
    finally:
        os.close(folder_fd)
    archive.seek(0)


@dataclass
class Lent:
    """A folder of this computer, where the guest has it, and what was in it when it was sent."""

    folder: Path
    place: str
    read_only: bool = False
    sent: Contents = field(default_factory=dict)


def parse_lent(text: str) -> Lent:
    """Read ``FOLDER:PLACE[:ro]``; raises UserError for what is no folder here, or no absolute path there."""
    source, _, rest = text.partition(":")
    place, _, mode = rest.partition(":")
    if not source or mode not in ("", "ro", "rw") or not place.startswith("/") or not place.strip("/"):
        raise UserError(f"--volume {text}: write FOLDER:/PLACE[:ro]", where="--volume")
    folder = Path(source).expanduser().resolve()
    if not folder.is_dir():
        raise NotFound(f"--volume {text}: there is no folder {source} here", hint="make it first", where="--volume")
    return Lent(folder, place.rstrip("/"), mode == "ro")


async def lend(node: Node, lent: Lent) -> None:
    """Copy a folder into a machine, over what is there already; raises UserError if it is too large."""
    with tempfile.TemporaryFile() as archive:
        size = sum(path.lstat().st_size for path in lent.folder.rglob("*") if path.is_file() and not path.is_symlink())
        if size > LENT_MAX_BYTES:
            hint = "%vm cp copies any number of bytes, and a disk (%vm disk) need not be copied"
            raise UserError(
                f"{lent.folder} has {size >> 20} MiB, and {LENT_MAX_BYTES >> 20} MiB can be lent", hint=hint
            )
        pack(lent.folder, archive)
        lent.sent = contents(archive)
        await send(node, "copy_in", {"path": lent.place, "exact": True}, archive)


async def take_back(node: Node, lent: Lent) -> int:
    """Write here what the guest has changed in a folder lent to it, and return how many files; nothing is removed."""
    if lent.read_only:
        return 0
    with tempfile.TemporaryFile() as came, tempfile.TemporaryFile() as chosen:
        hint = "%vm cp copies any number of bytes"
        arguments, most_bytes = {"path": lent.place}, 2 * LENT_MAX_BYTES  # an archive has blocks and headers besides
        await fetch(node, "copy_out", arguments, came.write, most_bytes, what=lent.place, hint=hint)
        came.seek(0)
        count = changed(came, lent.sent, chosen)
        folder_fd = os.open(lent.folder.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            transfer.unpack(folder_fd, chosen, lent.folder.name)
        finally:
            os.close(folder_fd)
    return count


def contents(archive: IO[bytes]) -> Contents:
    """Return what tells one entry of an archive from another, by name below the first; reads it from its beginning."""
    with tarfile.open(fileobj=archive, mode="r:", tarinfo=transfer.Plain) as tar:
        found = {_below(entry.name): _told(tar, entry) for entry in transfer.entries(tar)}
    archive.seek(0)
    return found


def changed(archive: IO[bytes], sent: Contents, chosen: IO[bytes]) -> int:
    """Write those entries of an archive that are not as `sent`, with their folders, to another one; return how many
    are no folders. Both are read from their beginning. Raises ContainerError for an archive that is damaged.
    """
    count = 0
    try:
        with (
            tarfile.open(fileobj=archive, mode="r:", tarinfo=transfer.Plain) as tar,
            tarfile.open(fileobj=chosen, mode="w") as out,
        ):
            for entry in transfer.entries(tar):
                if entry.isdir():
                    out.addfile(entry)
                elif sent.get(_below(entry.name)) != _told(tar, entry):
                    out.addfile(entry, tar.extractfile(entry) if entry.isreg() else None)
                    count += 1
    except transfer.DAMAGED as error:
        raise ContainerError(f"what came from the guest is damaged: {error}", where="copy") from error
    chosen.seek(0)
    return count


def _below(name: str) -> str:
    return name.partition("/")[2]


def _told(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> tuple[Any, ...]:
    digest = hashlib.sha256()
    content = tar.extractfile(entry) if entry.isreg() else None
    while content and (chunk := content.read(_CHUNK_BYTES)):
        digest.update(chunk)
    return entry.type, entry.linkname, entry.mode & 0o777, digest.hexdigest()
