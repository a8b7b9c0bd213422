"""What is inside of what, from the host to the processes of a container in a machine."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from ..errors import LabError
from ..guests import Guest
from ..nesting import nesting
from ..session import Session
from .base import Json, Source, join, repeated

__all__ = ["nesting_source", "nesting_view"]

_PERIOD_S: Final = 1.0
_LIMIT_S: Final = 5.0


def nesting_source(session: Session) -> Source:
    """Return where nesting views come from."""

    last: Json = {"box": None}

    async def fetch(_wanted: frozenset[str]) -> Json:
        nonlocal last
        found = await _document(session)
        # The same boxes a second later are no news: nothing is sent.
        last = last if found["box"] == last["box"] else found
        return last

    return Source(repeated(fetch, _PERIOD_S))


def nesting_view(session: Session, language: str) -> Any:
    """Return a live NestingView of everything in the session."""
    from vmcontainer_widgets import NestingView

    view = NestingView(document=session.wait(_document(session)), language=language)
    join(session, view, nesting_source(session))
    return view


async def _document(session: Session) -> Json:
    guests = dict(session.machines.guests)
    host = await (await session.host()).view(live=True)
    machines = await asyncio.gather(*(_machine(guest) for guest in guests.values()))
    kernels = await asyncio.gather(*(_kernel(guest) for guest in guests.values()))
    return nesting(host, dict(zip(guests, machines, strict=True)), dict(zip(guests, kernels, strict=True)))


async def _machine(guest: Guest) -> Json:
    """Return of the hypervisor view what is told here: two questions instead of fifteen."""
    machine = guest.machine
    try:
        status, cpus = await asyncio.gather(machine.status(), machine.execute("query-cpus-fast"))
    except LabError:
        return {"status": "gone"}
    threads = [{"index": cpu["cpu-index"], "thread_id": cpu["thread-id"]} for cpu in cpus]
    return {"status": status, "qemu": {"pid": machine.pid}, "vcpus": threads}


async def _kernel(guest: Guest) -> Json | str:
    """Return a guest's kernel view, or why there is none."""
    if guest.agent is None:
        return "its system has no agent of ours"
    if guest.paused:
        return "it is paused"
    try:
        async with asyncio.timeout(_LIMIT_S):
            return await guest.agent.view(live=True)
    except TimeoutError:
        return "it does not answer"
    except LabError as error:
        return error.message
