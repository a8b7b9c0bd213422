"""A running machine: QEMU, its monitor, its console, and the byte stream to the agent in its guest.

        Launcher.spawn(argv, fds)                        events ─▶ STOP RESUME RESET SHUTDOWN GUEST_PANICKED …
    boot ────────────▶ QEMU ──qmp──▶ running ⇄ paused ─────────────▶ gone (reason)
    restore ─────────▶ QEMU ──qmp, saved state──▶ ↗

A machine lives on the event loop that started it. QEMU is the child of whoever implements `Launcher`, who ends it when
the notebook ends; here its end is only noticed, and told with its reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import time
from collections import deque
from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..container.network.proxy import bind
from ..errors import LabError, MachineError
from . import qemu, resources
from .build import qemu_build
from .config import MachineConfig, Wiring
from .console import Console
from .handing import hand, opened
from .launcher import Launcher, Spawned, log_tail
from .observe.document import Facts
from .observe.ends import event_detail, why_gone
from .observe.observer import Observer
from .observe.poller import Poller
from .qemu import FIRST_FD, NETDEV, SLOT
from .qmp import Monitor
from .timeline import Times

__all__ = ["Launcher", "Machine", "Spawned"]

T = TypeVar("T")
START_LIMIT_S = 10.0
KILL_LIMIT_S = 2.0


class Machine:
    """One QEMU process.

    `stream` is our end of the agent's byte stream (non-blocking, to be taken over by a node), where the guest has an
    agent, `times` when each step of its start was done, `events` QMP's last events as (time, name, detail), `gone` is
    set once QEMU has ended, `reason` then tells why, `exit_status` is QEMU's own;
    `observer` looks at it, `poller` does so again and again.
    """

    def __init__(
        self, config: MachineConfig, command: Sequence[str], folder: Path, spawned: Spawned, times: Times
    ) -> None:
        self.config = config
        self.command = tuple(command)
        self.folder = folder
        self.pid = spawned.pid
        self.warnings = spawned.warnings
        self.stream: socket.socket
        self.times = times
        self.events: deque[tuple[float, str, str]] = deque(maxlen=100)
        self.gone = asyncio.Event()
        self.reason = ""
        self.exit_status: int | None = None
        self.started_s = time.time()
        self._clock_s = time.monotonic()
        self._spawned = spawned
        self._monitor: Monitor | None = None
        self._far: socket.socket | None = None
        self._console: Console
        self._waiting: list[tuple[str, dict[str, str], asyncio.Future[None]]] = []
        self._watcher: asyncio.Task[None]
        self.observer = Observer(self._ask, self._facts, self.gone)
        self.poller = Poller(self.observer.next)

    @classmethod
    async def boot(cls, config: MachineConfig, launcher: Launcher, run_dir: Path) -> Machine:
        """Start a machine from its kernel; returns when QEMU answers and the guest runs (its agent does not yet).

        Files go to ``run_dir/machines/NAME``. Raises MachineError with QEMU's own words, HostError without QEMU.
        """
        build = await asyncio.to_thread(qemu_build, config.platform)
        machine = await start(config, Wiring(qemu_version=build.version), launcher, run_dir)
        if config.debug_exit:
            await machine.resume()
        return machine

    @property
    def monitor(self) -> Monitor:
        """The QMP connection; raises MachineError when QEMU has ended."""
        if self._monitor is None or self.gone.is_set():
            raise self.error(f"machine {self.config.name} does not run")
        return self._monitor

    async def execute(self, command: str, **arguments: Any) -> Any:
        """Run a QMP command; its MachineError says what the machine's console and QEMU said last."""
        monitor = self.monitor
        try:
            return await monitor.execute(command, **arguments)
        except MachineError as error:
            # If QEMU is ending, its reason is a moment away.
            await self._ended(0.2)
            raise self.error(error.message, error.hint) from error

    async def add_file(self, descriptor: int) -> int:
        """Give QEMU an open file; return the number of its set, ``/dev/fdset/N``."""
        return await self.monitor.add_file(descriptor)

    async def pause(self) -> None:
        """Stop the virtual CPUs (QMP ``stop``)."""
        await self.execute("stop")

    async def resume(self) -> None:
        """Let the virtual CPUs run on (QMP ``cont``)."""
        await self.execute("cont")

    async def reset(self) -> None:
        """Press the reset button: the guest boots its kernel again, its memory is lost (QMP ``system_reset``)."""
        # From now on a guest may reboot itself: SeaBIOS does when it finds that it has run before (``tryReboot``).
        await self.execute("set-action", reboot="reset")
        reset = self.expect("RESET")
        await self.execute("system_reset")
        await self.within(reset, START_LIMIT_S, "reset")

    async def status(self) -> str:
        """Return ``running``, ``paused`` …: the RunState of QMP, or ``gone``."""
        if self.gone.is_set():
            return "gone"
        return str((await self.execute("query-status"))["status"])

    async def publish(self, protocol: str, host_ip: str, host_port: int, guest_port: int) -> int:
        """Let this computer's programs reach a port of the guest, whatever its way out is; return the host's port.

        QEMU itself listens (``hostfwd_add``) and speaks to the guest's address in its user network. `host_port` 0 is
        any free one. Raises UserError for a port that is taken.
        """
        with bind(protocol, host_ip, host_port) as sock:  # QEMU would not say why it cannot have one
            port = int(sock.getsockname()[1])
        await self._forward(f"hostfwd_add {NETDEV} {protocol}:{host_ip}:{port}-:{guest_port}")
        return port

    async def unpublish(self, protocol: str, host_ip: str, host_port: int) -> None:
        """End what `publish` began."""
        await self._forward(f"hostfwd_remove {NETDEV} {protocol}:{host_ip}:{host_port}")

    async def plug_card(self, descriptor: int, mac: str, kind: str = "tap") -> None:
        """Give the machine a second card, whose cable is the descriptor of a tap device, or of a stream ``socket`` with
        each frame's length before it; the caller closes its own copy.

        The guest finds it within a second or so, as its next ``ethN``, without an address.
        """
        name = f"card-{mac.replace(':', '')}"
        await self.monitor.give(descriptor, name)
        await self.execute("netdev_add", type=kind, id=name, fd=name)
        card = {"netdev": name, "mac": mac, "romfile": "", "bus": SLOT}
        await self.execute("device_add", driver="virtio-net-pci", id=f"{name}-card", **card)

    async def _forward(self, command: str) -> None:
        told = str(await self.execute("human-monitor-command", command_line=command)).strip()
        if told and not told.endswith("removed"):
            raise self.error(f"QEMU refused {command}: {told}", "QEMU publishes on IPv4 addresses of this computer")

    async def stop(self, grace_s: float = 0.0) -> None:
        """End QEMU: wait `grace_s` for a guest that was asked to power off, then ``quit``, then SIGKILL.

        Returns when QEMU has ended; it is no error if it had already.
        """
        if await self._ended(grace_s):
            return
        if self._monitor is not None:
            with contextlib.suppress(MachineError):
                await self._monitor.execute("quit", limit_s=1.0)
            if await self._ended(KILL_LIMIT_S):
                return
        await self._spawned.kill()
        if not await self._ended(KILL_LIMIT_S):
            raise self.error(f"QEMU process {self.pid} does not end, not even by SIGKILL")

    async def view(self) -> dict[str, Any]:
        """Return the hypervisor view (docs/architecture.md, "Views"); `observer` has its dear parts too."""
        return await self.observer.view()

    async def _ask(self, command: str, **arguments: Any) -> Any:
        # Not `execute`: a question that QEMU does not know is no sign of its end. Shielded, as who looks may look away:
        # qemu.qmp warns, on the notebook's page, of answers that nobody waits for.
        return await asyncio.shield(self.monitor.execute(command, **arguments))

    def _facts(self) -> Facts:
        return Facts(
            machine=self.config.name,
            uptime_s=time.monotonic() - self._clock_s,
            accelerator=self.config.accelerator.name,
            accelerator_reason=self.config.accelerator.reason,
            qemu_version=self._monitor.version if self._monitor else "",
            pid=self.pid,
            command=self.command,
            given_bytes=self.config.total_bytes,
            events=tuple(self.events),
            reason=self.reason,
        )

    @property
    def console(self) -> Console:
        """The first serial port."""
        return self._console

    def console_tail(self, lines: int = 15) -> str:
        """Return the last lines of the guest's console."""
        return self._console.tail(lines)

    def error(self, message: str, hint: str = "") -> MachineError:
        """Make an error about this machine: why it is gone if it is, and its last words."""
        if self.reason:
            message += f": {self.reason}"
        parts = [self.console_tail(), log_tail(self.folder / "qemu.log")]
        where = "\n".join(part for part in parts if part) or f"{self.folder}: the console is empty"
        return MachineError(message, where=where, hint=hint or "make a new one: %vm rm, then run the cell again")

    def expect(self, event: str, **fields: str) -> asyncio.Future[None]:
        """Return a future of the next event of that name with these fields; ask before doing what causes it."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((event, fields, future))
        return future

    async def within(self, awaitable: Awaitable[T], limit_s: float, doing: str) -> T:
        """Wait for something this machine's guest should do; raises MachineError when it ends or `limit_s` passes.

        `doing` completes the sentence "machine vm did not …".
        """
        wanted = asyncio.ensure_future(awaitable)
        ended = asyncio.ensure_future(self.gone.wait())
        try:
            await asyncio.wait((wanted, ended), timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            if wanted.done():
                return wanted.result()
        finally:
            ended.cancel()
            wanted.cancel()
        if self.gone.is_set():
            raise self.error(f"machine {self.config.name} ended before it could {doing}")
        raise self.error(f"machine {self.config.name} did not {doing} in {limit_s:g} s")

    @property
    def phases(self) -> list[tuple[str, float]]:
        """When each step of its start was done, in seconds since QEMU was begun."""
        return self.times.since_s("begun")

    def timeline(self) -> dict[str, Any]:
        """Return what its start consisted of: one of ``starts`` of a timeline (docs/architecture.md, "Views")."""
        return self.times.document(self.config.name, self._console.early)

    @property
    def far(self) -> socket.socket | None:
        """QEMU's end of the agent's stream: kept, so that a second QEMU can be given it as well (`start`, `agent`)."""
        return self._far

    def take_stream(self, other: Machine) -> None:
        """Become the one whose end ends the agent's stream; `other` was until now, and let it go on here."""
        if other._far is not None:
            self.stream, self._far, other._far = other.stream, other._far, None
        self.started_s, self._clock_s = other.started_s, other._clock_s
        self._console.prepend(other._console)

    def discard(self) -> None:
        """Close and remove what is left of a machine that has ended and that nobody will ask about."""
        if self._far is not None:
            self.stream.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def mark(self, phase: str) -> None:
        """Note that a step of starting is done: a name of `timeline.PHASES`."""
        self.times.mark(phase)

    def become(self, config: MachineConfig, asked_s: float) -> None:
        """Be what somebody asked for just now, having been made before."""
        made = self.timeline()
        self.config, self.times = config, Times("spare", asked_s)
        self.times.earlier = [{**made, "name": "the spare"}, *made["earlier"]]

    async def _ended(self, limit_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.gone.wait(), max(limit_s, 0.001))
        return self.gone.is_set()

    def _on_event(self, name: str, data: Mapping[str, Any], seconds: float) -> None:
        self.events.append((seconds, name, event_detail(data)))
        for waiter in [one for one in self._waiting if one[0] == name and one[1].items() <= data.items()]:
            self._waiting.remove(waiter)
            if not waiter[2].done():
                waiter[2].set_result(None)

    async def _watch(self) -> None:
        """Wait for QEMU's end, then say so to everybody."""
        try:
            self.exit_status = status = await self._spawned.wait()
            # The last events and console lines lie in our sockets still.
            await asyncio.sleep(0.02)
            self._console.drain()
            panicked = "Kernel panic" in self.console_tail(1)
            self.reason = why_gone(self.events, status, self._spawned.struck, panicked=panicked)
        except LabError as error:
            self.reason = f"whoever started QEMU is gone: {error.message}"
        finally:
            self._console.drain()
            self.gone.set()
            if self._far is not None:
                # Not only closed: a child that the notebook forked may have a copy.
                with contextlib.suppress(OSError):
                    self._far.shutdown(socket.SHUT_RDWR)
                self._far.close()
        self.observer.close()
        if self._monitor is not None:
            await self._monitor.close()


