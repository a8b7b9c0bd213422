"""x86 machine code out of a cell's text, by GNU as and ld, with the line that each byte came from.

    text ─as─▶ object file ─ld─▶ bytes at their address          Code(bytes, lines): 7c00  B80200  mov ax, 2
           └─▶ listing ─parse─▶ line ↔ address

Intel syntax without prefixes, as manuals have it. Everything is in one section, as bytes in memory are. The programs
run under limits, as a slip like ``.fill 2000000000`` asks for more than this computer has.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..errors import HostError, UserError

__all__ = ["BITS", "Code", "Line", "assemble", "boot_sector", "find_assembler", "parse_listing"]

BITS: Final = (16, 32, 64)
SECTOR_BYTES: Final = 512
SIGNATURE: Final = b"\x55\xaa"  # the last two bytes of a sector that a PC's firmware boots
LONGEST_BYTES: Final = 1 << 20
LIMIT_S: Final = 10.0
PACKAGE: Final = "apt-get install binutils"
# Debian's and Ubuntu's binutils for x86-64 has both names, on other processors it has the first one only.
_PREFIXES: Final = ("x86_64-linux-gnu-", "")
# sh(1): -f in units of 512 bytes, -t in seconds, -v in KiB.
_LIMITED: Final = 'ulimit -f 8192; ulimit -t 5; ulimit -v 1000000; exec "$@"'
_SCRIPT: Final = """SECTIONS {{
  .text {origin:#x} : {{ *(.text) }}
  .rest : {{ *(.data .data.* .rodata .rodata.* .bss .bss.* COMMON) }}
  ASSERT(SIZEOF(.rest) == 0, "put everything into one section: leave out .data, .bss and .section")
  /DISCARD/ : {{ *(*) }}
}}
"""
_LISTED: Final = re.compile(r" *([0-9]+) ([0-9a-f]{4,}) ")
_MESSAGE: Final = re.compile(r"cell\.s:([0-9]+): (Error|Warning|Fatal error): (.*)")
_UNLINKED: Final = re.compile(r"cell\.o:\(\.text\+(0x[0-9a-f]+)\): (.*)")


@dataclass(frozen=True)
class Line:
    """A source line that made bytes: its `number` in the cell, the `address` of its first byte, how many there are."""

    number: int
    address: int
    size_bytes: int
    text: str


@dataclass(frozen=True)
class Code:
    """Machine code to be put at `origin`; `bits` is the processor's mode it is for, `warnings` what as had to say."""

    data: bytes
    origin: int
    bits: int
    lines: tuple[Line, ...] = ()
    warnings: tuple[str, ...] = ()

    def line_at(self, address: int) -> Line | None:
        """Return the line that made the byte at an address, None if no line did."""
        place = bisect_right(self.lines, address, key=lambda line: line.address) - 1
        line = self.lines[place] if place >= 0 else None
        return line if line and address < line.address + line.size_bytes else None

    def bytes_of(self, line: Line) -> bytes:
        """Return the bytes that a line made."""
        start = line.address - self.origin
        return self.data[start : start + line.size_bytes]


def assemble(text: str, *, origin: int = 0x7C00, bits: int = 16, first_line: int = 1) -> Code:
    """Assemble a text for an address and a mode of the processor; `first_line` is the number of its first line.

    Raises HostError without an assembler, UserError for what as or ld refuses, each message with its line.
    """
    if bits not in BITS:
        raise UserError(f"{bits}: a processor has no such mode", hint=f"one of {' '.join(map(str, BITS))}")
    if not 0 <= origin < 1 << 31:
        raise UserError(f"{origin:#x} is no address for code", hint="0x7c00 is where a PC puts a boot sector")
    prefix = find_assembler()
    with tempfile.TemporaryDirectory(prefix="vmcontainer-asm-") as name:
        folder = Path(name)
        # The mode is a line of its own before the text, so the text's first line is the second one.
        (folder / "cell.s").write_text(f".code{bits}\n{text}\n", encoding="utf-8", errors="surrogateescape")
        warnings = _as(prefix, folder, bits, first_line, text)
        listing = (folder / "listing").read_text(encoding="utf-8", errors="replace")
        _ld(prefix, folder, bits, origin, parse_listing(listing, 0, LONGEST_BYTES, first_line - 2))
        with (folder / "cell.bin").open("rb") as stream:
            data = stream.read(LONGEST_BYTES + 1)
    if len(data) > LONGEST_BYTES:
        raise UserError(f"the code is longer than {LONGEST_BYTES} bytes")
    if not data:
        raise UserError("there is no code in this cell", hint="begin with: mov ax, 1")
    return Code(data, origin, bits, parse_listing(listing, origin, len(data), first_line - 2), warnings)


def boot_sector(code: Code | bytes) -> bytes:
    """Return the 512 bytes of a disk's first sector that a PC's firmware starts: the code, zeros, 0x55 0xaa.

    Raises UserError if the code is longer than the 510 bytes that are left for it.
    """
    data = code.data if isinstance(code, Code) else code
    room = SECTOR_BYTES - len(SIGNATURE)
    if len(data) == SECTOR_BYTES and data.endswith(SIGNATURE):
        return data
    if len(data) > room:
        hint = "leave something out, or load further sectors from the disk (int 0x13)"
        raise UserError(f"the code has {len(data)} bytes, a boot sector has room for {room}", hint=hint)
    return data.ljust(room, b"\0") + SIGNATURE


def find_assembler() -> str:
    """Return how the names of the x86 tools begin here. Raises HostError if there are none."""
    for prefix in _PREFIXES:
        if shutil.which(f"{prefix}as") and shutil.which(f"{prefix}ld") and _is_x86(prefix):
            return prefix
    raise HostError("there is no assembler for x86 (GNU as and ld)", hint=PACKAGE, where="vmcontainer doctor assembler")


def _is_x86(prefix: str) -> bool:
    done = subprocess.run([f"{prefix}as", "--32", "--version"], capture_output=True, check=False, timeout=LIMIT_S)
    return done.returncode == 0


def parse_listing(text: str, origin: int, size_bytes: int, shift: int = 0) -> tuple[Line, ...]:
    """Read a listing of as (option -a): the lines that made bytes, in the order of their addresses.

    A line's bytes reach to the next line's: those in the listing itself are from before linking. `shift` is added to
    the numbers of lines.
    """
    found = []
    for listed in text.splitlines():
        match = _LISTED.match(listed)
        if match:
            found.append((int(match[2], 16), int(match[1]) + shift, listed.partition("\t")[2].strip()))
    found.sort(key=lambda one: one[0])
    ends = [offset for offset, *_ in found[1:]] + [size_bytes]
    return tuple(
        Line(number, origin + offset, end - offset, source)
        for (offset, number, source), end in zip(found, ends, strict=False)
        if end > offset
    )


def _as(prefix: str, folder: Path, bits: int, first_line: int, text: str) -> tuple[str, ...]:
    """Assemble cell.s; return its warnings. Raises UserError with the text of each line that is wrong."""
    wide = "--64" if bits == 64 else "--32"
    syntax = ("-msyntax=intel", "-mnaked-reg")
    listing = ("-aln=listing", "--listing-cont-lines=0", "--listing-rhs-width=200")
    done = _limited(folder, f"{prefix}as", wide, *syntax, *listing, "-o", "cell.o", "cell.s")
    messages = [match.groups() for line in done.stderr.splitlines() if (match := _MESSAGE.match(line))]
    told = [(int(number) + first_line - 2, kind, what) for number, kind, what in messages]
    wrong = [one for one in told if one[1] != "Warning"]
    if done.returncode == 0:
        return tuple(f"line {number}: {what}" for number, _, what in told)
    if not wrong:
        hint = "is something repeated without an end, or far too large (.fill, .org, .rept)?"
        raise UserError("the assembler gave up", hint=hint, where=_last_line(done))
    lines = text.splitlines()
    shown = [f"line {number}: {what}\n    {_nth(lines, number - first_line)}" for number, _, what in wrong[:10]]
    number, _, what = wrong[0]
    raise UserError(f"line {number}: {what}", where="\n".join(shown))


def _nth(lines: list[str], index: int) -> str:
    return lines[index].strip() if 0 <= index < len(lines) else ""


def _ld(prefix: str, folder: Path, bits: int, origin: int, lines: tuple[Line, ...]) -> None:
    """Link cell.o for its address; `lines` have offsets instead of addresses, to find what a message is about."""
    (folder / "script").write_text(_SCRIPT.format(origin=origin))
    emulation = "elf_x86_64" if bits == 64 else "elf_i386"
    output = ("--oformat", "binary", "-o", "cell.bin", "cell.o")
    done = _limited(folder, f"{prefix}ld", "-m", emulation, "-T", "script", *output)
    if done.returncode == 0 and (folder / "cell.bin").exists():
        return
    message = _last_line(done)
    match = _UNLINKED.search(message)
    line = Code(b"", 0, bits, lines).line_at(int(match[1], 16)) if match else None
    if match and line:
        hint = "is a label misspelt, or too far away for its place?"
        raise UserError(f"line {line.number}: {match[2]}", where=f"line {line.number}: {line.text}", hint=hint)
    raise UserError(f"the code could not be linked: {message.partition('ld: ')[2] or message}")


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return f"ended by signal {-done.returncode}"
    return (done.stderr.splitlines() or [f"status {done.returncode}"])[-1]


def _limited(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["/bin/sh", "-c", _LIMITED, "sh", *command],
            cwd=folder,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"the assembler was not done after {LIMIT_S:g} s", hint="is something repeated?") from None
