"""``%vm inspect NAME [PART]``: what the hypervisor knows of a machine, as a document, or a part of it as a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from ..display import Table, size_text
from ..errors import UserError
from ..inside import ask_inside
from ..session import Session
from .words import NAME, Argument, Words, nearest, word

__all__ = ["ARGUMENTS", "TABLES", "inspect"]

Json = dict[str, Any]
_PARTS: Final = ("registers", "memory", "devices", "queues", "interrupts")


def inspect(session: Session, words: Words, language: str) -> Any:
    """Return the whole document, or a table of one part."""
    if not words.part:
        return session.wait(_document(session, words.name, _PARTS))
    table = nearest(TABLES, words.part, "%vm inspect NAME")
    parts = [words.part] if words.part in _PARTS else []
    return table(session.wait(_document(session, words.name, parts)))


async def _document(session: Session, name: str, parts: Sequence[str]) -> Json:
    """Return the view with these parts; those that have a side in the guest with that too."""
    from ..vm.observe.parts import Inside

    guest = session.machines.guest(name)
    found = [await ask_inside(guest, part) for part in ("devices", "interrupts") if part in parts]
    pci = next((one.pci for one in found if one.pci is not None), None)
    interrupts = next((one.interrupts for one in found if one.interrupts is not None), None)
    reason = next((one.reason for one in found if one.pci is None and one.interrupts is None), "")
    view = await guest.machine.observer.view(parts, Inside(pci, interrupts, reason))
    units = {**view["units"], "snapshots[].size_bytes": ["bytes", "level"]}
    return view | {"snapshot": guest.snapshot or None, "snapshots": _snapshots(name), "units": units}


def _snapshots(name: str) -> list[Json]:
    """Return the snapshots that were made of a machine, oldest first."""
    from ..vm.state.shelf import Shelf

    made = [one for one in Shelf().snapshots() if one.title.partition(":")[0] == name]
    return [{"name": one.title, "of": one.parent, "made_s": one.made_s, "size_bytes": one.size_bytes} for one in made]


def _part(document: Json, part: str) -> Json:
    """Return a part; raises UserError for a machine that is gone, and for a part of which nothing is known."""
    if "parts" not in document:
        raise UserError(f"machine {document['machine']} has ended", hint="%vm inspect NAME says why")
    found: Json = document["parts"][part]
    missing = found.get("missing", {})
    if all(value is None for name, value in found.items() if name not in ("units", "missing")):
        reason = "; ".join(missing.values())
        raise UserError(f"{part} of {document['machine']}: not available, because {reason}")
    return found


def _registers(document: Json) -> Table:
    cpus = _part(document, "registers")["vcpus"]
    names = list(dict.fromkeys(name for cpu in cpus for name in cpu["values"]))
    state = [
        ("state", *("halted" if cpu["halted"] else "-" if cpu["halted"] is None else "runs" for cpu in cpus)),
        ("ring", *(cpu["ring"] for cpu in cpus)),
        ("flags", *(cpu["flags"] for cpu in cpus)),
    ]
    rows = [(name, *(cpu["values"].get(name) for cpu in cpus)) for name in names]
    return Table(("register", *(f"vCPU {cpu['index']}" for cpu in cpus)), [*state, *rows])


def _memory(document: Json) -> Table:
    found = _part(document, "memory")
    ram, rows = found["ram"], list[tuple[Any, ...]]()
    if ram:
        names = {
            "mapped_bytes": "the guest's memory, a mapping of QEMU",
            "resident_bytes": "of it in the host's memory",
            "template_bytes": "of that read from the template's file",
            "copied_bytes": "of that written, so copied for this machine",
            "proportional_bytes": "its share, where others use the same pages (PSS)",
        }
        rows += [("host", what, "", size_text(ram[name])) for name, what in names.items() if ram[name] is not None]
    rows += [("RAM block", one["name"], "", size_text(one["total_bytes"])) for one in found["blocks"] or ()]
    for space in found["spaces"] or ():
        rows += [
            (f"guest {space['name']}", f"{one['name']} ({one['kind']})", one["start"], size_text(one["size_bytes"]))
            for one in space["ranges"]
            if space["name"] == "memory"
        ]
    return Table(("seen by", "what", "from", "size"), [*rows, *_why(found)])


def _why(found: Json) -> list[tuple[Any, ...]]:
    """Return rows that say what is not available, and why."""
    return [(place, f"not available: {reason}", "", "") for place, reason in found.get("missing", {}).items()]


def _devices(document: Json) -> Table:
    found = _part(document, "devices")
    rows = [
        (one["address"], one["id"], f"{one['vendor']}:{one['device']}", one["class"], _driver(one["guest"]))
        for one in found["pci"] or ()
    ]
    on_pci = {one["id"] for one in found["pci"] or ()}
    others = [one for one in document["devices"] if one["id"] not in on_pci]
    rows += [("-", one["id"], one["type"], one["description"], "-") for one in others]
    rows += [(*why, "") for why in _why(found)]
    return Table(("address", "device", "type", "what it is", "the guest's driver"), rows)


def _driver(seen: Json | None) -> str:
    return "not found" if seen is None else seen.get("driver") or "none"


def _queues(document: Json) -> Table:
    names = ("size", "offered", "taken", "used", "in_use")
    rows: list[tuple[Any, ...]] = []
    for device in _part(document, "queues")["devices"]:
        state = (device["driver"] or ["no driver"])[-1]
        for queue in device["queues"]:
            shown = [queue.get(name) if queue.get("ready") else "-" for name in names]
            rows.append((device["device"], device["kind"], state, queue["queue"], *shown))
    head = ("device", "kind", "driver", "queue", "size", "offered", "taken", "used", "in use")
    return Table(head, rows, "no virtio devices")


def _interrupts(document: Json) -> Table:
    found = _part(document, "interrupts")
    rows = [("QEMU", f"{one['controller']} {one['line']}", one["count"], "raised") for one in found["lines"] or ()]
    rows += [
        ("QEMU", f"ioapic pin {one['pin']}", None, f"leads to vector {one['vector']}, {one['trigger']}")
        for one in found["routes"] or ()
    ]
    rows += [("guest", one["line"], one["count"], one["what"]) for one in found["guest"] or ()]
    return Table(("counted by", "line", "count", "what"), [*rows, *_why(found)])


def _jit(document: Json) -> Table:
    translation, exits = document["translation"], document["exits"]
    rows: list[tuple[Any, ...]] = []
    if translation:
        rows = [
            ("translated code", size_text(translation["code_bytes"])),
            ("room for it", size_text(translation["code_limit_bytes"])),
            ("translation blocks", translation["blocks"]),
            ("thrown away, all at once", translation["flushes"]),
            ("thrown away, as the guest changed its code", translation["invalidations"]),
        ]
    rows += [(one["name"], one["count"]) for one in exits or ()]
    missing = document.get("missing", {})
    rows += [(name, f"not available: {missing[name]}") for name in ("translation", "exits") if name in missing]
    return Table(("how the guest's code runs", document["accelerator"]["name"]), rows)


TABLES: Final[dict[str, Callable[[Json], Table]]] = {
    "registers": _registers,
    "memory": _memory,
    "devices": _devices,
    "queues": _queues,
    "interrupts": _interrupts,
    "jit": _jit,
}
ARGUMENTS: Final[tuple[Argument, ...]] = (NAME, word("part", f"a table of one part: {' '.join(TABLES)}", needed=False))
