"""The dear parts of the view, asked for by name: which questions each needs, and what becomes of the answers.

| part | what is in it |
|---|---|
| registers | each virtual CPU's |
| memory | the guest's address spaces, QEMU's blocks of RAM, and what a clone shares with its template |
| devices | QEMU's objects, and its PCI functions beside those that the guest found |
| queues | where driver and device are in each virtqueue |
| interrupts | how often each line was raised, where the I/O APIC sends it, and what the guest counted |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from . import texts
from .asking import Answers, Json, Question, hmp, plain
from .devices import pci_list
from .document import Facts, queue_name
from .proc import ram_document

__all__ = ["PARTS", "UNITS", "Inside", "device_of", "part_document", "questions", "queue_questions"]

PARTS: Final = ("registers", "memory", "devices", "queues", "interrupts")

UNITS: Final[dict[str, dict[str, list[str]]]] = {
    "registers": {},
    "memory": {
        "summary.base_bytes": ["bytes", "level"],
        "summary.plugged_bytes": ["bytes", "level"],
        "ram.mapped_bytes": ["bytes", "level"],
        "ram.resident_bytes": ["bytes", "level"],
        "ram.proportional_bytes": ["bytes", "level"],
        "ram.copied_bytes": ["bytes", "level"],
        "ram.template_bytes": ["bytes", "level"],
        "blocks[].page_bytes": ["bytes", "level"],
        "blocks[].used_bytes": ["bytes", "level"],
        "blocks[].total_bytes": ["bytes", "level"],
        "spaces[].ranges[].size_bytes": ["bytes", "level"],
    },
    "devices": {},
    "queues": {
        "devices[].queues[].size": ["buffers", "level"],
        "devices[].queues[].in_use": ["buffers", "level"],
        # Of 16 bits each.
        "devices[].queues[].offered": ["buffers modulo 65536", "counter"],
        "devices[].queues[].taken": ["buffers modulo 65536", "counter"],
        "devices[].queues[].used": ["buffers modulo 65536", "counter"],
    },
    "interrupts": {
        "lines[].count": ["interrupts", "counter"],
        "guest[].count": ["interrupts", "counter"],
    },
}

_QUESTIONS: Final = {
    "registers": [hmp("info registers -a")],
    "memory": [hmp("info mtree -f"), *plain("x-query-ramblock", "query-memory-size-summary", "query-memory-devices")],
    "devices": [hmp("info qom-tree"), *plain("query-pci", "query-hotpluggable-cpus")],
    "queues": plain("x-query-virtio"),
    "interrupts": [hmp("info pic"), *plain("x-query-irq")],
}


@dataclass(frozen=True)
class Inside:
    """What the guest says of itself, where somebody asked it; else None, and the reason."""

    pci: Mapping[str, Json] | None = None
    interrupts: Sequence[Json] | None = None
    reason: str = "the guest was not asked"


def questions(part: str) -> list[Question]:
    """Return what QEMU is to be asked for a part."""
    return _QUESTIONS[part]


def device_of(path: str) -> str:
    """Return the name of a virtio device in QEMU's object tree: ours, or the path's last word."""
    words = path.split("/")
    return words[3] if path.startswith("/machine/peripheral/") and len(words) > 3 else words[-1]


def queue_questions(answers: Answers) -> list[Question]:
    """Return what is to be asked once ``x-query-virtio`` is answered, and then once each device's status is."""
    found = []
    for path in _virtio_paths(answers):
        name = f"status of {device_of(path)}"
        if name not in answers.values:
            found.append(Question(name, "x-query-virtio-status", {"path": path}))
            continue
        count, _ = answers.read(lambda status: int(status["num-vqs"]), name)
        for queue in range(min(count or 0, 64)):
            arguments = {"path": path, "queue": queue}
            found.append(Question(queue_name(device_of(path), queue), "x-query-virtio-queue-status", arguments))
    return found


def _virtio_paths(answers: Answers) -> list[str]:
    paths, _ = answers.read(lambda devices: [str(one["path"]) for one in devices], "x-query-virtio")
    return (paths or [])[:64]


def part_document(part: str, facts: Facts, answers: Answers, smaps: str | None, inside: Inside) -> Json:
    """Return a part, with its own `units`, and `missing`: the reasons for what it lacks, by place."""
    missing: dict[str, str] = {}

    def read(place: str, build: Callable[..., Any], *names: str) -> Any:
        value, reason = answers.read(build, *names)
        if reason:
            missing[place] = reason
        return value

    forms: dict[str, Callable[[], Json]] = {
        "registers": lambda: {"vcpus": read("vcpus", texts.registers, "info registers -a")},
        "memory": lambda: _memory(read, facts, smaps, missing),
        "devices": lambda: _devices(read, inside, missing),
        "queues": lambda: {"devices": read("devices", lambda found: _virtio(found, answers), "x-query-virtio")},
        "interrupts": lambda: _interrupts(read, inside, missing),
    }
    found = forms[part]()
    return found | {"units": UNITS[part]} | ({"missing": missing} if missing else {})


