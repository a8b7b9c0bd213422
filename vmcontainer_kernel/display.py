"""What cells show besides a command's output: tables, progress, documents. Text first; HTML is the same in a table."""

from __future__ import annotations

import html
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from .messages import columns, padded, say

__all__ = ["Progress", "Table", "show", "show_timings", "size_text", "steps_table", "times_table"]

# Columns whose cells are words of ours; a single word of any other is a name, and stays as it is.
_WORDED = ("state", "what", "seen by", "phase", "counted by", "health", "")


def show(value: Any) -> None:
    """Display a value below the cell, as IPython does with a cell's last one."""
    import IPython.display

    display: Any = IPython.display.display
    display(value)


def size_text(count: float | None) -> str:
    """Return bytes for people: ``256.0 MiB``; a dash for what is unknown."""
    if count is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


class Table:
    """Rows under a head; text in a terminal, an HTML table in a notebook, there with a `caption` if one is given.

    A table with a caption is one of numbered things: the first cell of a row is its head, for who hears the table.
    It is kept in English, and shown in the reader's language.
    """

    def __init__(
        self, head: Sequence[str], rows: Sequence[Sequence[Any]], empty: str = "nothing yet", caption: str = ""
    ) -> None:
        self.head, self.empty, self.caption = list(head), empty, caption
        self.rows = [["-" if cell is None else str(cell) for cell in row] for row in rows]

    def _said(self) -> list[list[str]]:
        """Return head and rows as they are shown."""
        rows = [
            [say(cell) if " " in cell or title in _WORDED else cell for title, cell in zip(self.head, row, strict=True)]
            for row in self.rows
        ]
        return [[say(title) for title in self.head], *rows]

    def __repr__(self) -> str:
        if not self.rows:
            return say(self.empty)
        lines = self._said()
        widths = [max(columns(line[column]) for line in lines) for column in range(len(self.head))]
        return "\n".join(
            "  ".join(padded(cell, width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        )

    def _repr_html_(self) -> str:
        if not self.rows:
            return f"<p>{html.escape(say(self.empty))}</p>"
        titles, *said = self._said()
        head = "".join(_cell("th", cell, "col") if cell else _cell("td", cell) for cell in titles)
        first = ("th", "row") if self.caption else ("td", "")
        rows = [[_cell(first[0], row[0], first[1]), *(_cell("td", cell) for cell in row[1:])] for row in said]
        body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
        caption = f"<caption>{html.escape(say(self.caption))}</caption>" if self.caption else ""
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(tag: str, text: str, scope: str = "") -> str:
    scoped = f' scope="{scope}"' if scope else ""
    return f'<{tag}{scoped} style="text-align:left">{html.escape(text)}</{tag}>'


def steps_table(steps: Sequence[dict[str, str]]) -> Table:
    """Return the plan of a container: what is done, by which call, and why."""
    rows = [(number, one["step"], one["call"], one["why"], one["source"]) for number, one in enumerate(steps, 1)]
    return Table(("", "step", "call", "why", "source"), rows)


def times_table(steps: Sequence[tuple[str, float]]) -> Table:
    """Return how long each step of a container's start took, in milliseconds, as its process measured it."""
    rows: list[tuple[Any, ...]] = [(number, step, f"{ms:.3f}") for number, (step, ms) in enumerate(steps, 1)]
    together = [("", "together", f"{sum(ms for _, ms in steps):.3f}")] if steps else []
    return Table(("", "step", "ms"), [*rows, *together], "no steps are known: it was not started")


def show_timings(events: Sequence[dict[str, Any]]) -> None:
    """Show the times of a start, from the events of a run."""
    steps = [event["steps"] for event in events if event.get("event") == "started"]
    show(times_table(steps[0] if steps else []))


class Progress:
    """Long work, told in lines on standard error: each new phase, and how long the work will still take.

    `report` may be called from any thread; `show` prints, in the main thread only (a line printed elsewhere lands in
    whatever cell is newest). Nothing is printed for work that is over within `patience_s`. The estimate is what the
    part that is done took, carried on; it is left out as long as there is too little to carry on.
    """

    def __init__(self, patience_s: float = 0.7) -> None:
        # The course is tested by comparing outputs: there a slow computer must not add lines.
        self._patience_s = float(os.environ.get("VMCONTAINER_PATIENCE_S", patience_s))
        self._begin_s = self._work_s = time.monotonic()
        self._phase, self._fraction = "", 0.0
        self._shown = ""

    def report(self, phase: str, fraction: float) -> None:
        """Take note of a phase; `fraction` is the part of the work that is done. A lower one begins new work.

        An empty phase means that there is nothing more to wait for: what runs now is the user's own.
        """
        if fraction < self._fraction:
            self._work_s = time.monotonic()
        self._phase, self._fraction = phase, fraction

    def show(self) -> None:
        """Print the phase if it is a new one."""
        now_s = time.monotonic()
        if self._phase in ("", self._shown) or now_s - self._begin_s < self._patience_s:
            return
        self._shown = self._phase
        left = ""
        if self._fraction > 0.1:
            left = say(f", about {(now_s - self._work_s) * (1 / self._fraction - 1) + 1:.0f} s left")
        print(f"[lab] {now_s - self._begin_s:4.1f} s  {say(self._phase)}{left}", file=sys.stderr, flush=True)
