"""QEMU's text for people, as values: the commands ``x-query-…`` and the human monitor's ``info …`` (7.2, 8.2, 10).

Nothing promises their form. Each function takes what it knows and leaves the rest; where nothing is known it raises
ValueError, which `Answers.read` turns into a reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from .asking import Json

__all__ = ["flat_views", "interrupts", "jit", "object_tree", "ram_blocks", "registers", "routes", "text_of"]

LONGEST: Final = 1 << 20
MOST_ROWS: Final = 2000
_UNITS: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def text_of(answer: Any) -> str:
    """Return the text of an answer: itself, or ``{"human-readable-text": …}``; at most 1 MiB."""
    text = answer["human-readable-text"] if isinstance(answer, Mapping) else answer
    if not isinstance(text, str):
        raise ValueError("this is no text")
    return text[:LONGEST]


def _lines(text: str) -> list[str]:
    return text.splitlines()[: 20 * MOST_ROWS]


def _some(found: list[Json]) -> list[Json]:
    if not found:
        raise ValueError("nothing is known in this text")
    return found[:MOST_ROWS]


_JIT: Final = {
    "code_bytes": r"gen code size\s+(\d+)/",
    "code_limit_bytes": r"gen code size\s+\d+/(\d+)",
    "blocks": r"TB count\s+(\d+)",
    "flushes": r"TB flush count\s+(\d+)",
    "invalidations": r"TB invalidate count\s+(\d+)",
}


def jit(answer: Any) -> Json:
    """Read ``x-query-jit``: how much of the guest's code TCG has translated; ``TB``: translation block."""
    text = text_of(answer)
    matches = {name: re.search(pattern, text) for name, pattern in _JIT.items()}
    if not matches["code_bytes"] or not matches["blocks"]:
        raise ValueError("no translated code")
    return {name: int(match[1]) if match else None for name, match in matches.items()}


def ram_blocks(answer: Any) -> list[Json]:
    """Read ``x-query-ramblock``: name, page size, offset, used, total."""
    row = re.compile(r"\s*(\S.*?)\s+(\d+) (B|[KMG]iB)\s+0x([0-9a-f]+)\s+0x([0-9a-f]+)\s+0x([0-9a-f]+)")
    found = []
    for match in filter(None, map(row.match, _lines(text_of(answer)))):
        name, number, unit, _, used, total = match.groups()
        sizes = {"used_bytes": int(used, 16), "total_bytes": int(total, 16)}
        found.append({"name": name, "page_bytes": int(number) * _UNITS[unit], **sizes})
    return _some(found)


def interrupts(answer: Any) -> list[Json]:
    """Read ``x-query-irq``: how often each line of each controller was raised; lines never raised are left out."""
    found, controller = [], ""
    seen = False
    for line in _lines(text_of(answer)):
        if heading := re.match(r"\s*IRQ statistics for (.+?):?\s*$", line):
            controller, seen = heading[1], True
        elif controller and (row := re.match(r"\s*(\d+):\s*(\d+)\s*$", line)):
            found.append({"controller": controller, "line": int(row[1]), "count": int(row[2])})
    if not seen:
        raise ValueError("no interrupt controller")
    return found[:MOST_ROWS]


def routes(answer: Any) -> list[Json]:
    """Read ``info pic``: where each pin of an I/O APIC that is not masked leads to."""
    pin = re.compile(r"\s*pin (\d+)\s+0x[0-9a-f]+ dest=(\w+) vec=(\d+)\s+(\S+) (edge|level)\s+(masked)?")
    rows = [match.groups() for match in filter(None, map(pin.match, _lines(text_of(answer))))]
    if not rows:
        raise ValueError("no I/O APIC")
    return [
        {"pin": int(number), "vector": int(vector), "trigger": trigger, "destination": destination}
        for number, destination, vector, _, trigger, masked in rows
        if not masked
    ][:MOST_ROWS]


def flat_views(answer: Any, wanted: Sequence[str] = ("memory", "I/O")) -> list[Json]:
    """Read ``info mtree -f``: address spaces as a row of ranges that do not overlap; addresses are hexadecimal text."""
    found: list[Json] = []
    names: list[str] = []
    ranges: list[Json] = []
    row = re.compile(r"\s+([0-9a-f]{8,16})-([0-9a-f]{8,16}) \(prio -?\d+, ([^)]*)\): (.*)")
    for line in [*_lines(text_of(answer)), "FlatView"]:
        if line.startswith("FlatView"):
            found += [{"name": name, "ranges": ranges} for name in names if name in wanted and ranges]
            names, ranges = [], []
        elif space := re.match(r' AS "([^"]*)"', line):
            names.append(space[1])
        elif (match := row.match(line)) and len(ranges) < MOST_ROWS:
            ranges.append(_range(*match.groups()))
    return _some(found)


def _range(start: str, end: str, kind: str, name: str) -> Json:
    first, last = int(start, 16), int(end, 16)
    place = {"start": f"0x{first:x}", "end": f"0x{last:x}", "size_bytes": last - first + 1}
    return {**place, "kind": kind, "name": re.sub(r" @[0-9a-f]{16}.*$", "", name).strip()}


def registers(answer: Any) -> list[Json]:
    """Read ``info registers -a``: each virtual CPU's registers by name, as hexadecimal text.

    A segment register has four numbers (selector, base, limit, flags), a table register two; JSON's numbers would
    lose the low bits of 64.
    """
    found: list[Json] = []
    parts = re.split(r"^CPU#(\d+)\s*$", text_of(answer), flags=re.MULTILINE)
    pairs = list(zip(parts[1::2], parts[2::2], strict=False)) or [("0", parts[0])]
    for index, text in pairs[:MOST_ROWS]:
        values = dict(re.findall(r"\b([A-Z][A-Z0-9_]{0,7})\s*= *([0-9a-f]{2,}(?: [0-9a-f]{4,16})*)\b", text))
        if values:
            small = {name: int(value) for name, value in re.findall(r"\b(CPL|HLT|SMM|A20)=(\d)\b", text)}
            flags = re.search(r"RFL=\S+ \[([^\]]*)\]|EFL=\S+ \[([^\]]*)\]|PSTATE=\S+ (\S+ \S+)", text)
            name = next(filter(None, flags.groups()), "") if flags else ""
            ring, halted = small.get("CPL"), small.get("HLT")
            found.append({"index": int(index), "ring": ring, "halted": _truth(halted), "flags": name, "values": values})
    return _some(found)


def _truth(number: int | None) -> bool | None:
    return None if number is None else bool(number)


def object_tree(answer: Any) -> list[Json]:
    """Read ``info qom-tree``: QEMU's objects by path; memory regions and interrupt lines are left out."""
    row = re.compile(r"( *)/(.+) \(([^()]+)\)$")
    found: list[Json] = []
    path: list[str] = []
    for line in _lines(text_of(answer)):
        if match := row.match(line):
            depth = len(match[1]) // 2
            path = [*path[:depth], match[2]]
            if not match[3].endswith("memory-region") and match[3] != "irq":
                found.append({"path": "/" + "/".join(path), "type": match[3]})
    return _some(found)
