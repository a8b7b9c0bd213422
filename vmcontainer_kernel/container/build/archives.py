"""ADD of a tar archive: it is unpacked, by the same reader that takes layers of strangers (`images.unpack`)."""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import IO

from vmcontainer_kernel.container.build.context import Item, Place
from vmcontainer_kernel.container.build.files import Writer
from vmcontainer_kernel.container.build.plan import Copy
from vmcontainer_kernel.container.ids import Steward
from vmcontainer_kernel.container.images import LAYER_TYPE
from vmcontainer_kernel.container.images.unpack import unpack
from vmcontainer_kernel.errors import UserError

__all__ = ["extract", "media_type_of", "write"]

_HEAD_BYTES = 64 << 10
_GZIP, _ZSTD, _XZ, _BZIP2 = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0", b"BZh"
_ENDINGS = (".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".tbz")


def media_type_of(head: bytes, name: str) -> str:
    """Tell by its first bytes whether a file is a tar archive, and how it is compressed; empty for another file.

    Raises `UserError` for a compression that this program has no reader for.
    """
    if head.startswith((_XZ, _BZIP2)) and name.endswith(_ENDINGS):
        raise UserError(f"{name} is compressed by xz or bzip2", hint="tar, tar.gz and tar.zst can be unpacked")
    if head.startswith(_ZSTD) and name.endswith((".tar.zst", ".tzst")):
        return f"{LAYER_TYPE}+zstd"
    if head.startswith(_GZIP):
        try:
            return f"{LAYER_TYPE}+gzip" if _is_tar(zlib.decompressobj(31).decompress(head, 512)) else ""
        except zlib.error:
            return ""
    return LAYER_TYPE if _is_tar(head) else ""


def _is_tar(head: bytes) -> bool:
    return head[257:262] == b"ustar"


def extract(place: Place, sources: Sequence[str], folder: Path, steward: Steward) -> dict[str, Path]:
    """Unpack the archives among the sources, each into a folder of its own; return them by the archive's path."""
    found: dict[str, Path] = {}
    for source in sources:
        for path in place.find(source):
            first = place.items(path)
            item = next(first)
            if stat.S_ISREG(item.status.st_mode) and (media_type := _media_type(item)):
                target = folder / str(len(found))
                target.mkdir(parents=True)
                with open(item.open(), "rb") as stream:
                    steward.do(partial(_unpack, stream, media_type, target))
                found[path] = target
            first.close()  # until then the item is open
    return found


def _unpack(stream: IO[bytes], media_type: str, target: Path) -> None:
    unpack(stream, media_type, target)


def _media_type(item: Item) -> str:
    with open(item.open(), "rb") as file:
        return media_type_of(file.read(_HEAD_BYTES), item.path)


def write(root_fd: int, folder: Path, action: Copy, owner: tuple[int, int] | None) -> None:
    """Copy what was unpacked into the image; without ``--chown`` it belongs to whom the archive says."""
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        Writer(root_fd, owner, action.mode, attributes=True).copy(Place(fd, root=True), [""], action.target, many=True)
    finally:
        os.close(fd)
