"""A live view: a widget, and a task on the session's loop that gives it new documents while somebody looks.

the page says `watched` ─▶ source.documents(wanted) ─▶ view.document = …      until it is looked at no more
a pressed button ─▶ on_act ─▶ source.actions[name](**arguments), on the session's loop ─▶ answer(ok, text)

Nothing here waits for the notebook's main thread, which may be busy with a cell.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ..errors import LabError, UserError
from ..session import Session

__all__ = ["PERIOD_S", "Action", "Documents", "Rendered", "Source", "Wanted", "join", "repeated"]

PERIOD_S: Final = 0.5
PULSE_S: Final = 3.0
# Views that nobody looks at any more are closed, the oldest first, when there are more than these.
OPEN_AT_MOST: Final = 24

Json = dict[str, Any]
Wanted = Callable[[], frozenset[str]]
Documents = Callable[[Wanted], AsyncIterator[Json]]
Action = Callable[..., Awaitable[str | None]]


class Rendered:
    """A text and the HTML that says the same."""

    def __init__(self, text: str, html: str) -> None:
        self._text, self._html = text, html

    def __repr__(self) -> str:
        return self._text

    def _repr_html_(self) -> str:
        return self._html


@dataclass(frozen=True)
class Source:
    """Where a view's documents come from, and what its buttons do.

    `documents(wanted)` yields whole documents until the view is closed or hidden, and is started anew when it is shown
    again; `wanted()` gives the optional parts that the page shows now. `actions` are coroutine functions by name; their
    keyword arguments come from the page and are checked by them; what they return is shown as the answer.
    """

    documents: Documents
    actions: Mapping[str, Action] = field(default_factory=dict)


def repeated(fetch: Callable[[frozenset[str]], Awaitable[Json]], period_s: float = PERIOD_S) -> Documents:
    """Return documents that are fetched again and again; `fetch` is given the parts that are wanted."""

    async def documents(wanted: Wanted) -> AsyncIterator[Json]:
        while True:
            begin_s = time.monotonic()
            yield await fetch(wanted())
            # At most a tenth of the time is spent on looking, however slow that is.
            await asyncio.sleep(max(period_s, 10 * (time.monotonic() - begin_s)) if period_s else 0)

    return documents


def join(session: Session, view: Any, source: Source) -> None:
    """Have `view` show the documents of `source` while it is watched; its first error ends that and is shown."""
    actions = {**source.actions, "record": _record(view), "save": _save(view)}
    watched = asyncio.Event()

    def watch(_change: object) -> None:
        session.loop.call_soon_threadsafe(watched.set if view.watched else watched.clear)

    def acted(name: str, arguments: Json, answer: Callable[[bool, str], None]) -> None:
        asyncio.run_coroutine_threadsafe(_act(actions, name, arguments, answer), session.loop)

    async def look() -> None:
        while view.comm is not None:
            await watched.wait()
            try:
                async with aclosing(source.documents(lambda: frozenset(view.wanted))) as documents:  # type: ignore[type-var]
                    async for document in documents:
                        view.document = document
                        if not view.watched or view.comm is None:
                            break
            except LabError as error:
                view.failure = error.told()
                return

    async def pulse() -> None:
        while view.comm is not None:
            await watched.wait()
            view.pulse()
            await asyncio.sleep(PULSE_S)

    view.records = True
    view.on_act(acted)
    view.observe(watch, "watched")
    tasks = [asyncio.run_coroutine_threadsafe(task(), session.loop) for task in (look, pulse)]
    _open(view, lambda: [task.cancel() for task in tasks])


async def _act(actions: Mapping[str, Action], name: str, arguments: Json, answer: Callable[[bool, str], None]) -> None:
    action = actions.get(name)
    try:
        if action is None:
            raise UserError(f"this view has no action {name[:40]!r}")
        try:
            inspect.signature(action).bind(**arguments)
        except TypeError as error:
            raise UserError(f"{name}: {error}") from None
        answer(True, await action(**arguments) or "")
    except LabError as error:
        answer(False, error.told())


def _record(view: Any) -> Action:
    async def record() -> str:
        uname = os.uname()
        view.begin_recording(f"Linux {uname.release} {uname.machine}, {os.cpu_count()} CPUs")
        return ""

    return record


def _save(view: Any) -> Action:
    async def save() -> str:
        recording = view.end_recording()
        if not recording:
            raise UserError("nothing was recorded", hint="press Record first")
        path = Path(time.strftime(f"{view.kind}-%Y%m%d-%H%M%S.recording.json"))
        try:
            path.write_text(json.dumps(recording, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
        except OSError as error:
            raise UserError(f"the recording could not be saved: {error}", hint="look at the folder's rights") from None
        return f"{path}: %lab replay {path}"

    return save


@dataclass(frozen=True)
class _Opened:
    view: Any
    cell: tuple[str, int]
    end: Callable[[], object]


_opened: list[_Opened] = []


def _open(view: Any, end: Callable[[], object]) -> None:
    """Remember an open view; close those that their own cell has replaced, and the oldest ones nobody looks at."""
    cell = _this_cell()
    replaced = [one for one in _opened if cell[0] and one.cell[0] == cell[0] and one.cell != cell]
    unseen = [one for one in _opened if not one.view.watched and one not in replaced]
    for one in replaced + unseen[: max(0, len(_opened) - len(replaced) + 1 - OPEN_AT_MOST)]:
        _opened.remove(one)
        one.end()
        one.view.close()
    _opened.append(_Opened(view, cell, end))


def _this_cell() -> tuple[str, int]:
    """The id of the notebook cell that runs (empty where the front end does not tell) and its turn."""
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    kernel = getattr(shell, "kernel", None)
    parent = kernel.get_parent("shell") if kernel is not None else {}
    identity = parent.get("metadata", {}).get("cellId", "") if isinstance(parent, dict) else ""
    return (str(identity), shell.execution_count if shell else 0)
