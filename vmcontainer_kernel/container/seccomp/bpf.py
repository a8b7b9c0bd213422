"""Classic BPF, the machine that runs a filter of system calls in the kernel (linux/filter.h, seccomp(2)).

It has one register we use, forward jumps only, and ends with `ret`. What a filter can read is `struct seccomp_data`:

    offset 0   the call's number        (u32)
           4   the architecture         (u32, AUDIT_ARCH_*)
           8   the instruction pointer  (u64)
          16   six arguments            (u64 each)

A jump says how far in 8 bits for each of its two ways. As all jumps go forward, `Program` writes the program from its
end: then every place to jump to has been written before, its distance is known, and two equal pieces become one.
"""

from __future__ import annotations

import struct

__all__ = ["ARCH", "ARGUMENTS", "MOST_INSTRUCTIONS", "NUMBER", "Program"]

NUMBER, ARCH, ARGUMENTS = 0, 4, 16

MOST_INSTRUCTIONS = 4096
"""BPF_MAXINSNS (linux/bpf_common.h)."""

# linux/bpf_common.h: class | size or operation | mode or source
_LD_W_ABS = 0x00 | 0x00 | 0x20
_ALU_AND_K = 0x04 | 0x50
_JMP_JA = 0x05
_JMP_JEQ_K = 0x05 | 0x10
_JMP_JGT_K = 0x05 | 0x20
_JMP_JGE_K = 0x05 | 0x30
_RET_K = 0x06

_FARTHEST = 255


class Program:
    """A program written from its end to its beginning.

    Each method writes one instruction before all others and returns its place: how many instructions there are from
    there to the end. Equal instructions with equal ways on are written once.
    """

    def __init__(self) -> None:
        self._code: list[tuple[int, int, int, int]] = []  # last instruction first: (code, jt, jf, k)
        self._known: dict[tuple[int, ...], int] = {}

    def ret(self, verdict: int) -> int:
        """End with `verdict` (SECCOMP_RET_*)."""
        return self._once(_RET_K, verdict)

    def load(self, offset: int, then: int) -> int:
        """Load the 32 bits at `offset` of struct seccomp_data."""
        return self._plain(_LD_W_ABS, offset, then)

    def mask(self, bits: int, then: int) -> int:
        """Keep only `bits` of what was loaded."""
        return self._plain(_ALU_AND_K, bits, then)

    def if_equal(self, value: int, yes: int, no: int) -> int:
        """Go on at `yes` if what was loaded is `value`, else at `no`."""
        return self._branch(_JMP_JEQ_K, value, yes, no)

    def if_above(self, value: int, yes: int, no: int) -> int:
        """Go on at `yes` if what was loaded is greater than `value`, unsigned."""
        return self._branch(_JMP_JGT_K, value, yes, no)

    def if_from(self, value: int, yes: int, no: int) -> int:
        """Go on at `yes` if what was loaded is `value` or greater, unsigned."""
        return self._branch(_JMP_JGE_K, value, yes, no)

    def to_bytes(self, start: int) -> bytes:
        """Return the program as an array of struct sock_filter, beginning at the place `start`."""
        self._next_to(start, 0)
        return b"".join(struct.pack("=HBBI", *one) for one in reversed(self._code))

    def _write(self, code: int, k: int, jt: int = 0, jf: int = 0) -> int:
        self._code.append((code, jt, jf, k))
        return len(self._code)

    def _once(self, code: int, k: int, *ways: int) -> int:
        key = (code, k, *ways)
        if key not in self._known:
            self._known[key] = self._write(code, k)
        return self._known[key]

    def _plain(self, code: int, k: int, then: int) -> int:
        """Write an instruction that is followed by `then`; there is no way to jump from it."""
        key = (code, k, then)
        if key not in self._known:
            self._next_to(then, 0)
            self._known[key] = self._write(code, k)
        return self._known[key]

    def _branch(self, code: int, k: int, yes: int, no: int) -> int:
        if yes == no:
            return yes
        key = (code, k, yes, no)
        if key not in self._known:
            # Bringing one within reach may push the other out of it: by one instruction, so a margin of one is enough.
            no = self._next_to(no, _FARTHEST - 1)
            yes = self._next_to(yes, _FARTHEST)
            here = len(self._code)
            self._known[key] = self._write(code, k, here - yes, here - no)
        return self._known[key]

    def _next_to(self, place: int, reach: int) -> int:
        """Return `place`, or a stand-in for it that is at most `reach` instructions ahead of what is written next."""
        distance = len(self._code) - place
        if distance <= reach:
            return place
        code, _, _, k = self._code[place - 1]
        # A copy of a return is as good as a jump to it, and one instruction less to run.
        stand_in = self._write(_RET_K, k) if code == _RET_K else self._write(_JMP_JA, distance)
        if code == _RET_K:
            self._known[(_RET_K, k)] = stand_in
        return stand_in
