"""What the KVM of this computer can do, found out by doing it: the rungs up to full speed, and abilities one by one.

A /dev/kvm may open, answer its version and create machines while each instruction is emulated (a nested hypervisor
without VT-x or SVM below it). Then the 64-bit loop takes a thousand times as long, and what KVM's emulator does not
know (arch/x86/kvm/emulate.c), such as floating point, ends in KVM_EXIT_INTERNAL_ERROR.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from . import abi
from .guest import Request, report
from .machine import DEVICE, BareMachine, _ioctl
from .modes import LONG

__all__ = ["ABILITIES", "TURNS", "abilities", "loop_seconds", "rungs"]

# 50 000 turns at about two a nanosecond; emulated they take a thousand times as long.
TURNS: Final = 50_000
_MEMORY_BYTES: Final = 64 << 10
_ORIGIN: Final = 0x7C00
ABILITY_LIMIT_S: Final = 0.5  # each takes 2 ms
T = TypeVar("T")


@dataclass(frozen=True)
class Ability:
    """A few bytes of code, and the exits they lead to where it works."""

    name: str
    bits: int
    code: bytes
    exits: tuple[str, ...]
    steps: int = 0


IO, MMIO, HLT, DEBUG = "KVM_EXIT_IO", "KVM_EXIT_MMIO", "KVM_EXIT_HLT", "KVM_EXIT_DEBUG"
ABILITIES: Final = (
    # out 0x80, al; hlt
    Ability("16-bit real mode", 16, bytes.fromhex("e680 f4"), (IO, HLT)),
    # mov ax, 0xb800; mov ds, ax; mov [0], ax; hlt
    Ability("memory that is not there", 16, bytes.fromhex("b800b8 8ed8 a30000 f4"), (MMIO, HLT)),
    # mov al, 1; nop; hlt
    Ability("single steps", 16, bytes.fromhex("b001 90 f4"), (DEBUG, DEBUG, HLT), steps=9),
    # out 0x80, al; hlt
    Ability("32-bit protected mode", 32, bytes.fromhex("e680 f4"), (IO, HLT)),
    Ability("64-bit long mode", 64, bytes.fromhex("e680 f4"), (IO, HLT)),
    # fld1; fstp st(0); hlt
    Ability("floating point (x87)", 32, bytes.fromhex("d9e8 ddd8 f4"), (HLT,)),
)


def abilities() -> dict[str, str]:
    """Try each of `ABILITIES`: its name, and what happened instead; empty if it works. Raises HostError without KVM."""
    return {ability.name: _shortfall(ability) for ability in ABILITIES}


def _shortfall(ability: Ability) -> str:
    done = report(
        Request(ability.code, _ORIGIN, ability.bits, _MEMORY_BYTES, steps=ability.steps, timeout_s=ABILITY_LIMIT_S)
    )
    names = tuple(seen.name for seen in done.exits)
    return "" if names == ability.exits else f"ended with {done.end}" if names else "nothing happened"


def rungs() -> Iterator[dict[str, Any]]:
    """Climb: yield each rung that was reached, ``{"rung": name, "seconds": what it took}``; raises OSError at the next.

    HostError stands for a machine that could not be made.
    """
    fd, seconds = _timed(lambda: os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    yield {"rung": "open", "seconds": seconds}
    _, seconds = _timed(lambda: _ioctl("KVM_GET_API_VERSION", fd))
    os.close(fd)
    yield {"rung": "version", "seconds": seconds}
    machine, seconds = _timed(lambda: BareMachine(_MEMORY_BYTES))
    machine.close()
    yield {"rung": "machine", "seconds": seconds}
    what, seconds = _timed(lambda: _shortfall(ABILITIES[0]))
    if what:
        raise OSError(f"real-mode code {what}")
    yield {"rung": "real mode", "seconds": seconds}
    yield {"rung": "loop", "seconds": loop_seconds()}


def _timed(call: Callable[[], T]) -> tuple[T, float]:
    begin_s = time.perf_counter()
    value = call()
    return value, round(time.perf_counter() - begin_s, 6)


def loop_seconds() -> float:
    """Run `TURNS` of a 64-bit loop and return the time. Raises HostError, OSError with the exit if it is not HLT."""
    with BareMachine(_MEMORY_BYTES) as machine:
        machine.start(LONG, _ORIGIN)
        # mov ecx, TURNS; again: dec ecx; jnz again; hlt
        machine.write(_ORIGIN, b"\xb9" + struct.pack("<I", TURNS) + b"\xff\xc9\x75\xfc\xf4")
        happened, seconds = _timed(machine.run)
    if happened.reason != abi.KVM_EXIT_HLT:
        raise OSError(f"KVM_RUN ended with {happened.name} instead of {HLT}")
    return seconds
