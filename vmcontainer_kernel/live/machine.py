"""The hypervisor view of a machine, and what can be done to it from there.

the page's open sections ─▶ wanted ─▶ the machine's poller (QEMU's side) ┐
                                  ├─▶ its agent, now and then (its side) ├─▶ one document
                                  └─▶ the shelf of snapshots             ┘
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final

from ..errors import UserError
from ..guests import Guest
from ..inside import ask_inside
from ..resizing import Change, resize
from ..session import Session
from ..vm.config import MIB
from ..vm.observe.parts import PARTS, Inside
from .base import Action, Json, Source, Wanted, join

__all__ = ["machine_source", "machine_view", "with_inside"]

_INSIDE_PARTS: Final = ("devices", "interrupts")
_INSIDE_EVERY_S: Final = 4.0
_PANIC: Final = "echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger"


class _Sides:
    """What a machine's own kernel and the shelf tell, asked for again when it is old."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._known: dict[str, tuple[float, Any]] = {}

    async def added(self, view: Json, wanted: frozenset[str]) -> Json:
        """Return the view with the guest's side of its parts, and the snapshots if they are wanted."""
        for part in _INSIDE_PARTS:
            if part in view.get("parts", {}):
                view = with_inside(view, part, await self._get(part, partial(ask_inside, self._guest, part)))
        if "snapshots" in wanted:
            name = self._guest.machine.config.name
            rows = await self._get("snapshots", partial(asyncio.to_thread, _snapshots, name))
            view = {**view, "snapshot": self._guest.snapshot or None, "snapshots": rows}
        return view

    async def _get(self, what: str, fetch: Callable[[], Awaitable[Any]]) -> Any:
        asked_s, found = self._known.get(what, (-_INSIDE_EVERY_S, None))
        if time.monotonic() - asked_s >= _INSIDE_EVERY_S:
            found = await fetch()
            self._known[what] = time.monotonic(), found
        return found


def with_inside(view: Json, part: str, inside: Inside) -> Json:
    """Return the view with what the guest says of a part (`inside.ask_inside`), or the reason why it does not."""
    there = view["parts"][part]
    missing = {place: reason for place, reason in there.get("missing", {}).items() if "guest" not in place}
    if part == "devices":
        seen: Mapping[str, Json] = inside.pci or {}
        told, place = inside.pci is not None, "pci[].guest"
        filled = {**there, "pci": [{**one, "guest": seen.get(one["address"])} for one in there["pci"] or ()]}
    else:
        told, place = inside.interrupts is not None, "guest"
        filled = {**there, "guest": inside.interrupts}
    filled.pop("missing", None)
    if not told:
        missing[place] = inside.reason
    if missing:
        filled["missing"] = missing
    return {**view, "parts": {**view["parts"], part: filled}}


def _snapshots(name: str) -> list[Json]:
    """Return a machine's snapshots and those that they come from, oldest first, each after the one it comes from."""
    from ..vm.state.shelf import Shelf, tree

    listed = tree(Shelf().snapshots())
    by_title = {one.title: one for _, one in listed}
    kept = [one.title for _, one in listed if one.title.partition(":")[0] == name]
    for title in kept:  # grows as it is walked
        parent = by_title[title].parent
        if parent in by_title and parent not in kept:
            kept.append(parent)
    return [
        {"name": one.title, "of": one.parent or None, "made_s": one.made_s, "size_bytes": one.size_bytes}
        for _, one in listed
        if one.title in kept
    ]


def machine_source(session: Session, name: str) -> Source:
    """Return where a machine's hypervisor views come from, and what may be done to it."""
    machines = session.machines

    async def documents(wanted: Wanted) -> AsyncIterator[Json]:
        # Whoever else looks at this machine shares its poller; a machine that was moved or restored is another one.
        while True:
            guest, now = machines.guest(name), wanted()
            machine, sides = guest.machine, _Sides(guest)
            async with machine.poller.follow(now & frozenset(PARTS)) as follower:
                while wanted() == now and machines.guest(name) is guest and guest.machine is machine:
                    await follower.next()
                    yield await sides.added(follower.document, now)

    return Source(documents, {**_power(session, name), **_sizes(session, name), **_states(session, name)})


def _power(session: Session, name: str) -> dict[str, Action]:
    machines = session.machines

    async def pause() -> None:
        await machines.pause(name)

    async def resume() -> None:
        await machines.resume(name)

    async def reset() -> None:
        await machines.reset(name)

    async def panic(*, sure: bool = False) -> None:
        guest = machines.guest(name)
        if sure is not True:
            raise UserError("a panic ends the guest's kernel, and with it all that runs there", hint="press twice")
        if guest.paused:
            raise UserError(f"machine {name} is paused", hint=f"%vm resume {name}")
        guest.node.start("exec", {"argv": ["/bin/sh", "-c", _PANIC]})

    return {"pause": pause, "resume": resume, "reset": reset, "panic": panic}


def _sizes(session: Session, name: str) -> dict[str, Action]:
    async def change(what: Change) -> str:
        _, after, lacking = await resize(session.machines.guest(name), await session.host(), what)
        return "; ".join([f"{after.memory_bytes >> 20} MiB, {after.cpus} CPU", *lacking])

    async def add_cpu() -> str:
        return await change(Change(cpus=session.machines.guest(name).machine.config.total_cpus + 1))

    async def set_memory(mebibytes: int) -> str:
        if isinstance(mebibytes, bool) or not isinstance(mebibytes, int) or not 0 < mebibytes < 1 << 20:
            raise UserError("memory is a whole number of MiB")
        return await change(Change(memory_bytes=mebibytes * MIB))

    return {"add_cpu": add_cpu, "set_memory": set_memory}


def _states(session: Session, name: str) -> dict[str, Action]:
    async def snapshot() -> str:
        title, stood_s = await session.states.snapshot(name)
        return f"{title}, {stood_s:.2f} s"

    async def restore(snapshot: str) -> str:
        machine, _, short = str(snapshot).partition(":")
        if machine != name:
            raise UserError(f"{str(snapshot)[:60]!r} is no snapshot of {name}", hint=f"%vm snapshots {name}")
        await session.states.restore(name, short)
        return str(snapshot)

    return {"snapshot": snapshot, "restore": restore}


def machine_view(session: Session, name: str, language: str) -> Any:
    """Return a live HypervisorView of a machine, with working buttons."""
    from vmcontainer_widgets import HypervisorView

    async def fetch() -> Json:
        return await session.machines.guest(name).machine.view()

    view = HypervisorView(document=session.wait(fetch()), language=language)
    join(session, view, machine_source(session, name))
    return view
