"""The machines of a session: each a QEMU and the node in its guest; by name, from their making to their end.

ensure(name) ── there? ──▶ Guest
            └── config ─▶ template ─▶ clone ─▶ renew ─▶ Guest(machine, node)
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .errors import LabError, MachineError, NodeLost, NotFound, UserError
from .memory import available_memory
from .node import Node, Request

if TYPE_CHECKING:
    from .vm.config import MachineConfig
    from .vm.machine import Machine
    from .vm.packages import Origin

__all__ = ["ANY", "Guest", "Machines", "Report", "Wish", "quiet"]

Report = Callable[[str, float], None]

AGENT_WAKE_LIMIT_S = 15.0
POWER_OFF_GRACE_S = 3.0
REHEARSALS = 16


def quiet(phase: str, fraction: float) -> None:
    """Report to nobody."""


@dataclass(frozen=True)
class Wish:
    """What a cell says of its machine; None is whatever it has, or the default of a new one."""

    memory_bytes: int | None = None
    cpus: int | None = None
    origin: Origin | None = None

    def differs_from(self, config: MachineConfig) -> bool:
        """Tell whether a machine is not what is wished for."""
        pairs = (
            (self.memory_bytes, config.memory_bytes),
            (self.cpus, config.cpus),
            (self.origin and self.origin.label, config.label),
        )
        return any(wished not in (None, there) for wished, there in pairs)


ANY: Final = Wish()


@dataclass
class Guest:
    """A machine and the node in it; one without our agent is looked at through its screen and serial port only."""

    machine: Machine
    agent: Node | None
    started_s: float
    paused: bool = False
    waking: asyncio.Task[None] | None = None
    cabled: bool = False  # it has cards in networks of the host's containers

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


class Machines:
    """What `%%vm` made: names and lifetimes, on the session's event loop."""

    def __init__(self, host: Callable[[], Awaitable[Node]], folder: Path, forget: Callable[[str], None]) -> None:
        """`host` gives the host's node, which starts QEMU; `folder` is the session's run folder; `forget` is told the
        name of a node whose containers are gone.
        """
        self.guests: dict[str, Guest] = {}
        self._host, self._folder, self._forget = host, folder, forget
        self._making: dict[str, asyncio.Lock] = {}

    def guest(self, name: str) -> Guest:
        """Return a machine by name; raises NotFound with those there are."""
        try:
            return self.guests[name]
        except KeyError:
            names = ", ".join(sorted(self.guests)) or "none yet"
            raise NotFound(
                f"there is no machine {name}", hint=f"there are: {names}. A cell that starts with %%vm {name} makes it"
            ) from None

    def find(self, name: str) -> Machine | None:
        """Return a machine, if there is one of this name."""
        return self.guests[name].machine if name in self.guests else None

    async def ensure(self, name: str, wish: Wish = ANY, report: Report = quiet) -> Guest:
        """Return machine `name`, cloned from its template if there is none; one caller at a time makes it."""
        async with self._making.setdefault(name, asyncio.Lock()):
            guest = self.guests.get(name)
            if guest and guest.waking and guest.lost:
                await asyncio.wait([guest.waking])  # it may be ending because it did not wake
                guest = self.guests.get(name)
            if guest:
                await self._check_same(guest, wish)
                return guest
            _refuse_host(name)
            guest = await self._make(name, wish, report)
            self.guests[name] = guest
            return guest

    async def boot(self, config: MachineConfig) -> Guest:
        """Start a machine whose guest has no agent of ours; returns when it runs. Raises UserError for a taken name."""
        from .vm import qemu
        from .vm.machine import Machine

        async with self._making.setdefault(config.name, asyncio.Lock()):
            _refuse_host(config.name)
            if config.name in self.guests:
                hint = f"remove it first (%vm rm {config.name}), or use another name"
                raise UserError(f"there is a machine {config.name} already", hint=hint)
            qemu.check(config, os.cpu_count() or 1, available_memory()[0])
            started_s = time.monotonic()
            machine = await Machine.boot(config, await self._host(), self._folder)
            guest = self.guests[config.name] = Guest(machine, None, started_s)
            return guest

    async def _check_same(self, guest: Guest, wish: Wish) -> None:
        config = guest.machine.config
        if guest.machine.gone.is_set() or guest.lost:
            raise guest.machine.error(f"machine {config.name} has ended", hint=f"make a new one: %vm rm {config.name}")
        if wish.differs_from(config):
            system = f"{config.label or config.arch}, {config.memory_bytes >> 20} MiB and {config.cpus} CPU"
            raise UserError(
                f"machine {config.name} runs already, with {system}",
                hint=f"remove it first (%vm rm {config.name}), or use another name",
            )

    async def config(self, name: str, wish: Wish, report: Report) -> MachineConfig:
        """Return the description of a machine; builds the guest image if there is none yet."""
        from .vm import accelerator, qemu
        from .vm.config import MachineConfig, accelerator_for
        from .vm.guest import ensure_guest, find_guest
        from .vm.packages import Origin

        origin = wish.origin or Origin()
        image = find_guest(origin)
        if image is None:
            image = await asyncio.to_thread(ensure_guest, report, origin)
        engine = accelerator_for(origin.arch, await asyncio.to_thread(accelerator.choose))
        config = MachineConfig(name, image.boot, engine, arch=origin.arch, label=origin.label)
        memory_bytes = wish.memory_bytes or image.recipe.memory_bytes
        config = replace(config, memory_bytes=memory_bytes, cpus=wish.cpus or config.cpus, boots=image.recipe.boots)
        qemu.check(config, os.cpu_count() or 1, available_memory()[0])
        return config

    async def _make(self, name: str, wish: Wish, report: Report) -> Guest:
        from .vm.template import clone, ensure_template

        started_s = time.monotonic()
        config = await self.config(name, wish, report)
        host = await self._host()
        report(f"booting a machine once, to save it as a template (usually {config.boots.usually})", 0.0)
        template = await ensure_template(config, host, self._folder, self._settle)
        report("waking a clone of the template", 0.9)
        machine = await clone(template, name, host, self._folder)
        return await self._adopt(machine, started_s)

    async def _adopt(self, machine: Machine, started_s: float) -> Guest:
        """Shake hands with a clone's agent and give it an identity of its own.

        The answer is not waited for: an agent does one thing after the other, so whatever is asked of it next finds
        the clone renewed, and a round trip is spared. If it cannot be renewed, that is the answer to all of it.
        """
        node = Node(machine.config.name, machine.stream)
        guest = Guest(machine, node, started_s)
        guest.waking = asyncio.create_task(self._awaken(guest, node.start("renew", _identity(machine), hello=True)))
        return guest

    async def _awaken(self, guest: Guest, renewed: Request) -> None:
        machine = guest.machine
        try:
            await machine.within(renewed.done, AGENT_WAKE_LIMIT_S, "answer")
            machine.mark("agent")
        except BaseException as error:
            guest.node.close(error=error if isinstance(error, LabError) else None)
            # It stays known until it has ended, for a cell that was lost with it to find out why (`explain_loss`).
            await machine.stop(grace_s=0.5 if isinstance(error, NodeLost) else 0.0)
            if self.guests.get(machine.config.name) is guest:
                del self.guests[machine.config.name]
            if not isinstance(error, LabError):
                raise

    async def _settle(self, machine: Machine) -> None:
        """Wait for a booting guest's agent and put the guest to rest, to be saved."""
        node = Node(machine.config.name, machine.stream)
        try:
            limit_s = machine.config.boots.limit_s
            await machine.within(node.connect(limit_s), limit_s, "answer")
            machine.mark("agent")
            await machine.within(_rehearse(node, machine), limit_s, "settle")
        finally:
            node.detach()

    async def pause(self, name: str) -> None:
        """Stop a machine's virtual CPUs."""
        guest = self.guest(name)
        await guest.machine.pause()
        guest.paused = True

    async def resume(self, name: str) -> None:
        """Let a machine's virtual CPUs run on."""
        guest = self.guest(name)
        await guest.machine.resume()
        guest.paused = False

    async def reset(self, name: str) -> None:
        """Press a machine's reset button and wait for its agent; what was in its memory is lost."""
        guest = self.guest(name)
        if guest.agent:
            guest.agent.detach()
        await guest.machine.reset()
        guest.paused = False
        self._forget(name)
        if guest.agent is None:
            return
        guest.agent = Node(name, guest.machine.stream)
        limit_s = guest.machine.config.boots.limit_s
        await guest.machine.within(guest.node.connect(limit_s), limit_s, "answer after the reset")
        await guest.node.call("renew", **_identity(guest.machine))

    async def remove(self, name: str) -> None:
        """Ask the guest to power off, then end QEMU; the name is free again."""
        guest = self.guest(name)
        grace_s = POWER_OFF_GRACE_S
        if guest.machine.gone.is_set() or guest.paused or guest.lost or guest.agent is None:
            grace_s = 0.0
        else:
            with contextlib.suppress(LabError):
                guest.node.start("poweroff", {})
        try:
            await guest.machine.stop(grace_s)
        finally:
            if guest.agent:
                guest.agent.close()
            if guest.cabled:
                with contextlib.suppress(LabError):
                    await (await self._host()).call("network.disconnect", machine=name)
            self.guests.pop(name, None)
            self._forget(name)

    async def prepare(self, report: Report = quiet, wish: Wish = ANY) -> None:
        """Build what the first machine would have to wait for: guest image and template."""
        from .vm.template import ensure_template

        config = await self.config("template", wish, report)
        report("booting a machine to save as template", 0.3)
        await ensure_template(config, await self._host(), self._folder, self._settle)

    async def explain_loss(self, node_name: str, error: NodeLost) -> LabError:
        """Return a better error for a lost node, if its machine has ended: why it did, and its last words."""
        guest = self.guests.get(node_name)
        if guest is None:
            return error
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(guest.machine.gone.wait(), 1.0)
        if not guest.machine.gone.is_set():
            return error
        found: MachineError = guest.machine.error(f"machine {node_name} ended while the cell ran")
        return found

    def close(self) -> None:
        """Let go of all of them: the supervisor ends their QEMUs."""
        for guest in self.guests.values():
            if guest.agent:
                guest.agent.close()
        self.guests.clear()


def _refuse_host(name: str) -> None:
    if name == "host":
        raise UserError("host is the name of this computer's own kernel", hint="call the machine something else")


async def _rehearse(node: Node, machine: Machine) -> None:
    """Do what every clone does first, until nothing new happens, then settle.

    Files are read, copied up and mapped then, and CPython has specialised the agent's bytecode (PEP 659).
    """
    for _ in range(REHEARSALS):
        # The shortest name: a clone's own is then written over it, and nothing is to be truncated.
        await node.call("renew", **{**_identity(machine), "hostname": "-"})
        await node.call("exec", argv=["/bin/sh", "-c", "echo ready"])
    await node.call("settle")


def _identity(machine: Machine) -> dict[str, Any]:
    """Return what a clone must not share with its template."""
    return {
        "time_s": time.time(),
        "seed": secrets.token_hex(32),
        "hostname": machine.config.name,
        "machine_id": secrets.token_hex(16),
        "mac": machine.config.mac,
    }
