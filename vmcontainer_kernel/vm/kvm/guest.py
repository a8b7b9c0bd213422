"""Run a piece of machine code on a machine of its own and write down every exit: a request in, a report out.

    request ─▶ BareMachine ─▶ run ─▶ exit ─▶ answer, settle ─▶ Seen ─┐
                               ▲                                     │ until HLT, a failure, the last step, the deadline
                               └─────────────────────────────────────┘

The one device is a serial port, as far as a lesson needs it: what is written to port 0x3f8 is output, what is read
from it is input. From any other port or address without memory all bits are read as 1, as on a bus with nobody there.
A timer's signal ends KVM_RUN at the deadline, so this must be a process's main thread: `python -m` this package's name.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from ...errors import UserError
from . import abi
from .exits import Exit
from .machine import PAGE, BareMachine
from .modes import MODES, Mode, unhandled

__all__ = [
    "DEADLINE",
    "KEPT_EXITS",
    "SEGMENTS",
    "STEPS",
    "Report",
    "Request",
    "Seen",
    "Serial",
    "observe",
    "report",
    "to_json",
    "unpacked",
]

SERIAL, LINE_STATUS = 0x3F8, 0x3FD
READY, WAITING = 0x60, 0x01  # of a 16550's line status: all is sent; something can be read
KEPT_EXITS: Final = 1000
KEPT_OUTPUT_BYTES: Final = 64 << 10
TICK_S: Final = 0.05
HLT: Final = 0xF4
DEADLINE, STEPS = "deadline", "steps"
_GOING_ON: Final = (abi.KVM_EXIT_IO, abi.KVM_EXIT_MMIO, abi.KVM_EXIT_DEBUG)
_PENDING: Final = (abi.KVM_EXIT_IO, abi.KVM_EXIT_MMIO)
_SETTLED: Final = (abi.KVM_EXIT_INTR, abi.KVM_EXIT_DEBUG)
SEGMENTS: Final = ("cs", "ds", "es", "ss")


@dataclass(frozen=True)
class Request:
    """What to run: `registers` by their names in struct kvm_regs, `steps` 0 for a run without stopping."""

    code: bytes
    origin: int = 0x7C00
    bits: int = 16
    memory_bytes: int = 640 << 10
    registers: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    timeout_s: float = 2.0
    input: bytes = b""


@dataclass(frozen=True)
class Seen:
    """An exit: linear addresses of the next instruction `before` and `after` it, and the registers after it."""

    name: str
    data: dict[str, Any]
    before: int
    after: int
    registers: dict[str, int]


@dataclass(frozen=True)
class Report:
    """What came of it: the registers it began with, the first `KEPT_EXITS` exits, how many of each kind there were, and
    why it ended: a name of an exit, `DEADLINE` or `STEPS`.
    """

    end: str
    start: dict[str, int]
    exits: list[Seen]
    counts: dict[str, int]
    output: bytes
    seconds: float


class Deadline:
    """A timer whose signal makes a running KVM_RUN return, and any later one at once.

    It comes again and again: the first one might fall just before KVM_RUN, which would then not notice.
    """

    def __init__(self, timeout_s: float, stop: Callable[[], None]) -> None:
        self.passed = False
        self._stop = stop
        signal.signal(signal.SIGALRM, self._ring)
        signal.setitimer(signal.ITIMER_REAL, timeout_s, TICK_S)

    def _ring(self, number: int, frame: object) -> None:
        self.passed = True
        self._stop()

    def cancel(self) -> None:
        """Let nothing ring any more."""
        signal.setitimer(signal.ITIMER_REAL, 0)


class Serial:
    """The serial port: what was written to it, and what is still to be read."""

    def __init__(self, waiting: bytes) -> None:
        self.output, self._waiting = bytearray(), waiting

    def serve(self, happened: Exit) -> bytes:
        """Take what a port was given; return what is read from it (empty for an output)."""
        port, data = happened.data.get("port"), happened.data["bytes"]
        if happened.data["direction"] in ("out", "write"):
            if port == SERIAL:
                self.output += data[: KEPT_OUTPUT_BYTES - len(self.output)]
            return b""
        return self._read(port, len(data)).ljust(len(data), b"\xff")

    def _read(self, port: int | None, count: int) -> bytes:
        if port == LINE_STATUS:
            return bytes([READY | (WAITING if self._waiting else 0)])
        if port != SERIAL:
            return b""
        read, self._waiting = self._waiting[:count], self._waiting[count:]
        return read.ljust(count, b"\0")


def report(request: Request) -> Report:
    """Run the code until it ends. Raises HostError without KVM, UserError for what does not fit into memory."""
    mode = MODES[request.bits]
    serial, begin_s = Serial(request.input), time.monotonic()
    exits: list[Seen] = []
    counts: Counter[str] = Counter()
    with _prepared(request, mode) as machine:
        deadline = Deadline(request.timeout_s, lambda: setattr(machine.state, "immediate_exit", 1))
        start, end = _registers(machine), ""
        for seen in observe(machine, serial.serve, stepping=request.steps > 0):
            counts[seen.name] += 1
            exits += [seen] if len(exits) < KEPT_EXITS else []
            end = _end(seen, counts.total(), request.steps) or (DEADLINE if deadline.passed else "")
            if end:
                break
        deadline.cancel()
    return Report(end, start, exits, dict(counts), bytes(serial.output), round(time.monotonic() - begin_s, 6))


def _end(seen: Seen, number: int, steps: int) -> str:
    if seen.name == abi.EXIT_NAMES[abi.KVM_EXIT_INTR]:
        return DEADLINE
    if seen.name not in [abi.EXIT_NAMES[reason] for reason in _GOING_ON]:
        return seen.name
    return STEPS if steps and number >= steps else ""


def _prepared(request: Request, mode: Mode) -> BareMachine:
    memory_bytes = -(-request.memory_bytes // PAGE) * PAGE
    end = request.origin + len(request.code)
    if not 0 <= request.origin < end <= memory_bytes:
        where = f"{request.origin:#x} to {end:#x}, memory is 0 to {memory_bytes:#x}"
        raise UserError(f"the code of {len(request.code)} bytes does not fit into memory", where=where)
    for start, data in mode.tables:
        if request.origin < start + len(data) and start < end:
            taken = f"{start:#x} to {start + len(data):#x} is needed for the processor's tables in {mode.bits}-bit mode"
            raise UserError(f"the code cannot be at {request.origin:#x}: {taken}", hint="give another --origin")
    machine = BareMachine(memory_bytes)
    machine.start(mode, request.origin)
    machine.write(request.origin, request.code)
    machine.set_registers(**request.registers)
    return machine


def observe(machine: BareMachine, serve: Callable[[Exit], bytes], *, stepping: bool) -> Iterator[Seen]:
    """Yield exit after exit, for ever; `serve` gives the value of each read.

    A single step over HLT is left to KVM_EXIT_HLT: some hosts would report it as KVM_EXIT_DEBUG and go on behind it.
    """
    while True:
        before = _next_instruction(machine)
        if stepping:
            machine.single_step(on=machine.memory[before : before + 1] != bytes([HLT]))
        happened = machine.run()
        while happened.reason in _PENDING:
            value = serve(happened)
            machine.answer(value)
            settled = machine.settle()
            data = {**happened.data, "bytes": value} if value else happened.data
            yield _seen(machine, Exit(happened.reason, data), before)
            happened = settled
            if settled.reason in _SETTLED:
                break
        else:
            yield _seen(machine, happened, before)


def _seen(machine: BareMachine, happened: Exit, before: int) -> Seen:
    after = _next_instruction(machine)
    interrupt = None
    if happened.reason == abi.KVM_EXIT_HLT and not machine.sregs().cr0 & 1:
        interrupt = unhandled(after)
    data = happened.data if interrupt is None else {"interrupt": interrupt, "came_from": _came_from(machine)}
    return Seen(happened.name, data, before, after, _registers(machine))


def _registers(machine: BareMachine) -> dict[str, int]:
    regs, sregs = machine.regs(), machine.sregs()
    general = {name: int(getattr(regs, name)) for name, *_ in regs._fields_}
    return general | {name: int(getattr(sregs, name).selector) for name in SEGMENTS}


def _came_from(machine: BareMachine) -> int:
    """Return the address that a real-mode interrupt left on the stack: offset, segment, flags."""
    stack = machine.sregs().ss.base + (machine.regs().rsp & 0xFFFF)
    pushed = machine.memory[stack : stack + 4].ljust(4, b"\0")
    return (int.from_bytes(pushed[2:4], "little") << 4) + int.from_bytes(pushed[:2], "little")


def _next_instruction(machine: BareMachine) -> int:
    return int(machine.sregs().cs.base + machine.regs().rip)


def to_json(value: Request | Report) -> dict[str, Any]:
    """Return a request or a report for the wire: bytes become ``{"hex": …}``."""
    found: dict[str, Any] = _packed(asdict(value))
    return found


def _packed(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, dict):
        return {key: _packed(one) for key, one in value.items()}
    return [_packed(one) for one in value] if isinstance(value, list | tuple) else value


def unpacked(value: Any) -> Any:
    """Undo `to_json`'s change of bytes, in the whole document."""
    if isinstance(value, dict):
        if value.keys() == {"hex"}:
            return bytes.fromhex(value["hex"])
        return {key: unpacked(one) for key, one in value.items()}
    return [unpacked(one) for one in value] if isinstance(value, list) else value
