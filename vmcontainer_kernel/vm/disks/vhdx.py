"""VHDX: tables of regions and metadata, and the table that tells where each block lies ([MS-VHDX] 2.2 to 2.6).

192 KiB: region table ─▶ metadata: block size, "has a parent", virtual disk size
                      ─▶ BAT: state and offset of each block
"""

from __future__ import annotations

import struct
import sys
from array import array
from typing import Final

from .source import Header, Named, Source

__all__ = ["read_vhdx"]

TABLES_AT: Final = (192 << 10, 256 << 10)
MOST_ENTRIES: Final = 2047
LARGEST_BAT: Final = 256 << 20
_METADATA: Final = bytes.fromhex("06a27c8b90479a4bb8fe575f050f886e")
_BAT: Final = bytes.fromhex("6677c22d23f600429d64115e9bfd4a08")
_PARAMETERS: Final = bytes.fromhex("3767a1ca36fa434db3b633f0aa44e76b")
_SIZE: Final = bytes.fromhex("2442a52f1bcd7648b2115dbed83bf4b8")
_PRESENT: Final = (6, 7)  # a block's state: in the file, or in part (the rest in a parent)


def read_vhdx(source: Source) -> Header:
    """Read an image that begins with ``vhdxfile``."""
    regions = _regions(source)
    if not {_METADATA, _BAT} <= regions.keys():
        raise source.fault("it has no table of regions")
    found = _metadata(source, regions[_METADATA][0])
    if not {_PARAMETERS, _SIZE} <= found.keys():
        raise source.fault("its metadata do not tell its size")
    block_bytes, flags = struct.unpack("<II", source.at(found[_PARAMETERS], 8, "its metadata"))
    (size_bytes,) = struct.unpack("<Q", source.at(found[_SIZE], 8, "its metadata"))
    if flags & 2:
        return Header("vhdx", size_bytes, (Named("parent", "(a differencing disk)"),))
    if not 1 << 20 <= block_bytes <= 256 << 20:
        raise source.fault(f"its blocks are of {block_bytes} bytes")
    _check_blocks(source, *regions[_BAT], block_bytes)
    return Header("vhdx", size_bytes)


def _regions(source: Source) -> dict[bytes, tuple[int, int]]:
    """Return offset and length of each region, from the first of the two tables that is one."""
    for table_at in TABLES_AT:
        signature, count = struct.unpack("<4s4xI", source.at(table_at, 12, "its region table"))
        if signature == b"regi" and count <= MOST_ENTRIES:
            entries = struct.iter_unpack("<16sQI4x", source.at(table_at + 16, 32 * count, "its region table"))
            return {kind: (offset, length) for kind, offset, length in entries}
    return {}


def _metadata(source: Source, table_at: int) -> dict[bytes, int]:
    signature, count = struct.unpack("<8s2xH", source.at(table_at, 12, "its metadata"))
    if signature != b"metadata" or count > MOST_ENTRIES:
        raise source.fault("it has no table of metadata")
    entries = struct.iter_unpack("<16sI12x", source.at(table_at + 32, 32 * count, "its metadata"))
    return {item: table_at + offset for item, offset in entries}


def _check_blocks(source: Source, table_at: int, length: int, block_bytes: int) -> None:
    """See that every block that is said to be in the file is: QEMU looks at where each begins only."""
    if length > LARGEST_BAT:
        raise source.fault(f"its table of blocks has {length} bytes")
    blocks = array("Q", source.at(table_at, length & ~7, "its table of blocks"))
    if sys.byteorder == "big":
        blocks.byteswap()
    end = max((entry >> 20 << 20 for entry in blocks if entry & 7 in _PRESENT), default=-block_bytes) + block_bytes
    if end > source.size_bytes:
        raise source.fault("it ends before its last block")