def _memory(read: Callable[..., Any], facts: Facts, smaps: str | None, missing: dict[str, str]) -> Json:
    ram, reason = Answers({"smaps": smaps} if smaps else None).read(
        lambda text: ram_document(text, facts.given_bytes), "smaps"
    )
    if reason:
        missing["ram"] = "/proc/PID/smaps of QEMU cannot be read, or has no mapping of the guest's memory"
    return {
        "summary": read("summary", _summary, "query-memory-size-summary"),
        "modules": read("modules", _modules, "query-memory-devices"),
        "ram": ram,
        "blocks": read("blocks", texts.ram_blocks, "x-query-ramblock"),
        "spaces": read("spaces", texts.flat_views, "info mtree -f"),
    }


def _summary(answer: Json) -> Json:
    return {"base_bytes": int(answer["base-memory"]), "plugged_bytes": int(answer.get("plugged-memory", 0))}


def _modules(answer: Sequence[Json]) -> list[Json]:
    return [
        {"type": str(one["type"]), "id": one["data"].get("id"), "size_bytes": one["data"]["size"]} for one in answer
    ]


def _devices(read: Callable[..., Any], inside: Inside, missing: dict[str, str]) -> Json:
    if inside.pci is None:
        missing["pci[].guest"] = inside.reason
    return {
        "pci": read("pci", lambda buses: pci_list(buses, inside.pci), "query-pci"),
        "objects": read("objects", texts.object_tree, "info qom-tree"),
        "sockets": read("sockets", _sockets, "query-hotpluggable-cpus"),
    }


def _sockets(answer: Sequence[Json]) -> list[Json]:
    return [
        {"type": str(one["type"]), "present": "qom-path" in one}
        | {name: one["props"].get(f"{name}-id") for name in ("socket", "core", "thread")}
        for one in answer
    ]


def _interrupts(read: Callable[..., Any], inside: Inside, missing: dict[str, str]) -> Json:
    if inside.interrupts is None:
        missing["guest"] = inside.reason
    return {
        "lines": read("lines", texts.interrupts, "x-query-irq"),
        "routes": read("routes", texts.routes, "info pic"),
        "guest": None if inside.interrupts is None else list(inside.interrupts),
    }


_DRIVER_STATES: Final = ("ACKNOWLEDGE", "DRIVER", "FEATURES_OK", "DRIVER_OK", "NEEDS_RESET", "FAILED")


def _virtio(found: Sequence[Json], answers: Answers) -> list[Json]:
    return [_virtio_device(str(one["path"]), answers) for one in found]


def _virtio_device(path: str, answers: Answers) -> Json:
    device = device_of(path)
    status, reason = answers.read(_status, f"status of {device}")
    found: Json = {"device": device, "path": path, "kind": None, "driver": None, "features": None}
    found |= status or {"missing": reason}
    count = found.pop("count", 0)
    return found | {"queues": [_queue(queue, device, answers) for queue in range(min(count, 64))]}


def _status(answer: Json) -> Json:
    """Read ``x-query-virtio-status``: how far the driver came, and what both sides agreed on; each with its name."""
    states = _names(answer["status"], "statuses", "VIRTIO_CONFIG_S_")
    features = answer["guest-features"]
    agreed = [*_names(features, "transports", "VIRTIO_"), *_names(features, "dev-features", "VIRTIO_")]
    kind = str(answer["name"])
    driver = [name for name in _DRIVER_STATES if name in states]
    return {"kind": kind, "driver": driver, "features": sorted(agreed), "count": int(answer["num-vqs"])}


def _names(answer: Any, key: str, prefix: str) -> list[str]:
    """Return the names of ``NAME: what it means``; numbers, as a QEMU without the names gives them, are left out."""
    items: Iterable[Any] = answer.get(key, ()) if isinstance(answer, dict) else ()
    return [one.partition(":")[0].removeprefix(prefix) for one in items if isinstance(one, str)]


def _queue(queue: int, device: str, answers: Answers) -> Json:
    found, reason = answers.read(_indexes, queue_name(device, queue))
    return {"queue": queue, **(found or {"missing": reason})}


def _indexes(answer: Json) -> Json:
    """Read ``x-query-virtio-queue-status``.

    The driver has offered `offered` buffers as far as the device has looked, the device has taken `taken` of them, put
    `used` back, and works on `in_use`; a queue at address 0 is not set up.
    """
    return {
        "size": int(answer["vring-num"]),
        "ready": answer["vring-desc"] != 0,
        "address": f"0x{answer['vring-desc']:x}",
        "offered": answer.get("shadow-avail-idx"),
        "taken": answer.get("last-avail-idx"),
        "used": int(answer["used-idx"]),
        "in_use": int(answer["inuse"]),
    }
