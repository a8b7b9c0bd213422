"""A view document as still HTML with SVG, and as text: what GitHub, nbconvert and a terminal show of a live view.

Both are pure functions of the document. Whatever it holds is untrusted (a guest chooses its process names), so text is
written out without control characters and HTML is escaped. The HTML carries its looks in attributes, since GitHub and
JupyterLab drop style sheets from saved outputs, and says in tables all that its pictures say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from typing import Any

from ..rows import (
    NAMESPACES,
    Document,
    Words,
    container_rows,
    format_bytes,
    inside,
    isolation_rows,
    items,
    limits,
    namespace_rows,
    part,
    process_rows,
    status_of,
    visible,
)
from ..words import told_in, words
from .compare import compare_html, compare_numbers, compare_text
from .hypervisor import hypervisor_html, hypervisor_numbers, hypervisor_text
from .image import image_html, image_numbers, image_text
from .kernel_parts import kernel_tables
from .nesting import nesting_html, nesting_numbers, nesting_text
from .network import network_html, network_numbers, network_text
from .peel import peel_html, peel_numbers, peel_text
from .streams import screen_html, screen_numbers, screen_text, terminal_html, terminal_numbers, terminal_text
from .tables import foreign, indented, table
from .timeline import timeline_html, timeline_numbers, timeline_text

__all__ = ["static_html", "static_text"]


def static_text(document: Document, *, full: bool = False, language: str = "en") -> str:
    """The view as text: by default only what is the same in every run, with `full` every number it holds."""
    forms: dict[str, tuple[_Text, _Text]]
    forms = {
        "hypervisor": (hypervisor_text, hypervisor_numbers),
        "kernel": (_kernel_text, _kernel_numbers),
        "network": (network_text, network_numbers),
        "image": (image_text, image_numbers),
        "nesting": (nesting_text, nesting_numbers),
        "timeline": (timeline_text, timeline_numbers),
        "compare": (compare_text, compare_numbers),
        "peel": (peel_text, peel_numbers),
        "terminal": (terminal_text, terminal_numbers),
        "screen": (screen_text, screen_numbers),
    }
    kind = str(document.get("kind"))
    if kind == "lab":
        parts = [static_text(one, full=full, language=language) for one in _opened(document)]
        return "\n".join([*_tabs(document, language), *parts])
    if kind not in forms:
        return str(words(language)["waiting"])
    (short, numbers), w, document = forms[kind], words(language, kind), told_in(language, document)
    return "\n".join(short(document, w) + (numbers(document, w) if full else []))


def static_html(document: Document, *, language: str = "en") -> str:
    """The view as one HTML element: tables, and SVG pictures of what they say; nothing in it runs."""
    forms: dict[str, _Text] = {
        "hypervisor": hypervisor_html,
        "kernel": _kernel_html,
        "network": network_html,
        "image": image_html,
        "nesting": nesting_html,
        "timeline": timeline_html,
        "compare": compare_html,
        "peel": peel_html,
        "terminal": terminal_html,
        "screen": screen_html,
    }
    kind = str(document.get("kind"))
    if kind == "lab":
        body = [f"<p>{foreign(line)}</p>" for line in _tabs(document, language)]
        body += [static_html(one, language=language) for one in _opened(document)]
    elif kind in forms:
        body = forms[kind](told_in(language, document), words(language, kind))
    else:
        body = [f"<p>{escape(words(language)['waiting'])}</p>"]
    return f'<div lang="{escape(language)}">' + "\n".join(filter(None, body)) + "</div>"


def _tabs(view: Document, language: str) -> list[str]:
    """What the lab view names: each machine and each kernel."""
    w = words(language, "lab")
    titles = [f"{w['kinds'].get(tab.get('kind'), '')} {visible(tab.get('title'))}" for tab in items(view, "tabs")]
    return [f"{w['lab']}: {', '.join(titles) or words(language)['waiting']}"]


def _opened(view: Document) -> list[Mapping[str, Any]]:
    """The documents that the lab view holds; none of them is a lab again."""
    documents = part(view, "documents").values()
    return [one for one in documents if isinstance(one, Mapping) and one.get("kind") not in (None, "lab")]


_Text = Callable[[Document, Words], list[str]]


# Text


def _kernel_text(view: Document, w: Words) -> list[str]:
    containers = items(view, "containers")
    lines = [line for container in containers for line in _container_text(view, container, w)]
    return [f"{w['kernel']} {w['of_node']} {visible(view.get('node'))}", *(lines or ["  " + w["no_containers"]])]


def _container_text(view: Document, container: Mapping[str, Any], w: Words) -> list[str]:
    charts = (w["chart_memory"], w["chart_cpu"], w["chart_pids"])
    bounds = ", ".join(f"{chart} {limit}" for chart, limit in zip(charts, limits(container, w), strict=True))
    name, image = visible(container.get("name")), visible(container.get("image"))
    lines = [f"  {w['container']} {name}: {status_of(container, w)}, {image}", f"    {w['limits']}: {bounds}"]
    first = next((p for p in items(view, "processes") if p.get("pid") == container.get("pid")), None)
    if first is None:
        return lines
    return [*lines, f"    {w['pid_inside']} {inside(first)}", *_sharing_text(view, first, w)]


def _sharing_text(view: Document, process: Mapping[str, Any], w: Words) -> list[str]:
    """Which namespaces a container's first process has from the node, with another container, or of its own."""
    ids, groups = part(process, "namespaces"), dict[str, list[str]]()
    for name in NAMESPACES:
        if ids.get(name) is not None:
            sharers = _sharers(view, process, name)
            label = w["shared_with"].format(names=", ".join(sharers)) if sharers else w["own"]
            groups.setdefault(label, []).append(name)
    return [f"    {label}: {' '.join(names)}" for label, names in groups.items()]


