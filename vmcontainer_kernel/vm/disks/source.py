"""An image file as bytes at offsets, and what was read of it: records, without any format in them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...errors import ImageError

__all__ = ["SECTOR", "Extent", "Header", "Named", "Source", "open_source"]

SECTOR: Final = 512


@dataclass(frozen=True)
class Named:
    """A name of another file inside an image: what it is for, and how it is written there."""

    role: str
    name: str


@dataclass(frozen=True)
class Extent:
    """One part of a VMDK that lies in another file beside its descriptor: FLAT or SPARSE, its size and offset."""

    kind: str
    name: str
    size_bytes: int
    offset_bytes: int = 0


@dataclass(frozen=True)
class Header:
    """An image's format (QEMU's name for it), the size a guest sees, and the other files that it names."""

    format: str
    size_bytes: int
    names: tuple[Named, ...] = ()
    extents: tuple[Extent, ...] = ()


@dataclass(frozen=True)
class Source:
    """A file, or a part of one, read at offsets; shorter answers mean that it has ended."""

    path: str
    size_bytes: int
    read: Callable[[int, int], bytes]

    def at(self, offset: int, count: int, what: str) -> bytes:
        """Return exactly `count` bytes; raises ImageError if they are not there."""
        data = self.read(offset, count) if 0 <= offset < self.size_bytes else b""
        if len(data) < count:
            raise self.fault(f"it ends inside {what}")
        return data

    def fault(self, why: str, hint: str = "") -> ImageError:
        """Return the error that this image is not what it should be."""
        hint = hint or "it is damaged, cut short or hostile; nothing of it was kept"
        return ImageError(f"{Path(self.path).name} cannot be used as a disk: {why}", hint=hint, where=self.path)

    def part(self, offset: int, size_bytes: int) -> Source:
        """Return a part of it as a source of its own."""

        def read(at: int, count: int) -> bytes:
            return self.read(offset + at, max(0, min(count, size_bytes - at)))

        return Source(self.path, size_bytes, read)


def open_source(descriptor: int, path: str) -> Source:
    """Return an open file as a source."""
    size = os.lseek(descriptor, 0, os.SEEK_END)
    return Source(path, size, lambda offset, count: os.pread(descriptor, count, offset))
