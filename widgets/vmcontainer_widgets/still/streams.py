"""Terminals and screens as text and as still HTML: what they are, and what they last showed, if that was kept."""

from __future__ import annotations

from html import escape

from ..rows import Document, Words, visible
from .tables import table

__all__ = ["screen_html", "screen_numbers", "screen_text", "terminal_html", "terminal_numbers", "terminal_text"]

MOST_LINES = 60
MOST_COLUMNS = 300


def _lines(text: object) -> list[str]:
    lines = str(text).split("\n") if isinstance(text, str) and text else []
    return [visible(line[:MOST_COLUMNS]) for line in lines[-MOST_LINES:]]


def _block(text: object) -> str:
    shown = "\n".join(_lines(text))
    return f"<pre>{escape(shown)}</pre>" if shown else ""


def _terminal_title(view: Document, w: Words) -> str:
    return str(w["of_terminal"].get(str(view.get("of")), visible(view.get("of"))))


def _terminal_state(view: Document, w: Words) -> str:
    status = view.get("status")
    if view.get("state") == "ended" and isinstance(status, int):
        return str(w["ended_with"]).format(status=status)
    return str(w["terminal_states"].get(str(view.get("state")), visible(view.get("state"))))


def terminal_text(view: Document, w: Words) -> list[str]:
    """What the terminal is of, and whether it is open."""
    return [f"{_terminal_title(view, w)} {visible(view.get('name'))}", f"  {_terminal_state(view, w)}"]


def terminal_numbers(view: Document, w: Words) -> list[str]:
    """Its last lines."""
    return [f"  {line}" for line in _lines(view.get("shown"))]


def terminal_html(view: Document, w: Words) -> list[str]:
    """The same as HTML."""
    row = [_terminal_title(view, w), visible(view.get("name")), _terminal_state(view, w)]
    return [table(w["terminal"], ["", "", w["state"]], [row]), _block(view.get("shown"))]


def _size(view: Document, w: Words) -> str:
    width, height = view.get("width"), view.get("height")
    return f"{width} × {height}" if isinstance(width, int) and isinstance(height, int) else str(w["not_known"])


def screen_text(view: Document, w: Words) -> list[str]:
    """Whose screen it is, and how large."""
    return [f"{w['screen_of']} {visible(view.get('name'))}", f"  {_size(view, w)}"]


def screen_numbers(view: Document, w: Words) -> list[str]:
    """The letters on it."""
    return [f"  {line}" for line in _lines(view.get("text"))]


def screen_html(view: Document, w: Words) -> list[str]:
    """The same as HTML."""
    row = [str(w["screen_of"]), visible(view.get("name")), _size(view, w)]
    return [table(w["letters"], ["", "", w["points"]], [row]), _block(view.get("text"))]
