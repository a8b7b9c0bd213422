"""Reading a tar archive that a stranger made: a stream of bytes in, one checked `Entry` after the other out.

    512-byte header, data, padding to 512     ustar (POSIX.1-1988)
    'x' header before it: key=value records   pax (POSIX.1-2001, pax(1), "pax Header Block")
    'L', 'K' before it: a long name; 'S'      GNU tar (its manual, "Basic Tar Format")

Names stay bytes, as the kernel has them. Everything that is not exactly as the formats say is an `ImageError` which
names the entry. (tarfile would do, but it is slower than the unpacking itself and forgives too much.)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from zlib import adler32

from vmcontainer_kernel.container.images import sparse
from vmcontainer_kernel.container.images.sparse import Pieces
from vmcontainer_kernel.container.record import Record
from vmcontainer_kernel.errors import ImageError

__all__ = ["BLOCK_BYTES", "Data", "Entry", "Tape", "entries", "refusal"]

BLOCK_BYTES = 512
META_BYTES = 1 << 20  # of one pax header, long name or sparse map; Go's archive/tar draws the line there, too
MAX_ID = 2**32 - 2
MAX_TIME_S = 1 << 40
_KINDS = {
    **dict.fromkeys(b"\x0007S", "file"),
    **{
        ord("1"): "link",
        ord("2"): "symlink",
        ord("3"): "char",
        ord("4"): "block",
        ord("5"): "folder",
        ord("6"): "fifo",
    },
}
_XATTR = b"SCHILY.xattr."
_PLAIN = {b"atime", b"ctime", b"mtime", b"path", b"linkpath", b"uid", b"gid", b"size"}


class Entry(Record):
    """One file of an archive; `kind` is file, folder, link, symlink, fifo, char or block.

    `size` is the file's, `stored_bytes` what the archive holds of it, `pieces` where those bytes go in a sparse file.
    """

    name: bytes
    kind: str
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    stored_bytes: int = 0
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    pieces: Pieces | None = None


def refusal(name: bytes, why: str) -> ImageError:
    """Return the error that names an entry as what is wrong."""
    shown = os.fsdecode(name[:200])
    return ImageError(
        f"layer entry {shown!r} {why}",
        hint="the image is damaged or hostile; nothing of this layer was kept",
        where=shown.encode(errors="replace").decode(),
    )


class Tape:
    """A stream of chunks, read in exact amounts."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._chunk = b""
        self._at = 0

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes, fewer only at the end."""
        at = self._at
        if at + count <= len(self._chunk):
            self._at = at + count
            return self._chunk[at : at + count]
        return b"".join(self.pieces(count))

    def pieces(self, count: int) -> Iterator[memoryview]:
        """Give the next `count` bytes in pieces, fewer only at the end."""
        while count:
            if self._at == len(self._chunk):
                self._chunk, self._at = next(self._chunks, b""), 0
                if not self._chunk:
                    return
            piece = memoryview(self._chunk)[self._at : self._at + count]
            self._at += len(piece)
            count -= len(piece)
            yield piece

    def skip(self, count: int) -> int:
        """Pass over `count` bytes; return how many there were."""
        if self._at + count <= len(self._chunk):
            self._at += count
            return count
        return sum(len(piece) for piece in self.pieces(count))

    def drain(self) -> None:
        """Read to the end, for the digest."""
        for _ in self._chunks:
            pass


class Data:
    """What is left of one entry's data, with its padding: the reader skips what nobody took."""

    def __init__(self, tape: Tape, name: bytes, count: int) -> None:
        self._tape, self._name = tape, name
        self._left, self._padding = count, -count % BLOCK_BYTES

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes, fewer only at its end."""
        data = self._tape.take(min(count, self._left))
        self._left -= len(data)
        return data

    def pieces(self, count: int) -> Iterator[memoryview]:
        """Give the next `count` bytes in pieces, fewer only at its end."""
        for piece in self._tape.pieces(min(count, self._left)):
            self._left -= len(piece)
            yield piece

    def finish(self) -> None:
        """Pass over what was not taken."""
        left = self._left + self._padding
        if left and self._tape.skip(left) != left:
            raise refusal(self._name, "ends too early")


def entries(tape: Tape, max_entries: int) -> Iterator[tuple[Entry, Data]]:
    """Give each entry and its data, which must be read before the next entry is asked for."""
    pax: dict[bytes, bytes] = {}
    gaps: list[bytes] = []
    long: dict[int, bytes] = {}
    count = 0
    while header := _header(tape):
        block, name = header
        count += 1
        kind = block[156]
        if count > max_entries:
            raise refusal(name, f"is one too many: a layer may have {max_entries}")
        if kind in b"xgLK":
            meta = _meta(tape, name, _number(block[124:136], name))
            if kind in b"LK":
                long[kind] = meta.rstrip(b"\0")
            elif kind in b"x":
                pax, gaps = _records(meta, name)
            elif set(_records(meta, name)[0]) - {b"comment"}:
                raise refusal(name, "is a global header: it would change all entries after it")
            continue
        if pax or long:
            name = pax.get(b"GNU.sparse.name") or pax.get(b"path") or long.get(ord("L")) or name
        entry, data = _entry(tape, block, name, pax, gaps, long.get(ord("K"), b""))
        yield entry, data
        data.finish()
        pax, gaps, long = {}, [], {}
    if pax or long:
        raise refusal(b"", "is missing: a header stands alone at the end")


def _header(tape: Tape) -> tuple[bytes, bytes] | None:
    """Return the next header block and the name in it; None at the end of the archive: a block of zeros, or of the
    stream.
    """
    block = tape.take(BLOCK_BYTES)
    if not block or (not block[0] and not block.strip(b"\0")):
        return None
    name = _name(block)
    if len(block) < BLOCK_BYTES:
        raise refusal(name, "ends too early")
    wanted = _number(block[148:156], name)
    summed = block[:148] + b" " * 8 + block[156:]
    unsigned = _sum(summed[:256]) + _sum(summed[256:])
    # Some old programs summed signed bytes.
    if wanted != unsigned and wanted != unsigned - 256 * sum(byte > 127 for byte in summed):
        raise refusal(name, "has a wrong header checksum")
    return block, name


def _sum(data: bytes) -> int:
    """Add up at most 256 bytes, 30 times as fast as sum(): Adler-32's lower half is 1 and their sum, modulo 65521."""
    return (adler32(data) & 0xFFFF) - 1


