"""What all still forms are made of: lines of text, and tables of HTML. Foreign text is isolated and escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from ..rows import visible

__all__ = ["foreign", "indented", "table"]


def indented(rows: Iterable[Sequence[str]]) -> list[str]:
    """Rows as lines of text."""
    return ["  " + " · ".join(row) for row in rows]


def foreign(value: object) -> str:
    """A foreign text, isolated, so that right-to-left words cannot reorder the line."""
    return f"<bdi>{escape(visible(value))}</bdi>"


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with a caption; nothing if it has no rows."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = "\n".join("<tr>" + "".join(f"<td>{foreign(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    if not body:
        return ""
    return f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
