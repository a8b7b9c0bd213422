"""A view document as still HTML with SVG, and as text: what GitHub, nbconvert and a terminal show of a live view.

Both are pure functions of the document. Whatever it holds is untrusted (a guest chooses its process names), so text is
written out without control characters and HTML is escaped. The HTML carries its looks in attributes, since GitHub and
JupyterLab drop style sheets from saved outputs, and says in tables all that its pictures say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from .labels import words

__all__ = ["NAMESPACES", "format_bytes", "format_seconds", "static_html", "static_text"]

NAMESPACES = ("pid", "mnt", "uts", "ipc", "net", "cgroup", "user", "time")

type_words = Mapping[str, Any]
Document = Mapping[str, Any]

# Control characters and bidirectional overrides could hide or reorder what a process is called.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
_TEXT_LIMIT = 300
_MANY = 40


def _visible(value: object) -> str:
    text = "" if value is None else str(value)
    cut = text if len(text) <= _TEXT_LIMIT else text[:_TEXT_LIMIT] + "…"
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", cut.replace("\n", " ").replace("\t", " "))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def format_bytes(value: object) -> str:
    """A size in bytes as people read it, in powers of 1024; a dash for what is not known."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return "—"
    size, units = float(value), ["B", "KiB", "MiB", "GiB", "TiB"]
    while abs(size) >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.{0 if units[0] == 'B' or size >= 100 else 1}f} {units[0]}"


def format_seconds(value: object) -> str:
    """A time in seconds; a dash for what is not known."""
    return f"{value:.2f} s" if isinstance(value, (int, float)) and not isinstance(value, bool) else "—"


def _items(document: Document, name: str) -> list[Mapping[str, Any]]:
    found = document.get(name)
    return [item for item in found if isinstance(item, Mapping)] if isinstance(found, list) else []


def _part(document: Document, name: str) -> Mapping[str, Any]:
    found = document.get(name)
    return found if isinstance(found, Mapping) else {}


# Text


def static_text(document: Document, *, full: bool = False, language: str = "en") -> str:
    """The view as text: by default only what is the same in every run, with `full` every number it holds."""
    draw = {"hypervisor": _hypervisor_text, "kernel": _kernel_text}.get(str(document.get("kind")))
    return draw(document, words(language), full) if draw else words(language)["waiting"]


def _hypervisor_text(view: Document, w: type_words, full: bool) -> str:  # noqa: FBT001
    memory, vcpus = _part(view, "memory"), _items(view, "vcpus")
    status = w["status"].get(view.get("status"), _visible(view.get("status")))
    lines = [f"{w['machine']} {_visible(view.get('machine'))}: {status}"]
    lines += [f"  {w['vcpu']}: {len(vcpus)}", f"  {w['memory_given']}: {format_bytes(memory.get('given_bytes'))}"]
    devices = [f"{_visible(device.get('type'))} ({_visible(device.get('id'))})" for device in _items(view, "devices")]
    lines += [f"  {w['devices']}: {', '.join(devices) or w['none']}"]
    return "\n".join(lines + (_hypervisor_numbers(view, w) if full else []))


def _hypervisor_numbers(view: Document, w: type_words) -> list[str]:
    memory, accelerator, qemu = _part(view, "memory"), _part(view, "accelerator"), _part(view, "qemu")
    lines = [
        f"  {w['accelerator']}: {_visible(accelerator.get('name'))}. {w['why']}: {_visible(accelerator.get('reason'))}"
    ]
    lines += [
        f"  QEMU {_visible(qemu.get('version'))}, pid {_visible(qemu.get('pid'))}, {w['up']} {format_seconds(view.get('uptime_s'))}"
    ]
    for row in _vcpu_rows(view, w):
        lines.append("  " + ", ".join(f"{name} {value}" for name, value in zip(_vcpu_columns(w), row, strict=True)))
    lines += [f"  {label}: {format_bytes(memory.get(key))}" for label, key in _memory_keys(w)]
    lines += ["  " + " · ".join(row) for row in _block_rows(view)]
    lines += ["  " + " · ".join(row) for row in _event_rows(view, w)]
    return lines


