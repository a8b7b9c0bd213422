"""A view document as rows of text: the figures that the HTML and the text of `static` both show.

A document comes from outside, so nothing is taken for granted: a part that is missing or of another type is empty.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = [
    "NAMESPACES",
    "Document",
    "Words",
    "block_rows",
    "container_rows",
    "device_rows",
    "event_rows",
    "first_process",
    "format_bytes",
    "format_seconds",
    "inside",
    "isolation_rows",
    "items",
    "limits",
    "memory_rows",
    "namespace_rows",
    "part",
    "process_rows",
    "size_of",
    "status_of",
    "vcpu_rows",
    "visible",
]

NAMESPACES = ("pid", "mnt", "uts", "ipc", "net", "cgroup", "user", "time")

Words = Mapping[str, Any]
Document = Mapping[str, Any]

# Control characters and bidirectional overrides could hide or reorder what a process is called.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
_TEXT_LIMIT = 300
_ROWS_LIMIT = 40
_EVENTS_LIMIT = 12


def visible(value: object) -> str:
    """A foreign text in one line of at most 300 characters, its control characters written out as ``\\u001b``."""
    text = "" if value is None else str(value)
    cut = text if len(text) <= _TEXT_LIMIT else text[:_TEXT_LIMIT] + "…"
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", cut.replace("\n", " ").replace("\t", " "))


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def format_bytes(value: object) -> str:
    """A size in bytes as people read it, in powers of 1024; a dash for what is not known."""
    size, units = _number(value), ["B", "KiB", "MiB", "GiB", "TiB"]
    if size is None:
        return "—"
    while abs(size) >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.{0 if units[0] == 'B' or size >= 100 else 1}f} {units[0]}"


def format_seconds(value: object) -> str:
    """A time in seconds; a dash for what is not known."""
    seconds = _number(value)
    return "—" if seconds is None else f"{seconds:.2f} s"


def items(document: Document, name: str) -> list[Mapping[str, Any]]:
    """The objects of a list of the document."""
    found = document.get(name)
    return [item for item in found if isinstance(item, Mapping)] if isinstance(found, list) else []


def part(document: Document, name: str) -> Mapping[str, Any]:
    """An object of the document."""
    found = document.get(name)
    return found if isinstance(found, Mapping) else {}


def size_of(document: Document, name: str) -> float:
    """A number of the document; zero for what is not known."""
    return _number(document.get(name)) or 0.0


def _word(w: Words, group: str, term: object, otherwise: str | None = None) -> str:
    """A term in the reader's language, or as it came."""
    return str(w[group].get(str(term), visible(term) if otherwise is None else otherwise))


def status_of(document: Document, w: Words) -> str:
    """The status of a machine or container, in words."""
    return _word(w, "status", document.get("status"))


# A machine


def vcpu_rows(view: Document, w: Words) -> list[list[str]]:
    """Index, host thread, state, CPU time."""
    return [
        [
            visible(vcpu.get("index")),
            visible(vcpu.get("thread_id")),
            _word(w, "states", vcpu.get("state")),
            format_seconds(vcpu.get("cpu_s")),
        ]
        for vcpu in items(view, "vcpus")
    ]


def memory_rows(view: Document, w: Words) -> list[list[str]]:
    """Label, size."""
    labels = {
        "given_bytes": w["memory_given"],
        "guest_used_bytes": w["memory_used"],
        "resident_bytes": w["memory_resident"],
        "private_bytes": w["private"],
        "shared_bytes": w["shared"],
    }
    return [[label, format_bytes(part(view, "memory").get(key))] for key, label in labels.items()]


def device_rows(view: Document) -> list[list[str]]:
    """Address, type, id, description."""
    keys = ("address", "type", "id", "description")
    return [[visible(device.get(key)) for key in keys] for device in items(view, "devices")]


def block_rows(view: Document) -> list[list[str]]:
    """Device, bytes read, bytes written, requests to read and write."""
    return [
        [
            visible(block.get("device")),
            format_bytes(block.get("read_bytes")),
            format_bytes(block.get("written_bytes")),
            f"{visible(block.get('read_operations'))} / {visible(block.get('write_operations'))}",
        ]
        for block in items(view, "blocks")
    ]


def event_rows(view: Document, w: Words) -> list[list[str]]:
    """Name, and what it means with its detail; the newest last."""
    rows = []
    for event in items(view, "events")[-_EVENTS_LIMIT:]:
        meaning = _word(w, "meanings", event.get("name"), otherwise="")
        rows.append([visible(event.get("name")), ": ".join(filter(None, [meaning, visible(event.get("detail"))]))])
    return rows