async def start(
    config: MachineConfig,
    wiring: Wiring,
    launcher: Launcher,
    run_dir: Path,
    asked_s: float | None = None,
    *,
    place: str = "",
    agent: socket.socket | None = None,
) -> Machine:
    """Start QEMU and connect to it; on failure nothing stays behind but its log.

    `asked_s`: when it was asked for. Its folder and control group are named `place`, else after it. `agent`: the far
    end of a stream that another QEMU has too, whose machine this one will become (`Machine.take_stream`).
    """
    times = Times("clone" if wiring.restore else "cold", asked_s)
    program = str(qemu.program_path(config.platform))
    place = place or config.name
    folder = run_dir / "machines" / place
    folder.mkdir(parents=True, exist_ok=True)
    pairs = [socket.socketpair() for _ in range(3 if config.agent and agent is None else 2)]
    theirs = [pair[1] for pair in pairs] + ([agent] if agent else [])
    handed = hand(config, wiring, FIRST_FD + len(theirs))
    command = [*qemu.argv(handed.config, handed.wiring, program), *handed.options]
    try:
        with opened(handed) as (files, groups):
            fds = [*(sock.fileno() for sock in theirs), *files]
            cage = resources.cage(config, wiring, groups, place)
            times.mark("begun")
            spawned = await launcher.spawn(command, fds=fds, log=folder / "qemu.log", cage=cage)
    except BaseException:
        for ours, far in pairs:
            ours.close()
            far.close()
        raise
    for _, far in pairs[:2]:
        far.close()
    machine = Machine(config, command, folder, spawned, times)
    machine._far = pairs[2][1] if pairs[2:] else None
    machine.mark("spawn")
    await _connect(machine, *(ours for ours, _ in pairs))
    return machine


async def _connect(
    machine: Machine, qmp: socket.socket, console: socket.socket, agent: socket.socket | None = None
) -> None:
    if agent:
        agent.setblocking(False)
        machine.stream = agent
    machine._console = Console(console, machine.folder / "console.log")
    machine._watcher = asyncio.create_task(machine._watch())
    try:
        machine._monitor = await Monitor.connect(qmp, machine._on_event, START_LIMIT_S)
    except BaseException as error:
        # QEMU has ended, or is to: its log has the reason, which is better than ours.
        await machine.stop(grace_s=0.5 if isinstance(error, MachineError) else 0.0)
        if agent:
            agent.close()
        if isinstance(error, MachineError):
            hint = "see the lines above, and what `vmcontainer doctor` says of QEMU"
            raise machine.error(f"QEMU could not start machine {machine.config.name}", hint) from error
        raise
    machine.mark("qmp")
