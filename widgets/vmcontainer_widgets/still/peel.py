"""A container wall by wall, standing still: which walls stand, and what differs, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from ..rows import Document, Words, items, part, visible
from .tables import foreign, indented, table

__all__ = ["peel_html", "peel_numbers", "peel_text"]

_SIGNS = {"same": "=", "changed": "≠", "with": "−", "without": "+"}


def peel_text(view: Document, w: Words) -> list[str]:
    """Which switches are turned and what of the configuration differs: the same in every run of a cell."""
    turned = _turned(view, w)
    lines = [w["peel"], f"  {w['with_turned'].format(names=turned) if turned else w['with_all']}"]
    rows = [row for row in items(view, "configuration") if row.get("mark") != "same"]
    return [*lines, *indented([_sign(row), visible(row.get("path")), *_sides(row)] for row in rows)]


def peel_numbers(view: Document, w: Words) -> list[str]:
    """The output, line by line, and the steps that differ."""
    steps = [row for row in items(view, "steps") if row.get("mark") != "same"]
    return [
        *(f"  {line}" for line in _ends(view, w)),
        f"  {w['output']}",
        *indented([_sign(row), *_sides(row)] for row in items(view, "output")),
        f"  {w['steps']}",
        *indented([_sign(row), *_sides(row)] for row in steps),
    ]


def peel_html(view: Document, w: Words) -> list[str]:
    """A table of the switches, and of each thing that differs."""
    turned = _turned(view, w)
    other = w["with_turned"].format(names=turned) if turned else ""
    walls = [[_wall(one.get("name"), w), _state(one, w), _about(one.get("name"), w)] for one in items(view, "switches")]
    sides = [w["with_all"], other]
    fields = [[_sign(row), visible(row.get("path")), *_sides(row)] for row in items(view, "configuration")]
    parts = [
        table(w[name], ["", *sides], [[_sign(row), *_sides(row)] for row in items(view, name) if _shown(row, name)])
        for name in ("output", "steps")
    ]
    return [
        f"<p><strong>{escape(w['peel'])}</strong></p>",
        f"<p><code>{foreign(view.get('text'))}</code></p>",
        table(w["peel"], ["", w["state"], ""], walls),
        *(f"<p>{foreign(line)}</p>" for line in _ends(view, w)),
        parts[0],
        table(w["configuration"], ["", w["field"], *sides], [row for row in fields if row[0] != _SIGNS["same"]]),
        parts[1],
    ]


def _ends(view: Document, w: Words) -> list[str]:
    """How each run ended."""
    other = w["with_turned"].format(names=_turned(view, w))
    runs = [(w["with_all"], part(view, "with")), (other, part(view, "without"))]
    return [f"{name}: {_end(run, w)}" for name, run in runs if run]


def _end(run: Mapping[str, Any], w: Words) -> str:
    if run.get("failure"):
        return str(w["no_result"].format(why=visible(run["failure"])))
    return str(w["ended"].format(status=visible(run.get("status"))))


def _shown(row: Mapping[str, Any], name: str) -> bool:
    return name == "output" or row.get("mark") != "same"


def _sign(row: Mapping[str, Any]) -> str:
    return _SIGNS.get(str(row.get("mark")), "?")


def _sides(row: Mapping[str, Any]) -> list[str]:
    return ["" if row.get(side) is None else visible(row[side]) for side in ("with", "without")]


def _wall(name: object, w: Words) -> str:
    return str(part(w, "walls").get(str(name), visible(name)))


def _about(name: object, w: Words) -> str:
    return str(part(w, "wall_notes").get(str(name), ""))


def _state(switch: Mapping[str, Any], w: Words) -> str:
    if switch.get("locked"):
        return str(w["locked"].format(why=visible(switch["locked"])))
    return str(w["on" if switch.get("on") else "off"])


def _turned(view: Document, w: Words) -> str:
    names = view.get("turned")
    return ", ".join(_wall(name, w) for name in names) if isinstance(names, list) else ""
