"""The timeline, standing still: each start as a table of its steps, and a picture on one axis."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from ..rows import Document, Words, items, size_of, visible
from .tables import indented, table

__all__ = ["timeline_html", "timeline_numbers", "timeline_text"]

_WHO = {"notebook": "#7a5cd6", "agent": "#2f80ed", "process": "#12a07f", "machine": "#e8750a", "guest": "#c2439a"}
_WIDTH = 700.0


def timeline_text(view: Document, w: Words) -> list[str]:
    """What was started, without the times, which differ from run to run."""
    starts = items(view, "starts")
    return (
        [f"{w['timeline']}:", *(f"  {_title(one, w)}: {_way(one, w)}" for one in starts)]
        if starts
        else [w["no_starts"]]
    )


def timeline_numbers(view: Document, w: Words) -> list[str]:
    """Every step with its times."""
    lines = []
    for start in items(view, "starts"):
        lines.append(f"{_title(start, w)} ({_way(start, w)}): {w['together'].format(total=_ms(start, 'total_ms'))}")
        lines += indented(_rows(start, w))
    return lines


def timeline_html(view: Document, w: Words) -> list[str]:
    """A picture and a table of each start."""
    starts = items(view, "starts")
    if not starts:
        return [f"<p>{escape(w['no_starts'])}</p>"]
    longest_ms = max([size_of(start, "total_ms") for start in starts] + [0.01])
    parts = [f"<p><strong>{escape(w['timeline'])}</strong></p>"]
    for start in starts:
        total = w["together"].format(total=_ms(start, "total_ms"))
        caption = f"{_title(start, w)} ({_way(start, w)}): {total}"
        parts.append(_picture(start, caption, longest_ms))
        parts.append(table(caption, [w["step"], w["by"], w["begins"], w["takes"]], _rows(start, w)))
    return parts


def _title(start: Mapping[str, Any], w: Words) -> str:
    what = w["what"].get(str(start.get("what")), visible(start.get("what")))
    return f"{what} {visible(start.get('name'))}".strip()


def _way(start: Mapping[str, Any], w: Words) -> str:
    return str(w["ways"].get(str(start.get("way")), visible(start.get("way"))))


def _ms(one: Mapping[str, Any], key: str) -> str:
    return f"{size_of(one, key):.2f} ms"


def _steps(start: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return sorted(items(start, "phases"), key=lambda one: size_of(one, "begin_ms"))


def _rows(start: Mapping[str, Any], w: Words) -> list[list[str]]:
    """Step, who, begin, length."""
    rows = []
    for one in _steps(start):
        name, who = visible(one.get("name")), str(one.get("by"))
        if who != "process" or name == "exec":
            name = w["phases"].get(name, name)
        rows.append([name, w["by_names"].get(who, visible(who)), _ms(one, "begin_ms"), _ms(one, "ms")])
    return rows


def _picture(start: Mapping[str, Any], label: str, longest_ms: float) -> str:
    lanes = [who for who in _WHO if any(one.get("by") == who for one in items(start, "phases"))]
    bars = []
    for one in _steps(start):
        if one.get("by") in lanes:
            x, width = (min(_WIDTH, size_of(one, key) / longest_ms * _WIDTH) for key in ("begin_ms", "ms"))
            who = str(one.get("by"))
            y = lanes.index(who) * 14
            bars.append(f'<rect x="{x:.1f}" y="{y}" width="{max(0.5, width):.1f}" height="11" fill="{_WHO[who]}"/>')
    frame = f'viewBox="0 0 {_WIDTH:.0f} {14 * len(lanes)}" width="100%" style="max-width: 900px" role="img"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {frame} aria-label="{escape(label)}">{"".join(bars)}</svg>'
