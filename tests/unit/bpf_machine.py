"""A machine for classic BPF as filters of system calls use it, to compare filters without loading them."""

from __future__ import annotations

import struct
from collections.abc import Sequence

LOAD, AND, JUMP, EQUAL, ABOVE, FROM, SET, RETURN = 0x20, 0x54, 0x05, 0x15, 0x25, 0x35, 0x45, 0x06
TESTS = {
    EQUAL: lambda a, k: a == k,
    ABOVE: lambda a, k: a > k,
    FROM: lambda a, k: a >= k,
    SET: lambda a, k: bool(a & k),
}


def disassemble(code: bytes) -> list[tuple[int, int, int, int]]:
    """Return (code, jt, jf, k) of each instruction, after the checks of the kernel's `bpf_check_classic`."""
    program = list(struct.iter_unpack("=HBBI", code))
    assert 0 < len(program) <= 4096
    for at, (operation, jt, jf, k) in enumerate(program):
        assert operation in {LOAD, AND, JUMP, RETURN, *TESTS}, hex(operation)
        if operation in TESTS:
            assert at + 1 + max(jt, jf) < len(program)
        if operation == JUMP:
            assert at + 1 + k < len(program)
        if operation == LOAD:
            assert k % 4 == 0 and k < 64
    assert program[-1][0] == RETURN
    return program


def run(program: list[tuple[int, int, int, int]], arch: int, number: int, args: Sequence[int] = ()) -> tuple[int, int]:
    """Return the verdict of a filter, and how many instructions it took."""
    data = struct.pack("=IIQ6Q", number, arch, 0, *args, *[0] * (6 - len(args)))
    words = struct.unpack("=16I", data)
    at = steps = value = 0
    while True:
        operation, jt, jf, k = program[at]
        at, steps = at + 1, steps + 1
        if operation == LOAD:
            value = words[k // 4]
        elif operation == AND:
            value &= k
        elif operation == JUMP:
            at += k
        elif operation == RETURN:
            return k, steps
        else:
            at += jt if TESTS[operation](value, k) else jf
