"""Sparse files in tar archives: which parts of a file the archive holds, in the four ways GNU tar has written it down
(GNU tar manual, "Sparse Formats").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["Pieces", "read"]

Pieces = tuple[tuple[int, int], ...]
"""Offset and length of each part that is not a hole, in order."""

_BLOCK_BYTES = 512
_MAX_PIECES = 1 << 16
Take = Callable[[int], bytes]


def read(more: Take, data: Take, block: bytes, pax: dict[bytes, bytes], gaps: Sequence[bytes]) -> tuple[Pieces, int]:
    """Return the parts and the size of the file; `more` gives blocks after the header, `data` of the entry's data.

    Raises ValueError for a map that is not sorted, overlaps itself or leaves the file.
    """
    if block[156] == ord("S"):
        numbers, size = _old(more, block), _octal(block[483:495])
    elif b"GNU.sparse.major" in pax:
        version = (pax[b"GNU.sparse.major"], pax.get(b"GNU.sparse.minor"))
        if version != (b"1", b"0"):
            raise ValueError(f"version {b'.'.join(part or b'' for part in version).decode(errors='replace')}")
        numbers, size = _in_data(data), _decimal(pax.get(b"GNU.sparse.realsize", b""))
    else:
        texts = pax[b"GNU.sparse.map"].split(b",") if b"GNU.sparse.map" in pax else gaps
        numbers, size = [_decimal(text) for text in texts if text], _decimal(pax.get(b"GNU.sparse.size", b""))
    if len(numbers) % 2 or len(numbers) > 2 * _MAX_PIECES:
        raise ValueError(f"{len(numbers)} numbers")
    return _checked(tuple(zip(numbers[::2], numbers[1::2], strict=True)), size), size


def _checked(pieces: Pieces, size: int) -> Pieces:
    end = 0
    for offset, length in pieces:
        if offset < end:
            raise ValueError("parts overlap")
        end = offset + length
    if end > size or size >= 1 << 62:
        raise ValueError("parts lie outside the file")
    return pieces


def _old(more: Take, block: bytes) -> list[int]:
    """Read the map of GNU's own headers: 4 parts in the header, 21 in each block after it, while a flag says so."""
    numbers = _fields(block[386:482])
    follows = block[482]
    while follows:
        block = more(_BLOCK_BYTES)
        if len(block) < _BLOCK_BYTES or len(numbers) > 2 * _MAX_PIECES:
            raise ValueError("it does not end")
        numbers += _fields(block[:504])
        follows = block[504]
    return numbers


def _fields(data: bytes) -> list[int]:
    pairs = [data[at : at + 24] for at in range(0, len(data), 24)]
    return [_octal(field) for pair in pairs if pair[0] for field in (pair[:12], pair[12:])]


def _in_data(data: Take) -> list[int]:
    """Read the map that stands before the data: how many parts, then their numbers, a line each, padded to a block."""
    blocks: list[bytes] = []
    lines, wanted = 0, 1
    while lines < wanted:
        block = data(_BLOCK_BYTES)
        if len(block) < _BLOCK_BYTES or (wanted == 1 and len(blocks) > 1):
            raise ValueError("it does not end")
        blocks.append(block)
        lines += block.count(b"\n")
        if wanted == 1 and lines:
            wanted += 2 * _decimal(b"".join(blocks).partition(b"\n")[0])
        if wanted > 2 * _MAX_PIECES:
            raise ValueError(f"{wanted // 2} parts")
    return [_decimal(line) for line in b"".join(blocks).split(b"\n")[1:wanted]]


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 19:
        raise ValueError(f"{text[:20]!r} is no number")
    return int(text)


def _octal(field: bytes) -> int:
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big")
    text = field.partition(b"\0")[0].strip(b" ")
    if text.strip(b"01234567") or not text:
        raise ValueError(f"{field[:20]!r} is no number")
    return int(text, 8)
