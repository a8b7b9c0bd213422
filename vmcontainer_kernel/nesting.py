"""What is inside of what: host, machines, their kernels, containers, processes, as boxes in boxes. A pure function.

    kernel view of the host ─┐
    hypervisor views ────────┼─▶ nesting(): boxes with ids, and for each process its PID at every level
    kernel views of guests ──┘

A process has a PID in its own pid namespace and in all that are around it (pid_namespaces(7)), up to its kernel's. It
has none in the kernel around that: the host runs QEMU, and of a guest's processes it knows nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

__all__ = ["nesting"]

Json = dict[str, Any]
_MOST: Final = 60
_NAMESPACES: Final = ("pid", "mnt", "uts", "ipc", "net", "cgroup", "user", "time")


def nesting(host: Json, machines: Mapping[str, Json], guests: Mapping[str, Json | str]) -> Json:
    """Return the nesting view (docs/architecture.md, "Views").

    `host` and `guests`: kernel views, a guest's by its machine's name, or why there is none; `machines`: of hypervisor
    views ``status``, ``qemu`` and ``vcpus``. What a guest says is believed of that guest only, and bounded.
    """
    box = _kernel("host", "host", host, [])
    box["boxes"] = [
        *(_machine(name, view, guests.get(name, "")) for name, view in sorted(machines.items())),
        *box["boxes"],
    ]
    return {"kind": "nesting", "version": 1, "time_s": host.get("time_s"), "box": box, "units": {}}


def _machine(name: str, view: Json, guest: Json | str) -> Json:
    place = f"machine:{name}"
    qemu = _part(view, "qemu")
    threads = [
        {"index": _number(one.get("index")), "thread_id": _number(one.get("thread_id"))} for one in _rows(view, "vcpus")
    ]
    around = [_level("host", "host", None, "machine", qemu=_number(qemu.get("pid")))]
    inside = [] if isinstance(guest, str) else [_kernel(f"kernel:{name}", name, guest, around)]
    return {
        "id": place,
        "kind": "machine",
        "name": name,
        "status": str(view.get("status", "")),
        "pid": _number(qemu.get("pid")),
        "threads": threads,
        "boxes": inside,
        "processes": [],
        "processes_total": 0,
        "missing": guest if isinstance(guest, str) else "",
    }


def _kernel(place: str, name: str, view: Json, around: list[Json]) -> Json:
    kernel, processes = _part(view, "kernel"), _rows(view, "processes")
    first = next((one for one in processes if one.get("role") == "agent"), {})
    shared = _part(first, "namespaces").get("pid")
    containers = [
        _container(place, name, one, processes, around, shared)
        for one in _rows(view, "containers")
        if one.get("status") in ("running", "paused")
    ]
    own = [one for one in processes if not one.get("container") and one.get("role") != "machine"]
    levels = [(one, [*around, _level(place, name, _number(one.get("pid")))]) for one in own]
    return {
        "id": place,
        "kind": "kernel",
        "name": name,
        "release": _text(kernel.get("release")),
        "boot_id": _text(kernel.get("boot_id")),
        "boxes": containers,
        "processes": [_process(one, way) for one, way in levels[:_MOST]],
        "processes_total": len(own),
    }


def _container(place: str, node: str, one: Json, processes: list[Json], around: list[Json], shared: object) -> Json:
    name, pid = _text(one.get("name")), _number(one.get("pid"))
    own = [process for process in processes if process.get("container") == one.get("name")]
    first = _part(next((process for process in own if process.get("pid") == pid), {}), "namespaces")
    within = f"{place}/{name}"
    levels = [(process, [*around, *_levels(process, place, node, within, name, shared)]) for process in own]
    return {
        "id": within,
        "kind": "container",
        "name": name,
        "status": _text(one.get("status")),
        "pid": pid,
        "image": _text(one.get("image")),
        "namespaces": {kind: _number(first.get(kind)) for kind in _NAMESPACES},
        "boxes": [],
        "processes": [_process(process, way) for process, way in levels[:_MOST]],
        "processes_total": len(own),
    }


def _levels(process: Json, place: str, node: str, within: str, name: str, shared: object) -> Iterator[Json]:
    """Yield the levels from a process's kernel inwards; in a shared pid namespace both have one number."""
    outer, *inner = [_number(pid) for pid in process.get("pids") or [process.get("pid")]][:8]
    yield _level(place, node, outer)
    if not inner and _part(process, "namespaces").get("pid") == shared:
        yield _level(within, name, outer, "shared")
    elif not inner:
        yield _level(within, name, None, "unknown")
    for depth, pid in enumerate(inner):
        yield _level(within, name, pid, "deeper" if depth else "")


def _level(place: str, name: str, pid: int | None, why: str = "", **more: int | None) -> Json:
    """Return one level: the id of its box, a name, the PID there or none; `why`: machine, shared, deeper, unknown."""
    return {"box": place, "name": name, "pid": pid, "why": why, **more}


def _process(process: Json, levels: list[Json]) -> Json:
    return {
        "id": "/".join(str(one["pid"]) for one in levels),
        "name": _text(process.get("comm")),
        "command": _text(process.get("command")),
        "role": _text(process.get("role")),
        "levels": levels,
    }


def _rows(view: Json, name: str) -> list[Json]:
    found = view.get(name)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _part(view: Json, name: str) -> Json:
    found = view.get(name)
    return found if isinstance(found, dict) else {}


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: object) -> str:
    return str("" if value is None else value)[:200]
