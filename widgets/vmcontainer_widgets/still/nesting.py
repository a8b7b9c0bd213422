"""What is inside of what, standing still: lists in lists, and each process with its PID at every level."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from ..rows import Document, Words, items, part, status_of, visible
from .tables import foreign, indented, table

__all__ = ["nesting_html", "nesting_numbers", "nesting_text"]

_DEEPEST = 12
Box = Mapping[str, Any]


def nesting_text(view: Document, w: Words) -> list[str]:
    """The boxes, without ids and processes, which differ from run to run."""
    return [f"{w['nesting']}:", *(f"{'  ' * (depth + 1)}{_title(box, w)}" for depth, box in _boxes(part(view, "box")))]


def nesting_numbers(view: Document, w: Words) -> list[str]:
    """Each process with its PID at every level."""
    return indented(_rows(view, w))


def nesting_html(view: Document, w: Words) -> list[str]:
    """Boxes as lists in lists, and a table of processes."""
    head = f"<p><strong>{escape(w['nesting'])}</strong></p>"
    columns = [w["box"], w["process"], w["pids_from_outside"]]
    return [head, _list(part(view, "box"), w, 0), table(w["pids_from_outside"], columns, _rows(view, w))]


def _boxes(box: Box, depth: int = 0) -> Iterator[tuple[int, Box]]:
    yield depth, box
    for one in items(box, "boxes") if depth < _DEEPEST else ():
        yield from _boxes(one, depth + 1)


def _kind(box: Box, w: Words) -> str:
    if box.get("kind") == "kernel":
        return str(w["host_kernel" if box.get("id") == "host" else "guest_kernel"])
    return str(w["box_kinds"].get(str(box.get("kind")), visible(box.get("kind"))))


def _title(box: Box, w: Words) -> str:
    return f"{_kind(box, w)} {visible(box.get('name'))}"


def _facts(box: Box, w: Words) -> str:
    pid, facts = box.get("pid"), []
    if box.get("kind") == "kernel":
        facts = [f"Linux {visible(box.get('release'))}", w["boot_id"].format(id=visible(box.get("boot_id")))]
    elif box.get("kind") == "machine":
        facts = [status_of(box, w), w["qemu_pid"].format(pid=visible(pid))]
    elif box.get("kind") == "container":
        facts = [status_of(box, w), w["first_pid"].format(pid=visible(pid))]
    return ", ".join(facts)


def _list(box: Box, w: Words, depth: int) -> str:
    inner = "".join(_list(one, w, depth + 1) for one in items(box, "boxes")) if depth < _DEEPEST else ""
    missing = visible(box.get("missing"))
    why = f" {escape(w['kernel_unknown'].format(why=missing))}" if missing else ""
    return f"<ul><li><strong>{foreign(_title(box, w))}</strong>: {foreign(_facts(box, w))}{why}{inner}</li></ul>"


def _rows(view: Document, w: Words) -> list[list[str]]:
    """The box, the process, and its PIDs from the host inwards."""
    rows = []
    for _, box in _boxes(part(view, "box")):
        for process in items(box, "processes"):
            levels = [(visible(one.get("name")), one.get("pid")) for one in items(process, "levels")]
            pids = " → ".join(f"{name} {w['no_pid'] if pid is None else visible(pid)}" for name, pid in levels)
            rows.append([_title(box, w), visible(process.get("name")), pids])
    return rows
