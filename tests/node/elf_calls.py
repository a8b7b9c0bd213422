"""A program that makes given system calls and nothing else, written byte by byte: no C library, no compiler."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

BASE = 0x400000
HEADERS_BYTES = 64 + 56
# mov r64, imm64 into rax (the number), rdi, rsi, rdx, r10, r8, r9 (the arguments)
MOVES = (b"\x48\xb8", b"\x48\xbf", b"\x48\xbe", b"\x48\xba", b"\x49\xba", b"\x49\xb8", b"\x49\xb9")
SYSCALL, PUSH_RAX, RSI_IS_RSP = b"\x0f\x05", b"\x50", b"\x48\x89\xe6"
WRITE, EXIT = 1, 60


def _call(number: int, *arguments: int) -> bytes:
    words = (number, *arguments)
    return b"".join(move + struct.pack("<Q", word % 2**64) for move, word in zip(MOVES, words, strict=False)) + SYSCALL


def write_program(path: Path, calls: Sequence[Sequence[int]]) -> None:
    """Write a program for x86-64 that makes the calls, then writes their results to its standard output."""
    code = b"".join(_call(*call, *[0] * (7 - len(call))) + PUSH_RAX for call in calls)
    # write(1, rsp, …): its second argument is set last, from the stack pointer
    code += _call(WRITE, 1, 0, 8 * len(calls))[: -len(SYSCALL)] + RSI_IS_RSP + SYSCALL + _call(EXIT, 0)
    size = HEADERS_BYTES + len(code)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = ident + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, BASE + HEADERS_BYTES, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, BASE, BASE, size, size, 0x1000)
    path.write_bytes(header + segment + code)
    path.chmod(0o755)


def results(data: bytes) -> list[int]:
    """Return what the calls returned, in their order; a failure is -errno."""
    return [value for (value,) in struct.iter_unpack("<q", data)][::-1]
