"""The modes of an x86 processor, as values of struct kvm_sregs: 16-bit real, 32-bit protected, 64-bit long. Pure.

There is no firmware here. In real mode every interrupt therefore leads to a HLT of its own (`unhandled` tells which
one it was); in the other modes the table of interrupts is empty, so that the first fault becomes the third: a shutdown.

Numbers are those of Intel's Software Developer's Manual, volume 3: control registers (2.5), segment descriptors
(3.4.5), paging with 2 MiB pages (4.5).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from . import abi

__all__ = ["LONG", "MODES", "PROTECTED", "REAL", "Mode", "unhandled"]

_CR0_PE, _CR0_PG, _CR4_PAE = 1, 1 << 31, 1 << 5
_EFER_LME, _EFER_LMA = 1 << 8, 1 << 10
_PML4, _PDPT, _PD = 0x1000, 0x2000, 0x3000
_PRESENT_WRITABLE, _LARGE = 3, 1 << 7
_SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss")
_HALTS = 0x500  # where the firmware of a PC leaves memory free
_CODE, _DATA = 11, 3  # type of a descriptor: code, readable, accessed; data, writable, accessed


@dataclass(frozen=True)
class Mode:
    """A mode: how it changes the registers, and the tables (address, bytes) it needs in memory."""

    bits: int
    change: Callable[[abi.kvm_sregs], None]
    tables: tuple[tuple[int, bytes], ...] = ()


def _real(sregs: abi.kvm_sregs) -> None:
    """Change what a reset leaves (code in the last 64 KiB of 4 GiB) to what firmware hands over: segments at 0."""
    for name in _SEGMENTS:
        segment = getattr(sregs, name)
        segment.base, segment.selector = 0, 0


def _flat(sregs: abi.kvm_sregs, *, long: bool) -> None:
    """Give every segment the whole address space."""
    for name in _SEGMENTS:
        segment, code = getattr(sregs, name), name == "cs"
        segment.base, segment.limit, segment.selector = 0, 0xFFFFFFFF, 8 if code else 16
        segment.type, segment.present, segment.dpl, segment.s, segment.g = _CODE if code else _DATA, 1, 0, 1, 1
        segment.l, segment.db = int(long and code), int(not (long and code))
    sregs.idt.limit = 0


def _protected(sregs: abi.kvm_sregs) -> None:
    _flat(sregs, long=False)
    sregs.cr0 |= _CR0_PE


def _long(sregs: abi.kvm_sregs) -> None:
    _flat(sregs, long=True)
    sregs.cr0 |= _CR0_PE | _CR0_PG
    sregs.cr3, sregs.cr4, sregs.efer = _PML4, _CR4_PAE, _EFER_LME | _EFER_LMA


def unhandled(address: int) -> int | None:
    """Return the interrupt whose HLT ends just before `address` in real mode, None if there is none."""
    return address - 1 - _HALTS if _HALTS < address <= _HALTS + 256 else None


# 256 vectors of offset and segment (real mode's interrupt table), and 256 times HLT for them to lead to.
REAL: Final = Mode(
    16, _real, ((0, b"".join(struct.pack("<HH", _HALTS + number, 0) for number in range(256))), (_HALTS, b"\xf4" * 256))
)
PROTECTED: Final = Mode(32, _protected)
# Each table's first entry leads to the next one, the last maps the first 2 MiB onto themselves.
LONG: Final = Mode(
    64,
    _long,
    (
        (_PML4, struct.pack("<Q", _PDPT | _PRESENT_WRITABLE)),
        (_PDPT, struct.pack("<Q", _PD | _PRESENT_WRITABLE)),
        (_PD, struct.pack("<Q", _LARGE | _PRESENT_WRITABLE)),
    ),
)
MODES: Final = {mode.bits: mode for mode in (REAL, PROTECTED, LONG)}
