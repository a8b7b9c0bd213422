"""What a session's machines were and will be: snapshots, branches, machines put aside, machines that move.

running ── snapshot ──▶ saved ── restore ──▶ the same machine, as it was
                              └─ clone ────▶ another one: new name, address, machine-id, random numbers
running ── suspend ───▶ saved, gone ── resume, in any notebook ──▶ running
running ── migrate ───▶ running, in another QEMU
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UserError
from .guests import Guest
from .machines import Machines
from .memory import available_memory
from .node import Node, unread_bytes
from .ports import Ports

if TYPE_CHECKING:
    from .vm.config import MachineConfig
    from .vm.state.manifest import Saved
    from .vm.state.migration import Migration

__all__ = ["Containers", "States", "split_title"]

REST_LIMIT_S = 2.0
Containers = dict[str, dict[str, Any]]


class States:
    """Saves, wakes and moves the machines of a session, on its event loop."""

    def __init__(
        self,
        machines: Machines,
        host: Callable[[], Awaitable[Node]],
        folder: Path,
        ports: Ports,
        containers: Callable[[str], Containers],
        restored: Callable[[str, Containers], None],
    ) -> None:
        """`containers` gives those that this notebook made on a node, by name; `restored` is told which there are."""
        self._machines, self._host, self._folder, self._ports = machines, host, folder, ports
        self._containers, self._restored = containers, restored
        self._numbers = itertools.count(1)

    async def snapshot(self, name: str, snapshot: str = "") -> tuple[str, float]:
        """Save a machine under a name, and let it go on; return its title and for how long it stood still, in seconds.

        Raises UserError for a machine that is at work or a name that is taken, HostError when there is no room.
        """
        from .vm import cache
        from .vm.state.shelf import Shelf

        shelf = Shelf()
        async with self._machines.changing(name), cache.held(shelf.lock):
            guest = self._running(name)
            snapshot = snapshot or shelf.new_name(name)
            shelf.check_free(name, snapshot)
            shelf.check_room(guest.machine.config.memory_bytes)
            async with contextlib.AsyncExitStack() as still:
                with _made(shelf.place(name, snapshot), shelf.making, guest) as folder:
                    stood_s = await self._save(guest, folder, still, leave=False)
            guest.snapshot = f"{name}:{snapshot}"
            return guest.snapshot, stood_s

    async def restore(self, name: str, snapshot: str) -> None:
        """Bring a machine back to what it was; it is made if it is not there. If that fails it stays what it is."""
        from .vm.state.shelf import Shelf

        saved = Shelf().find(name, snapshot)
        async with self._machines.changing(name):
            woken = await self._wake(saved, saved.config.named(name, saved.config.mac), itself=True)
            old = self._machines.guests.get(name)
            if old:
                why = UserError(f"machine {name} was brought back to snapshot {snapshot}", hint="run the cell again")
                await self._machines.drop(old, why=why)
            self._take_in(woken, saved, f"{name}:{snapshot}")

    async def clone(self, name: str, source: str) -> None:
        """Make machine `name` out of a snapshot (``MACHINE:NAME``), or out of a machine as it is now."""
        from .vm import cache
        from .vm.state.manifest import read
        from .vm.state.shelf import Shelf

        shelf, (machine, snapshot) = Shelf(), split_title(source)
        async with self._machines.changing(name):
            if name in self._machines.guests:
                raise UserError(f"there is a machine {name} already", hint=f"another name, or %vm rm {name} first")
            if snapshot:
                await self._branch(shelf.find(machine, snapshot), name, source)
                return
            async with self._machines.changing(machine), cache.held(shelf.lock):
                guest = self._running(machine)
                shelf.check_room(guest.machine.config.memory_bytes)
                with _passing(shelf.making, guest) as folder:
                    async with contextlib.AsyncExitStack() as still:
                        await self._save(guest, folder, still, leave=False)
                    await self._branch(read(folder), name, guest.snapshot)

    async def _branch(self, saved: Saved, name: str, title: str) -> None:
        from .vm.template import fresh_mac

        self._take_in(await self._wake(saved, saved.config.named(name, fresh_mac()), itself=False), saved, title)

    async def suspend(self, name: str) -> None:
        """Save a machine and end it; `resume` brings it back, in this notebook or in another."""
        from .vm import cache
        from .vm.state.shelf import Shelf

        shelf = Shelf()
        async with self._machines.changing(name), cache.held(shelf.lock):
            guest = self._running(name)
            if shelf.place(name).exists():
                hint = f"%vm rm {name} ends this one; then %vm resume {name}, or once more %vm rm {name}, for the other"
                raise UserError(f"a machine {name} is suspended already", hint=hint)
            shelf.check_room(guest.machine.config.memory_bytes)
            async with contextlib.AsyncExitStack() as still:
                with _made(shelf.place(name), shelf.making, guest) as folder:
                    await self._save(guest, folder, still, leave=True)
                still.pop_all()  # it does not run on here
            await self._machines.drop(guest, why=UserError(f"machine {name} was suspended", hint=f"%vm resume {name}"))

    async def resume(self, name: str) -> None:
        """Let a paused machine run on, or wake a suspended one."""
        from .vm import cache
        from .vm.state.shelf import Shelf

        if name in self._machines.guests:
            await self._machines.resume(name)
            return
        shelf = Shelf()
        async with self._machines.changing(name), cache.held(shelf.lock):
            saved = shelf.find(name)
            self._take_in(await self._wake(saved, saved.config, itself=True), saved, saved.parent)
            shelf.remove(name)

    async def migrate(self, name: str) -> Migration:
        """Move a machine to a QEMU of its own kind, while it runs; what runs in it does not notice."""
        from .vm.state.migration import migrate

        async with self._machines.changing(name):
            guest = self._running(name)
            old = guest.machine
            _check_memory(old.config)

            def hold() -> int:
                if guest.agent is None:
                    return 0
                guest.agent.hold()
                return unread_bytes(old.stream)

            try:
                moved, how = await migrate(old, await self._host(), self._folder, self._place(name), hold)
            finally:
                if guest.agent:
                    guest.agent.release()
            guest.machine = moved
            if moved.gone.is_set() or guest.lost:
                raise moved.error(f"machine {name} was moved, but does not run on")
            _tell_time(guest)
            await self._ports.reopen(name, guest.published)
            return how

    async def remove(self, title: str) -> None:
        """Remove a snapshot (``MACHINE:NAME``) or a machine, running or suspended; branches that run go on."""
        from .vm.state.shelf import Shelf

        shelf = Shelf()
        if title in self._machines.guests or not (":" in title or shelf.place(title).is_dir()):
            await self._machines.remove(title)
        else:
            shelf.remove(*split_title(title))

    # -- parts

    def _running(self, name: str) -> Guest:
        guest = self._machines.guest(name)
        if guest.machine.gone.is_set() or guest.lost:
            raise guest.machine.error(f"machine {name} has ended", hint=f"make a new one: %vm rm {name}")
        return guest

    async def _save(self, guest: Guest, folder: Path, still: contextlib.AsyncExitStack, *, leave: bool) -> float:
        """Save a machine to a folder; return for how long it stood still. With `leave` it does until `still` ends."""
        from .vm.state import freezing
        from .vm.state.manifest import Saved

        machine, name = guest.machine, guest.machine.config.name
        async with freezing.receiver(machine, await self._host(), self._folder) as target:
            number = 0
            if guest.agent:
                number = await guest.agent.rest(REST_LIMIT_S)
                still.callback(guest.agent.release)
            began_s = time.monotonic()
            await still.enter_async_context(freezing.standing_still(machine))
            await freezing.freeze(machine, target.machine)
            if not leave:
                await still.aclose()
                _tell_time(guest)
            stood_s = time.monotonic() - began_s
            notes = {"number": number, "containers": self._containers(name)}
            await freezing.seal(target, Saved(folder, machine.config, guest.snapshot, time.time(), notes))
        return stood_s

    async def _wake(self, saved: Saved, config: MachineConfig, *, itself: bool) -> Guest:
        """Start a saved machine and hear from its agent; nobody knows it yet. It stays `itself`, or becomes another."""
        from .vm.state import freezing

        _check_memory(config)
        host = await self._host()
        machine = await freezing.wake(saved, config, host, self._folder, place=self._place(config.name))
        if not config.agent:
            return Guest(machine, None, time.monotonic())
        # What time it is is asked now: to start a QEMU may have taken seconds.
        who = _still_itself() if itself else None
        guest = self._machines.adopt(machine, time.monotonic(), who, int(saved.notes["number"]))
        assert guest.waking
        await guest.waking
        if machine.gone.is_set() or guest.lost:
            raise machine.error(f"machine {config.name} was loaded, but its agent does not answer")
        return guest

    def _take_in(self, guest: Guest, saved: Saved, snapshot: str) -> None:
        name = guest.machine.config.name
        self._machines.guests[name] = guest
        guest.snapshot = snapshot
        self._restored(name, saved.notes["containers"])

    def _place(self, name: str) -> str:
        """Return a folder's name that no other QEMU of this machine has."""
        return f"{name}~{next(self._numbers)}"


