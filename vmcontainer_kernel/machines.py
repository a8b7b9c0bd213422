"""The machines of a session: each a QEMU and the node in its guest; by name, from their making to their end.

ensure(name) ── there? ──▶ Guest
            └── config ─▶ spare? ────────────────▶ renew ─▶ Guest(machine, node)
                       └▶ template ─▶ clone ─▶ hello, ↗
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .admission import Admission, private_bytes
from .drives import find_again, release
from .errors import LabError, MachineError, NodeLost, NotFound, UserError
from .guests import Guest, booted, identity, rehearse, rehearse_once
from .memory import available_memory
from .node import Node, Request
from .spares import LOW_SHARES, Spares

if TYPE_CHECKING:
    from .vm.config import MachineConfig
    from .vm.guest import GuestImage
    from .vm.machine import Machine
    from .vm.packages import Origin

__all__ = ["ANY", "USUAL_SHARES", "Machines", "Report", "Wish", "quiet"]

Report = Callable[[str, float], None]

AGENT_WAKE_LIMIT_S = 15.0
POWER_OFF_GRACE_S = 3.0
SPARE_REHEARSALS = 3
USUAL_SHARES = 1024
_MEASURED = 3  # to walk through the pages of one takes a millisecond


def quiet(phase: str, fraction: float) -> None:
    """Report to nobody."""


@dataclass(frozen=True)
class Wish:
    """What a cell says of its machine; None is whatever it has, or the default of a new one.

    `network` is ``none``, ``user`` (with a way out), or empty.
    """

    memory_bytes: int | None = None
    cpus: int | None = None
    origin: Origin | None = None
    max_cpus: int | None = None
    cpu_shares: int | None = None
    cpu_quota_us: int | None = None
    network: str = ""

    def differs_from(self, config: MachineConfig) -> bool:
        """Tell whether a machine is not what is wished for."""
        pairs = (
            (self.memory_bytes, config.total_bytes),
            (self.cpus, config.total_cpus),
            (self.origin and self.origin.label, config.label),
            (self.network == "none" or None, not config.network),
            (self.network == "user" or None, config.network and not config.restricted),
        )
        return any(wished not in (None, there) for wished, there in pairs)


ANY: Final = Wish()


class Machines:
    """What `%%vm` made: names and lifetimes, on the session's event loop."""

    def __init__(self, host: Callable[[], Awaitable[Node]], folder: Path, forget: Callable[[str], None]) -> None:
        """`host` gives the host's node, which starts QEMU; `folder` is the session's run folder; `forget` is told the
        name of a node whose containers are gone.
        """
        self.guests: dict[str, Guest] = {}
        self._host, self._folder, self._forget = host, folder, forget
        self._making: dict[str, asyncio.Lock] = {}
        self._images: dict[Origin, GuestImage] = {}
        self.spares = Spares(self._make_spare, self._end_spare)
        self.admission = Admission()
        self._admitted: set[str] = set()  # for them there is a place already
        self._warned: set[str] = set()

    def guest(self, name: str) -> Guest:
        """Return a machine by name; raises NotFound with those there are."""
        try:
            return self.guests[name]
        except KeyError:
            names = ", ".join(sorted(self.guests)) or "none yet"
            raise NotFound(
                f"there is no machine {name}", hint=f"there are: {names}. A cell that starts with %%vm {name} makes it"
            ) from None

    def warnings(self) -> list[str]:
        """Return what holds machines less tightly here than it should, each once."""
        found = dict.fromkeys(line for guest in self.guests.values() for line in guest.machine.warnings)
        fresh = [line for line in found if line not in self._warned]
        self._warned.update(fresh)
        return fresh

    def find(self, name: str) -> Machine | None:
        """Return a machine, if there is one of this name."""
        return self.guests[name].machine if name in self.guests else None

    def changing(self, name: str) -> asyncio.Lock:
        """Return the lock of whoever makes a machine of that name, or changes what it is."""
        return self._making.setdefault(name, asyncio.Lock())

    async def ensure(self, name: str, wish: Wish = ANY, report: Report = quiet) -> Guest:
        """Return machine `name`, cloned from its template if there is none; one caller at a time makes it."""
        async with self.changing(name):
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

    async def ensure_all(self, names: Sequence[str], wish: Wish = ANY, report: Report = quiet) -> list[Guest]:
        """Return machines `names`; if those that are not there do not fit here all, none is made (UserError)."""
        lacking = [name for name in dict.fromkeys(names) if name not in self.guests]
        place = self.admission.reserve(len(lacking), self._need_bytes())
        self._admitted.update(lacking)
        try:
            made = await asyncio.gather(*(self.ensure(name, wish, report) for name in names), return_exceptions=True)
        finally:
            self._admitted.difference_update(lacking)
            place.release()
        for one in made:
            if isinstance(one, BaseException):
                raise one
        return [one for one in made if isinstance(one, Guest)]

    def _need_bytes(self) -> int:
        """Return what one more clone needs, by those that were made last."""
        return private_bytes([guest.machine for guest in self.guests.values()][-_MEASURED:])

    async def boot(self, config: MachineConfig) -> Guest:
        """Start a machine whose guest has no agent of ours; returns when it runs. Raises UserError for a taken name."""
        from .vm import qemu
        from .vm.machine import Machine

        async with self.changing(config.name):
            _refuse_host(config.name)
            if config.name in self.guests:
                hint = f"remove it first (%vm rm {config.name}), or use another name"
                raise UserError(f"there is a machine {config.name} already", hint=hint)
            qemu.check(config, os.cpu_count() or 1, available_memory()[0])
            started_s = time.monotonic()
            place = self.admission.reserve(1, config.memory_bytes)
            try:
                machine = await Machine.boot(config, await self._host(), self._folder)
            finally:
                place.release()
            guest = self.guests[config.name] = Guest(machine, None, started_s)
            return guest

    async def boot_cold(self, name: str, wish: Wish = ANY) -> Guest:
        """Start a machine of ours from its kernel, without a template; returns when its agent has answered."""
        guest = await self.boot(await self.config(name, wish, quiet))
        guest.agent = Node(name, guest.machine.stream)
        try:
            await booted(guest.agent, guest.machine)
            await guest.agent.call("renew", **identity(guest.machine))
        except BaseException:
            await self.drop(guest)
            raise
        return guest

    async def _check_same(self, guest: Guest, wish: Wish) -> None:
        config = guest.machine.config
        if guest.machine.gone.is_set() or guest.lost:
            raise guest.machine.error(f"machine {config.name} has ended", hint=f"make a new one: %vm rm {config.name}")
        if wish.differs_from(config):
            system = f"{config.label or config.arch}, {config.total_bytes >> 20} MiB and {config.total_cpus} CPU"
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
        # What is loaded into this notebook does not change, nor does its image; to find it again takes 20 ms.
        image = self._images.get(origin) or find_guest(origin)
        if image is None or not image.path.exists():
            image = await asyncio.to_thread(ensure_guest, report, origin)
        self._images[origin] = image
        engine = accelerator_for(origin.arch, await asyncio.to_thread(accelerator.choose))
        config = MachineConfig(name, image.boot, engine, arch=origin.arch, label=origin.label)
        config = replace(
            config,
            memory_bytes=wish.memory_bytes or image.recipe.memory_bytes,
            cpus=wish.cpus or config.cpus,
            max_cpus=wish.max_cpus or config.max_cpus,
            cpu_shares=wish.cpu_shares,
            cpu_quota_us=wish.cpu_quota_us,
            network=wish.network != "none",
            restricted=wish.network != "user",
            boots=image.recipe.boots,
        )
        qemu.check(config, os.cpu_count() or 1, available_memory()[0])
        return config

    async def _make(self, name: str, wish: Wish, report: Report) -> Guest:
        started_s = time.monotonic()
        config = await self.config(name, wish, report)
        host = await self._host()
        spare = self.spares.take(config)
        if spare:
            return self._adopt_spare(spare, host, name, started_s)
        place = self.admission.reserve(0 if name in self._admitted else 1, self._need_bytes())
        try:
            guest = await self._make_clone(config, host, started_s, report)
        except BaseException:
            place.release()
            raise
        if guest.waking:
            guest.waking.add_done_callback(lambda _: place.release())
        return guest

    async def _make_clone(self, config: MachineConfig, host: Node, started_s: float, report: Report) -> Guest:
        from .vm.template import clone, ensure_template

        report(f"booting a machine once, to save it as a template (usually {config.boots.usually})", 0.0)
        template = await ensure_template(config, host, self._folder, self._settle)
        report("waking a clone of the template", 0.9)
        machine = await clone(template, config.name, host, self._folder, started_s)
        return self.adopt(machine, started_s)

    def _adopt_spare(self, guest: Guest, host: Node, name: str, started_s: float) -> Guest:
        """Give a machine made ahead its name, and a new identity once more: its seed is as old as the spare is."""
        machine = guest.machine
        host.start("machine.update", {"name": machine.config.name, "rename": name})
        machine.become(machine.config.named(name, machine.config.mac), started_s)
        machine.mark("begun")
        guest.node.name, guest.started_s = name, started_s
        guest.waking = asyncio.create_task(self._awaken(guest, guest.node.start("renew", identity(machine))))
        return guest

    async def _make_spare(self, config: MachineConfig) -> Guest:
        """Wake a clone and have it do what a first cell will ask of it; at a low weight, if that can be taken back."""
        from .vm.template import clone, find_template

        host = await self._host()
        gently = os.geteuid() == 0
        template = find_template(replace(config, cpu_shares=LOW_SHARES) if gently else config)
        if template is None:
            raise MachineError("there is no template any more", hint="the next machine makes it")
        machine = await clone(template, config.name, host, self._folder)
        node = Node(config.name, machine.stream)
        guest = Guest(machine, node, time.monotonic())
        try:
            node.start("renew", identity(machine), hello=True)
            for _ in range(SPARE_REHEARSALS):
                await machine.within(rehearse_once(node, machine), AGENT_WAKE_LIMIT_S, "answer")
                machine.mark("agent")
            if gently:
                shares = config.cpu_shares or USUAL_SHARES
                await host.call("machine.update", name=config.name, resources={"cpu_shares": shares})
            machine.config = replace(machine.config, cpu_shares=config.cpu_shares)
        except BaseException:
            await self._end_spare(guest)
            raise
        return guest

    async def _end_spare(self, guest: Guest) -> None:
        try:
            await guest.machine.stop()
        finally:
            guest.node.close()

    def adopt(self, machine: Machine, started_s: float, who: dict[str, Any] | None = None, number: int = 0) -> Guest:
        """Shake hands with a woken machine's agent and give it an identity of its own, or the one given (`who`).

        `number`: of the last request that its agent had when it was saved.
        The answer is not waited for: an agent does one thing after the other, so whatever is asked of it next finds
        the clone renewed, and a round trip is spared. If it cannot be renewed, that is the answer to all of it.
        """
        node = Node(machine.config.name, machine.stream, number)
        guest = Guest(machine, node, started_s)
        renewed = node.start("renew", who or identity(machine), hello=True)
        guest.waking = asyncio.create_task(self._awaken(guest, renewed))
        return guest

    async def _awaken(self, guest: Guest, renewed: Request) -> None:
        machine = guest.machine
        try:
            await machine.within(renewed.done, AGENT_WAKE_LIMIT_S, "answer")
            machine.mark("agent")
            self.spares.want(machine.config)
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
            await booted(node, machine)
            await machine.within(rehearse(node, machine), machine.config.boots.limit_s, "settle")
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
        await booted(guest.node, guest.machine, "answer after the reset")
        await guest.node.call("renew", **identity(guest.machine))
        await find_again(guest.machine, guest.node)
        for once_more in guest.again:
            await once_more()

    async def remove(self, name: str) -> None:
        """Ask the guest to power off, then end QEMU; the name is free again."""
        guest = self.guest(name)
        grace_s = POWER_OFF_GRACE_S
        if guest.machine.gone.is_set() or guest.paused or guest.lost or guest.agent is None:
            grace_s = 0.0
        else:
            await release(guest.machine, guest.node)
            with contextlib.suppress(LabError):
                guest.node.start("poweroff", {})
        await self.drop(guest, grace_s)

    async def drop(self, guest: Guest, grace_s: float = 0.0, why: LabError | None = None) -> None:
        """End a machine's QEMU; the name is free again. `why`: what its requests are told."""
        name = guest.machine.config.name
        try:
            if why and guest.agent:
                guest.agent.close(error=why)
            await guest.machine.stop(grace_s)
        finally:
            if guest.agent:
                guest.agent.close()
            if guest.cabled:
                with contextlib.suppress(LabError):
                    await (await self._host()).call("network.disconnect", machine=name)
            if self.guests.get(name) is guest:
                del self.guests[name]
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
        self.spares.close()
        for guest in self.guests.values():
            if guest.agent:
                guest.agent.close()
        self.guests.clear()


def _refuse_host(name: str) -> None:
    if name == "host":
        raise UserError("host is the name of this computer's own kernel", hint="call the machine something else")
