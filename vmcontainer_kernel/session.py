"""What one notebook has running: the supervisor, machines, containers, and the event-loop thread they live on.

    main thread ──wait(coroutine)──▶ loop thread ── host node ── supervisor process
                                        └── Guest(machine, node) for each %%vm

The notebook process never forks. All is ended by closing the supervisor's socket; if we die, the kernel does it.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from .errors import UserError
from .giving import ensure_default_image, give_image
from .host_agent import HostAgent
from .lans import Lans
from .machines import ANY, Machines, Report, Wish, quiet
from .node import Node, Request
from .paths import cache_dir, run_dir
from .ports import Ports
from .run import Run
from .starts import Starts
from .states import Containers, States
from .timelines import document

__all__ = ["Session", "current", "end"]

T = TypeVar("T")
# PID 1 of a named container: it waits, reaps what is orphaned to it (wait), and ends at SIGTERM.
HOLD = ("/bin/sh", "-c", "trap 'exit 0' TERM INT; while :; do sleep 86400 & wait $!; done")


class Session:
    """Names, lifetimes, one event loop in one thread. What is not ``async`` may be called from any thread."""

    def __init__(self) -> None:
        self.id = f"s{os.getpid()}-{secrets.token_hex(3)}"
        self.containers: dict[tuple[str, str], dict[str, Any]] = {}  # (node, name) -> options it was made with
        self._host: HostAgent | None = None
        self._host_lock = asyncio.Lock()
        self._untold: list[str] = []
        self.starts = Starts()
        self.machines = Machines(self.host, run_dir() / self.id, self._forget_containers)
        self.ports = Ports(self.machines.find)
        self.lans = Lans(self.machines, self.host, run_dir() / self.id)
        self.states = States(
            self.machines, self.host, run_dir() / self.id, self.ports, self._containers_of, self._restored
        )
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

    def wait_showing(self, coroutine: Coroutine[Any, Any, T], show: Callable[[], None]) -> T:
        """Run a coroutine on the loop, wait here, and `show` ten times a second how far it is."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            while True:
                with contextlib.suppress(concurrent.futures.TimeoutError):
                    return future.result(0.1)
                if future.done():
                    return future.result()
                show()
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
                self.machines.guests.clear()
                self.containers.clear()
                await asyncio.to_thread(ensure_default_image)
                self._host = await HostAgent.launch(run_dir() / self.id, cache_dir("images"))
            return self._host.node

    async def node(self, name: str) -> Node:
        """Return a node by name: ``host``, or a machine that is there."""
        return await self.host() if name == "host" else self.machines.guest(name).node

    def _forget_containers(self, node_name: str) -> None:
        self.containers = {key: options for key, options in self.containers.items() if key[0] != node_name}

    def _containers_of(self, node_name: str) -> Containers:
        return {name: options for (node, name), options in self.containers.items() if node == node_name}

    def _restored(self, node_name: str, containers: Containers) -> None:
        self.containers |= {(node_name, name): options for name, options in containers.items()}

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
        guest = self.machines.guests.get(node.name)
        if guest and guest.paused:
            raise UserError(f"machine {node.name} is paused", hint=f"%vm resume {node.name}")
        started, first = self.starts.note(node.name, verb, arguments), None
        if guest and not guest.heard:
            guest.heard, first = True, guest

        def on_data(stream: int, data: bytes) -> None:
            run.on_data(stream, data)
            if started:
                started.on_data()
            if first:
                first.machine.mark("output")

        def on_event(event: dict[str, Any]) -> None:
            if started:
                started.on_event(event)
            if first and event.get("event") == "started":
                first.machine.mark("exec")
            run.on_event(event)

        request = node.start(verb, arguments, on_data=on_data, on_event=on_event)
        if started:
            started.request = request.number
        return request

    async def start_detached(self, node: Node, arguments: dict[str, Any]) -> dict[str, Any]:
        """Make a container that runs on (``container.run``), and return the answer."""
        started = self.starts.note(node.name, "container.run", arguments)
        assert started
        request = node.start("container.run", {**arguments, "detach": True}, on_event=started.on_event)
        started.request = request.number
        return await request.done

    async def timeline(self) -> dict[str, Any]:
        """Return the last starts of machines, containers and commands (docs/architecture.md, "Views")."""
        for guest in self.machines.guests.values():
            self.starts.add_machine(guest.machine.timeline(), guest.machine.times.asked_s)
        return document(self.starts.told(), time.time())

    async def hold(self, node: Node, name: str, options: dict[str, Any], report: Report = quiet) -> None:
        """Make container `name`, whose first process waits, unless it is there; later cells run inside it.

        Raises UserError if it is there and `options` say something else than those it was made with.
        """
        made_with = self.containers.get((node.name, name))
        if made_with is None:
            await give_image(node, options.get("image"), report)
            async with self.ports.published(node.name, {**options, "argv": list(HOLD)}) as (described, keep):
                try:
                    reply = await self.start_detached(node, {"name": name, "options": described})
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
        told, self._untold = [*self._untold, *self.machines.warnings()], []
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

    def prepare(self, report: Report = quiet, wish: Wish = ANY) -> None:
        """Build what the first cell would have to wait for: guest image and template."""

        self.wait(self.machines.prepare(report, wish))

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
        self.machines.close()
        self.lans.close()
        if self._host:
            await self._host.close()

    def _forget(self) -> None:
        """In a forked child: let go of the supervisor's socket, or its end of file would wait for this child."""
        self._closed = True
        if self._host and not self._host.node.lost.is_set():
            self._host.node.let_go()


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
