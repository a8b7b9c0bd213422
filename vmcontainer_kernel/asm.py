"""``%%asm``: a cell's text assembled, run on a bare virtual CPU, and what came of it as a table.

text ─▶ assembly.assemble ─▶ Code ─▶ kvm.run ─▶ Report ─▶ Program: a row for each exit, with its source line
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from .display import Table
from .errors import HostError
from .messages import say
from .vm.assembly import Code, Line, assemble
from .vm.kvm.client import run
from .vm.kvm.guest import DEADLINE, SEGMENTS, STEPS, Report, Request, Seen

__all__ = ["DEFAULT_MACHINE", "FIRST_LINE", "Program", "changed", "explain", "run_cell"]

DEFAULT_MACHINE = "sector"
WITHOUT_KVM = "%%asm --run qemu boots it as a machine's boot sector, --run none shows the machine code"
FIRST_LINE = 2  # of a cell: the first one is the magic's
SHOWN_EXITS = 50
SHOWN_BYTES = 8
FLAGS = {0: "CF", 2: "PF", 4: "AF", 6: "ZF", 7: "SF", 9: "IF", 10: "DF", 11: "OF"}
_RESUME = 1 << 16  # RF: a string instruction with rep, not yet done
# Intel's Software Developer's Manual, volume 3, 6.3.1
_FAULTS = {0: "divide error", 1: "debug", 3: "breakpoint", 6: "invalid opcode", 12: "stack", 13: "general protection"}
_BEHIND = ("KVM_EXIT_IO", "KVM_EXIT_MMIO", "KVM_EXIT_HLT", "KVM_EXIT_DEBUG")


def run_cell(options: argparse.Namespace, text: str) -> Program:
    """Assemble and run a cell with the options of ``%%asm``. Raises UserError, HostError."""
    code = assemble(text, origin=options.origin, bits=options.bits, first_line=FIRST_LINE)
    if options.run == "none":
        return Program(code)
    request = Request(
        code.data,
        code.origin,
        code.bits,
        options.memory_bytes,
        options.register_values,
        options.steps,
        options.timeout_s,
        options.input.encode(),
    )
    try:
        return Program(code, run(request), stepped=options.steps > 0)
    except HostError as error:
        raise HostError(error.message, hint=f"{error.hint}\n{WITHOUT_KVM}", where=error.where) from None


class Program:
    """A cell's machine code, and if it was run what came of it; shows itself as a table."""

    def __init__(self, code: Code, report: Report | None = None, *, stepped: bool = False) -> None:
        self.code, self.report, self._stepped = code, report, stepped

    @property
    def exits(self) -> list[Seen]:
        """Return the exits in their order; `name`, `data`, the address `before` and `after`, `registers`."""
        return self.report.exits if self.report else []

    @property
    def output(self) -> str:
        """Return what was written to the serial port."""
        return self.report.output.decode(errors="replace") if self.report else ""

    @property
    def end(self) -> str:
        """Return why it ended: the name of the last exit, ``deadline`` or ``steps``."""
        return self.report.end if self.report else ""

    @property
    def registers(self) -> dict[str, int]:
        """Return the registers at the end, by the names of the mode it ran in."""
        last = self.exits[-1].registers if self.exits else {}
        known = {name: value for name, value in last.items() if self.code.bits == 64 or not name[1:].isdigit()}
        return {_name(name, self.code.bits): value for name, value in known.items()}

    def table(self) -> Table:
        """Return the exits, or the listing of what was not run."""
        if self.report is None:
            rows: list[tuple[Any, ...]] = [_listed(self.code, line) for line in self.code.lines]
            return Table(("address", "bytes", "line", "source"), rows, caption=self._told())
        head = ("exit", "name", "what", "line", "source", "registers changed")
        return Table(head, self._rows()[:SHOWN_EXITS], "there was no exit", caption=self._told())

    def _rows(self) -> list[tuple[Any, ...]]:
        rows, before = [], self.report.start if self.report else {}
        for number, seen in enumerate(self.exits, 1):
            line = source_of(seen, self.code, stepped=self._stepped)
            where = (line.number, line.text) if line else ("-", f"at {seen.after:#x}")
            difference = changed(before, seen.registers, self.code.bits)
            rows += [(number, seen.name, explain(seen), *where, difference)]
            before = seen.registers
        return rows

    def _told(self) -> str:
        if self.report is None:
            return f"{len(self.code.data)} bytes for {self.code.origin:#x}, {self.code.bits}-bit"
        count = sum(self.report.counts.values())
        shown = min(len(self.exits), SHOWN_EXITS)
        told = f"{_ends(self.report.end)} after {count} exit{'s' if count != 1 else ''}"
        told += f" (the first {shown} are shown)" if shown < count else ""
        return told + (f"; output: {self.output!r}" if self.output else "")

    def _lines(self) -> list[str]:
        return [say(self._told()), *(f"{say('warning')}: {warning}" for warning in self.code.warnings)]

    def __repr__(self) -> str:
        return "\n".join([repr(self.table()), *self._lines()])

    def _repr_html_(self) -> str:
        from html import escape

        warnings = "".join(f"<p>{escape(line)}</p>" for line in self._lines()[1:])
        return self.table()._repr_html_() + warnings


