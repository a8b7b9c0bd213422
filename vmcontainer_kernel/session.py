"""What one notebook has running: the supervisor, machines, containers, and the event-loop thread they live on.

    main thread ──wait(coroutine)──▶ loop thread ── host node ── supervisor process
                                        └── Guest(machine, node) for each %%vm

The notebook process never forks. All is ended by closing the supervisor's socket; if we die, the kernel does it.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import LabError, MachineError, NodeLost, NotFound, UserError
from .giving import ensure_default_image, give_image
from .memory import available_memory
from .node import HostAgent, Node, Request
from .paths import cache_dir, run_dir
from .ports import Ports
from .run import Run

if TYPE_CHECKING:
    from .vm.machine import Machine
    from .vm.qemu import MachineConfig

__all__ = ["Guest", "Session", "current", "end"]

T = TypeVar("T")
Report = Callable[[str, float], None]

AGENT_BOOT_LIMIT_S = 60.0  # a cold boot under emulation on a busy computer; usually 4 s
AGENT_WAKE_LIMIT_S = 15.0
POWER_OFF_GRACE_S = 3.0
REHEARSALS = 16
# PID 1 of a named container: it waits, reaps what is orphaned to it (wait), and ends at SIGTERM.
HOLD = ("/bin/sh", "-c", "trap 'exit 0' TERM INT; while :; do sleep 86400 & wait $!; done")


def _quiet(phase: str, fraction: float) -> None:
    """Report to nobody."""


@dataclass
class Guest:
    """A machine and the node in it."""

    machine: Machine
    node: Node
    started_s: float
    paused: bool = False
    waking: asyncio.Task[None] | None = None
    cabled: bool = False  # it has cards in networks of the host's containers


class Session:
    """Names, lifetimes, one event loop in one thread. What is not ``async`` may be called from any thread."""

    def __init__(self) -> None:
        self.id = f"s{os.getpid()}-{secrets.token_hex(3)}"
        self.guests: dict[str, Guest] = {}
        self.containers: dict[tuple[str, str], dict[str, Any]] = {}  # (node, name) -> options it was made with
        self._host: HostAgent | None = None
        self._host_lock = asyncio.Lock()
        self._untold: list[str] = []
        self.ports = Ports(lambda name: self.guests[name].machine if name in self.guests else None)
        self._making: dict[str, asyncio.Lock] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vmcontainer", daemon=True)
        self._thread.start()
        self._closed = False
        atexit.register(self.close)
        os.register_at_fork(after_in_child=self._forget)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that nodes and machines live on."""
        return self._loop

    def wait(self, coroutine: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        """Run a coroutine on the loop and wait here; an interrupt cancels it."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(timeout_s)
        except BaseException:
            future.cancel()
            raise

    # -- nodes

    async def host(self) -> Node:
        """Return the host's node; its supervisor is started by the first request."""
        async with self._host_lock:
            if self._host is None or self._host.node.lost.is_set():
                if self._closed:
                    raise UserError("this notebook's session has ended", hint="restart the kernel")
                self.guests.clear()
                self.containers.clear()
                await asyncio.to_thread(ensure_default_image)
                self._host = await HostAgent.launch(run_dir() / self.id, cache_dir("images"))
            return self._host.node

    async def node(self, name: str) -> Node:
        """Return a node by name: ``host``, or a machine that is there."""
        return await self.host() if name == "host" else self.guest(name).node

    def guest(self, name: str) -> Guest:
        """Return a machine by name; raises NotFound with those there are."""
        try:
            return self.guests[name]
        except KeyError:
            names = ", ".join(sorted(self.guests)) or "none yet"
            raise NotFound(
                f"there is no machine {name}", hint=f"there are: {names}. A cell that starts with %%vm {name} makes it"
            ) from None

    # -- machines

    async def ensure_guest(
        self, name: str, *, memory_bytes: int | None = None, cpus: int | None = None, report: Report = _quiet
    ) -> Guest:
        """Return machine `name`, cloned from its template if there is none; one caller at a time makes it."""
        async with self._making.setdefault(name, asyncio.Lock()):
            guest = self.guests.get(name)
            if guest and guest.waking and guest.node.lost.is_set():
                await asyncio.wait([guest.waking])  # it may be ending because it did not wake
                guest = self.guests.get(name)
            if guest:
                await self._check_same(guest, memory_bytes, cpus)
                return guest
            if name == "host":
                raise UserError(
                    "host is the name of this computer's own kernel", hint="call the machine something else"
                )
            guest = await self._make(name, memory_bytes, cpus, report)
            self.guests[name] = guest
            return guest

    async def _check_same(self, guest: Guest, memory_bytes: int | None, cpus: int | None) -> None:
        config = guest.machine.config
        if guest.machine.gone.is_set() or guest.node.lost.is_set():
            raise guest.machine.error(f"machine {config.name} has ended", hint=f"make a new one: %vm rm {config.name}")
        if memory_bytes not in (None, config.memory_bytes) or cpus not in (None, config.cpus):
            raise UserError(
                f"machine {config.name} runs already, with {config.memory_bytes >> 20} MiB and {config.cpus} CPU",
                hint=f"remove it first (%vm rm {config.name}), or use another name",
            )

    async def config(self, name: str, memory_bytes: int | None, cpus: int | None, report: Report) -> MachineConfig:
        """Return the description of a machine; builds the guest image if there is none yet."""
        from .vm import accelerator, qemu
        from .vm.guest import ensure_guest, find_guest

        image = find_guest()
        if image is None:
            image = await asyncio.to_thread(ensure_guest, report)
        config = qemu.MachineConfig(name=name, guest=image, accelerator=await asyncio.to_thread(accelerator.choose))
        config = replace(config, memory_bytes=memory_bytes or config.memory_bytes, cpus=cpus or config.cpus)
        qemu.check(config, os.cpu_count() or 1, available_memory()[0])
        return config

    async def _make(self, name: str, memory_bytes: int | None, cpus: int | None, report: Report) -> Guest:
        from .vm.template import clone, ensure_template

        started_s = time.monotonic()
        config = await self.config(name, memory_bytes, cpus, report)
        host = await self.host()
        folder = self.folder
        report("booting a machine once, to save it as a template (usually 4 to 6 s)", 0.0)
        template = await ensure_template(config, host, folder, self._settle)
        report("waking a clone of the template", 0.9)
        machine = await clone(template, name, host, folder)
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
            await machine.within(node.connect(AGENT_BOOT_LIMIT_S), AGENT_BOOT_LIMIT_S, "answer")
            machine.mark("agent")
            await machine.within(_rehearse(node, machine), AGENT_BOOT_LIMIT_S, "settle")
        finally:
            node.detach()

    @property
    def folder(self) -> Path:
        """This session's run folder."""
        return run_dir() / self.id

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
        guest.node.detach()
        await guest.machine.reset()
        guest.paused = False
        self._forget_containers(name)
        guest.node = Node(name, guest.machine.stream)
        await guest.machine.within(guest.node.connect(AGENT_BOOT_LIMIT_S), AGENT_BOOT_LIMIT_S, "answer after the reset")
        await guest.node.call("renew", **_identity(guest.machine))

    async def remove(self, name: str) -> None:
        """Ask the guest to power off, then end QEMU; the name is free again."""
        guest = self.guest(name)
        grace_s = POWER_OFF_GRACE_S
        if guest.machine.gone.is_set() or guest.paused or guest.node.lost.is_set():
            grace_s = 0.0
        else:
            with contextlib.suppress(LabError):
                guest.node.start("poweroff", {})
        try:
            await guest.machine.stop(grace_s)
        finally:
            guest.node.close()
            if guest.cabled:
                with contextlib.suppress(LabError):
                    await (await self.host()).call("network.disconnect", machine=name)
            self.guests.pop(name, None)
            self._forget_containers(name)

    def _forget_containers(self, node_name: str) -> None:
        self.containers = {key: options for key, options in self.containers.items() if key[0] != node_name}

    # -- commands

    def run(
        self,
        name: str,
        start: Callable[[Run], Coroutine[Any, Any, Request]],
        divert: Callable[[int, bytes], None] | None = None,
    ) -> Run:
        """Start a command; `name` says where, for messages."""
        return Run(self._loop, name, start, divert)

    async def start_on(self, node: Node, verb: str, arguments: dict[str, Any], run: Run) -> Request:
        """Send a request whose streams go to `run`; refuses a node whose machine is paused."""
        guest = self.guests.get(node.name)
        if guest and guest.paused:
            raise UserError(f"machine {node.name} is paused", hint=f"%vm resume {node.name}")
        return node.start(verb, arguments, on_data=run.on_data, on_event=run.on_event)

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

    async def hold(self, node: Node, name: str, options: dict[str, Any], report: Report = _quiet) -> None:
        """Make container `name`, whose first process waits, unless it is there; later cells run inside it.

        Raises UserError if it is there and `options` say something else than those it was made with.
        """
        made_with = self.containers.get((node.name, name))
        if made_with is None:
            await give_image(node, options.get("image"), report)
            async with self.ports.published(node.name, {**options, "argv": list(HOLD)}) as (described, keep):
                try:
                    reply = await node.call("container.run", name=name, options=described, detach=True)
                except asyncio.CancelledError:  # an agent carries out requests in order: it may be there by then
                    node.start("container.remove", {"name": name, "force": True})
                    raise
                keep(name)
            self._untold += reply.get("warnings") or []
            self.containers[node.name, name] = options
        elif any(made_with.get(key) != value for key, value in options.items()):
            raise UserError(
                f"container {name} was made with other options: {made_with or 'none'}",
                hint=f"remove it first (%container rm {name}), or leave the options out",
            )

    def untold(self, node_name: str) -> list[str]:
        """Return what the user does not know yet: what containers lack on this node, and what one of his has not as
        asked; each once.
        """
        host = self._host.node if self._host and node_name == "host" else None
        lacking: list[str] = host.facts.pop("losses", []) if host else []
        told, self._untold = self._untold, []
        return [f"containers here: {'; '.join(lacking)} (%lab doctor says more)"] * bool(lacking) + told

    def note_container(self, node: Node, name: str, options: dict[str, Any]) -> None:
        """Take note of a container that was made by name, so that cells run inside it."""
        self.containers[node.name, name] = options

    async def remove_container(self, node: Node, name: str) -> None:
        """Kill and remove a container."""
        await node.call("container.remove", name=name, force=True)
        self.containers.pop((node.name, name), None)
        await self.ports.release(node.name, name)

    # -- beginning and end

    def prepare(self, report: Report = _quiet) -> None:
        """Build what the first cell would have to wait for: guest image and template."""

        async def build() -> None:
            from .vm.template import ensure_template

            config = await self.config("template", None, None, report)
            report("booting a machine to save as template", 0.3)
            await ensure_template(config, await self.host(), self.folder, self._settle)

        self.wait(build())

    def close(self) -> None:
        """End everything of this session and wait until it is gone; further calls do nothing."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        with contextlib.suppress(Exception):
            self.wait(self._close(), 20.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(2.0)

    async def _close(self) -> None:
        for guest in self.guests.values():
            guest.node.close()
        self.guests.clear()
        if self._host:
            await self._host.close()

    def _forget(self) -> None:
        """In a forked child: let go of the supervisor's socket, or its end of file would wait for this child."""
        self._closed = True
        if self._host and not self._host.node.lost.is_set():
            self._host.node.let_go()


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


_session: Session | None = None


def current() -> Session:
    """Return this process's session, begun now if there is none."""
    global _session  # noqa: PLW0603 - one notebook, one session
    if _session is None or _session._closed:
        _session = Session()
    return _session


def end() -> None:
    """End this process's session, if any."""
    if _session is not None:
        _session.close()
