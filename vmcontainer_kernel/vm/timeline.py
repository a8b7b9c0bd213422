"""What a machine's start consists of: from the cell to the first byte, each phase measured at its source.

    notebook's clock   asked, begun, spawn, qmp, restored, agent, exec, output
    console's stamps   kernel, init, root, domains, main, ready: "[    2.202262] vmcontainer: root" (cold starts)

Times are those of this computer's monotonic clock. A line on a guest's console carries the kernel's own time stamp,
so the kernel began when the line came, less its stamp. A line may come late, never early: the earliest beginning that
any line tells is taken. Marks are data, and `document` is a pure function of them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["CALLS", "PHASES", "Mark", "Times", "console_marks", "start"]

QMP, CONSOLE, NOTEBOOK, AGENT = "QMP", "console's time stamps", "notebook's clock", "agent's answer"

_LOAD = "vm/template.py:_load"

PHASES: Final[Mapping[str, tuple[str, str]]] = {
    "begun": ("request: machine described, template found", NOTEBOOK),
    "spawn": ("QEMU's process begun by the supervisor", NOTEBOOK),
    "qmp": ("QEMU makes its devices and answers", QMP),
    "kernel": ("firmware, and the kernel until its clock runs", CONSOLE),
    "init": ("kernel, until its first program", CONSOLE),
    "root": ("RAM disk: modules, root disk, mounts", CONSOLE),
    "domains": ("a hypervisor's tools and second domain start", CONSOLE),
    "main": ("Python starts and loads the agent", CONSOLE),
    "ready": ("agent sets up network and names", CONSOLE),
    "restored": ("template's state loaded", QMP),
    "agent": ("agent answers, with a new identity", AGENT),
    "rehearsed": ("rehearsal, so that caches are warm", AGENT),
    "saved": ("state saved as a template", QMP),
    "exec": ("agent starts the cell's program", AGENT),
    "output": ("the program's first byte arrives", NOTEBOOK),
}
"""Name of the mark that ends a phase → what the phase is, and who measures its end; in the order in which they come."""

CALLS: Final[Mapping[str, tuple[str, str]]] = {
    "begun": ("", "machines.py:Machines._make"),
    "spawn": ("fork(); execve(qemu-system-…)", "agent/cage.py:CageVerbs.spawn"),
    "qmp": ("qmp_capabilities()", "vm/qmp.py:Monitor.connect"),
    "kernel": ("", "vm/qemu.py:kernel"),
    "init": ("execve(/init)", "vm/initrd.py:init_script"),
    "root": ("init_module(); mount(/dev/vda, /lower); mount(overlay, /root)", "vm/initrd.py:init_script"),
    "domains": ("", "vm/xen.py:"),
    "main": ("execve(/sbin/init)", "agent/guest.py:main"),
    "ready": ("sethostname(); ioctl(SIOCSIFFLAGS); open(/dev/virtio-ports/…)", "agent/guest.py:set_up"),
    "restored": ("migrate-set-capabilities(x-ignore-shared); getfd(state); migrate-incoming(fd:state)", _LOAD),
    "agent": ("renew(time, seed, hostname, machine-id, MAC)", "agent/guest.py:GuestVerbs.renew"),
    "rehearsed": ("renew(); exec(/bin/sh, -c, echo ready); settle()", "guests.py:rehearse"),
    "saved": ("getfd(state); migrate(fd:state)", "vm/template.py:_save"),
    "exec": ("posix_spawn(/bin/sh, -c, …)", "agent/spawn.py:start_plain"),
    "output": ("write(1, …)", "run.py:Run.on_data"),
}
"""Name of a phase → its main calls, of the kernel, of QMP or of our agent; and the place in our code."""

_BY: Final[Mapping[str, str]] = {QMP: "machine", CONSOLE: "guest", NOTEBOOK: "notebook", AGENT: "guest"}
_LINE: Final = re.compile(rb"^\[ *(\d{1,6}\.\d{6})\] vmcontainer: (init|root|domains|main|ready)\r*$")


@dataclass(frozen=True)
class Mark:
    """A moment of the monotonic clock, in seconds, at which a phase had ended."""

    name: str
    at_s: float


def console_marks(lines: Sequence[tuple[float, bytes]]) -> list[Mark]:
    """Return what a guest's console tells of its boot; `lines` are its first lines and when they came.

    The guest may write what it likes: each mark counts once, none before the one ahead of it.
    """
    found = [(at_s, match) for at_s, line in lines if (match := _LINE.match(line))]
    if not found:
        return []
    begun_s = min(at_s - float(match[1]) for at_s, match in found)
    stamps: dict[str, float] = {}
    for _, match in found:
        stamps.setdefault(match[2].decode(), float(match[1]))
    marks = [Mark("kernel", begun_s)]
    for name in ("init", "root", "domains", "main", "ready"):
        if begun_s + stamps.get(name, -1.0) >= marks[-1].at_s:
            marks.append(Mark(name, begun_s + stamps[name]))
    return marks


def start(machine: str, way: str, asked_s: float, marks: Sequence[Mark]) -> dict[str, Any]:
    """Return a start (``cold``, ``clone`` or ``spare``) as `timelines.document` takes it; `asked_s`: when it was asked
    for.
    """
    phases, before_s = [], asked_s
    for mark in _in_order([mark for mark in marks if mark.name in PHASES and mark.at_s >= asked_s]):
        text, source = PHASES[mark.name]
        begin_ms, ms = (before_s - asked_s) * 1e3, (mark.at_s - before_s) * 1e3
        told = {"name": mark.name, "text": text, "by": _BY[source], "source": source}
        phases.append({**told, "begin_ms": _ms(begin_ms), "ms": _ms(ms)})
        before_s = mark.at_s
    total_ms = _ms((before_s - asked_s) * 1e3)
    head = {"what": "machine", "name": machine, "node": "host", "way": way}
    return {**head, "total_ms": total_ms, "phases": phases, "earlier": []}


def _in_order(marks: Sequence[Mark]) -> list[Mark]:
    """Return marks as the phases follow each other; one that was noted after its successor ended no later than that."""
    order = [*PHASES]
    ordered: list[Mark] = []
    for mark in sorted(marks, key=lambda mark: order.index(mark.name), reverse=True):
        latest_s = ordered[0].at_s if ordered else mark.at_s
        ordered.insert(0, Mark(mark.name, min(mark.at_s, latest_s)))
    return ordered


def _ms(value: float) -> float:
    return round(value, 3)


class Times:
    """The marks of one start, as it goes on; `earlier` are the starts that had been made before it."""

    def __init__(self, kind: str, asked_s: float | None = None) -> None:
        self.kind = kind
        self.asked_s = time.monotonic() if asked_s is None else asked_s
        self.marks: list[Mark] = []
        self.earlier: list[dict[str, Any]] = []

    def mark(self, name: str) -> None:
        """Note that a phase has ended now; only the first time counts."""
        if all(mark.name != name for mark in self.marks):
            self.marks.append(Mark(name, time.monotonic()))

    def since_s(self, name: str) -> list[tuple[str, float]]:
        """Return (mark, seconds) since another mark."""
        begin_s = next((mark.at_s for mark in self.marks if mark.name == name), self.asked_s)
        return [(mark.name, round(mark.at_s - begin_s, 4)) for mark in self.marks if mark.at_s >= begin_s]

    def document(self, machine: str, console: Sequence[tuple[float, bytes]] = ()) -> dict[str, Any]:
        """Return this start, with the earlier ones in it."""
        told = console_marks(console) if self.kind == "cold" else []
        return start(machine, self.kind, self.asked_s, [*self.marks, *told]) | {"earlier": self.earlier}