# A kernel


def limits(container: Mapping[str, Any], w: Words) -> tuple[str, str, str]:
    """The limits of memory, CPU and processes, in words."""
    memory = part(container, "memory").get("limit_bytes")
    cpus = part(container, "cpu").get("limit_cpus")
    pids = part(container, "pids").get("limit")
    none: str = w["no_limit"]
    return (
        none if _number(memory) is None else format_bytes(memory),
        none if _number(cpus) is None else f"{cpus:g} CPU",
        none if _number(pids) is None else f"{pids}",
    )


def container_rows(view: Document, w: Words) -> list[list[str]]:
    """Name, status, and use with its limit of memory, CPU and processes."""
    rows = []
    for container in items(view, "containers"):
        memory = format_bytes(part(container, "memory").get("usage_bytes"))
        cpu = format_seconds(part(container, "cpu").get("usage_s"))
        pids = visible(part(container, "pids").get("current"))
        uses = [f"{use} ({limit})" for use, limit in zip((memory, cpu, pids), limits(container, w), strict=True)]
        rows.append([visible(container.get("name")), status_of(container, w), *uses])
    return rows


def inside(process: Mapping[str, Any]) -> str:
    """A process's ids below the node's own pid namespace, outermost first."""
    pids = process.get("pids")
    return " → ".join(visible(pid) for pid in pids[1:]) if isinstance(pids, list) else ""


def _ours(view: Document) -> list[Mapping[str, Any]]:
    return [p for p in items(view, "processes") if p.get("role") != "process" or p.get("container")]


def process_rows(view: Document) -> list[list[str]]:
    """PID on the node, PIDs inside, container, command, CPU time, resident memory."""
    return [
        [
            visible(process.get("pid")),
            inside(process),
            visible(process.get("container")),
            visible(process.get("command")),
            format_seconds(process.get("cpu_s")),
            format_bytes(process.get("rss_bytes")),
        ]
        for process in _ours(view)[:_ROWS_LIMIT]
    ]


def first_process(view: Document) -> Mapping[str, Any]:
    """The node's init; for a user who may not read its namespaces, the first process outside containers."""
    own = [p for p in items(view, "processes") if not p.get("container") and any(part(p, "namespaces").values())]
    return next((p for p in own if p.get("role") == "init"), own[0] if own else {})


def namespace_rows(view: Document) -> list[list[str]]:
    """One row for each set of namespaces: who, then letter and inode id; a letter says in which row it came first."""
    groups: dict[tuple[object, ...], Mapping[str, Any]] = {}
    for process in [first_process(view), *_ours(view)]:
        ids = part(process, "namespaces")
        if ids:
            groups.setdefault((process.get("container"), *(ids.get(name) for name in NAMESPACES)), process)
    owners: dict[tuple[int, object], str] = {}
    rows = []
    for row, (key, process) in enumerate(list(groups.items())[:_ROWS_LIMIT]):
        letters = [owners.setdefault((column, inode), _letter(row)) for column, inode in enumerate(key[1:])]
        cells = ["—" if inode is None else f"{letters[i]} {visible(inode)}" for i, inode in enumerate(key[1:])]
        rows.append([visible(process.get("container") or process.get("comm")), *cells])
    return rows


def isolation_rows(view: Document, w: Words) -> list[list[str]]:
    """Who, user ids, capabilities held and possible, filter, and how many system calls it leaves open."""
    rows = []
    for one in items(view, "isolation")[:_ROWS_LIMIT]:
        maps = [w["id_map"].format(**_shown(row, "inside", "outside", "count")) for row in items(one, "uid_map")]
        held, bound = (len(_list(part(one, "capabilities"), kind)) for kind in ("effective", "bounding"))
        calls = part(one, "filter")
        rows.append(
            [
                visible(one.get("name")),
                ", ".join(maps),
                f"{held} / {bound}",
                _word(w, "seccomp", one.get("seccomp")),
                w["filter_numbers"].format(**_shown(calls, "open", "known", "conditional", "closed")) if calls else "",
            ]
        )
    return rows


def _list(document: Document, name: str) -> list[Any]:
    found = document.get(name)
    return found if isinstance(found, list) else []


def _shown(document: Document, *names: str) -> dict[str, str]:
    return {name: visible(document.get(name)) for name in names}


def _letter(index: int) -> str:
    return (_letter(index // 26 - 1) if index >= 26 else "") + chr(65 + index % 26)
