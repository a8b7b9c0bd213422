"""A guest as its session knows it: the machine and the node in it; and what makes one of many clones somebody."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from .errors import LabError, UserError
from .node import Node
from .ports import Delivery

if TYPE_CHECKING:
    from .vm.machine import Machine

__all__ = ["Guest", "booted", "identity", "rehearse", "rehearse_network", "rehearse_once"]

REHEARSALS: Final = 16


@dataclass
class Guest:
    """A machine and the node in it; one without our agent is looked at through its screen and serial port only."""

    machine: Machine
    agent: Node | None
    started_s: float
    paused: bool = False
    waking: asyncio.Task[None] | None = None
    cabled: bool = False  # it has cards in networks of the host's containers
    published: list[Delivery] = field(default_factory=list)
    again: list[Callable[[], Awaitable[None]]] = field(default_factory=list)  # what a guest must do after a reset
    heard: bool = False  # a cell has run in it
    snapshot: str = ""  # the one that its memory comes from

    @property
    def node(self) -> Node:
        """The node; raises UserError where there is none."""
        if self.agent is None:
            name = self.machine.config.name
            raise UserError(
                f"{name} runs no cells and has no files to copy: its system has no agent of ours",
                hint=f"%vm screen {name}, %vm type {name} TEXT, %vm console {name}",
            )
        return self.agent

    @property
    def lost(self) -> bool:
        """Whether its agent is gone."""
        return self.agent is not None and self.agent.lost.is_set()


async def booted(node: Node, machine: Machine, doing: str = "answer") -> None:
    """Wait for the agent of a guest that boots."""
    from .vm.growing import make_room

    limit_s = machine.config.boots.limit_s
    await machine.within(node.connect(limit_s), limit_s, doing)
    machine.mark("agent")
    await make_room(machine)


async def rehearse(node: Node, machine: Machine) -> None:
    """Do what every clone does first, until nothing new happens, then settle.

    Files are read, copied up and mapped then, and CPython has specialised the agent's bytecode (PEP 659).
    """
    await rehearse_network(node)
    for _ in range(REHEARSALS):
        await rehearse_once(node, machine)
    await node.call("settle")


async def rehearse_network(node: Node) -> None:
    """Make a network and remove it: that loads modules and reads the files of the program that makes networks, which is
    half of what the first one costs a clone. Nothing of it runs on.
    """
    with contextlib.suppress(LabError):  # whoever asks for a network will be told why there is none
        await node.call("network.create", name="rehearsal")
        await node.call("network.remove", name="rehearsal")


async def rehearse_once(node: Node, machine: Machine) -> None:
    """Renew, and run a command; the answer has been read when this returns."""
    # The shortest name: a clone's own is then written over it, and nothing is to be truncated.
    await node.call("renew", **{**identity(machine), "hostname": "-"})
    await node.call("exec", argv=["/bin/sh", "-c", "echo ready"])


def identity(machine: Machine) -> dict[str, Any]:
    """Return what a clone must not share with its template."""
    return {
        "time_s": time.time(),
        "seed": secrets.token_hex(32),
        "hostname": machine.config.name,
        "machine_id": secrets.token_hex(16),
        "mac": machine.config.mac,
    }