def _sharers(view: Document, process: Mapping[str, Any], namespace: str) -> list[str]:
    """The node, if a process outside of containers is in it; otherwise the other containers that are in it.

    Not only process 1 is looked at: a kernel may refuse to tell its namespaces (ptrace(2), "access mode checking").
    """
    inode = part(process, "namespaces")[namespace]
    outside = (other for other in items(view, "processes") if not other.get("container"))
    if any(part(other, "namespaces").get(namespace) == inode for other in outside):
        return [visible(view.get("node"))]
    by_pid = {other.get("pid"): other for other in items(view, "processes")}
    firsts = [(visible(c.get("name")), by_pid.get(c.get("pid"), {})) for c in items(view, "containers")]
    return [who for who, first in firsts if first is not process and part(first, "namespaces").get(namespace) == inode]


def _kernel_numbers(view: Document, w: Words) -> list[str]:
    memory = part(view, "memory")
    free, total = format_bytes(memory.get("available_bytes")), format_bytes(memory.get("total_bytes"))
    return [
        *indented([[f"{name} {visible(value)}" for name, value in part(view, "kernel").items()]]),
        f"  {w['memory_free']} {free} {w['of']} {total}",
        *indented(container_rows(view, w)),
        *indented(process_rows(view)),
        *indented(namespace_rows(view)),
        *indented(isolation_rows(view, w)),
        *indented(row for _, _, rows in kernel_tables(view, w) for row in rows),
    ]


# HTML


def _kernel_html(view: Document, w: Words) -> list[str]:
    kernel = part(view, "kernel")
    facts = f"Linux {visible(kernel.get('release'))} {visible(kernel.get('machine'))}"
    title = f"{escape(w['kernel'])} {foreign(facts)} {escape(w['of_node'])} {foreign(view.get('node'))}"
    uses = [w["container"], w["state"], w["chart_memory"], w["chart_cpu"], w["chart_pids"]]
    rights = f"{w['capabilities_held']} / {w['capabilities_bound']}"
    isolation = [w["who"], w["ids"], rights, "seccomp", w["calls"]]
    figures = [w["pid_node"], w["pid_inside"], w["container"], w["command_short"], w["cpu_time"], w["resident"]]
    return [
        f"<p><strong>{title}</strong>, {escape(w['cgroup'])} {foreign(kernel.get('cgroup'))}</p>",
        table(w["cgroups"], uses, container_rows(view, w)),
        table(w["processes"], figures, process_rows(view)),
        table(w["namespaces"], [w["who"], *NAMESPACES], namespace_rows(view)),
        table(w["isolation"], isolation, isolation_rows(view, w)),
        *(table(*one) for one in kernel_tables(view, w)),
    ]