def _kernel_text(view: Document, w: type_words, full: bool) -> str:  # noqa: FBT001
    lines = [f"{w['kernel']}, {w['of_node']} {_visible(view.get('node'))}"]
    for container in _items(view, "containers"):
        lines += _container_text(view, container, w)
    if not _items(view, "containers"):
        lines += ["  " + w["no_containers"]]
    return "\n".join(lines + (_kernel_numbers(view, w) if full else []))


def _container_text(view: Document, container: Mapping[str, Any], w: type_words) -> list[str]:
    status = w["status"].get(container.get("status"), _visible(container.get("status")))
    lines = [f"  {w['container']} {_visible(container.get('name'))}: {status}, {_visible(container.get('image'))}"]
    limits = [
        f"{w['chart_' + name]} {limit}"
        for name, limit in zip(("memory", "cpu", "pids"), _limits(container, w), strict=True)
    ]
    lines += ["    " + ", ".join(limits)]
    first = next((p for p in _items(view, "processes") if p.get("pid") == container.get("pid")), None)
    if first is not None:
        lines += [f"    {w['pid_inside']} {_inside(first)}", *_sharing_text(view, first, w)]
    return lines


def _sharing_text(view: Document, process: Mapping[str, Any], w: type_words) -> list[str]:
    node, ids = _part(_first_process(view), "namespaces"), _part(process, "namespaces")
    shared = [name for name in NAMESPACES if ids.get(name) is not None and ids.get(name) == node.get(name)]
    own = [name for name in NAMESPACES if ids.get(name) is not None and name not in shared]
    with_node = w["shared_with"].format(names=_visible(view.get("node")))
    return [f"    {w['own']}: {' '.join(own) or w['none']}; {with_node}: {' '.join(shared) or w['none']}"]


def _kernel_numbers(view: Document, w: type_words) -> list[str]:
    kernel, memory = _part(view, "kernel"), _part(view, "memory")
    lines = ["  " + " · ".join(f"{name} {_visible(value)}" for name, value in kernel.items())]
    lines += [
        f"  {w['memory_free']} {format_bytes(memory.get('available_bytes'))} {w['of']} {format_bytes(memory.get('total_bytes'))}"
    ]
    lines += ["  " + " · ".join(row) for row in _container_rows(view, w)]
    lines += ["  " + " · ".join(row) for row in _process_rows(view)]
    lines += ["  " + " · ".join(row) for row in _namespace_rows(view)]
    return lines


# Rows: the same figures for both forms


def _vcpu_columns(w: type_words) -> list[str]:
    return [w["vcpu"], w["thread"], w["state"], w["cpu_time"]]


def _vcpu_rows(view: Document, w: type_words) -> list[list[str]]:
    state = w["states"]
    return [
        [
            _visible(v.get("index")),
            _visible(v.get("thread_id")),
            state.get(v.get("state"), _visible(v.get("state"))),
            format_seconds(v.get("cpu_s")),
        ]
        for v in _items(view, "vcpus")
    ]


def _memory_keys(w: type_words) -> list[tuple[str, str]]:
    return [
        (w["memory_given"], "given_bytes"),
        (w["memory_used"], "guest_used_bytes"),
        (w["memory_resident"], "resident_bytes"),
        (w["private"], "private_bytes"),
        (w["shared"], "shared_bytes"),
    ]


def _block_rows(view: Document) -> list[list[str]]:
    return [
        [
            _visible(block.get("device")),
            format_bytes(block.get("read_bytes")),
            format_bytes(block.get("written_bytes")),
            f"{_visible(block.get('read_operations'))} / {_visible(block.get('write_operations'))}",
        ]
        for block in _items(view, "blocks")
    ]


def _event_rows(view: Document, w: type_words) -> list[list[str]]:
    meanings = w["meanings"]
    return [
        [
            _visible(event.get("name")),
            ": ".join(filter(None, [meanings.get(event.get("name"), ""), _visible(event.get("detail"))])),
        ]
        for event in _items(view, "events")[-12:]
    ]


