"""Live views: a widget, and a task on the session's loop that gives it a new document while somebody looks.

every 0.5 s, if the page says `watched`:  fetch ─▶ widget.document = …       one message an update
a pressed button ─▶ on_action ─▶ the session, on its loop; the callback never waits
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from .errors import LabError
from .session import Session

__all__ = ["Rendered", "kernel_view", "machine_view"]

PERIOD_S = 0.5

Fetch = Callable[[], Coroutine[Any, Any, dict[str, Any]]]


class Rendered:
    """A text and the HTML that says the same."""

    def __init__(self, text: str, html: str) -> None:
        self._text, self._html = text, html

    def __repr__(self) -> str:
        return self._text

    def _repr_html_(self) -> str:
        return self._html


def machine_view(session: Session, name: str, language: str) -> Any:
    """Return a live HypervisorView of a machine, with working buttons."""
    from vmcontainer_widgets import HypervisorView

    async def fetch() -> dict[str, Any]:
        return await session.machines.guest(name).machine.view()

    widget = HypervisorView(document=session.wait(fetch()), language=language)
    machines = session.machines
    actions = {"pause": machines.pause, "resume": machines.resume, "reset": machines.reset}

    async def act(action: str) -> None:
        try:
            await actions[action](name)
            widget.document = await fetch()
        except LabError as error:
            widget.failure = str(error)

    def pressed(action: str) -> None:
        asyncio.run_coroutine_threadsafe(act(action), session.loop)

    widget.on_action(pressed)
    _follow(session, widget, fetch)
    return widget


def kernel_view(session: Session, node_name: str, language: str) -> Any:
    """Return a live KernelView of a node."""
    from vmcontainer_widgets import KernelView

    async def fetch() -> dict[str, Any]:
        return await (await session.node(node_name)).view()

    widget = KernelView(document=session.wait(fetch()), language=language)
    _follow(session, widget, fetch)
    return widget


def _follow(session: Session, widget: Any, fetch: Fetch) -> None:
    async def follow() -> None:
        while widget.comm is not None:
            await asyncio.sleep(PERIOD_S)
            if not widget.watched:
                continue
            try:
                widget.document = await fetch()
            except LabError as error:
                widget.failure = str(error)
                return

    asyncio.run_coroutine_threadsafe(follow(), session.loop)