def _name(block: bytes) -> bytes:
    """Return a header's own name; `prefix` exists in POSIX headers only, GNU has other things there."""
    name = block[:100].partition(b"\0")[0]
    if block[257:263] == b"ustar\0" and block[345]:
        return block[345:500].partition(b"\0")[0] + b"/" + name
    return name


def _number(field: bytes, name: bytes) -> int:
    """Read octal digits, or with the top bit set the bytes of a big-endian number (GNU and star)."""
    digits = field.rstrip(b"\0 ")
    if digits.isdigit() and b"8" not in digits and b"9" not in digits:
        return int(digits, 8)  # nearly always
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    if field[0] == 0xFF:
        return int.from_bytes(field, "big", signed=True)
    text = field.partition(b"\0")[0].strip(b" ")
    if not text:
        return 0
    if text.strip(b"01234567"):
        raise refusal(name, f"has {bytes(field)!r} in its header, which is no number")
    return int(text, 8)


def _meta(tape: Tape, name: bytes, size: int) -> bytes:
    if not 0 <= size <= META_BYTES:
        raise refusal(name, f"is a header of {size} bytes: more than {META_BYTES} are not read")
    data = Data(tape, name, size)
    meta = data.take(size)
    data.finish()
    return meta


def _records(data: bytes, name: bytes) -> tuple[dict[bytes, bytes], list[bytes]]:
    """Read ``LENGTH KEY=VALUE\\n`` records; return them, and apart the repeated ones of GNU's oldest sparse format."""
    found: dict[bytes, bytes] = {}
    gaps = []
    at = 0
    while at < len(data):
        digits = data[at : at + 9].partition(b" ")[0]
        end = at + (int(digits) if digits.isdigit() else 0)
        key, equals, value = data[at + len(digits) + 1 : end - 1].partition(b"=")
        if not key or not equals or end > len(data) or data[end - 1 : end] != b"\n":
            raise refusal(name, "holds no pax records")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            gaps.append(value)
        else:
            found[key] = value
        at = end
    return found, gaps


