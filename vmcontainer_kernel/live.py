"""Live views: a widget, and a task on the session's loop that gives it a new document while somebody looks.

every 0.5 s, if the page says `watched`:  a machine's poller, or a node's view ─▶ widget.document = …     one message
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

    async def follow() -> None:
        # Whoever else looks at this machine shares its poller; a machine that was moved is another one.
        machine = machines.guest(name).machine
        async with machine.poller.follow() as follower:
            while widget.comm is not None and widget.watched and machines.guest(name).machine is machine:
                await follower.next()
                widget.document = follower.document

    widget.on_action(pressed)
    _while_watched(session, widget, follow)
    return widget


def kernel_view(session: Session, node_name: str, language: str) -> Any:
    """Return a live KernelView of a node."""
    from vmcontainer_widgets import KernelView

    async def fetch() -> dict[str, Any]:
        return await (await session.node(node_name)).view()

    widget = KernelView(document=session.wait(fetch()), language=language)

    async def follow() -> None:
        widget.document = await fetch()

    _while_watched(session, widget, follow)
    return widget


def _while_watched(session: Session, widget: Any, follow: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Have a widget follow what it shows whenever the page says that it is looked at; its first error ends that."""

    async def look() -> None:
        while widget.comm is not None:
            await asyncio.sleep(PERIOD_S)
            try:
                if widget.watched:
                    await follow()
            except LabError as error:
                widget.failure = str(error)
                return

    asyncio.run_coroutine_threadsafe(look(), session.loop)
