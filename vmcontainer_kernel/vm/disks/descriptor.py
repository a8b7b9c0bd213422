"""VMDK: a sparse extent with a descriptor inside, or a descriptor as a file whose extents lie beside it.

    # Disk DescriptorFile
    CID=fffffffe
    parentCID=ffffffff                     anything else: it lies on another disk
    createType="twoGbMaxExtentFlat"
    RW 4192256 FLAT "disk-f001.vmdk" 0     access, sectors, kind, file, offset in sectors

VMware's "Virtual Disk Format 1.1". Extents are opened by whoever imports, in the descriptor's own folder and by plain
names only; QEMU is never shown a descriptor that names files.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from typing import Final

from .source import SECTOR, Extent, Header, Named, Source

__all__ = ["descriptor_of", "extent_line", "read_descriptor_file", "read_vmdk"]

LONGEST_BYTES: Final = 1 << 16
MOST_EXTENTS: Final = 256
# QEMU looks for the parent's name in the 20 sectors from here, wherever the header says the descriptor is
# (block/vmdk.c, DESC_SIZE).
_QEMU_LOOKS_AT: Final = (SECTOR, 20 * SECTOR)
_GRAINS_AT_END: Final = 0xFFFF_FFFF_FFFF_FFFF
_EXTENT: Final = re.compile(
    r'(?:RW|RDONLY|NOACCESS)\s+(\d{1,15})\s+(?:(ZERO)|([A-Z0-9]+)\s+"([^"]*)"(?:\s+(\d{1,15}))?)'
)
_FLAT: Final = ("FLAT", "VMFS")
_SPARSE: Final = ("SPARSE",)


def read_vmdk(source: Source) -> Header:
    """Read a sparse extent (its header ``KDMV``) and the descriptor inside it."""
    data = source.at(0, SECTOR, "its header")
    version, _, capacity, grain, text_at, text_sectors, entries = struct.unpack_from("<IIQQQQI", data, 4)
    _, directory_at = struct.unpack_from("<QQ", data, 48)
    if version not in (1, 2, 3):
        raise source.fault(f"VMDK version {version} is not known")
    # With a capacity of 0 QEMU would take the descriptor's extents, which are other files.
    if not capacity or capacity > 1 << 50 or not 1 <= grain <= 1 << 16 or not 1 <= entries <= 512:
        raise source.fault(f"its header makes no sense: {capacity} sectors, {grain} a grain, {entries} a table")
    tables = -(-capacity // (grain * entries))
    if directory_at != _GRAINS_AT_END:
        source.at(directory_at * SECTOR + tables * 4 - 4, 4, "its directory of grains")
    elif source.at(source.size_bytes - 2 * SECTOR, SECTOR, "its footer")[:20] != data[:20]:
        # QEMU believes the copy of the header there; it must tell the same size.
        raise source.fault("it ends before its footer")
    names = _parents(source.read(*_QEMU_LOOKS_AT))
    if text_at:
        length = min(text_sectors * SECTOR, LONGEST_BYTES)
        names += _parents(source.at(text_at * SECTOR, length, "its descriptor"))
    return Header("vmdk", capacity * SECTOR, names[:1])


def read_descriptor_file(source: Source) -> Header:
    """Read a descriptor that is a file of its own: the disk's size is its extents' sum."""
    if source.size_bytes > LONGEST_BYTES:
        raise source.fault(f"its descriptor has more than {LONGEST_BYTES} bytes")
    data = source.read(0, LONGEST_BYTES)
    extents = tuple(_extents(source, data.decode("utf-8", "replace")))
    if not extents:
        raise source.fault("its descriptor names no extents")
    return Header("vmdk", sum(one.size_bytes for one in extents), _parents(data)[:1] + _strangers(extents), extents)


def extent_line(extent: Extent, file: str) -> str:
    """Return the line of a descriptor for an extent that is to be read from `file`."""
    line = f"RW {extent.size_bytes // SECTOR} {extent.kind}"
    if extent.kind == "ZERO":
        return line
    return f'{line} "{file}"' + (f" {extent.offset_bytes // SECTOR}" if extent.kind == "FLAT" else "")


def descriptor_of(lines: Sequence[str]) -> str:
    """Return a descriptor of a disk of its own that consists of these extents."""
    head = [
        "# Disk DescriptorFile",
        "version=1",
        "CID=00000001",
        "parentCID=ffffffff",
        'createType="twoGbMaxExtentFlat"',
    ]
    return "\n".join([*head, *lines, ""])


def _parents(data: bytes) -> tuple[Named, ...]:
    """Find the disk below. As QEMU does, anywhere in the text: a comment or a half line will do for it."""
    text = data.decode("latin-1")
    hint = re.search(r'parentfilenamehint\s*=?\s*"?([^"\n\0]*)', text, re.IGNORECASE)
    if hint:
        return (Named("parent", hint[1]),)
    number = re.search(r"parentcid\s*=\s*(\w+)", text, re.IGNORECASE)
    if number and number[1].lower() != "ffffffff":
        return (Named("parent", f"the disk with content id {number[1][:8]}"),)
    return ()


def _extents(source: Source, text: str) -> list[Extent]:
    found = []
    for line in text.splitlines():
        if not line.startswith(("RW", "RDONLY", "NOACCESS")):
            continue
        match = _EXTENT.fullmatch(line.strip())
        if not match:
            raise source.fault(f"its descriptor has a line that makes no sense: {line[:80]!r}")
        size_bytes, kind = int(match[1]) * SECTOR, match[2] or match[3]
        if kind not in ("ZERO", *_FLAT, *_SPARSE):
            raise source.fault(f"it has an extent of the kind {kind}, which is not read", hint="export it as an OVA")
        found.append(Extent("FLAT" if kind in _FLAT else kind, match[4] or "", size_bytes, int(match[5] or 0) * SECTOR))
    if len(found) > MOST_EXTENTS:
        raise source.fault(f"it has more than {MOST_EXTENTS} extents")
    return found


def _strangers(extents: tuple[Extent, ...]) -> tuple[Named, ...]:
    """Return the extents that do not lie beside the descriptor under a plain name: a path, a protocol, nothing."""
    return tuple(Named("extent", one.name) for one in extents if one.kind != "ZERO" and not _is_plain(one.name))[:1]


def _is_plain(name: str) -> bool:
    return bool(re.fullmatch(r"[^/\\:\0]{1,255}", name)) and name not in (".", "..")
