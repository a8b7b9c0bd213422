"""Decompression by magic number: xz and gzip from Python's library, LZ4 and zstd from libraries that apt itself needs.

Distributions differ in how they compress a kernel (Debian 12: LZ4, Ubuntu 24.04: zstd) and its modules (Debian 13: xz,
Ubuntu 24.04: zstd). ``liblz4.so.1`` and ``libzstd.so.1`` are dependencies of libapt-pkg, so they are there wherever a
guest can be built.
"""

from __future__ import annotations

import ctypes
import gzip
import lzma
import struct

from ..errors import HostError, MachineError

__all__ = ["decompress", "is_compressed"]

_LZ4_LEGACY = b"\x02\x21\x4c\x18"
_ZSTD = b"\x28\xb5\x2f\xfd"
_XZ = b"\xfd7zXZ\0"
_GZIP = b"\x1f\x8b"
_LZ4_BLOCK_BYTES = 8 << 20  # of the legacy frame format, lz4 doc/lz4_Frame_format.md
_ZSTD_LIMIT_BYTES = 512 << 20


def is_compressed(content: bytes) -> bool:
    """Tell whether `decompress` knows this format."""
    return content.startswith((_LZ4_LEGACY, _ZSTD, _XZ, _GZIP))


def decompress(content: bytes) -> bytes:
    """Return `content` decompressed, or unchanged if it starts with no known magic number.

    Raises MachineError when the data is damaged, HostError when a library is missing.
    """
    if content.startswith(_LZ4_LEGACY):
        return _lz4_legacy(content)
    if content.startswith(_ZSTD):
        return _zstd(content)
    try:
        if content.startswith(_XZ):
            # Decompressor objects, not lzma.decompress: a kernel's payload may be followed by padding.
            return lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(content)
        if content.startswith(_GZIP):
            return gzip.decompress(content)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise _damaged(str(error)) from error
    return content


def _lz4_legacy(content: bytes) -> bytes:
    """Decompress the legacy frame: blocks of at most 8 MiB, each behind its compressed size."""
    library = _library("liblz4.so.1", "liblz4-1")
    output = ctypes.create_string_buffer(_LZ4_BLOCK_BYTES)
    parts, at = [], 4
    while at + 4 <= len(content):
        (size,) = struct.unpack_from("<I", content, at)
        block = content[at + 4 : at + 4 + size]
        written = library.LZ4_decompress_safe(block, output, len(block), _LZ4_BLOCK_BYTES)
        if written < 0 or len(block) != size:
            raise _damaged("LZ4")
        parts.append(output.raw[:written])
        at += 4 + size
    return b"".join(parts)


def _zstd(content: bytes) -> bytes:
    library = _library("libzstd.so.1", "libzstd1")
    for name in ("ZSTD_getFrameContentSize", "ZSTD_decompress"):
        getattr(library, name).restype = ctypes.c_ulonglong
    library.ZSTD_getFrameContentSize.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    library.ZSTD_decompress.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]
    size = library.ZSTD_getFrameContentSize(content, len(content))
    # The two highest values mean "not written in the frame" and "error" (zstd.h).
    capacity = size if size < _ZSTD_LIMIT_BYTES else max(16 * len(content), 16 << 20)
    output = ctypes.create_string_buffer(capacity)
    written = library.ZSTD_decompress(output, capacity, content, len(content))
    if library.ZSTD_isError(ctypes.c_size_t(written)):
        raise _damaged("zstd")
    return output.raw[:written]


def _library(name: str, package: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        raise HostError(f"the library {name} is missing", hint=f"apt-get install {package}") from error


def _damaged(what: str) -> MachineError:
    return MachineError(f"compressed data is damaged ({what})", hint="delete the guests folder of the cache; run again")
