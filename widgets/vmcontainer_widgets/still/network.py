"""The network view as text and tables: the hops of each path, and published ports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..rows import Document, Words, format_bytes, items, part, visible
from .kernel_parts import Table
from .tables import foreign, indented, table

__all__ = ["network_html", "network_numbers", "network_text"]


def network_text(view: Document, w: Words) -> list[str]:
    """What is the same in every run: each container's way."""
    lines = [f"{w['network_of']} {visible(view.get('node'))}"]
    for path in items(view, "paths"):
        way = " → ".join(_name(hop, w) for hop in items(path, "hops"))
        lines.append(f"  {visible(path.get('container'))} ({visible(path.get('network'))}): {way or _why(path, w)}")
    return lines if len(lines) > 1 else [*lines, f"  {w['no_paths']}"]


def _name(hop: Mapping[str, Any], w: Words) -> str:
    kind = str(hop.get("kind"))
    return str(w["hops"].get(kind, visible(kind)))


def _why(path: Document, w: Words) -> str:
    reason = part(path, "missing").get("hops")
    return visible(reason) if reason else str(w["none"])


def _tables(view: Document, w: Words) -> list[Table]:
    """Caption, columns and rows: hops with their counters, and published ports."""
    hops = [
        [visible(path.get("container")), _name(hop, w), visible(hop.get("name")), _count(hop, "out"), _count(hop, "in")]
        for path in items(view, "paths")
        for hop in items(path, "hops")
    ]
    ports = [
        [
            visible(path.get("container")),
            f"{visible(one.get('host_ip'))}:{visible(one.get('host_port'))}/{visible(one.get('protocol'))}",
            visible(one.get("port")),
            visible(one.get("conversations")) or "—",
            f"{format_bytes(one.get('in_bytes'))} / {format_bytes(one.get('out_bytes'))}",
        ]
        for path in items(view, "paths")
        for one in items(path, "published")
    ]
    return [
        (w["path_of"], [w["who"], w["hop"], w["hop_name"], w["out"], w["in"]], hops),
        (w["published"], [w["who"], w["port_node"], w["port_inside"], w["conversations"], w["in_out"]], ports),
    ]


def _count(hop: Mapping[str, Any], way: str) -> str:
    count = part(hop, way)
    return f"{visible(count.get('packets'))} ({format_bytes(count.get('bytes'))})" if count else "—"


def network_numbers(view: Document, w: Words) -> list[str]:
    """All figures, a line a row."""
    return indented(row for _, _, rows in _tables(view, w) for row in rows)


def network_html(view: Document, w: Words) -> list[str]:
    """A title and tables."""
    title = f"<p><strong>{foreign(network_text(view, w)[0])}</strong></p>"
    return [title, *(table(*one) for one in _tables(view, w))]