@contextlib.contextmanager
def _made(place: Path, making: Path, guest: Guest) -> Iterator[Path]:
    """Give a folder that takes its place when the machine is saved in it whole."""
    from .vm import cache

    place.parent.mkdir(exist_ok=True)
    with _told_when_full(place, guest), cache.made(place, making) as folder:
        yield folder


@contextlib.contextmanager
def _passing(making: Path, guest: Guest) -> Iterator[Path]:
    """Give a folder that is removed: its files live on without names for as long as a machine maps them (unlink(2))."""
    with _told_when_full(making, guest), tempfile.TemporaryDirectory(prefix="tmp-", dir=making) as folder:
        yield Path(folder)


def _told_when_full(place: Path, guest: Guest) -> contextlib.AbstractContextManager[None]:
    from .vm import cache

    return cache.reported_when_full(place, "a machine is saved", guest.machine.config.memory_bytes >> 20)


def _check_memory(config: MachineConfig) -> None:
    from .vm import qemu

    qemu.check(config, os.cpu_count() or 1, available_memory()[0])


def _still_itself() -> dict[str, Any]:
    """Return what a machine that stays who it is gets all the same: the time, and randomness of its own."""
    return {"time_s": time.time(), "seed": secrets.token_hex(32)}


def _tell_time(guest: Guest) -> None:
    """Set a guest's clock, which stood still as long as the guest did."""
    if guest.agent and not guest.paused:
        guest.agent.start("renew", _still_itself())


def split_title(title: str) -> tuple[str, str]:
    """Return machine and snapshot of ``MACHINE:NAME``; without a snapshot that is empty."""
    machine, _, snapshot = title.partition(":")
    return machine, snapshot
