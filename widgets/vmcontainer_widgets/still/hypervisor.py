"""A machine standing still: as lines of text, and as tables of HTML."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from ..rows import (
    Document,
    Words,
    block_rows,
    device_rows,
    event_rows,
    format_bytes,
    format_seconds,
    items,
    memory_rows,
    part,
    size_of,
    status_of,
    vcpu_rows,
    visible,
)
from .tables import foreign, indented, table

__all__ = ["hypervisor_html", "hypervisor_numbers", "hypervisor_text"]


def hypervisor_text(view: Document, w: Words) -> list[str]:
    """What is the same in every run."""
    given = format_bytes(part(view, "memory").get("given_bytes"))
    devices = [f"{visible(device.get('type'))} ({visible(device.get('id'))})" for device in items(view, "devices")]
    return [
        f"{w['machine']} {visible(view.get('machine'))}: {status_of(view, w)}",
        f"  {w['vcpu']}: {len(items(view, 'vcpus'))}",
        f"  {w['memory_given']}: {given}",
        f"  {w['devices']}: {', '.join(devices) or w['none']}",
    ]


def hypervisor_numbers(view: Document, w: Words) -> list[str]:
    """The rest, in lines."""
    accelerator, qemu = part(view, "accelerator"), part(view, "qemu")
    name, reason = visible(accelerator.get("name")), visible(accelerator.get("reason"))
    uptime = format_seconds(view.get("uptime_s"))
    return [
        f"  {w['accelerator']}: {name}. {w['why']}: {reason}",
        f"  QEMU {visible(qemu.get('version'))}, pid {visible(qemu.get('pid'))}, {w['up']} {uptime}",
        *indented(
            [f"{w['vcpu']} {index}", f"{w['thread']} {rest[0]}", *rest[1:]] for index, *rest in vcpu_rows(view, w)
        ),
        *indented(memory_rows(view, w)),
        *indented(block_rows(view)),
        *indented(_network_rows(view)),
        *indented(_engine_rows(view, w)),
        *indented(event_rows(view, w)),
        *indented(_snapshot_rows(view, w)),
    ]


def hypervisor_html(view: Document, w: Words) -> list[str]:
    """What the view shows, as tables; parts that were asked for at the time are there too."""
    accelerator, qemu = part(view, "accelerator"), part(view, "qemu")
    name = visible(accelerator.get("name"))
    kind = w.get(f"accelerator_{name}", f"{w['accelerator']} {name}")
    box = w["process_gone" if view.get("status") == "gone" else "process_box"].format(
        version=visible(qemu.get("version")), pid=visible(qemu.get("pid"))
    )
    title = f"<strong>{escape(w['machine'])} {foreign(view.get('machine'))}</strong>"
    return [
        f"<p>{title}: {escape(status_of(view, w))}, {escape(w['up'])} {format_seconds(view.get('uptime_s'))}</p>",
        f"<p>{escape(kind)}. {escape(w['why'])}: {foreign(accelerator.get('reason'))}</p>",
        f"<p>{escape(box)}</p>",
        table(w["vcpus"], [w["vcpu"], w["thread"], w["state"], w["cpu_time"]], vcpu_rows(view, w)),
        _memory_picture(part(view, "memory"), w),
        table(w["memory"], ["", ""], memory_rows(view, w)),
        table(w["devices"], [w["address"], w["type"], w["id"], w["description"]], device_rows(view)),
        table(w["blocks"], [w["device"], w["read"], w["written"], w["requests"]], block_rows(view)),
        table(w["networks"], [w["device"], w["mac"], w["received"], w["sent"]], _network_rows(view)),
        table(w["engine"], ["", ""], _engine_rows(view, w)),
        table(w["events"], [w["event"], w["meaning"]], reversed(event_rows(view, w))),
        *_parts_html(view, w),
        table(w["snapshots"], [w["name"], w["size"], ""], _snapshot_rows(view, w)),
        table(w["command"], [w["option"], w["value"], w["meaning"]], _command_rows(view, w)),
    ]


def _network_rows(view: Document) -> list[list[str]]:
    keys = ("device", "mac", "received_buffers", "sent_buffers")
    return [[visible(card.get(key)) for key in keys] for card in items(view, "networks")]


def _engine_rows(view: Document, w: Words) -> list[list[str]]:
    """Translated code, or exits by reason; of what an accelerator does not have, why."""
    told, missing = part(view, "translation"), part(view, "missing")
    rows = [[w["code"], format_bytes(told.get("code_bytes"))]] if told else []
    rows += [[visible(one.get("name")), visible(one.get("count"))] for one in items(view, "exits")]
    for name in ("translation", "exits"):
        if name in missing:
            rows.append([w[name], w["not_available"].format(why=visible(missing[name]))])
    return rows


def _snapshot_rows(view: Document, w: Words) -> list[list[str]]:
    """Each snapshot after the one it comes from, with a mark where the machine is now."""
    depths: dict[object, int] = {}
    rows = []
    for one in items(view, "snapshots"):
        depths[visible(one.get("name"))] = depth = depths.get(visible(one.get("of")), -1) + 1
        here = w["here"] if one.get("name") == view.get("snapshot") else ""
        rows.append(["└ " * (depth > 0) + visible(one.get("name")), format_bytes(one.get("size_bytes")), here])
    return rows


def _command_rows(view: Document, w: Words) -> list[list[str]]:
    """One option a row, with what it is for."""
    command = part(view, "qemu").get("command")
    program, *given = [visible(word) for word in command] if isinstance(command, list) and command else [""]
    rows = [[w["program"], program, w["program_meaning"]]] if program else []
    for word in given:
        if word.startswith("-"):
            rows.append([word, "", w["options"].get(word, "")])
        elif rows:
            rows[-1][1] = f"{rows[-1][1]} {word}".strip()
    return rows


def _parts_html(view: Document, w: Words) -> list[str]:
    """The dear parts, as far as somebody had them open."""
    parts = part(view, "parts")
    queues = [
        [visible(device.get("device")), *(visible(queue.get(key)) for key in ("queue", "offered", "taken", "used"))]
        for device in items(part(parts, "queues"), "devices")
        for queue in items(device, "queues")
    ]
    pci = [
        [*(visible(one.get(key)) for key in ("address", "class", "id")), visible(part(one, "guest").get("driver"))]
        for one in items(part(parts, "devices"), "pci")
    ]
    counts = [
        [visible(one.get("line")), visible(one.get("what")), visible(one.get("count"))]
        for one in items(part(parts, "interrupts"), "guest")
    ]
    registers = [
        [f"{w['vcpu']} {visible(cpu.get('index'))}", visible(name), visible(value)]
        for cpu in items(part(parts, "registers"), "vcpus")
        for name, value in part(cpu, "values").items()
    ]
    return [
        table(w["queues"], [w["device"], w["queue"], w["offered"], w["taken"], w["done"]], queues),
        table(w["pci"], [w["address"], w["type"], w["id"], w["guest_driver"]], pci),
        table(w["guest_counts"], [w["line"], w["meaning"], w["count"]], counts),
        table(w["registers"], [w["vcpu"], w["register"], w["value"]], registers),
    ]


def _bar(x: float, y: int, width: float, look: str) -> str:
    return f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="16" rx="2" {look}/>'


def _memory_picture(memory: Mapping[str, Any], w: Words) -> str:
    given, used, resident, private, shared = (
        size_of(memory, f"{name}_bytes") for name in ("given", "guest_used", "resident", "private", "shared")
    )
    scale = 600 / max(given, resident, 1.0)
    bars = [
        _bar(1, 2, given * scale, 'fill="none" stroke="#1976d2"'),
        _bar(1, 24, used * scale, 'fill="#66a96a"'),
        _bar(1, 46, private * scale, 'fill="#4f94d8"'),
        _bar(1 + private * scale, 46, shared * scale, 'fill="#bcd7f2" stroke="#4f94d8" stroke-dasharray="3 2"'),
    ]
    names = (w["memory_given"], w["memory_used"], f"{w['memory_resident']} ({w['private']} + {w['shared']})")
    looks = 'x="612" font-size="12" fill="currentColor"'
    texts = [f'<text y="{14 + 22 * row}" {looks}>{escape(name)}</text>' for row, name in enumerate(names)]
    frame = 'viewBox="0 0 900 64" width="100%" style="max-width: 900px" role="img"'
    label = escape(w["memory"])
    return f'<svg xmlns="http://www.w3.org/2000/svg" {frame} aria-label="{label}">{"".join(bars + texts)}</svg>'