def _device_rows(view: Document) -> list[list[str]]:
    return [
        [_visible(device.get(key)) for key in ("address", "type", "id", "description")]
        for device in _items(view, "devices")
    ]


def _limits(container: Mapping[str, Any], w: type_words) -> tuple[str, str, str]:
    memory, cpus, pids = (
        _part(container, "memory").get("limit_bytes"),
        _part(container, "cpu").get("limit_cpus"),
        _part(container, "pids").get("limit"),
    )
    none: str = w["no_limit"]
    return (
        format_bytes(memory) if _is_number(memory) else none,
        f"{cpus} {w['cpus_limit']}" if _is_number(cpus) else none,
        str(pids) if _is_number(pids) else none,
    )


def _container_rows(view: Document, w: type_words) -> list[list[str]]:
    rows = []
    for container in _items(view, "containers"):
        memory, cpu, pids = (_part(container, name) for name in ("memory", "cpu", "pids"))
        used = [
            format_bytes(memory.get("usage_bytes")),
            format_seconds(cpu.get("usage_s")),
            _visible(pids.get("current")),
        ]
        uses = [f"{use} ({limit})" for use, limit in zip(used, _limits(container, w), strict=True)]
        rows.append(
            [
                _visible(container.get("name")),
                w["status"].get(container.get("status"), _visible(container.get("status"))),
                *uses,
            ]
        )
    return rows


def _inside(process: Mapping[str, Any]) -> str:
    pids = process.get("pids")
    return " → ".join(_visible(pid) for pid in pids[1:]) if isinstance(pids, list) else ""


def _ours(view: Document) -> list[Mapping[str, Any]]:
    return [p for p in _items(view, "processes") if p.get("role") != "process" or p.get("container")]


def _process_rows(view: Document) -> list[list[str]]:
    return [
        [
            _visible(p.get("pid")),
            _inside(p),
            _visible(p.get("container")),
            _visible(p.get("command")),
            format_seconds(p.get("cpu_s")),
            format_bytes(p.get("rss_bytes")),
        ]
        for p in _ours(view)[:_MANY]
    ]


def _first_process(view: Document) -> Mapping[str, Any]:
    processes = _items(view, "processes")
    return next((p for p in processes if p.get("role") == "init"), processes[0] if processes else {})


def _namespace_rows(view: Document) -> list[list[str]]:
    """One row for each set of namespaces: who, then letter and inode id; a letter says in which row it came first."""
    groups: dict[tuple[object, ...], list[Mapping[str, Any]]] = {}
    for process in [_first_process(view), *_ours(view)]:
        ids = _part(process, "namespaces")
        if ids:
            groups.setdefault((process.get("container"), *(ids.get(name) for name in NAMESPACES)), []).append(process)
    owners: dict[tuple[int, object], str] = {}
    rows = []
    for row, (key, members) in enumerate(list(groups.items())[:_MANY]):
        letters = [owners.setdefault((column, inode), _letter(row)) for column, inode in enumerate(key[1:])]
        cells = [
            f"{letter} {_visible(inode)}" if inode is not None else "—"
            for letter, inode in zip(letters, key[1:], strict=True)
        ]
        rows.append([_visible(members[0].get("container") or members[0].get("comm")), *cells])
    return rows


