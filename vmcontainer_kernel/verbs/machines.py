"""``%vm``: machines, looked at and changed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ..cells import DEFAULT_MACHINE
from ..display import Table, size_text
from ..errors import LabError
from ..session import Session
from . import disks, inspecting, lans, resources, states
from .starting import timeline_table
from .words import NAME, READER, Action, Verb, Words, flag, rest, word

if TYPE_CHECKING:
    from ..vm.machine import Machine

__all__ = ["VERBS"]

_STATE_LIMIT_S = 1.0


def _ls(session: Session, words: Words, language: str) -> Table:
    async def row(name: str, machine: Machine) -> tuple[Any, ...]:
        try:
            state = await asyncio.wait_for(machine.status(), _STATE_LIMIT_S)
        except (LabError, TimeoutError):
            state = "gone" if machine.gone.is_set() else "does not answer"
        config = machine.config
        kind, size = (config.label or "-", config.arch), size_text(config.total_bytes)
        return name, state, *kind, config.total_cpus, size, machine.pid

    async def rows() -> list[tuple[Any, ...]]:
        return await asyncio.gather(*(row(name, guest.machine) for name, guest in session.machines.guests.items()))

    return Table(
        ("machine", "state", "system", "processor", "CPUs", "memory", "QEMU's pid"), session.wait(rows()), "no machines"
    )


def _do(action: str) -> Action:
    def do(session: Session, words: Words, language: str) -> None:
        session.wait(getattr(session.machines, action)(words.name))

    return do


def _logs(session: Session, words: Words, language: str) -> None:
    print(session.machines.guest(words.name).machine.console_tail(200))


def _cp(session: Session, words: Words, language: str) -> None:
    from .copying import Far, between

    between(words, "%vm", "machine", lambda name: Far(lambda: session.node(name)), session)


def _timeline(session: Session, words: Words, language: str) -> Table:
    async def told() -> dict[str, Any]:
        return session.machines.guest(words.name).machine.timeline()

    return timeline_table(session.wait(told()))


def _view(session: Session, words: Words, language: str) -> Any:
    from ..live import machine_view

    return machine_view(session, words.name or DEFAULT_MACHINE, language)


def _terminal(session: Session, words: Words, language: str) -> Any:
    from ..live import guest_terminal, serial_terminal

    async def check() -> None:
        guest = session.machines.guest(words.name)
        if not words.console:
            _ = guest.node  # which raises, where there is no agent

    session.wait(check())
    if words.console:
        return serial_terminal(session, words.name, language, reader=words.screen_reader)
    return guest_terminal(session, words.name, language, words.command, reader=words.screen_reader)


VERBS: dict[str, Verb] = {
    "ls": Verb(_ls, "the machines there are"),
    "stop": Verb(_do("remove"), "power off and remove", NAME),
    "pause": Verb(_do("pause"), "stop the virtual CPUs", NAME),
    **resources.VERBS,
    "reset": Verb(_do("reset"), "press the reset button", NAME),
    "logs": Verb(_logs, "the guest's console", NAME),
    "inspect": Verb(
        inspecting.inspect,
        "everything the hypervisor tells, as a JSON document; or a part as a table",
        *inspecting.ARGUMENTS,
    ),
    "disk": Verb(
        disks.run, "disks: ls create inspect rm attach detach limit flatten commit import export", *disks.ARGUMENTS
    ),
    "timeline": Verb(_timeline, "what its start consisted of, from the cell to the first byte", NAME),
    "cp": Verb(
        _cp,
        "copy files and folders: cp NAME:/PATH HERE, or cp HERE NAME:/PATH",
        word("source", "NAME:/PATH or a path here"),
        word("target", "the other one"),
    ),
    "network": Verb(lans.run, "networks of machines: network; network connect NETWORK MACHINE", *lans.ARGUMENTS),
    "view": Verb(_view, "a live picture, with buttons", word("name", "a machine", needed=False)),
    "terminal": Verb(
        _terminal,
        "a terminal in it: terminal NAME [COMMAND…] (default: its shell)",
        flag("--console", help="its serial port instead, as a cable to it would be"),
        READER,
        NAME,
        rest("command", "the command"),
    ),
    **states.VERBS,
}