def _entry(
    tape: Tape, block: bytes, name: bytes, pax: dict[bytes, bytes], gaps: list[bytes], long_link: bytes
) -> tuple[Entry, Data]:
    kind = _KINDS.get(block[156])
    if kind is None:
        raise refusal(name, f"is of a kind that layers do not have ({chr(block[156])!r})")
    if not block[156] and name.endswith(b"/"):
        kind = "folder"  # archives from before there was a kind for it
    stored = _decimal(pax, b"size", name) if b"size" in pax else _number(block[124:136], name)
    if not 0 <= stored < 1 << 62:
        raise refusal(name, f"claims {stored} bytes")
    data = Data(tape, name, stored if kind == "file" else 0)
    pieces, size = None, stored
    more = {} if pax.keys() <= _PLAIN else pax
    if kind == "file" and (block[156] == ord("S") or any(key.startswith(b"GNU.sparse.") for key in more)):
        try:
            pieces, size = sparse.read(tape.take, data.take, block, pax, gaps)
        except ValueError as error:
            raise refusal(name, f"has a wrong sparse map: {error}") from error
        stored = sum(length for _, length in pieces)
    return (
        Entry(
            name,
            kind,
            _number(block[100:108], name) & 0o7777,
            _id(pax, b"uid", block[108:116], name),
            _id(pax, b"gid", block[116:124], name),
            _time_ns(pax, block[136:148], name),
            size,
            stored,
            pax.get(b"linkpath") or long_link or block[157:257].partition(b"\0")[0],
            (_number(block[329:337], name), _number(block[337:345], name)) if kind in ("char", "block") else (0, 0),
            tuple((key[len(_XATTR) :], value) for key, value in more.items() if key.startswith(_XATTR)) if more else (),
            pieces,
        ),
        data,
    )


def _decimal(pax: dict[bytes, bytes], key: bytes, name: bytes) -> int:
    value = pax[key]
    if not value.isdigit() or len(value) > 20:
        raise refusal(name, f"has {value[:40]!r} as {key.decode()}, which is no number")
    return int(value)


def _id(pax: dict[bytes, bytes], key: bytes, field: bytes, name: bytes) -> int:
    number = _decimal(pax, key, name) if key in pax else _number(field, name)
    if not 0 <= number <= MAX_ID:
        raise refusal(name, f"has the {key.decode()} {number}")
    return number


def _time_ns(pax: dict[bytes, bytes], field: bytes, name: bytes) -> int:
    if not (text := pax.get(b"mtime")):
        time_ns = _number(field, name) * 1_000_000_000
    else:
        whole, _, part = text.removeprefix(b"-").partition(b".")
        if not whole.isdigit() or len(whole) > 20 or (part and not part.isdigit()):
            raise refusal(name, f"has {text[:40]!r} as mtime, which is no time")
        time_ns = int(whole) * 1_000_000_000 + int(part[:9].ljust(9, b"0"))
        time_ns = -time_ns if text.startswith(b"-") else time_ns
    if abs(time_ns) > MAX_TIME_S * 1_000_000_000:
        raise refusal(name, "has a time that no file can have")
    return time_ns