def _letter(index: int) -> str:
    return (_letter(index // 26 - 1) if index >= 26 else "") + chr(65 + index % 26)


# HTML


def static_html(document: Document, *, language: str = "en") -> str:
    """The view as one HTML element: tables, and SVG pictures of what they say; nothing in it runs."""
    draw: Callable[[Document, type_words], list[str]] | None
    draw = {"hypervisor": _hypervisor_html, "kernel": _kernel_html}.get(str(document.get("kind")))
    w = words(language)
    body = draw(document, w) if draw else [f"<p>{escape(w['waiting'])}</p>"]
    return f'<div lang="{escape(language)}">' + "\n".join(body) + "</div>"


def _foreign(text: str) -> str:
    return f"<bdi>{escape(text)}</bdi>"


def _table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = "\n".join("<tr>" + "".join(f"<td>{_foreign(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        if body
        else ""
    )


def _hypervisor_html(view: Document, w: type_words) -> list[str]:
    accelerator, qemu = _part(view, "accelerator"), _part(view, "qemu")
    status = w["status"].get(view.get("status"), _visible(view.get("status")))
    name = _visible(accelerator.get("name"))
    kind = w.get(f"accelerator_{name}", f"{w['accelerator']} {name}")
    box = w["process_box"].format(version=_visible(qemu.get("version")), pid=_visible(qemu.get("pid")))
    return [
        f"<p><strong>{escape(w['machine'])} {_foreign(_visible(view.get('machine')))}</strong>: {escape(status)}, {escape(w['up'])} {format_seconds(view.get('uptime_s'))}</p>",
        f"<p>{escape(kind)}. {escape(w['why'])}: {_foreign(_visible(accelerator.get('reason')))}</p>",
        f"<p>{escape(box)}</p>",
        _table(w["vcpus"], _vcpu_columns(w), _vcpu_rows(view, w)),
        _memory_picture(_part(view, "memory"), w),
        _table(
            w["memory"],
            ["", ""],
            [[label, format_bytes(_part(view, "memory").get(key))] for label, key in _memory_keys(w)],
        ),
        _table(w["devices"], [w["address"], w["type"], w["id"], w["description"]], _device_rows(view)),
        _table(w["blocks"], [w["device"], w["read"], w["written"], w["requests"]], _block_rows(view)),
        _table(w["events"], [w["event"], w["meaning"]], reversed(_event_rows(view, w))),
    ]


def _bar(x: float, y: int, width: float, look: str) -> str:
    return f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="16" rx="2" {look}/>'


def _memory_picture(memory: Mapping[str, Any], w: type_words) -> str:
    size = {key: float(memory[key]) if _is_number(memory.get(key)) else 0.0 for _, key in _memory_keys(w)}
    scale = 600 / max(size["given_bytes"], size["resident_bytes"], 1.0)
    private = size["private_bytes"] * scale
    bars = [
        _bar(1, 2, size["given_bytes"] * scale, 'fill="none" stroke="#1976d2"'),
        _bar(1, 24, size["guest_used_bytes"] * scale, 'fill="#66a96a"'),
        _bar(1, 46, private, 'fill="#4f94d8"'),
        _bar(1 + private, 46, size["shared_bytes"] * scale, 'fill="#bcd7f2" stroke="#4f94d8" stroke-dasharray="3 2"'),
    ]
    labels = (w["memory_given"], w["memory_used"], f"{w['memory_resident']} ({w['private']} + {w['shared']})")
    texts = [
        f'<text x="612" y="{14 + 22 * row}" font-size="12" fill="currentColor">{escape(label)}</text>'
        for row, label in enumerate(labels)
    ]
    picture = "".join(bars + texts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 64" width="100%" style="max-width: 900px" role="img" aria-label="{escape(w["memory"])}">{picture}</svg>'


def _kernel_html(view: Document, w: type_words) -> list[str]:
    kernel = _part(view, "kernel")
    facts = f"Linux {_visible(kernel.get('release'))} {_visible(kernel.get('machine'))}, {w['cgroup']} {_visible(kernel.get('cgroup'))}"
    return [
        f"<p><strong>{escape(w['kernel'])} {_foreign(facts)}, {escape(w['of_node'])} {_foreign(_visible(view.get('node')))}</strong></p>",
        _table(
            w["cgroups"],
            [w["container"], w["state"], w["chart_memory"], w["chart_cpu"], w["chart_pids"]],
            _container_rows(view, w),
        ),
        _table(
            w["processes"],
            [w["pid_node"], w["pid_inside"], w["container"], w["command_short"], w["cpu_time"], w["resident"]],
            _process_rows(view),
        ),
        _table(w["namespaces"], [w["who"], *NAMESPACES], _namespace_rows(view)),
    ]
