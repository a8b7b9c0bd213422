"""What an image file says of itself, read here before any other program may touch it.

    Source (bytes at offsets) ──identify──▶ Header(format, size_bytes, names, faults)

`names` are the files that it wants read in its place or beside it: a backing file, a data file, a parent, an extent.
None of them is ever opened: whoever imports refuses a header that has some. Formats: QEMU's docs/interop/qcow2.txt and
qed_spec.txt, VMware's "Virtual Disk Format 1.1", [MS-VHDX] and [MS-VHD]; VDI after VirtualBox' VDICore.h.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from typing import Final

from .descriptor import read_descriptor_file, read_vmdk
from .source import SECTOR, Header, Named, Source
from .vhdx import read_vhdx

__all__ = ["identify", "refuse_names"]

LARGEST_BYTES: Final = 1 << 50  # beyond it no format of these is of any use, and sums may overflow elsewhere
NAME_BYTES: Final = 1023  # QEMU reads no longer one from a qcow2 header


def identify(source: Source) -> Header:
    """Tell what an image is by its contents; what no format claims is a raw disk.

    Raises ImageError for one that is damaged, absurd, encrypted, or of a kind that is no disk.
    """
    start = source.read(0, SECTOR)
    for magic, read in _READERS:
        if start.startswith(magic):
            return _checked(source, read(source))
    if start[64:68] == _VDI_MAGIC:
        return _checked(source, _vdi(source))
    for magic, why in _NO_DISKS:
        if start.startswith(magic):
            raise source.fault(why, hint="unpack it first, or convert it with the program it comes from")
    footer = _fixed_vhd(source)
    if footer:
        return _checked(source, footer)
    if not source.size_bytes:
        raise source.fault("it is empty")
    return _checked(source, Header("raw", -(-source.size_bytes // SECTOR) * SECTOR))


def refuse_names(source: Source, header: Header) -> None:
    """Refuse an image that wants other files read: who opens it would read them in its name."""
    if header.names:
        one = header.names[0]
        raise source.fault(
            f"its {one.role} is {one.name!r}, another file, which is not read",
            hint="make it whole where it comes from: qemu-img convert, or your hypervisor's export",
        )


def _checked(source: Source, header: Header) -> Header:
    if header.size_bytes % SECTOR:
        raise source.fault(f"its size of {header.size_bytes} bytes is no number of sectors")
    if not 0 < header.size_bytes <= LARGEST_BYTES:
        raise source.fault(f"it claims to be a disk of {header.size_bytes} bytes")
    return header


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode("utf-8", "backslashreplace")


# -- QEMU's own formats

_DATA_FILE: Final = 0x44415441


def _qcow(source: Source) -> Header:
    (version,) = struct.unpack(">I", source.at(4, 4, "its header"))
    if version == 1:
        return _qcow1(source)
    if version not in (2, 3):
        raise source.fault(f"qcow2 version {version} is not known")
    fields = struct.unpack(">QIIQI", source.at(8, 28, "its header"))
    backing_at, backing_length, cluster_bits, size_bytes, encryption = fields
    if not 9 <= cluster_bits <= 21:
        raise source.fault(f"its clusters are of 2^{cluster_bits} bytes")
    if encryption:
        raise source.fault("it is encrypted", hint="decrypt it first: qemu-img convert")
    names = [Named("backing file", _name(source, backing_at, backing_length))] if backing_at else []
    features, header_length = 0, 72
    if version == 3:
        features, header_length = struct.unpack(">Q20xI", source.at(72, 32, "its header"))
        if not 104 <= header_length <= 1 << cluster_bits:
            raise source.fault(f"its header has {header_length} bytes")
    cluster_bytes = 1 << cluster_bits
    data_files = _qcow_extensions(source, header_length, min(backing_at or cluster_bytes, cluster_bytes))
    names += data_files or _qcow_features(source, features)
    _check_tables(source, size_bytes, cluster_bits)
    return Header("qcow2", size_bytes, tuple(names))


def _qcow1(source: Source) -> Header:
    backing_at, backing_length, _, size_bytes = struct.unpack(">QIIQ", source.at(8, 24, "its header"))
    (encryption,) = struct.unpack(">I", source.at(36, 4, "its header"))
    if encryption:
        raise source.fault("it is encrypted", hint="decrypt it first: qemu-img convert")
    names = (Named("backing file", _name(source, backing_at, backing_length)),) if backing_at else ()
    return Header("qcow", size_bytes, names)


def _name(source: Source, offset: int, length: int) -> str:
    if not 0 < length <= NAME_BYTES:
        raise source.fault(f"the name of its backing file has {length} bytes")
    return _text(source.at(offset, length, "the name of its backing file"))


def _qcow_features(source: Source, features: int) -> list[Named]:
    """Read the incompatible features: 0 dirty, 1 corrupt, 2 external data file, 3 compression, 4 extended L2."""
    if features & 1 << 1:
        raise source.fault("it is marked as damaged", hint="repair it where it comes from: qemu-img check -r all")
    if features >> 5:
        raise source.fault(f"it needs features that are not known ({features:#x})")
    return [Named("data file", "(not named)")] if features & 1 << 2 else []


def _qcow_extensions(source: Source, offset: int, end: int) -> list[Named]:
    found: list[Named] = []
    while offset + 8 <= end:
        kind, length = struct.unpack(">II", source.at(offset, 8, "its header's extensions"))
        if kind == 0:
            break
        if offset + 8 + length > end:
            raise source.fault("an extension of its header is larger than the header")
        if kind == _DATA_FILE:
            found.append(Named("data file", _text(source.at(offset + 8, length, "an extension of its header"))))
        offset += 8 + length + -length % 8
    return found[:1]


def _check_tables(source: Source, size_bytes: int, cluster_bits: int) -> None:
    """See that the first-level table is there: a cut file is told at once, not after an hour of converting."""
    entries, table_at = struct.unpack(">IQ", source.at(36, 12, "its header"))
    needed = -(-size_bytes // (1 << (2 * cluster_bits - 3)))
    if entries > 32 << 17 or entries < needed:
        raise source.fault(f"its table has {entries} entries where it needs {needed}")
    if entries:
        source.at(table_at + entries * 8 - 8, 8, "its table of clusters")


def _qed(source: Source) -> Header:
    fields = struct.unpack("<4xIIIQ16xQQII", source.at(0, 64, "its header"))
    _, _, _, features, _, size_bytes, backing_at, backing_length = fields
    names = (Named("backing file", _name(source, backing_at, backing_length)),) if features & 1 or backing_at else ()
    return Header("qed", size_bytes, names)


# -- those of others


_VDI_MAGIC: Final = struct.pack("<I", 0xBEDA107F)  # behind 64 bytes of text, which differ from program to program
_VDI_BLOCK_BYTES: Final = 1 << 20


def _vdi(source: Source) -> Header:
    data = source.at(0, 512, "its header")
    version, kind = struct.unpack_from("<I4xI", data, 68)
    map_at, data_at = struct.unpack_from("<II", data, 340)
    size_bytes, block_bytes, extra_bytes, blocks, allocated = struct.unpack_from("<QIIII", data, 368)
    link, parent = struct.unpack_from("16s16s", data, 424)
    if version != 0x00010001:
        raise source.fault(f"VDI version {version >> 16}.{version & 0xFFFF} is not known")
    names = (Named("parent", _uuid(parent)),) if kind not in (1, 2) or (link + parent).strip(b"\0") else ()
    if block_bytes != _VDI_BLOCK_BYTES or blocks < -(-size_bytes // block_bytes) or allocated > blocks:
        raise source.fault(f"it has {blocks} blocks of {block_bytes} bytes for {size_bytes}")
    source.at(map_at + blocks * 4 - 4, 4, "its table of blocks")
    if data_at + allocated * (block_bytes + extra_bytes) > source.size_bytes:
        raise source.fault("it ends before its last block")
    return Header("vdi", -(-size_bytes // SECTOR) * SECTOR, names)


def _uuid(data: bytes) -> str:
    return str(uuid.UUID(bytes_le=data))


def _vhd(source: Source) -> Header:
    return _vhd_footer(source, source.at(0, SECTOR, "its header"))


def _fixed_vhd(source: Source) -> Header | None:
    """Read the footer of a VHD that has no header, if this is one: a guest may write its magic word by chance."""
    if source.size_bytes < 2 * SECTOR or source.size_bytes % SECTOR:
        return None
    footer = source.at(source.size_bytes - SECTOR, SECTOR, "its footer")
    (wanted,) = struct.unpack_from(">I", footer, 64)
    summed = ~sum(footer[:64] + footer[68:]) & 0xFFFFFFFF
    return _vhd_footer(source, footer) if footer.startswith(b"conectix") and wanted == summed else None


def _vhd_footer(source: Source, footer: bytes) -> Header:
    (size_bytes,) = struct.unpack_from(">Q", footer, 48)
    (kind,) = struct.unpack_from(">I", footer, 60)
    if kind == 4:
        return Header("vpc", size_bytes, (Named("parent", _vhd_parent(source, footer)),))
    if kind == 2 and size_bytes > source.size_bytes:
        raise source.fault(f"it ends before the {size_bytes} bytes that it claims")
    if kind == 3:
        (header_at,) = struct.unpack_from(">Q", footer, 16)
        header = source.at(header_at, 1024, "its table's header")
        table_at, _, entries, block_bytes = struct.unpack_from(">QIII", header, 16)
        if not header.startswith(b"cxsparse") or not block_bytes or entries < -(-size_bytes // block_bytes):
            raise source.fault("its table's header makes no sense")
        source.at(table_at + entries * 4 - 4, 4, "its table of blocks")
        if not source.at(source.size_bytes - SECTOR, 8, "its footer").startswith(b"conectix"):
            raise source.fault("it ends before its footer")
    elif kind != 2:
        raise source.fault(f"it is a VHD of kind {kind}")
    return Header("vpc", size_bytes)


def _vhd_parent(source: Source, footer: bytes) -> str:
    (header_at,) = struct.unpack_from(">Q", footer, 16)
    return source.read(min(header_at, source.size_bytes) + 64, 512).decode("utf-16-be", "replace").rstrip("\0")


_READERS: Final[tuple[tuple[bytes, Callable[[Source], Header]], ...]] = (
    (b"QFI\xfb", _qcow),
    (b"QED\0", _qed),
    (b"KDMV", read_vmdk),
    (b"# Disk DescriptorFile", read_descriptor_file),
    (b"vhdxfile", read_vhdx),
    (b"conectix", _vhd),
)
_NO_DISKS: Final = (
    (b"COWD", "it is a VMDK of ESX's old sparse kind"),
    (b"\x1f\x8b", "it is compressed (gzip)"),
    (b"BZh", "it is compressed (bzip2)"),
    (b"\xfd7zXZ\0", "it is compressed (xz)"),
    (b"\x28\xb5\x2f\xfd", "it is compressed (zstd)"),
    (b"PK\x03\x04", "it is a zip archive"),
    (b"7z\xbc\xaf\x27\x1c", "it is a 7z archive"),
    (b"LUKS\xba\xbe", "it is encrypted (LUKS)"),
)