def _ends(end: str) -> str:
    return {DEADLINE: "stopped, as its time was up,", STEPS: "stopped"}.get(end, f"ended with {end}")


def _listed(code: Code, line: Line) -> tuple[Any, ...]:
    data = code.bytes_of(line)
    shown = data[:SHOWN_BYTES].hex(" ") + (" …" if len(data) > SHOWN_BYTES else "")
    return f"{line.address:#x}", shown, line.number, line.text


def source_of(seen: Seen, code: Code, *, stepped: bool) -> Line | None:
    """Return the line that caused an exit.

    Single steps know where they began. Else the exits of an instruction that is done leave the address behind it; one
    that repeats itself, or that was not done, the address of itself.
    """
    if stepped:
        return code.line_at(seen.before)
    if "came_from" in seen.data:
        return _interrupted(code, seen.data["interrupt"], seen.data["came_from"])
    done = seen.name in _BEHIND and not seen.registers["rflags"] & _RESUME
    return code.line_at(seen.after - 1 if done else seen.after)


def _interrupted(code: Code, interrupt: int, came_from: int) -> Line | None:
    """Return the line that an interrupt came from: INT leaves the address behind itself, a fault that of its cause."""
    behind = code.line_at(came_from - 1)
    if behind and code.bytes_of(behind).endswith((bytes([0xCD, interrupt]), b"\xcc")):
        return behind
    return code.line_at(came_from)


def explain(seen: Seen) -> str:
    """Say in words what an exit's fields mean."""
    words = _WORDS.get(seen.name)
    return words(seen.data) if words else ", ".join(f"{key} {value}" for key, value in seen.data.items())


def _transfer(data: dict[str, Any]) -> str:
    place = data.get("port", data.get("address"))
    arrow = "←" if data["direction"] in ("out", "write") else "→"
    return f"{data['direction']} {place:#x} {arrow} {_bytes(data['bytes'])}"


def _halt(data: dict[str, Any]) -> str:
    if "interrupt" not in data:
        return "waits for an interrupt"
    fault = _FAULTS.get(data["interrupt"])
    return f"interrupt {data['interrupt']:#x}{f' ({fault})' if fault else ''}: nobody handles it"


def _inability(data: dict[str, Any]) -> str:
    if "instruction" not in data:
        return f"KVM gave up: {data['suberror']}"
    return f"this computer's KVM cannot emulate {data['instruction'][:4].hex(' ')} …"


_WORDS: dict[str, Callable[[dict[str, Any]], str]] = {
    "KVM_EXIT_IO": _transfer,
    "KVM_EXIT_MMIO": _transfer,
    "KVM_EXIT_HLT": _halt,
    "KVM_EXIT_DEBUG": lambda data: "one step",
    "KVM_EXIT_INTR": lambda data: "interrupted by the timer",
    "KVM_EXIT_SHUTDOWN": lambda data: "triple fault: a fault, and no handler for it nor for that",
    "KVM_EXIT_INTERNAL_ERROR": _inability,
    "KVM_EXIT_FAIL_ENTRY": lambda data: f"the processor refuses this state: reason {data['hardware_reason']:#x}",
}


def _bytes(data: bytes) -> str:
    shown = data[:SHOWN_BYTES].hex(" ") + (" …" if len(data) > SHOWN_BYTES else "")
    text = data[:SHOWN_BYTES].decode("ascii", "replace")
    return f"{shown} {text!r}" if text.isascii() and text.isprintable() else shown


def _name(register: str, bits: int) -> str:
    if register in SEGMENTS or register[1:].isdigit():
        return register
    if register == "rflags":
        return "flags"
    return register[1:] if bits == 16 else f"e{register[1:]}" if bits == 32 else register


def changed(before: dict[str, int], after: dict[str, int], bits: int) -> str:
    """Return which registers differ, as ``ax=0x5 flags=ZF PF``; the instruction pointer always does and is left out."""
    told = []
    for register, value in after.items():
        if register == "rip" or value == before.get(register, 0):
            continue
        if register == "rflags":
            if (value ^ before.get(register, 0)) & sum(1 << bit for bit in FLAGS):
                told += [f"flags={' '.join(flag for bit, flag in FLAGS.items() if value >> bit & 1) or '-'}"]
            continue
        # In 16-bit code the upper half of a register is used too, now and then.
        width = 32 if bits == 16 and (value | before.get(register, 0)) > 0xFFFF else bits
        told += [f"{_name(register, width)}={value:#x}"]
    return " ".join(told)
