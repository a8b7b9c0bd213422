"""The hypervisor view of a machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from ..session import Session
from .base import Json, Source, Wanted, join

__all__ = ["machine_source", "machine_view"]


def machine_source(session: Session, name: str) -> Source:
    """Return where a machine's hypervisor views come from, and what may be done to it."""
    machines = session.machines

    async def documents(wanted: Wanted) -> AsyncIterator[Json]:
        # Whoever else looks at this machine shares its poller; a machine that was moved is another one.
        while True:
            machine = machines.guest(name).machine
            async with machine.poller.follow(wanted()) as follower:
                while machines.guest(name).machine is machine:
                    await follower.next()
                    yield follower.document

    async def pause() -> None:
        await machines.pause(name)

    async def resume() -> None:
        await machines.resume(name)

    async def reset() -> None:
        await machines.reset(name)

    return Source(documents, {"pause": pause, "resume": resume, "reset": reset})


def machine_view(session: Session, name: str, language: str) -> Any:
    """Return a live HypervisorView of a machine, with working buttons."""
    from vmcontainer_widgets import HypervisorView

    async def fetch() -> Json:
        return await session.machines.guest(name).machine.view()

    view = HypervisorView(document=session.wait(fetch()), language=language)
    join(session, view, machine_source(session, name))
    return view
