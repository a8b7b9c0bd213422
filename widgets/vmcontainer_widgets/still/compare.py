"""One cell in four places, standing still: what it cost, saw and could reach, in tables and one picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

from ..rows import Document, Words, format_bytes, items, part, size_of, visible
from .tables import foreign, indented, table

__all__ = ["compare_html", "compare_numbers", "compare_text"]

Place = Mapping[str, Any]
_WIDTH = 420.0


def compare_text(view: Document, w: Words) -> list[str]:
    """What is the same in every run: the places, and what each could reach."""
    lines = [w["compare"].format(count=len(items(view, "places")))]
    for place in items(view, "places"):
        if place.get("missing"):
            lines.append(f"  {_name(place, w)}: {w['missing'].format(why=visible(place['missing']))}")
            continue
        can = [_word(w, "attempts", one.get("name")) for one in items(place, "reaches") if one.get("can")]
        lines.append(f"  {_name(place, w)}: {w['reaches']}: {', '.join(can) or w['none']}")
    return lines


def compare_numbers(view: Document, w: Words) -> list[str]:
    """Every number: a line for each measure and fact."""
    head = ["", *(_name(place, w) for place in _there(view))]
    return indented([head, *_costs(view, w), *_sees(view, w), *_reaches(view, w)])


def compare_html(view: Document, w: Words) -> list[str]:
    """Tables with a column for each place, and bars of memory and of the time to the first byte."""
    columns = [w["what"], *(_name(place, w) for place in _there(view))]
    missing = [
        f"<p>{escape(_name(place, w))}: {escape(w['missing'].format(why=visible(place['missing'])))}</p>"
        for place in items(view, "places")
        if place.get("missing")
    ]
    outputs = [[_name(place, w), *_output(place)] for place in _there(view)]
    return [
        f"<p><strong>{escape(w['compare'].format(count=len(items(view, 'places'))))}</strong></p>",
        f"<p><code>{foreign(view.get('text'))}</code></p>",
        *missing,
        _picture(view, w),
        table(w["costs"], columns, _costs(view, w)),
        table(w["sees"], columns, _sees(view, w)),
        table(w["reaches"], columns, _reaches(view, w)),
        table(w["output"], [w["place"], w["status"].format(status=""), w["output"]], outputs),
    ]


def _there(view: Document) -> list[Place]:
    return [place for place in items(view, "places") if not place.get("missing")]


def _word(w: Words, group: str, name: object) -> str:
    return str(part(w, group).get(str(name), visible(name)))


def _name(place: Place, w: Words) -> str:
    return _word(w, "places", place.get("name"))


def _millis(value: object) -> str:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return "—"
    return f"{value:.1f} ms" if value < 1000 else f"{value / 1000:.2f} s"


def _seconds(value: object) -> str:
    return _millis(value * 1000 if isinstance(value, int | float) else None)


_MEASURES: tuple[tuple[str, Callable[[Place], object], Callable[[object], str]], ...] = (
    ("first_byte", lambda place: part(place, "first_byte_ms").get("median"), _millis),
    ("end", lambda place: part(place, "end_ms").get("median"), _millis),
    ("private", lambda place: part(place, "memory").get("private_bytes"), format_bytes),
    ("shared", lambda place: part(place, "memory").get("shared_bytes"), format_bytes),
    ("proportional", lambda place: part(place, "memory").get("proportional_bytes"), format_bytes),
    ("peak", lambda place: part(place, "memory").get("peak_bytes"), format_bytes),
    ("cpu", lambda place: place.get("cpu_s"), _seconds),
    ("making", lambda place: place.get("making_cpu_s"), _seconds),
)


def _costs(view: Document, w: Words) -> list[list[str]]:
    places = _there(view)
    rows = [[w[name], *(form(value(place)) for place in places)] for name, value, form in _MEASURES]
    return [*rows, [w["start"], *(_starts(place, w) for place in places)]]


def _starts(place: Place, w: Words) -> str:
    """How often each way of starting a machine came up in the rounds."""
    ways = Counter(str(one["start"]) for one in items(place, "rounds") if one.get("start"))
    return ", ".join(f"{_word(w, 'starts', way)} × {count}" for way, count in ways.items()) or "—"


def _sees(view: Document, w: Words) -> list[list[str]]:
    places = _there(view)
    return [[label, *(_fact(place, name) for place in places)] for name, label in part(w, "facts").items()]


def _fact(place: Place, name: str) -> str:
    value = part(place, "sees").get(name)
    return "—" if value is None else visible(value)


def _reaches(view: Document, w: Words) -> list[list[str]]:
    places = _there(view)
    return [[label, *(_attempt(place, name, w) for place in places)] for name, label in part(w, "attempts").items()]


def _attempt(place: Place, name: str, w: Words) -> str:
    found = next((one for one in items(place, "reaches") if one.get("name") == name), None)
    return f"{w['can' if found.get('can') else 'cannot']} · {visible(found.get('result'))}" if found else "—"


def _output(place: Place) -> list[str]:
    output = part(place, "output")
    return [visible(output.get("status")), visible(f"{output.get('out', '')}{output.get('err', '')}")]


def _picture(view: Document, w: Words) -> str:
    """One bar a place: its private memory, then what it shares."""
    places = _there(view)
    sizes = [[size_of(part(place, "memory"), f"{kind}_bytes") for kind in ("private", "shared")] for place in places]
    scale = _WIDTH / max([sum(pair) for pair in sizes] or [1.0], default=1.0) if any(map(sum, sizes)) else 0.0
    drawn = []
    for row, (place, (own, shared)) in enumerate(zip(places, sizes, strict=True)):
        y, text = 4 + 24 * row, escape(f"{_name(place, w)}: {format_bytes(own)} + {format_bytes(shared)}")
        drawn += [
            f'<rect x="1" y="{y}" width="{own * scale:.1f}" height="16" fill="#4f94d8"/>',
            f'<rect x="{1 + own * scale:.1f}" y="{y}" width="{shared * scale:.1f}" height="16" '
            'fill="#bcd7f2" stroke="#4f94d8" stroke-dasharray="3 2"/>',
            f'<text x="{_WIDTH + 10}" y="{y + 12}" font-size="12" fill="currentColor">{text}</text>',
        ]
    frame = f'viewBox="0 0 800 {8 + 24 * len(places)}" width="100%" style="max-width: 800px" role="img"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {frame} aria-label="{escape(w["memory"])}">{"".join(drawn)}</svg>'
